/* sched_fixture.h - what the tests of the scheduler share: chance that repeats, a device whose step
 * times are a formula, schedulers that know them. */
#ifndef TACA_TESTS_SERVER_SCHED_FIXTURE_H
#define TACA_TESTS_SERVER_SCHED_FIXTURE_H

#include "server/sched.h"

#include "tests/test.h"

enum { N_MAX = 120, KEYS = 4 };

static uint64_t rng_state = 0x9E3779B97F4A7C15u;
__attribute__((unused)) static int random_below(int n) {
    rng_state ^= rng_state << 13, rng_state ^= rng_state >> 7, rng_state ^= rng_state << 17;
    return (int)((rng_state >> 33) % (uint64_t)n);
}

/* The invented device: a tenth of a millisecond a token and 5 ms a step. */
__attribute__((unused)) static double device_ms(const int *tokens, int rows) {
    double ms = 5;
    for (int i = 0; i < rows; i++) ms += 0.1 * tokens[i];
    return ms;
}

__attribute__((unused)) static void teach(struct sched_costs *c, double slowness) {
    int pair[2] = {100, 100};
    for (int t = 32; t < 10000; t *= 2) sched_saw_step(c, &t, 1, slowness * device_ms(&t, 1));
    sched_saw_step(c, pair, 2, slowness * device_ms(pair, 2));
    sched_saw_open(c, slowness * 8);
    sched_saw_decode(c, 128 * 128, slowness * 4);
    sched_saw_encode(c, 128 * 128, 2);
}

__attribute__((unused)) static struct sched known(enum sched_policy policy, int images) {
    struct sched s;
    struct sched_limits l;
    sched_limits_init(&l, images);
    if (!sched_init(&s, policy, &l, 1)) abort();
    teach(s.devices->costs, 1);
    return s;
}

__attribute__((unused)) static struct sched_seq random_seq(int id) {
    enum sched_stage stage = (enum sched_stage)random_below(3);
    return (struct sched_seq){.id = id,
                              .stage = stage,
                              .tokens = 50 + random_below(4000),
                              .steps_left = stage == SCHED_FINISHED ? 0 : 1 + random_below(30),
                              .pixels = 128 * 128,
                              .preview_due = random_below(10) == 0,
                              .alone = random_below(20) == 0,
                              .arrival_ms = -random_below(100000),
                              .deadline_ms = random_below(60000) - 10000,
                              .priority = random_below(3) ? 0 : random_below(21) - 10,
                              .key = (uint64_t)random_below(KEYS)};
}

__attribute__((unused)) static struct sched random_sched(enum sched_policy policy) {
    struct sched s = known(policy, 1 + random_below(32));
    s.limits.batch_tokens = random_below(2) ? 500 + random_below(9000) : 0;
    s.fair.quantum_ms = random_below(2) ? 1000 : 0;
    return s;
}

__attribute__((unused)) static struct sched_seq job(int tokens, int steps, double deadline_ms) {
    return (struct sched_seq){.stage = SCHED_WAITING,
                              .tokens = tokens,
                              .steps_left = steps,
                              .pixels = 128 * 128,
                              .deadline_ms = deadline_ms};
}

#endif
