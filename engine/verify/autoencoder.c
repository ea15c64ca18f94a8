/* autoencoder.c - images and latents of a case on the host through e->vae, and the module sets of
 * autoencoders. */
#include <stdlib.h>

#include "engine/verify/case.h"

/* Scratch of one pass, from a counting backend; data of both views is ignored. */
static enum taca_code reserve_vae(struct verify_case *c, struct taca_map image,
                                  struct taca_chw latent, bool decode, struct taca_err *err) {
    struct taca_backend *count;
    enum taca_code rc = taca_count_open(&count, taca_backend_precision(c->e->b), err);
    if (rc) return rc;
    struct taca_scratch s = {.b = count};
    image.data = NULL;
    latent.data = NULL;
    if (decode)
        vae_decode(c->e->vae, count, &s, image, latent, true);
    else
        vae_encode(c->e->vae, count, &s, latent, image);
    rc = taca_sync(count, err);
    taca_backend_close(count);
    return rc ? rc : taca_scratch_reserve(&c->e->scratch, s.peak, err);
}

enum taca_code case_decode(struct verify_case *c, float *image, const float *z, const int64_t *dim,
                           bool raw, struct taca_err *err) {
    const struct vae_info *v = vae_get_info(c->e->vae);
    const int64_t h = dim[2] * v->factor, w = dim[3] * v->factor, ch = v->image_channels;
    float *z_device, *map_device, *host;
    enum taca_code rc = case_upload(c, &z_device, z, dim[0] * dim[1] * dim[2] * dim[3], err);
    if (!rc) rc = case_upload(c, &map_device, NULL, h * w * ch, err);
    if (!rc) rc = case_floats(c, &host, h * w * ch, err);
    if (rc) return rc;
    struct taca_map map = {map_device, TACA_F32, 1, h, w, ch};
    struct taca_chw latent = {z_device, dim[1], dim[2], dim[3]};
    rc = reserve_vae(c, map, latent, true, err);
    for (int64_t i = 0; i < dim[0] && !rc; i++) {
        latent.data = z_device + i * dim[1] * dim[2] * dim[3];
        vae_decode(c->e->vae, c->e->b, &c->e->scratch, map, latent, raw);
        taca_download(c->e->b, host, map_device, (size_t)(h * w * ch) * sizeof *host);
        rc = taca_sync(c->e->b, err);
        float *out = image + i * h * w * ch;
        for (int64_t p = 0; p < h * w; p++)
            for (int64_t k = 0; k < ch; k++) out[k * h * w + p] = host[p * ch + k];
    }
    return rc;
}

enum taca_code case_encode(struct verify_case *c, struct taca_chw moments, const float *image,
                           int64_t h, int64_t w, struct taca_err *err) {
    const int64_t ch = vae_get_info(c->e->vae)->image_channels;
    float *host, *map_device;
    enum taca_code rc = case_floats(c, &host, h * w * ch, err);
    if (rc) return rc;
    for (int64_t p = 0; p < h * w; p++)
        for (int64_t k = 0; k < ch; k++) host[p * ch + k] = image[k * h * w + p];
    rc = case_upload(c, &map_device, host, h * w * ch, err);
    if (rc) return rc;
    struct taca_map map = {map_device, TACA_F32, 1, h, w, ch};
    rc = reserve_vae(c, map, moments, false, err);
    if (rc) return rc;
    vae_encode(c->e->vae, c->e->b, &c->e->scratch, moments, map);
    return taca_sync(c->e->b, err);
}

/* ---- module sets ----------------------------------------------------------------------------- */

static enum taca_code compare_decode(struct verify_case *c, struct taca_err *err) {
    const struct vae_info *v = vae_get_info(c->e->vae);
    int64_t dim[4] = {-1, v->latent_channels, -1, -1};
    float *z, *image;
    enum taca_code rc = case_input(c, "in.z", 4, dim, &z, err);
    if (rc) return rc;
    int64_t n = dim[0] * v->image_channels * dim[2] * dim[3] * v->factor * v->factor;
    rc = case_floats(c, &image, n, err);
    if (!rc) rc = case_decode(c, image, z, dim, true, err);
    return rc ? rc : case_compare(c, "out.decode", image, n, err);
}

static enum taca_code compare_encode(struct verify_case *c, struct taca_err *err) {
    const struct vae_info *v = vae_get_info(c->e->vae);
    int64_t dim[4] = {-1, v->image_channels, -1, -1};
    float *x, *got, *moments = NULL;
    if (!v->has_encoder)
        return taca_fail(err, TACA_EFORMAT, "in.x is there, but the model has no encoder");
    enum taca_code rc = case_input(c, "in.x", 4, dim, &x, err);
    if (rc) return rc;
    struct taca_chw m = {NULL, 2 * v->latent_channels, dim[2] / v->factor, dim[3] / v->factor};
    int64_t one = m.c * m.h * m.w, pixels = v->image_channels * dim[2] * dim[3];
    rc = case_floats(c, &got, dim[0] * one, err);
    if (!rc) rc = case_upload(c, &moments, NULL, one, err);
    m.data = moments;
    for (int64_t i = 0; i < dim[0] && !rc; i++) {
        rc = case_encode(c, m, x + i * pixels, dim[2], dim[3], err);
        taca_download(c->e->b, got + i * one, moments, (size_t)one * sizeof *got);
        if (!rc) rc = taca_sync(c->e->b, err);
    }
    return rc ? rc : case_compare(c, "out.moments", got, dim[0] * one, err);
}

enum taca_code verify_vae(struct verify_case *c, struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    if (case_has(c, "in.z")) rc = compare_decode(c, err);
    if (!rc && case_has(c, "in.x")) rc = compare_encode(c, err);
    return rc;
}
