/* attention_bf16.c - attn_pack and attn_tile of kernels.h for q, k and v in bf16, with dot products
 * of pairs (vdpbf16ps). Called through cpu_attn_bf16 on CPUs that have them.
 *
 * Queries lie in the lanes as in kernels_simd.h, two neighbouring columns of a head in each 32-bit
 * lane; a pair of a key is broadcast as it lies in memory. Weights are rounded to bf16 in pairs of
 * keys, and the rows of v meet in pairs: once per tile, in a buffer that stays in the first cache.
 * Scores, maxima and sums are float, in units of log2 so that e^x is one 2^x. */
#include <math.h>

#include "kernels/cpu/simd.h"

enum {
    NQ = CPU_ATTN_NQ,
    NK = CPU_ATTN_NK,
    QV = NQ / VL, /* vectors of queries */
    KEYS = 8,     /* keys at a time: KEYS * QV sums stay in registers */
    ROWS = 4,     /* queries at a time in the product with v */
    COLS = 4      /* vectors of columns at a time there; the last may be 2 */
};

typedef __m512bh vp; /* 16 pairs */

INLINE vp p_load(const void *p) { return (vp)_mm512_loadu_si512(p); }
INLINE vp p_set(const void *pair) {
    int x;
    memcpy(&x, pair, sizeof x);
    return (vp)_mm512_set1_epi32(x);
}
INLINE vf p_dot(vf sum, vp a, vp b) { return _mm512_dpbf16_ps(sum, a, b); }

/* q as [d / 2][NQ] pairs, zero in the lanes without a query. */
static void attn_pack(float *to, struct taca_mat q) {
    uint32_t *pair = (uint32_t *)to;
    uint32_t block[NQ][VL];
    memset(block, 0, sizeof block);
    for (int64_t c = 0; c < q.cols; c += 2 * VL) {
        for (int64_t r = 0; r < q.rows; r++)
            memcpy(block[r], (const uint16_t *)cpu_row(q, r).p + c, sizeof block[r]);
        for (int64_t k = 0; k < VL; k++)
            for (int64_t r = 0; r < NQ; r++) pair[(c / 2 + k) * NQ + r] = block[r][k];
    }
}

/* Scores of n keys, n constant at the call. */
INLINE void score_keys(float *s, const struct cpu_attn_tile *t, const uint16_t *key, int n,
                       vf factor) {
    const uint32_t *q = (const uint32_t *)t->q;
    const int64_t ld = t->k.ld;
    vf acc[KEYS][QV];
    for (int j = 0; j < n; j++)
        for (int v = 0; v < QV; v++) acc[j][v] = v_set(0);
    for (int64_t c = 0; c < t->d; c += 2, q += NQ) {
        vp x[QV];
        for (int v = 0; v < QV; v++) x[v] = p_load(q + v * VL);
        for (int j = 0; j < n; j++) {
            const vp k = p_set(key + j * ld + c);
            for (int v = 0; v < QV; v++) acc[j][v] = p_dot(acc[j][v], k, x[v]);
        }
    }
    for (int j = 0; j < n; j++)
        for (int v = 0; v < QV; v++) v_store(s + j * NQ + v * VL, acc[j][v] * factor);
}

static const float LOG2_E = 1.44269504f;

/* Lanes of queries that are not there stay as they are: the table may end before them. */
static void add_bias(float *s, const struct cpu_attn_tile *t) {
    for (int64_t j = 0; j < t->nk; j++)
        for (int64_t i = 0; i < t->nq; i += VL) {
            float *at = s + j * NQ + i;
            v_store(at, v_fma(v_load_n(t->bias + i - j, t->nq - i), v_set(LOG2_E), v_load(at)));
        }
}

static void scores(float *s, const struct cpu_attn_tile *t) {
    const uint16_t *key = t->k.data;
    const vf factor = v_set(t->factor * LOG2_E);
    int64_t j = 0;
    for (; j + KEYS <= t->nk; j += KEYS) score_keys(s + j * NQ, t, key + j * t->k.ld, KEYS, factor);
    for (; j < t->nk; j++) score_keys(s + j * NQ, t, key + j * t->k.ld, 1, factor);
    if (t->bias) add_bias(s, t);
    if (t->causal == INT64_MAX) return;
    for (j = 0; j < t->nk; j++) /* key j is for queries from j - causal on */
        for (int v = 0; v < QV; v++) {
            float *at = s + j * NQ + v * VL;
            v_store(at, v_from_lane(j - t->causal - v * VL, v_load(at), v_set(-INFINITY)));
        }
}

/* 2^x for x <= 0 to 4e-6, a thousandth of what rounding to bf16 costs; below -150 it is 0. The
 * polynomial is 2^r on |r| <= 1/2, interpolated where errors even out. */
INLINE vf v_exp2(vf x) {
    x = v_at_least(x, -150.0f);
    const vf n = v_nearest(x), r = x - n;
    vf p = v_fma(r, v_set(9.66636852e-3f), v_set(5.59219758e-2f));
    p = v_fma(p, r, v_set(0.24022349f));
    p = v_fma(p, r, v_set(0.693121045f));
    return v_times_2_to(v_fma(p, r, v_set(1.0f)), n);
}

/* Scores of a pair of keys become weights, as pairs of bf16 at `to`; the sum of both. */
INLINE vf weigh_pair(uint32_t *to, const float *first, const float *second, vf max, vi order) {
    const vf a = v_exp2(v_load(first) - max);
    const vf b = second ? v_exp2(v_load(second) - max) : v_set(0);
    const vi both = (vi)_mm512_cvtne2ps_pbh(b, a);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, both));
    return a + b;
}

/* keep = what the earlier sum and output are worth under the new maximum.
 *   p   [(nk + 1) / 2][NQ] pairs of weights */
static void softmax(uint32_t *p, const float *s, const struct cpu_attn_tile *t, float *keep) {
    uint16_t places[2 * VL]; /* 0, 16, 1, 17, ...: halves to pairs */
    for (int i = 0; i < 2 * VL; i++) places[i] = (uint16_t)(i / 2 + i % 2 * VL);
    const vi order = _mm512_loadu_si512(places);
    for (int v = 0; v < QV; v++) {
        const float *at = s + v * VL;
        const vf before = v_load(t->max + v * VL);
        vf max = before;
        int64_t j = 0;
        for (; j < t->nk; j++) max = v_max(max, v_load(at + j * NQ));
        v_store(t->max + v * VL, max);
        max = v_at_least(max, -FLT_MAX); /* a query that has seen no key yet */
        const vf k = v_exp2(before - max);
        vf sum = v_load(t->sum + v * VL) * k;
        uint32_t *to = p + v * VL;
        for (j = 0; j + 1 < t->nk; j += 2, to += NQ)
            sum += weigh_pair(to, at + j * NQ, at + (j + 1) * NQ, max, order);
        if (j < t->nk) sum += weigh_pair(to, at + j * NQ, NULL, max, order);
        v_store(t->sum + v * VL, sum);
        v_store(keep + v * VL, k);
    }
}

/* Rows 2j and 2j + 1 of v as pairs: [(nk + 1) / 2][d]. Beside the last odd row lie zeros. */
static void pair_rows(uint32_t *to, const struct cpu_attn_tile *t) {
    uint16_t low[2 * VL], high[2 * VL];
    for (int i = 0; i < 2 * VL; i++) {
        low[i] = (uint16_t)(i / 2 + i % 2 * 2 * VL);
        high[i] = (uint16_t)(low[i] + VL);
    }
    const vi take_low = _mm512_loadu_si512(low), take_high = _mm512_loadu_si512(high);
    const uint16_t *row = t->v.data;
    for (int64_t j = 0; j < t->nk; j += 2, row += 2 * t->v.ld, to += t->d)
        for (int64_t c = 0; c < t->d; c += 2 * VL) {
            const vi a = _mm512_loadu_si512(row + c);
            const vi b =
                j + 1 < t->nk ? _mm512_loadu_si512(row + t->v.ld + c) : _mm512_setzero_si512();
            _mm512_storeu_si512(to + c, _mm512_permutex2var_epi16(a, take_low, b));
            _mm512_storeu_si512(to + c + VL, _mm512_permutex2var_epi16(a, take_high, b));
        }
}

/* o = keep o + p^T v for `rows` queries from i and nv vectors of columns from c; rows and nv are
 * constant at the call. */
INLINE void weigh_block(const struct cpu_attn_tile *t, const uint32_t *p, const uint32_t *v,
                        const float *keep, int64_t at, int rows, int nv) {
    float *o = t->o + at;
    vf acc[ROWS][COLS];
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < nv; k++) acc[i][k] = v_set(keep[i]) * v_load(o + i * t->d + k * VL);
    for (int64_t j = 0; j < t->nk; j += 2, v += t->d, p += NQ) {
        vp x[COLS];
        for (int k = 0; k < nv; k++) x[k] = p_load(v + k * VL);
        for (int i = 0; i < rows; i++) {
            const vp w = p_set(p + i);
            for (int k = 0; k < nv; k++) acc[i][k] = p_dot(acc[i][k], w, x[k]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < nv; k++) v_store(o + i * t->d + k * VL, acc[i][k]);
}

static void attn_tile(const struct cpu_attn_tile *t) {
    float *s = t->work, keep[NQ];
    uint32_t *p = (uint32_t *)s + NQ * NK, *v = p + NQ * NK / 2;
    scores(s, t);
    softmax(p, s, t, keep);
    pair_rows(v, t);
    int64_t i = 0;
    for (; i + ROWS <= t->nq; i += ROWS)
        for (int64_t c = 0; c < t->d; c += COLS * VL)
            if (t->d - c >= COLS * VL)
                weigh_block(t, p + i, v + c, keep + i, i * t->d + c, ROWS, COLS);
            else
                weigh_block(t, p + i, v + c, keep + i, i * t->d + c, ROWS, 2);
    for (; i < t->nq; i++)
        for (int64_t c = 0; c < t->d; c += 2 * VL)
            weigh_block(t, p + i, v + c, keep + i, i * t->d + c, 1, 2);
}

const struct cpu_attn_kernels cpu_attn_bf16 = {attn_pack, attn_tile};
