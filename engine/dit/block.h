/* block.h - one joint block of an MM-DiT: an image and a text stream that meet in one attention.
 *
 * Inside engine/dit only. Knows neither config nor checkpoint, nor how a forward begins and ends.
 */
#ifndef TACA_ENGINE_DIT_BLOCK_H
#define TACA_ENGINE_DIT_BLOCK_H

#include "kernels/backend.h"

/* Of every norm in the family. */
#define DIT_EPS 1e-6f

/* shift, scale and gate are first columns of width-wide ranges in a row of modulations. */
struct dit_attn {
    struct taca_linear *qkv;        /* q, k and v of a row in one matmul */
    struct taca_vec norm_q, norm_k; /* n = 0: the family has no qk norm */
    struct taca_linear *out;        /* NULL: the stream is not needed after this attention */
    int64_t shift, scale, gate;
};
struct dit_mlp {
    struct taca_linear *up, *down;
    int64_t shift, scale, gate;
};
struct dit_block {
    struct dit_attn img, txt;        /* the joint attention */
    struct dit_attn dual;            /* a second one of image rows alone; qkv NULL: none */
    struct dit_mlp img_mlp, txt_mlp; /* txt_mlp is empty where txt.out is NULL */
};

/* What all ops of one forward share. */
struct dit_pass {
    struct taca_backend *b;
    struct taca_scratch *s;
    const struct taca_layout *layout;
    struct taca_mat mod; /* f32 [segments, mod_width] */
    struct taca_attn attn;
};

/* Scratch for what only feeds a matmul. */
static inline struct taca_mat dit_low(const struct dit_pass *p, int64_t rows, int64_t cols) {
    return taca_scratch_mat(p->s, taca_backend_precision(p->b), rows, cols);
}

/* x, c   f32 residual streams of image and text, updated in place; c only where the block has an
 *        output for it */
void dit_block_run(const struct dit_block *w, const struct dit_pass *p, struct taca_mat x,
                   struct taca_mat c);

#endif
