/* int8.c - see int8.h. Compiled for AVX-512 with VNNI, called behind a check.
 *
 * vpdpbusd wants its left factor unsigned: inputs are shifted by 128, and 128 times the sum of an
 * output's weights is taken off again. Weights lie in panels of 32 outputs, four inputs of each
 * output next to each other; inputs in tiles of 12 rows, four of each row next to each other. A
 * tile of results is 12 rows by a panel, its 24 sums in registers. */
#include "kernels/cpu/int8.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "kernels/cpu/simd.h"

enum {
    PANEL = 32, /* outputs */
    TILE = 12,  /* rows */
    CHUNK = 8,  /* panels of a work item */
    SHIFT = 128,
    BLOCK_BYTES = 384 << 10 /* of inputs, which stay in the second cache */
};

struct cpu_int8 {
    int64_t in, out, steps; /* fours of inputs, the last filled with zeros */
    int8_t *w;              /* [panels][steps][PANEL][4] */
    float *scale;           /* [panels * PANEL] */
    int32_t *shift;         /* SHIFT * sum of an output's weights */
};

bool cpu_int8_supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

void cpu_int8_close(struct cpu_int8 *w) {
    if (!w) return;
    free(w->w);
    free(w->scale);
    free(w->shift);
    free(w);
}

/* One output's weights: 127 of them stand for the largest. */
static void narrow_output(struct cpu_int8 *w, const float *row, int64_t o) {
    int8_t *to = w->w + (o / PANEL * w->steps * PANEL + o % PANEL) * 4;
    float most = 0;
    int32_t sum = 0;
    for (int64_t i = 0; i < w->in; i++) most = fmaxf(most, fabsf(row[i]));
    const float one = most > 0 ? 127 / most : 0;
    for (int64_t i = 0; i < w->in; i++) {
        const int32_t q = (int32_t)lrintf(row[i] * one);
        to[i / 4 * PANEL * 4 + i % 4] = (int8_t)q;
        sum += q;
    }
    w->scale[o] = most / 127;
    w->shift[o] = SHIFT * sum;
}

static int64_t steps_of(int64_t in) { return (in + 3) / 4; }
static int64_t panels_of(int64_t out) { return (out + PANEL - 1) / PANEL; }

size_t cpu_int8_bytes(int64_t out, int64_t in) {
    const size_t each = (size_t)steps_of(in) * 4 + sizeof(float) + sizeof(int32_t);
    return sizeof(struct cpu_int8) + (size_t)(panels_of(out) * PANEL) * each;
}

/* Row by row, so that no copy of the whole in f32 is needed. */
static void narrow_parts(struct cpu_int8 *w, const struct taca_tensor *parts, int n, float *row) {
    int64_t o = 0;
    for (int i = 0; i < n; i++) {
        const size_t bytes = (size_t)w->in * taca_dtype_bytes(parts[i].dtype);
        const char *from = parts[i].data;
        for (int64_t r = 0; r < parts[i].dim[0]; r++, from += bytes) {
            taca_to_f32(row, from, parts[i].dtype, (size_t)w->in);
            narrow_output(w, row, o++);
        }
    }
}

struct cpu_int8 *cpu_int8_open(const struct taca_tensor *parts, int n, int64_t out, int64_t in) {
    struct cpu_int8 *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    const int64_t panels = panels_of(out);
    w->in = in;
    w->out = out;
    w->steps = steps_of(in);
    const size_t bytes = (size_t)(panels * w->steps * PANEL) * 4;
    w->w = taca_block_alloc(bytes);
    w->scale = calloc((size_t)(panels * PANEL), sizeof *w->scale);
    w->shift = calloc((size_t)(panels * PANEL), sizeof *w->shift);
    float *row = malloc((size_t)in * sizeof *row);
    if (!w->w || !w->scale || !w->shift || !row) {
        free(row);
        cpu_int8_close(w);
        return NULL;
    }
    memset(w->w, 0, bytes);
    narrow_parts(w, parts, n, row);
    free(row);
    return w;
}

/* ---- running -------------------------------------------------------------------------------- */

struct int8_job {
    const struct cpu_int8 *w;
    struct taca_mat y, x;
    const float *bias;
    enum taca_act act;
    uint8_t *q;     /* [tiles][steps][TILE][4] */
    float *scale;   /* [rows] */
    int64_t blocks; /* of `block` rows */
    int64_t block;
};

static void narrow_row(const struct int8_job *j, int64_t r) {
    const struct cpu_run x = cpu_row(j->x, r);
    const int64_t n = j->w->in, bytes = j->w->steps * 4;
    uint8_t *to = j->q + (r / TILE * j->w->steps * TILE + r % TILE) * 4, some[VL];
    vf most = v_set(0);
    __mmask16 nan = 0; /* a maximum forgets them */
    for (int64_t i = 0; i < n; i += VL) {
        const vf v = v_abs(v_get(x, i, n - i));
        nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        most = v_max(most, v);
    }
    const float top = nan ? NAN : _mm512_reduce_max_ps(most);
    const vf one = v_set(top > 0 ? 127 / top : 0);
    const vi shift = _mm512_set1_epi32(SHIFT);
    for (int64_t i = 0; i < bytes; i += VL) {
        const vf v = i < n ? v_get(x, i, n - i) : v_set(0);
        const vi q = _mm512_add_epi32(_mm512_cvtps_epi32(v * one), shift);
        _mm_storeu_si128((__m128i *)(void *)some, _mm512_cvtepi32_epi8(q));
        for (int64_t k = 0; k < VL && i + k < bytes; k += 4, to += TILE * 4)
            memcpy(to, some + k, 4);
    }
    j->scale[r] = top / 127;
}

static void narrow_rows(void *ctx, int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) narrow_row(ctx, r);
}

/* Sums of one tile to results; half = which vector of the panel. */
INLINE void put_sums(const struct int8_job *j, int64_t r, int64_t o, vi sum) {
    const int64_t left = j->w->out - o;
    if (left <= 0) return;
    const vi shift = _mm512_loadu_si512(j->w->shift + o);
    const vf scale = v_load(j->w->scale + o) * v_set(j->scale[r]);
    const vf bias = j->bias ? v_load_n(j->bias + o, left) : v_set(0);
    const vf v = v_fma(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, shift)), scale, bias);
    v_put(cpu_row(j->y, r), o, v_act(v, j->act), left);
}

/* Sums are variables of their own: gcc keeps an array of 24 in memory. */
#define ROWS(X)  X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define CLEAR(i) vi a##i = _mm512_setzero_si512(), b##i = _mm512_setzero_si512();
#define STEP(i)                                                                                    \
    x = four_times(q + i * 4);                                                                     \
    a##i = _mm512_dpbusd_epi32(a##i, x, w0);                                                       \
    b##i = _mm512_dpbusd_epi32(b##i, x, w1);
#define PUT(i)                                                                                     \
    if (i < n) {                                                                                   \
        put_sums(j, r + i, o, a##i);                                                               \
        put_sums(j, r + i, o + VL, b##i);                                                          \
    }

INLINE vi four_times(const uint8_t *p) {
    int four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}

/* A tile from row r and output o; n of its rows are there. */
static void run_tile(const struct int8_job *j, int64_t r, int64_t o, int64_t n) {
    const int8_t *w = j->w->w + o * j->w->steps * 4;
    const uint8_t *q = j->q + r * j->w->steps * 4;
    vi x;
    ROWS(CLEAR)
    for (int64_t s = 0; s < j->w->steps; s++, w += PANEL * 4, q += TILE * 4) {
        const vi w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 64);
        ROWS(STEP)
    }
    ROWS(PUT)
}

static void run_item(void *ctx, int64_t item, int worker) {
    const struct int8_job *j = ctx;
    (void)worker;
    const int64_t r0 = item % j->blocks * j->block, o0 = item / j->blocks * CHUNK * PANEL;
    const int64_t r1 = r0 + j->block < j->x.rows ? r0 + j->block : j->x.rows;
    const int64_t o1 = o0 + CHUNK * PANEL < j->w->out ? o0 + CHUNK * PANEL : j->w->out;
    for (int64_t o = o0; o < o1; o += PANEL)
        for (int64_t r = r0; r < r1; r += TILE) run_tile(j, r, o, r1 - r);
}

static size_t tile_bytes(int64_t in, int64_t rows) {
    const int64_t tiles = (rows + TILE - 1) / TILE;
    return (size_t)(tiles * TILE * steps_of(in) * 4 + 63) / 64 * 64;
}

size_t cpu_int8_work(int64_t in, int64_t rows) {
    return tile_bytes(in, rows) + (size_t)rows * sizeof(float);
}

void cpu_int8_linear(struct cpu *c, const struct cpu_int8 *w, struct taca_mat y, struct taca_mat x,
                     const float *bias, enum taca_act act) {
    const size_t bytes = tile_bytes(w->in, x.rows);
    struct int8_job j = {.w = w, .y = y, .x = x, .bias = bias, .act = act};
    j.q = cpu_buf_get(c, &c->in, cpu_int8_work(w->in, x.rows), "linear");
    if (!j.q) return;
    j.scale = (float *)(void *)(j.q + bytes);
    cpu_split(c, x.rows, w->in, narrow_rows, &j);
    j.block = BLOCK_BYTES / (w->steps * 4) / TILE * TILE;
    if (j.block < TILE) j.block = TILE;
    j.blocks = (x.rows + j.block - 1) / j.block;
    const int64_t chunks = (w->out + CHUNK * PANEL - 1) / (CHUNK * PANEL);
    cpu_parallel(c->pool, j.blocks * chunks, run_item, &j);
}
