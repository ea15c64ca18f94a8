/* vae.c - AutoencoderKL as the rest of the engine calls it: its config, its passes, its posterior.
 *
 * The structure (levels, resnets, widths, mid attention, quant convolutions) comes from the config;
 * a checkpoint without an encoder is fine. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/vae/vae_net.h"

/* ---- config ---------------------------------------------------------------------------------- */

/* Every entry of a list of block types must be the plain one. */
static enum taca_code check_types(const json_t *config, const char *key, const char *wanted,
                                  struct taca_err *err) {
    size_t i;
    const json_t *type;
    json_array_foreach(json_object_get(config, key), i, type) {
        const char *found = json_string_value(type);
        if (!found || strcmp(found, wanted) != 0)
            return taca_fail(err, TACA_EUNSUPPORTED, "vae config: %s[%zu] is %s, wanted %s", key, i,
                             found ? found : "not a string", wanted);
    }
    return TACA_OK;
}

/* Fields that would change the mathematics in ways this code does not have. */
static enum taca_code check_plain(const json_t *config, struct taca_err *err) {
    const char *act;
    enum taca_code rc = taca_cfg_string(config, "act_fn", "silu", &act, err);
    if (rc != TACA_OK) return rc;
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return taca_fail(err, TACA_EUNSUPPORTED, "vae config: act_fn is %s, wanted silu", act);
    const json_t *mean = json_object_get(config, "latents_mean");
    const json_t *std = json_object_get(config, "latents_std");
    if ((mean && !json_is_null(mean)) || (std && !json_is_null(std)))
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "vae config: latents_mean and latents_std per channel are not supported");
    rc = check_types(config, "down_block_types", "DownEncoderBlock2D", err);
    if (rc == TACA_OK) rc = check_types(config, "up_block_types", "UpDecoderBlock2D", err);
    return rc;
}

static enum taca_code read_widths(struct vae_shape *s, const json_t *config, int64_t groups,
                                  struct taca_err *err) {
    enum taca_code rc =
        taca_cfg_ints(config, "block_out_channels", s->channels, VAE_MAX_LEVELS, &s->levels, err);
    if (rc != TACA_OK) return rc;
    if (s->levels == 0) {
        s->channels[0] = 64; /* the class's default */
        s->levels = 1;
    }
    for (int i = 0; i < s->levels; i++)
        if (s->channels[i] < 1 || s->channels[i] > 65536 || s->channels[i] % groups != 0)
            return taca_fail(err, TACA_EFORMAT,
                             "vae config: block_out_channels[%d] is %lld, wanted a positive "
                             "multiple of norm_num_groups (%lld)",
                             i, (long long)s->channels[i], (long long)groups);
    return TACA_OK;
}

/* A quant convolution that the config does not mention is there when its weights are. */
static enum taca_code read_flags(struct vae_shape *s, const json_t *config,
                                 const struct taca_ckpt *ckpt, struct taca_err *err) {
    enum taca_code rc = taca_cfg_bool(config, "mid_block_add_attention", true, &s->attention, err);
    if (rc == TACA_OK)
        rc = taca_cfg_bool(config, "use_quant_conv", taca_ckpt_has(ckpt, "quant_conv.weight"),
                           &s->quant, err);
    if (rc == TACA_OK)
        rc = taca_cfg_bool(config, "use_post_quant_conv",
                           taca_ckpt_has(ckpt, "post_quant_conv.weight"), &s->post_quant, err);
    return rc;
}

static enum taca_code read_config(struct vae *v, struct vae_shape *s, const json_t *config,
                                  const struct taca_ckpt *ckpt, struct taca_err *err) {
    int64_t groups = 0, image_out = 0;
    struct vae_info *info = &v->info;
    enum taca_code rc = check_plain(config, err);
    if (rc == TACA_OK) rc = taca_cfg_int(config, "norm_num_groups", 32, 1, 65536, &groups, err);
    if (rc == TACA_OK) rc = read_widths(s, config, groups, err);
    if (rc == TACA_OK)
        rc = taca_cfg_int(config, "layers_per_block", 1, 1, VAE_MAX_RESNETS - 1, &s->layers, err);
    if (rc == TACA_OK) rc = taca_cfg_int(config, "latent_channels", 4, 1, 4096, &s->latent, err);
    if (rc == TACA_OK) rc = taca_cfg_int(config, "in_channels", 3, 1, 64, &s->image, err);
    if (rc == TACA_OK) rc = taca_cfg_int(config, "out_channels", 3, 1, 64, &image_out, err);
    if (rc == TACA_OK)
        rc = taca_cfg_number(config, "scaling_factor", 0.18215, 1e-6, 1e6, &info->scaling_factor,
                             err);
    if (rc == TACA_OK)
        rc = taca_cfg_number(config, "shift_factor", 0, -1e6, 1e6, &info->shift_factor, err);
    if (rc == TACA_OK) rc = read_flags(s, config, ckpt, err);
    if (rc != TACA_OK) return rc;
    if (s->image != image_out)
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "vae config: in_channels is %lld and out_channels %lld, wanted them equal",
                         (long long)s->image, (long long)image_out);
    info->latent_channels = s->latent;
    info->image_channels = s->image;
    info->width = s->channels[0];
    info->factor = 1 << (s->levels - 1);
    info->has_encoder = taca_ckpt_has(ckpt, "encoder.conv_in.weight");
    v->levels = s->levels;
    v->groups = (int)groups;
    return TACA_OK;
}

enum taca_code vae_open(struct vae **out, struct taca_backend *b, const json_t *config,
                        struct taca_ckpt *ckpt, struct taca_err *err) {
    struct vae_shape shape = {0};
    struct vae *v = calloc(1, sizeof *v);
    if (!v) return taca_fail(err, TACA_ENOMEM, "opening the vae");

    enum taca_code rc = read_config(v, &shape, config, ckpt, err);
    if (rc == TACA_OK) rc = vae_load(v, b, ckpt, &shape, err);
    if (rc == TACA_OK) rc = taca_count_open(&v->planner, taca_backend_precision(b), err);
    if (rc == TACA_OK) {
        *out = v;
        v = NULL;
    }
    vae_close(v);
    return rc;
}

void vae_close(struct vae *v) {
    if (!v) return;
    taca_backend_close(v->planner);
    free(v); /* the weights are the backend's */
}

const struct vae_info *vae_get_info(const struct vae *v) { return &v->info; }

/* ---- passes ---------------------------------------------------------------------------------- */

/* One walk in either direction: decoding when `decode`, then `image` is what it writes. */
struct walk {
    bool decode, raw_z;
    struct taca_map image;
    struct taca_chw latent; /* z or moments */
};

static void walk_on(const struct vae *v, struct vae_pass *p, struct taca_scratch *s,
                    const struct walk *w) {
    struct taca_seg seg = {.n_img = w->latent.h * w->latent.w, .gamma = 1};
    struct taca_layout layout = {0};
    struct taca_err err = {0};
    /* Without memory for a layout of one segment the attention op reports the empty one. */
    if (taca_scratch_layout(s, &layout, &seg, 1, &err) != TACA_OK) layout = (struct taca_layout){0};
    p->b = s->b;
    p->layout = &layout;
    if (w->decode)
        vae_walk_decode(v, p, w->image, w->latent, w->raw_z);
    else
        vae_walk_encode(v, p, w->latent, w->image);
    taca_layout_finish(&layout);
}

static void run(struct vae *v, struct taca_backend *b, struct taca_scratch *s,
                const struct walk *w) {
    struct vae_pass p = {
        .input = taca_backend_precision(b), .groups = v->groups, .place = {VAE_X, VAE_T, VAE_H}};
    struct vae_pass plan = p;
    struct taca_scratch dry = {.b = v->planner};
    walk_on(v, &plan, &dry, w);
    /* A shape that the plan stumbles over is met, and reported, on the caller's backend as well. */
    enum taca_code ignored = taca_sync(v->planner, NULL);
    (void)ignored;

    size_t mark = s->used;
    for (int i = 0; i < VAE_BUFFERS; i++) {
        int64_t floats = (int64_t)((plan.bytes[i] + sizeof(float) - 1) / sizeof(float));
        p.data[i] = taca_scratch_mat(s, TACA_F32, 1, floats).data;
    }
    walk_on(v, &p, s, w);
    s->used = mark;
}

void vae_decode(struct vae *v, struct taca_backend *b, struct taca_scratch *s,
                struct taca_map image, struct taca_chw z, bool raw_z) {
    run(v, b, s, &(struct walk){.decode = true, .raw_z = raw_z, .image = image, .latent = z});
}

void vae_encode(struct vae *v, struct taca_backend *b, struct taca_scratch *s,
                struct taca_chw moments, struct taca_map image) {
    run(v, b, s, &(struct walk){.image = image, .latent = moments});
}

/* ---- posterior ------------------------------------------------------------------------------- */

void vae_sample(const struct vae *v, float *z, const float *moments, const float *noise, size_t n) {
    float shift = (float)v->info.shift_factor, scaling = (float)v->info.scaling_factor;
    for (size_t i = 0; i < n; i++) {
        float std = expf(0.5f * fminf(fmaxf(moments[n + i], -30.0f), 20.0f));
        z[i] = (moments[i] + std * (noise ? noise[i] : 0) - shift) * scaling;
    }
}
