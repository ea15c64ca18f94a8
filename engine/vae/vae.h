/* vae.h - AutoencoderKL: latents to pictures and back (SD3 and FLUX layouts, any widths).
 *
 * Latents here are model space: vae_decode applies z / scaling_factor + shift_factor first,
 * vae_sample ends with (z - shift_factor) * scaling_factor. */
#ifndef TACA_ENGINE_VAE_VAE_H
#define TACA_ENGINE_VAE_VAE_H

#include <jansson.h>

#include "engine/io/checkpoint.h"
#include "kernels/backend.h"

struct vae;

struct vae_info {
    int64_t latent_channels, image_channels; /* 16 and 3 in the published ones */
    int64_t width;                           /* channels at the size of the image */
    int factor;                              /* pixels per latent and side: 2^(levels - 1) */
    double scaling_factor, shift_factor;
    bool has_encoder; /* false when the checkpoint holds the decoder only */
};

enum taca_code vae_open(struct vae **out, struct taca_backend *b, const json_t *config,
                        struct taca_ckpt *ckpt, struct taca_err *err) TACA_MUST_USE;
void vae_close(struct vae *v);
const struct vae_info *vae_get_info(const struct vae *v);

/* image [1, factor*h, factor*w, 3] f32 about -1..1 from z [c, h, w]. raw_z: z is already in VAE
 * space. A shape that does not fit surfaces at sync. */
void vae_decode(struct vae *v, struct taca_backend *b, struct taca_scratch *s,
                struct taca_map image, struct taca_chw z, bool raw_z);
/* moments [2c, h, w] = mean and logvar (not clamped) of image [1, H, W, 3] in -1..1; VAE space. */
void vae_encode(struct vae *v, struct taca_backend *b, struct taca_scratch *s,
                struct taca_chw moments, struct taca_map image);
/* z = ((mean + exp(0.5 clamp(logvar, -30, 20)) o noise) - shift) * scaling, all in host memory.
 *   z, noise [n], moments [2 n]; noise NULL: zeros, which gives the mean */
void vae_sample(const struct vae *v, float *z, const float *moments, const float *noise, size_t n);

#endif
