/* sd3.h - what sd3.c (the forward) and sd3_open.c (structure and weights) share. Inside engine/dit
 * and its tests only. */
#ifndef TACA_ENGINE_DIT_SD3_H
#define TACA_ENGINE_DIT_SD3_H

#include "engine/dit/block.h"
#include "engine/dit/dit.h"

enum { DIT_TIME_FEATURES = 256 };

/* Weights belong to the backend, only the struct and its blocks to us. */
struct dit {
    struct dit_info info;
    struct taca_attn attn;
    struct taca_linear *patch;   /* of a latent's patches */
    struct taca_mat position;    /* f32 [max_patches^2, width] */
    struct taca_linear *context; /* of the text sequence */
    struct taca_linear *time_1, *time_2, *pooled_1, *pooled_2;
    struct taca_linear *mod; /* every adaLN projection of the model, stacked: [mod_width, width] */
    int64_t final_shift, final_scale; /* columns, as in struct dit_attn */
    struct taca_linear *proj;
    struct dit_block *blocks; /* [info.depth] */
};

/* temb[i] = MLP(features of t[i]) + MLP(pooled), before any activation.
 *   temb f32 [n, width]; t, pooled as in dit_modulation */
void dit_sd3_embed(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
                   struct taca_mat temb, const float *t, struct taca_mat pooled);

/* The position table of a checkpoint that has none: sines and cosines of column, then of row.
 *   table [side * side, d], d a multiple of 4; base = patches per side of the training images */
void dit_sd3_position(float *table, int64_t side, int64_t base, int64_t d);

#endif
