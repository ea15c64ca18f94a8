/* test_window.c - which steps a TACA window covers: the published table for SD3.5, the edges of
 * each rule, and that no rounding to a narrow type can move an edge. */
#include "engine/sample/schedule.h"
#include "engine/sample/taca.h"
#include "tests/test.h"

static const struct taca_scheduler sd3 = {.shift = 3, .train_steps = 1000};

static struct taca_schedule schedule(int n) {
    struct taca_schedule s = {0};
    struct taca_err err = {0};
    CHECK_OK(taca_schedule_init(&s, &sd3, n, 0, 0, &err), err);
    return s;
}

/* Active steps; they must be the first ones, without a gap. */
static int active(const struct taca_window *w, const struct taca_schedule *s) {
    int n = 0;
    for (int i = 0; i < s->steps; i++) {
        double gamma = taca_gamma(w, i, s->steps, (double)s->sigma[i]);
        CHECK(gamma == 1.0 || gamma == w->gamma);
        if (gamma == 1.0) continue;
        CHECK_INT(i, n);
        n++;
    }
    return n;
}

static void test_first_timesteps_of_sd35(void) {
    static const double thirty[] = {1000.0, 988.27, 975.98, 963.08, 949.53};
    static const double twenty_eight[] = {1000.0, 987.38, 974.11, 960.13};
    static const double eight[] = {1000.0, 947.5, 882.8};
    struct taca_schedule s = schedule(30);
    for (int i = 0; i < 5; i++) CHECK_NEAR(s.timestep[i], thirty[i], 0.005);
    s = schedule(28);
    for (int i = 0; i < 4; i++) CHECK_NEAR(s.timestep[i], twenty_eight[i], 0.005);
    s = schedule(8);
    for (int i = 0; i < 3; i++) CHECK_NEAR(s.timestep[i], eight[i], 0.05);
}

static void test_noise_level_rule_on_sd35(void) {
    /* steps with timestep >= 970, 950, 930 */
    static const struct {
        int n, steps[3];
    } want[] = {{30, {3, 4, 6}}, {28, {3, 4, 5}},  {20, {2, 3, 4}},
                {8, {1, 1, 2}},  {50, {5, 7, 10}}, {4, {1, 1, 1}}};
    static const double threshold[] = {0.97, 0.95, 0.93};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct taca_schedule s = schedule(want[i].n);
        for (int k = 0; k < 3; k++) {
            struct taca_window w = {
                .rule = TACA_WINDOW_SIGMA, .gamma = 1.2, .sigma_min = threshold[k], .sigma_max = 1};
            CHECK_INT(active(&w, &s), want[i].steps[k]);
        }
    }
}

static void test_fraction_rule_is_the_published_index_rule(void) {
    /* 3 of 30; i < n / 10 in exact arithmetic everywhere else */
    struct taca_window w = taca_window_default();
    CHECK(w.rule == TACA_WINDOW_FRACTION && w.gamma == 1.2 && w.fraction == 0.1);
    for (int n = 1; n <= TACA_MAX_STEPS; n++) {
        struct taca_schedule s = schedule(n);
        CHECK_INT(active(&w, &s), (n + 9) / 10);
    }
}

static void test_fractions_that_double_cannot_hold(void) {
    /* fraction k / n must cover exactly k of n steps whatever its rounding */
    for (int n = 1; n <= TACA_MAX_STEPS; n++) {
        int wrong = 0;
        for (int k = 0; k <= n; k++) {
            struct taca_window w = {
                .rule = TACA_WINDOW_FRACTION, .gamma = 2, .fraction = (double)k / n};
            int steps = 0;
            for (int i = 0; i < n; i++) steps += taca_gamma(&w, i, n, 0.5) == 2;
            wrong += steps != k;
        }
        CHECK_INT(wrong, 0);
    }
}

static void test_step_rule_is_half_open(void) {
    struct taca_window w = {
        .rule = TACA_WINDOW_STEPS, .gamma = 1.3, .first_step = 2, .end_step = 5};
    for (int i = 0; i < 8; i++) CHECK(taca_gamma(&w, i, 8, 1.0) == (i >= 2 && i < 5 ? 1.3 : 1.0));
    w.end_step = 2; /* empty */
    for (int i = 0; i < 8; i++) CHECK(taca_gamma(&w, i, 8, 1.0) == 1.0);
}

static void test_both_bounds_of_the_noise_level_are_inside(void) {
    struct taca_window w = {
        .rule = TACA_WINDOW_SIGMA, .gamma = 1.2, .sigma_min = 0.97, .sigma_max = 1};
    CHECK(taca_gamma(&w, 0, 30, 0.97) == 1.2);
    CHECK(taca_gamma(&w, 0, 30, nextafter(0.97, 0)) == 1.0);
    CHECK(taca_gamma(&w, 0, 30, 1.0) == 1.2);
    w.sigma_max = 0.98;
    CHECK(taca_gamma(&w, 0, 30, 0.98) == 1.2);
    CHECK(taca_gamma(&w, 0, 30, nextafter(0.98, 1)) == 1.0);
}

/* Twenty even steps are at timesteps 1000, 950, 900 and so on, as floats: some a little below, some
 * a little above the number that a request names. */
static void test_levels_that_floats_cannot_hold_are_on_their_bound(void) {
    static const struct taca_scheduler schnell = {
        .spacing = TACA_SPACING_EVEN, .shift = 1, .train_steps = 1000};
    struct taca_schedule s;
    struct taca_err err = {0};
    CHECK_OK(taca_schedule_init(&s, &schnell, 20, 0, 0, &err), err);
    for (int i = 0; i < 20; i++) {
        const double sigma = (1000 - 50 * i) / 1000.0;
        struct taca_window w = {.rule = TACA_WINDOW_SIGMA, .gamma = 1.2, .sigma_max = 1};
        w.sigma_min = sigma;
        CHECK_INT(active(&w, &s), i + 1);
        w.sigma_min = 0;
        w.sigma_max = sigma;
        for (int k = 0; k < 20; k++)
            CHECK(taca_window_has(&w, k, 20, (double)s.sigma[k]) == (k >= i));
    }
}

static void test_edges_are_finer_than_bf16(void) {
    /* bf16 rounds 0.9703 to 0.96875, which would fall out of the window, and knows no level
     * between 0.96875 and 0.97265625 */
    struct taca_window w = {
        .rule = TACA_WINDOW_SIGMA, .gamma = 1.2, .sigma_min = 0.97, .sigma_max = 1};
    CHECK(taca_gamma(&w, 2, 30, 0.9703) == 1.2);
    CHECK(taca_gamma(&w, 2, 30, 0.9697) == 1.0);
    CHECK(taca_gamma(&w, 2, 30, 0.96875) == 1.0);
}

static void test_off_is_exactly_one(void) {
    struct taca_window w = {.rule = TACA_WINDOW_OFF, .gamma = 1.2, .fraction = 1, .end_step = 9};
    for (int i = 0; i < 8; i++) CHECK(taca_gamma(&w, i, 8, 1.0) == 1.0);
}

/* Pictures of FLUX: the shift grows with their tokens, and with it what lies above a threshold. */
static void test_noise_level_rule_on_flux(void) {
    static const struct taca_scheduler flux = {.spacing = TACA_SPACING_EVEN,
                                               .dynamic = TACA_DYNAMIC_EXPONENTIAL,
                                               .base_shift = 0.5,
                                               .max_shift = 1.15,
                                               .base_tokens = 256,
                                               .max_tokens = 4096,
                                               .train_steps = 1000};
    static const struct {
        int64_t tokens;
        int steps, above_970, above_950, above_930;
    } want[] = {{4096, 30, 3, 5, 6},  {4096, 28, 3, 4, 6},     {4096, 20, 2, 3, 4},
                {4096, 50, 5, 8, 10}, {1024, 30, 2, 3, 4},     {2304, 30, 3, 4, 5},
                {9216, 30, 6, 9, 11}, {16384, 30, 14, 18, 20}, {4096, 4, 1, 1, 1},
                {4096, 8, 1, 2, 2}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct taca_window w = {.rule = TACA_WINDOW_SIGMA, .gamma = 1.2, .sigma_max = 1};
        struct taca_schedule s;
        struct taca_err err = {0};
        CHECK_OK(taca_schedule_init(&s, &flux, want[i].steps, want[i].tokens, 0, &err), err);
        w.sigma_min = 0.97;
        CHECK_INT(active(&w, &s), want[i].above_970);
        w.sigma_min = 0.95;
        CHECK_INT(active(&w, &s), want[i].above_950);
        w.sigma_min = 0.93;
        CHECK_INT(active(&w, &s), want[i].above_930);
    }
}

int main(void) {
    TEST(test_first_timesteps_of_sd35);
    TEST(test_noise_level_rule_on_sd35);
    TEST(test_noise_level_rule_on_flux);
    TEST(test_fraction_rule_is_the_published_index_rule);
    TEST(test_fractions_that_double_cannot_hold);
    TEST(test_step_rule_is_half_open);
    TEST(test_both_bounds_of_the_noise_level_are_inside);
    TEST(test_levels_that_floats_cannot_hold_are_on_their_bound);
    TEST(test_edges_are_finer_than_bf16);
    TEST(test_off_is_exactly_one);
    return TEST_END();
}
