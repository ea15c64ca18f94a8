/* vae_net.h - the pieces of an AutoencoderKL and one pass over them. Private to engine/vae.
 *
 * vae.c reads the config, vae_load.c fills these structs from a checkpoint, vae_net.c runs them. */
#ifndef TACA_ENGINE_VAE_VAE_NET_H
#define TACA_ENGINE_VAE_VAE_NET_H

#include "engine/vae/vae.h"

enum { VAE_MAX_LEVELS = 8, VAE_MAX_RESNETS = 16 };

struct vae_norm {
    struct taca_vec gain, bias;
};

struct vae_resnet {
    int64_t c_out;
    struct vae_norm norm1, norm2;
    struct taca_conv *conv1, *conv2;
    struct taca_linear *shortcut; /* NULL when it keeps the channels */
};

/* Feature maps at one resolution; `resample` leads to the next one, NULL at the last. */
struct vae_level {
    struct vae_resnet resnet[VAE_MAX_RESNETS];
    int n_resnets;
    struct taca_conv *resample;
};

/* The decoder or the encoder: both have the same parts, in another order. */
struct vae_coder {
    struct taca_conv *conv_in, *conv_out;
    struct vae_level level[VAE_MAX_LEVELS];
    struct vae_resnet mid[2];
    struct vae_norm attn_norm;
    struct taca_linear *attn_qkv, *attn_out; /* NULL without mid attention */
    struct vae_norm norm_out;
    struct taca_linear *quant; /* post_quant_conv or quant_conv, NULL without */
};

struct vae {
    struct vae_info info;
    int levels, groups;
    struct vae_coder decoder, encoder;
    struct taca_backend *planner; /* counts: sizes the buffers of a pass before it runs */
};

/* What the config says and the checkpoint must match. */
struct vae_shape {
    int64_t channels[VAE_MAX_LEVELS]; /* full resolution first */
    int levels;
    int64_t layers, latent, image; /* resnets per level, channels */
    bool attention, quant, post_quant;
};
enum taca_code vae_load(struct vae *v, struct taca_backend *b, struct taca_ckpt *ckpt,
                        const struct vae_shape *s, struct taca_err *err) TACA_MUST_USE;

/* A pass keeps three buffers and no more: X holds the residual stream (f32), T what a convolution
 * reads, H what it writes. A change of resolution writes into H, a change of channels into T, which
 * then becomes X. The first walk over the net runs on the planner and only learns how large each of
 * them gets. */
enum vae_buffer { VAE_X, VAE_T, VAE_H, VAE_BUFFERS };
struct vae_pass {
    struct taca_backend *b;
    enum taca_dtype input; /* of what convolutions and linears read */
    int groups;
    struct taca_layout *layout; /* of the mid attention */
    int place[VAE_BUFFERS];     /* which block of memory plays that part now */
    void *data[VAE_BUFFERS];    /* by place; NULL while planning */
    size_t bytes[VAE_BUFFERS];  /* by place: the most that was asked of it */
    struct taca_map x;          /* the residual stream */
};

void vae_walk_decode(const struct vae *v, struct vae_pass *p, struct taca_map image,
                     struct taca_chw z, bool raw_z);
void vae_walk_encode(const struct vae *v, struct vae_pass *p, struct taca_chw moments,
                     struct taca_map image);

#endif
