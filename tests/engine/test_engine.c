/* test_engine.c - the step border with the demo checkpoint: ragged batches against each sequence
 * alone, TACA's identities end to end, refusals, the memory plan. */
#include "engine/engine.h"

#include "engine/core.h"
#include "tests/test.h"

static struct taca_engine *open_engine(bool deterministic, enum taca_precision precision) {
    struct taca_engine *e = NULL;
    struct taca_err err = {0};
    const struct taca_engine_opts opts = {.model_path = TACA_SOURCE_DIR "/models/demo",
                                          .precision = precision,
                                          .deterministic = deterministic};
    CHECK_OK(taca_engine_open(&e, &opts, &err), err);
    return e;
}

/* A request of its own kind for each k: size, steps, sampler, guidance, window and seed differ. */
static struct taca_gen_params mixed(const struct taca_engine *e, int k) {
    static const char *const prompts[] = {"a red cube to the left of a blue ball", "",
                                          "two green cones",
                                          "a yellow ring behind a purple cylinder"};
    struct taca_gen_params p;
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = prompts[k % 4];
    p.width_px = 64 + 16 * (k % 5);
    p.height_px = 128 - 16 * (k % 3);
    p.steps = 3 + k % 4;
    p.cfg_scale = k % 3 == 1 ? 1.0 : 3.0 + k;
    p.sampler = (enum taca_sampler)(k % 5);
    p.schedule = (enum taca_levels)(k % 7);
    p.seed = (uint64_t)(100 + k);
    if (k % 2) {
        p.taca = taca_window_default();
        p.taca.fraction = 0.5;
        p.taca.gamma = 1.0 + 0.3 * k;
    }
    return p;
}

static size_t latent_count(const struct taca_seq *s) {
    return (size_t)(s->latent.c * s->latent.h * s->latent.w);
}

/* The final latent of p run alone; free() it. */
static float *run_alone(struct taca_engine *e, const struct taca_gen_params *p, size_t *n) {
    struct taca_err err = {0};
    struct taca_seq *s = NULL;
    CHECK_OK(taca_seq_open(e, p, &s, NULL, &err), err);
    if (!s) return NULL;
    while (!taca_seq_done(s))
        if (taca_step(e, &s, 1, &err)) break;
    CHECK_STR(err.text, "");
    *n = latent_count(s);
    float *out = malloc(*n * sizeof *out);
    CHECK_OK(seq_latent_read(e, s, out, &err), err);
    taca_seq_close(e, s);
    return out;
}

enum { N_MIXED = 6 };

/* All of them together, every sequence joining one step after the one before it. */
static void run_joined(struct taca_engine *e, struct taca_seq **seqs) {
    struct taca_err err = {0};
    for (int round = 0, busy = 1; busy; round++) {
        struct taca_seq *batch[N_MIXED];
        int n = 0;
        if (round < N_MIXED) {
            const struct taca_gen_params p = mixed(e, round);
            CHECK_OK(taca_seq_open(e, &p, &seqs[round], NULL, &err), err);
        }
        for (int k = N_MIXED - 1; k >= 0; k--) /* not in order of arrival */
            if (seqs[k] && !taca_seq_done(seqs[k])) batch[n++] = seqs[k];
        busy = n > 0 || round < N_MIXED;
        if (n > 0) CHECK_OK(taca_step(e, batch, n, &err), err);
        if (err.code) return;
    }
}

static void compare_mixed(bool deterministic, enum taca_precision precision, double tol) {
    struct taca_engine *e = open_engine(deterministic, precision);
    struct taca_seq *seqs[N_MIXED] = {0};
    struct taca_err err = {0};
    if (!e) return;
    run_joined(e, seqs);
    for (int k = 0; k < N_MIXED; k++) {
        const struct taca_gen_params p = mixed(e, k);
        size_t n = 0;
        float *alone = run_alone(e, &p, &n), *together = calloc(n, sizeof *together);
        CHECK_INT(n, latent_count(seqs[k]));
        CHECK_OK(seq_latent_read(e, seqs[k], together, &err), err);
        if (deterministic)
            CHECK(memcmp(alone, together, n * sizeof *alone) == 0);
        else
            CHECK_FLOATS("mixed batch against alone", together, alone, n, tol);
        free(alone);
        free(together);
        taca_seq_close(e, seqs[k]);
    }
    taca_engine_close(e);
}

static void test_a_mixed_batch_gives_what_each_sequence_gives_alone(void) {
    compare_mixed(false, TACA_PRECISION_F32, 2e-4);
}
static void test_a_mixed_batch_is_bitwise_equal_when_deterministic(void) {
    compare_mixed(true, TACA_PRECISION_F32, 0);
    compare_mixed(true, TACA_PRECISION_AUTO, 0);
}

static void test_taca_off_outside_its_window_and_at_gamma_one_are_bitwise_plain(void) {
    struct taca_engine *e = open_engine(false, TACA_PRECISION_F32);
    if (!e) return;
    struct taca_gen_params p;
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = "a red cube to the left of a blue ball";
    p.steps = 5;
    size_t n;
    float *plain = run_alone(e, &p, &n);
    struct taca_window window = taca_window_default();
    window.gamma = 1;
    window.fraction = 1;
    p.taca = window;
    float *one = run_alone(e, &p, &n);
    CHECK(memcmp(plain, one, n * sizeof *one) == 0);
    window.gamma = 3;
    window.rule = TACA_WINDOW_STEPS;
    window.first_step = window.end_step = 2; /* empty */
    p.taca = window;
    float *empty = run_alone(e, &p, &n);
    CHECK(memcmp(plain, empty, n * sizeof *empty) == 0);
    window.end_step = 3;
    p.taca = window;
    float *inside = run_alone(e, &p, &n);
    double moved = 0;
    for (size_t i = 0; i < n; i++) moved = fmax(moved, fabs((double)inside[i] - (double)plain[i]));
    printf("    gamma 3 in one of five steps moves the latent by %.3g\n", moved);
    CHECK(moved > 1e-2);
    free(plain);
    free(one);
    free(empty);
    free(inside);
    taca_engine_close(e);
}

static void test_a_sequence_outside_its_window_is_untouched_by_one_inside(void) {
    struct taca_engine *e = open_engine(true, TACA_PRECISION_F32);
    struct taca_err err = {0};
    if (!e) return;
    struct taca_gen_params a = mixed(e, 0), b = mixed(e, 1);
    struct taca_seq *s[2] = {0};
    a.steps = b.steps = 3;
    b.taca.fraction = 1;
    size_t n;
    float *alone = run_alone(e, &a, &n), *got = calloc(n, sizeof *got);
    CHECK_OK(taca_seq_open(e, &a, &s[0], NULL, &err), err);
    CHECK_OK(taca_seq_open(e, &b, &s[1], NULL, &err), err);
    for (int i = 0; i < 3; i++) CHECK_OK(taca_step(e, s, 2, &err), err);
    CHECK_OK(seq_latent_read(e, s[0], got, &err), err);
    CHECK(memcmp(alone, got, n * sizeof *got) == 0);
    for (int i = 0; i < 2; i++) taca_seq_close(e, s[i]);
    free(alone);
    free(got);
    taca_engine_close(e);
}

static void test_bad_requests_name_the_field_and_the_range(void) {
    struct taca_engine *e = open_engine(false, TACA_PRECISION_F32);
    if (!e) return;
    const struct {
        int width, height, steps;
        double cfg, gamma;
        const char *param, *words;
    } cases[] = {
        {130, 128, 4, 4, 1, "width", "multiple of 16"},
        {128, 48, 4, 4, 1, "height", "64..512"},
        {1024, 128, 4, 4, 1, "width", "64..512"},
        {128, 128, 0, 4, 1, "steps", "1..200"},
        {128, 128, 4, 31, 1, "cfg_scale", "0..30"},
        {128, 128, 4, 4, 11, "taca.scale", "0..10"},
        {128, 128, 4, (double)NAN, 1, "cfg_scale", "0..30"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct taca_gen_params p;
        struct taca_err err = {0};
        struct taca_seq *s = NULL;
        taca_gen_params_init(&p, taca_engine_info(e));
        p.width_px = cases[i].width;
        p.height_px = cases[i].height;
        p.steps = cases[i].steps;
        p.cfg_scale = cases[i].cfg;
        p.taca.gamma = cases[i].gamma;
        CHECK_INT(taca_seq_open(e, &p, &s, NULL, &err), TACA_EINVAL);
        CHECK_STR(err.param, cases[i].param);
        CHECK_HAS(err.text, cases[i].words);
        CHECK(s == NULL);
    }
    taca_engine_close(e);
}

static void test_a_finished_sequence_is_decoded_and_not_stepped_again(void) {
    struct taca_engine *e = open_engine(false, TACA_PRECISION_AUTO);
    struct taca_err err = {0};
    struct taca_seq *s = NULL;
    struct taca_image img = {0}, preview = {0};
    if (!e) return;
    struct taca_gen_params p = mixed(e, 2);
    CHECK_OK(taca_seq_open(e, &p, &s, NULL, &err), err);
    CHECK_INT(taca_seq_preview(e, s, &preview, &err), TACA_EINVAL); /* nothing to see yet */
    err = (struct taca_err){0};
    while (!taca_seq_done(s)) CHECK_OK(taca_step(e, &s, 1, &err), err);
    CHECK_INT(taca_seq_step(s), p.steps);
    CHECK_INT(taca_step(e, &s, 1, &err), TACA_EINVAL);
    CHECK_HAS(err.text, "finished");
    err = (struct taca_err){0};
    CHECK_OK(taca_seq_preview(e, s, &preview, &err), err);
    CHECK_INT(preview.width_px, p.width_px / 8);
    CHECK_OK(taca_decode(e, &s, 1, &img, &err), err);
    CHECK_INT(img.width_px, p.width_px);
    CHECK_INT(img.height_px, p.height_px);
    int low = 255, high = 0;
    for (int i = 0; i < p.width_px * p.height_px * 3; i++) {
        if (img.rgb[i] < low) low = img.rgb[i];
        if (img.rgb[i] > high) high = img.rgb[i];
    }
    CHECK(high - low > 50); /* a picture, not a wall */
    taca_image_finish(&img);
    taca_image_finish(&preview);
    taca_seq_close(e, s);
    taca_engine_close(e);
}

static void test_a_latent_that_is_not_finite_is_an_error_not_a_black_picture(void) {
    struct taca_engine *e = open_engine(false, TACA_PRECISION_F32);
    struct taca_err err = {0};
    struct taca_seq *s = NULL;
    struct taca_image img = {0};
    if (!e) return;
    struct taca_gen_params p = mixed(e, 0);
    CHECK_OK(taca_seq_open(e, &p, &s, NULL, &err), err);
    float *latent = malloc(latent_count(s) * sizeof *latent);
    CHECK_OK(seq_latent_read(e, s, latent, &err), err);
    latent[7] = NAN;
    CHECK_OK(seq_latent_write(e, s, latent, 0, &err), err);
    CHECK_INT(taca_decode(e, &s, 1, &img, &err), TACA_ENUMERIC);
    CHECK(img.rgb == NULL);
    free(latent);
    taca_seq_close(e, s);
    /* and the engine is not poisoned */
    size_t n;
    free(run_alone(e, &p, &n));
    taca_engine_close(e);
}

static void test_the_plan_is_what_a_step_and_a_decode_really_use(void) {
    struct taca_engine *e = open_engine(false, TACA_PRECISION_AUTO);
    struct taca_err err = {0};
    struct taca_seq *s[3] = {0};
    struct taca_image img = {0};
    struct taca_cost cost;
    if (!e) return;
    size_t planned = 0;
    for (int k = 0; k < 3; k++) {
        const struct taca_gen_params p = mixed(e, k);
        CHECK_OK(taca_engine_cost(e, &p, &cost, &err), err);
        CHECK(cost.step_flops > 0 && cost.total_flops > cost.step_flops * p.steps);
        CHECK_OK(taca_seq_open(e, &p, &s[k], NULL, &err), err);
        planned += s[k]->step_bytes;
        CHECK_INT(cost.tokens, taca_seq_tokens(e, s[k]));
    }
    size_t size = e->scratch.size;
    CHECK(size >= planned);
    e->scratch.peak = 0;
    CHECK_OK(taca_step(e, s, 3, &err), err);
    printf("    joint step: planned %zu bytes, used %zu\n", planned, e->scratch.peak);
    CHECK(e->scratch.peak <= planned && e->scratch.peak * 10 >= planned * 9);
    e->scratch.peak = 0;
    CHECK_OK(taca_decode(e, &s[0], 1, &img, &err), err);
    CHECK(e->scratch.peak <= s[0]->side_bytes);
    CHECK_INT(e->scratch.size, size); /* nothing was allocated since admission */
    taca_image_finish(&img);
    for (int k = 0; k < 3; k++) taca_seq_close(e, s[k]);
    taca_engine_close(e);
}

static void test_a_missing_model_is_named(void) {
    struct taca_engine *e = NULL;
    struct taca_err err = {0};
    CHECK(taca_engine_open(&e, &(struct taca_engine_opts){.model_path = "/nowhere/model"}, &err));
    CHECK_HAS(err.text, "/nowhere/model");
    CHECK(e == NULL);
}

int main(void) {
    TEST(test_a_mixed_batch_gives_what_each_sequence_gives_alone);
    TEST(test_a_mixed_batch_is_bitwise_equal_when_deterministic);
    TEST(test_taca_off_outside_its_window_and_at_gamma_one_are_bitwise_plain);
    TEST(test_a_sequence_outside_its_window_is_untouched_by_one_inside);
    TEST(test_bad_requests_name_the_field_and_the_range);
    TEST(test_a_finished_sequence_is_decoded_and_not_stepped_again);
    TEST(test_a_latent_that_is_not_finite_is_an_error_not_a_black_picture);
    TEST(test_the_plan_is_what_a_step_and_a_decode_really_use);
    TEST(test_a_missing_model_is_named);
    return TEST_END();
}
