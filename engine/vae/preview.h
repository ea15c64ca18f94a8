/* preview.h - a cheap look at a latent: rgb = sum_c x0[c] F[c] + bias, one pixel per latent. Host
 * only. */
#ifndef TACA_ENGINE_VAE_PREVIEW_H
#define TACA_ENGINE_VAE_PREVIEW_H

#include <jansson.h>
#include <stdint.h>

#include "base/err.h"

enum { PREVIEW_MAX_CHANNELS = 64 };
struct preview_factors {
    int channels;
    float factor[PREVIEW_MAX_CHANNELS][3];
    float bias[3];
};
enum preview_family { PREVIEW_SD3, PREVIEW_FLUX };
/* `latent_rgb` of taca.json ({"factors": [[r,g,b], ...], "bias": [r,g,b]}), else the published ones
 * of the family for 16 channels, else the first channels as grey. */
enum taca_code preview_factors_load(struct preview_factors *out, const json_t *taca,
                                    enum preview_family family, int channels,
                                    struct taca_err *err) TACA_MUST_USE;
/* rgb [h * w * 3] from x0 [channels, h, w] in model space, host memory: trunc(255 clamp((v + 1) /
 * 2)). */
void preview_render(const struct preview_factors *f, const float *x0, int h, int w, uint8_t *rgb);

#endif
