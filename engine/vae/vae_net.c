/* vae_net.c - the forward passes of AutoencoderKL over three reused buffers. Knows nothing of
 * files; called by vae.c, once to plan and once to compute. */
#include "engine/vae/vae_net.h"

#include <math.h>

static const float VAE_EPS = 1e-6f;

static struct taca_map buffer_map(struct vae_pass *p, enum vae_buffer i, enum taca_dtype dtype,
                                  struct taca_map like, int64_t c) {
    int at = p->place[i];
    size_t bytes = (size_t)(like.n * like.h * like.w * c) * taca_dtype_bytes(dtype);
    if (bytes > p->bytes[at]) p->bytes[at] = bytes;
    return (struct taca_map){p->data[at], dtype, like.n, like.h, like.w, c};
}

/* The residual stream moves to what was just written into `from`. */
static void become_stream(struct vae_pass *p, enum vae_buffer from, struct taca_map x) {
    int at = p->place[VAE_X];
    p->place[VAE_X] = p->place[from];
    p->place[from] = at;
    p->x = x;
}

static void group_norm(struct vae_pass *p, struct taca_map y, struct taca_map x,
                       const struct vae_norm *n, enum taca_act act) {
    taca_group_norm(p->b, y, x, &n->gain, &n->bias, p->groups, VAE_EPS, act);
}

/* x = shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))) */
static void resnet(struct vae_pass *p, const struct vae_resnet *r) {
    struct taca_map x = p->x;
    struct taca_map t = buffer_map(p, VAE_T, p->input, x, x.c);
    struct taca_map h = buffer_map(p, VAE_H, p->input, x, r->c_out);
    group_norm(p, t, x, &r->norm1, TACA_ACT_SILU);
    taca_conv2d(p->b, h, t, r->conv1);
    group_norm(p, h, h, &r->norm2, TACA_ACT_SILU);
    if (r->shortcut) {
        t = buffer_map(p, VAE_T, TACA_F32, x, r->c_out);
        taca_linear(p->b, taca_map_rows(t), taca_map_rows(x), r->shortcut, TACA_ACT_NONE);
        become_stream(p, VAE_T, t);
    }
    taca_conv2d_add(p->b, p->x, h, r->conv2);
}

/* x += out(softmax(q k^T / sqrt(c)) v): every pixel is a token, one head as wide as the map. */
static void mid_attention(struct vae_pass *p, const struct vae_coder *c) {
    struct taca_map x = p->x;
    struct taca_map t = buffer_map(p, VAE_T, p->input, x, x.c);
    struct taca_mat qkv = taca_map_rows(buffer_map(p, VAE_H, p->input, x, 3 * x.c));
    group_norm(p, t, x, &c->attn_norm, TACA_ACT_NONE);
    taca_linear(p->b, qkv, taca_map_rows(t), c->attn_qkv, TACA_ACT_NONE);

    struct taca_qkv img = {taca_mat_cols(qkv, 0, x.c), taca_mat_cols(qkv, x.c, x.c),
                           taca_mat_cols(qkv, 2 * x.c, x.c)};
    struct taca_attn attn = {.heads = 1, .scale = 1.0f / sqrtf((float)x.c)};
    taca_attention(p->b, taca_map_rows(t), (struct taca_mat){0}, img, (struct taca_qkv){0},
                   p->layout, &attn);

    struct taca_mat y = taca_map_rows(buffer_map(p, VAE_H, TACA_F32, x, x.c));
    taca_linear(p->b, y, taca_map_rows(t), c->attn_out, TACA_ACT_NONE);
    taca_add(p->b, taca_map_rows(x), taca_map_rows(x), y);
}

static void mid_block(struct vae_pass *p, const struct vae_coder *c) {
    resnet(p, &c->mid[0]);
    if (c->attn_qkv) mid_attention(p, c);
    resnet(p, &c->mid[1]);
}

/* Twice the resolution: nearest neighbour, then a convolution. */
static void upsample(struct vae_pass *p, const struct taca_conv *conv) {
    struct taca_map twice = p->x;
    twice.h *= 2;
    twice.w *= 2;
    struct taca_map t = buffer_map(p, VAE_T, p->input, twice, twice.c);
    struct taca_map h = buffer_map(p, VAE_H, TACA_F32, twice, twice.c);
    taca_upsample2(p->b, t, p->x);
    taca_conv2d(p->b, h, t, conv);
    become_stream(p, VAE_H, h);
}

/* x as a convolution wants it: itself, or a narrower copy in T. */
static struct taca_map as_input(struct vae_pass *p, struct taca_map x) {
    if (x.dtype == p->input) return x;
    struct taca_map t = buffer_map(p, VAE_T, p->input, x, x.c);
    taca_activate(p->b, taca_map_rows(t), taca_map_rows(x), TACA_ACT_NONE);
    return t;
}

/* Half the resolution, rounded down: stride 2 over x padded right and below only. */
static void downsample(struct vae_pass *p, const struct taca_conv *conv) {
    struct taca_map half = p->x;
    half.h /= 2;
    half.w /= 2;
    struct taca_map x = as_input(p, p->x);
    struct taca_map h = buffer_map(p, VAE_H, TACA_F32, half, half.c);
    taca_conv2d(p->b, h, x, conv);
    become_stream(p, VAE_H, h);
}

/* y = conv_out(silu(norm_out(x))) */
static void head(struct vae_pass *p, const struct vae_coder *c, struct taca_map y) {
    struct taca_map t = buffer_map(p, VAE_T, p->input, p->x, p->x.c);
    group_norm(p, t, p->x, &c->norm_out, TACA_ACT_SILU);
    taca_conv2d(p->b, y, t, c->conv_out);
}

/* z / scaling + shift as a feature map of what conv_in reads. */
static struct taca_map latent_map(const struct vae *v, struct vae_pass *p, struct taca_chw z,
                                  bool raw_z) {
    struct taca_map shape = {NULL, TACA_F32, 1, z.h, z.w, z.c};
    if (!raw_z) {
        struct taca_chw x = {buffer_map(p, VAE_H, TACA_F32, shape, z.c).data, z.c, z.h, z.w};
        taca_axpb(p->b, x, z, (float)(1.0 / v->info.scaling_factor), (float)v->info.shift_factor);
        z = x;
    }
    struct taca_map t = buffer_map(p, VAE_T, p->input, shape, z.c);
    taca_chw_to_map(p->b, t, z);
    if (!v->decoder.quant) return t;
    struct taca_map h = buffer_map(p, VAE_H, p->input, shape, z.c);
    taca_linear(p->b, taca_map_rows(h), taca_map_rows(t), v->decoder.quant, TACA_ACT_NONE);
    return h;
}

void vae_walk_decode(const struct vae *v, struct vae_pass *p, struct taca_map image,
                     struct taca_chw z, bool raw_z) {
    const struct vae_coder *c = &v->decoder;
    struct taca_map in = latent_map(v, p, z, raw_z);
    p->x = buffer_map(p, VAE_X, TACA_F32, in, c->mid[0].c_out);
    taca_conv2d(p->b, p->x, in, c->conv_in);
    mid_block(p, c);
    for (int i = 0; i < v->levels; i++) {
        const struct vae_level *level = &c->level[i];
        for (int k = 0; k < level->n_resnets; k++) resnet(p, &level->resnet[k]);
        if (level->resample) upsample(p, level->resample);
    }
    head(p, c, image);
}

void vae_walk_encode(const struct vae *v, struct vae_pass *p, struct taca_chw moments,
                     struct taca_map image) {
    const struct vae_coder *c = &v->encoder;
    struct taca_map in = as_input(p, image);
    p->x = buffer_map(p, VAE_X, TACA_F32, in, c->conv_in->c_out);
    taca_conv2d(p->b, p->x, in, c->conv_in);
    for (int i = 0; i < v->levels; i++) {
        const struct vae_level *level = &c->level[i];
        for (int k = 0; k < level->n_resnets; k++) resnet(p, &level->resnet[k]);
        if (level->resample) downsample(p, level->resample);
    }
    mid_block(p, c);
    struct taca_map m = buffer_map(p, VAE_H, TACA_F32, p->x, moments.c);
    head(p, c, m);
    if (c->quant) {
        struct taca_map t = buffer_map(p, VAE_T, TACA_F32, m, moments.c);
        taca_linear(p->b, taca_map_rows(t), taca_map_rows(m), c->quant, TACA_ACT_NONE);
        m = t;
    }
    taca_map_to_chw(p->b, moments, m);
}
