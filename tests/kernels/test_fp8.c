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

/* A norm writes 8-bit rows itself: the product has the bits that it has of bf16 rows. */
static void check_norm(int64_t d, int64_t gap, bool gated) {
    static const int64_t segs[][2] = {{4, 0}, {3, 0}};
    enum { ROWS = 7, OUT = 32 };
    struct taca_err err = {0};
    struct fx_layout lay;
    fx_layout(&lay, 2, segs, NULL);
    struct fx_mat x = fx_new(TACA_F32, ROWS, d, gap, 2), z = fx_new(TACA_F32, ROWS, d, gap, 1);
    struct fx_mat mod = fx_new(TACA_F32, 2, 3 * d, gap, 1), h = fx_new(TACA_BF16, ROWS, d, 0, 1);
    struct fx_mat y = fx_new(TACA_F32, ROWS, OUT, 0, 1), y8 = fx_new(TACA_F32, ROWS, OUT, 0, 1);
    struct fx_mat x8 = fx_new(TACA_F32, ROWS, d, gap, 1);
    struct fx_tensor w = fx_tensor("w", 0.1, 2, (int64_t[]){OUT, d});
    struct taca_linear *l = NULL;
    taca_backend_narrow(fx, true);
    CHECK_OK(taca_linear_open(fx, &l, &w.t, NULL, 1, &err), err);
    CHECK_INT(taca_linear_input(fx, l), TACA_U8);
    struct taca_mat q = {NULL, TACA_U8, ROWS, d, d + TACA_ROW_SCALE};
    q.data = taca_alloc(fx, (size_t)(q.rows * q.ld), &err);
    const struct taca_adaln m = {mod.m, 0, d, 2 * d, &lay.l, TACA_IMG, 1e-6f};
    taca_activate(fx, x8.m, x.m, TACA_ACT_NONE);
    for (int narrow = 0; narrow < 2; narrow++) {
        const struct taca_mat from = narrow ? x8.m : x.m, to = narrow ? q : h.m;
        if (gated)
            taca_gate_norm(fx, to, from, z.m, &m);
        else
            taca_norm_modulate(fx, to, from, mod.m, d, 2 * d, &lay.l, TACA_IMG, 1e-6f);
        taca_linear(fx, narrow ? y8.m : y.m, to, l, TACA_ACT_NONE);
    }
    CHECK_OK(taca_sync(fx, &err), err);
    fx_fetch(&y), fx_fetch(&y8);
    CHECK(y.v[0] != 0 && y.v[0] != y.v[1]); /* something is compared */
    CHECK(memcmp(y.v, y8.v, ROWS * OUT * sizeof *y.v) == 0);
    taca_free(fx, q.data);
    free(w.f);
    fx_free(&x), fx_free(&z), fx_free(&mod), fx_free(&h), fx_free(&y), fx_free(&y8), fx_free(&x8);
    taca_layout_finish(&lay.l);
}

static void test_norms_into_8_bits_have_the_bits_of_two_passes(void) {
    static const int64_t widths[] = {16, 48, 1040, 4112};
    if (!open_fp8()) return;
    for (int i = 0; i < 16; i++) check_norm(widths[i / 4], i & 1 ? 1 : 0, i & 2);
    taca_backend_close(fx);
}

/* Where no 8-bit map is, or no room for the scales, rows in 8 bits are refused. */
static void test_8_bit_rows_are_for_narrow_maps_alone(void) {
    struct taca_err err = {0};
    struct taca_linear *l = NULL;
    if (!open_fp8()) return;
    struct fx_mat y = fx_new(TACA_BF16, 2, 16, 0, 1);
    struct fx_tensor w = fx_tensor("w", 1, 2, (int64_t[]){16, 16});
    const struct taca_mat q = {y.m.data, TACA_U8, 2, 16, 16 + TACA_ROW_SCALE};
    CHECK_OK(taca_linear_open(fx, &l, &w.t, NULL, 1, &err), err);
    CHECK_INT(taca_linear_input(fx, l), TACA_BF16);
    taca_linear(fx, y.m, q, l, TACA_ACT_NONE);
    CHECK_INT(taca_sync(fx, &err), TACA_EINTERNAL);
    CHECK_HAS(err.text, "weight in bf16");
    taca_activate(fx, y.m, q, TACA_ACT_NONE);
    CHECK_INT(taca_sync(fx, &(struct taca_err){0}), TACA_EINTERNAL);
    taca_backend_narrow(fx, true);
    err = (struct taca_err){0};
    CHECK_OK(taca_linear_open(fx, &l, &w.t, NULL, 1, &err), err);
    taca_linear(fx, y.m, (struct taca_mat){y.m.data, TACA_U8, 2, 16, 16}, l, TACA_ACT_NONE);
    CHECK_INT(taca_sync(fx, &err), TACA_EINTERNAL);
    CHECK_HAS(err.text, "no room for scales");
    free(w.f);
    fx_free(&y);
    taca_backend_close(fx);
}

int main(void) {
    TEST(test_a_narrow_linear_is_its_contract);
    TEST(test_a_map_of_odd_sides_stays_wide);
    TEST(test_a_row_of_zeros_gives_the_bias);
    TEST(test_norms_into_8_bits_have_the_bits_of_two_passes);
    TEST(test_8_bit_rows_are_for_narrow_maps_alone);
    return TEST_END();
}
