/* kernels_scalar.c - the inner loops in plain C: what the vector code is measured against. */
#include <math.h>

#include "kernels/cpu/cpu.h"

float cpu_act(float x, enum taca_act act) {
    switch (act) {
    case TACA_ACT_NONE: return x;
    case TACA_ACT_SILU: return x / (1.0f + expf(-x));
    case TACA_ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case TACA_ACT_GELU_ERF: return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    case TACA_ACT_QUICK_GELU: return x / (1.0f + expf(-1.702f * x));
    case TACA_ACT_RELU: return x < 0.0f ? 0.0f : x; /* what is not a number stays so */
    }
    return x;
}

static void convert(struct cpu_run y, struct cpu_run x, int64_t n) {
    for (int64_t i = 0; i < n; i++) cpu_put(y.p, y.dtype, i, cpu_get(x.p, x.dtype, i));
}

static void activate(struct cpu_run y, struct cpu_run x, int64_t n, enum taca_act act) {
    for (int64_t i = 0; i < n; i++)
        cpu_put(y.p, y.dtype, i, cpu_act(cpu_get(x.p, x.dtype, i), act));
}

static void add(struct cpu_run y, struct cpu_run a, struct cpu_run c, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        cpu_put(y.p, y.dtype, i, cpu_get(a.p, a.dtype, i) + cpu_get(c.p, c.dtype, i));
}

static void multiply(struct cpu_run y, struct cpu_run a, struct cpu_run c, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        cpu_put(y.p, y.dtype, i, cpu_get(a.p, a.dtype, i) * cpu_get(c.p, c.dtype, i));
}

static void norm(struct cpu_run y, struct cpu_run x, int64_t n, const float *gain,
                 const float *bias, float plus, float eps) {
    double sum = 0, sq = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)cpu_get(x.p, x.dtype, i);
    const double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)cpu_get(x.p, x.dtype, i) - mean;
        sq += d * d;
    }
    const float rstd = (float)(1.0 / sqrt(sq / (double)n + (double)eps));
    for (int64_t i = 0; i < n; i++) {
        float v = (cpu_get(x.p, x.dtype, i) - (float)mean) * rstd;
        cpu_put(y.p, y.dtype, i, v * (plus + (gain ? gain[i] : 0)) + (bias ? bias[i] : 0));
    }
}

static void gate_add(float *x, struct cpu_run y, const float *gate, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] += gate[i] * cpu_get(y.p, y.dtype, i);
}

static float rms_inverse(struct cpu_run x, int64_t n, float eps) {
    double sq = 0;
    for (int64_t i = 0; i < n; i++) {
        double v = (double)cpu_get(x.p, x.dtype, i);
        sq += v * v;
    }
    return (float)(1.0 / sqrt(sq / (double)n + (double)eps));
}

static void rms(struct cpu_run y, struct cpu_run x, int64_t n, const float *gain, float eps) {
    const float r = rms_inverse(x, n, eps);
    for (int64_t i = 0; i < n; i++)
        cpu_put(y.p, y.dtype, i, cpu_get(x.p, x.dtype, i) * r * gain[i]);
}

/* Column i of a head before it turns. */
static float normed(struct cpu_run x, int64_t i, const float *gain, float r) {
    const float v = cpu_get(x.p, x.dtype, i);
    return gain ? v * r * gain[i] : v;
}

static void head(struct cpu_run x, int64_t n, const float *gain, float eps, const float *table) {
    const float r = gain ? rms_inverse(x, n, eps) : 1;
    if (!table) {
        for (int64_t i = 0; i < n; i++) cpu_put(x.p, x.dtype, i, normed(x, i, gain, r));
        return;
    }
    for (int64_t p = 0; p < n / 2; p++) {
        const float c = table[p], s = table[n / 2 + p];
        const float a = normed(x, 2 * p, gain, r), b = normed(x, 2 * p + 1, gain, r);
        cpu_put(x.p, x.dtype, 2 * p, a * c - b * s);
        cpu_put(x.p, x.dtype, 2 * p + 1, b * c + a * s);
    }
}

static void cfg_euler(float *x, float *c, const float *u, float g, float dsigma, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float v = u ? u[i] + g * (c[i] - u[i]) : c[i];
        c[i] = v;
        x[i] += dsigma * v;
    }
}

static void axpb(float *y, const float *x, float a, float c, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = a * x[i] + c;
}

static void attn_pack(float *to, struct taca_mat q) {
    for (int64_t c = 0; c < q.cols; c++)
        for (int64_t r = 0; r < CPU_ATTN_NQ; r++)
            to[c * CPU_ATTN_NQ + r] = r < q.rows ? cpu_get(cpu_row(q, r).p, q.dtype, c) : 0;
}

/* One query's scores in s[nk]; returns their maximum. */
static float scores(float *s, const struct cpu_attn_tile *t, int64_t i, int64_t nk) {
    float max = -INFINITY;
    for (int64_t j = 0; j < nk; j++) {
        struct cpu_run k = cpu_row(t->k, j);
        float dot = 0;
        for (int64_t c = 0; c < t->d; c++)
            dot += t->q[c * CPU_ATTN_NQ + i] * cpu_get(k.p, k.dtype, c);
        s[j] = t->factor * dot;
        if (t->bias) s[j] += t->bias[i - j];
        if (s[j] > max) max = s[j];
    }
    return max;
}

static void attn_tile(const struct cpu_attn_tile *t) {
    for (int64_t i = 0; i < t->nq; i++) {
        int64_t nk = t->causal < t->nk && i + t->causal + 1 < t->nk ? i + t->causal + 1 : t->nk;
        if (nk <= 0) continue;
        float *s = t->work, *o = t->o + i * t->d;
        float max = fmaxf(t->max[i], scores(s, t, i, nk));
        float keep = expf(t->max[i] - max), sum = t->sum[i] * keep;
        for (int64_t c = 0; c < t->d; c++) o[c] *= keep;
        for (int64_t j = 0; j < nk; j++) {
            struct cpu_run v = cpu_row(t->v, j);
            float p = expf(s[j] - max);
            sum += p;
            for (int64_t c = 0; c < t->d; c++) o[c] += p * cpu_get(v.p, v.dtype, c);
        }
        t->max[i] = max;
        t->sum[i] = sum;
    }
}

static void channel_sums(float *sum, struct cpu_run x, int64_t n, int64_t c) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < c; k++) sum[k] += cpu_get(x.p, x.dtype, i * c + k);
}

static void channel_squares(float *sq, struct cpu_run x, const float *mean, int64_t n, int64_t c) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < c; k++) {
            float d = cpu_get(x.p, x.dtype, i * c + k) - mean[k];
            sq[k] += d * d;
        }
}

static void channel_affine(struct cpu_run y, struct cpu_run x, const float *mul, const float *add_,
                           int64_t n, int64_t c, bool silu) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < c; k++) {
            float v = cpu_get(x.p, x.dtype, i * c + k) * mul[k] + add_[k];
            cpu_put(y.p, y.dtype, i * c + k, silu ? cpu_act(v, TACA_ACT_SILU) : v);
        }
}

const struct cpu_kernels cpu_kernels_scalar = {
    .name = "scalar",
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
