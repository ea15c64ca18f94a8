/* test_tae.c - the tiny decoder against the same net computed in double precision elsewhere, from
 * weights that a rule makes (tests/golden/README.md), under each of its spellings. */
#include <unistd.h>

#include "engine/io/safetensors.h"
#include "engine/vae/tae.h"
#include "tests/vae/tae_file.h"

static char path[] = "/tmp/taca_tae_XXXXXX.safetensors";

/* ---- decoding -------------------------------------------------------------------------------- */

struct run {
    struct taca_backend *b;
    struct taca_ckpt *ckpt;
    struct tae *tae;
    struct taca_err err;
};

static enum taca_code run_open(struct run *r, const char *prefix, int shift, const char *omit,
                               enum taca_dtype precision) {
    static struct tae_file f;
    const struct taca_backend_opts opts = {.threads = 1, .precision = precision};
    f = (struct tae_file){.prefix = prefix, .shift = shift, .omit = omit};
    *r = (struct run){0};
    tae_file_write(&f, path);
    CHECK_OK(taca_cpu_open(&r->b, &opts, &r->err), r->err);
    CHECK_OK(taca_ckpt_open(&r->ckpt, path, &r->err), r->err);
    return tae_open(&r->tae, r->b, r->ckpt, TAE_LATENT, &r->err);
}

static void run_close(struct run *r) {
    tae_close(r->tae);
    taca_ckpt_close(r->ckpt);
    taca_backend_close(r->b);
    unlink(path);
}

static size_t scratch_bytes(struct run *r, struct taca_chw x0) {
    struct taca_backend *count = NULL;
    CHECK_OK(taca_count_open(&count, taca_backend_precision(r->b), &r->err), r->err);
    struct taca_scratch empty = {.b = count};
    x0.data = NULL;
    tae_decode(r->tae, count, &empty,
               (struct taca_map){NULL, TACA_F32, 1, x0.h * TAE_FACTOR, x0.w * TAE_FACTOR, 3}, x0);
    CHECK_OK(taca_sync(count, &r->err), r->err);
    CHECK_INT(empty.used, 0);
    taca_backend_close(count);
    return empty.peak;
}

/* Against 2 y - 1 of the golden's y [3, h, w]; an error relative to the values' size. */
static void check_decode(struct run *r, double tolerance) {
    struct taca_safetensors *io = NULL;
    CHECK_OK(taca_safetensors_open(&io, TACA_GOLDEN_DIR "/models/tae_tiny.io.safetensors", &r->err),
             r->err);
    const struct taca_tensor *in = taca_safetensors_find(io, "in.x0");
    const struct taca_tensor *want = taca_safetensors_find(io, "out");
    if (!CHECK(in && want)) return;
    const int64_t h = in->dim[1], w = in->dim[2], H = h * TAE_FACTOR, W = w * TAE_FACTOR;
    CHECK_INT(want->dim[1], H);
    CHECK_INT(want->dim[2], W);
    struct taca_chw x0 = {malloc((size_t)(TAE_LATENT * h * w) * sizeof(float)), TAE_LATENT, h, w};
    memcpy(x0.data, in->data, (size_t)(TAE_LATENT * h * w) * sizeof(float));
    struct taca_map image = {malloc((size_t)(H * W * 3) * sizeof(float)), TACA_F32, 1, H, W, 3};
    struct taca_scratch s = {.b = r->b};
    CHECK_OK(taca_scratch_reserve(&s, scratch_bytes(r, x0), &r->err), r->err);
    tae_decode(r->tae, r->b, &s, image, x0);
    CHECK_OK(taca_sync(r->b, &r->err), r->err);
    double worst = 0, largest = 0;
    for (int64_t p = 0; p < H * W; p++)
        for (int c = 0; c < 3; c++) {
            float y;
            memcpy(&y, (const float *)want->data + c * H * W + p, sizeof y);
            const double got = (double)((const float *)image.data)[3 * p + c];
            const double exact = 2.0 * (double)y - 1;
            worst = fmax(worst, fabs(got - exact));
            largest = fmax(largest, fabs(exact));
        }
    CHECK_NEAR(worst / largest, 0, tolerance);
    taca_scratch_finish(&s);
    free(x0.data);
    free(image.data);
    taca_safetensors_close(io);
}

static void test_it_gives_the_reference_under_each_spelling(void) {
    static const struct {
        const char *prefix;
        int shift;
    } spelling[] = {{"", 0}, {"decoder.", 0}, {"taesd_decoder.", 0}, {"decoder.layers.", -1}};
    for (size_t i = 0; i < sizeof spelling / sizeof *spelling; i++) {
        struct run r;
        CHECK_OK(run_open(&r, spelling[i].prefix, spelling[i].shift, NULL, TACA_F32), r.err);
        if (r.tae) check_decode(&r, 2e-6);
        run_close(&r);
    }
}

static void test_bf16_is_close(void) {
    struct run r;
    CHECK_OK(run_open(&r, "", 0, NULL, TACA_BF16), r.err);
    if (r.tae) check_decode(&r, taca_backend_precision(r.b) == TACA_BF16 ? 2e-2 : 2e-6);
    run_close(&r);
}

static void test_what_is_missing_is_named(void) {
    static const struct {
        const char *omit, *word;
    } cases[] = {{"1.weight", "TAESD3"},
                 {"19.weight", "TAESD3"},
                 {"8.conv.2.bias", "8.conv.2.bias"},
                 {"12.weight", "12.weight"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run r;
        CHECK_INT(run_open(&r, "", 0, cases[i].omit, TACA_F32) != TACA_OK, 1);
        CHECK(r.tae == NULL);
        CHECK_HAS(r.err.text, cases[i].word);
        run_close(&r);
    }
}

static void test_other_channels_and_other_files_are_refused(void) {
    struct run r;
    struct tae *tae = NULL;
    CHECK_OK(run_open(&r, "", 0, NULL, TACA_F32), r.err);
    CHECK_INT(tae_open(&tae, r.b, r.ckpt, 4, &r.err), TACA_EFORMAT);
    CHECK_HAS(r.err.text, "16 latent channels, the model has 4");
    taca_ckpt_close(r.ckpt);
    r.ckpt = NULL;
    r.err = (struct taca_err){0};
    CHECK_OK(taca_ckpt_open(&r.ckpt, TACA_GOLDEN_DIR "/models/vae_tiny_sd3.diffusers.safetensors",
                            &r.err),
             r.err);
    CHECK_INT(tae_open(&tae, r.b, r.ckpt, TAE_LATENT, &r.err), TACA_EFORMAT);
    CHECK_HAS(r.err.text, "VAE");
    CHECK(tae == NULL);
    run_close(&r);
}

int main(void) {
    int fd = mkstemps(path, 12);
    if (fd < 0) return 1;
    close(fd);
    TEST(test_it_gives_the_reference_under_each_spelling);
    TEST(test_bf16_is_close);
    TEST(test_what_is_missing_is_named);
    TEST(test_other_channels_and_other_files_are_refused);
    unlink(path);
    return TEST_END();
}
