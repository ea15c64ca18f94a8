/* test_low_rank.c - low-rank changes beside a linear map: against the equation in double precision
 * on every backend, gates by segment, rows left alone, what they cost, and that they can go. */
#include "tests/kernels/fixture.h"

enum { SEGS = 4 };
static const int64_t lens[SEGS][2] = {{5, 2}, {0, 3}, {700, 1}, {33, 40}};

struct change {
    struct fx_tensor a, b, bias;
    struct taca_low_rank w;
    int64_t in, out, rank;
    bool has_bias;
};

static struct change open_change(int64_t in, int64_t out, int64_t rank, bool has_bias,
                                 float scale) {
    struct taca_err err = {0};
    struct change c = {.in = in, .out = out, .rank = rank, .has_bias = has_bias};
    c.a = fx_tensor("a", 1 / sqrt((double)in), 2, (int64_t[]){rank, in});
    c.b = fx_tensor("b", 1 / sqrt((double)rank), 2, (int64_t[]){out, rank});
    c.bias = fx_tensor("bias", 1, 1, &out);
    CHECK_OK(taca_low_rank_open(
                 fx, &c.w,
                 &(struct taca_low_rank_parts){c.a.t, c.b.t, has_bias ? &c.bias.t : NULL, scale},
                 &err),
             err);
    return c;
}

static void close_change(struct change *c) {
    taca_low_rank_close(fx, &c->w);
    free(c->a.f), free(c->b.f), free(c->bias.f);
}

/* gate * scale * (B A x + bias) of one row, with the roundings of the backend's precision */
static void delta(double *d, const struct change *c, const double *x, double factor) {
    const enum taca_dtype p = taca_backend_precision(fx);
    double t[64];
    for (int64_t k = 0; k < c->rank; k++) {
        t[k] = 0;
        for (int64_t i = 0; i < c->in; i++)
            t[k] += fx_round(x[i], p) * fx_round((double)c->a.f[k * c->in + i], p);
        t[k] = c->has_bias ? fx_round(t[k], p) : fx_round(t[k] * factor, p);
    }
    for (int64_t o = 0; o < c->out; o++) {
        d[o] = c->has_bias ? (double)c->bias.f[o] : 0;
        for (int64_t k = 0; k < c->rank; k++)
            d[o] += t[k] * fx_round((double)c->b.f[o * c->rank + k], p);
        if (c->has_bias) d[o] *= factor;
    }
}

static void one_case(enum taca_stream stream, enum taca_dtype t, bool has_bias, int64_t rank) {
    static const float gates[SEGS] = {0.5f, 1, 0, -1.25f};
    const int64_t in = 24, out = 17, first = 9;
    struct fx_layout lay;
    fx_layout(&lay, SEGS, lens, NULL);
    const int64_t rows = stream == TACA_IMG ? lay.l.img_rows : lay.l.txt_rows;
    struct change c = open_change(in, out, rank, has_bias, 1.5f);
    struct fx_mat x = fx_new(t, rows, in, 0, 1), y = fx_new(t, rows, out + first + 3, 0, 1);
    double *want = calloc((size_t)(rows * y.m.cols), sizeof *want), d[17];
    memcpy(want, y.v, (size_t)(rows * y.m.cols) * sizeof *want);
    for (int s = 0; s < SEGS; s++) {
        const struct taca_seg *g = &lay.seg[s];
        int64_t r = stream == TACA_IMG ? g->img : g->txt;
        const int64_t end = r + (stream == TACA_IMG ? g->n_img : g->n_txt);
        for (; r < end; r++) {
            delta(d, &c, x.v + r * in, (double)gates[s] * 1.5);
            for (int64_t o = 0; o < out && gates[s] != 0; o++)
                want[r * y.m.cols + first + o] += d[o];
        }
    }
    struct taca_scratch sc = {.b = fx};
    struct taca_err err = {0};
    CHECK_OK(taca_scratch_reserve(&sc, 1 << 20, &err), err);
    taca_low_rank_add(fx, &sc, taca_mat_cols(y.m, first, out), x.m, &c.w,
                      &(struct taca_gates){gates, &lay.l, stream});
    CHECK(sc.used == 0);
    /* a step of bf16 in the narrow product may fall the other way */
    const bool coarse = taca_backend_precision(fx) == TACA_BF16;
    fx_check("low_rank_add", &y, want, coarse ? 1e-2 : 4e-6);
    taca_scratch_finish(&sc);
    taca_layout_finish(&lay.l);
    close_change(&c);
    free(want);
    fx_free(&x), fx_free(&y);
}

static void equation_body(void) {
    for (int i = 0; i < 8; i++)
        one_case(i & 1 ? TACA_TXT : TACA_IMG, i & 2 ? TACA_BF16 : TACA_F32, i & 4, i < 4 ? 1 : 19);
}
static void test_low_rank_add_is_its_equation(void) { fx_each(equation_body); }

/* Rows without a gate are not touched: what stands there may be anything. */
static void alone_body(void) {
    struct fx_layout lay;
    fx_layout(&lay, SEGS, lens, NULL);
    struct change c = open_change(16, 8, 4, false, 1);
    struct fx_mat x = fx_new(TACA_F32, lay.l.img_rows, 16, 0, 1);
    struct fx_mat y = fx_new(TACA_F32, lay.l.img_rows, 8, 0, 1);
    struct taca_scratch sc = {.b = fx};
    struct taca_err err = {0};
    float *before = malloc(fx_bytes(y.m));
    static const float off[SEGS] = {0}, last[SEGS] = {0, 0, 0, 2};
    taca_download(fx, before, y.m.data, fx_bytes(y.m));
    taca_low_rank_add(fx, &sc, y.m, x.m, &c.w, &(struct taca_gates){off, &lay.l, TACA_IMG});
    taca_low_rank_add(fx, &sc, y.m, x.m, &c.w, &(struct taca_gates){off, NULL, TACA_IMG});
    CHECK_INT(sc.peak, 0);
    CHECK_OK(taca_scratch_reserve(&sc, 1 << 20, &err), err);
    taca_low_rank_add(fx, &sc, y.m, x.m, &c.w, &(struct taca_gates){last, &lay.l, TACA_IMG});
    float *after = malloc(fx_bytes(y.m));
    taca_download(fx, after, y.m.data, fx_bytes(y.m));
    CHECK_OK(taca_sync(fx, &err), err);
    CHECK(memcmp(before, after, (size_t)lay.seg[3].img * 8 * sizeof *before) == 0);
    CHECK(memcmp(before, after, fx_bytes(y.m)) != 0);
    free(before), free(after);
    taca_scratch_finish(&sc);
    taca_layout_finish(&lay.l);
    close_change(&c);
    fx_free(&x), fx_free(&y);
}
static void test_rows_without_a_gate_are_left_alone(void) { fx_each(alone_body); }

static void test_only_gated_rows_count(void) {
    struct taca_err err = {0};
    struct taca_backend *b = NULL;
    struct taca_layout l;
    const struct taca_seg segs[2] = {{0, 6, 0, 0, 1}, {6, 4, 0, 0, 1}};
    const struct taca_tensor down = {"a", NULL, TACA_F32, 2, {3, 20}};
    const struct taca_tensor up = {"b", NULL, TACA_F32, 2, {30, 3}};
    struct taca_low_rank w;
    CHECK_OK(taca_count_open(&b, TACA_BF16, &err), err);
    CHECK_OK(taca_low_rank_open(b, &w, &(struct taca_low_rank_parts){down, up, NULL, 1}, &err),
             err);
    CHECK_OK(taca_layout_init(&l, b, segs, 2, &err), err);
    struct taca_scratch sc = {.b = b};
    taca_low_rank_add(b, &sc, (struct taca_mat){NULL, TACA_F32, 10, 30, 30},
                      (struct taca_mat){NULL, TACA_F32, 10, 20, 20}, &w,
                      &(struct taca_gates){(const float[]){0, 1}, &l, TACA_IMG});
    CHECK_OK(taca_sync(b, &err), err);
    CHECK_NEAR(taca_count_read(b).flops, 2.0 * 4 * 3 * (20 + 30), 0);
    CHECK_NEAR(taca_count_read(b).weight_bytes, 2.0 * 3 * (20 + 30), 0);
    CHECK(taca_count_read(b).scratch_bytes >= 4 * 33 * sizeof(float));
    taca_layout_finish(&l);
    taca_low_rank_close(b, &w);
    taca_backend_close(b);
}

static void refusals_body(void) {
    struct taca_err err = {0};
    struct taca_low_rank w;
    struct fx_tensor a = fx_tensor("a", 1, 2, (int64_t[]){4, 16});
    struct fx_tensor b = fx_tensor("b", 1, 2, (int64_t[]){8, 3});
    CHECK_INT(taca_low_rank_open(fx, &w, &(struct taca_low_rank_parts){a.t, b.t, NULL, 1}, &err),
              TACA_EFORMAT);
    CHECK_HAS(err.text, "rank 4, b has rank 3");
    free(a.f), free(b.f);
    struct change c = open_change(16, 8, 4, false, 1);
    struct fx_mat x = fx_new(TACA_F32, 5, 16, 0, 1), y = fx_new(TACA_F32, 5, 7, 0, 1);
    struct taca_scratch sc = {.b = fx};
    taca_low_rank_add(fx, &sc, y.m, x.m, &c.w, &(struct taca_gates){(const float[]){1}, NULL, 0});
    err = (struct taca_err){0};
    CHECK_INT(taca_sync(fx, &err), TACA_EINTERNAL);
    CHECK_HAS(err.text, "low_rank_add");
    close_change(&c);
    taca_low_rank_close(fx, &c.w); /* zeroed by the first */
    fx_free(&x), fx_free(&y);
}
static void test_shapes_that_do_not_fit_are_refused(void) { fx_each(refusals_body); }

int main(void) {
    TEST(test_low_rank_add_is_its_equation);
    TEST(test_rows_without_a_gate_are_left_alone);
    TEST(test_only_gated_rows_count);
    TEST(test_shapes_that_do_not_fit_are_refused);
    return TEST_END();
}
