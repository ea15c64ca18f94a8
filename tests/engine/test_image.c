/* test_image.c - pictures from pictures at the step border: what strength and mask mean, the order
 * of draws, every sampler, the memory plan, refusals. */
#include "engine/core.h"
#include "tests/test.h"

enum { SIDE = 64 };

static uint8_t picture[SIDE * SIDE * 3], left_half[SIDE * SIDE];

static struct taca_engine *open_engine(void) {
    struct taca_engine *e = NULL;
    struct taca_err err = {0};
    const struct taca_engine_opts opts = {.model_path = TACA_SOURCE_DIR "/models/demo",
                                          .precision = TACA_PRECISION_F32};
    for (int i = 0; i < SIDE * SIDE; i++) {
        const int x = i % SIDE, y = i / SIDE;
        const bool square = x >= 20 && x < 44 && y >= 20 && y < 44; /* red on light grey */
        picture[3 * i] = square ? 200 : 225;
        picture[3 * i + 1] = picture[3 * i + 2] = square ? 40 : 225;
        left_half[i] = x < SIDE / 2 ? 128 : 127;
    }
    CHECK_OK(taca_engine_open(&e, &opts, &err), err);
    return e;
}

static struct taca_gen_params from_picture(const struct taca_engine *e, double strength) {
    struct taca_gen_params p;
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = "a red cube";
    p.width_px = p.height_px = SIDE;
    p.steps = 5;
    p.seed = 11;
    p.image = picture;
    p.strength = strength;
    return p;
}

static size_t count(const struct taca_seq *s) {
    return (size_t)(s->latent.c * s->latent.h * s->latent.w);
}

static struct taca_seq *open_seq(struct taca_engine *e, const struct taca_gen_params *p) {
    struct taca_seq *s = NULL;
    struct taca_err err = {0};
    CHECK_OK(taca_seq_open(e, p, &s, NULL, &err), err);
    return s;
}

static float *latent(struct taca_engine *e, const struct taca_seq *s) {
    struct taca_err err = {0};
    float *x = malloc(count(s) * sizeof *x);
    if (!x) abort();
    CHECK_OK(seq_latent_read(e, s, x, &err), err);
    return x;
}

/* The latent of a finished sequence, which is closed. */
static float *finish(struct taca_engine *e, struct taca_seq *s) {
    struct taca_err err = {0};
    const int steps = taca_seq_steps(s);
    int n = 0;
    for (; !taca_seq_done(s) && !err.code; n++) CHECK_OK(taca_step(e, &s, 1, &err), err);
    CHECK_INT(n, steps);
    float *x = latent(e, s);
    taca_seq_close(e, s);
    return x;
}

/* z0 and noise by hand, from a generator of the same seed: the posterior's draw comes first. */
static void by_hand(struct taca_engine *e, const struct taca_seq *s, float *z0, float *noise) {
    struct taca_err err = {0};
    struct taca_rng rng;
    struct taca_chw z = s->latent;
    float *rows = malloc(sizeof picture * sizeof *rows);
    if (!rows) abort();
    for (size_t i = 0; i < sizeof picture; i++) rows[i] = (float)picture[i] / 127.5f - 1;
    taca_rng_seed(&rng, 11);
    taca_rng_randn(&rng, noise, count(s));
    z.data = z0;
    CHECK_OK(seq_encode(e, z, rows, noise, &err), err);
    taca_rng_randn(&rng, noise, count(s));
    free(rows);
}

static void test_strength_says_how_many_steps_run(void) {
    static const struct {
        int n;
        double strength;
        int first;
    } want[] = {{5, 0.6, 2},   {5, 1, 0}, {5, 0, 5},   {5, 0.1, 4},  {5, 0.2, 4},
                {28, 0.6, 11}, {1, 1, 0}, {1, 0.5, 0}, {10, 0.3, 7}, {50, 0.8, 10}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        CHECK_INT(taca_first_step(want[i].n, want[i].strength), want[i].first);
}

static void test_a_sequence_starts_between_picture_and_noise(void) {
    struct taca_engine *e = open_engine();
    if (!e) return;
    const struct taca_gen_params p = from_picture(e, 0.6);
    struct taca_seq *s = open_seq(e, &p);
    if (!s) return;
    const size_t n = count(s);
    float *z0 = malloc(3 * n * sizeof *z0);
    if (!z0) abort();
    float *noise = z0 + n, *want = z0 + 2 * n;
    by_hand(e, s, z0, noise);
    const double sigma = (double)s->schedule.sigma[2];
    for (size_t i = 0; i < n; i++)
        want[i] = (float)(sigma * (double)noise[i] + (1 - sigma) * (double)z0[i]);
    CHECK(taca_seq_steps(s) == 3 && taca_seq_step(s) == 0 && !taca_seq_done(s));
    float *got = latent(e, s);
    test_floats("start", got, want, n, 2e-5, __FILE__, __LINE__);
    free(got);
    free(finish(e, s));
    free(z0);
    taca_engine_close(e);
}

static void test_strength_0_is_the_picture_and_1_forgets_it(void) {
    struct taca_engine *e = open_engine();
    struct taca_err err = {0};
    struct taca_image img = {0};
    if (!e) return;
    struct taca_gen_params p = from_picture(e, 0);
    struct taca_seq *s = open_seq(e, &p);
    if (!s) return;
    CHECK(taca_seq_done(s) && taca_seq_steps(s) == 0);
    const size_t n = count(s);
    float *z0 = malloc(2 * n * sizeof *z0);
    if (!z0) abort();
    by_hand(e, s, z0, z0 + n);
    float *got = latent(e, s);
    test_floats("strength 0", got, z0, n, 1e-5, __FILE__, __LINE__);
    free(got);
    CHECK_OK(taca_decode(e, &s, 1, &img, &err), err);
    double off = 0;
    for (size_t i = 0; i < sizeof picture && img.rgb; i++)
        off += fabs((double)img.rgb[i] - (double)picture[i]) / (double)sizeof picture;
    printf("    encoded and decoded again: mean off by %.1f of 255\n", off);
    CHECK(off < 8); /* the demo model knows shapes on plain ground */
    taca_image_finish(&img);
    taca_seq_close(e, s);
    /* no picture at all: only its draw is seen, in that the noise is the generator's second */
    p.strength = 1;
    float *a = finish(e, open_seq(e, &p));
    memset(picture, 77, sizeof picture);
    float *b = finish(e, open_seq(e, &p));
    CHECK(memcmp(a, b, n * sizeof *a) == 0);
    p.image = NULL;
    float *c = finish(e, open_seq(e, &p));
    CHECK(memcmp(a, c, n * sizeof *a) != 0);
    free(a), free(b), free(c), free(z0);
    taca_engine_close(e);
}

/* With every sampler: outside the mask the end is the picture itself, bit for bit, and a neighbour
 * in the batch is not touched. */
static void test_a_mask_keeps_what_it_does_not_cover(void) {
    struct taca_engine *e = open_engine();
    struct taca_err err = {0};
    if (!e) return;
    for (int kind = 0; taca_sampler_names[kind]; kind++) {
        struct taca_gen_params p = from_picture(e, 0.8), plain = p;
        p.mask = left_half;
        p.sampler = plain.sampler = (enum taca_sampler)kind;
        struct taca_seq *s[2] = {open_seq(e, &p), open_seq(e, &plain)};
        if (!s[0] || !s[1]) return;
        const size_t n = count(s[0]), w = (size_t)s[0]->latent.w;
        float *z0 = malloc(2 * n * sizeof *z0);
        if (!z0) abort();
        by_hand(e, s[0], z0, z0 + n);
        while (!err.code && !taca_seq_done(s[0])) CHECK_OK(taca_step(e, s, 2, &err), err);
        float *got = latent(e, s[0]), *beside = latent(e, s[1]);
        bool kept = true, painted = false;
        for (size_t i = 0; i < n; i++) {
            const bool same = got[i] == z0[i];
            if (i % w < w / 2)
                painted = painted || !same;
            else
                kept = kept && same;
        }
        if (!CHECK(kept && painted)) printf("        %s\n", taca_sampler_names[kind]);
        for (int i = 0; i < 2; i++) taca_seq_close(e, s[i]);
        float *alone = finish(e, open_seq(e, &plain));
        test_floats("beside it", beside, alone, n, 2e-4, __FILE__, __LINE__);
        free(got), free(beside), free(alone), free(z0);
    }
    taca_engine_close(e);
}

static void test_the_plan_holds_for_pictures(void) {
    struct taca_engine *e = open_engine();
    struct taca_err err = {0};
    struct taca_cost plain, masked;
    if (!e) return;
    struct taca_gen_params p = from_picture(e, 0.6);
    p.width_px = p.height_px = SIDE;
    p.mask = left_half;
    CHECK_OK(taca_engine_cost(e, &p, &masked, &err), err);
    p.image = p.mask = NULL;
    CHECK_OK(taca_engine_cost(e, &p, &plain, &err), err);
    CHECK(masked.seq_bytes > plain.seq_bytes && masked.scratch_bytes >= plain.scratch_bytes);
    CHECK(masked.total_flops < plain.total_flops); /* three steps of five */
    p = from_picture(e, 0.6);
    p.mask = left_half;
    taca_scratch_finish(&e->scratch);
    e->scratch = (struct taca_scratch){.b = e->b};
    struct taca_seq *s = open_seq(e, &p);
    if (!s) return;
    free(finish(e, s));
    CHECK(e->scratch.peak <= e->scratch.size);
    taca_engine_close(e);
}

static void test_requests_that_cannot_be_are_refused(void) {
    struct taca_engine *e = open_engine();
    struct taca_err err = {0};
    struct taca_cost cost;
    if (!e) return;
    struct taca_gen_params p = from_picture(e, 1.5);
    CHECK(taca_engine_cost(e, &p, &cost, &err) == TACA_EINVAL);
    CHECK_HAS(err.text, "strength must be in 0..1, got 1.5");
    err = (struct taca_err){0};
    p.strength = 0.5;
    p.image = NULL;
    p.mask = left_half;
    CHECK(taca_engine_cost(e, &p, &cost, &err) == TACA_EINVAL);
    CHECK_HAS(err.text, "mask needs an image");
    err = (struct taca_err){0};
    struct taca_model_info blind = *taca_engine_info(e);
    blind.takes_images = false;
    p.image = picture;
    CHECK(taca_gen_params_check(&p, &blind, &err) == TACA_EINVAL);
    CHECK_STR(err.param, "image");
    taca_engine_close(e);
}

int main(void) {
    TEST(test_strength_says_how_many_steps_run);
    TEST(test_a_sequence_starts_between_picture_and_noise);
    TEST(test_strength_0_is_the_picture_and_1_forgets_it);
    TEST(test_a_mask_keeps_what_it_does_not_cover);
    TEST(test_the_plan_holds_for_pictures);
    TEST(test_requests_that_cannot_be_are_refused);
    return TEST_END();
}
