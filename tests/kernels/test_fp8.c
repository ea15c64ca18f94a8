/* test_fp8.c - linear maps in 8-bit floats against the contract of taca_backend_narrow in double
 * precision, on the device that TACA_TEST_DEVICE names. */
#include "tests/kernels/fixture.h"

/* Every finite e4m3 value of one sign, from its definition: sign, 4 bits of exponent biased by 7, 3
 * of mantissa, the last pattern of all is NaN. */
static double e4m3_value(int bits) {
    const int e = bits >> 3, m = bits & 7;
    return e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
}

/* The nearest of them, ties to the even pattern; 448 at most. */
static double e4m3(double x) {
    int best = 0;
    for (int k = 1; k < 127; k++) {
        const double d = fabs(fabs(x) - e4m3_value(k)), old = fabs(fabs(x) - e4m3_value(best));
        if (d < old || (d == old && k % 2 == 0)) best = k;
    }
    return copysign(e4m3_value(best), x);
}

/* v [rows, cols] as 8-bit rows times their scales; the scale is what float arithmetic makes of it.
 */
static void quantise(double *v, int64_t rows, int64_t cols) {
    for (int64_t r = 0; r < rows; r++) {
        double top = 0;
        for (int64_t i = 0; i < cols; i++) top = fmax(top, fabs(v[r * cols + i]));
        const float scale = top > 0 ? (float)top / 448 : 1;
        for (int64_t i = 0; i < cols; i++)
            v[r * cols + i] = e4m3((double)((float)v[r * cols + i] / scale)) * (double)scale;
    }
}

static bool open_fp8(void) {
    struct taca_err err = {0};
    const struct taca_backend_opts o = {.precision = TACA_BF16, .narrow = TACA_NARROW_FP8};
    const char *device = getenv("TACA_TEST_DEVICE");
    if (!device) {
        SKIP("TACA_TEST_DEVICE names no device");
        return false;
    }
    CHECK_OK(taca_backend_open(&fx, device, &o, &err), err);
    if (err.code) return false;
    fx_name = "fp8";
    if (taca_backend_narrow_type(fx) == TACA_NARROW_FP8) return true;
    SKIP("the device has no 8-bit floats");
    taca_backend_close(fx);
    return false;
}

/* The bf16 weights that 8-bit ones are made from, and the product with 8-bit inputs. */
static double *product(const struct fx_mat *x, const struct fx_tensor *w, const struct fx_tensor *b,
                       enum taca_act act) {
    const int64_t rows = x->m.rows, in = x->m.cols, out = w->t.dim[0];
    double *y = calloc((size_t)(rows * out), sizeof *y);
    double *q = malloc((size_t)(rows * in) * sizeof *q),
           *v = malloc((size_t)(out * in) * sizeof *v);
    for (int64_t i = 0; i < rows * in; i++) q[i] = x->v[i];
    for (int64_t i = 0; i < out * in; i++) v[i] = fx_round((double)w->f[i], TACA_BF16);
    quantise(q, rows, in);
    quantise(v, out, in);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < out; o++) {
            double s = b ? fx_round((double)b->f[o], TACA_BF16) : 0;
            for (int64_t i = 0; i < in; i++) s += q[r * in + i] * v[o * in + i];
            y[r * out + o] = fx_act(s, act);
        }
    free(q);
    free(v);
    return y;
}

static void check(int64_t rows, int64_t in, int64_t out, enum taca_dtype xt, enum taca_dtype yt,
                  enum taca_act act) {
    const int64_t dim[] = {out, in};
    struct taca_err err = {0};
    struct fx_mat x = fx_new(xt, rows, in, 3, 1), y = fx_new(yt, rows, out, 16, 1);
    struct fx_tensor w = fx_tensor("w", 0.2, 2, dim), b = fx_tensor("b", 1, 1, dim);
    struct taca_linear *l = NULL;
    taca_backend_narrow(fx, true);
    CHECK_OK(taca_linear_open(fx, &l, &w.t, &b.t, 1, &err), err);
    taca_backend_narrow(fx, false);
    CHECK_INT(l->dtype, TACA_U8);
    taca_linear(fx, y.m, x.m, l, act);
    double *want = product(&x, &w, &b, act);
    /* the product is rounded to bf16 before it is anything else */
    fx_check("fp8 linear", &y, want, 0x1p-8 * 3);
    free(want);
    fx_free(&x);
    fx_free(&y);
    free(w.f);
    free(b.f);
}

static void test_a_narrow_linear_is_its_contract(void) {
    if (!open_fp8()) return;
    check(1, 16, 16, TACA_BF16, TACA_BF16, TACA_ACT_NONE);
    check(37, 64, 48, TACA_BF16, TACA_BF16, TACA_ACT_GELU_TANH);
    check(5, 32, 96, TACA_F32, TACA_F32, TACA_ACT_SILU);
    check(130, 80, 16, TACA_F32, TACA_BF16, TACA_ACT_NONE);
    taca_backend_close(fx);
}

/* The library wants sides of 16; other maps stay what they were. */
static void test_a_map_of_odd_sides_stays_wide(void) {
    const int64_t dim[] = {24, 20};
    struct taca_err err = {0};
    struct taca_linear *l = NULL;
    if (!open_fp8()) return;
    struct fx_tensor w = fx_tensor("w", 1, 2, dim);
    taca_backend_narrow(fx, true);
    CHECK_OK(taca_linear_open(fx, &l, &w.t, NULL, 1, &err), err);
    CHECK_INT(l->dtype, TACA_BF16);
    free(w.f);
    taca_backend_close(fx);
}

static void test_a_row_of_zeros_gives_the_bias(void) {
    const int64_t dim[] = {16, 16};
    struct taca_err err = {0};
    struct taca_linear *l = NULL;
    double want[3 * 16];
    if (!open_fp8()) return;
    struct fx_mat x = fx_new(TACA_BF16, 3, 16, 0, 0), y = fx_new(TACA_BF16, 3, 16, 0, 1);
    struct fx_tensor w = fx_tensor("w", 1, 2, dim), b = fx_tensor("b", 1, 1, dim);
    taca_backend_narrow(fx, true);
    CHECK_OK(taca_linear_open(fx, &l, &w.t, &b.t, 1, &err), err);
    taca_linear(fx, y.m, x.m, l, TACA_ACT_NONE);
    for (int i = 0; i < 3 * 16; i++) want[i] = fx_round((double)b.f[i % 16], TACA_BF16);
    fx_check("zeros", &y, want, 0);
    fx_free(&x);
    fx_free(&y);
    free(w.f);
    free(b.f);
    taca_backend_close(fx);
}

int main(void) {
    TEST(test_a_narrow_linear_is_its_contract);
    TEST(test_a_map_of_odd_sides_stays_wide);
    TEST(test_a_row_of_zeros_gives_the_bias);
    return TEST_END();
}
