/* block.c - see block.h. Residual streams are f32; what only feeds a matmul has the backend's
 * precision. Scratch is a stack: each step puts `used` back to where its result ends. */
#include "engine/dit/block.h"

#include "engine/dit/adapted.h"

/* q, k and v beside each other in rows of one stream: the norm of each head, then its place. */
static struct taca_qkv heads_of(const struct dit_pass *p, const struct dit_attn *w,
                                struct taca_mat qkv, enum taca_stream stream) {
    const int64_t d = qkv.cols / 3;
    struct taca_qkv r = {taca_mat_cols(qkv, 0, d), taca_mat_cols(qkv, d, d),
                         taca_mat_cols(qkv, 2 * d, d)};
    dit_qk_norm_rope(p, r.q, r.k, w, stream);
    return r;
}

/* q, k, v of a stream: one matmul over its modulated rows. */
static struct taca_qkv project(const struct dit_pass *p, const struct dit_attn *w,
                               struct taca_mat x, enum taca_stream stream) {
    const int64_t d = x.cols;
    struct taca_mat qkv = dit_low(p, x.rows, 3 * d);
    const size_t mark = p->s->used;
    struct taca_mat h = dit_low(p, x.rows, d);
    taca_norm_modulate(p->b, h, x, p->mod, w->shift, w->scale, p->layout, stream, DIT_EPS);
    dit_linear(p, qkv, h, w->qkv, TACA_ACT_NONE, (enum dit_rows)stream);
    p->s->used = mark;
    return heads_of(p, w, qkv, stream);
}

/* The second attention: image rows among themselves. TACA does not reach it. */
static struct taca_mat dual_attention(const struct dit_pass *p, const struct dit_attn *w,
                                      struct taca_mat x) {
    const struct taca_mat none = {0};
    const struct taca_qkv no_text = {0};
    struct taca_mat y = taca_scratch_mat(p->s, TACA_F32, x.rows, x.cols);
    const size_t mark = p->s->used;
    struct taca_mat o = dit_low(p, x.rows, x.cols);
    struct taca_qkv img = project(p, w, x, TACA_IMG);
    taca_attention(p->b, o, none, img, no_text, p->layout, &p->attn);
    dit_linear(p, y, o, w->out, TACA_ACT_NONE, DIT_IMG);
    p->s->used = mark;
    return y;
}

/* x += gate o Linear(o) */
static void add_attention(const struct dit_pass *p, const struct dit_attn *w, struct taca_mat x,
                          struct taca_mat o, enum taca_stream stream) {
    const size_t mark = p->s->used;
    struct taca_mat y = taca_scratch_mat(p->s, TACA_F32, x.rows, x.cols);
    dit_linear(p, y, o, w->out, TACA_ACT_NONE, (enum dit_rows)stream);
    taca_gate_add(p->b, x, y, p->mod, w->gate, p->layout, stream);
    p->s->used = mark;
}

/* x += gate o Linear(GELU(Linear(modulate(x)))) */
static void add_mlp(const struct dit_pass *p, const struct dit_mlp *w, struct taca_mat x,
                    enum taca_stream stream) {
    const size_t mark = p->s->used;
    struct taca_mat y = taca_scratch_mat(p->s, TACA_F32, x.rows, x.cols);
    struct taca_mat h = dit_low(p, x.rows, x.cols);
    struct taca_mat wide = dit_low(p, x.rows, w->up->out);
    taca_norm_modulate(p->b, h, x, p->mod, w->shift, w->scale, p->layout, stream, DIT_EPS);
    dit_linear(p, wide, h, w->up, TACA_ACT_GELU_TANH, (enum dit_rows)stream);
    dit_linear(p, y, wide, w->down, TACA_ACT_NONE, (enum dit_rows)stream);
    taca_gate_add(p->b, x, y, p->mod, w->gate, p->layout, stream);
    p->s->used = mark;
}

void dit_block_run(const struct dit_block *w, const struct dit_pass *p, struct taca_mat x,
                   struct taca_mat c) {
    const size_t start = p->s->used;
    struct taca_mat y_dual = {0}, o_txt = {0};
    /* from x as it enters the block, before the joint attention changes it */
    if (w->dual.qkv) y_dual = dual_attention(p, &w->dual, x);

    struct taca_mat o_img = dit_low(p, x.rows, x.cols);
    if (w->txt.out) o_txt = dit_low(p, c.rows, c.cols);
    const size_t mark = p->s->used;
    struct taca_qkv img = project(p, &w->img, x, TACA_IMG);
    struct taca_qkv txt = project(p, &w->txt, c, TACA_TXT);
    taca_attention(p->b, o_img, o_txt, img, txt, p->layout, &p->attn);
    p->s->used = mark;

    add_attention(p, &w->img, x, o_img, TACA_IMG);
    if (w->dual.qkv) taca_gate_add(p->b, x, y_dual, p->mod, w->dual.gate, p->layout, TACA_IMG);
    add_mlp(p, &w->img_mlp, x, TACA_IMG);
    if (w->txt.out) {
        add_attention(p, &w->txt, c, o_txt, TACA_TXT);
        add_mlp(p, &w->txt_mlp, c, TACA_TXT);
    }
    p->s->used = start;
}

void dit_single_run(const struct dit_single *w, const struct dit_pass *p, struct taca_mat h,
                    int64_t n_img) {
    const struct dit_attn *a = &w->attn;
    const int64_t d = h.cols, n_txt = h.rows - n_img, wide = w->up->out;
    const size_t start = p->s->used;
    struct taca_mat y = taca_scratch_mat(p->s, TACA_F32, h.rows, d);
    /* attention and MLP write side by side what `down` reads as one row */
    struct taca_mat both = dit_low(p, h.rows, d + wide), o = taca_mat_cols(both, 0, d);
    const size_t mark = p->s->used;
    struct taca_mat qkv = dit_low(p, h.rows, 3 * d), in = dit_low(p, h.rows, d);
    const struct taca_mat x = taca_mat_rows(h, 0, n_img), c = taca_mat_rows(h, n_img, n_txt);

    taca_norm_modulate(p->b, taca_mat_rows(in, 0, n_img), x, p->mod, a->shift, a->scale, p->layout,
                       TACA_IMG, DIT_EPS);
    taca_norm_modulate(p->b, taca_mat_rows(in, n_img, n_txt), c, p->mod, a->shift, a->scale,
                       p->layout, TACA_TXT, DIT_EPS);
    dit_linear(p, qkv, in, a->qkv, TACA_ACT_NONE, DIT_BOTH);
    dit_linear(p, taca_mat_cols(both, d, wide), in, w->up, TACA_ACT_GELU_TANH, DIT_BOTH);
    struct taca_qkv img = heads_of(p, a, taca_mat_rows(qkv, 0, n_img), TACA_IMG);
    struct taca_qkv txt = heads_of(p, a, taca_mat_rows(qkv, n_img, n_txt), TACA_TXT);
    taca_attention(p->b, taca_mat_rows(o, 0, n_img), taca_mat_rows(o, n_img, n_txt), img, txt,
                   p->layout, &p->attn);
    p->s->used = mark;

    dit_linear(p, y, both, w->down, TACA_ACT_NONE, DIT_BOTH);
    taca_gate_add(p->b, x, taca_mat_rows(y, 0, n_img), p->mod, a->gate, p->layout, TACA_IMG);
    taca_gate_add(p->b, c, taca_mat_rows(y, n_img, n_txt), p->mod, a->gate, p->layout, TACA_TXT);
    p->s->used = start;
}
