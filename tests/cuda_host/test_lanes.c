/* test_lanes.c - openings and decoding beside steps, on the make-believe device, which runs the
 * work of two streams in an order of chance: what overlaps gives what runs by itself, bit for bit.
 */
#include "engine/core.h"
#include "tests/cuda_host/faults.h"
#include "tests/test.h"

static const struct cuda_host_faults healthy = {-1, -1, 4ll << 30, 1, 0, 0, 0};

/* ---- lanes of a backend ---------------------------------------------------------------------- */

enum { ROWS = 24, IN = 32, OUT = 48, ROUNDS = 24, CHAIN = 6 };

static struct taca_backend *open_backend(void) {
    const struct taca_backend_opts opts = {.precision = TACA_BF16};
    struct taca_backend *b = NULL;
    struct taca_err err = {0};
    cuda_host_set_faults(&healthy);
    CHECK_OK(taca_backend_open(&b, "cuda", &opts, &err), err);
    if (!b) exit(1);
    return b;
}

static void *device(struct taca_backend *b, size_t bytes) {
    struct taca_err err = {0};
    void *p = taca_alloc(b, bytes, &err);
    if (!CHECK(p != NULL)) exit(1);
    return p;
}

/* A block that is freed while work with it is queued, as a layout is, goes to nobody of the other
 * lane before that work is done. */
static void test_memory_that_queued_work_needs_stays_as_it_is(void) {
    enum { N = 64 };
    struct taca_backend *b = open_backend();
    struct taca_err err = {0};
    float ones[N], twos[N], got[N];
    for (int i = 0; i < N; i++) ones[i] = 1, twos[i] = 2;
    float *out = device(b, sizeof got);
    for (int k = 0; k < ROUNDS; k++) {
        (void)taca_lane(b, TACA_LANE_SIDE);
        float *p = device(b, sizeof ones);
        taca_upload(b, p, ones, sizeof ones);
        taca_axpb(b, (struct taca_chw){out, 1, 1, N}, (struct taca_chw){p, 1, 1, N}, 1, 0);
        taca_free(b, p);
        (void)taca_lane(b, TACA_LANE_STEP);
        float *q = device(b, sizeof twos);
        taca_upload(b, q, twos, sizeof twos);
        CHECK_OK(taca_sync(b, &err), err);
        (void)taca_lane(b, TACA_LANE_SIDE);
        taca_download(b, got, out, sizeof got);
        for (int i = 0; i < N; i++) CHECK_NEAR(got[i], 1, 0);
        (void)taca_lane(b, TACA_LANE_STEP);
        taca_free(b, q);
    }
    taca_free(b, out);
    taca_backend_close(b);
    CHECK_INT(cuda_host_live_blocks(), 0);
}

/* y = a few products of an f32 x. Each narrows its input in work memory, and has its output there
 * before that is activated. at: x, then two matrices of OUT columns, the first of bf16. */
static const float *chain(struct taca_backend *b, const struct taca_linear *w, float *at,
                          const float *x) {
    struct taca_mat from = {at, TACA_F32, ROWS, IN, IN};
    const struct taca_mat low = {at + ROWS * IN, TACA_BF16, ROWS, OUT, OUT};
    const struct taca_mat y = {at + ROWS * (IN + OUT), TACA_F32, ROWS, OUT, OUT};
    taca_upload(b, at, x, sizeof(float) * ROWS * IN);
    for (int i = 0; i < CHAIN; i++) {
        taca_linear(b, low, from, w, TACA_ACT_SILU);
        taca_activate(b, y, low, TACA_ACT_NONE);
        from = taca_mat_cols(y, i % 2 ? 0 : OUT - IN, IN);
    }
    return y.data;
}

static void test_lanes_have_work_memory_of_their_own(void) {
    enum { Y = ROWS * OUT };
    static float values[OUT * IN], x[TACA_LANES][ROWS * IN], want[TACA_LANES][Y], got[Y];
    struct taca_backend *b = open_backend();
    struct taca_err err = {0};
    struct taca_linear *w = NULL;
    float *at[TACA_LANES];
    const float *y[TACA_LANES];
    for (int i = 0; i < OUT * IN; i++) values[i] = (float)(i % 23) / 23 - 0.5f;
    for (int i = 0; i < ROWS * IN; i++) x[0][i] = (float)(i % 7) - 3, x[1][i] = (float)(i % 11) - 5;
    const struct taca_tensor t = {"w", values, TACA_F32, 2, {OUT, IN}};
    CHECK_OK(taca_linear_open(b, &w, &t, NULL, 1, &err), err);
    for (int k = 0; k < TACA_LANES; k++) {
        at[k] = device(b, ROWS * (IN + 2 * OUT) * sizeof(float));
        y[k] = chain(b, w, at[k], x[k]);
        taca_download(b, want[k], y[k], sizeof want[k]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int k = 0; k < TACA_LANES; k++) {
            (void)taca_lane(b, (enum taca_lane)k);
            (void)chain(b, w, at[k], x[k]);
        }
        for (int k = 0; k < TACA_LANES; k++) {
            (void)taca_lane(b, (enum taca_lane)k);
            taca_download(b, got, y[k], sizeof got);
            CHECK(memcmp(got, want[k], sizeof got) == 0);
        }
    }
    (void)taca_lane(b, TACA_LANE_STEP);
    CHECK_OK(taca_sync(b, &err), err);
    for (int k = 0; k < TACA_LANES; k++) taca_free(b, at[k]);
    taca_backend_close(b);
}

/* Uploads of one lane fill the ring while the other's still wait in theirs. */
static void test_lanes_have_rings_of_their_own(void) {
    enum { MIB = 1 << 20, SMALL = 10 * MIB, LARGE = 40 * MIB };
    struct taca_backend *b = open_backend();
    struct taca_err err = {0};
    char *host = malloc(LARGE), *p = device(b, SMALL), *q = device(b, LARGE);
    for (int round = 0; host && round < 8; round++) {
        (void)taca_lane(b, TACA_LANE_SIDE);
        memset(host, 1, SMALL);
        taca_upload(b, p, host, SMALL);
        (void)taca_lane(b, TACA_LANE_STEP);
        memset(host, 2, LARGE);
        taca_upload(b, q, host, LARGE);
        CHECK_OK(taca_sync(b, &err), err);
        (void)taca_lane(b, TACA_LANE_SIDE);
        taca_download(b, host, p, SMALL);
        CHECK(host[0] == 1 && memcmp(host, host + 1, SMALL - 1) == 0);
        (void)taca_lane(b, TACA_LANE_STEP);
    }
    free(host);
    taca_free(b, p);
    taca_free(b, q);
    taca_backend_close(b);
}

static void test_a_lane_that_follows_a_mark_sees_what_is_before_it(void) {
    struct taca_backend *b = open_backend();
    struct taca_err err = {0};
    struct taca_mark m = {0};
    float one = 1, got = 0, *p = device(b, sizeof one), *q = device(b, sizeof one);
    const struct taca_chw to = {q, 1, 1, 1}, from = {p, 1, 1, 1};
    CHECK_OK(taca_mark_open(b, &m, &err), err);
    for (int k = 0; k < ROUNDS; k++) {
        taca_fill_zero(b, p, sizeof one);
        CHECK_OK(taca_sync(b, &err), err);
        (void)taca_lane(b, TACA_LANE_SIDE);
        taca_upload(b, p, &one, sizeof one);
        taca_axpb(b, from, from, 2, (float)k);
        taca_mark_set(b, &m);
        CHECK(taca_lane(b, TACA_LANE_STEP) == TACA_LANE_SIDE);
        if (k % 2)
            while (!taca_mark_done(b, &m)) continue;
        else
            taca_mark_follow(b, &m);
        taca_axpb(b, to, from, 1, 0);
        taca_download(b, &got, q, sizeof got);
        CHECK_NEAR(got, 2 + k, 0);
    }
    taca_mark_close(b, &m);
    taca_free(b, p);
    taca_free(b, q);
    taca_backend_close(b);
    CHECK_INT(cuda_host_live_blocks(), 0);
}

/* ---- the engine ------------------------------------------------------------------------------ */

enum { SIDE_PX = 64, PICTURES = 3 };
static uint8_t start_rgb[SIDE_PX * SIDE_PX * 3], start_mask[SIDE_PX * SIDE_PX];

static struct taca_engine *open_engine(void) {
    const struct taca_engine_opts opts = {.model_path = TACA_SOURCE_DIR "/models/demo",
                                          .device = "cuda",
                                          .precision = TACA_PRECISION_BF16};
    struct taca_engine *e = NULL;
    struct taca_err err = {0};
    cuda_host_set_faults(&healthy);
    CHECK_OK(taca_engine_open(&e, &opts, &err), err);
    if (!e) exit(1);
    return e;
}

/* Of text; of text without guidance; of a picture, part of which stays. */
static struct taca_gen_params request(const struct taca_engine *e, int k) {
    static const char *const prompts[] = {"a red cube", "two green cones", "a blue ring"};
    struct taca_gen_params p;
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = prompts[k];
    p.width_px = p.height_px = SIDE_PX;
    p.steps = 2;
    p.cfg_scale = k == 1 ? 1 : 4;
    p.seed = (uint64_t)(50 + k);
    if (k < 2) return p;
    p.image = start_rgb;
    p.mask = start_mask;
    p.strength = 1;
    return p;
}

static bool same(const struct taca_image *a, const struct taca_image *b) {
    return a->rgb && b->rgb && a->width_px == b->width_px && a->height_px == b->height_px &&
           memcmp(a->rgb, b->rgb, (size_t)a->width_px * (size_t)a->height_px * 3) == 0;
}

static void alone(struct taca_engine *e, int k, struct taca_image *out) {
    const struct taca_gen_params p = request(e, k);
    struct taca_err err = {0};
    struct taca_seq *s = NULL;
    CHECK_OK(taca_seq_open(e, &p, &s, NULL, &err), err);
    if (!s) exit(1);
    while (!taca_seq_done(s) && !err.code) CHECK_OK(taca_step(e, &s, 1, &err), err);
    CHECK_OK(taca_decode(e, &s, 1, out, &err), err);
    taca_seq_close(e, s);
}

static struct taca_seq *begin_opening(struct taca_engine *e, int k) {
    const struct taca_gen_params p = request(e, k);
    struct taca_err err = {0};
    struct taca_seq *s = NULL;
    CHECK_OK(taca_seq_open_begin(e, &p, &s, NULL, &err), err);
    if (!s) exit(1);
    return s;
}

/* Every opening and every decoding has a step of another beside it. The third is stepped before
 * anybody has waited for its opening, whose image is still being encoded. */
static void overlap(struct taca_engine *e, struct taca_image out[PICTURES]) {
    struct taca_err err = {0};
    struct taca_seq *s[PICTURES];
    s[0] = begin_opening(e, 0);
    CHECK_OK(taca_step(e, &s[0], 1, &err), err); /* behind its opening, on the device */
    CHECK_OK(taca_seq_open_end(e, &err), err);
    CHECK_OK(taca_step_begin(e, &s[0], 1, &err), err);
    s[1] = begin_opening(e, 1);
    CHECK_INT(taca_decode_begin(e, s[0], &err), TACA_EBUSY);
    err = (struct taca_err){0};
    CHECK_OK(taca_step_end(e, &err), err);
    CHECK(taca_seq_done(s[0]));
    CHECK_OK(taca_seq_open_end(e, &err), err);
    CHECK_OK(taca_decode_begin(e, s[0], &err), err);
    CHECK_OK(taca_step(e, &s[1], 1, &err), err);
    CHECK_OK(taca_decode_end(e, &out[0], &err), err);
    taca_seq_close(e, s[0]);
    s[2] = begin_opening(e, 2);
    CHECK_OK(taca_step_begin(e, &s[1], 1, &err), err);
    while (!taca_step_done(e)) continue;
    CHECK_OK(taca_step_end(e, &err), err);
    CHECK_OK(taca_step(e, &s[2], 1, &err), err);
    while (!taca_side_done(e)) continue;
    CHECK_OK(taca_seq_open_end(e, &err), err);
    CHECK_OK(taca_decode_begin(e, s[1], &err), err);
    CHECK_OK(taca_step(e, &s[2], 1, &err), err);
    while (!taca_side_done(e)) continue;
    CHECK_OK(taca_decode_end(e, &out[1], &err), err);
    CHECK_OK(taca_decode(e, &s[2], 1, &out[2], &err), err);
    taca_seq_close(e, s[1]);
    taca_seq_close(e, s[2]);
}

static void test_pictures_that_overlap_are_those_made_alone(void) {
    struct taca_engine *e = open_engine();
    struct taca_image want[PICTURES] = {{0}}, got[PICTURES] = {{0}};
    CHECK(taca_overlaps(e));
    for (int k = 0; k < PICTURES; k++) alone(e, k, &want[k]);
    overlap(e, got);
    for (int k = 0; k < PICTURES; k++) {
        if (!CHECK(same(&want[k], &got[k]))) printf("        picture %d\n", k);
        taca_image_finish(&got[k]);
    }
    CHECK(e->side_scratch.peak <= e->side_scratch.size && e->scratch.peak <= e->scratch.size);
    CHECK_INT(e->side_scratch.used + e->scratch.used, 0);
    for (int k = 0; k < PICTURES; k++) taca_image_finish(&want[k]);
    taca_engine_close(e);
    CHECK_INT(cuda_host_live_blocks(), 0);
}

/* Where a walk begins is known before its picture has been encoded: whoever opens it asks at once.
 */
static void test_a_walk_from_a_picture_knows_its_steps_from_the_beginning(void) {
    static const double strengths[] = {1, 0.5, 0};
    struct taca_engine *e = open_engine();
    for (int steps = 2, k = 0; k < 3; k++, steps--) {
        struct taca_gen_params p = request(e, 2);
        struct taca_err err = {0};
        struct taca_image img = {0};
        struct taca_seq *s = NULL;
        p.strength = strengths[k];
        CHECK_OK(taca_seq_open_begin(e, &p, &s, NULL, &err), err);
        if (!s) exit(1);
        CHECK_INT(taca_seq_steps(s), steps);
        CHECK_INT(taca_seq_step(s), 0);
        CHECK(taca_seq_done(s) == (steps == 0));
        for (int i = 0; i < steps; i++) CHECK_OK(taca_step(e, &s, 1, &err), err);
        CHECK_OK(taca_seq_open_end(e, &err), err);
        CHECK(taca_seq_done(s));
        CHECK_OK(taca_decode(e, &s, 1, &img, &err), err);
        taca_image_finish(&img);
        taca_seq_close(e, s);
    }
    taca_engine_close(e);
    CHECK_INT(cuda_host_live_blocks(), 0);
}

/* One opened and stepped once, one done. */
struct pair {
    struct taca_seq *steps, *done;
};
static struct pair open_pair(struct taca_engine *e) {
    struct pair p;
    struct taca_err err = {0};
    p.done = begin_opening(e, 0);
    CHECK_OK(taca_seq_open_end(e, &err), err);
    while (!taca_seq_done(p.done) && !err.code) CHECK_OK(taca_step(e, &p.done, 1, &err), err);
    p.steps = begin_opening(e, 1);
    CHECK_OK(taca_seq_open_end(e, &err), err);
    return p;
}

static void test_closing_what_a_lane_works_on_waits_for_it(void) {
    struct taca_engine *e = open_engine();
    struct taca_err err = {0};
    struct taca_image img = {0};
    struct pair p = open_pair(e);
    CHECK_OK(taca_decode_begin(e, p.done, &err), err);
    taca_seq_close(e, p.done);
    CHECK_INT(taca_decode_end(e, &img, &err), TACA_EINVAL);
    taca_seq_close(e, begin_opening(e, 2));
    CHECK_INT(taca_seq_open_end(e, &err), TACA_EINVAL);
    err = (struct taca_err){0};
    CHECK_OK(taca_step_begin(e, &p.steps, 1, &err), err);
    taca_seq_close(e, p.steps);
    CHECK_OK(taca_step_end(e, &err), err);
    taca_seq_close(e, begin_opening(e, 0)); /* nothing of them is left in the way */
    CHECK_INT(e->open_seqs, 0);
    taca_engine_close(e);
    CHECK_INT(cuda_host_live_blocks(), 0);
}

/* The step goes on, what is decoded too, and the next opening finds memory again. */
static void test_an_opening_without_memory_harms_nobody(void) {
    struct taca_engine *e = open_engine();
    struct taca_err err = {0};
    struct taca_image img = {0}, want = {0};
    struct taca_seq *s = NULL;
    struct cuda_host_faults f = healthy;
    alone(e, 1, &want);
    struct pair p = open_pair(e);
    CHECK_OK(taca_step_begin(e, &p.steps, 1, &err), err);
    struct taca_gen_params large = request(e, 0);
    large.width_px = large.height_px = 4 * SIDE_PX; /* wants more scratch */
    f.fail_alloc = 0;
    cuda_host_set_faults(&f);
    CHECK_INT(taca_seq_open_begin(e, &large, &s, NULL, &err), TACA_ENOMEM);
    CHECK(s == NULL && taca_side_done(e));
    err = (struct taca_err){0};
    CHECK_OK(taca_step_end(e, &err), err);
    CHECK_OK(taca_decode_begin(e, p.done, &err), err);
    CHECK_INT(taca_seq_open_begin(e, &large, &s, NULL, &err), TACA_EBUSY);
    err = (struct taca_err){0};
    CHECK_OK(taca_step(e, &p.steps, 1, &err), err);
    CHECK_OK(taca_decode_end(e, &img, &err), err);
    taca_image_finish(&img);
    CHECK_OK(taca_decode(e, &p.steps, 1, &img, &err), err);
    CHECK(same(&want, &img));
    taca_image_finish(&img);
    taca_image_finish(&want);
    taca_seq_close(e, p.done);
    taca_seq_close(e, p.steps);
    taca_engine_close(e);
    CHECK_INT(cuda_host_live_blocks(), 0);
}

/* Whoever waits hears of it, and all can be closed. */
static void test_a_device_lost_beside_a_step_is_told_to_both(void) {
    for (int what = 0; what < 2; what++) {
        struct taca_engine *e = open_engine();
        struct taca_err err = {0};
        struct taca_image img = {0};
        struct pair p = open_pair(e);
        struct cuda_host_faults f = healthy;
        struct taca_seq *s = what ? begin_opening(e, 2) : NULL;
        if (!what) CHECK_OK(taca_decode_begin(e, p.done, &err), err);
        CHECK_OK(taca_step_begin(e, &p.steps, 1, &err), err);
        f.lost_at = 0;
        cuda_host_set_faults(&f);
        CHECK_INT(taca_step_end(e, &err), TACA_EDEVICE);
        CHECK_INT(what ? taca_seq_open_end(e, &err) : taca_decode_end(e, &img, &err), TACA_EDEVICE);
        CHECK(img.rgb == NULL && taca_side_done(e) && s == (what ? s : NULL));
        taca_seq_close(e, p.done);
        taca_seq_close(e, p.steps);
        taca_engine_close(e);
        CHECK_INT(cuda_host_live_blocks(), 0);
    }
}

int main(void) {
    for (size_t i = 0; i < sizeof start_rgb; i++) start_rgb[i] = (uint8_t)(i * 7 % 251);
    for (size_t i = 0; i < sizeof start_mask; i++) start_mask[i] = i % SIDE_PX < 40 ? 255 : 0;
    TEST(test_memory_that_queued_work_needs_stays_as_it_is);
    TEST(test_lanes_have_work_memory_of_their_own);
    TEST(test_lanes_have_rings_of_their_own);
    TEST(test_a_lane_that_follows_a_mark_sees_what_is_before_it);
    TEST(test_pictures_that_overlap_are_those_made_alone);
    TEST(test_a_walk_from_a_picture_knows_its_steps_from_the_beginning);
    TEST(test_closing_what_a_lane_works_on_waits_for_it);
    TEST(test_an_opening_without_memory_harms_nobody);
    TEST(test_a_device_lost_beside_a_step_is_told_to_both);
    return TEST_END();
}
