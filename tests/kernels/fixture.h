/* fixture.h - what the kernel tests share: backends to run on, matrices with a double-precision
 * twin on the host, and a comparison that knows how coarse bf16 is.
 *
 * Every matrix lives in backend memory with guard elements between and after its rows (ld > cols);
 * a fetch fails the test when an op has written there. */
#ifndef TACA_TESTS_KERNELS_FIXTURE_H
#define TACA_TESTS_KERNELS_FIXTURE_H

#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"
#include "tests/test.h"

#define MAYBE __attribute__((unused)) static

static struct taca_backend *fx; /* the backend under test */
static const char *fx_name;
static uint64_t fx_rng = 1;

/* Runs body on the device that TACA_TEST_DEVICE names, f32 and bf16, or the one that
 * TACA_TEST_DTYPE names. */
MAYBE void fx_each_on(const char *device, void (*body)(void)) {
    const char *only = getenv("TACA_TEST_DTYPE");
    for (int i = 0; i < 2; i++) {
        if (only && strcmp(only, taca_dtype_name(i ? TACA_BF16 : TACA_F32)) != 0) continue;
        struct taca_err err = {0};
        const struct taca_backend_opts opts = {.precision = i ? TACA_BF16 : TACA_F32};
        CHECK_OK(taca_backend_open(&fx, device, &opts, &err), err);
        if (err.code != TACA_OK) return;
        fx_name = i ? "device bf16" : "device f32";
        fx_rng = 0x9E3779B97F4A7C15u;
        body();
        taca_backend_close(fx);
        fx = NULL;
    }
}

/* Runs body on every backend there is: plain C and both vector codes, f32 and bf16; or on the one
 * device that TACA_TEST_DEVICE names. */
MAYBE void fx_each(void (*body)(void)) {
    const char *device = getenv("TACA_TEST_DEVICE");
    if (device) {
        fx_each_on(device, body);
        return;
    }
    static const struct {
        const char *name;
        struct taca_backend_opts opts;
        bool avx2; /* where the CPU would choose better */
    } set[] = {
        {"scalar f32", {.threads = 2, .precision = TACA_F32, .scalar = true}, false},
        {"scalar bf16", {.threads = 1, .precision = TACA_BF16, .scalar = true}, false},
        {"f32", {.threads = 2, .precision = TACA_F32}, false},
        {"avx2 f32", {.threads = 2, .precision = TACA_F32}, true},
        {"bf16", {.threads = 2, .precision = TACA_BF16}, false},
        {"f32 deterministic", {.threads = 2, .precision = TACA_F32, .deterministic = true}, false},
        {"bf16 deterministic",
         {.threads = 2, .precision = TACA_BF16, .deterministic = true},
         false},
    };
    for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
        struct taca_err err = {0};
        CHECK_OK(taca_cpu_open(&fx, &set[i].opts, &err), err);
        if (err.code != TACA_OK) return;
        fx_name = set[i].name;
        if (set[i].avx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
            cpu_of(fx)->k = &cpu_kernels_avx2;
        fx_rng = 0x9E3779B97F4A7C15u;
        if (taca_backend_precision(fx) == set[i].opts.precision) body();
        taca_backend_close(fx);
        fx = NULL;
    }
}

MAYBE double fx_uniform(void) { /* (0, 1) */
    fx_rng ^= fx_rng << 13, fx_rng ^= fx_rng >> 7, fx_rng ^= fx_rng << 17;
    return ((double)(fx_rng >> 11) + 0.5) * 0x1p-53;
}
MAYBE double fx_normal(void) {
    return sqrt(-2 * log(fx_uniform())) * cos(6.283185307179586 * fx_uniform());
}

/* v as dtype holds it, by the definition of round to nearest even */
MAYBE double fx_round(double v, enum taca_dtype t) {
    float f = (float)v;
    if (t == TACA_F32 || f == 0 || !isfinite(f)) return (double)f;
    int e;
    (void)frexp((double)f, &e);
    double ulp = ldexp(1, e - 8);
    return nearbyint((double)f / ulp) * ulp;
}

/* A matrix in backend memory and its values in double. */
struct fx_mat {
    struct taca_mat m;
    double *v; /* [rows, cols], dense */
};

enum { FX_GUARD = 7 };
#define FX_SENTINEL 12352.0f /* exact in bf16 */

MAYBE void fx_host_store(void *host, enum taca_dtype t, int64_t i, double v) {
    float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (t == TACA_F32)
        ((float *)host)[i] = f;
    else
        ((uint16_t *)host)[i] = (uint16_t)(bits >> 16); /* f is exact in bf16 */
}
MAYBE double fx_host_load(const void *host, enum taca_dtype t, int64_t i) {
    float f;
    taca_to_f32(&f, (const char *)host + (size_t)i * taca_dtype_bytes(t), t, 1);
    return (double)f;
}
MAYBE size_t fx_bytes(struct taca_mat m) {
    return (size_t)(m.rows * m.ld + FX_GUARD) * taca_dtype_bytes(m.dtype);
}

/* Values rounded to dtype and sent to the backend, guards set. */
MAYBE void fx_send(struct fx_mat *x) {
    struct taca_mat m = x->m;
    char *host = malloc(fx_bytes(m));
    for (int64_t i = 0; i < m.rows * m.ld + FX_GUARD; i++) {
        int64_t r = i / m.ld, c = i % m.ld;
        bool inside = r < m.rows && c < m.cols;
        if (inside) x->v[r * m.cols + c] = fx_round(x->v[r * m.cols + c], m.dtype);
        fx_host_store(host, m.dtype, i, inside ? x->v[r * m.cols + c] : (double)FX_SENTINEL);
    }
    taca_upload(fx, m.data, host, fx_bytes(m));
    free(host);
}

/* A normal matrix times `scale`, rows `gap` elements apart. */
MAYBE struct fx_mat fx_new(enum taca_dtype t, int64_t rows, int64_t cols, int64_t gap,
                           double scale) {
    struct taca_err err = {0};
    struct fx_mat x = {{NULL, t, rows, cols, cols + gap}, NULL};
    x.m.data = taca_alloc(fx, fx_bytes(x.m), &err);
    x.v = calloc((size_t)(rows * cols) + 1, sizeof *x.v);
    for (int64_t i = 0; i < rows * cols; i++) x.v[i] = scale * fx_normal();
    fx_send(&x);
    return x;
}

MAYBE void fx_free(struct fx_mat *x) {
    taca_free(fx, x->m.data);
    free(x->v);
}

/* Reads the matrix back into v and checks the guards. */
MAYBE void fx_fetch(struct fx_mat *x) {
    struct taca_mat m = x->m;
    char *host = malloc(fx_bytes(m));
    bool guards = true;
    taca_download(fx, host, m.data, fx_bytes(m));
    for (int64_t i = 0; i < m.rows * m.ld + FX_GUARD; i++) {
        double v = fx_host_load(host, m.dtype, i);
        int64_t r = i / m.ld, c = i % m.ld;
        if (r < m.rows && c < m.cols)
            x->v[r * m.cols + c] = v;
        else
            guards &= v == (double)FX_SENTINEL;
    }
    CHECK(guards);
    free(host);
}

/* The op went well, and got (fetched) is want to within tol * max(1, |want|) plus half a step of
 * its dtype. want [rows, cols]. */
MAYBE void fx_check(const char *what, struct fx_mat *got, const double *want, double tol) {
    struct taca_err err = {0};
    CHECK_OK(taca_sync(fx, &err), err);
    fx_fetch(got);
    const double step = got->m.dtype == TACA_BF16 ? 0x1p-8 : 0;
    double worst = 0;
    int64_t at = 0, n = got->m.rows * got->m.cols;
    for (int64_t i = 0; i < n; i++) {
        double size = fabs(want[i]) > 1 ? fabs(want[i]) : 1;
        double d = (fabs(got->v[i] - want[i]) - step * fabs(want[i])) / size;
        if (!(d <= worst)) worst = d, at = i;
        if (isnan(d)) break;
    }
    if (!test_check(worst <= tol, __FILE__, __LINE__, what))
        printf("        %s, %s [%" PRId64 ", %" PRId64 "]: row %" PRId64 " column %" PRId64
               " is %.9g, wanted %.9g (%.3g > %.3g)\n",
               fx_name, what, got->m.rows, got->m.cols, at / got->m.cols, at % got->m.cols,
               got->v[at], want[at], worst, tol);
}

/* A host tensor of normal values for weights; values rounded to dtype f32, f16 is not used. */
struct fx_tensor {
    struct taca_tensor t;
    float *f;
};
MAYBE struct fx_tensor fx_tensor(const char *name, double scale, int rank, const int64_t *dim) {
    struct fx_tensor x = {{.name = name, .dtype = TACA_F32, .rank = rank}, NULL};
    for (int i = 0; i < rank; i++) x.t.dim[i] = dim[i];
    int64_t n = taca_tensor_count(&x.t);
    x.f = malloc((size_t)n * sizeof *x.f);
    for (int64_t i = 0; i < n; i++) x.f[i] = (float)(scale * fx_normal());
    x.t.data = x.f;
    return x;
}

MAYBE struct taca_vec fx_vec(const struct fx_tensor *t) {
    struct taca_err err = {0};
    struct taca_vec v = {0};
    CHECK_OK(taca_vec_open(fx, &v, &t->t, &err), err);
    return v;
}

/* Segments from pairs of (image rows, text rows). */
struct fx_layout {
    struct taca_layout l;
    struct taca_seg seg[8];
    int n;
};
MAYBE void fx_layout(struct fx_layout *x, int n, const int64_t (*rows)[2], const float *gamma) {
    struct taca_err err = {0};
    int64_t img = 0, txt = 0;
    for (int i = 0; i < n; i++) {
        x->seg[i] = (struct taca_seg){img, rows[i][0], txt, rows[i][1], gamma ? gamma[i] : 1.0f};
        img += rows[i][0];
        txt += rows[i][1];
    }
    x->n = n;
    CHECK_OK(taca_layout_init(&x->l, fx, x->seg, n, &err), err);
}

MAYBE double fx_act(double x, enum taca_act act) {
    switch (act) {
    case TACA_ACT_NONE: return x;
    case TACA_ACT_SILU: return x / (1 + exp(-x));
    case TACA_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case TACA_ACT_GELU_ERF: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case TACA_ACT_QUICK_GELU: return x / (1 + exp(-1.702 * x));
    case TACA_ACT_RELU: return x > 0 ? x : 0;
    }
    return nan("");
}

#endif
