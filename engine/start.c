/* start.c - what a sequence starts from: noise, or an image with as much noise as its strength
 * says, and what of the image a mask keeps. */
#include <stdlib.h>

#include "engine/core.h"

static size_t count(struct taca_chw x) { return (size_t)(x.c * x.h * x.w); }

/* ---- drawn from the parameters --------------------------------------------------------------- */

enum taca_code seq_encode(struct taca_engine *e, struct taca_chw z, const float *image,
                          const float *noise, struct taca_err *err) {
    const size_t saved = e->scratch.used, n = count(z);
    const int64_t f = vae_get_info(e->vae)->factor, h = z.h * f, w = z.w * f;
    const struct taca_map pixels = taca_scratch_map(&e->scratch, TACA_F32, 1, h, w, 3);
    const struct taca_mat latents = taca_scratch_mat(&e->scratch, TACA_F32, 4, (int64_t)n);
    struct taca_chw moments = {latents.data, 2 * z.c, z.h, z.w}, eps = z, to = z;
    if (latents.data) { /* else the sync below says why not */
        eps.data = moments.data + 2 * n;
        to.data = moments.data + 3 * n;
        taca_upload(e->b, pixels.data, image, (size_t)(h * w * 3) * sizeof *image);
        taca_upload(e->b, eps.data, noise, n * sizeof *noise);
        vae_encode(e->vae, e->b, &e->scratch, moments, pixels);
        vae_sample(e->vae, e->b, to, moments, eps);
        taca_download(e->b, z.data, to.data, n * sizeof *z.data);
    }
    const enum taca_code rc = taca_sync(e->b, err);
    e->scratch.used = saved;
    return rc;
}

void seq_shrink_mask(float *out, int64_t h, int64_t w, int factor, const uint8_t *mask) {
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++)
            out[y * w + x] = mask[(y * w * factor + x) * factor] >= 128 ? 1 : 0;
}

static enum taca_code encode_pixels(struct seq_start *out, struct taca_engine *e,
                                    const struct taca_gen_params *p, struct taca_chw shape,
                                    struct taca_err *err) {
    const size_t n = (size_t)p->width_px * (size_t)p->height_px * 3;
    float *pixels = malloc(n * sizeof *pixels);
    if (!pixels) return taca_fail(err, TACA_ENOMEM, "an image of %zu values", n);
    for (size_t i = 0; i < n; i++) pixels[i] = 2 * ((float)p->image[i] / 255) - 1;
    shape.data = out->image;
    enum taca_code rc = seq_encode(e, shape, pixels, out->noise, err);
    free(pixels);
    return rc;
}

enum taca_code seq_start_draw(struct seq_start *out, struct taca_engine *e,
                              const struct taca_seq *s, const struct taca_gen_params *p,
                              struct taca_rng *rng, struct taca_err *err) {
    const struct taca_chw shape = s->latent;
    const size_t n = count(shape), plane = (size_t)(shape.h * shape.w);
    *out = (struct seq_start){.noise = malloc(n * sizeof(float))};
    if (p->image) out->image = malloc(n * sizeof(float));
    if (p->mask) out->mask = malloc(plane * sizeof(float));
    if (!out->noise || (p->image && !out->image) || (p->mask && !out->mask))
        return taca_fail(err, TACA_ENOMEM, "noise of %zu values", n);
    taca_rng_randn(rng, out->noise, n);
    if (!p->image) return TACA_OK;
    enum taca_code rc = encode_pixels(out, e, p, shape, err);
    if (rc) return rc;
    taca_rng_randn(rng, out->noise, n);
    if (p->mask)
        seq_shrink_mask(out->mask, shape.h, shape.w, vae_get_info(e->vae)->factor, p->mask);
    return TACA_OK;
}

void seq_start_finish(struct seq_start *s) {
    free(s->noise);
    free(s->image);
    free(s->mask);
    *s = (struct seq_start){0};
}

/* ---- in a sequence --------------------------------------------------------------------------- */

enum taca_code seq_begin(struct taca_engine *e, struct taca_seq *s, const struct seq_start *start,
                         double strength, struct taca_err *err) {
    const size_t n = count(s->latent), bytes = n * sizeof(float);
    const float *latent = start->noise;
    float *mixed = NULL;
    if (start->image) {
        s->walk.first = s->walk.step = taca_first_step(s->schedule.steps, strength);
        const float sigma = s->schedule.sigma[s->walk.first];
        mixed = malloc(bytes);
        if (!mixed) return taca_fail(err, TACA_ENOMEM, "a latent of %zu values", n);
        for (size_t i = 0; i < n; i++)
            mixed[i] = sigma * start->noise[i] + (1 - sigma) * start->image[i];
        latent = mixed;
    }
    taca_upload(e->b, s->latent.data, latent, bytes);
    if (s->masked) {
        taca_upload(e->b, s->image.data, start->image, bytes);
        taca_upload(e->b, s->noise.data, start->noise, bytes);
        taca_upload(e->b, s->mask.data, start->mask, count(s->mask) * sizeof(float));
    }
    const enum taca_code rc = taca_sync(e->b, err);
    free(mixed);
    return rc;
}

void seq_keep_unmasked(struct taca_engine *e, struct taca_seq *s, float sigma) {
    taca_axpb(e->b, s->kept, s->noise, sigma, 0);
    taca_axpby(e->b, s->kept, s->image, 1 - sigma, 1);
    taca_blend(e->b, s->latent, s->kept, s->mask);
    taca_blend(e->b, s->velocity[SEQ_COND], s->image, s->mask);
}
