/* test_rows.c - every op on token rows against its equation in double precision: ragged segments,
 * odd sizes, strided views, in place, all dtypes, on every backend. */
#include "tests/kernels/fixture.h"

static const int64_t sizes[][2] = {{1, 1},  {1, 7},    {2, 16},   {7, 17},  {3, 33},
                                   {5, 65}, {33, 130}, {3, 1040}, {2, 4104}};
enum { SIZES = sizeof sizes / sizeof *sizes };
static const enum taca_dtype floats[] = {TACA_F32, TACA_BF16};

static double *doubles(int64_t n) { return calloc((size_t)n + 1, sizeof(double)); }

/* ---- linear ---------------------------------------------------------------------------------- */

/* want = act(x W^T + b), inputs rounded as the backend's precision says; the error of a sum grows
 * with its length, so tolerances are for |sum| of a few. */
static void linear_want(double *want, const struct fx_mat *x, const struct fx_tensor *w,
                        const struct fx_tensor *bias, int64_t out, enum taca_act act) {
    const enum taca_dtype p = taca_backend_precision(fx);
    const int64_t in = x->m.cols;
    for (int64_t r = 0; r < x->m.rows; r++)
        for (int64_t o = 0; o < out; o++) {
            double sum = bias ? (double)bias->f[o] : 0;
            for (int64_t i = 0; i < in; i++)
                sum += fx_round(x->v[r * in + i], p) * fx_round((double)w->f[o * in + i], p);
            want[r * out + o] = fx_act(sum, act);
        }
}

static void one_linear(int64_t rows, int64_t in, int64_t out, enum taca_dtype xt,
                       enum taca_dtype yt, enum taca_act act, bool with_bias) {
    struct taca_err err = {0};
    struct fx_tensor w = fx_tensor("w", 1 / sqrt((double)in), 2, (int64_t[]){out, in});
    struct fx_tensor bias = fx_tensor("b", 1, 1, (int64_t[]){out});
    struct taca_linear *l = NULL;
    CHECK_OK(taca_linear_open(fx, &l, &w.t, with_bias ? &bias.t : NULL, 1, &err), err);
    CHECK(l->in == in && l->out == out && l->has_bias == with_bias);
    CHECK(l->dtype == taca_backend_precision(fx));
    struct fx_mat x = fx_new(xt, rows, in, 5, 1), y = fx_new(yt, rows, out, 3, 1);
    double *want = doubles(rows * out);
    linear_want(want, &x, &w, with_bias ? &bias : NULL, out, act);
    taca_linear(fx, y.m, x.m, l, act);
    fx_check("linear", &y, want, 2e-6);
    free(want);
    fx_free(&x), fx_free(&y);
    free(w.f), free(bias.f);
}

static void linear_body(void) {
    static const int64_t shape[][3] = {{1, 1, 1},    {1, 7, 33},  {7, 17, 5},   {33, 64, 65},
                                       {65, 33, 48}, {2, 192, 7}, {130, 16, 31}};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int d = 0; d < 4; d++)
            one_linear(shape[i][0], shape[i][1], shape[i][2], floats[d & 1], floats[d >> 1],
                       (enum taca_act)(i % 5), i % 3 != 2);
    for (int act = 0; act <= TACA_ACT_RELU; act++)
        one_linear(9, 24, 40, TACA_F32, TACA_F32, (enum taca_act)act, true);
}
static void test_linear_is_x_times_w_transposed_plus_bias(void) { fx_each(linear_body); }

/* q, k, v become one matmul; a patch convolution is a linear of rank 4. */
static void parts_body(void) {
    struct taca_err err = {0};
    const int64_t in = 12, out[] = {5, 9, 2}, rows = 6;
    struct fx_tensor w = fx_tensor("w", 0.3, 2, (int64_t[]){16, in});
    struct fx_tensor bias = fx_tensor("b", 1, 1, (int64_t[]){16});
    struct taca_tensor part[3], pb[3];
    for (int i = 0, at = 0; i < 3; at += (int)out[i++]) {
        part[i] = (struct taca_tensor){"part", w.f + at * in, TACA_F32, 4, {out[i], 3, 2, 2}};
        pb[i] = (struct taca_tensor){"bias", bias.f + at, TACA_F32, 1, {out[i]}};
    }
    struct taca_linear *l = NULL;
    CHECK_OK(taca_linear_open(fx, &l, part, pb, 3, &err), err);
    CHECK_INT(l->out, 16);
    struct fx_mat x = fx_new(TACA_F32, rows, in, 0, 1), y = fx_new(TACA_F32, rows, 16, 0, 1);
    double *want = doubles(rows * 16);
    linear_want(want, &x, &w, &bias, 16, TACA_ACT_NONE);
    taca_linear(fx, y.m, x.m, l, TACA_ACT_NONE);
    fx_check("stacked linear", &y, want, 2e-6);
    free(want), free(w.f), free(bias.f);
    fx_free(&x), fx_free(&y);
}
static void test_parts_of_a_linear_are_stacked(void) { fx_each(parts_body); }

/* More shapes than a weight keeps primitives for, twice round. */
static void many_rows_body(void) {
    struct taca_err err = {0};
    struct fx_tensor w = fx_tensor("w", 0.3, 2, (int64_t[]){8, 16});
    struct taca_linear *l = NULL;
    CHECK_OK(taca_linear_open(fx, &l, &w.t, NULL, 1, &err), err);
    for (int64_t i = 0; i < 40; i++) {
        int64_t rows = i % 20 + 1;
        struct fx_mat x = fx_new(TACA_F32, rows, 16, i % 3, 1), y = fx_new(TACA_F32, rows, 8, 0, 1);
        double *want = doubles(rows * 8);
        linear_want(want, &x, &w, NULL, 8, TACA_ACT_NONE);
        taca_linear(fx, y.m, x.m, l, TACA_ACT_NONE);
        fx_check("linear, many shapes", &y, want, 2e-6);
        free(want);
        fx_free(&x), fx_free(&y);
    }
    free(w.f);
}
static void test_a_linear_takes_any_number_of_rows(void) { fx_each(many_rows_body); }

/* ---- elementwise ------------------------------------------------------------------------------
 */

static void activate_body(void) {
    for (int act = 0; act <= TACA_ACT_RELU; act++)
        for (int i = 0; i < SIZES; i++)
            for (int d = 0; d < 4; d++) {
                struct fx_mat x = fx_new(floats[d & 1], sizes[i][0], sizes[i][1], 2, 3);
                struct fx_mat y = fx_new(floats[d >> 1], sizes[i][0], sizes[i][1], i, 1);
                int64_t n = sizes[i][0] * sizes[i][1];
                double *want = doubles(n);
                for (int64_t k = 0; k < n; k++) want[k] = fx_act(x.v[k], (enum taca_act)act);
                taca_activate(fx, y.m, x.m, (enum taca_act)act);
                fx_check("activate", &y, want, 1e-6);
                taca_activate(fx, x.m, x.m, (enum taca_act)act);
                fx_check("activate in place", &x, want, 1e-6);
                free(want);
                fx_free(&x), fx_free(&y);
            }
}
static void test_activations_follow_their_formulas(void) { fx_each(activate_body); }

/* Far from zero nothing overflows: exp(89) is already beyond a float. */
static void extreme_body(void) {
    static const double at[] = {-1e30, -1000, -104, -100, -89, -88, -20, -10,  -1e-30, 0,
                                1e-30, 10,    20,   88,   89,  100, 104, 1000, 1e30,   1};
    for (int act = 0; act <= TACA_ACT_RELU; act++) {
        struct fx_mat x = fx_new(TACA_F32, 1, 20, 0, 1);
        memcpy(x.v, at, sizeof at);
        fx_send(&x);
        double want[20];
        for (int k = 0; k < 20; k++) {
            bool cubic =
                act == TACA_ACT_GELU_TANH; /* x^3 leaves the float range, tanh does not mind */
            want[k] = cubic && fabs(at[k]) > 100 ? (at[k] > 0 ? at[k] : 0)
                                                 : fx_act(x.v[k], (enum taca_act)act);
        }
        taca_activate(fx, x.m, x.m, (enum taca_act)act);
        fx_check("activate far from zero", &x, want, 1e-6);
        fx_free(&x);
    }
}
static void test_activations_are_finite_far_from_zero(void) { fx_each(extreme_body); }

static void add_body(void) {
    for (int i = 0; i < SIZES; i++)
        for (int d = 0; d < 8; d++) {
            int64_t rows = sizes[i][0], cols = sizes[i][1];
            struct fx_mat y = fx_new(floats[d & 1], rows, cols, 1, 1);
            struct fx_mat a = fx_new(floats[d >> 1 & 1], rows, cols, 0, 1);
            struct fx_mat c = fx_new(floats[d >> 2], rows, cols, 4, 1);
            double *want = doubles(rows * cols);
            for (int64_t k = 0; k < rows * cols; k++) want[k] = a.v[k] + c.v[k];
            taca_add(fx, y.m, a.m, c.m);
            fx_check("add", &y, want, 1e-6);
            taca_add(fx, a.m, a.m, c.m);
            fx_check("add in place", &a, want, 1e-6);
            free(want);
            fx_free(&y), fx_free(&a), fx_free(&c);
        }
}
static void test_add_is_a_sum(void) { fx_each(add_body); }

/* ---- norms ------------------------------------------------------------------------------------
 */

static void norm_row(double *y, const double *x, int64_t n, double eps) {
    double mean = 0, var = 0;
    for (int64_t i = 0; i < n; i++) mean += x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean) / (double)n;
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) / sqrt(var + eps);
}

static void layer_norm_body(void) {
    for (int i = 0; i < SIZES; i++)
        for (int d = 0; d < 4; d++) {
            int64_t rows = sizes[i][0], cols = sizes[i][1];
            struct fx_tensor g = fx_tensor("g", 1, 1, &cols), h = fx_tensor("b", 1, 1, &cols);
            struct taca_vec gain = fx_vec(&g), bias = fx_vec(&h);
            const bool on_16 = cols % 8 == 0; /* as the rows of a model are */
            struct fx_mat x = fx_new(floats[d & 1], rows, cols, on_16 ? 8 : 3, 2);
            struct fx_mat y = fx_new(floats[d >> 1], rows, cols, on_16 ? 8 : 1, 1);
            double *want = doubles(rows * cols);
            bool affine = i % 2 == 0;
            for (int64_t r = 0; r < rows; r++) {
                norm_row(want + r * cols, x.v + r * cols, cols, 1e-5);
                for (int64_t c = 0; affine && c < cols; c++)
                    want[r * cols + c] = want[r * cols + c] * (double)g.f[c] + (double)h.f[c];
            }
            taca_layer_norm(fx, y.m, x.m, affine ? &gain : NULL, affine ? &bias : NULL, 1e-5f);
            fx_check("layer_norm", &y, want, cols == 1 ? 1e-6 : 4e-6);
            free(want), free(g.f), free(h.f);
            fx_free(&x), fx_free(&y);
        }
}
static void test_layer_norm_has_mean_0_and_variance_1(void) { fx_each(layer_norm_body); }

/* A mean a thousand times the deviation: the two-pass variance keeps its digits. */
static void offset_body(void) {
    struct fx_mat x = fx_new(TACA_F32, 2, 100, 0, 1), y = fx_new(TACA_F32, 2, 100, 0, 1);
    for (int k = 0; k < 200; k++) x.v[k] += 1000;
    fx_send(&x);
    double want[200];
    norm_row(want, x.v, 100, 1e-6), norm_row(want + 100, x.v + 100, 100, 1e-6);
    taca_layer_norm(fx, y.m, x.m, NULL, NULL, 1e-6f);
    fx_check("layer_norm with a large mean", &y, want, 2e-4);
    fx_free(&x), fx_free(&y);
}
static void test_layer_norm_survives_a_large_mean(void) { fx_each(offset_body); }

/* Ragged segments, one without image rows and one without text. */
static void modulate_body(void) {
    static const int64_t rows[][2] = {{3, 2}, {0, 5}, {17, 0}, {1, 7}};
    struct fx_layout lay;
    fx_layout(&lay, 4, rows, NULL);
    for (int i = 0; i < 32; i++) {
        const int stream = i & 1;
        const bool on_16 = i & 16; /* every row and range begins on 16 bytes */
        const int64_t n = stream == TACA_IMG ? 21 : 14, o = on_16 ? 8 : 1;
        const int64_t d = on_16 ? (i & 8 ? 1064 : 48) : i & 8 ? 40 : 19;
        struct fx_mat mod = fx_new(TACA_F32, 4, 3 * d + 4 * o, on_16 ? 8 : 2, 1);
        struct fx_mat x = fx_new(TACA_F32, n, d, on_16 ? 8 : 3, 2);
        struct fx_mat y = fx_new(floats[i >> 1 & 1], n, d, on_16 ? 8 : 1, 1);
        struct fx_mat z = fx_new(floats[i >> 2 & 1], n, d, 0, 1);
        double *want = doubles(n * d), *sum = doubles(n * d);
        for (int64_t r = 0, s = 0, left = rows[0][stream]; r < n; r++, left--) {
            while (left == 0) left = rows[++s][stream];
            const double *m = mod.v + s * (3 * d + 4 * o);
            norm_row(want + r * d, x.v + r * d, d, 1e-6);
            for (int64_t c = 0; c < d; c++) {
                want[r * d + c] = want[r * d + c] * (1 + m[2 * d + 4 * o + c]) + m[o + c];
                sum[r * d + c] = x.v[r * d + c] + m[d + 2 * o + c] * z.v[r * d + c];
            }
        }
        taca_norm_modulate(fx, y.m, x.m, mod.m, o, 2 * d + 4 * o, &lay.l, (enum taca_stream)stream,
                           1e-6f);
        fx_check("norm_modulate", &y, want, 5e-6);
        taca_gate_add(fx, x.m, z.m, mod.m, d + 2 * o, &lay.l, (enum taca_stream)stream);
        fx_check("gate_add", &x, sum, 1e-6);
        free(want), free(sum);
        fx_free(&mod), fx_free(&x), fx_free(&y), fx_free(&z);
    }
    taca_layout_finish(&lay.l);
}
static void test_modulation_takes_the_vectors_of_the_rows_segment(void) { fx_each(modulate_body); }

/* The same values once more, at the same distance. */
static struct fx_mat twin(const struct fx_mat *x) {
    struct fx_mat y = fx_new(x->m.dtype, x->m.rows, x->m.cols, x->m.ld - x->m.cols, 1);
    memcpy(y.v, x->v, (size_t)(x->m.rows * x->m.cols) * sizeof *y.v);
    fx_send(&y);
    return y;
}
/* Both were checked, so v is what is in memory. */
static void same_bits(const struct fx_mat *a, const struct fx_mat *b) {
    CHECK(memcmp(a->v, b->v, (size_t)(a->m.rows * a->m.cols) * sizeof *a->v) == 0);
}

/* One stream of three segments, one of them without rows of it; ranges gap columns apart. */
static void one_gate_norm(enum taca_dtype t, enum taca_stream stream, int64_t d, int64_t gap) {
    static const int64_t rows[][2] = {{3, 2}, {0, 3}, {4, 0}};
    struct fx_layout lay;
    fx_layout(&lay, 3, rows, NULL);
    const int64_t n = stream == TACA_IMG ? 7 : 5, gate = gap, shift = d + 2 * gap;
    const int64_t scale = 2 * d + 3 * gap, width = 3 * d + 4 * gap;
    struct fx_mat mod = fx_new(TACA_F32, 3, width, gap, 1), x = fx_new(TACA_F32, n, d, gap, 2);
    struct fx_mat y = fx_new(TACA_F32, n, d, gap, 1), h = fx_new(t, n, d, gap, 1);
    struct fx_mat x2 = twin(&x), h2 = fx_new(t, n, d, gap, 1);
    double *want = doubles(n * d), *sum = doubles(n * d);
    for (int64_t r = 0, s = 0, left = rows[0][stream]; r < n; r++, left--) {
        while (left == 0) left = rows[++s][stream];
        const double *m = mod.v + s * width;
        for (int64_t c = 0; c < d; c++)
            sum[r * d + c] = x.v[r * d + c] + m[gate + c] * y.v[r * d + c];
        norm_row(want + r * d, sum + r * d, d, 1e-6);
        for (int64_t c = 0; c < d; c++)
            want[r * d + c] = want[r * d + c] * (1 + m[scale + c]) + m[shift + c];
    }
    const struct taca_adaln m = {mod.m, gate, shift, scale, &lay.l, stream, 1e-6f};
    taca_gate_norm(fx, h.m, x.m, y.m, &m);
    fx_check("gate_norm, the sum", &x, sum, 1e-6);
    fx_check("gate_norm", &h, want, 5e-6);
    taca_gate_add(fx, x2.m, y.m, mod.m, gate, &lay.l, stream);
    taca_norm_modulate(fx, h2.m, x2.m, mod.m, shift, scale, &lay.l, stream, 1e-6f);
    fx_check("gate_add", &x2, sum, 1e-6);
    fx_check("norm_modulate", &h2, want, 5e-6);
    same_bits(&x, &x2), same_bits(&h, &h2);
    free(want), free(sum);
    fx_free(&mod), fx_free(&x), fx_free(&y), fx_free(&h), fx_free(&x2), fx_free(&h2);
    taca_layout_finish(&lay.l);
}

/* Rows of every way through the kernels, beginning on 16 bytes and not. */
static void gate_norm_body(void) {
    static const int64_t widths[] = {1, 19, 48, 1040, 4104};
    for (size_t i = 0; i < 8 * sizeof widths / sizeof *widths; i++)
        one_gate_norm(floats[i & 1], i & 2 ? TACA_TXT : TACA_IMG, widths[i / 8], i & 4 ? 8 : 1);
}
static void test_gate_norm_is_gate_add_and_norm_modulate(void) { fx_each(gate_norm_body); }

int main(void) {
    TEST(test_linear_is_x_times_w_transposed_plus_bias);
    TEST(test_parts_of_a_linear_are_stacked);
    TEST(test_a_linear_takes_any_number_of_rows);
    TEST(test_activations_follow_their_formulas);
    TEST(test_activations_are_finite_far_from_zero);
    TEST(test_add_is_a_sum);
    TEST(test_layer_norm_has_mean_0_and_variance_1);
    TEST(test_layer_norm_survives_a_large_mean);
    TEST(test_modulation_takes_the_vectors_of_the_rows_segment);
    TEST(test_gate_norm_is_gate_add_and_norm_modulate);
    return TEST_END();
}
