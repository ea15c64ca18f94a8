/* test_sampler.c - samplers against their formulas as they are usually written (in the guess x0 and
 * logarithms of noise levels, in double), and against a flow whose end is known. */
#include "engine/sample/sampler.h"
#include "tests/test.h"

enum { C = 2, H = 3, W = 4, N = C * H * W };

static const struct taca_scheduler sd3 = {.shift = 3, .train_steps = 1000};

/* A velocity that is neither linear nor the same everywhere. */
static double bent(int i, double x, double s) { return sin(x + 0.3 * i) + x * (s - 0.4) - 0.1 * i; }

/* The one of points spread with deviation 1/2 around 0: x(s) is in proportion to the deviation
 * sqrt((1-s)^2 / 4 + s^2) of the level s. */
static double spread(int i, double x, double s) {
    (void)i;
    const double variance = (1 - s) * (1 - s) / 4 + s * s;
    return x * (s - (1 - s) / 4) / variance;
}

typedef double field(int i, double x, double s);

/* Walks x (N floats) with the code under test; the number of evaluations. */
static int walk(enum taca_sampler kind, const struct taca_schedule *sc, int first, field *v,
                float *x) {
    struct taca_err err = {0};
    struct taca_backend *b = NULL;
    float velocity[N], keep[N], draw[N];
    for (int i = 0; i < N; i++) keep[i] = NAN; /* nobody clears it */
    struct sampler w = {.kind = kind, .first = first, .step = first, .draw = draw};
    const struct taca_chw latent = {x, C, H, W}, guess = {velocity, C, H, W};
    w.keep = (struct taca_chw){keep, C, H, W};
    taca_rng_seed(&w.rng, 7);
    CHECK_OK(taca_cpu_open(&b, &(struct taca_backend_opts){.threads = 1}, &err), err);
    int n = 0;
    for (; b && w.step < sc->steps; n++) {
        const double s = (double)sc->sigma[sampler_level(&w)];
        CHECK_INT(sampler_done(&w, sc->steps), n);
        for (int i = 0; i < N; i++) velocity[i] = (float)v(i, (double)x[i], s);
        sampler_move(&w, b, sc->sigma, latent, guess);
        CHECK_OK(taca_sync(b, &err), err);
        sampler_next(&w, sc->steps);
    }
    CHECK_INT(sampler_done(&w, sc->steps), n);
    CHECK_INT(taca_sampler_forwards(kind, sc->steps - first), n);
    for (int i = 0; i < N; i++) CHECK(velocity[i] == x[i]); /* the guess at the end is the end */
    taca_backend_close(b);
    return n;
}

/* ---- the usual formulas ---------------------------------------------------------------------- */

/* One step of one element from s to t. d0 = the guess at s; last, s_last: of the step before,
 * s_last = 0 in the first. */
static double usual(enum taca_sampler kind, int i, double x, const double s[3], double last,
                    double noise, field *v) {
    const double from = s[1], to = s[2], d0 = x - from * v(i, x, from);
    switch (kind) {
    case TACA_EULER: return x + (x - d0) / from * (to - from);
    case TACA_HEUN: {
        const double slope = (x - d0) / from, x2 = x + slope * (to - from);
        if (to == 0) return x2;
        return x + (slope + v(i, x2, to)) / 2 * (to - from);
    }
    case TACA_DPMPP_2M: {
        const double t = -log(from), h = -log(to) - t;
        if (to == 0) return d0;
        double d = d0;
        if (s[0] > 0) {
            const double r = (t + log(s[0])) / h;
            d = (1 + 1 / (2 * r)) * d0 - 1 / (2 * r) * last;
        }
        return to / from * x - expm1(-h) * d;
    }
    case TACA_EULER_ANCESTRAL: {
        if (to == 0) return d0;
        const double ratio = 1 + (to / from - 1), down = to * ratio;
        const double a = 1 - to, a_down = 1 - down;
        const double up = sqrt(to * to - down * down * a * a / (a_down * a_down));
        x = down / from * x + (1 - down / from) * d0;
        return a / a_down * x + noise * up;
    }
    case TACA_LCM: return (1 - to) * d0 + to * noise;
    }
    return (double)NAN;
}

static void check_formulas(enum taca_sampler kind, int steps, int first) {
    struct taca_err err = {0};
    struct taca_schedule sc;
    struct taca_rng rng;
    float x[N], want[N], noise[N];
    double y[N], last[N];
    CHECK_OK(taca_schedule_init(&sc, &sd3, steps, 0, 0, &err), err);
    for (int i = 0; i < N; i++) {
        x[i] = (float)sin(i * 1.7 + 1);
        y[i] = (double)x[i];
    }
    taca_rng_seed(&rng, 7);
    for (int k = first; k < steps; k++) {
        const double s[3] = {k > first ? (double)sc.sigma[k - 1] : 0, (double)sc.sigma[k],
                             (double)sc.sigma[k + 1]};
        if (k + 1 < steps) taca_rng_randn(&rng, noise, N);
        for (int i = 0; i < N; i++) {
            const double guess = y[i] - s[1] * bent(i, y[i], s[1]);
            y[i] = usual(kind, i, y[i], s, last[i], (double)noise[i], bent);
            last[i] = guess;
        }
    }
    walk(kind, &sc, first, bent, x);
    for (int i = 0; i < N; i++) want[i] = (float)y[i];
    test_floats(taca_sampler_names[kind], x, want, N, 2e-6, __FILE__, __LINE__);
}

static void test_samplers_follow_their_formulas(void) {
    for (int kind = 0; taca_sampler_names[kind]; kind++) {
        check_formulas((enum taca_sampler)kind, 9, 0);
        check_formulas((enum taca_sampler)kind, 9, 4);
        check_formulas((enum taca_sampler)kind, 2, 0);
        check_formulas((enum taca_sampler)kind, 1, 0);
    }
}

/* ---- a flow whose end is known --------------------------------------------------------------- */

static double miss(enum taca_sampler kind, int steps) {
    struct taca_err err = {0};
    struct taca_schedule sc;
    float x[N];
    const struct taca_scheduler even = {
        .spacing = TACA_SPACING_EVEN, .shift = 1, .train_steps = 1000};
    CHECK_OK(taca_schedule_init(&sc, &even, steps, 0, 0, &err), err);
    for (int i = 0; i < N; i++) x[i] = 1;
    walk(kind, &sc, 0, spread, x);
    return fabs((double)x[0] - 0.5);
}

static void test_second_order_is_worth_its_name(void) {
    static const enum taca_sampler kinds[] = {TACA_EULER, TACA_HEUN, TACA_DPMPP_2M};
    double at[3][2];
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < 2; i++) at[k][i] = miss(kinds[k], 20 << i);
        printf("    %-10s misses by %.2e in 20 steps, %.2e in 40\n", taca_sampler_names[kinds[k]],
               at[k][0], at[k][1]);
    }
    CHECK_NEAR(at[0][0] / at[0][1], 2, 0.2);
    CHECK(at[1][0] / at[1][1] > 3.5);
    CHECK(at[1][0] < at[0][0] / 5 && at[2][0] < at[0][0]);
}

/* Noise that is added must not change how much there is: many equal starts end as widely spread as
 * the points are. */
static void test_added_noise_keeps_the_spread(void) {
    struct taca_err err = {0};
    struct taca_schedule sc;
    struct taca_rng rng;
    CHECK_OK(taca_schedule_init(&sc, &sd3, TACA_MAX_STEPS, 0, 1, &err), err);
    enum { ROWS = 64, WIDE = 64 };
    static float x[ROWS * WIDE], v[ROWS * WIDE], keep[ROWS * WIDE], draw[ROWS * WIDE];
    struct taca_backend *b = NULL;
    CHECK_OK(taca_cpu_open(&b, &(struct taca_backend_opts){.threads = 1}, &err), err);
    if (!b) return;
    struct sampler w = {.kind = TACA_EULER_ANCESTRAL, .keep = {keep, 1, ROWS, WIDE}, .draw = draw};
    taca_rng_seed(&rng, 3);
    taca_rng_randn(&rng, x, ROWS * WIDE);
    w.rng = rng;
    while (w.step < sc.steps) {
        const double s = (double)sc.sigma[w.step];
        for (int i = 0; i < ROWS * WIDE; i++) v[i] = (float)spread(i, (double)x[i], s);
        sampler_move(&w, b, sc.sigma, (struct taca_chw){x, 1, ROWS, WIDE},
                     (struct taca_chw){v, 1, ROWS, WIDE});
        CHECK_OK(taca_sync(b, &err), err);
        sampler_next(&w, sc.steps);
    }
    double sum = 0;
    for (int i = 0; i < ROWS * WIDE; i++) sum += (double)x[i] * (double)x[i];
    CHECK_NEAR(sqrt(sum / (ROWS * WIDE)), 0.5, 0.02);
    taca_backend_close(b);
}

int main(void) {
    TEST(test_samplers_follow_their_formulas);
    TEST(test_second_order_is_worth_its_name);
    TEST(test_added_noise_keeps_the_spread);
    return TEST_END();
}
