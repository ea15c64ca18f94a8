/* test_levels.c - named noise levels against published values (ComfyUI's for its own names,
 * diffusers' for Karras and exponential) and, in general, for what every walk needs. */
#include "engine/sample/levels.h"
#include "tests/test.h"

static const struct taca_scheduler sd3 = {.shift = 3, .train_steps = 1000};
static const struct taca_scheduler schnell = {
    .spacing = TACA_SPACING_EVEN, .shift = 1, .train_steps = 1000};
static const struct taca_scheduler dev = {.spacing = TACA_SPACING_EVEN,
                                          .shift = 3,
                                          .dynamic = TACA_DYNAMIC_EXPONENTIAL,
                                          .base_shift = 0.5,
                                          .max_shift = 1.15,
                                          .base_tokens = 256,
                                          .max_tokens = 4096,
                                          .train_steps = 1000};

static void test_levels_are_the_published_ones(void) {
    static const struct {
        const struct taca_scheduler *scheduler;
        enum taca_levels levels;
        int n;
        double sigma[6];
    } want[] = {
        {&sd3, TACA_LEVELS_DEFAULT, 4, {1, .857692301, .602150559, .008928572}},
        {&sd3, TACA_LEVELS_NORMAL, 4, {1, .857692301, .602150559, .008928572}},
        {&sd3, TACA_LEVELS_SIMPLE, 4, {1, .9, .75, .5}},
        {&sd3, TACA_LEVELS_SGM_UNIFORM, 4, {1, .900359, .7511211, .5029851}},
        {&sd3, TACA_LEVELS_BETA, 4, {1, .9335348, .7507493, .3921714}},
        {&sd3, TACA_LEVELS_KARRAS, 5, {1, .400321543, .139599115, .040372707, .008928572}},
        {&sd3, TACA_LEVELS_EXPONENTIAL, 5, {1, .307394087, .094491117, .029046010, .008928572}},
        {&dev, TACA_LEVELS_DEFAULT, 4, {1, .904530764, .759510934, .512844145}},
        {&dev, TACA_LEVELS_SIMPLE, 4, {1, .9045308, .7595109, .5128441}},
        {&dev, TACA_LEVELS_NORMAL, 4, {1, .8633764, .6124921, .0009965}},
        {&dev, TACA_LEVELS_SGM_UNIFORM, 4, {1, .9045671, .7596263, .5131596}},
        {&dev, TACA_LEVELS_BETA, 4, {1, .9367757, .759584, .4024983}},
        {&schnell, TACA_LEVELS_SIMPLE, 4, {1, .75, .5, .25}},
        {&schnell, TACA_LEVELS_NORMAL, 4, {1, .667, .334, .001}},
    };
    for (size_t k = 0; k < sizeof want / sizeof *want; k++) {
        struct taca_schedule s;
        struct taca_err err = {0};
        const struct taca_schedule_want w = {want[k].levels, want[k].n, 4096, 0};
        CHECK_OK(taca_schedule_make(&s, want[k].scheduler, &w, &err), err);
        CHECK_INT(s.steps, want[k].n);
        for (int i = 0; i < s.steps; i++) CHECK_NEAR(s.sigma[i], want[k].sigma[i], 1e-6);
        CHECK(s.sigma[s.steps] == 0);
    }
}

/* ComfyUI multiplies by a quotient, which may fall short of the entry that a division would find:
 * entry int(19 * (1000 / 38)) is the 499th, 19 * 1000 / 38 is 500. */
static void test_simple_levels_are_found_by_the_same_product(void) {
    static const struct {
        const struct taca_scheduler *scheduler;
        int n, i, entry, entries;
    } want[] = {{&schnell, 38, 19, 499, 1000},  {&schnell, 38, 18, 473, 1000},
                {&schnell, 152, 76, 499, 1000}, {&dev, 95, 76, 7999, 10000},
                {&dev, 132, 99, 7499, 10000},   {&dev, 132, 98, 7424, 10000}};
    for (size_t k = 0; k < sizeof want / sizeof *want; k++) {
        struct taca_schedule s;
        struct taca_err err = {0};
        const struct taca_schedule_want w = {TACA_LEVELS_SIMPLE, want[k].n, 4096, 1};
        CHECK_OK(taca_schedule_make(&s, want[k].scheduler, &w, &err), err);
        CHECK_NEAR(s.sigma[want[k].i], 1 - (double)want[k].entry / want[k].entries, 1e-7);
    }
}

/* Karras and exponential are between the ends of the model's own levels, whatever those are. */
static void test_every_walk_falls_from_its_start_to_zero(void) {
    static const struct taca_scheduler *const all[] = {&sd3, &schnell, &dev};
    static const int steps[] = {1, 2, 3, 7, 28, 50, TACA_MAX_STEPS};
    for (int k = 0; k < 3 * 7 * (TACA_LEVELS_EXPONENTIAL + 1); k++) {
        struct taca_schedule s;
        struct taca_err err = {0};
        const struct taca_schedule_want w = {(enum taca_levels)(k / 21), steps[k % 7], 1024, 0};
        CHECK_OK(taca_schedule_make(&s, all[k / 7 % 3], &w, &err), err);
        CHECK(s.steps >= 1 && s.steps <= w.steps);
        CHECK(s.steps == w.steps || w.levels == TACA_LEVELS_BETA);
        bool falls = s.sigma[0] > 0.999f && s.sigma[0] <= 1 && s.sigma[s.steps] == 0;
        for (int i = 0; i < s.steps; i++)
            falls = falls && s.sigma[i] > s.sigma[i + 1] &&
                    fabsf(s.timestep[i] - 1000 * s.sigma[i]) < 1e-3f;
        if (!CHECK(falls)) printf("        %s, %d steps\n", taca_levels_names[k / 21], w.steps);
    }
}

/* A distribution function by the midpoint rule in u = x^0.6, where the integrand is smooth. */
static double beta_probability(double x) {
    enum { N = 200000 };
    double part = 0, whole = 0;
    const double top = pow(x, 0.6), half = pow(0.5, 0.6);
    for (int i = 0; i < N; i++) {
        const double u = (i + 0.5) / N;
        part += pow(1 - pow(u * top, 1 / 0.6), -0.4) * top / N;
        whole += pow(1 - pow(u * half, 1 / 0.6), -0.4) * half / N;
    }
    return part / (2 * whole);
}

static void test_the_quantile_is_the_inverse_of_the_integral(void) {
    for (int i = 1; i < 8; i++)
        CHECK_NEAR(beta_probability(levels_beta_quantile(i / 16.0)), i / 16.0, 1e-9);
    CHECK(levels_beta_quantile(0) < 1e-15 && levels_beta_quantile(1) == 1);
    CHECK_NEAR(levels_beta_quantile(0.5), 0.5, 1e-15);
    CHECK_NEAR(levels_beta_quantile(0.9), 1 - levels_beta_quantile(0.1), 1e-15);
}

int main(void) {
    TEST(test_levels_are_the_published_ones);
    TEST(test_simple_levels_are_found_by_the_same_product);
    TEST(test_every_walk_falls_from_its_start_to_zero);
    TEST(test_the_quantile_is_the_inverse_of_the_integral);
    return TEST_END();
}
