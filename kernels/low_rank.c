/* low_rank.c - low-rank changes of linear maps, applied beside them: two thin matmuls and a sum, on
 * the rows of those segments that have a gate. Made of other ops, so every backend has it. */
#include <inttypes.h>
#include <math.h>

#include "kernels/backend_ops.h"

/* Rows at a time: bounds the scratch, and on a CPU the sum is still in the cache. */
enum { ROWS = 512 };

enum taca_code taca_low_rank_open(struct taca_backend *b, struct taca_low_rank *out,
                                  const struct taca_low_rank_parts *p, struct taca_err *err) {
    struct taca_low_rank w = {.scale = p->scale, .has_bias = p->bias != NULL};
    enum taca_code rc = taca_linear_open(b, &w.down, &p->down, NULL, 1, err);
    if (!rc) rc = taca_linear_open(b, &w.up, &p->up, p->bias, 1, err);
    if (!rc && w.up->in != w.down->out)
        rc = taca_fail(err, TACA_EFORMAT, "%s: rank %" PRId64 ", %s has rank %" PRId64,
                       p->down.name, w.down->out, p->up.name, w.up->in);
    if (rc) {
        taca_low_rank_close(b, &w);
        return rc;
    }
    *out = w;
    return TACA_OK;
}

void taca_low_rank_close(struct taca_backend *b, struct taca_low_rank *w) {
    taca_linear_close(b, w->down);
    taca_linear_close(b, w->up);
    *w = (struct taca_low_rank){0};
}

/* m *= a; m is dense f32 */
static void multiply(struct taca_backend *b, struct taca_mat m, float a) {
    const struct taca_chw all = {m.data, 1, m.rows, m.cols};
    if (a != 1) taca_axpb(b, all, all, a, 0);
}

/* y += gate * scale * (B A x + bias) on all rows given */
static void add_rows(struct taca_backend *b, struct taca_scratch *s, struct taca_mat y,
                     struct taca_mat x, const struct taca_low_rank *w, float gate) {
    const size_t mark = s->used;
    struct taca_mat narrow = taca_scratch_mat(s, TACA_F32, x.rows, w->down->out);
    struct taca_mat wide = taca_scratch_mat(s, TACA_F32, x.rows, w->up->out);
    const float factor = gate * w->scale;
    taca_linear(b, narrow, x, w->down, TACA_ACT_NONE);
    if (!w->has_bias) multiply(b, narrow, factor);
    taca_linear(b, wide, narrow, w->up, TACA_ACT_NONE);
    if (w->has_bias) multiply(b, wide, factor);
    taca_add(b, y, y, wide);
    s->used = mark;
}

static void add_run(struct taca_backend *b, struct taca_scratch *s, struct taca_mat y,
                    struct taca_mat x, const struct taca_low_rank *w, float gate) {
    for (int64_t r = 0; r < x.rows; r += ROWS) {
        const int64_t n = x.rows - r < ROWS ? x.rows - r : ROWS;
        add_rows(b, s, taca_mat_rows(y, r, n), taca_mat_rows(x, r, n), w, gate);
    }
}

static bool fits(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                 const struct taca_low_rank *w, const struct taca_gates *g) {
    const struct taca_layout *l = g->layout;
    const int64_t rows = !l ? x.rows : g->stream == TACA_IMG ? l->img_rows : l->txt_rows;
    if (x.rows == rows && y.rows == rows && x.cols == w->down->in && y.cols == w->up->out)
        return true;
    taca_backend_fail(b, TACA_EINTERNAL,
                      "low_rank_add: y [%" PRId64 ", %" PRId64 "], x [%" PRId64 ", %" PRId64
                      "], weight [%" PRId64 ", %" PRId64 "], %" PRId64 " rows in the stream",
                      y.rows, y.cols, x.rows, x.cols, w->up->out, w->down->in, rows);
    return false;
}

void taca_low_rank_add(struct taca_backend *b, struct taca_scratch *s, struct taca_mat y,
                       struct taca_mat x, const struct taca_low_rank *w,
                       const struct taca_gates *g) {
    if (!fits(b, y, x, w, g)) return;
    if (!g->layout) {
        if (g->gate[0] != 0) add_run(b, s, y, x, w, g->gate[0]);
        return;
    }
    const struct taca_seg *segs = g->layout->segs;
    for (int i = 0, end; i < g->layout->n_segs; i = end) {
        int64_t first = g->stream == TACA_IMG ? segs[i].img : segs[i].txt, n = 0;
        for (end = i; end < g->layout->n_segs && g->gate[end] == g->gate[i]; end++)
            n += g->stream == TACA_IMG ? segs[end].n_img : segs[end].n_txt;
        if (g->gate[i] == 0 || n == 0) continue;
        add_run(b, s, taca_mat_rows(y, first, n), taca_mat_rows(x, first, n), w, g->gate[i]);
    }
}
