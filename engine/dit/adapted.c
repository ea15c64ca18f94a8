/* adapted.c - see adapted.h. Rows of segments without an adapter meet exactly the ops that they
 * meet alone, so that one request's adapter is nothing to another. */
#include "engine/dit/adapted.h"

/* The segments [first, last) of a stream and their rows. */
struct run {
    int first, last;
    int64_t row, rows;
};

static struct run run_of(const struct taca_layout *l, enum taca_stream stream, int first,
                         int last) {
    struct run r = {first, last, 0, 0};
    const struct taca_seg *s = l->segs;
    r.row = stream == TACA_IMG ? s[first].img : s[first].txt;
    for (int i = first; i < last; i++) r.rows += stream == TACA_IMG ? s[i].n_img : s[i].n_txt;
    return r;
}

/* Whether an adapter that is on in this segment changes w. */
static bool changed(const struct dit_pass *p, const struct taca_linear *w, int segment) {
    for (int i = 0; i < p->loras.n; i++) {
        int n = 0;
        if (p->loras.list[i].gate[segment] == 0) continue;
        dit_adapter_changes(p->loras.list[i].adapter, w, &n);
        if (n) return true;
    }
    return false;
}

/* Whether anyone has the pass's i-th adapter. */
static bool is_on(const struct dit_pass *p, int i) {
    const int n = p->layout ? p->layout->n_segs : 1;
    for (int k = 0; k < n; k++)
        if (p->loras.list[i].gate[k] != 0) return true;
    return false;
}

static bool changed_anywhere(const struct dit_pass *p, const struct taca_linear *w) {
    const int n = p->layout ? p->layout->n_segs : 1;
    for (int i = 0; i < n && p->loras.n; i++)
        if (changed(p, w, i)) return true;
    return false;
}

static bool takes_8_bits(const struct dit_pass *p, const struct taca_linear *w) {
    return taca_linear_input(p->b, w) == TACA_U8 && !changed_anywhere(p, w);
}

/* As many bytes either way: what a sequence was given must do beside another's adapter, too. */
struct taca_mat dit_input(const struct dit_pass *p, int64_t rows, const struct taca_linear *v,
                          const struct taca_linear *w) {
    struct taca_mat x = dit_low(p, rows, w->in);
    if (takes_8_bits(p, v) && takes_8_bits(p, w)) {
        x.dtype = TACA_U8;
        x.ld = x.cols + TACA_ROW_SCALE;
    }
    return x;
}

static void add_changes(const struct dit_pass *p, struct taca_mat y, struct taca_mat x,
                        const struct taca_linear *w, enum taca_stream stream) {
    for (int i = 0; i < p->loras.n; i++) {
        int n;
        if (!is_on(p, i)) continue;
        const struct dit_change *c = dit_adapter_changes(p->loras.list[i].adapter, w, &n);
        const struct taca_gates gates = {p->loras.list[i].gate, p->layout, stream};
        for (int k = 0; k < n; k++) {
            struct taca_mat in = x;
            if (in.ld >= c[k].w.down->in) in.cols = c[k].w.down->in;
            taca_low_rank_add(p->b, p->s, taca_mat_cols(y, c[k].first, c[k].out), in, &c[k].w,
                              &gates);
        }
    }
}

/* An activation comes after the changes, so it cannot stay inside the matmul where there are any:
 * runs of segments with and without changes go their own ways. */
static void run_activated(const struct dit_pass *p, struct taca_mat y, struct taca_mat x,
                          const struct taca_linear *w, enum taca_act act, enum taca_stream stream) {
    const int n = p->layout->n_segs;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0, end; i < n; i = end) {
            const bool on = changed(p, w, i);
            for (end = i + 1; end < n && changed(p, w, end) == on;) end++;
            const struct run r = run_of(p->layout, stream, i, end);
            struct taca_mat part = taca_mat_rows(y, r.row, r.rows);
            if (pass == 0)
                taca_linear(p->b, part, taca_mat_rows(x, r.row, r.rows), w,
                            on ? TACA_ACT_NONE : act);
            else if (on)
                taca_activate(p->b, part, part, act);
        }
        if (pass == 0) add_changes(p, y, x, w, stream);
    }
}

static void run_stream(const struct dit_pass *p, struct taca_mat y, struct taca_mat x,
                       const struct taca_linear *w, enum taca_act act, enum taca_stream stream) {
    if (act != TACA_ACT_NONE && p->layout) {
        run_activated(p, y, x, w, act, stream);
        return;
    }
    taca_linear(p->b, y, x, w, TACA_ACT_NONE);
    add_changes(p, y, x, w, stream);
    if (act != TACA_ACT_NONE) taca_activate(p->b, y, y, act);
}

void dit_linear(const struct dit_pass *p, struct taca_mat y, struct taca_mat x,
                const struct taca_linear *w, enum taca_act act, enum dit_rows rows) {
    if (!changed_anywhere(p, w)) {
        taca_linear(p->b, y, x, w, act);
        return;
    }
    if (rows != DIT_BOTH) {
        run_stream(p, y, x, w, act, rows == DIT_TXT ? TACA_TXT : TACA_IMG);
        return;
    }
    const int64_t n = p->layout->img_rows, m = x.rows - n;
    const struct taca_mat yi = taca_mat_rows(y, 0, n), yt = taca_mat_rows(y, n, m);
    const struct taca_mat xi = taca_mat_rows(x, 0, n), xt = taca_mat_rows(x, n, m);
    run_stream(p, yi, xi, w, act, TACA_IMG);
    run_stream(p, yt, xt, w, act, TACA_TXT);
}

/* ---- norms ----------------------------------------------------------------------------------- */

static const struct taca_vec *gain_of(const struct dit_pass *p, const struct taca_vec *gain,
                                      int segment) {
    const struct taca_vec *found = gain;
    for (int i = 0; i < p->loras.n; i++) {
        const struct dit_adapter *a = p->loras.list[i].adapter;
        if (p->loras.list[i].gate[segment] == 0) continue;
        for (int k = 0; k < a->n_gains; k++)
            if (a->gains[k].on == gain) found = &a->gains[k].gain;
    }
    return found;
}

void dit_qk_norm_rope(const struct dit_pass *p, struct taca_mat q, struct taca_mat k,
                      const struct dit_attn *w, enum taca_stream stream) {
    struct taca_qk qk = {.table = p->places[stream], .eps = DIT_EPS};
    bool replaced = false;
    for (int i = 0; i < p->loras.n; i++) replaced = replaced || p->loras.list[i].adapter->n_gains;
    if (!replaced || !w->norm_q.n) {
        if (w->norm_q.n) qk.gain_q = &w->norm_q, qk.gain_k = &w->norm_k;
        taca_qk_norm_rope(p->b, q, k, &qk);
        return;
    }
    const int n = p->layout->n_segs;
    for (int i = 0, end; i < n; i = end) {
        qk.gain_q = gain_of(p, &w->norm_q, i);
        qk.gain_k = gain_of(p, &w->norm_k, i);
        for (end = i + 1; end < n && gain_of(p, &w->norm_q, end) == qk.gain_q &&
                          gain_of(p, &w->norm_k, end) == qk.gain_k;)
            end++;
        const struct run r = run_of(p->layout, stream, i, end);
        qk.table = taca_mat_rows(p->places[stream], r.row, r.rows);
        taca_qk_norm_rope(p->b, taca_mat_rows(q, r.row, r.rows), taca_mat_rows(k, r.row, r.rows),
                          &qk);
    }
}
