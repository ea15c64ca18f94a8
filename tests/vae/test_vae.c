/* test_vae.c - AutoencoderKL against the reference implementation's numbers. */
#include <unistd.h>

#include "tests/vae/vae_fixture.h"

static const struct taca_tensor *io_find(struct taca_safetensors *io, const char *name) {
    const struct taca_tensor *t = taca_safetensors_find(io, name);
    if (!CHECK(t != NULL)) abort();
    return t;
}

/* ---- against the reference library ----------------------------------------------------------- */

static void test_one_level_model_decodes_and_encodes_as_the_reference(void) {
    struct fixture f;
    struct taca_safetensors *io = NULL;
    if (!fixture_open(&f, "difftest_vae_lc1")) return;
    CHECK_OK(taca_safetensors_open(&io, MODELS "difftest_vae_lc1.io.safetensors", &f.err), f.err);
    CHECK_INT(vae_get_info(f.vae)->factor, 1);
    CHECK_INT(vae_get_info(f.vae)->latent_channels, 1);
    CHECK(vae_get_info(f.vae)->has_encoder);

    float *image = fixture_decode(&f, io_find(io, "in.z")->data, 8, 8, true);
    CHECK_FLOATS("decode", image, io_find(io, "out.decode")->data, 3 * 64, 1e-5);
    float *moments = fixture_encode(&f, io_find(io, "in.x")->data, 8, 8);
    CHECK_FLOATS("moments", moments, io_find(io, "out.moments")->data, 2 * 64, 1e-5);
    free(image);
    free(moments);
    taca_safetensors_close(io);
    fixture_close(&f);
}

static void check_pipeline_image(const char *vae, const char *io_path, double tol) {
    struct fixture f;
    struct taca_safetensors *io = NULL;
    if (!fixture_open(&f, vae)) return;
    CHECK_OK(taca_safetensors_open(&io, io_path, &f.err), f.err);
    const struct taca_tensor *z = io_find(io, "out.latent"), *want = io_find(io, "out.image");
    int64_t h = z->dim[2], w = z->dim[3], n = 3 * 64 * h * w;
    CHECK_INT(taca_tensor_count(want), n);
    float *image = fixture_decode(&f, z->data, h, w, false);
    for (int64_t i = 0; i < n; i++) image[i] = fminf(fmaxf(image[i] * 0.5f + 0.5f, 0), 1);
    CHECK_FLOATS(io_path + strlen(TACA_GOLDEN_DIR), image, want->data, (size_t)n, tol);
    free(image);
    taca_safetensors_close(io);
    fixture_close(&f);
}

static void test_final_latents_of_pipelines_become_their_images(void) {
    check_pipeline_image("vae_tiny_sd3", MODELS "pipe_sd3_t2i.io.safetensors", 5e-5);
    check_pipeline_image("vae_tiny_sd3", MODELS "pipe_sd3_i2i.io.safetensors", 5e-5);
    check_pipeline_image("vae_tiny_sd3", TACA_GOLDEN_DIR "/taca/pipe_sd3_taca.io.safetensors",
                         5e-5);
}

/* ---- against a second reference, with original tensor names ---------------------------------- */

/* The diffusers name of an original one, with the attention names of old diffusers versions. */
static void diffusers_name(char *out, size_t size, const char *name, int levels) {
    static const char *const rename[][2] = {{"nin_shortcut.", "conv_shortcut."},
                                            {"attn_1.norm.", "attentions.0.group_norm."},
                                            {"attn_1.q.", "attentions.0.query."},
                                            {"attn_1.k.", "attentions.0.key."},
                                            {"attn_1.v.", "attentions.0.value."},
                                            {"attn_1.proj_out.", "attentions.0.proj_attn."},
                                            {"block_1.", "resnets.0."},
                                            {"block_2.", "resnets.1."},
                                            {"mid.", "mid_block."},
                                            {".downsample.", ".downsamplers.0."},
                                            {".upsample.", ".upsamplers.0."},
                                            {"coder.norm_out.", "coder.conv_norm_out."},
                                            {".block.", ".resnets."}};
    char from[256];
    snprintf(out, size, "%s", name);
    for (size_t i = 0; i < sizeof rename / sizeof *rename; i++) {
        char *at = strstr(out, rename[i][0]);
        if (!at) continue;
        snprintf(from, sizeof from, "%s", out);
        at = strstr(from, rename[i][0]);
        snprintf(out, size, "%.*s%s%s", (int)(at - from), from, rename[i][1],
                 at + strlen(rename[i][0]));
    }
    int level, end = 0;
    snprintf(from, sizeof from, "%s", out);
    if (sscanf(from, "decoder.up.%d.%n", &level, &end) == 1 && end)
        snprintf(out, size, "decoder.up_blocks.%d.%s", levels - 1 - level, from + end);
    else if (sscanf(from, "encoder.down.%d.%n", &level, &end) == 1 && end)
        snprintf(out, size, "encoder.down_blocks.%d.%s", level, from + end);
}

enum { MAX_TENSORS = 160 };

/* Writes the golden's filled weights, or only those whose name starts with `only`. */
static void write_filled(const char *path, const json_t *golden, const char *only) {
    struct taca_tensor t[MAX_TENSORS];
    char names[MAX_TENSORS][256];
    struct taca_err err = {0};
    size_t n = 0;
    const char *key;
    json_t *shape;
    double scale = json_real_value(json_object_get(golden, "scale"));
    json_object_foreach(json_object_get(golden, "keys"), key, shape) {
        if (strncmp(key, only, strlen(only)) != 0) continue;
        diffusers_name(names[n], sizeof names[n], key, 2);
        t[n] = (struct taca_tensor){.name = names[n], .dtype = TACA_F32};
        t[n].rank = (int)json_array_size(shape);
        for (int i = 0; i < t[n].rank; i++)
            t[n].dim[i] = json_integer_value(json_array_get(shape, (size_t)i));
        int64_t count = taca_tensor_count(&t[n]);
        bool gain = strstr(key, "norm") && strstr(key, ".weight");
        float *v = test_alloc(count);
        fill(v, key, count, gain ? 0.1 : scale);
        for (int64_t i = 0; i < count; i++) v[i] += gain ? 1.0f : 0.0f;
        t[n++].data = v;
    }
    CHECK_OK(taca_safetensors_write(path, t, n, &err), err);
    for (size_t i = 0; i < n; i++) free((void *)(uintptr_t)t[i].data);
}

static float *json_floats(const json_t *array) {
    float *v = test_alloc((int64_t)json_array_size(array));
    for (size_t i = 0; i < json_array_size(array); i++)
        v[i] = (float)json_number_value(json_array_get(array, i));
    return v;
}

static const char *const two_level_config =
    "{\"block_out_channels\": [32, 64], \"layers_per_block\": 1, \"latent_channels\": 4,"
    " \"norm_num_groups\": 32, \"scaling_factor\": 0.3611, \"shift_factor\": 0.1159,"
    " \"use_quant_conv\": false, \"use_post_quant_conv\": false}";

static json_t *load_golden(void) {
    struct taca_err err = {0};
    json_t *all = NULL;
    CHECK_OK(taca_json_load(&all, TACA_GOLDEN_DIR "/encoders/encoders_golden_models.json", &err),
             err);
    json_t *vae = json_incref(json_object_get(all, "vae"));
    json_decref(all);
    return vae;
}

/* A temporary folder with config.json and weights of the two-level model. */
static void two_level_files(char *dir, char *config, char *weights, size_t size, const char *only) {
    CHECK(mkdtemp(dir) != NULL);
    snprintf(config, size, "%s/config.json", dir);
    snprintf(weights, size, "%s/vae.safetensors", dir);
    FILE *file = fopen(config, "w");
    if (!CHECK(file != NULL)) return;
    fputs(two_level_config, file);
    fclose(file);
    json_t *golden = load_golden();
    write_filled(weights, golden, only);
    json_decref(golden);
}

static void remove_files(const char *dir, const char *config, const char *weights) {
    unlink(config);
    unlink(weights);
    rmdir(dir);
}

static void test_filled_weights_give_the_golden_numbers(void) {
    char dir[] = "/tmp/taca_vae_XXXXXX", config[64], weights[64];
    two_level_files(dir, config, weights, sizeof config, "");
    json_t *golden = load_golden();
    struct fixture f;
    if (fixture_open_files(&f, config, weights, TACA_F32)) {
        float z[4 * 6 * 4], x[3 * 8 * 12], mode[4 * 4 * 6];
        fill(z, "latent", 4 * 6 * 4, 1.0);
        CHECK_NEAR(z[0], 0.30541432, 1e-7);
        float *want = json_floats(json_object_get(golden, "decoded"));
        float *got = fixture_decode(&f, z, 6, 4, false);
        CHECK_FLOATS("decoded", got, want, 3 * 12 * 8, 1e-5);
        free(got);
        free(want);

        fill(x, "image", 3 * 8 * 12, 1.0);
        want = json_floats(json_object_get(golden, "moments"));
        got = fixture_encode(&f, x, 8, 12);
        CHECK_FLOATS("moments", got, want, 8 * 4 * 6, 1e-5);
        free(want);
        want = json_floats(json_object_get(golden, "encoded_mode"));
        vae_sample(f.vae, mode, got, NULL, 4 * 4 * 6);
        CHECK_FLOATS("encoded_mode", mode, want, 4 * 4 * 6, 1e-5);
        free(got);
        free(want);
        fixture_close(&f);
    }
    json_decref(golden);
    remove_files(dir, config, weights);
}

/* ---- odd sizes, against a double-precision implementation kept outside this repository ------- */

struct odd {
    int64_t h, w;
    double first[4], last[2], sum, sum_squares;
};

static void check_odd(const float *got, int64_t n, const struct odd *o, double tol) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)got[i], squares += (double)(got[i] * got[i]);
    printf("    %dx%d: sum %.6f (%.6f), squares %.6f (%.6f)\n", (int)o->h, (int)o->w, sum, o->sum,
           squares, o->sum_squares);
    for (int i = 0; i < 4; i++) CHECK_NEAR(got[i], o->first[i], tol);
    for (int i = 0; i < 2; i++) CHECK_NEAR(got[n - 2 + i], o->last[i], tol);
    CHECK_NEAR(sum, o->sum, tol * (double)n);
    CHECK_NEAR(squares, o->sum_squares, 1e-5 * o->sum_squares);
}

static void test_odd_latents_decode(void) {
    static const struct odd odd[] = {{1,
                                      1,
                                      {-0.10687953, 0.35210047, 0.41589914, 0.16073729},
                                      {-0.02028434, 0.08352058},
                                      25.35866426373874,
                                      48.336526356906255},
                                     {3,
                                      5,
                                      {0.14125292, -0.06467371, 0.09178346, -0.08412856},
                                      {0.18475485, -0.05394468},
                                      -68.0721549751565,
                                      1383.730414886576},
                                     {1,
                                      7,
                                      {0.17818714, 0.10305862, 0.06812218, 0.23841769},
                                      {0.25386692, -0.15825536},
                                      144.90547563092517,
                                      530.4006970665666}};
    struct fixture f;
    if (!fixture_open(&f, "vae_tiny_sd3")) return;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        float z[16 * 15];
        fill(z, "odd", 16 * odd[i].h * odd[i].w, 1.5);
        float *image = fixture_decode(&f, z, odd[i].h, odd[i].w, false);
        check_odd(image, 3 * 64 * odd[i].h * odd[i].w, &odd[i], 2e-5);
        free(image);
    }
    fixture_close(&f);
}

static void test_constants_of_flux_decode(void) {
    static const struct odd odd = {2,
                                   5,
                                   {-0.2726197, -0.0966547, -0.08839358, -0.14064243},
                                   {0.45111611, 0.27143772},
                                   -255.31486081499685,
                                   928.1589247969584};
    struct fixture f;
    if (!fixture_open(&f, "vae_tiny_flux")) return;
    float z[16 * 10];
    fill(z, "odd", 16 * 10, 1.5);
    float *image = fixture_decode(&f, z, 2, 5, false);
    check_odd(image, 3 * 64 * 10, &odd, 2e-5);
    free(image);
    fixture_close(&f);
}

static void test_odd_images_encode_rounding_down(void) {
    static const struct odd odd[] = {{8,
                                      8,
                                      {-0.02154497, -0.28940761, -0.06175797, -0.16321546},
                                      {-0.33626654, -0.26970397},
                                      -0.8006370763488668,
                                      1.445580932939135},
                                     {19,
                                      27,
                                      {0.01054531, -0.68012305, 0.1918491, -0.65283208},
                                      {-0.71529589, -0.21012171},
                                      -5.5605014698162805,
                                      44.932365859249835},
                                     {45,
                                      9,
                                      {-0.20213787, -0.21172266, -0.41311655, 0.62985938},
                                      {0.0696035, -0.57608248},
                                      -4.968610080501941,
                                      16.079032484646433}};
    struct fixture f;
    if (!fixture_open(&f, "vae_tiny_sd3")) return;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        int64_t h = odd[i].h, w = odd[i].w;
        float *x = test_alloc(3 * h * w);
        fill(x, "odd image", 3 * h * w, 1.0);
        float *moments = fixture_encode(&f, x, h, w);
        check_odd(moments, 32 * (h / 8) * (w / 8), &odd[i], 2e-5);
        free(x);
        free(moments);
    }
    fixture_close(&f);
}

/* ---- posterior, precision, cost -------------------------------------------------------------- */

static void test_posterior_clamps_the_log_variance(void) {
    struct fixture f;
    if (!fixture_open(&f, "difftest_vae_lc1")) return; /* shift 0.0609, scaling 1.5035 */
    float moments[6] = {1.0f, -2.0f, 0.5f, 0.0f, 1000.0f, -1000.0f}, noise[3] = {2, 1, 1}, z[3];
    vae_sample(f.vae, z, moments, noise, 3);
    CHECK_NEAR(z[0], (1.0 + 2.0 - 0.0609) * 1.5035, 1e-6);
    CHECK_NEAR(z[1], (-2.0 + exp(10.0) - 0.0609) * 1.5035, 0.01);
    CHECK_NEAR(z[2], (0.5 + exp(-15.0) - 0.0609) * 1.5035, 1e-6);
    fixture_close(&f);
}

static void test_bf16_stays_close(void) {
    struct fixture f32, bf16;
    if (!fixture_open(&f32, "vae_tiny_sd3")) return;
    if (!fixture_open_files(&bf16, MODELS "vae_tiny_sd3.config.json",
                            MODELS "vae_tiny_sd3.diffusers.safetensors", TACA_BF16))
        return;
    float z[16 * 15];
    fill(z, "odd", 16 * 15, 1.5);
    float *want = fixture_decode(&f32, z, 3, 5, false);
    float *got = fixture_decode(&bf16, z, 3, 5, false);
    double err = 0, norm = 0;
    for (int i = 0; i < 3 * 24 * 40; i++) {
        err += pow((double)got[i] - (double)want[i], 2);
        norm += pow((double)want[i], 2);
    }
    printf("    relative L2 of bf16: %.4f\n", sqrt(err / norm));
    CHECK(sqrt(err / norm) < 0.02);
    float *x = fixture_encode(&bf16, want, 24, 40);
    free(x);
    free(want);
    free(got);
    fixture_close(&f32);
    fixture_close(&bf16);
}

static void test_scratch_is_three_buffers(void) {
    struct fixture f;
    if (!fixture_open(&f, "vae_tiny_sd3")) return; /* widths 16 16 8 8, f32 */
    size_t pixels = 128 * 128;
    struct taca_map image = {NULL, TACA_F32, 1, 128, 128, 3};
    size_t bytes = fixture_scratch_bytes(&f, image, (struct taca_chw){NULL, 16, 16, 16}, true);
    /* all three end up as an 8-channel map at full size, but for the planes' alignment; beside them
     * the attention's layout, one segment of 16 x 16 rows */
    const size_t layout = sizeof(struct taca_seg) + sizeof(int32_t[16 * 16]);
    CHECK(bytes >= 3 * 8 * pixels * sizeof(float) + layout);
    CHECK(bytes <= 3 * 8 * pixels * sizeof(float) + layout + 4 * 64);
    fixture_close(&f);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void test_decoder_alone_opens_without_an_encoder(void) {
    char dir[] = "/tmp/taca_vae_XXXXXX", config[64], weights[64];
    two_level_files(dir, config, weights, sizeof config, "decoder.");
    struct fixture f;
    if (fixture_open_files(&f, config, weights, TACA_F32)) {
        CHECK(!vae_get_info(f.vae)->has_encoder);
        CHECK_INT(vae_get_info(f.vae)->factor, 2);
        fixture_close(&f);
    }
    remove_files(dir, config, weights);
}

/* Opens vae_tiny_sd3 with one field of its config replaced; gives the error. */
static struct taca_err open_with(const char *key, json_t *value) {
    struct fixture f;
    struct vae *vae = NULL;
    struct taca_err err = {0};
    if (!fixture_open(&f, "vae_tiny_sd3")) return err;
    json_object_set_new(f.config, key, value);
    CHECK(vae_open(&vae, f.b, f.config, f.ckpt, &err) != TACA_OK);
    CHECK(vae == NULL);
    fixture_close(&f);
    return err;
}

static void test_wrong_configs_are_named(void) {
    struct taca_err err = open_with("block_out_channels", json_pack("[i,i]", 8, 10));
    CHECK_HAS(err.text, "block_out_channels[1] is 10");
    err = open_with("act_fn", json_string("relu"));
    CHECK_HAS(err.text, "act_fn is relu");
    err = open_with("down_block_types", json_pack("[s]", "AttnDownEncoderBlock2D"));
    CHECK_HAS(err.text, "down_block_types[0] is AttnDownEncoderBlock2D");
    err = open_with("latents_mean", json_pack("[f]", 0.5));
    CHECK_HAS(err.text, "latents_mean");
    err = open_with("layers_per_block", json_integer(2));
    CHECK_HAS(err.text, "decoder.up_blocks.0.resnets.2.norm1.weight");
    err = open_with("latent_channels", json_integer(4));
    CHECK_HAS(err.text, "decoder.conv_in.weight");
    err = open_with("use_quant_conv", json_true());
    CHECK_HAS(err.text, "quant_conv.weight");
    err = open_with("out_channels", json_integer(4));
    CHECK_HAS(err.text, "out_channels 4");
}

static void test_a_wrong_shape_surfaces_at_sync(void) {
    struct fixture f;
    if (!fixture_open(&f, "difftest_vae_lc1")) return;
    float z[64] = {0}, image[3 * 64];
    CHECK_OK(taca_scratch_reserve(&f.scratch, 1 << 20, &f.err), f.err);
    vae_decode(f.vae, f.b, &f.scratch, (struct taca_map){image, TACA_F32, 1, 8, 7, 3},
               (struct taca_chw){z, 1, 8, 8}, false);
    struct taca_err err = {0};
    CHECK(taca_sync(f.b, &err) != TACA_OK);
    CHECK(err.text[0]);
    fixture_close(&f);
}

int main(void) {
    TEST(test_one_level_model_decodes_and_encodes_as_the_reference);
    TEST(test_final_latents_of_pipelines_become_their_images);
    TEST(test_filled_weights_give_the_golden_numbers);
    TEST(test_odd_latents_decode);
    TEST(test_constants_of_flux_decode);
    TEST(test_odd_images_encode_rounding_down);
    TEST(test_posterior_clamps_the_log_variance);
    TEST(test_bf16_stays_close);
    TEST(test_scratch_is_three_buffers);
    TEST(test_decoder_alone_opens_without_an_encoder);
    TEST(test_wrong_configs_are_named);
    TEST(test_a_wrong_shape_surfaces_at_sync);
    return TEST_END();
}
