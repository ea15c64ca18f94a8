/* model.h - what the files of engine/dit share: a transformer as a structure of weights, filled by
 * one opener per family and run by one forward. Inside engine/dit and its tests only. */
#ifndef TACA_ENGINE_DIT_MODEL_H
#define TACA_ENGINE_DIT_MODEL_H

#include "engine/dit/block.h"
#include "engine/dit/dit.h"

enum { DIT_TIME_FEATURES = 256, DIT_AXES = 3 };

/* Linear(SiLU(Linear(x))). NULL where the model has none. */
struct dit_embedder {
    struct taca_linear *in, *out;
};

/* Weights belong to the backend, only the struct and its blocks to us. */
struct dit {
    struct dit_info info;
    struct taca_attn attn;
    struct taca_linear *patch;   /* of a latent's patches */
    struct taca_mat position;    /* f32 [max_patches^2, width]; no rows: places are rotary */
    int64_t axis[DIT_AXES];      /* rotary columns of a head for each coordinate of a place */
    struct taca_linear *context; /* of the text sequence */
    struct dit_embedder time, guidance, pooled;
    struct dit_block *blocks;   /* [info.depth] */
    struct dit_single *singles; /* [info.singles] */
    struct dit_mod final_mod;
    int64_t final_shift, final_scale; /* columns, as in struct dit_attn */
    struct taca_linear *proj;
    enum taca_patch out_order; /* of its columns */
};

/* Zeroed, with room for the blocks. */
enum taca_code dit_alloc(struct dit **out, int64_t depth, int64_t singles,
                         struct taca_err *err) TACA_MUST_USE;
enum taca_code dit_sd3_open(struct dit **out, struct taca_backend *b, const json_t *config,
                            struct taca_ckpt *ckpt, struct taca_err *err) TACA_MUST_USE;
enum taca_code dit_flux_open(struct dit **out, struct taca_backend *b, const json_t *config,
                             struct taca_ckpt *ckpt, struct taca_err *err) TACA_MUST_USE;

/* temb[i] = what adaLN sees of row i, before any activation.   f32 [n, width] */
void dit_embed(struct dit *d, struct taca_backend *b, struct taca_scratch *s, struct taca_mat temb,
               const struct dit_condition *c);

/* mod from temb, as dit_modulation ends. */
void dit_modulation_of(struct dit *d, struct taca_backend *b, struct taca_scratch *s,
                       struct taca_mat mod, struct taca_mat temb);

/* The position table of an SD3 checkpoint that has none: sines and cosines of column, then of row.
 *   table [side * side, d], d a multiple of 4; base = patches per side of the training images */
void dit_sd3_position(float *table, int64_t side, int64_t base, int64_t d);

#endif
