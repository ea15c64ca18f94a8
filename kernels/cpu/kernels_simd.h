/* kernels_simd.h - the inner loops of kernels.h in vectors, as wide as the including file's flags
 * allow. kernels_avx512.c and kernels_avx2.c include it with CPU_KERNELS and CPU_KERNELS_NAME set;
 * it is a file body, not an interface.
 *
 * Attention keeps queries in the lanes: scores of 32 queries against one key are 2 (or 4) vectors,
 * so the running maximum and sum need no sum across lanes, and keys are read as they lie. */
#ifndef TACA_KERNELS_CPU_KERNELS_SIMD_H
#define TACA_KERNELS_CPU_KERNELS_SIMD_H

#include <math.h>

#include "kernels/cpu/simd.h"

static void convert(struct cpu_run y, struct cpu_run x, int64_t n) {
    for (int64_t i = 0; i < n; i += VL) v_put(y, i, v_get(x, i, n - i), n - i);
}

static void activate(struct cpu_run y, struct cpu_run x, int64_t n, enum taca_act act) {
    for (int64_t i = 0; i < n; i += VL) v_put(y, i, v_act(v_get(x, i, n - i), act), n - i);
}

static void add(struct cpu_run y, struct cpu_run a, struct cpu_run c, int64_t n) {
    for (int64_t i = 0; i < n; i += VL) v_put(y, i, v_get(a, i, n - i) + v_get(c, i, n - i), n - i);
}

static void multiply(struct cpu_run y, struct cpu_run a, struct cpu_run c, int64_t n) {
    for (int64_t i = 0; i < n; i += VL) v_put(y, i, v_get(a, i, n - i) * v_get(c, i, n - i), n - i);
}

/* Sums of d and d^2, d = x - shift, over n values. */
static void moments(struct cpu_run x, int64_t n, float shift, float *sum, float *squares) {
    vf s = v_set(0), q = v_set(0);
    const vf m = v_set(shift);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf d = v_get(x, i, VL) - m;
        s += d;
        q = v_fma(d, d, q);
    }
    if (i < n) { /* lanes beyond the end count as shift */
        float part[VL] = {0};
        v_store(part, v_get(x, i, n - i) - m);
        for (int64_t k = n - i; k < VL; k++) part[k] = 0;
        vf d = v_load(part);
        s += d;
        q = v_fma(d, d, q);
    }
    *sum = v_sum(s);
    *squares = v_sum(q);
}

/* The second pass also measures how far the float mean of the first is off, and corrects it. */
static void norm(struct cpu_run y, struct cpu_run x, int64_t n, const float *gain,
                 const float *bias, float plus, float eps) {
    const float count = (float)n;
    float sum, squares, unused;
    moments(x, n, 0, &sum, &unused);
    float mean = sum / count;
    moments(x, n, mean, &sum, &squares);
    const float off = sum / count;
    const float var = fmaxf(squares / count - off * off, 0);
    mean += off;
    const vf m = v_set(mean), r = v_set(1.0f / sqrtf(var + eps)), one = v_set(plus);
    for (int64_t i = 0; i < n; i += VL) {
        vf v = (v_get(x, i, n - i) - m) * r;
        vf g = one, h = v_set(0);
        if (gain) g += v_load_n(gain + i, n - i);
        if (bias) h = v_load_n(bias + i, n - i);
        v_put(y, i, v_fma(v, g, h), n - i);
    }
}

static void gate_add(float *x, struct cpu_run y, const float *gate, int64_t n) {
    for (int64_t i = 0; i < n; i += VL) {
        vf v = v_fma(v_load_n(gate + i, n - i), v_get(y, i, n - i), v_load_n(x + i, n - i));
        v_store_n(x + i, v, n - i);
    }
}

static vf rms_inverse(struct cpu_run x, int64_t n, float eps) {
    float sum, squares;
    moments(x, n, 0, &sum, &squares);
    return v_set(1.0f / sqrtf(squares / (float)n + eps));
}

static void rms(struct cpu_run y, struct cpu_run x, int64_t n, const float *gain, float eps) {
    const vf r = rms_inverse(x, n, eps);
    for (int64_t i = 0; i < n; i += VL)
        v_put(y, i, v_get(x, i, n - i) * r * v_load_n(gain + i, n - i), n - i);
}

/* Columns from i on of a head of n, turned; `left` of them are there. */
INLINE vf turned(vf v, const float *table, int64_t i, int64_t n, int64_t left) {
    const float *angle = table + i / 2;
    return v_turn(v, v_twice_n(angle, left / 2), v_twice_n(angle + n / 2, left / 2));
}

/* A head of nv full vectors that stays in registers; nv is constant at the call. */
INLINE void head_kept(struct cpu_run x, const float *gain, float eps, const float *table, int nv) {
    vf v[8], q = v_set(0);
    for (int i = 0; i < nv; i++) v[i] = v_get(x, i * VL, VL);
    if (gain) {
        for (int i = 0; i < nv; i++) q = v_fma(v[i], v[i], q);
        const vf r = v_set(1.0f / sqrtf(v_sum(q) / (float)(nv * VL) + eps));
        for (int i = 0; i < nv; i++) v[i] = v[i] * r * v_load(gain + i * VL);
    }
    if (table)
        for (int i = 0; i < nv; i++) v[i] = turned(v[i], table, i * VL, nv * VL, VL);
    for (int i = 0; i < nv; i++) v_put(x, i * VL, v[i], VL);
}

INLINE void head_parts(struct cpu_run x, int64_t n, const float *gain, float eps,
                       const float *table) {
    if (n == 64) {
        head_kept(x, gain, eps, table, 64 / VL);
        return;
    }
    if (n == 128 && VL == 16) {
        head_kept(x, gain, eps, table, 8);
        return;
    }
    const vf r = gain ? rms_inverse(x, n, eps) : v_set(1);
    for (int64_t i = 0; i < n; i += VL) {
        vf v = v_get(x, i, n - i);
        if (gain) v = v * r * v_load_n(gain + i, n - i);
        if (table) v = turned(v, table, i, n, n - i);
        v_put(x, i, v, n - i);
    }
}

/* What there is of norm and table is constant at each call: else heads go through memory. */
static void head(struct cpu_run x, int64_t n, const float *gain, float eps, const float *table) {
    if (gain && table)
        head_parts(x, n, gain, eps, table);
    else if (gain)
        head_parts(x, n, gain, eps, NULL);
    else
        head_parts(x, n, NULL, eps, table);
}

static void cfg_euler(float *x, float *c, const float *u, float g, float dsigma, int64_t n) {
    for (int64_t i = 0; i < n; i += VL) {
        vf v = v_load_n(c + i, n - i);
        if (u) {
            vf base = v_load_n(u + i, n - i);
            v = v_fma(v_set(g), v - base, base);
        }
        v_store_n(c + i, v, n - i);
        v_store_n(x + i, v_fma(v_set(dsigma), v, v_load_n(x + i, n - i)), n - i);
    }
}

static void axpb(float *y, const float *x, float a, float c, int64_t n) {
    for (int64_t i = 0; i < n; i += VL)
        v_store_n(y + i, v_fma(v_set(a), v_load_n(x + i, n - i), v_set(c)), n - i);
}

/* ---- attention ---------------------------------------------------------------------------------
 */

enum {
    QV = CPU_ATTN_NQ / VL,   /* vectors of queries */
    KEYS = VL == 16 ? 8 : 2, /* keys at a time: KEYS * QV sums stay in registers */
    ROWS = 4,                /* queries at a time in the product with v */
    COLS = VL == 16 ? 4 : 2, /* vectors of columns at a time there */
};

/* q as [d][CPU_ATTN_NQ], zero in the lanes without a query; square blocks go through a buffer that
 * stays in the first cache. */
static void attn_pack(float *to, struct taca_mat q) {
    float block[CPU_ATTN_NQ][VL];
    memset(block, 0, sizeof block);
    for (int64_t c = 0; c < q.cols; c += VL) {
        const int64_t n = q.cols - c < VL ? q.cols - c : VL;
        for (int64_t r = 0; r < q.rows; r++) v_store(block[r], v_get(cpu_row(q, r), c, n));
        for (int64_t k = 0; k < n; k++)
            for (int64_t r = 0; r < CPU_ATTN_NQ; r++) to[(c + k) * CPU_ATTN_NQ + r] = block[r][k];
    }
}

/* Scores of n keys from k on, n constant at the call. */
INLINE void score_keys(float *s, const struct cpu_attn_tile *t, struct taca_mat k, int64_t n) {
    const float *key = k.data;
    vf acc[KEYS][QV];
    for (int64_t j = 0; j < n; j++)
        for (int v = 0; v < QV; v++) acc[j][v] = v_set(0);
    for (int64_t c = 0; c < t->d; c++) {
        vf q[QV];
        for (int v = 0; v < QV; v++) q[v] = v_load(t->q + c * CPU_ATTN_NQ + v * VL);
        for (int64_t j = 0; j < n; j++)
            for (int v = 0; v < QV; v++)
                acc[j][v] = v_fma(v_set(key[j * k.ld + c]), q[v], acc[j][v]);
    }
    for (int64_t j = 0; j < n; j++)
        for (int v = 0; v < QV; v++)
            v_store(s + j * CPU_ATTN_NQ + v * VL, acc[j][v] * v_set(t->factor));
}

/* Lanes of queries that are not there stay as they are: the table may end before them. */
static void add_bias(float *s, const struct cpu_attn_tile *t) {
    for (int64_t j = 0; j < t->nk; j++)
        for (int64_t i = 0; i < t->nq; i += VL) {
            float *at = s + j * CPU_ATTN_NQ + i;
            v_store(at, v_load(at) + v_load_n(t->bias + i - j, t->nq - i));
        }
}

static void scores(float *s, const struct cpu_attn_tile *t, struct taca_mat k) {
    int64_t j = 0;
    for (; j + KEYS <= t->nk; j += KEYS)
        score_keys(s + j * CPU_ATTN_NQ, t, taca_mat_rows(k, j, KEYS), KEYS);
    for (; j < t->nk; j++) score_keys(s + j * CPU_ATTN_NQ, t, taca_mat_rows(k, j, 1), 1);
    if (t->bias) add_bias(s, t);
    if (t->causal == INT64_MAX) return;
    for (j = 0; j < t->nk; j++) /* key j is for queries from j - causal on */
        for (int v = 0; v < QV; v++) {
            float *at = s + j * CPU_ATTN_NQ + v * VL;
            v_store(at, v_from_lane(j - t->causal - v * VL, v_load(at), v_set(-INFINITY)));
        }
}

/* Scores become weights; keep = what the earlier sum and output are worth under the new maximum. */
static void softmax(float *s, const struct cpu_attn_tile *t, float *keep) {
    for (int v = 0; v < QV; v++) {
        float *at = s + v * VL;
        const vf before = v_load(t->max + v * VL);
        vf max = before;
        for (int64_t j = 0; j < t->nk; j++) max = v_max(max, v_load(at + j * CPU_ATTN_NQ));
        v_store(t->max + v * VL, max);
        max = v_at_least(max, -FLT_MAX); /* a query that has seen no key yet */
        const vf k = v_exp(before - max);
        vf sum = v_load(t->sum + v * VL) * k;
        for (int64_t j = 0; j < t->nk; j++) {
            vf p = v_exp(v_load(at + j * CPU_ATTN_NQ) - max);
            v_store(at + j * CPU_ATTN_NQ, p);
            sum += p;
        }
        v_store(t->sum + v * VL, sum);
        v_store(keep + v * VL, k);
    }
}

/* o = keep o + p^T v for `rows` queries from i and nv vectors of columns from c; the last has
 * `last` columns. rows and nv are constant at the call. */
INLINE void weigh_block(const struct cpu_attn_tile *t, const float *p, const float *keep,
                        struct taca_mat v, int rows, int nv, int64_t last) {
    vf acc[ROWS][COLS];
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < nv; k++)
            acc[i][k] = v_set(keep[i]) * v_load_n(t->o + i * t->d + k * VL, k < nv - 1 ? VL : last);
    const float *row = v.data;
    for (int64_t j = 0; j < t->nk; j++, row += v.ld, p += CPU_ATTN_NQ) {
        vf x[COLS];
        for (int k = 0; k < nv; k++) x[k] = v_load_n(row + k * VL, k < nv - 1 ? VL : last);
        for (int i = 0; i < rows; i++)
            for (int k = 0; k < nv; k++) acc[i][k] = v_fma(v_set(p[i]), x[k], acc[i][k]);
    }
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < nv; k++)
            v_store_n(t->o + i * t->d + k * VL, acc[i][k], k < nv - 1 ? VL : last);
}

INLINE void weigh_rows(const struct cpu_attn_tile *t, const float *p, const float *keep,
                       struct taca_mat v, int rows) {
    struct cpu_attn_tile at = *t;
    for (int64_t c = 0; c < t->d; c += COLS * VL) {
        const int64_t left = t->d - c, full = COLS * VL;
        at.o = t->o + c;
        const struct taca_mat part = taca_mat_cols(v, c, left < full ? left : full);
        if (left >= full)
            weigh_block(&at, p, keep, part, rows, COLS, VL);
        else if (COLS > 3 && left > 3 * VL)
            weigh_block(&at, p, keep, part, rows, 4 < COLS ? 4 : COLS, left - 3 * VL);
        else if (COLS > 2 && left > 2 * VL)
            weigh_block(&at, p, keep, part, rows, 3 < COLS ? 3 : COLS, left - 2 * VL);
        else if (left > VL)
            weigh_block(&at, p, keep, part, rows, 2, left - VL);
        else
            weigh_block(&at, p, keep, part, rows, 1, left);
    }
}

/* m as floats: itself, or widened into `to`. */
static struct taca_mat widened(struct taca_mat m, float *to) {
    if (m.dtype == TACA_F32) return m;
    struct taca_mat f = {to, TACA_F32, m.rows, m.cols, m.cols};
    for (int64_t r = 0; r < m.rows; r++) convert(cpu_row(f, r), cpu_row(m, r), m.cols);
    return f;
}

static void attn_tile(const struct cpu_attn_tile *t) {
    float *s = t->work, *wide = s + CPU_ATTN_NQ * CPU_ATTN_NK, keep[CPU_ATTN_NQ];
    scores(s, t, widened(t->k, wide));
    softmax(s, t, keep);
    const struct taca_mat v = widened(t->v, wide);
    struct cpu_attn_tile at = *t;
    int64_t i = 0;
    for (; i + ROWS <= t->nq; i += ROWS, at.o += ROWS * t->d)
        weigh_rows(&at, s + i, keep + i, v, ROWS);
    for (; i < t->nq; i++, at.o += t->d) weigh_rows(&at, s + i, keep + i, v, 1);
}

/* ---- channels of a map
 * --------------------------------------------------------------------------- */

enum { WIDE = 8 }; /* vectors of channels at a time: whole cache lines next to each other */

/* sum[k] += x, or (x - mean[k])^2, over n pixels for the channels of nv vectors; `left` channels
 * are there. nv and squares are constant at the call. */
INLINE void channel_block(float *sum, struct cpu_run x, const float *mean, int64_t n, int64_t c,
                          int nv, int64_t left, bool squares) {
    vf m[WIDE], s[WIDE];
    for (int v = 0; v < nv; v++) {
        m[v] = squares ? v_load_n(mean + v * VL, left - v * VL) : v_set(0);
        s[v] = v_set(0);
    }
    for (int64_t i = 0; i < n; i++)
        for (int v = 0; v < nv; v++) {
            const vf d = v_get(x, i * c + v * VL, left - v * VL) - m[v];
            if (squares)
                s[v] = v_fma(d, d, s[v]);
            else
                s[v] += d;
        }
    for (int v = 0; v < nv; v++)
        v_store_n(sum + v * VL, v_load_n(sum + v * VL, left - v * VL) + s[v], left - v * VL);
}

/* The same of all channels; x.dtype constant at the call. */
INLINE void all_channels(float *sum, struct cpu_run x, const float *mean, int64_t n, int64_t c,
                         bool squares) {
    const int64_t bytes = (int64_t)taca_dtype_bytes(x.dtype);
    int64_t k = 0;
    for (; k + WIDE * VL <= c; k += WIDE * VL) {
        const struct cpu_run at = {(char *)x.p + k * bytes, x.dtype};
        channel_block(sum + k, at, mean + k, n, c, WIDE, WIDE * VL, squares);
    }
    for (; k < c; k += VL) {
        const struct cpu_run at = {(char *)x.p + k * bytes, x.dtype};
        channel_block(sum + k, at, mean + k, n, c, 1, c - k, squares);
    }
}

static void channel_sums(float *sum, struct cpu_run x, int64_t n, int64_t c) {
    if (x.dtype == TACA_F32)
        all_channels(sum, (struct cpu_run){x.p, TACA_F32}, sum, n, c, false);
    else
        all_channels(sum, (struct cpu_run){x.p, TACA_BF16}, sum, n, c, false);
}

static void channel_squares(float *sq, struct cpu_run x, const float *mean, int64_t n, int64_t c) {
    if (x.dtype == TACA_F32)
        all_channels(sq, (struct cpu_run){x.p, TACA_F32}, mean, n, c, true);
    else
        all_channels(sq, (struct cpu_run){x.p, TACA_BF16}, mean, n, c, true);
}

static void channel_affine(struct cpu_run y, struct cpu_run x, const float *mul, const float *plus,
                           int64_t n, int64_t c, bool silu) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < c; k += VL) {
            vf v = v_fma(v_get(x, i * c + k, c - k), v_load_n(mul + k, c - k),
                         v_load_n(plus + k, c - k));
            v_put(y, i * c + k, silu ? v_act(v, TACA_ACT_SILU) : v, c - k);
        }
}

const struct cpu_kernels CPU_KERNELS = {
    .name = CPU_KERNELS_NAME,
    .convert = convert,
    .activate = activate,
    .add = add,
    .multiply = multiply,
    .norm = norm,
    .gate_add = gate_add,
    .rms = rms,
    .head = head,
    .cfg_euler = cfg_euler,
    .axpb = axpb,
    .attn = {attn_pack, attn_tile},
    .channel_sums = channel_sums,
    .channel_squares = channel_squares,
    .channel_affine = channel_affine,
};

#endif
