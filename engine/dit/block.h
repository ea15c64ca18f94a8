/* block.h - the blocks of an MM-DiT: joint ones, where an image and a text stream with weights of
 * their own meet in one attention, and single ones, where both run under the same weights.
 *
 * Inside engine/dit only. Knows neither config nor checkpoint, nor how a forward begins and ends.
 */
#ifndef TACA_ENGINE_DIT_BLOCK_H
#define TACA_ENGINE_DIT_BLOCK_H

#include "engine/dit/dit.h"

/* Of every norm in the family. */
#define DIT_EPS 1e-6f

/* The adaLN projections of a block, one matmul: columns [at, at + w->out) of a row of modulations.
 * A matrix per block and not one for the model: FLUX has 3.2 G such parameters, and preparing them
 * together would need as much memory again. */
struct dit_mod {
    struct taca_linear *w;
    int64_t at;
};

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
    struct dit_mod mod;
    struct dit_attn img, txt;        /* the joint attention */
    struct dit_attn dual;            /* a second one of image rows alone; qkv NULL: none */
    struct dit_mlp img_mlp, txt_mlp; /* txt_mlp is empty where txt.out is NULL */
};
/* Attention and MLP beside each other, from the same modulated rows to the same `down`. */
struct dit_single {
    struct dit_mod mod;
    struct dit_attn attn; /* out NULL */
    struct taca_linear *up;
    struct taca_linear *down; /* of [attention, MLP] */
};

/* What all ops of one forward share. */
struct dit_pass {
    struct taca_backend *b;
    struct taca_scratch *s;
    const struct taca_layout *layout;
    struct taca_mat mod;       /* f32 [segments, mod_width] */
    struct taca_mat places[2]; /* by enum taca_stream, f32 [rows, head_dim]; no columns: none */
    struct taca_attn attn;
    struct dit_loras loras;
};

/* A residual stream on its way: its rows, and what a sublayer gave that is still to be added to
 * them under its gate. The norm before the next sublayer does so in the same pass. */
struct dit_stream {
    struct taca_mat x;       /* f32 */
    struct taca_mat y;       /* f32, room for what a sublayer gives */
    struct taca_mat pending; /* x + gate o pending is meant; no columns: x */
    int64_t gate;            /* its first column in a row of modulations */
    enum taca_stream id;
};
/* Both, and the room of both: the image stream's rows, then the text stream's. */
struct dit_streams {
    struct dit_stream img, txt;
    struct taca_mat y;
};
/* x is whole afterwards. */
void dit_settle(const struct dit_pass *p, struct dit_stream *s);
/* h = LN(x) o (1 + scale) + shift, and x is whole afterwards. */
void dit_modulate(const struct dit_pass *p, struct taca_mat h, struct dit_stream *s, int64_t shift,
                  int64_t scale);

/* Scratch for what only feeds a matmul. */
static inline struct taca_mat dit_low(const struct dit_pass *p, int64_t rows, int64_t cols) {
    return taca_scratch_mat(p->s, taca_backend_precision(p->b), rows, cols);
}

/* Each leaves what its last sublayers gave pending; the text stream only changes where a block has
 * an output for it. */
void dit_block_run(const struct dit_block *w, const struct dit_pass *p, struct dit_streams *h);
void dit_single_run(const struct dit_single *w, const struct dit_pass *p, struct dit_streams *h);

#endif
