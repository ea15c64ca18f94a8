/* test_t5_ops.c - what a T5 encoder adds to the ops: products, RMS norm of rows, attention with a
 * bias by distance. Each against its equation in double precision, on every backend. */
#include "tests/kernels/attn_fixture.h"

static const int64_t sizes[][2] = {{1, 1},  {1, 7},    {2, 16},   {7, 17},  {3, 33},
                                   {5, 65}, {33, 130}, {3, 1040}, {2, 4104}};
enum { SIZES = sizeof sizes / sizeof *sizes };
static const enum taca_dtype floats[] = {TACA_F32, TACA_BF16};

static double *doubles(int64_t n) { return calloc((size_t)n + 1, sizeof(double)); }

static void multiply_body(void) {
    for (int i = 0; i < SIZES * 8; i++) {
        const int64_t *n = sizes[i % SIZES];
        const int t = i / SIZES;
        struct fx_mat a = fx_new(floats[t & 1], n[0], n[1], 3, 2);
        struct fx_mat c = fx_new(floats[t >> 1 & 1], n[0], n[1], 0, 2);
        struct fx_mat y = fx_new(floats[t >> 2], n[0], n[1], 1, 1);
        double *want = doubles(n[0] * n[1]);
        for (int64_t k = 0; k < n[0] * n[1]; k++) want[k] = a.v[k] * c.v[k];
        taca_multiply(fx, y.m, a.m, c.m);
        fx_check("multiply", &y, want, 1e-7);
        taca_multiply(fx, a.m, a.m, c.m);
        fx_check("multiply in place", &a, want, 1e-7);
        free(want);
        fx_free(&a), fx_free(&c), fx_free(&y);
    }
}
static void test_multiply_is_a_product(void) { fx_each(multiply_body); }

static void rms_want(double *want, const struct fx_mat *x, const float *gain, double eps) {
    const int64_t n = x->m.cols;
    for (int64_t r = 0; r < x->m.rows; r++) {
        double sum = 0;
        for (int64_t c = 0; c < n; c++) sum += x->v[r * n + c] * x->v[r * n + c];
        for (int64_t c = 0; c < n; c++)
            want[r * n + c] = x->v[r * n + c] / sqrt(sum / (double)n + eps) * (double)gain[c];
    }
}

static void rms_body(void) {
    for (int i = 0; i < SIZES * 4; i++) {
        const int64_t *n = sizes[i % SIZES];
        const int t = i / SIZES;
        /* small rows, so that eps counts; a mean far from 0, which is not taken off */
        const int64_t gap = n[1] % 8 ? 3 : 8;
        struct fx_mat x = fx_new(floats[t & 1], n[0], n[1], gap, 1e-3);
        struct fx_mat y = fx_new(floats[t >> 1], n[0], n[1], gap, 1);
        for (int64_t k = 0; k < n[1]; k++) x.v[k] += 3;
        fx_send(&x);
        struct fx_tensor g = fx_tensor("g", 1, 1, &n[1]);
        const struct taca_vec gain = fx_vec(&g);
        double *want = doubles(n[0] * n[1]);
        rms_want(want, &x, g.f, 1e-6);
        taca_rms_norm(fx, y.m, x.m, &gain, 1e-6f);
        fx_check("rms_norm", &y, want, 2e-6);
        taca_rms_norm(fx, x.m, x.m, &gain, 1e-6f);
        fx_check("rms_norm in place", &x, want, 2e-6);
        free(want), free(g.f);
        fx_free(&x), fx_free(&y);
    }
}
static void test_rms_norm_keeps_the_mean(void) { fx_each(rms_body); }

/* Every head its own table; segments shorter and as long as the table; tiles of queries and keys
 * cut everywhere. Scores are not scaled, as in T5. */
static void bias_body(void) {
    static const int64_t rows[][2] = {{1, 0},  {31, 0}, {32, 0}, {33, 0},
                                      {64, 0}, {65, 0}, {150, 0}};
    static const int64_t n[] = {150, 151, 200};
    for (size_t i = 0; i < sizeof n / sizeof *n; i++)
        for (int t = 0; t < 2; t++) {
            struct attn_case c = {
                .heads = 3, .d = 12, .scale = 1, .mask = (enum taca_mask)(i == 1)};
            attn_open(&c, 7, rows, NULL, floats[t], TACA_F32);
            c.bias = fx_new(TACA_F32, 3, 2 * n[i] - 1, 5, 3);
            attn_check("attention with a bias by distance", &c, 2e-5);
            fx_free(&c.bias);
            attn_close(&c);
        }
}
static void test_a_bias_depends_on_head_and_distance(void) { fx_each(bias_body); }

/* The heads of T5 as its layers have them: bf16, rows on 16 bytes. */
static void bias_64_body(void) {
    static const int64_t rows[][2] = {{150, 0}, {1, 0}, {64, 0}};
    struct attn_case c = {.heads = 2, .d = 64, .scale = 0.125f, .aligned = true};
    attn_open(&c, 3, rows, NULL, TACA_BF16, TACA_BF16);
    c.bias = fx_new(TACA_F32, 2, 2 * 150 - 1, 5, 3);
    attn_check("attention with a bias, heads of 64", &c, 2e-5);
    fx_free(&c.bias);
    attn_close(&c);
}
static void test_a_bias_reaches_heads_of_64(void) { fx_each(bias_64_body); }

/* A bias of 0 everywhere is the plain attention, bit for bit. */
static void zero_bias_body(void) {
    static const int64_t rows[][2] = {{70, 0}, {9, 0}};
    struct attn_case c = {.heads = 2, .d = 17};
    attn_open(&c, 2, rows, NULL, TACA_F32, TACA_F32);
    attn_run(&c);
    fx_fetch(&c.o[0]);
    double *plain = doubles(79 * 34);
    memcpy(plain, c.o[0].v, (size_t)(79 * 34) * sizeof *plain);
    c.bias = fx_new(TACA_F32, 2, 139, 0, 0);
    attn_run(&c);
    fx_check("attention with zeros added", &c.o[0], plain, 0);
    free(plain);
    fx_free(&c.bias);
    attn_close(&c);
}
static void test_zeros_change_nothing(void) { fx_each(zero_bias_body); }

static void refused(const char *says) {
    struct taca_err err = {0};
    CHECK_INT(taca_sync(fx, &err), TACA_EINTERNAL);
    CHECK_HAS(err.text, says);
}

static void refusals_body(void) {
    static const int64_t image[][2] = {{8, 0}, {5, 0}}, both[][2] = {{8, 2}};
    struct fx_mat x = fx_new(TACA_F32, 3, 4, 0, 1), y = fx_new(TACA_F32, 3, 5, 0, 1);
    struct fx_tensor g = fx_tensor("g", 1, 1, (int64_t[]){5});
    const struct taca_vec gain = fx_vec(&g);
    taca_multiply(fx, y.m, y.m, x.m);
    refused("multiply: y [3, 5]");
    taca_rms_norm(fx, x.m, x.m, &gain, 1e-6f);
    refused("rms_norm: gain has 5 values, wanted 4");
    struct attn_case c = {.heads = 2, .d = 4}, t = {.heads = 2, .d = 4};
    attn_open(&c, 2, image, NULL, TACA_F32, TACA_F32);
    attn_open(&t, 1, both, NULL, TACA_F32, TACA_F32);
    static const int64_t bad[][2] = {{2, 13}, {2, 16}, {1, 15}};
    for (int i = 0; i < 3; i++) {
        c.bias = fx_new(TACA_F32, bad[i][0], bad[i][1], 0, 1);
        attn_run(&c);
        refused("wanted f32, 2 heads and 15 columns or more");
        fx_free(&c.bias);
    }
    t.bias = fx_new(TACA_F32, 2, 15, 0, 1);
    attn_run(&t);
    refused("a relative bias needs the image stream alone, 2 text rows");
    fx_free(&t.bias);
    attn_close(&c), attn_close(&t);
    fx_free(&x), fx_free(&y);
    free(g.f);
}
static void test_shapes_that_do_not_fit_are_refused(void) { fx_each(refusals_body); }

int main(void) {
    TEST(test_multiply_is_a_product);
    TEST(test_rms_norm_keeps_the_mean);
    TEST(test_a_bias_depends_on_head_and_distance);
    TEST(test_a_bias_reaches_heads_of_64);
    TEST(test_zeros_change_nothing);
    TEST(test_shapes_that_do_not_fit_are_refused);
    return TEST_END();
}
