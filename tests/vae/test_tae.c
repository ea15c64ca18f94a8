/* test_tae.c - the tiny decoder against the same net computed in double precision elsewhere, from
 * weights that a rule makes (tests/golden/README.md), under each of its spellings. */
#include <unistd.h>

#include "engine/io/safetensors.h"
#include "engine/vae/tae.h"
#include "tests/test.h"

enum { WIDTH = 12, LATENT = 16, MAX_TENSORS = 80, NAME = 64 };

/* ---- a file ---------------------------------------------------------------------------------- */

static uint32_t fnv1a(const char *s) {
    uint32_t h = 2166136261u;
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    return h;
}

static void fill(float *out, size_t n, const char *name, double scale) {
    uint32_t x = fnv1a(name);
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        out[i] = (float)(((x >> 8) / 16777216.0 - 0.5) * 2 * scale);
    }
}

struct file {
    const char *prefix;
    int shift;        /* of the layers' numbers */
    const char *omit; /* original name that is left out, NULL = none */
    char header[1 << 14];
    float data[1 << 16];
    size_t at, used;
};

/* name: of the original; the fill follows from it whatever the file's spelling. */
static void add(struct file *f, int layer, const char *rest, double scale, const int64_t *dim,
                int rank) {
    char original[NAME], shape[NAME] = "";
    size_t n = 1, len = 0;
    snprintf(original, sizeof original, "%d%s", layer, rest);
    if (f->omit && strcmp(f->omit, original) == 0) return;
    for (int i = 0; i < rank; i++) {
        n *= (size_t)dim[i];
        len += (size_t)snprintf(shape + len, sizeof shape - len, "%s%d", i ? "," : "", (int)dim[i]);
    }
    fill(f->data + f->used, n, original, scale);
    f->at += (size_t)snprintf(
        f->header + f->at, sizeof f->header - f->at,
        "%s\"%s%d%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
        f->at > 1 ? "," : "", f->prefix, layer + f->shift, rest, shape, f->used * sizeof(float),
        (f->used + n) * sizeof(float));
    f->used += n;
}

static void add_conv(struct file *f, int layer, const char *inner, int64_t in, int64_t out,
                     bool bias) {
    char rest[NAME];
    snprintf(rest, sizeof rest, "%s.weight", inner);
    add(f, layer, rest, sqrt(3.0 / (9 * (double)in)) * 1.2, (int64_t[]){out, in, 3, 3}, 4);
    snprintf(rest, sizeof rest, "%s.bias", inner);
    if (bias) add(f, layer, rest, 0.2, &out, 1);
}

static char path[] = "/tmp/taca_tae_XXXXXX.safetensors";

static void write_file(struct file *f) {
    static const int blocks[] = {3, 4, 5, 8, 9, 10, 13, 14, 15, 18}, ups[] = {7, 12, 17};
    f->header[f->at++] = '{';
    add_conv(f, 1, "", LATENT, WIDTH, true);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        for (int k = 0; k < 3; k++)
            add_conv(f, blocks[i], (const char *[]){".conv.0", ".conv.2", ".conv.4"}[k], WIDTH,
                     WIDTH, true);
    for (size_t i = 0; i < sizeof ups / sizeof *ups; i++)
        add_conv(f, ups[i], "", WIDTH, WIDTH, false);
    add_conv(f, 19, "", WIDTH, 3, true);
    f->header[f->at++] = '}';
    const uint64_t len = f->at;
    FILE *out = fopen(path, "wb");
    if (!CHECK(out != NULL)) return;
    CHECK_INT(fwrite(&len, 1, sizeof len, out), sizeof len);
    CHECK_INT(fwrite(f->header, 1, f->at, out), f->at);
    CHECK_INT(fwrite(f->data, sizeof(float), f->used, out), f->used);
    fclose(out);
}

/* ---- decoding -------------------------------------------------------------------------------- */

struct run {
    struct taca_backend *b;
    struct taca_ckpt *ckpt;
    struct tae *tae;
    struct taca_err err;
};

static enum taca_code run_open(struct run *r, const char *prefix, int shift, const char *omit,
                               enum taca_dtype precision) {
    static struct file f;
    const struct taca_backend_opts opts = {.threads = 1, .precision = precision};
    f = (struct file){.prefix = prefix, .shift = shift, .omit = omit};
    *r = (struct run){0};
    write_file(&f);
    CHECK_OK(taca_cpu_open(&r->b, &opts, &r->err), r->err);
    CHECK_OK(taca_ckpt_open(&r->ckpt, path, &r->err), r->err);
    return tae_open(&r->tae, r->b, r->ckpt, LATENT, &r->err);
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
    struct taca_chw x0 = {malloc((size_t)(LATENT * h * w) * sizeof(float)), LATENT, h, w};
    memcpy(x0.data, in->data, (size_t)(LATENT * h * w) * sizeof(float));
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
            const double got = ((const float *)image.data)[3 * p + c], exact = 2.0 * (double)y - 1;
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
    CHECK_INT(tae_open(&tae, r.b, r.ckpt, LATENT, &r.err), TACA_EFORMAT);
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
