/* test_open.c - structure from config and checkpoint: what is read, what is made up when absent,
 * and that every disagreement names the tensor or field. */
#include "tests/dit/fixture.h"
#include "tests/dit/rewrite.h"

#define CONFIG(set)  TACA_GOLDEN_DIR "/models/" set ".config.json"
#define WEIGHTS(set) TACA_GOLDEN_DIR "/models/" set ".diffusers.safetensors"

static const struct taca_backend_opts opts = {.threads = 1, .precision = TACA_F32};

static void test_structure_is_reported(void) {
    struct model m;
    if (model_open(&m, CONFIG("sd35m_tiny"), WEIGHTS("sd35m_tiny"), &opts)) {
        const struct dit_info *i = dit_get_info(m.dit);
        CHECK_STR(i->family, "sd3.5");
        CHECK_INT(i->in_channels, 4);
        CHECK_INT(i->patch, 2);
        CHECK_INT(i->width, 32);
        CHECK_INT(i->depth, 4);
        CHECK_INT(i->heads, 4);
        CHECK_INT(i->joint_width, 40);
        CHECK_INT(i->pooled_width, 64);
        CHECK_INT(i->max_patches, 24);
        /* image: 9 + 9 + 6 + 6, text: 6 + 6 + 6 + 2, final: 2 ranges of 32 */
        CHECK_INT(i->mod_width, 52 * 32);
    }
    model_close(&m);
    if (model_open(&m, CONFIG("sd3_tiny"), WEIGHTS("sd3_tiny"), &opts)) {
        CHECK_STR(dit_get_info(m.dit)->family, "sd3");
        CHECK_INT(dit_get_info(m.dit)->mod_width, (3 * 6 + 2 * 6 + 2 + 2) * 32);
    }
    model_close(&m);
}

static void test_structure_of_flux_is_reported(void) {
    struct model m;
    if (model_open(&m, CONFIG("flux_tiny_dev"), WEIGHTS("flux_tiny_dev"), &opts)) {
        const struct dit_info *i = dit_get_info(m.dit);
        CHECK_STR(i->family, "flux-dev");
        CHECK(i->kind == DIT_FLUX && i->guidance_embeds);
        CHECK_INT(i->in_channels, 2); /* 8 of a token are 2 x 2 of a latent */
        CHECK_INT(i->patch, 2);
        CHECK_INT(i->width, 32);
        CHECK_INT(i->depth, 2);
        CHECK_INT(i->singles, 3);
        CHECK_INT(i->heads, 2);
        CHECK_INT(i->joint_width, 32);
        CHECK_INT(i->pooled_width, 32);
        CHECK_INT(i->place_width, 16);
        CHECK_INT(i->mod_width, (2 * 12 + 3 * 3 + 2) * 32);
    }
    model_close(&m);
    if (model_open(&m, CONFIG("flux_tiny_schnell"), WEIGHTS("flux_tiny_schnell"), &opts)) {
        CHECK_STR(dit_get_info(m.dit)->family, "flux-schnell");
        CHECK(!dit_get_info(m.dit)->guidance_embeds);
        CHECK_INT(dit_get_info(m.dit)->in_channels, 1);
    }
    model_close(&m);
}

static void not_used(void *ctx, const char *name) {
    (void)ctx;
    test_check(false, __FILE__, __LINE__, "every tensor of the checkpoint is used");
    printf("        %s is not\n", name);
}
static void test_every_tensor_of_a_checkpoint_is_used(void) {
    static const char *const set[][2] = {
        {CONFIG("sd3_tiny"), WEIGHTS("sd3_tiny")},
        {CONFIG("sd35m_tiny"), WEIGHTS("sd35m_tiny")},
        {CONFIG("difftest_flux"), WEIGHTS("difftest_flux")},
        {CONFIG("flux_tiny_dev"), WEIGHTS("flux_tiny_dev")},
        {CONFIG("flux_tiny_schnell"), WEIGHTS("flux_tiny_schnell")}};
    for (size_t k = 0; k < sizeof set / sizeof *set; k++) {
        struct model m;
        if (model_open(&m, set[k][0], set[k][1], &opts)) taca_ckpt_unused(m.ckpt, not_used, NULL);
        model_close(&m);
    }
}

/* ---- the position table ---------------------------------------------------------------------- */

static void check_position(const char *weights, int64_t side, int64_t base, int64_t d) {
    struct taca_ckpt *ckpt = NULL;
    struct taca_err err = {0};
    int64_t dim[3];
    CHECK_OK(taca_ckpt_open(&ckpt, weights, &err), err);
    if (!ckpt) return;
    float *want = golden(ckpt, "pos_embed.pos_embed", 3, dim);
    float *got = malloc((size_t)(side * side * d) * sizeof *got);
    if (CHECK(want && got && dim[1] == side * side && dim[2] == d)) {
        dit_sd3_position(got, side, base, d);
        CHECK_FLOATS("position table", got, want, (size_t)(side * side * d), 3e-7);
    }
    free(want);
    free(got);
    taca_ckpt_close(ckpt);
}
static void test_the_formula_gives_the_tables_of_random_models(void) {
    check_position(WEIGHTS("sd3_tiny"), 24, 32 / 2, 32);
    check_position(WEIGHTS("pipe_sd3.transformer"), 16, 8 / 2, 32);
}

static void test_a_missing_table_is_made(void) {
    struct rewrite r = {.match = "pos_embed.pos_embed", .drop = true};
    char path[256];
    struct model with, without;
    if (!rewrite(path, WEIGHTS("sd3_tiny"), &r)) return;
    if (model_open(&with, CONFIG("sd3_tiny"), WEIGHTS("sd3_tiny"), &opts) &&
        model_open(&without, CONFIG("sd3_tiny"), path, &opts)) {
        static float a[24 * 24 * 32], b[24 * 24 * 32];
        fetch(&with, a, with.dit->position);
        fetch(&without, b, without.dit->position);
        CHECK_FLOATS("position table", b, a, 24 * 24 * 32, 3e-7);
        model_close(&without);
    }
    model_close(&with);
    unlink(path);
}

/* ---- refusals -------------------------------------------------------------------------------- */

/* Opens `weights` with one field of the config replaced, NULL = removed. */
static void refused_of(const char *of[2], const char *key, json_t *value, enum taca_code code,
                       const char *says[2]) {
    struct taca_backend *b = NULL;
    struct taca_ckpt *ckpt = NULL;
    struct dit *dit = (struct dit *)&opts; /* anything that is not NULL */
    struct taca_err err = {0};
    json_t *config = NULL;
    CHECK_OK(taca_cpu_open(&b, &opts, &err), err);
    CHECK_OK(taca_json_load(&config, of[0], &err), err);
    CHECK_OK(taca_ckpt_open(&ckpt, of[1], &err), err);
    if (key && value)
        json_object_set_new(config, key, value);
    else if (key)
        json_object_del(config, key);
    if (b && ckpt) {
        CHECK_INT(dit_open(&dit, b, config, ckpt, &err), code);
        CHECK_HAS(err.text, says[0]);
        CHECK_HAS(err.text, says[1]);
        CHECK(dit == (const struct dit *)&opts); /* untouched on failure */
    }
    json_decref(config);
    taca_ckpt_close(ckpt);
    taca_backend_close(b);
}

/* sd35m_tiny's config, and flux_tiny_dev's with its weights. */
static void refused(const char *weights, const char *key, json_t *value, enum taca_code code,
                    const char *says, const char *says_too) {
    refused_of((const char *[]){CONFIG("sd35m_tiny"), weights}, key, value, code,
               (const char *[]){says, says_too});
}
static void flux_refused(const char *key, json_t *value, enum taca_code code, const char *says,
                         const char *says_too) {
    refused_of((const char *[]){CONFIG("flux_tiny_dev"), WEIGHTS("flux_tiny_dev")}, key, value,
               code, (const char *[]){says, says_too});
}

static json_t *ints(int n, const int *v) {
    json_t *a = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(a, json_integer(v[i]));
    return a;
}

static void test_a_config_at_odds_with_the_tensors_names_the_tensor(void) {
    static const char w[] = WEIGHTS("sd35m_tiny");
    const enum taca_code bad = TACA_EFORMAT;
    refused(w, "num_layers", json_integer(3), bad, "transformer_blocks.3.attn.to_q", "num_layers");
    refused(w, "joint_attention_dim", json_integer(41), bad, "context_embedder.weight", "41");
    refused(w, "pooled_projection_dim", json_integer(65), bad, "text_embedder.linear_1", "65");
    refused(w, "pos_embed_max_size", json_integer(23), bad, "pos_embed.pos_embed", "529");
    refused(w, "patch_size", json_integer(1), bad, "pos_embed.proj.weight", "");
    refused(w, "qk_norm", json_null(), bad, "transformer_blocks.0.attn.norm_q.weight", "qk_norm");
    refused(w, "dual_attention_layers", ints(1, (int[]){0}), bad, "transformer_blocks.1.attn2.to_q",
            "dual_attention_layers");
    refused(w, "dual_attention_layers", ints(3, (int[]){0, 1, 2}), TACA_ENOTFOUND,
            "transformer_blocks.2.attn2.to_q.weight", "");
    refused(WEIGHTS("sd3_tiny"), NULL, NULL, TACA_ENOTFOUND,
            "transformer_blocks.0.attn.norm_q.weight", "");
}

static void test_a_flux_config_at_odds_with_the_tensors_names_the_tensor(void) {
    const enum taca_code bad = TACA_EFORMAT;
    flux_refused("num_layers", json_integer(1), bad, "transformer_blocks.1.attn.to_q",
                 "num_layers is 1");
    flux_refused("num_single_layers", json_integer(2), bad, "single_transformer_blocks.2.attn.to_q",
                 "num_single_layers is 2");
    flux_refused("num_layers", json_integer(3), TACA_ENOTFOUND,
                 "transformer_blocks.2.attn.to_q.weight", "");
    flux_refused("num_single_layers", json_integer(4), TACA_ENOTFOUND,
                 "single_transformer_blocks.3.attn.to_q.weight", "");
    flux_refused("joint_attention_dim", json_integer(33), bad, "context_embedder.weight", "33");
    flux_refused("pooled_projection_dim", json_integer(24), bad, "text_embedder.linear_1", "24");
    flux_refused("in_channels", json_integer(12), bad, "x_embedder.weight", "12");
    flux_refused("guidance_embeds", json_false(), bad,
                 "time_text_embed.guidance_embedder.linear_1.weight", "guidance_embeds is false");
    refused_of((const char *[]){CONFIG("flux_tiny_schnell"), WEIGHTS("flux_tiny_schnell")},
               "guidance_embeds", json_true(), TACA_ENOTFOUND,
               (const char *[]){"guidance_embedder.linear_1.weight", ""});
}

static void test_flux_configs_that_cannot_be_are_refused(void) {
    const enum taca_code bad = TACA_EFORMAT, no = TACA_EUNSUPPORTED;
    flux_refused("axes_dims_rope", ints(3, (int[]){4, 4, 6}), bad, "sums to 14",
                 "attention_head_dim = 16");
    flux_refused("axes_dims_rope", ints(3, (int[]){3, 5, 8}), bad, "axes_dims_rope has 3", "even");
    flux_refused("axes_dims_rope", ints(3, (int[]){-4, 12, 8}), bad, "has -4", "0..16");
    flux_refused("axes_dims_rope", ints(2, (int[]){8, 8}), bad, "2 numbers", "wanted 3");
    flux_refused("axes_dims_rope", NULL, bad, "has 56", "0..16"); /* the default */
    flux_refused("patch_size", json_integer(2), bad, "patch_size", "1..1");
    flux_refused("in_channels", json_integer(6), bad, "in_channels is 6", "multiple of 4");
    flux_refused("out_channels", json_integer(64), no, "in_channels is 8", "Fill");
    flux_refused("num_attention_heads", json_integer(0), bad, "num_attention_heads", "1..");
    flux_refused("guidance_embeds", json_integer(1), bad, "guidance_embeds", "");
}

static void test_a_layer_too_many_or_too_few_is_named(void) {
    struct rewrite r = {.match = "transformer_blocks.3.", .drop = true};
    char path[256];
    if (!rewrite(path, WEIGHTS("sd35m_tiny"), &r)) return;
    refused(path, NULL, NULL, TACA_ENOTFOUND, "transformer_blocks.3.attn.to_q.weight", "");
    unlink(path);
}

static void test_configs_that_cannot_be_are_refused(void) {
    static const char w[] = WEIGHTS("sd35m_tiny");
    const enum taca_code bad = TACA_EFORMAT, no = TACA_EUNSUPPORTED;
    refused(w, "caption_projection_dim", json_integer(48), bad, "caption_projection_dim is 48",
            "32");
    refused(w, "attention_head_dim", NULL, bad, "caption_projection_dim is 32", "256"); /* 4 * 64 */
    refused(w, "num_attention_heads", json_integer(0), bad, "num_attention_heads", "1..");
    refused(w, "num_layers", json_string("4"), bad, "num_layers", "");
    refused(w, "dual_attention_layers", ints(1, (int[]){4}), bad, "dual_attention_layers has 4",
            "0..3");
    refused(w, "qk_norm", json_string("layer_norm"), no, "layer_norm", "rms_norm");
    refused(w, "out_channels", json_integer(8), no, "out_channels is 8", "4");
    refused(w, "out_channels", NULL, no, "out_channels is 16", "4"); /* the reference's default */
    refused(w, "_class_name", json_string("UNet2DConditionModel"), no, "UNet2DConditionModel",
            "SD3Transformer2DModel");
}

static void test_null_out_channels_means_in_channels(void) {
    struct model m = {0};
    CHECK_OK(taca_cpu_open(&m.b, &opts, &m.err), m.err);
    CHECK_OK(taca_json_load(&m.config, CONFIG("sd35m_tiny"), &m.err), m.err);
    CHECK_OK(taca_ckpt_open(&m.ckpt, WEIGHTS("sd35m_tiny"), &m.err), m.err);
    m.scratch.b = m.b;
    json_object_set_new(m.config, "out_channels", json_null());
    CHECK_OK(dit_open(&m.dit, m.b, m.config, m.ckpt, &m.err), m.err);
    model_close(&m);
}

static void test_close_takes_null(void) { dit_close(NULL); }

int main(void) {
    TEST(test_structure_is_reported);
    TEST(test_structure_of_flux_is_reported);
    TEST(test_every_tensor_of_a_checkpoint_is_used);
    TEST(test_the_formula_gives_the_tables_of_random_models);
    TEST(test_a_missing_table_is_made);
    TEST(test_a_config_at_odds_with_the_tensors_names_the_tensor);
    TEST(test_a_flux_config_at_odds_with_the_tensors_names_the_tensor);
    TEST(test_flux_configs_that_cannot_be_are_refused);
    TEST(test_a_layer_too_many_or_too_few_is_named);
    TEST(test_configs_that_cannot_be_are_refused);
    TEST(test_null_out_channels_means_in_channels);
    TEST(test_close_takes_null);
    return TEST_END();
}
