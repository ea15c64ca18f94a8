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

static void not_used(void *ctx, const char *name) {
    (void)ctx;
    test_check(false, __FILE__, __LINE__, "every tensor of the checkpoint is used");
    printf("        %s is not\n", name);
}
static void test_every_tensor_of_a_checkpoint_is_used(void) {
    static const char *const set[][2] = {{CONFIG("sd3_tiny"), WEIGHTS("sd3_tiny")},
                                         {CONFIG("sd35m_tiny"), WEIGHTS("sd35m_tiny")},
                                         {CONFIG("difftest_sd3"), WEIGHTS("difftest_sd3")}};
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
    check_position(WEIGHTS("difftest_sd3"), 96, 32, 32);
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

/* Opens sd35m_tiny's (or `weights`) with one field of its config replaced, NULL = removed. */
static void refused(const char *weights, const char *key, json_t *value, enum taca_code code,
                    const char *says, const char *says_too) {
    struct taca_backend *b = NULL;
    struct taca_ckpt *ckpt = NULL;
    struct dit *dit = (struct dit *)&opts; /* anything that is not NULL */
    struct taca_err err = {0};
    json_t *config = NULL;
    CHECK_OK(taca_cpu_open(&b, &opts, &err), err);
    CHECK_OK(taca_json_load(&config, CONFIG("sd35m_tiny"), &err), err);
    CHECK_OK(taca_ckpt_open(&ckpt, weights, &err), err);
    if (key && value)
        json_object_set_new(config, key, value);
    else if (key)
        json_object_del(config, key);
    if (b && ckpt) {
        CHECK_INT(dit_open(&dit, b, config, ckpt, &err), code);
        CHECK_HAS(err.text, says);
        CHECK_HAS(err.text, says_too);
        CHECK(dit == (const struct dit *)&opts); /* untouched on failure */
    }
    json_decref(config);
    taca_ckpt_close(ckpt);
    taca_backend_close(b);
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
    TEST(test_every_tensor_of_a_checkpoint_is_used);
    TEST(test_the_formula_gives_the_tables_of_random_models);
    TEST(test_a_missing_table_is_made);
    TEST(test_a_config_at_odds_with_the_tensors_names_the_tensor);
    TEST(test_a_layer_too_many_or_too_few_is_named);
    TEST(test_configs_that_cannot_be_are_refused);
    TEST(test_null_out_channels_means_in_channels);
    TEST(test_close_takes_null);
    return TEST_END();
}
