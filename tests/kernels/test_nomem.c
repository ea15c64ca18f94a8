/* test_nomem.c - every allocation of the kernels fails once, in turn: an error comes back, nothing
 * crashes, nothing leaks (the sanitizer build looks), and the backend works when asked again.
 *
 * Not a sweep: the backend outlives the failure. */
#include "tests/kernels/fixture.h"
#include "tests/nomem.h"

enum { IN = 16, OUT = 24, ROWS = 9 };
static float weights[OUT * IN * 9], values[4096], outs[4096];

static struct taca_mat mat(float *p, enum taca_dtype t, int64_t cols) {
    return (struct taca_mat){p, t, ROWS, cols, cols};
}

static enum taca_code use(struct taca_backend *b, struct taca_err *err) {
    enum taca_code rc;
    struct taca_linear *l = NULL;
    struct taca_conv *v = NULL, g = {.stride = 1};
    struct taca_vec gain;
    struct taca_layout lay = {0};
    struct taca_scratch sc = {.b = b};
    const struct taca_tensor w = {"w", weights, TACA_F32, 2, {OUT, IN}};
    const struct taca_tensor c = {"c", weights, TACA_F32, 4, {OUT, IN, 3, 3}};
    const struct taca_tensor n = {"n", weights, TACA_F32, 1, {OUT}};
    const struct taca_seg seg = {0, ROWS, 0, 0, 1};
    if ((rc = taca_linear_open(b, &l, &w, &n, 1, err)) != TACA_OK ||
        (rc = taca_conv_open(b, &v, &c, &n, &g, err)) != TACA_OK ||
        (rc = taca_vec_open(b, &gain, &n, err)) != TACA_OK ||
        (rc = taca_layout_init(&lay, b, &seg, 1, err)) != TACA_OK ||
        (rc = taca_scratch_reserve(&sc, 100, err)) != TACA_OK)
        goto out;
    const struct taca_mat x = mat(values, TACA_BF16, OUT);
    const struct taca_qkv qkv = {x, x, x}, none = {0};
    const struct taca_attn a = {.heads = 2, .scale = 1};
    taca_linear(b, mat(outs, TACA_BF16, OUT), mat(values, TACA_BF16, IN), l, TACA_ACT_SILU);
    taca_linear(b, mat(outs, TACA_F32, OUT), mat(values, TACA_F32, IN), l, TACA_ACT_SILU);
    taca_attention(b, mat(outs, TACA_F32, OUT), (struct taca_mat){0}, qkv, none, &lay, &a);
    struct taca_map m = {values, TACA_F32, 1, 4, 4, IN}, y = {outs, TACA_F32, 1, 2, 2, OUT};
    taca_conv2d(b, y, m, v);
    taca_conv2d_add(b, y, m, v);
    taca_group_norm(b, y, y, &gain, &gain, 4, 1e-6f, TACA_ACT_SILU);
    rc = taca_sync(b, err);
out:
    taca_layout_finish(&lay);
    taca_scratch_finish(&sc);
    return rc;
}

/* One life of a backend in which the allocation number `at` fails; false when none did. */
static bool life(const struct taca_backend_opts *o, int at) {
    struct taca_backend *b = NULL;
    struct taca_err err = {0};
    nomem_countdown = at + 1;
    enum taca_code rc = taca_cpu_open(&b, o, &err);
    if (rc == TACA_OK) rc = use(b, &err);
    const bool failed = nomem_countdown == 0;
    nomem_countdown = 0;
    if (failed) {
        CHECK(rc == TACA_ENOMEM);
        CHECK(err.text[0] != 0);
        struct taca_err again = {0};
        if (b) CHECK_OK(use(b, &again), again);
    } else {
        CHECK_OK(rc, err);
    }
    taca_backend_close(b);
    return failed;
}

static void test_any_allocation_may_fail(void) {
    static const struct taca_backend_opts opts[] = {
        {.threads = 2, .precision = TACA_F32},
        {.threads = 1, .precision = TACA_BF16, .deterministic = true},
        {.threads = 1, .precision = TACA_F32, .scalar = true},
    };
    for (size_t i = 0; i < sizeof opts / sizeof *opts; i++) {
        int at = 0;
        while (at < 200 && life(&opts[i], at)) at++;
        CHECK(at > 8 && at < 200);
        printf("    %d allocations failed in turn\n", at);
    }
}

int main(void) {
    TEST(test_any_allocation_may_fail);
    return TEST_END();
}
