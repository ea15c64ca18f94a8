/* test_int8.c - linear maps in 8 bits against the contract of taca_backend_narrow in double
 * precision: scales from the largest magnitudes, nearest integers, exact sums. */
#include "tests/kernels/fixture.h"

static bool open_int8(int threads) {
    struct taca_err err = {0};
    const struct taca_backend_opts o = {
        .threads = threads, .precision = TACA_BF16, .narrow = TACA_NARROW_INT8};
    CHECK_OK(taca_cpu_open(&fx, &o, &err), err);
    fx_name = "int8";
    if (err.code != TACA_OK) return false;
    if (taca_backend_narrow_type(fx)) return true;
    taca_backend_close(fx);
    return false;
}

/* v in steps of the row's largest magnitude / 127, in the contract's float arithmetic. */
static double narrow(const double *v, int64_t n, int *q) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(v[i]));
    const float one = most > 0 ? 127 / (float)most : 0;
    for (int64_t i = 0; i < n; i++) q[i] = (int)nearbyint((double)((float)v[i] * one));
    return most / 127;
}

struct map {
    struct fx_tensor w, b;
    struct taca_linear *l;
    int64_t out, in;
};

static struct map open_map(int64_t out, int64_t in) {
    struct taca_err err = {0};
    struct map m = {fx_tensor("w", 0.3, 2, (int64_t[]){out, in}), fx_tensor("b", 1, 1, &out), NULL,
                    out, in};
    taca_backend_narrow(fx, true);
    CHECK_OK(taca_linear_open(fx, &m.l, &m.w.t, &m.b.t, 1, &err), err);
    taca_backend_narrow(fx, false);
    CHECK_INT(m.l->dtype, TACA_U8);
    return m;
}

static void close_map(struct map *m) {
    taca_linear_close(fx, m->l);
    free(m->w.f), free(m->b.f);
}

static double *want_of(const struct map *m, const struct fx_mat *x) {
    double *want = calloc((size_t)(x->m.rows * m->out), sizeof *want);
    double *row = calloc((size_t)m->in, sizeof *row);
    int *qx = calloc((size_t)m->in, sizeof *qx), *qw = calloc((size_t)m->in, sizeof *qw);
    for (int64_t o = 0; o < m->out; o++) {
        for (int64_t i = 0; i < m->in; i++) row[i] = (double)m->w.f[o * m->in + i];
        const double sw = narrow(row, m->in, qw);
        for (int64_t r = 0; r < x->m.rows; r++) {
            const double sx = narrow(x->v + r * m->in, m->in, qx);
            double sum = 0;
            for (int64_t i = 0; i < m->in; i++) sum += (double)qx[i] * (double)qw[i];
            want[r * m->out + o] = sum * sx * sw + (double)m->b.f[o];
        }
    }
    free(row), free(qx), free(qw);
    return want;
}

static void test_sums_are_those_of_integers(void) {
    static const int64_t shape[][3] = {/* rows, in, out */
                                       {1, 1, 1},   {12, 4, 32},   {13, 5, 33},
                                       {3, 67, 40}, {25, 192, 31}, {300, 1536, 70}};
    static const enum taca_dtype floats[] = {TACA_F32, TACA_BF16};
    if (!open_int8(2)) {
        SKIP("no AVX512-VNNI");
        return;
    }
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int t = 0; t < 4; t++) {
            struct map m = open_map(shape[i][2], shape[i][1]);
            struct fx_mat x = fx_new(floats[t & 1], shape[i][0], m.in, 5, 2);
            struct fx_mat y = fx_new(floats[t >> 1], shape[i][0], m.out, 3, 1);
            taca_linear(fx, y.m, x.m, m.l, TACA_ACT_NONE);
            double *want = want_of(&m, &x);
            fx_check("int8 linear", &y, want, 1e-6);
            free(want);
            fx_free(&x), fx_free(&y);
            close_map(&m);
        }
    taca_backend_close(fx);
}

static void test_an_activation_follows(void) {
    if (!open_int8(1)) {
        SKIP("no AVX512-VNNI");
        return;
    }
    struct map m = open_map(48, 64);
    struct fx_mat x = fx_new(TACA_F32, 7, 64, 0, 1), y = fx_new(TACA_F32, 7, 48, 0, 1);
    taca_linear(fx, y.m, x.m, m.l, TACA_ACT_SILU);
    double *want = want_of(&m, &x);
    for (int64_t i = 0; i < 7 * 48; i++) want[i] /= 1 + exp(-want[i]);
    fx_check("int8 linear, SiLU", &y, want, 2e-6);
    free(want);
    fx_free(&x), fx_free(&y);
    close_map(&m);
    taca_backend_close(fx);
}

static void test_rows_of_zeros_and_of_nan_stay_apart(void) {
    struct taca_err err = {0};
    if (!open_int8(2)) {
        SKIP("no AVX512-VNNI");
        return;
    }
    struct map m = open_map(40, 20);
    struct fx_mat x = fx_new(TACA_F32, 3, 20, 1, 1), y = fx_new(TACA_F32, 3, 40, 1, 1);
    for (int64_t i = 0; i < 20; i++) x.v[i] = 0;
    x.v[20 + 7] = (double)NAN;
    fx_send(&x);
    taca_linear(fx, y.m, x.m, m.l, TACA_ACT_NONE);
    CHECK_OK(taca_sync(fx, &err), err);
    fx_fetch(&y);
    for (int64_t o = 0; o < 40; o++) {
        CHECK_NEAR(y.v[o], m.b.f[o], 0);
        CHECK(isnan(y.v[40 + o]));
        CHECK(isfinite(y.v[80 + o]));
    }
    fx_free(&x), fx_free(&y);
    close_map(&m);
    taca_backend_close(fx);
}

static void test_a_row_does_not_depend_on_the_others(void) {
    struct taca_err err = {0};
    if (!open_int8(2)) {
        SKIP("no AVX512-VNNI");
        return;
    }
    struct map m = open_map(70, 130);
    struct fx_mat x = fx_new(TACA_BF16, 29, 130, 0, 1), y = fx_new(TACA_F32, 29, 70, 0, 1);
    struct fx_mat one = fx_new(TACA_F32, 1, 70, 0, 1);
    taca_linear(fx, y.m, x.m, m.l, TACA_ACT_GELU_TANH);
    CHECK_OK(taca_sync(fx, &err), err);
    fx_fetch(&y);
    for (int64_t r = 0; r < 29; r++) {
        taca_linear(fx, one.m, taca_mat_rows(x.m, r, 1), m.l, TACA_ACT_GELU_TANH);
        CHECK_OK(taca_sync(fx, &err), err);
        fx_fetch(&one);
        CHECK(memcmp(one.v, y.v + r * 70, 70 * sizeof *one.v) == 0);
    }
    fx_free(&x), fx_free(&y), fx_free(&one);
    close_map(&m);
    taca_backend_close(fx);
}

static void test_only_narrow_maps_are_narrow(void) {
    struct taca_err err = {0};
    struct taca_linear *l = NULL;
    if (!open_int8(1)) {
        SKIP("no AVX512-VNNI");
        return;
    }
    struct fx_tensor w = fx_tensor("w", 1, 2, (int64_t[]){8, 8});
    CHECK_OK(taca_linear_open(fx, &l, &w.t, NULL, 1, &err), err);
    CHECK_INT(l->dtype, taca_backend_precision(fx));
    taca_backend_close(fx);
    const struct taca_backend_opts plain = {.threads = 1, .precision = TACA_BF16};
    CHECK_OK(taca_cpu_open(&fx, &plain, &err), err);
    taca_backend_narrow(fx, true);
    CHECK_OK(taca_linear_open(fx, &l, &w.t, NULL, 1, &err), err);
    CHECK_INT(l->dtype, taca_backend_precision(fx));
    taca_backend_close(fx);
    free(w.f);
}

int main(void) {
    TEST(test_sums_are_those_of_integers);
    TEST(test_an_activation_follows);
    TEST(test_rows_of_zeros_and_of_nan_stay_apart);
    TEST(test_a_row_does_not_depend_on_the_others);
    TEST(test_only_narrow_maps_are_narrow);
    return TEST_END();
}
