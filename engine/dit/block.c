/* block.c - see block.h. Residual streams are f32; what only feeds a matmul has the backend's
 * precision. Scratch is a stack: each step puts `used` back to where its result ends. */
#include "engine/dit/block.h"

#include "engine/dit/adapted.h"

/* ---- a residual stream ------------------------------------------------------------------------
 */

void dit_settle(const struct dit_pass *p, struct dit_stream *s) {
    if (s->pending.cols) taca_gate_add(p->b, s->x, s->pending, p->mod, s->gate, p->layout, s->id);
    s->pending = (struct taca_mat){0};
}

/* x += gate o y, as soon as somebody reads x. */
static void add(const struct dit_pass *p, struct dit_stream *s, struct taca_mat y, int64_t gate) {
    dit_settle(p, s);
    s->pending = y;
    s->gate = gate;
}

void dit_modulate(const struct dit_pass *p, struct taca_mat h, struct dit_stream *s, int64_t shift,
                  int64_t scale) {
    const struct taca_adaln m = {p->mod, s->gate, shift, scale, p->layout, s->id, DIT_EPS};
    if (s->pending.cols)
        taca_gate_norm(p->b, h, s->x, s->pending, &m);
    else
        taca_norm_modulate(p->b, h, s->x, p->mod, shift, scale, p->layout, s->id, DIT_EPS);
    s->pending = (struct taca_mat){0};
}

/* ---- sublayers --------------------------------------------------------------------------------
 */

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
                               struct dit_stream *s) {
    const int64_t rows = s->x.rows, d = s->x.cols;
    struct taca_mat qkv = dit_low(p, rows, 3 * d);
    const size_t mark = p->s->used;
    struct taca_mat h = dit_input(p, rows, w->qkv, w->qkv);
    dit_modulate(p, h, s, w->shift, w->scale);
    dit_linear(p, qkv, h, w->qkv, TACA_ACT_NONE, (enum dit_rows)s->id);
    p->s->used = mark;
    return heads_of(p, w, qkv, s->id);
}

/* The second attention: image rows among themselves. TACA does not reach it. */
static struct taca_mat dual_attention(const struct dit_pass *p, const struct dit_attn *w,
                                      struct dit_stream *s) {
    const struct taca_mat none = {0};
    const struct taca_qkv no_text = {0};
    struct taca_mat y = taca_scratch_mat(p->s, TACA_F32, s->x.rows, s->x.cols);
    const size_t mark = p->s->used;
    struct taca_mat o = dit_low(p, s->x.rows, s->x.cols);
    struct taca_qkv img = project(p, w, s);
    taca_attention(p->b, o, none, img, no_text, p->layout, &p->attn);
    dit_linear(p, y, o, w->out, TACA_ACT_NONE, DIT_IMG);
    p->s->used = mark;
    return y;
}

/* x += gate o Linear(o) */
static void add_attention(const struct dit_pass *p, const struct dit_attn *w, struct dit_stream *s,
                          struct taca_mat o) {
    dit_linear(p, s->y, o, w->out, TACA_ACT_NONE, (enum dit_rows)s->id);
    add(p, s, s->y, w->gate);
}

/* x += gate o Linear(GELU(Linear(modulate(x)))) */
static void add_mlp(const struct dit_pass *p, const struct dit_mlp *w, struct dit_stream *s) {
    const size_t mark = p->s->used;
    struct taca_mat h = dit_input(p, s->x.rows, w->up, w->up);
    struct taca_mat wide = dit_low(p, s->x.rows, w->up->out);
    dit_modulate(p, h, s, w->shift, w->scale);
    dit_linear(p, wide, h, w->up, TACA_ACT_GELU_TANH, (enum dit_rows)s->id);
    dit_linear(p, s->y, wide, w->down, TACA_ACT_NONE, (enum dit_rows)s->id);
    add(p, s, s->y, w->gate);
    p->s->used = mark;
}

/* ---- blocks -----------------------------------------------------------------------------------
 */

void dit_block_run(const struct dit_block *w, const struct dit_pass *p, struct dit_streams *h) {
    const size_t start = p->s->used;
    struct dit_stream *x = &h->img, *c = &h->txt;
    struct taca_mat y_dual = {0}, o_txt = {0};
    /* from x as it enters the block, before the joint attention changes it */
    if (w->dual.qkv) y_dual = dual_attention(p, &w->dual, x);

    struct taca_mat o_img = dit_low(p, x->x.rows, x->x.cols);
    if (w->txt.out) o_txt = dit_low(p, c->x.rows, c->x.cols);
    const size_t mark = p->s->used;
    struct taca_qkv img = project(p, &w->img, x);
    struct taca_qkv txt = project(p, &w->txt, c);
    taca_attention(p->b, o_img, o_txt, img, txt, p->layout, &p->attn);
    p->s->used = mark;

    add_attention(p, &w->img, x, o_img);
    if (w->dual.qkv) add(p, x, y_dual, w->dual.gate);
    add_mlp(p, &w->img_mlp, x);
    if (w->txt.out) {
        add_attention(p, &w->txt, c, o_txt);
        add_mlp(p, &w->txt_mlp, c);
    }
    p->s->used = start;
}

void dit_single_run(const struct dit_single *w, const struct dit_pass *p, struct dit_streams *h) {
    const struct dit_attn *a = &w->attn;
    const int64_t rows = h->y.rows, d = h->y.cols, wide = w->up->out;
    const int64_t n_img = h->img.x.rows, n_txt = h->txt.x.rows;
    const size_t start = p->s->used;
    /* attention and MLP write side by side what `down` reads as one row */
    struct taca_mat both = dit_low(p, rows, d + wide), o = taca_mat_cols(both, 0, d);
    const size_t mark = p->s->used;
    struct taca_mat qkv = dit_low(p, rows, 3 * d), in = dit_input(p, rows, a->qkv, w->up);

    dit_modulate(p, taca_mat_rows(in, 0, n_img), &h->img, a->shift, a->scale);
    dit_modulate(p, taca_mat_rows(in, n_img, n_txt), &h->txt, a->shift, a->scale);
    dit_linear(p, qkv, in, a->qkv, TACA_ACT_NONE, DIT_BOTH);
    dit_linear(p, taca_mat_cols(both, d, wide), in, w->up, TACA_ACT_GELU_TANH, DIT_BOTH);
    struct taca_qkv img = heads_of(p, a, taca_mat_rows(qkv, 0, n_img), TACA_IMG);
    struct taca_qkv txt = heads_of(p, a, taca_mat_rows(qkv, n_img, n_txt), TACA_TXT);
    taca_attention(p->b, taca_mat_rows(o, 0, n_img), taca_mat_rows(o, n_img, n_txt), img, txt,
                   p->layout, &p->attn);
    p->s->used = mark;

    dit_linear(p, h->y, both, w->down, TACA_ACT_NONE, DIT_BOTH);
    add(p, &h->img, h->img.y, a->gate);
    add(p, &h->txt, h->txt.y, a->gate);
    p->s->used = start;
}
