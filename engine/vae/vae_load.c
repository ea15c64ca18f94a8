/* vae_load.c - the weights of an AutoencoderKL by their diffusers names. Knows the structure from
 * struct vae_shape, not from the config; called by vae.c. */
#include <stdarg.h>
#include <stdio.h>

#include "engine/vae/vae_net.h"

/* Loading stops at the first failure and passes over the rest. */
struct loader {
    struct taca_backend *b;
    struct taca_ckpt *ckpt;
    enum taca_code rc;
    struct taca_err *err;
};

enum { NAME_BYTES = 160 };

__attribute__((format(printf, 2, 3))) static const char *name_in(char *buf, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(buf, NAME_BYTES, fmt, ap);
    va_end(ap);
    return buf;
}

/* ---- parts ----------------------------------------------------------------------------------- */

static struct taca_tensor get(struct loader *l, const char *prefix, const char *leaf, int rank,
                              const int64_t *dim) {
    struct taca_tensor t = {0};
    char name[NAME_BYTES];
    if (l->rc == TACA_OK) {
        name_in(name, "%s.%s", prefix, leaf);
        l->rc = taca_ckpt_get(l->ckpt, &t, name, rank, dim, l->err);
    }
    return t;
}

static void load_norm(struct loader *l, struct vae_norm *out, const char *prefix, int64_t c) {
    struct taca_tensor gain = get(l, prefix, "weight", 1, &c);
    struct taca_tensor bias = get(l, prefix, "bias", 1, &c);
    if (l->rc == TACA_OK) l->rc = taca_vec_open(l->b, &out->gain, &gain, l->err);
    if (l->rc == TACA_OK) l->rc = taca_vec_open(l->b, &out->bias, &bias, l->err);
}

/* 3x3: stride 1 keeps the size, stride 2 halves it and pads right and below only. */
static struct taca_conv *load_conv(struct loader *l, const char *prefix, int64_t c_in,
                                   int64_t c_out, int stride) {
    int before = stride == 1;
    struct taca_conv shape = {.c_in = c_in,
                              .c_out = c_out,
                              .kh = 3,
                              .kw = 3,
                              .stride = stride,
                              .pad_top = before,
                              .pad_left = before,
                              .pad_bottom = 1,
                              .pad_right = 1};
    struct taca_conv *conv = NULL;
    struct taca_tensor weight = get(l, prefix, "weight", 4, (int64_t[]){c_out, c_in, 3, 3});
    struct taca_tensor bias = get(l, prefix, "bias", 1, &c_out);
    if (l->rc == TACA_OK) l->rc = taca_conv_open(l->b, &conv, &weight, &bias, &shape, l->err);
    taca_ckpt_drop(l->ckpt);
    return conv;
}

/* One linear over the channels out of n stored ones, each [c_out, c_in] or [c_out, c_in, 1, 1]. */
static struct taca_linear *load_linear(struct loader *l, const char *const *prefix, int n,
                                       int64_t c_in, int64_t c_out) {
    enum { MAX_PARTS = 3 };
    struct taca_tensor weight[MAX_PARTS], bias[MAX_PARTS];
    struct taca_linear *linear = NULL;
    char name[NAME_BYTES];
    for (int i = 0; i < n; i++) {
        const struct taca_tensor *found =
            taca_ckpt_peek(l->ckpt, name_in(name, "%s.weight", prefix[i]));
        int rank = found && found->rank == 4 ? 4 : 2;
        weight[i] = get(l, prefix[i], "weight", rank, (int64_t[]){c_out, c_in, 1, 1});
        bias[i] = get(l, prefix[i], "bias", 1, &c_out);
    }
    if (l->rc == TACA_OK) l->rc = taca_linear_open(l->b, &linear, weight, bias, n, l->err);
    taca_ckpt_drop(l->ckpt);
    return linear;
}

static void load_resnet(struct loader *l, struct vae_resnet *r, const char *prefix, int64_t c_in,
                        int64_t c_out) {
    char name[NAME_BYTES];
    r->c_out = c_out;
    load_norm(l, &r->norm1, name_in(name, "%s.norm1", prefix), c_in);
    r->conv1 = load_conv(l, name_in(name, "%s.conv1", prefix), c_in, c_out, 1);
    load_norm(l, &r->norm2, name_in(name, "%s.norm2", prefix), c_out);
    r->conv2 = load_conv(l, name_in(name, "%s.conv2", prefix), c_out, c_out, 1);
    if (c_in == c_out) return;
    const char *shortcut = name_in(name, "%s.conv_shortcut", prefix);
    r->shortcut = load_linear(l, &shortcut, 1, c_in, c_out);
}

/* Checkpoints of old call the projections query, key, value and proj_attn. */
static void load_attention(struct loader *l, struct vae_coder *c, const char *prefix, int64_t ch) {
    static const char *const leaf[2][4] = {{"to_q", "to_k", "to_v", "to_out.0"},
                                           {"query", "key", "value", "proj_attn"}};
    char norm[NAME_BYTES], name[4][NAME_BYTES];
    bool old = taca_ckpt_has(l->ckpt, "%s.query.weight", prefix);
    for (int i = 0; i < 4; i++) name_in(name[i], "%s.%s", prefix, leaf[old][i]);
    load_norm(l, &c->attn_norm, name_in(norm, "%s.group_norm", prefix), ch);
    c->attn_qkv = load_linear(l, (const char *[]){name[0], name[1], name[2]}, 3, ch, ch);
    c->attn_out = load_linear(l, (const char *[]){name[3]}, 1, ch, ch);
}

/* ---- coders ---------------------------------------------------------------------------------- */

/* Alike in both: side is "decoder" or "encoder". */
static void load_mid(struct loader *l, struct vae_coder *c, const char *side,
                     const struct vae_shape *s) {
    int64_t top = s->channels[s->levels - 1];
    char name[NAME_BYTES];
    for (int i = 0; i < 2; i++)
        load_resnet(l, &c->mid[i], name_in(name, "%s.mid_block.resnets.%d", side, i), top, top);
    if (s->attention) load_attention(l, c, name_in(name, "%s.mid_block.attentions.0", side), top);
}

static void load_decoder(struct loader *l, struct vae_coder *c, const struct vae_shape *s) {
    int64_t ch = s->channels[s->levels - 1];
    char name[NAME_BYTES];
    c->conv_in = load_conv(l, "decoder.conv_in", s->latent, ch, 1);
    for (int i = 0; i < s->levels; i++) {
        struct vae_level *level = &c->level[i];
        int64_t c_out = s->channels[s->levels - 1 - i];
        level->n_resnets = (int)s->layers + 1;
        for (int k = 0; k < level->n_resnets; k++) {
            name_in(name, "decoder.up_blocks.%d.resnets.%d", i, k);
            load_resnet(l, &level->resnet[k], name, ch, c_out);
            ch = c_out;
        }
        if (i == s->levels - 1) break;
        name_in(name, "decoder.up_blocks.%d.upsamplers.0.conv", i);
        level->resample = load_conv(l, name, ch, ch, 1);
    }
    load_mid(l, c, "decoder", s);
    load_norm(l, &c->norm_out, "decoder.conv_norm_out", ch);
    c->conv_out = load_conv(l, "decoder.conv_out", ch, s->image, 1);
}

static void load_encoder(struct loader *l, struct vae_coder *c, const struct vae_shape *s) {
    int64_t ch = s->channels[0];
    char name[NAME_BYTES];
    c->conv_in = load_conv(l, "encoder.conv_in", s->image, ch, 1);
    for (int i = 0; i < s->levels; i++) {
        struct vae_level *level = &c->level[i];
        level->n_resnets = (int)s->layers;
        for (int k = 0; k < level->n_resnets; k++) {
            name_in(name, "encoder.down_blocks.%d.resnets.%d", i, k);
            load_resnet(l, &level->resnet[k], name, ch, s->channels[i]);
            ch = s->channels[i];
        }
        if (i == s->levels - 1) break;
        name_in(name, "encoder.down_blocks.%d.downsamplers.0.conv", i);
        level->resample = load_conv(l, name, ch, ch, 2);
    }
    load_mid(l, c, "encoder", s);
    load_norm(l, &c->norm_out, "encoder.conv_norm_out", ch);
    c->conv_out = load_conv(l, "encoder.conv_out", ch, 2 * s->latent, 1);
}

/* A 1x1 convolution over the latent's channels beside a coder, when the model has one. */
static struct taca_linear *load_quant(struct loader *l, const char *name, bool wanted, int64_t c) {
    return wanted ? load_linear(l, &name, 1, c, c) : NULL;
}

enum taca_code vae_load(struct vae *v, struct taca_backend *b, struct taca_ckpt *ckpt,
                        const struct vae_shape *s, struct taca_err *err) {
    struct loader l = {b, ckpt, TACA_OK, err};
    load_decoder(&l, &v->decoder, s);
    v->decoder.quant = load_quant(&l, "post_quant_conv", s->post_quant, s->latent);
    if (v->info.has_encoder) {
        load_encoder(&l, &v->encoder, s);
        v->encoder.quant = load_quant(&l, "quant_conv", s->quant, 2 * s->latent);
    }
    return l.rc;
}
