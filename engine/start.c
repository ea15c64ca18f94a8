/* start.c - what a sequence starts from: noise, or an image with as much noise as its strength
 * says, and what of the image a mask keeps. */
#include <stdlib.h>

#include "engine/core.h"

static size_t count(struct taca_chw x) { return (size_t)(x.c * x.h * x.w); }

/* ---- drawn from the parameters --------------------------------------------------------------- */

enum taca_code seq_encode_begin(struct taca_engine *e, struct seq_encoding *out, struct taca_chw z,
                                const float *image, struct taca_err *err) {
    struct taca_scratch *scratch = engine_side_scratch(e);
    const int64_t f = vae_get_info(e->vae)->factor, h = z.h * f, w = z.w * f;
    *out = (struct seq_encoding){.used = scratch->used, .under_way = true};
    out->moments = (struct taca_chw){NULL, 2 * z.c, z.h, z.w};
    out->moments.data = taca_scratch_mat(scratch, TACA_F32, 2, (int64_t)count(z)).data;
    const struct taca_map pixels = taca_scratch_map(scratch, TACA_F32, 1, h, w, 3);
    if (pixels.data) taca_upload(e->b, pixels.data, image, (size_t)(h * w * 3) * sizeof *image);
    if (pixels.data) vae_encode(e->vae, e->b, scratch, out->moments, pixels);
    return taca_queued(e->b, err);
}

enum taca_code seq_encode_end(struct taca_engine *e, struct seq_encoding *encoding, float *z,
                              const float *noise, struct taca_err *err) {
    const size_t n = count(encoding->moments);
    float *moments = malloc(n * sizeof *moments);
    if (moments) taca_download(e->b, moments, encoding->moments.data, n * sizeof *moments);
    enum taca_code rc = taca_sync(e->b, err);
    if (!rc && !moments) rc = taca_fail(err, TACA_ENOMEM, "a latent of %zu values", n);
    if (!rc) vae_sample(e->vae, z, moments, noise, n / 2);
    free(moments);
    seq_encode_drop(e, encoding);
    return rc;
}

void seq_encode_drop(struct taca_engine *e, struct seq_encoding *encoding) {
    if (encoding->under_way) engine_side_scratch(e)->used = encoding->used;
    *encoding = (struct seq_encoding){0};
}

enum taca_code seq_encode(struct taca_engine *e, struct taca_chw z, const float *image,
                          const float *noise, struct taca_err *err) {
    struct seq_encoding encoding;
    const enum taca_code rc = seq_encode_begin(e, &encoding, z, image, err);
    if (!rc) return seq_encode_end(e, &encoding, z.data, noise, err);
    seq_encode_drop(e, &encoding);
    return rc;
}

void seq_shrink_mask(float *out, int64_t h, int64_t w, int factor, const uint8_t *mask) {
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++)
            out[y * w + x] = mask[(y * w * factor + x) * factor] >= 128 ? 1 : 0;
}

static enum taca_code encode_pixels(struct seq_encoding *out, struct taca_engine *e,
                                    const struct taca_gen_params *p, struct taca_chw shape,
                                    struct taca_err *err) {
    const size_t n = (size_t)p->width_px * (size_t)p->height_px * 3;
    float *pixels = malloc(n * sizeof *pixels);
    if (!pixels) return taca_fail(err, TACA_ENOMEM, "an image of %zu values", n);
    for (size_t i = 0; i < n; i++) pixels[i] = 2 * ((float)p->image[i] / 255) - 1;
    enum taca_code rc = seq_encode_begin(e, out, shape, pixels, err);
    free(pixels);
    return rc;
}

enum taca_code seq_draw(struct seq_rest *out, struct taca_engine *e, const struct taca_seq *s,
                        const struct taca_gen_params *p, struct taca_rng *rng,
                        struct taca_err *err) {
    const struct taca_chw shape = s->latent;
    const size_t n = count(shape), plane = (size_t)(shape.h * shape.w);
    struct seq_start *start = &out->start;
    *out = (struct seq_rest){.start.noise = malloc(n * sizeof(float))};
    if (p->image) start->image = malloc(n * sizeof(float));
    if (p->image) out->draw = malloc(n * sizeof(float));
    if (p->mask) start->mask = malloc(plane * sizeof(float));
    if (!start->noise || (p->image && (!start->image || !out->draw)) || (p->mask && !start->mask))
        return taca_fail(err, TACA_ENOMEM, "noise of %zu values", n);
    if (p->image) taca_rng_randn(rng, out->draw, n);
    taca_rng_randn(rng, start->noise, n);
    if (!p->image) return TACA_OK;
    if (p->mask)
        seq_shrink_mask(start->mask, shape.h, shape.w, vae_get_info(e->vae)->factor, p->mask);
    return encode_pixels(&out->encoding, e, p, shape, err);
}

enum taca_code seq_go_on(struct taca_engine *e, struct taca_seq *s, struct seq_rest *rest,
                         struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    if (rest->encoding.under_way)
        rc = seq_encode_end(e, &rest->encoding, rest->start.image, rest->draw, err);
    return rc ? rc : seq_begin(e, s, &rest->start, err);
}

void seq_rest_finish(struct taca_engine *e, struct seq_rest *rest) {
    seq_encode_drop(e, &rest->encoding);
    free(rest->start.noise);
    free(rest->start.image);
    free(rest->start.mask);
    free(rest->draw);
    *rest = (struct seq_rest){0};
}

/* ---- in a sequence --------------------------------------------------------------------------- */

enum taca_code seq_begin(struct taca_engine *e, struct taca_seq *s, const struct seq_start *start,
                         struct taca_err *err) {
    const size_t n = count(s->latent), bytes = n * sizeof(float);
    const float *latent = start->noise;
    float *mixed = NULL;
    if (start->image) {
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
    free(mixed);
    return taca_queued(e->b, err);
}

void seq_keep_unmasked(struct taca_engine *e, struct taca_seq *s, float sigma) {
    taca_axpb(e->b, s->kept, s->noise, sigma, 0);
    taca_axpby(e->b, s->kept, s->image, 1 - sigma, 1);
    taca_blend(e->b, s->latent, s->kept, s->mask);
    taca_blend(e->b, s->velocity[SEQ_COND], s->image, s->mask);
}
