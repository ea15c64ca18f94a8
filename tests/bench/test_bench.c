/* test_bench.c - the bench tells about what it ran, and a checkpoint without a file is what models
 * can be loaded from. Times themselves depend on the machine and are not judged. */
#include "engine/bench/bench.h"
#include "engine/io/checkpoint.h"
#include "tests/test.h"

struct seen {
    int ceilings, ops;
    struct taca_bench_row last;
};

static void see(void *ctx, const struct taca_bench_row *row) {
    struct seen *s = ctx;
    if (row->n == 0)
        s->ceilings++;
    else
        s->ops++;
    s->last = *row;
}

static void test_an_op_is_held_against_the_ceiling(void) {
    struct taca_err err = {0};
    struct seen s = {0};
    struct taca_bench b = {.threads = 1,
                           .precision = TACA_PRECISION_F32,
                           .budget_ms = 1,
                           .filter = "demo",
                           .row = see,
                           .ctx = &s,
                           .ceiling = {100, 200, 400}};
    CHECK_OK(taca_bench_ops(&b, &err), err);
    CHECK_INT(s.ceilings, 0);
    CHECK_INT(s.ops, 1);
    CHECK_STR(s.last.dtype, "f32");
    CHECK(s.last.n >= 5);
    CHECK_NEAR(s.last.gflop, 2e-9 * 128 * 256 * 768, 1e-12);
    CHECK_NEAR(s.last.share, s.last.gflop / s.last.wall_ms.min * 1e3 / 100, 1e-9);
    CHECK(s.last.wall_ms.min <= s.last.wall_ms.q1 && s.last.wall_ms.q1 <= s.last.wall_ms.median &&
          s.last.wall_ms.median <= s.last.wall_ms.q3);
}

static void test_random_weights_are_normal_in_any_shape(void) {
    struct taca_err err = {0};
    struct taca_ckpt *c = NULL;
    struct taca_tensor w, gain, odd;
    CHECK_OK(taca_ckpt_open_random(&c, 7, &err), err);
    if (!c) return;
    CHECK(!taca_ckpt_has(c, "w"));
    CHECK_OK(taca_ckpt_get(c, &w, "a.weight", 2, (int64_t[]){300, 400}, &err), err);
    CHECK_OK(taca_ckpt_get(c, &gain, "norm.weight", 1, (int64_t[]){10000}, &err), err);
    CHECK(taca_ckpt_get(c, &odd, "odd", 1, (int64_t[]){-1}, &err) != TACA_OK);
    CHECK_STR(w.name, "a.weight");
    double sum = 0, squares = 0, gains = 0;
    for (int i = 0; i < 120000; i++) {
        const double v = (double)taca_bf16_to_f32(((const uint16_t *)w.data)[i]);
        sum += v, squares += v * v;
    }
    for (int i = 0; i < 10000; i++)
        gains += (double)taca_bf16_to_f32(((const uint16_t *)gain.data)[i]);
    /* five deviations of a mean and of a variance */
    CHECK_NEAR(sum / 120000, 0, 5 * 0.05 / sqrt(120000));
    CHECK_NEAR(squares / 120000 * 400, 1, 5 * sqrt(2.0 / 120000));
    CHECK_NEAR(gains / 10000, 1, 5 * 0.1 / 100);
    taca_ckpt_close(c);
}

int main(void) {
    TEST(test_an_op_is_held_against_the_ceiling);
    TEST(test_random_weights_are_normal_in_any_shape);
    return TEST_END();
}
