/* test_qk.c - the norm of queries' and keys' heads and their rotary places against the definitions
 * in double precision. */
#include "tests/kernels/fixture.h"

static const enum taca_dtype floats[] = {TACA_F32, TACA_BF16};

/* q and k beside each other, as in the rows of a packed q, k, v; gains and table of the case. */
struct heads {
    struct fx_mat all, table;
    struct fx_tensor gain[2];
    struct taca_vec vec[2];
    int64_t rows, n, d; /* n heads of d columns */
};

/* gap: elements between rows, and floats between those of the table */
static struct heads heads_new(enum taca_dtype t, const int64_t shape[3], int64_t gap) {
    struct heads h = {.rows = shape[0], .n = shape[1], .d = shape[2]};
    h.all = fx_new(t, h.rows, 3 * h.n * h.d, gap, 2);
    h.table = fx_new(TACA_F32, h.rows, h.d, gap, 1);
    for (int64_t k = 0; k < h.rows * (h.d / 2); k++) {
        const double angle = 50 * fx_normal();
        double *row = h.table.v + k / (h.d / 2) * h.d;
        row[k % (h.d / 2)] = cos(angle);
        row[h.d / 2 + k % (h.d / 2)] = sin(angle);
    }
    fx_send(&h.table);
    for (int i = 0; i < 2; i++) {
        h.gain[i] = fx_tensor("g", 1, 1, &h.d);
        h.vec[i] = fx_vec(&h.gain[i]);
    }
    return h;
}

static void heads_free(struct heads *h) {
    fx_free(&h->all), fx_free(&h->table);
    free(h->gain[0].f), free(h->gain[1].f);
}

static void norm_head(double *x, const float *gain, int64_t d) {
    double sq = 0;
    for (int64_t c = 0; c < d; c++) sq += x[c] * x[c] / (double)d;
    for (int64_t c = 0; c < d; c++) x[c] = x[c] / sqrt(sq + 1e-6) * (double)gain[c];
}

static void turn_head(double *x, const double *table, int64_t d) {
    for (int64_t p = 0; p < d / 2; p++) {
        const double a = x[2 * p], b = x[2 * p + 1], c = table[p], s = table[d / 2 + p];
        x[2 * p] = a * c - b * s;
        x[2 * p + 1] = b * c + a * s;
    }
}

static struct taca_qk parts_of(const struct heads *h, bool norm, bool turn) {
    struct taca_qk w = {.eps = 1e-6f};
    if (norm) w.gain_q = &h->vec[0], w.gain_k = &h->vec[1];
    if (turn) w.table = h->table.m;
    return w;
}

/* k before q and v behind, so that each sees its own gain and the rest stays. */
static void one(enum taca_dtype t, const int64_t shape[3], int64_t gap, bool norm, bool turn) {
    struct heads h = heads_new(t, shape, gap);
    const int64_t cols = h.n * h.d, count = h.rows * 3 * cols;
    double *want = calloc((size_t)count, sizeof *want);
    memcpy(want, h.all.v, (size_t)count * sizeof *want);
    for (int64_t i = 0; i < h.rows * 2 * h.n; i++) {
        const int64_t r = i / (2 * h.n), head = i % (2 * h.n);
        double *x = want + r * 3 * cols + head * h.d;
        if (norm) norm_head(x, h.gain[head < h.n].f, h.d);
        if (turn) turn_head(x, h.table.v + r * h.d, h.d);
    }
    const struct taca_qk w = parts_of(&h, norm, turn);
    taca_qk_norm_rope(fx, taca_mat_cols(h.all.m, cols, cols), taca_mat_cols(h.all.m, 0, cols), &w);
    fx_check("qk_norm_rope of column views", &h.all, want, 3e-6);
    free(want);
    heads_free(&h);
}

/* Every head width that has code of its own, and ones that fill no vector; rows that begin on 16
 * bytes and rows that do not. */
static void each_part(bool norm, bool turn) {
    static const int64_t shape[][3] = {{1, 1, 2},   {3, 2, 6},  {7, 2, 16},   {5, 3, 10},
                                       {4, 1, 34},  {2, 5, 64}, {33, 2, 128}, {2, 1, 130},
                                       {3, 11, 32}, {2, 3, 256}};
    for (size_t i = 0; i < 4 * sizeof shape / sizeof *shape; i++)
        one(floats[i & 1], shape[i / 4], i & 2 ? 3 : 0, norm, turn);
}

static void norm_body(void) {
    static const int64_t odd[][3] = {{1, 1, 1}, {5, 2, 33}};
    each_part(true, false);
    for (int i = 0; i < 4; i++) one(floats[i & 1], odd[i / 2], 2, true, false);
}
static void test_heads_have_unit_rms_times_their_gain(void) { fx_each(norm_body); }

static void turn_body(void) { each_part(false, true); }
static void test_pairs_turn_by_the_angle_of_their_row(void) { fx_each(turn_body); }

/* The tolerance leaves room for one rounding to bf16, not for two. */
static void both_body(void) { each_part(true, true); }
static void test_normed_heads_turn_before_they_are_rounded(void) { fx_each(both_body); }

/* cos 1 and sin 0 keep every bit: rows without a place may share a batch with others. And without
 * gains and table nothing happens. */
static void rest_body(void) {
    for (int i = 0; i < 4; i++) {
        struct heads h = heads_new(floats[i & 1], (const int64_t[]){5, 3, 16}, 1);
        double want[5 * 144];
        for (int k = 0; k < 5 * 16; k++) h.table.v[k] = k % 16 < 8;
        fx_send(&h.table);
        memcpy(want, h.all.v, sizeof want);
        const struct taca_qk w = parts_of(&h, false, i & 2);
        taca_qk_norm_rope(fx, taca_mat_cols(h.all.m, 0, 48), taca_mat_cols(h.all.m, 48, 48), &w);
        fx_fetch(&h.all);
        CHECK(memcmp(h.all.v, want, sizeof want) == 0);
        heads_free(&h);
    }
}
static void test_angle_zero_changes_no_bit(void) { fx_each(rest_body); }

static void refused(struct taca_mat q, struct taca_mat k, const struct taca_qk *w,
                    const char *words) {
    struct taca_err err = {0};
    taca_qk_norm_rope(fx, q, k, w);
    CHECK_INT(taca_sync(fx, &err), TACA_EINTERNAL);
    CHECK_HAS(err.text, "qk_norm_rope: ");
    CHECK_HAS(err.text, words);
}

static void refuse_body(void) {
    struct heads h = heads_new(TACA_F32, (const int64_t[]){5, 4, 10}, 2);
    const struct taca_mat q = taca_mat_cols(h.all.m, 0, 40), k = taca_mat_cols(h.all.m, 40, 40);
    struct taca_qk w = parts_of(&h, true, true);
    refused(q, taca_mat_rows(k, 0, 4), &w, "k [4, 40]");
    refused(taca_mat_cols(q, 0, 36), taca_mat_cols(k, 0, 36), &w, "heads of 10");
    w.table.rows = 4;
    refused(q, k, &w, "table [4, 10]");
    w = parts_of(&h, true, true);
    w.table.cols = 8;
    refused(q, k, &w, "table [5, 8]");
    w = parts_of(&h, false, true);
    w.table.cols = 5;
    refused(q, k, &w, "table [5, 5]");
    w = parts_of(&h, true, false);
    w.gain_k = NULL;
    refused(q, k, &w, "a gain for q alone");
    const struct taca_vec longer = {h.vec[1].data, 20};
    w.gain_k = &longer;
    refused(q, k, &w, "gain of k has 20 values");
    heads_free(&h);
}
static void test_other_shapes_are_refused(void) { fx_each(refuse_body); }

int main(void) {
    TEST(test_heads_have_unit_rms_times_their_gain);
    TEST(test_pairs_turn_by_the_angle_of_their_row);
    TEST(test_normed_heads_turn_before_they_are_rounded);
    TEST(test_angle_zero_changes_no_bit);
    TEST(test_other_shapes_are_refused);
    return TEST_END();
}
