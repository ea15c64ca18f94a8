/* kernels.h - the inner loops of the CPU backend, one row or one tile each.
 *
 * Three tables hold them: plain C (the oracle), AVX2 and AVX-512. The files around (norm.c,
 * attention.c...) split an op into rows and tiles, find addresses and call through the table; they
 * hold no arithmetic that would need two versions. Pointers are host memory with any alignment of
 * their element; n is in elements. */
#ifndef TACA_KERNELS_CPU_KERNELS_H
#define TACA_KERNELS_CPU_KERNELS_H

#include "kernels/backend.h"

/* A run of elements of either float type. */
struct cpu_run {
    void *p;
    enum taca_dtype dtype;
};

static inline struct cpu_run cpu_row(struct taca_mat m, int64_t r) {
    return (struct cpu_run){taca_mat_rows(m, r, 1).data, m.dtype};
}

/* A tile of queries against a tile of keys: scores, running softmax, weighted sum of values. */
struct cpu_attn_tile {
    int64_t nq, nk, d;
    const float *q;       /* as pack left it: [d][CPU_ATTN_NQ], or as many pairs of bf16 */
    struct taca_mat k, v; /* rows = the nk keys, columns of one head */
    float factor;         /* scale, times gamma for image queries and text keys */
    const float *bias;    /* NULL, or score of query i and key j += bias[i - j] */
    int64_t causal;       /* query i sees keys j <= i + causal of this tile; INT64_MAX = all */
    float *max, *sum;     /* [CPU_ATTN_NQ], state of the softmax so far, in the tile's own units */
    float *o;             /* [nq, d], not yet divided by sum */
    float *work;          /* cpu_attn_work(d) floats */
};
enum { CPU_ATTN_NQ = 32, CPU_ATTN_NK = 64 };
static inline int64_t cpu_attn_work(int64_t d) {
    const int64_t scores = (int64_t)CPU_ATTN_NQ * CPU_ATTN_NK;
    return scores + scores / 2 + (d + 16) * CPU_ATTN_NK;
}

struct cpu_attn_kernels {
    /* queries for tile, 0 in places without one; at most CPU_ATTN_NQ rows */
    void (*pack)(float *to, struct taca_mat q);
    void (*tile)(const struct cpu_attn_tile *t);
};
/* q, k and v in bf16, a multiple of CPU_ATTN_BF16_D columns. */
extern const struct cpu_attn_kernels cpu_attn_bf16;
enum { CPU_ATTN_BF16_D = 32 };

struct cpu_kernels {
    const char *name;
    void (*convert)(struct cpu_run y, struct cpu_run x, int64_t n);
    void (*activate)(struct cpu_run y, struct cpu_run x, int64_t n, enum taca_act act);
    void (*add)(struct cpu_run y, struct cpu_run a, struct cpu_run c, int64_t n);
    void (*multiply)(struct cpu_run y, struct cpu_run a, struct cpu_run c, int64_t n);
    /* y = (x - mean) / sqrt(var + eps) * (plus + gain) + bias; NULL gain and bias are 0 */
    void (*norm)(struct cpu_run y, struct cpu_run x, int64_t n, const float *gain,
                 const float *bias, float plus, float eps);
    void (*gate_add)(float *x, struct cpu_run y, const float *gate, int64_t n);
    /* y = x / sqrt(mean(x^2) + eps) * gain, in place allowed */
    void (*rms)(struct cpu_run y, struct cpu_run x, int64_t n, const float *gain, float eps);
    /* rms in place unless gain is NULL, then neighbours turned unless table (n/2 cosines, n/2
     * sines) is */
    void (*head)(struct cpu_run x, int64_t n, const float *gain, float eps, const float *table);
    /* x += dsigma v, c := v; v = u + g (c - u), or c without u */
    void (*cfg_euler)(float *x, float *c, const float *u, float g, float dsigma, int64_t n);
    void (*axpb)(float *y, const float *x, float a, float c, int64_t n);
    struct cpu_attn_kernels attn; /* of any types and sizes */
    /* per channel: sum[c] += x, sq[c] += (x - shift[c])^2 over n pixels of c channels */
    void (*channel_sums)(float *sum, struct cpu_run x, int64_t n, int64_t c);
    void (*channel_squares)(float *sq, struct cpu_run x, const float *mean, int64_t n, int64_t c);
    /* y = act(x * mul[c] + add[c]) over n pixels */
    void (*channel_affine)(struct cpu_run y, struct cpu_run x, const float *mul, const float *add,
                           int64_t n, int64_t c, bool silu);
};

extern const struct cpu_kernels cpu_kernels_scalar;
extern const struct cpu_kernels cpu_kernels_avx2;
extern const struct cpu_kernels cpu_kernels_avx512;

#endif
