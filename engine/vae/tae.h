/* tae.h - the tiny decoder of SD3 and FLUX latents (TAESD3, TAEF1): a picture good enough to watch,
 * for a hundredth of what the VAE costs. Knows nothing of steps or requests. */
#ifndef TACA_ENGINE_VAE_TAE_H
#define TACA_ENGINE_VAE_TAE_H

#include "engine/io/checkpoint.h"
#include "kernels/backend.h"

enum { TAE_FACTOR = 8 }; /* pixels per latent and side */

struct tae;

/* The decoder's tensors under the names of diffusers' AutoencoderTiny (decoder.layers.N) or the
 * original ones (N, where the clamp counts; perhaps under "decoder." or "taesd_decoder."). The file
 * must take `channels` latent channels. */
enum taca_code tae_open(struct tae **out, struct taca_backend *b, struct taca_ckpt *ckpt,
                        int64_t channels, struct taca_err *err) TACA_MUST_USE;
void tae_close(struct tae *t); /* the weights go with the backend; NULL is fine */

/* image [1, 8 h, 8 w, 3] f32 about -1..1 from x0 [c, h, w] in model space, which is host memory and
 * is overwritten. A shape that does not fit surfaces at sync. */
void tae_decode(const struct tae *t, struct taca_backend *b, struct taca_scratch *s,
                struct taca_map image, struct taca_chw x0);

#endif
