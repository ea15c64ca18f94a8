/* vae_fixture.h - an autoencoder opened from a golden set, with host-side decode and encode. */
#ifndef TACA_TESTS_VAE_FIXTURE_H
#define TACA_TESTS_VAE_FIXTURE_H

#include "engine/io/checkpoint.h"
#include "engine/io/safetensors.h"
#include "engine/vae/vae.h"
#include "tests/test.h"

#define MODELS TACA_GOLDEN_DIR "/models/"

struct fixture {
    struct taca_backend *b;
    struct taca_ckpt *ckpt;
    json_t *config;
    struct vae *vae;
    struct taca_scratch scratch;
    struct taca_err err;
};

static inline bool fixture_open_files(struct fixture *f, const char *config, const char *weights,
                                      enum taca_dtype precision) {
    struct taca_backend_opts opts = {.threads = 1, .precision = precision};
    memset(f, 0, sizeof *f);
    if (taca_cpu_open(&f->b, &opts, &f->err) == TACA_OK &&
        taca_json_load(&f->config, config, &f->err) == TACA_OK &&
        taca_ckpt_open(&f->ckpt, weights, &f->err) == TACA_OK &&
        vae_open(&f->vae, f->b, f->config, f->ckpt, &f->err) == TACA_OK) {
        f->scratch.b = f->b;
        return true;
    }
    printf("        %s\n", f->err.text);
    return CHECK(f->vae != NULL);
}

static inline bool fixture_open(struct fixture *f, const char *set) {
    char config[512], weights[512];
    snprintf(config, sizeof config, MODELS "%s.config.json", set);
    snprintf(weights, sizeof weights, MODELS "%s.diffusers.safetensors", set);
    return fixture_open_files(f, config, weights, TACA_F32);
}

static inline void fixture_close(struct fixture *f) {
    taca_scratch_finish(&f->scratch);
    vae_close(f->vae);
    taca_ckpt_close(f->ckpt);
    json_decref(f->config);
    taca_backend_close(f->b);
}

/* Scratch that a pass needs, asked from a counting backend as the engine does. */
static inline size_t fixture_scratch_bytes(struct fixture *f, struct taca_map image,
                                           struct taca_chw latent, bool decode) {
    struct taca_backend *count = NULL;
    CHECK_OK(taca_count_open(&count, taca_backend_precision(f->b), &f->err), f->err);
    struct taca_scratch empty = {.b = count};
    image.data = NULL;
    latent.data = NULL;
    if (decode)
        vae_decode(f->vae, count, &empty, image, latent, false);
    else
        vae_encode(f->vae, count, &empty, latent, image);
    CHECK_OK(taca_sync(count, &f->err), f->err);
    CHECK(taca_count_read(count).flops > 0);
    CHECK_INT(empty.used, 0);
    size_t bytes = empty.peak;
    taca_backend_close(count);
    return bytes;
}

/* CHW from and to the HWC of feature maps. */
static inline void hwc_to_chw(float *chw, const float *hwc, int64_t c, int64_t pixels) {
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t k = 0; k < c; k++) chw[k * pixels + i] = hwc[i * c + k];
}
static inline void chw_to_hwc(float *hwc, const float *chw, int64_t c, int64_t pixels) {
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t k = 0; k < c; k++) hwc[i * c + k] = chw[k * pixels + i];
}

static inline float *test_alloc(int64_t n) {
    float *p = aligned_alloc(64, ((size_t)n * sizeof(float) + 63) / 64 * 64);
    if (!p) abort();
    return p;
}

/* out [c, factor h, factor w]; NULL when something failed. Free it. */
static inline float *fixture_decode(struct fixture *f, const float *z, int64_t h, int64_t w,
                                    bool raw) {
    const struct vae_info *info = vae_get_info(f->vae);
    int64_t c = info->image_channels, pixels = h * info->factor * w * info->factor;
    float *hwc = test_alloc(c * pixels), *chw = test_alloc(c * pixels);
    float *zc = test_alloc(info->latent_channels * h * w);
    memcpy(zc, z, (size_t)(info->latent_channels * h * w) * sizeof(float));
    struct taca_map image = {hwc, TACA_F32, 1, h * info->factor, w * info->factor, c};
    struct taca_chw latent = {zc, info->latent_channels, h, w};
    size_t bytes = fixture_scratch_bytes(f, image, latent, true);
    CHECK_OK(taca_scratch_reserve(&f->scratch, bytes, &f->err), f->err);
    vae_decode(f->vae, f->b, &f->scratch, image, latent, raw);
    CHECK_OK(taca_sync(f->b, &f->err), f->err);
    CHECK_INT(f->scratch.used, 0);
    hwc_to_chw(chw, hwc, c, pixels);
    free(hwc);
    free(zc);
    return chw;
}

/* moments [2c, h / factor, w / factor] of x [3, h, w]. Free it. */
static inline float *fixture_encode(struct fixture *f, const float *x, int64_t h, int64_t w) {
    const struct vae_info *info = vae_get_info(f->vae);
    int64_t c = info->image_channels;
    struct taca_chw moments = {NULL, 2 * info->latent_channels, h / info->factor, w / info->factor};
    float *hwc = test_alloc(c * h * w);
    chw_to_hwc(hwc, x, c, h * w);
    struct taca_map image = {hwc, TACA_F32, 1, h, w, c};
    size_t bytes = fixture_scratch_bytes(f, image, moments, false);
    moments.data = test_alloc(moments.c * moments.h * moments.w);
    CHECK_OK(taca_scratch_reserve(&f->scratch, bytes, &f->err), f->err);
    vae_encode(f->vae, f->b, &f->scratch, moments, image);
    CHECK_OK(taca_sync(f->b, &f->err), f->err);
    CHECK_INT(f->scratch.used, 0);
    free(hwc);
    return moments.data;
}

/* The deterministic fill of the golden data: FNV-1a of the name seeds a linear generator. */
static inline void fill(float *out, const char *name, int64_t n, double scale) {
    uint32_t x = 0x811C9DC5u;
    for (const char *s = name; *s; s++) x = (x ^ (unsigned char)*s) * 0x01000193u;
    for (int64_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        out[i] = (float)(((x >> 8) / 16777216.0 - 0.5) * 2 * scale);
    }
}

#endif
