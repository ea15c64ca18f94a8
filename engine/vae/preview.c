/* preview.c - latent to RGB by one small matrix. Knows nothing of devices; the factors come from
 * taca.json, from the published fits of SD3 and FLUX.1, or are plain grey. */
#include "engine/vae/preview.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The families' autoencoders have as many channels, which mean different things. */
enum { PUBLISHED_CHANNELS = 16 };
static const struct {
    float factor[PUBLISHED_CHANNELS][3], bias[3];
} published[] = {
    [PREVIEW_SD3] = {{{-0.0922f, -0.0175f, 0.0749f},
                      {0.0311f, 0.0633f, 0.0954f},
                      {0.1994f, 0.0927f, 0.0458f},
                      {0.0856f, 0.0339f, 0.0902f},
                      {0.0587f, 0.0272f, -0.0496f},
                      {-0.0006f, 0.1104f, 0.0309f},
                      {0.0978f, 0.0306f, 0.0427f},
                      {-0.0042f, 0.1038f, 0.1358f},
                      {-0.0194f, 0.0020f, 0.0669f},
                      {-0.0488f, 0.0130f, -0.0268f},
                      {0.0922f, 0.0988f, 0.0951f},
                      {-0.0278f, 0.0524f, -0.0542f},
                      {0.0332f, 0.0456f, 0.0895f},
                      {-0.0069f, -0.0030f, -0.0810f},
                      {-0.0596f, -0.0465f, -0.0293f},
                      {-0.1448f, -0.1463f, -0.1189f}},
                     {0.2394f, 0.2135f, 0.1925f}},
    [PREVIEW_FLUX] = {{{-0.0346f, 0.0244f, 0.0681f},
                       {0.0034f, 0.0210f, 0.0687f},
                       {0.0275f, -0.0668f, -0.0433f},
                       {-0.0174f, 0.0160f, 0.0617f},
                       {0.0859f, 0.0721f, 0.0329f},
                       {0.0004f, 0.0383f, 0.0115f},
                       {0.0405f, 0.0861f, 0.0915f},
                       {-0.0236f, -0.0185f, -0.0259f},
                       {-0.0245f, 0.0250f, 0.1180f},
                       {0.1008f, 0.0755f, -0.0421f},
                       {-0.0515f, 0.0201f, 0.0011f},
                       {0.0428f, -0.0012f, -0.0036f},
                       {0.0817f, 0.0765f, 0.0749f},
                       {-0.1264f, -0.0522f, -0.1103f},
                       {-0.0280f, -0.0881f, -0.0499f},
                       {-0.1262f, -0.0982f, -0.0778f}},
                      {-0.0329f, -0.0718f, -0.0851f}},
};

/* An array of three finite numbers. */
static enum taca_code read_rgb(float out[3], const json_t *row, const char *what,
                               struct taca_err *err) {
    if (!json_is_array(row) || json_array_size(row) != 3)
        return taca_fail(err, TACA_EFORMAT, "%s: wanted an array of three numbers", what);
    for (size_t i = 0; i < 3; i++) {
        const json_t *v = json_array_get(row, i);
        double number = json_number_value(v);
        if (!json_is_number(v) || !(fabs(number) <= 1e6))
            return taca_fail(err, TACA_EFORMAT, "%s[%zu]: wanted a number within 1e6 of zero", what,
                             i);
        out[i] = (float)number;
    }
    return TACA_OK;
}

static enum taca_code read_factors(struct preview_factors *f, const json_t *fit,
                                   struct taca_err *err) {
    const json_t *rows = json_object_get(fit, "factors");
    const json_t *bias = json_object_get(fit, "bias");
    if (!json_is_array(rows) || json_array_size(rows) != (size_t)f->channels)
        return taca_fail(err, TACA_EFORMAT,
                         "latent_rgb.factors: found %zu rows, wanted one per latent channel (%d)",
                         json_array_size(rows), f->channels);
    enum taca_code rc = TACA_OK;
    char what[48];
    for (int c = 0; c < f->channels && rc == TACA_OK; c++) {
        snprintf(what, sizeof what, "latent_rgb.factors[%d]", c);
        rc = read_rgb(f->factor[c], json_array_get(rows, (size_t)c), what, err);
    }
    if (rc == TACA_OK && bias) rc = read_rgb(f->bias, bias, "latent_rgb.bias", err);
    return rc;
}

enum taca_code preview_factors_load(struct preview_factors *out, const json_t *taca,
                                    enum preview_family family, int channels,
                                    struct taca_err *err) {
    if (channels < 1 || channels > PREVIEW_MAX_CHANNELS)
        return taca_fail(err, TACA_EUNSUPPORTED, "preview: %d latent channels, wanted 1..%d",
                         channels, PREVIEW_MAX_CHANNELS);
    struct preview_factors f = {.channels = channels};
    const json_t *fit = json_object_get(taca, "latent_rgb");
    if (fit && !json_is_null(fit)) {
        enum taca_code rc = read_factors(&f, fit, err);
        if (rc != TACA_OK) return rc;
    } else if (channels == PUBLISHED_CHANNELS) {
        memcpy(f.factor, published[family].factor, sizeof published[family].factor);
        memcpy(f.bias, published[family].bias, sizeof published[family].bias);
    } else {
        int used = channels < 3 ? channels : 3;
        for (int c = 0; c < used; c++)
            for (int i = 0; i < 3; i++) f.factor[c][i] = 1.0f / (float)used;
    }
    *out = f;
    return TACA_OK;
}

/* trunc(255 clamp((v + 1) / 2)); what is not a number is black. */
static uint8_t to_byte(float v) {
    float unit = (v + 1.0f) / 2.0f;
    if (!(unit > 0.0f)) return 0;
    return unit >= 1.0f ? 255 : (uint8_t)(255.0f * unit);
}

void preview_render(const struct preview_factors *f, const float *x0, int h, int w, uint8_t *rgb) {
    size_t pixels = (size_t)h * (size_t)w;
    for (size_t p = 0; p < pixels; p++) {
        float sum[3] = {f->bias[0], f->bias[1], f->bias[2]};
        for (int c = 0; c < f->channels; c++) {
            float v = x0[(size_t)c * pixels + p];
            for (int i = 0; i < 3; i++) sum[i] += v * f->factor[c][i];
        }
        for (int i = 0; i < 3; i++) rgb[3 * p + i] = to_byte(sum[i]);
    }
}
