/* test_rope.c - rotary places against the definition in double precision. */
#include "tests/kernels/fixture.h"

static const enum taca_dtype floats[] = {TACA_F32, TACA_BF16};

/* Column views of a packed q, k, v with every head width, also ones that fill no vector. */
static void turn_body(void) {
    static const int64_t shape[][3] = {{1, 1, 2},  {3, 2, 6},  {7, 2, 16},   {5, 3, 10},
                                       {4, 1, 34}, {2, 5, 64}, {33, 2, 128}, {2, 1, 130}};
    for (size_t i = 0; i < 2 * sizeof shape / sizeof *shape; i++) {
        const int64_t *s = shape[i / 2], rows = s[0], d = s[2], cols = s[1] * d;
        struct fx_mat all = fx_new(floats[i & 1], rows, 3 * cols, 0, 2);
        struct fx_mat table = fx_new(TACA_F32, rows, d, 3, 1);
        double *want = calloc((size_t)(rows * 3 * cols), sizeof *want);
        for (int64_t k = 0; k < rows * d / 2; k++) {
            const int64_t r = k / (d / 2), p = k % (d / 2);
            const double angle = 50 * fx_normal();
            table.v[r * d + p] = cos(angle);
            table.v[r * d + d / 2 + p] = sin(angle);
        }
        fx_send(&table);
        memcpy(want, all.v, (size_t)(rows * 3 * cols) * sizeof *want);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t h = 0; h < s[1]; h++)
                for (int64_t p = 0; p < d / 2; p++) {
                    double *x = want + r * 3 * cols + cols + h * d + 2 * p, a = x[0], b = x[1];
                    const double c = table.v[r * d + p], e = table.v[r * d + d / 2 + p];
                    x[0] = a * c - b * e;
                    x[1] = b * c + a * e;
                }
        taca_rope(fx, taca_mat_cols(all.m, cols, cols), table.m);
        fx_check("rope of a column view", &all, want, 2e-6);
        free(want);
        fx_free(&all), fx_free(&table);
    }
}
static void test_pairs_turn_by_the_angle_of_their_row(void) { fx_each(turn_body); }

/* cos 1 and sin 0 keep every bit: rows without a place may share a batch with others. */
static void rest_body(void) {
    for (int i = 0; i < 2; i++) {
        struct fx_mat x = fx_new(floats[i], 5, 48, 1, 3), table = fx_new(TACA_F32, 5, 16, 0, 1);
        double want[5 * 48];
        for (int k = 0; k < 5 * 16; k++) table.v[k] = k % 16 < 8;
        fx_send(&table);
        memcpy(want, x.v, sizeof want);
        taca_rope(fx, x.m, table.m);
        fx_fetch(&x);
        CHECK(memcmp(x.v, want, sizeof want) == 0);
        fx_free(&x), fx_free(&table);
    }
}
static void test_angle_zero_changes_no_bit(void) { fx_each(rest_body); }

static void refuse_body(void) {
    static const int64_t bad[][3] = {{4, 48, 4}, {5, 48, 7}, {5, 48, 10}}; /* rows, cols, D */
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct fx_mat x = fx_new(TACA_F32, 5, 48, 0, 1), t = fx_new(TACA_F32, 5, 48, 0, 1);
        struct taca_err err = {0};
        struct taca_mat table = t.m;
        table.rows = bad[i][0], table.cols = bad[i][2];
        taca_rope(fx, x.m, table);
        CHECK_INT(taca_sync(fx, &err), TACA_EINTERNAL);
        CHECK_HAS(err.text, "rope");
        CHECK_HAS(err.text, "48");
        fx_free(&x), fx_free(&t);
    }
}
static void test_a_table_of_another_shape_is_refused(void) { fx_each(refuse_body); }

int main(void) {
    TEST(test_pairs_turn_by_the_angle_of_their_row);
    TEST(test_angle_zero_changes_no_bit);
    TEST(test_a_table_of_another_shape_is_refused);
    return TEST_END();
}
