/* test_replay.c - ops that the CUDA backend records and replays as graphs: the same bits, kept
 * within bounds, given up where something stands in the way. */
#include "kernels/backend.h"
#include "tests/cuda_host/faults.h"
#include "tests/test.h"

enum { N = 96, ROWS = 8, KEPT = 16, KNOWN = 48 };
static const struct cuda_host_faults healthy = {-1, -1, 1ll << 30, 1, 0, 0, 0};

static void set(long long fail_alloc, long long lost_at) {
    struct cuda_host_faults f = healthy;
    f.fail_alloc = fail_alloc;
    f.lost_at = lost_at;
    cuda_host_set_faults(&f);
}

/* What else happens among the ops. */
enum kind { NOTHING, UPLOADS, WAITS, GROWS };

/* x is what the ops read, y what they write; x changes from run to run at the same address. */
struct rig {
    struct taca_backend *b;
    struct taca_linear *w;
    struct taca_scratch s;
    struct taca_mat x, y;
    float value;
    enum kind kind;
};

static enum taca_code rig_open(struct rig *r, struct taca_err *err) {
    static float numbers[N * N];
    const struct taca_tensor w = {"w", numbers, TACA_F32, 2, {N, N}};
    const struct taca_backend_opts opts = {.precision = TACA_BF16};
    for (int i = 0; i < N * N; i++) numbers[i] = (float)(i % 13) / 13 - 0.5f;
    *r = (struct rig){0};
    enum taca_code rc = taca_backend_open(&r->b, "cuda", &opts, err);
    if (!rc) rc = taca_linear_open(r->b, &r->w, &w, NULL, 1, err);
    r->s.b = r->b;
    if (!rc) rc = taca_scratch_reserve(&r->s, 1 << 20, err);
    if (!rc) rc = taca_sync(r->b, err);
    if (rc) return rc;
    r->x = taca_scratch_mat(&r->s, TACA_F32, ROWS, N);
    r->y = taca_scratch_mat(&r->s, TACA_F32, ROWS, N);
    return rc;
}

static void rig_close(struct rig *r) {
    if (r->b) taca_scratch_finish(&r->s);
    taca_backend_close(r->b);
    CHECK_INT(cuda_host_live_blocks(), 0);
}

static void ops(struct rig *r) {
    const float one = 1;
    const size_t used = r->s.used;
    const int64_t rows = r->kind == GROWS ? 64 * ROWS : ROWS;
    taca_linear(r->b, r->y, r->x, r->w, TACA_ACT_SILU);
    if (r->kind == UPLOADS) taca_upload(r->b, r->x.data, &one, sizeof one);
    if (r->kind == WAITS) taca_download(r->b, &r->value, r->y.data, sizeof r->value);
    if (r->kind == GROWS) {
        struct taca_mat more = taca_scratch_mat(&r->s, TACA_F32, rows, N);
        taca_fill_zero(r->b, more.data, (size_t)(rows * N) * sizeof(float));
        taca_linear(r->b, taca_scratch_mat(&r->s, TACA_F32, rows, N), more, r->w, TACA_ACT_SILU);
    }
    taca_add(r->b, r->y, r->y, r->x);
    r->s.used = used;
}

/* The ops under a key with x full of `value`; what the first element of y is. */
static float run(struct rig *r, int64_t key, float value, enum taca_code *rc) {
    struct taca_err err = {0};
    float x[ROWS * N], y = NAN;
    for (int i = 0; i < ROWS * N; i++) x[i] = value;
    taca_upload(r->b, r->x.data, x, sizeof x);
    if (!taca_replay(r->b, &key, sizeof key)) do
            ops(r);
        while (!taca_recorded(r->b));
    taca_download(r->b, &y, r->y.data, sizeof y);
    *rc = taca_sync(r->b, &err);
    return y;
}

static void test_a_replay_gives_the_bits_of_a_plain_run(void) {
    struct rig r;
    struct taca_err err = {0};
    enum taca_code rc;
    set(-1, -1);
    CHECK_OK(rig_open(&r, &err), err);
    CHECK(taca_replays(r.b));
    for (int i = 0; i < 6; i++) {
        const float value = (float)(i + 1) / 7;
        taca_backend_replay(r.b, false);
        const float plain = run(&r, 1, value, &rc);
        CHECK_INT(rc, TACA_OK);
        taca_backend_replay(r.b, true);
        const float got = run(&r, 1, value, &rc);
        CHECK_INT(rc, TACA_OK);
        CHECK(isfinite(plain) && memcmp(&got, &plain, sizeof got) == 0);
    }
    const struct taca_replay_counts n = taca_replay_count(r.b);
    CHECK_INT(n.plain, 1);
    CHECK_INT(n.recorded, 1);
    CHECK_INT(n.replayed, 4);
    CHECK_INT(n.failed, 0);
    CHECK_INT(n.kept, 1);
    CHECK(n.kept_bytes > 0);
    CHECK_INT(cuda_host_counted().graph_launches, 5);
    rig_close(&r);
}

static void test_graphs_are_kept_within_bounds_and_the_oldest_goes(void) {
    struct rig r;
    struct taca_err err = {0};
    enum taca_code rc;
    CHECK_OK(rig_open(&r, &err), err);
    const float want = run(&r, -1, 0.25f, &rc);
    for (int64_t key = 0; key < KEPT + 3; key++)
        for (int i = 0; i < 2; i++) CHECK(run(&r, key, 0.25f, &rc) == want);
    struct taca_replay_counts n = taca_replay_count(r.b);
    CHECK_INT(n.recorded, KEPT + 3);
    CHECK_INT(n.kept, KEPT);
    CHECK_INT(n.replayed, 0);
    run(&r, 0, 0.25f, &rc); /* the oldest: recorded once more, in the place of 3 */
    CHECK_INT(taca_replay_count(r.b).recorded, KEPT + 4);
    run(&r, 4, 0.25f, &rc);
    CHECK_INT(taca_replay_count(r.b).replayed, 1);
    for (int64_t key = 1000; key < 1000 + 2 * KNOWN; key++) run(&r, key, 0.25f, &rc);
    CHECK(run(&r, 4, 0.25f, &rc) == want); /* keys that came once pushed nothing out */
    n = taca_replay_count(r.b);
    CHECK_INT(n.replayed, 2);
    CHECK_INT(n.kept, KEPT);
    taca_replay_forget(r.b);
    n = taca_replay_count(r.b);
    CHECK_INT(n.kept, 0);
    CHECK_INT(n.kept_bytes, 0);
    CHECK(run(&r, 4, 0.25f, &rc) == want); /* still known */
    CHECK_INT(taca_replay_count(r.b).kept, 1);
    rig_close(&r);
}

/* No memory for a graph, or when it is launched: the ops run, and the next time is another try. */
static void test_without_memory_for_a_graph_the_ops_run(void) {
    struct rig r;
    struct taca_err err = {0};
    enum taca_code rc;
    CHECK_OK(rig_open(&r, &err), err);
    const float want = run(&r, 1, 0.5f, &rc);
    set(0, -1);
    CHECK(run(&r, 1, 0.5f, &rc) == want);
    CHECK_INT(rc, TACA_OK);
    struct taca_replay_counts n = taca_replay_count(r.b);
    CHECK_INT(n.failed, 1);
    CHECK_INT(n.kept, 0);
    CHECK_INT(n.plain, 2);
    set(-1, -1);
    CHECK(run(&r, 1, 0.5f, &rc) == want);
    CHECK(run(&r, 1, 0.5f, &rc) == want);
    n = taca_replay_count(r.b);
    CHECK_INT(n.recorded, 1);
    CHECK_INT(n.replayed, 1);
    rig_close(&r);
}

static void test_ops_that_cannot_be_recorded_run_plainly_for_good(void) {
    for (enum kind kind = UPLOADS; kind <= GROWS; kind++) {
        struct rig r;
        struct taca_err err = {0};
        enum taca_code rc;
        set(-1, -1);
        CHECK_OK(rig_open(&r, &err), err);
        const float first = run(&r, 1, 0.5f, &rc);
        r.kind = kind; /* not so when it was first seen, as a buffer that grows */
        for (int i = 0; i < 4; i++) {
            const float got = run(&r, 1, 0.5f, &rc);
            CHECK_INT(rc, TACA_OK);
            CHECK(kind == UPLOADS ? isfinite(got) : got == first);
        }
        const struct taca_replay_counts n = taca_replay_count(r.b);
        CHECK_INT(n.failed, kind == GROWS ? 1 : 2); /* what grew once has grown */
        CHECK_INT(n.kept, kind == GROWS);
        CHECK_INT(n.plain, kind == GROWS ? 2 : 5);
        rig_close(&r);
    }
}

/* A work buffer that moves takes the graphs with it that have its address. */
static void test_graphs_go_when_work_memory_moves(void) {
    struct rig r;
    struct taca_err err = {0};
    enum taca_code rc;
    CHECK_OK(rig_open(&r, &err), err);
    const float want = run(&r, 1, 0.5f, &rc);
    CHECK(run(&r, 1, 0.5f, &rc) == want);
    CHECK_INT(taca_replay_count(r.b).kept, 1);
    r.kind = GROWS;
    run(&r, 2, 0.5f, &rc);
    CHECK_INT(taca_replay_count(r.b).kept, 0);
    r.kind = NOTHING;
    for (int i = 0; i < 2; i++) CHECK(run(&r, 1, 0.5f, &rc) == want);
    CHECK_INT(taca_replay_count(r.b).replayed, 1);
    CHECK_OK(taca_scratch_reserve(&r.s, 2 << 20, &err), err);
    CHECK_INT(taca_replay_count(r.b).kept, 0);
    rig_close(&r);
}

static void test_graphs_go_before_memory_runs_out(void) {
    struct rig r;
    struct taca_err err = {0};
    enum taca_code rc;
    struct taca_device_memory m = {0};
    struct cuda_host_faults f = healthy;
    CHECK_OK(rig_open(&r, &err), err);
    const float want = run(&r, 1, 0.5f, &rc);
    CHECK(run(&r, 1, 0.5f, &rc) == want);
    const size_t graph = taca_replay_count(r.b).kept_bytes;
    CHECK(taca_backend_memory(r.b, &m));
    f.memory = (long long)(m.used_bytes + (2 << 20));
    cuda_host_set_faults(&f);
    void *p = taca_alloc(r.b, (2 << 20) + graph, &err);
    CHECK(p != NULL);
    CHECK_INT(taca_replay_count(r.b).kept, 0);
    CHECK(taca_alloc(r.b, 2 << 20, &err) == NULL);
    taca_free(r.b, p);
    CHECK(run(&r, 1, 0.5f, &rc) == want);
    CHECK_INT(rc, TACA_OK);
    set(-1, -1);
    rig_close(&r);
}

static void test_a_device_may_be_lost_at_any_call_of_a_replay(void) {
    struct rig r;
    struct taca_err err = {0};
    enum taca_code rc = TACA_OK;
    long long calls = 1;
    for (long long at = 0; at < calls; at++) {
        set(-1, -1);
        CHECK_OK(rig_open(&r, &err), err);
        run(&r, 1, 0.5f, &rc);
        set(-1, at ? at - 1 : -1); /* the first round only counts */
        for (int i = 0; i < 3 && !rc; i++) run(&r, 1, 0.5f, &rc);
        if (at == 0) calls = cuda_host_calls() + 1;
        CHECK_INT(rc, at ? TACA_EDEVICE : TACA_OK);
        run(&r, 1, 0.5f, &rc);
        CHECK_INT(rc, at ? TACA_EDEVICE : TACA_OK);
        rig_close(&r);
    }
    CHECK(calls > 20);
    printf("    lost at each of %lld calls\n", calls - 1);
}

int main(void) {
    TEST(test_a_replay_gives_the_bits_of_a_plain_run);
    TEST(test_graphs_are_kept_within_bounds_and_the_oldest_goes);
    TEST(test_without_memory_for_a_graph_the_ops_run);
    TEST(test_ops_that_cannot_be_recorded_run_plainly_for_good);
    TEST(test_graphs_go_when_work_memory_moves);
    TEST(test_graphs_go_before_memory_runs_out);
    TEST(test_a_device_may_be_lost_at_any_call_of_a_replay);
    return TEST_END();
}
