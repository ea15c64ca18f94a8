/* test_lora.c - adapter files: every spelling finds its module, fused matrices are cut and halves
 * swapped, alphas come from where they are, and what cannot be used whole is refused by name. */
#include "tests/io/lora_file.h"
#include "tests/test.h"

static char warnings[4096];
static void note(void *ctx, const char *text) {
    (void)ctx;
    snprintf(warnings + strlen(warnings), sizeof warnings - strlen(warnings), "%s\n", text);
}
static const struct taca_lora_warn noting = {note, NULL};

static struct taca_err err;
static enum taca_code read_made(struct taca_lora_file *f, const struct taca_lora_model *m,
                                const char *meta, int n, const struct made *t) {
    err = (struct taca_err){0};
    warnings[0] = 0;
    *f = (struct taca_lora_file){0};
    return taca_lora_read(f, lora_write("a.safetensors", meta, n, t), m, &noting, &err);
}
#define READ(f, m, meta, ...)                                                                      \
    read_made(f, m, meta, sizeof((struct made[]){__VA_ARGS__}) / sizeof(struct made),              \
              (struct made[]){__VA_ARGS__})

static const struct taca_lora_delta *delta(const struct taca_lora_file *f,
                                           const struct taca_lora_model *m, const char *module) {
    for (int i = 0; i < f->n_deltas; i++)
        if (strcmp(m->modules[f->deltas[i].module].name, module) == 0) return &f->deltas[i];
    return NULL;
}

/* ---- namings --------------------------------------------------------------------------------- */

static const struct {
    const char *stem, *down, *up, *naming, *module;
    bool is_sd3;
} spellings[] = {
#define AB       ".lora_A.weight", ".lora_B.weight"
#define DOWN_UP  ".lora_down.weight", ".lora_up.weight"
#define OUT_0    "transformer_blocks.0.attn.to_out.0"
#define FLAT_OUT "transformer_blocks_0_attn_to_out_0"
#define TO_Q     "transformer_blocks.1.attn.to_q"
    {"transformer." OUT_0, AB, "diffusers", OUT_0, false},
    {"transformer." OUT_0, ".lora_A.default.weight", ".lora_B.default.weight", "diffusers", OUT_0,
     false},
    {"transformer." OUT_0, ".lora.down.weight", ".lora.up.weight", "diffusers", OUT_0, false},
    {"transformer." OUT_0, DOWN_UP, "diffusers", OUT_0, false},
    {OUT_0, AB, "bare", OUT_0, false},
    {"base_model.model." TO_Q, AB, "PEFT base_model", TO_Q, true},
    {"base_model.model.transformer." TO_Q, AB, "PEFT base_model", TO_Q, true},
    {"base_model.model.double_blocks.0.img_attn.proj", AB, "PEFT base_model", OUT_0, false},
    {"lora_unet_double_blocks_0_img_attn_proj", DOWN_UP, "kohya", OUT_0, false},
    {"lora_unet_double_blocks_0_img_attn_proj_", DOWN_UP, "kohya", OUT_0, false},
    {"lora_unet_model_diffusion_model_double_blocks_0_img_attn_proj", DOWN_UP, "kohya", OUT_0,
     false},
    {"lora_unet_joint_blocks_0_x_block_attn2_proj", DOWN_UP, "kohya",
     "transformer_blocks.0.attn2.to_out.0", true},
    {"lora_transformer_" FLAT_OUT, DOWN_UP, "OneTrainer", OUT_0, false},
    {"lycoris_" FLAT_OUT, DOWN_UP, "LyCORIS", OUT_0, false},
    {"diffusion_model.double_blocks.0.img_attn.proj", DOWN_UP, "ComfyUI", OUT_0, false},
    {"model.diffusion_model.double_blocks.0.img_attn.proj", AB, "ComfyUI", OUT_0, false},
    {"double_blocks.0.img_attn.proj", AB, "bare", OUT_0, false},
    {"double_blocks.0.processor.proj_lora1", ".down.weight", ".up.weight", "XLabs", OUT_0, false},
};

static void test_every_spelling_finds_its_module(void) {
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        char down[200], up[200];
        struct taca_lora_file f;
        const struct taca_lora_model *m = spellings[i].is_sd3 ? &sd3 : &flux;
        snprintf(down, sizeof down, "%s%s", spellings[i].stem, spellings[i].down);
        snprintf(up, sizeof up, "%s%s", spellings[i].stem, spellings[i].up);
        CHECK_OK(READ(&f, m, "", {down, 2, {3, W}, 1}, {up, 2, {W, 3}, 2}), err);
        CHECK_INT(f.n_deltas, 1);
        if (f.n_deltas == 1) {
            CHECK_STR(f.naming, spellings[i].naming);
            CHECK_STR(m->modules[f.deltas[0].module].name, spellings[i].module);
            CHECK_INT(f.deltas[0].rank, 3);
            CHECK_INT(f.parameters, 2 * 3 * W);
            CHECK_NEAR(f.deltas[0].down[1], 1 + 1.0 / 64, 0);
            CHECK_NEAR(f.deltas[0].scale, 1, 0);
        }
        CHECK_STR(warnings, "");
        taca_lora_file_finish(&f);
    }
}

static void test_fused_matrices_are_cut_by_rows(void) {
    static const char *const part[] = {
        "single_transformer_blocks.3.attn.to_q", "single_transformer_blocks.3.attn.to_k",
        "single_transformer_blocks.3.attn.to_v", "single_transformer_blocks.3.proj_mlp"};
    struct taca_lora_file f;
    CHECK_OK(READ(&f, &flux, "", PAIR("lora_unet_single_blocks_3_linear1", W, 7 * W),
                  {"lora_unet_single_blocks_3_linear1.lora_up.bias", 1, {7 * W}, 9}),
             err);
    CHECK_INT(f.n_deltas, 4);
    for (int i = 0; i < 4; i++) {
        const struct taca_lora_delta *d = delta(&f, &flux, part[i]);
        if (!CHECK(d != NULL)) continue;
        CHECK(d->down == f.deltas[0].down);
        CHECK_NEAR(d->up[0], 3 + (double)(i * W * 2) / 64, 0);
        CHECK_NEAR(d->bias[0], 9 + (double)(i * W) / 64, 0);
    }
    taca_lora_file_finish(&f);
    /* a processor's qkv is the front of the same matrix */
    CHECK_OK(READ(&f, &flux, "", {"single_blocks.3.processor.qkv_lora.down.weight", 2, {2, W}, 1},
                  {"single_blocks.3.processor.qkv_lora.up.weight", 2, {3 * W, 2}, 3}),
             err);
    CHECK_INT(f.n_deltas, 3);
    CHECK(delta(&f, &flux, part[3]) == NULL);
    taca_lora_file_finish(&f);
}

static void test_halves_are_swapped_where_the_layouts_differ(void) {
    struct taca_lora_file f;
    CHECK_OK(
        READ(&f, &sd3, "", PAIR("diffusion_model.final_layer.adaLN_modulation.1", W, 2 * W),
             PAIR("diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1", W, 6 * W),
             PAIR("diffusion_model.joint_blocks.1.context_block.adaLN_modulation.1", W, 2 * W)),
        err);
    const struct taca_lora_delta *last = delta(&f, &sd3, "norm_out.linear");
    const struct taca_lora_delta *inner = delta(&f, &sd3, sd3_modules[2].name);
    const struct taca_lora_delta *outer = delta(&f, &sd3, sd3_modules[7].name);
    if (CHECK(last && inner && outer)) {
        CHECK_NEAR(last->up[0], 3 + (double)(W * 2) / 64, 0);
        CHECK_NEAR(last->up[W * 2], 3, 0);
        CHECK_NEAR(last->down[0], 1, 0); /* the ranks stay */
        CHECK_NEAR(inner->up[0], 3, 0);
        CHECK_NEAR(outer->up[0], 3 + (double)(W * 2) / 64, 0);
    }
    taca_lora_file_finish(&f);
    CHECK_OK(READ(&f, &sd3, "", PAIR("transformer.norm_out.linear", W, 2 * W)), err);
    CHECK_NEAR(f.deltas[0].up[0], 3, 0);
    taca_lora_file_finish(&f);
}

static void test_a_convolution_is_a_matrix(void) {
    struct taca_lora_file f;
    CHECK_OK(READ(&f, &sd3, "", {"lora_unet_x_embedder_proj.lora_down.weight", 4, {3, 4, 2, 2}, 1},
                  {"lora_unet_x_embedder_proj.lora_up.weight", 4, {W, 3, 1, 1}, 1}),
             err);
    CHECK_INT(f.n_deltas, 1);
    taca_lora_file_finish(&f);
}

static void test_control_adapters_read_more_and_replace_gains(void) {
    struct taca_lora_file f;
    CHECK_OK(READ(&f, &flux, "", {"img_in.lora_A.weight", 2, {2, 8}, 1},
                  {"img_in.lora_B.weight", 2, {W, 2}, 1},
                  {"double_blocks.0.img_attn.norm.key_norm.scale", 1, {4}, 5}),
             err);
    CHECK_INT(f.n_deltas, 1);
    CHECK_INT(f.deltas[0].in, 8);
    CHECK_INT(f.n_gains, 1);
    if (f.n_gains == 1) {
        CHECK_STR(flux_modules[f.gains[0].module].name, "transformer_blocks.0.attn.norm_k");
        CHECK_NEAR(f.gains[0].gain[1], 5 + 1.0 / 64, 0);
    }
    CHECK_STR(warnings, "");
    taca_lora_file_finish(&f);
    CHECK_INT(READ(&f, &flux, "", PAIR("img_in", 4, W),
                   {"double_blocks.0.img_attn.norm.key_norm.scale", 1, {5}, 5}),
              TACA_EFORMAT);
    CHECK_HAS(err.text, "key_norm.scale: [5] found, [4] wanted");
    CHECK_INT(READ(&f, &flux, "", PAIR("img_in", 12, W)), TACA_EFORMAT);
}

/* ---- alpha ----------------------------------------------------------------------------------- */

#define OUT "transformer." OUT_0

static double scale_under(const char *meta) {
    struct taca_lora_file f;
    CHECK_OK(READ(&f, &flux, meta, PAIR(OUT, W, W)), err);
    double scale = f.n_deltas == 1 ? (double)f.deltas[0].scale : -1;
    taca_lora_file_finish(&f);
    return scale;
}
#define PEFT(inside) "\"lora_adapter_metadata\":\"{" inside "}\""
#define KEY(k)       "\\\"transformer." k "\\\":"

static void test_alpha_is_taken_from_where_it_stands(void) {
    struct taca_lora_file f;
    CHECK_OK(READ(&f, &flux, "\"alpha\":\"100\"", PAIR(OUT, W, W), ALPHA(OUT, 3)), err);
    CHECK_NEAR(f.deltas[0].scale, 1.5, 0); /* the module's own goes first */
    taca_lora_file_finish(&f);
    CHECK_NEAR(scale_under(""), 1, 0);
    CHECK_NEAR(scale_under("\"lora_alpha\":\"3\""), 1.5, 0);
    CHECK_NEAR(scale_under("\"network_alpha\":\"8\""), 4, 0);
    CHECK_NEAR(scale_under("\"alpha\":\"0.5\""), 0.25, 0);
    CHECK_NEAR(scale_under(PEFT(KEY("lora_alpha") "6," KEY("r") "4")), 3, 0);
    CHECK_NEAR(scale_under(PEFT(KEY("lora_alpha") "6," KEY("use_rslora") "true")), 6 / sqrt(2),
               1e-6);
}

static void test_alpha_patterns_match_whole_dotted_ends(void) {
#define UNDER(p) scale_under(PEFT(KEY("lora_alpha") "2," KEY("alpha_pattern") "{" p "}"))
    CHECK_NEAR(UNDER("\\\"attn.to_out.0\\\":8"), 4, 0);
    CHECK_NEAR(UNDER("\\\"out.0\\\":8"), 1, 0); /* not behind a dot */
    CHECK_NEAR(UNDER("\\\"to_out\\\":8"), 1, 0);
    CHECK_NEAR(UNDER("\\\"to_out.\\\\\\\\d+\\\":8"), 4, 0);
    CHECK_NEAR(UNDER("\\\"(?:to_q|to_out.0)\\\":8,\\\"to_out.0\\\":2"), 4, 0); /* the first */
    struct taca_lora_file f;
    CHECK_INT(
        READ(&f, &flux, PEFT(KEY("alpha_pattern") "{\\\"(a{900}){900}\\\":8}"), PAIR(OUT, W, W)),
        TACA_EUNSUPPORTED);
    CHECK_HAS(err.text, "alpha_pattern");
}

static void test_alphas_on_some_modules_are_mentioned(void) {
    struct taca_lora_file f;
    CHECK_OK(
        READ(&f, &flux, "", PAIR(OUT, W, W), ALPHA(OUT, 4), PAIR("transformer.proj_out", W, 4)),
        err);
    CHECK_HAS(warnings, "1 of 2 modules have no alpha");
    CHECK_NEAR(delta(&f, &flux, "proj_out")->scale, 1, 0);
    CHECK_NEAR(delta(&f, &flux, OUT_0)->scale, 2, 0);
    taca_lora_file_finish(&f);
}

/* ---- refusals -------------------------------------------------------------------------------- */

#define REFUSED(code, words, ...)                                                                  \
    do {                                                                                           \
        struct taca_lora_file f_;                                                                  \
        CHECK_INT(READ(&f_, &flux, "", __VA_ARGS__), code);                                        \
        CHECK_HAS(err.text, words);                                                                \
        CHECK(f_.deltas == NULL);                                                                  \
    } while (0)

static void test_what_cannot_be_used_whole_is_refused_by_name(void) {
    REFUSED(TACA_EFORMAT, OUT ".lora_down.weight has no counterpart", DOWN(OUT, 2, W, 1));
    REFUSED(TACA_EFORMAT, OUT ".lora_up.weight has no counterpart", UP(OUT, W, 2, 1));
    REFUSED(TACA_EFORMAT, OUT ".lora_down.weight: [2, 7] found, [2, 8] wanted",
            DOWN(OUT, 2, W - 1, 1), UP(OUT, W, 2, 1));
    REFUSED(TACA_EFORMAT, OUT ".lora_up.weight: [7, 2] found, [8, 2] wanted", DOWN(OUT, 2, W, 1),
            UP(OUT, W - 1, 2, 1));
    REFUSED(TACA_EFORMAT, "has rank 2, " OUT ".lora_up.weight has rank 3", DOWN(OUT, 2, W, 1),
            UP(OUT, W, 3, 1));
    REFUSED(TACA_EFORMAT, "has rank 0", DOWN(OUT, 0, W, 1), UP(OUT, W, 0, 1));
    REFUSED(TACA_EFORMAT, OUT ".lora_down.weight has a value that is not finite",
            DOWN(OUT, 2, W, NAN), UP(OUT, W, 2, 1));
    REFUSED(TACA_EFORMAT, OUT ".alpha has a value that is not finite", PAIR(OUT, W, W),
            ALPHA(OUT, INFINITY));
    REFUSED(TACA_EFORMAT, "[16, 2] found, [24, 2] wanted",
            PAIR("lora_unet_double_blocks_0_img_attn_qkv", W, 2 * W));
    REFUSED(TACA_EFORMAT, "change the same module", PAIR(OUT, W, W),
            PAIR("diffusion_model.double_blocks.0.img_attn.proj", W, W));
    REFUSED(TACA_EFORMAT, "are the same", PAIR(OUT, W, W), {OUT ".lora_A.weight", 2, {2, W}, 1});
    REFUSED(TACA_EFORMAT, "wanted", PAIR(OUT, W, W), {OUT ".lora_up.bias", 1, {W + 1}, 1});
}

static void test_other_kinds_of_adapters_are_named(void) {
    REFUSED(TACA_EUNSUPPORTED, OUT ".dora_scale belongs to DoRA", PAIR(OUT, W, W),
            {OUT ".dora_scale", 2, {W, 1}, 1});
    REFUSED(TACA_EUNSUPPORTED, "belongs to DoRA", PAIR(OUT, W, W),
            {OUT ".lora_magnitude_vector.weight", 1, {W}, 1});
    REFUSED(TACA_EUNSUPPORTED, "belongs to LoKr", {"lycoris_" FLAT_OUT ".lokr_w1", 2, {2, 2}, 1});
    REFUSED(TACA_EUNSUPPORTED, "belongs to LoHa", {"lycoris_" FLAT_OUT ".hada_w1_a", 2, {2, 2}, 1});
    REFUSED(TACA_EUNSUPPORTED, "Tucker", PAIR(OUT, W, W),
            {OUT ".lora_mid.weight", 4, {2, 2, 1, 1}, 1});
}

static void test_a_file_of_which_nothing_matches_is_an_error(void) {
    REFUSED(TACA_EFORMAT, "not an adapter", {"x", 1, {0}, 0});
    REFUSED(TACA_EFORMAT, "kohya over SD3 names",
            PAIR("lora_unet_joint_blocks_0_x_block_attn_qkv", W, 3 * W));
    CHECK_HAS(warnings, "lora_unet_joint_blocks_0_x_block_attn_qkv: the model has no such module");
    REFUSED(TACA_EFORMAT, "Stable Diffusion 1, 2 or XL",
            PAIR("lora_unet_down_blocks_1_attentions_0_proj_in", W, W));
    REFUSED(TACA_EUNSUPPORTED, "text encoders alone", PAIR("lora_te1_text_model_x", W, W));
    CHECK_HAS(warnings, "lora_te1_text_model_x");
}

static void test_keys_without_a_module_are_named_and_the_rest_is_used(void) {
    struct taca_lora_file f;
    CHECK_OK(READ(&f, &flux, "", PAIR(OUT, W, W),
                  PAIR("transformer.transformer_blocks.7.attn.to_q", W, W),
                  PAIR("transformer.transformer_blocks.0.attn.to_z", W, W),
                  PAIR("text_encoder.text_model.a", W, W), {OUT ".diff_b", 1, {W}, 1},
                  {"some.thing", 1, {2}, 1}),
             err);
    CHECK_INT(f.n_deltas, 1);
    CHECK_HAS(warnings, "transformer.transformer_blocks.7.attn.to_q: the model has no such module");
    CHECK_HAS(warnings, "transformer.transformer_blocks.0.attn.to_z");
    CHECK_HAS(warnings, "text_encoder.text_model.a");
    CHECK_HAS(warnings, OUT ".diff_b");
    CHECK_HAS(warnings, "some.thing");
    taca_lora_file_finish(&f);
    CHECK_OK(taca_lora_read(&f, tmp_path("a.safetensors"), &flux, NULL, &err), err);
    taca_lora_file_finish(&f);
}

/* ---- broken files ---------------------------------------------------------------------------- */

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size); /* aborts when not well */

static void test_broken_variants_never_break_the_reader(void) {
    static unsigned char good[1 << 14], bad[1 << 14];
    uint32_t state = 2463534242u;
    const struct made tensors[] = {PAIR(OUT, W, W), ALPHA(OUT, 3),
                                   PAIR("lora_unet_single_blocks_3_linear1", W, 7 * W),
                                   PAIR("double_blocks.0.processor.qkv_lora2", W, 3 * W)};
    const char *path = lora_write("good.safetensors", PEFT(KEY("alpha_pattern") "{\\\"to_.\\\":8}"),
                                  sizeof tensors / sizeof *tensors, tensors);
    FILE *f = fopen(path, "rb");
    size_t size = f ? fread(good, 1, sizeof good, f) : 0;
    if (f) fclose(f);
    if (!CHECK(size > 0)) return;
    for (int i = 0; i < 4000; i++) {
        memcpy(bad, good, size);
        for (int k = 0; k < 1 + i % 3; k++) {
            state ^= state << 13, state ^= state >> 17, state ^= state << 5;
            const size_t at = 8 + state % (i % 2 ? size - 8 : 1200);
            bad[at] = i % 5 ? good[8 + (state >> 8) % 1200] : (unsigned char)(state >> 24);
        }
        LLVMFuzzerTestOneInput(bad, i % 50 ? size : state % size);
    }
}

int main(void) {
    tmp_begin();
    TEST(test_every_spelling_finds_its_module);
    TEST(test_fused_matrices_are_cut_by_rows);
    TEST(test_halves_are_swapped_where_the_layouts_differ);
    TEST(test_a_convolution_is_a_matrix);
    TEST(test_control_adapters_read_more_and_replace_gains);
    TEST(test_alpha_is_taken_from_where_it_stands);
    TEST(test_alpha_patterns_match_whole_dotted_ends);
    TEST(test_alphas_on_some_modules_are_mentioned);
    TEST(test_what_cannot_be_used_whole_is_refused_by_name);
    TEST(test_other_kinds_of_adapters_are_named);
    TEST(test_a_file_of_which_nothing_matches_is_an_error);
    TEST(test_keys_without_a_module_are_named_and_the_rest_is_used);
    TEST(test_broken_variants_never_break_the_reader);
    tmp_end();
    return TEST_END();
}
