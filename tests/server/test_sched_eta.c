/* test_sched_eta.c - the estimates of the scheduler: when a job will be done, and what a step
 * costs, as it is learnt. */
#include "tests/server/sched_fixture.h"

static void test_eta_is_the_time_that_the_walk_takes(void) {
    for (int round = 0; round < 2000; round++) {
        struct sched_seq q[N_MAX];
        struct sched s = random_sched(random_below(2) ? SCHED_EDF : SCHED_FCFS);
        double start[N_MAX], finish[N_MAX], last = 0, apart = 0;
        int n = 1 + random_below(N_MAX - 1);
        for (int i = 0; i < n; i++) {
            q[i] = random_seq(i);
            start[i] = finish[i] = -1;
        }
        sched_order(&s, q, n, 0);
        sched_eta(&s, start, finish, q, n);
        for (int i = 0; i < n; i++) {
            apart += q[i].left_ms;
            if (!CHECK(start[i] >= 0 && finish[i] >= start[i])) return;
            if (finish[i] > last) last = finish[i];
        }
        CHECK_NEAR(sched_wait_ms(&s, q, n), apart, 1e-6 * apart);
        sched_finish(&s);
        if (!CHECK(last <= apart * 1.001 + 1)) return; /* sharing is never estimated to be slower */
    }
}

static void test_a_job_alone_takes_its_isolated_time(void) {
    struct sched s = known(SCHED_EDF, 8);
    struct sched_seq q = job(256, 10, 1e6);
    double start, finish;
    sched_order(&s, &q, 1, 0);
    sched_eta(&s, &start, &finish, &q, 1);
    CHECK_NEAR(finish, sched_isolated_ms(s.devices->costs, 256, 10, 128 * 128), 1e-6);
    CHECK_NEAR(finish, 8 + 10 * (5 + 25.6) + 4 + 2, 1e-6);
    sched_finish(&s);
}

static void test_costs_follow_what_is_seen_and_nonsense_is_not_learnt(void) {
    struct sched_costs c;
    int tokens = 100, more = 0;
    sched_costs_init(&c);
    CHECK(!c.measured);
    sched_saw_step(&c, &tokens, 1, 50);
    CHECK(c.measured);
    CHECK_NEAR(sched_solo_ms(&c, 100), 50, 1e-9);
    for (int i = 0; i < 80; i++) sched_saw_step(&c, &tokens, 1, 100);
    CHECK_NEAR(sched_solo_ms(&c, 100), 100, 0.1);
    sched_saw_step(&c, &more, 1, 5);
    sched_saw_step(&c, &tokens, 1, nan(""));
    sched_saw_step(&c, &tokens, 0, 5);
    sched_saw_decode(&c, 0, 5);
    sched_saw_open(&c, -1);
    CHECK_NEAR(sched_solo_ms(&c, 100), 100, 0.1);
    CHECK_NEAR(c.open_ms, 10, 1e-9);
    sched_saw_step(&c, &tokens, 1, 1e6); /* the machine slept: not the new truth */
    CHECK(sched_solo_ms(&c, 100) < 140);
}

/* The curve looked up by going through all of it. */
static double on_the_curve(const struct sched_costs *c, int tokens) {
    const struct cost_size *below = NULL, *above = NULL;
    for (int i = 0; i < COST_SIZES; i++) {
        const struct cost_size *p = &c->solo[i];
        if (p->seen && p->tokens <= tokens) below = p;
        if (p->seen && p->tokens > tokens && !above) above = p;
    }
    if (below && above)
        return below->ms +
               (tokens - below->tokens) / (above->tokens - below->tokens) * (above->ms - below->ms);
    const struct cost_size *p = below ? below : above;
    if (!p) return tokens * 0.1;
    return fmin(p->ms, c->shared_ms) + fmax(p->ms - c->shared_ms, 0) * tokens / p->tokens;
}

static void test_a_step_alone_is_between_the_nearest_that_were_seen(void) {
    for (int round = 0; round < 500; round++) {
        struct sched_costs c;
        sched_costs_init(&c);
        for (int i = random_below(40); i >= 0; i--) {
            const int tokens = 1 + random_below(1 << random_below(24));
            if (i) sched_saw_step(&c, &tokens, 1, 1 + random_below(1000));
            for (int near = -2; near <= 2; near++) {
                const int asked = tokens + near > 0 ? tokens + near : 1;
                const double ms = on_the_curve(&c, asked);
                if (!CHECK(fabs(sched_solo_ms(&c, asked) - ms) <= 1e-9 * ms)) return;
            }
        }
    }
}

static void test_joint_steps_are_learnt_by_their_bucket(void) {
    struct sched_costs c;
    int tokens[8] = {100, 100, 100, 100, 100, 100, 100, 100};
    sched_costs_init(&c);
    sched_saw_step(&c, tokens, 1, 15);
    sched_saw_step(&c, tokens, 4, 45); /* 5 shared, 10 own */
    CHECK_NEAR(c.shared_ms, 5, 1e-9);
    struct sched_load load = {0};
    for (int i = 0; i < 8; i++) sched_load_add(&load, &c, 100);
    CHECK_NEAR(sched_load_ms(&c, &load), 85, 1e-9);
    for (int i = 0; i < 60; i++) sched_saw_step(&c, tokens, 8, 100); /* eight are not as good */
    CHECK_NEAR(sched_load_ms(&c, &load), 100, 1);
    load = (struct sched_load){0};
    for (int i = 0; i < 4; i++) sched_load_add(&load, &c, 100);
    CHECK_NEAR(sched_load_ms(&c, &load), 45, 0.5);
}

int main(void) {
    TEST(test_eta_is_the_time_that_the_walk_takes);
    TEST(test_a_job_alone_takes_its_isolated_time);
    TEST(test_costs_follow_what_is_seen_and_nonsense_is_not_learnt);
    TEST(test_a_step_alone_is_between_the_nearest_that_were_seen);
    TEST(test_joint_steps_are_learnt_by_their_bucket);
    return TEST_END();
}
