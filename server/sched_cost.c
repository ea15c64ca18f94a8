/* sched_cost.c - see sched_cost.h. */
#include "server/sched_cost.h"

#include <limits.h>
#include <math.h>
#include <stddef.h>

enum { SMALLEST_TOKENS = 32, QUARTERS = 4 };
#define GUESS_MS_PER_TOKEN 0.1  /* a small model on two cores */
#define GUESS_SHARED       0.1  /* of the smallest step: enough to try a joint one */
#define LEAST_GAIN         0.97 /* as in sched.c: a joint step must be so much cheaper */
#define RELAX              0.02

void sched_costs_init(struct sched_costs *c) {
    *c = (struct sched_costs){.saturation = INT64_MAX,
                              .open_ms = 10,
                              .ms_per_pixel = 0.005,
                              .encode_ms_per_pixel = 0.0005};
}

static int size_bucket(double tokens) {
    double b = floor(QUARTERS * log2(tokens / SMALLEST_TOKENS));
    return b < 0 ? 0 : b < COST_SIZES ? (int)b : COST_SIZES - 1;
}

/* 1, 2, 3-4, 5-8, 9-16, more */
static int row_bucket(int rows) {
    int b = 0;
    while (b < COST_ROWS - 1 && rows > 1 << b) b++;
    return b;
}

/* ---- asking ---------------------------------------------------------------------------------- */

_Static_assert(COST_SIZES == 64, "a bit each");

/* Between the largest size that was seen and is not above it, and the smallest that is: what falls
 * into lower buckets is less. */
double sched_solo_ms(const struct sched_costs *c, int tokens) {
    const int size = size_bucket(tokens);
    const uint64_t bit = UINT64_C(1) << size;
    uint64_t lower = c->sizes & (bit - 1), upper = c->sizes & ~(bit | (bit - 1));
    if (c->sizes & bit) *(c->solo[size].tokens <= tokens ? &lower : &upper) |= bit;
    const struct cost_size *below = lower ? &c->solo[63 - __builtin_clzll(lower)] : NULL;
    const struct cost_size *above = upper ? &c->solo[__builtin_ctzll(upper)] : NULL;
    if (below && above) {
        double at = (tokens - below->tokens) / (above->tokens - below->tokens);
        return below->ms + at * (above->ms - below->ms);
    }
    const struct cost_size *p = below ? below : above;
    if (!p) return tokens * GUESS_MS_PER_TOKEN;
    double own = p->ms > c->shared_ms ? p->ms - c->shared_ms : 0;
    return p->ms - own + own * tokens / p->tokens;
}

void sched_load_add_ms(struct sched_load *load, const struct sched_costs *c, int tokens,
                       double solo_ms) {
    load->rows++;
    load->tokens += tokens;
    load->own_ms += solo_ms > c->shared_ms ? solo_ms - c->shared_ms : 0;
}

void sched_load_add(struct sched_load *load, const struct sched_costs *c, int tokens) {
    sched_load_add_ms(load, c, tokens, sched_solo_ms(c, tokens));
}

double sched_load_ms(const struct sched_costs *c, const struct sched_load *load) {
    if (load->rows == 0) return 0;
    double parts = c->shared_ms + load->own_ms;
    if (load->rows == 1) return parts;
    const struct cost_joint *j =
        &c->joint[size_bucket((double)load->tokens)][row_bucket(load->rows)];
    return j->seen > 0 ? parts * j->factor : parts;
}

double sched_tail_ms(const struct sched_costs *c, double pixels) {
    return pixels * (c->ms_per_pixel + c->encode_ms_per_pixel);
}

/* ---- learning -------------------------------------------------------------------------------- */

/* The first sights weigh the same, later ones a tenth: follows a change, does not jump at one. */
static void learn(double *mean, double seen, int *times) {
    double weight = *times < 10 ? 1.0 / (*times + 1) : 0.1;
    *mean += weight * (seen - *mean);
    if (*times < INT_MAX) ++*times;
}

/* The same for what may be a guess before. */
static void learn_first(double *mean, double seen, bool *known) {
    *mean = *known ? *mean + 0.2 * (seen - *mean) : seen;
    *known = true;
}

static void saw_solo(struct sched_costs *c, int tokens, double ms) {
    const int size = size_bucket(tokens);
    struct cost_size *p = &c->solo[size];
    int times = p->seen;
    c->sizes |= UINT64_C(1) << size;
    /* the machine was busy with something else for a moment */
    if (times >= 5 && ms > 4 * p->ms) ms = 4 * p->ms;
    learn(&p->tokens, tokens, &times);
    learn(&p->ms, ms, &p->seen);
    double least = p->ms;
    for (int i = 0; i < COST_SIZES; i++)
        if (c->solo[i].seen > 0 && c->solo[i].ms < least) least = c->solo[i].ms;
    if (!c->shared_known) c->shared_ms = GUESS_SHARED * least;
    if (c->shared_ms > least) c->shared_ms = least;
}

static void saw_joint(struct sched_costs *c, const int *tokens, int rows, double ms) {
    struct sched_load load = {0};
    double alone = 0, least = HUGE_VAL;
    for (int i = 0; i < rows; i++) {
        double solo = sched_solo_ms(c, tokens[i]);
        alone += solo;
        if (solo < least) least = solo;
    }
    if (!c->shared_known && c->measured) {
        double shared = (alone - ms) / (rows - 1);
        c->shared_ms = shared < 0 ? 0 : shared < least ? shared : least;
        c->shared_known = true;
    }
    for (int i = 0; i < rows; i++) sched_load_add(&load, c, tokens[i]);
    double parts = c->shared_ms + load.own_ms;
    struct cost_joint *j = &c->joint[size_bucket((double)load.tokens)][row_bucket(rows)];
    if (!(parts > 0)) return;
    double factor = ms / parts;
    if (j->seen >= 5 && factor > 4 * j->factor) factor = 4 * j->factor;
    learn(&j->factor, factor, &j->seen);
}

/* A bucket that looked bad once is not used any more and so not seen again: each goes back a little
 * now and then, until it is worth another try. */
static void relax(struct sched_costs *c) {
    struct cost_joint *j = &c->joint[c->relaxed / COST_ROWS][c->relaxed % COST_ROWS];
    if (j->seen > 0) j->factor += RELAX * (1 - j->factor);
    c->relaxed = (c->relaxed + 1) % (COST_SIZES * COST_ROWS);
}

/* The largest step that is still cheaper than its two halves apart, and half an octave on. */
static int64_t find_saturation(const struct sched_costs *c) {
    int64_t found = SMALLEST_TOKENS;
    for (double half = SMALLEST_TOKENS; half < 1 << 19; half *= M_SQRT2) {
        struct sched_load two = {0};
        sched_load_add(&two, c, (int)half);
        sched_load_add(&two, c, (int)half);
        if (sched_load_ms(c, &two) <= LEAST_GAIN * 2 * sched_solo_ms(c, (int)half))
            found = (int64_t)(2 * half * M_SQRT2);
    }
    return found < 1 << 20 ? found : INT64_MAX;
}

void sched_saw_step(struct sched_costs *c, const int *tokens, int rows, double ms) {
    bool sane = rows >= 1 && ms >= 0 && ms < 1e9;
    for (int i = 0; i < rows && sane; i++) sane = tokens[i] >= 1;
    if (!sane) return;
    if (rows == 1)
        saw_solo(c, tokens[0], ms);
    else
        saw_joint(c, tokens, rows, ms);
    bool any = c->step_ms > 0;
    learn_first(&c->step_ms, ms, &any);
    c->measured = c->measured || rows == 1;
    relax(c);
    c->saturation = find_saturation(c);
}

void sched_saw_open(struct sched_costs *c, double ms) {
    if (ms >= 0 && ms < 1e9) learn_first(&c->open_ms, ms, &c->opened);
}

void sched_saw_decode(struct sched_costs *c, double pixels, double ms) {
    if (pixels >= 1 && ms >= 0 && ms < 1e9) learn_first(&c->ms_per_pixel, ms / pixels, &c->decoded);
}

void sched_saw_encode(struct sched_costs *c, double pixels, double ms) {
    if (pixels >= 1 && ms >= 0 && ms < 1e9)
        learn_first(&c->encode_ms_per_pixel, ms / pixels, &c->encoded);
}
