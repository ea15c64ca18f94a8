/* test_sched_devices.c - one line, several devices and models: nobody lost when devices fall away
 * and come back, nobody starved, no step of two models, slow devices leave what fast ones do. */
#include "tests/server/sched_fixture.h"

enum { DEVICES = 3, MODELS = 2, MAX_LINE = 90 };

/* Devices that each do one thing at a time, and take invented time for it. */
struct world {
    struct sched s;
    struct sched_seq seqs[MAX_LINE];
    int n, arrived, served, left, rewound;
    double now, busy_until[DEVICES], slowness[DEVICES], longest_step;
    double work[DEVICES];      /* ms of steps */
    double share[KEYS];        /* the same by who asked */
    int steps, joint, evicted; /* all of them, and those of more than one */
};

static void world_open(struct world *w, enum sched_policy policy, int images) {
    struct sched_limits l;
    *w = (struct world){.n = 0};
    sched_limits_init(&l, images);
    if (!sched_init(&w->s, policy, &l, DEVICES)) abort();
    for (int d = 0; d < DEVICES; d++) {
        w->slowness[d] = 1;
        w->s.devices[d].serves = (1 << MODELS) - 1;
        for (int m = 0; m < MODELS; m++) teach(&w->s.devices[d].costs[m], 1 + m);
    }
}

static void slow_down(struct world *w, int d, double slowness) {
    w->slowness[d] = slowness;
    for (int m = 0; m < MODELS; m++) {
        sched_costs_init(&w->s.devices[d].costs[m]);
        teach(&w->s.devices[d].costs[m], slowness * (1 + m));
    }
}

static void add(struct world *w, struct sched_seq q) {
    q.id = w->arrived++;
    q.device = -1;
    q.arrival_ms = w->now;
    q.deadline_ms += w->now;
    w->seqs[w->n++] = q;
}

static void drop(struct world *w, int at) {
    memmove(w->seqs + at, w->seqs + at + 1, (size_t)(--w->n - at) * sizeof *w->seqs);
}

/* The device is gone, and with it all that it held. */
static void lose(struct world *w, int d) {
    w->s.devices[d].serves = 0;
    w->s.devices[d].turn = (struct sched_turn){0};
    for (int i = 0; i < w->n; i++) {
        struct sched_seq *q = &w->seqs[i];
        if (q->device != d) continue;
        if (q->stage == SCHED_FINISHED) q->steps_left = 0;
        q->stage = SCHED_WAITING;
        q->steps_left += 2; /* what it had done, more or less */
        q->device = -1;
        w->rewound++;
    }
}

static double do_step(struct world *w, int d, const struct sched_plan *plan) {
    int tokens[64], model = w->seqs[plan->picked[0]].model;
    uint64_t keys[64];
    int64_t sum = 0;
    for (int i = 0; i < plan->n; i++) {
        struct sched_seq *q = &w->seqs[plan->picked[i]];
        CHECK(q->stage == SCHED_OPEN && q->steps_left > 0 && q->device == d && q->model == model);
        if (--q->steps_left == 0) q->stage = SCHED_FINISHED;
        tokens[i] = q->tokens;
        keys[i] = q->key;
        sum += q->tokens;
    }
    double ms = w->slowness[d] * (1 + model) * device_ms(tokens, plan->n);
    for (int i = 0; i < plan->n; i++) w->share[keys[i]] += ms * tokens[i] / (double)sum;
    w->s.devices[d].turn = (struct sched_turn){0};
    w->work[d] += ms;
    w->longest_step = fmax(w->longest_step, ms);
    w->steps++;
    w->joint += plan->n > 1;
    const struct sched_step step = {model, plan->n, tokens, keys, ms, false};
    sched_stepped(&w->s, d, &step);
    return ms;
}

/* False when there is nothing for the device. */
static bool act(struct world *w, int d, uint32_t can_decode) {
    sched_order(&w->s, w->seqs, w->n, w->now);
    struct sched_plan plan = sched_next(&w->s, d, w->seqs, w->n, can_decode);
    struct sched_seq *q = &w->seqs[plan.picked[0]];
    double ms = 0;
    switch (plan.act) {
    case SCHED_DO_NOTHING: return false;
    case SCHED_DO_OPEN:
        CHECK(q->stage == SCHED_WAITING && q->device == -1);
        CHECK(w->s.devices[d].serves >> q->model & 1);
        q->stage = SCHED_OPEN;
        q->device = d;
        ms = 8;
        w->s.devices[d].turn.open_ms += ms;
        break;
    case SCHED_DO_EVICT:
        CHECK(q->stage == SCHED_OPEN && q->device == d && !q->feasible);
        q->stage = SCHED_WAITING;
        q->device = -1;
        q->steps_left++;
        w->evicted++;
        break;
    case SCHED_DO_STEP: ms = do_step(w, d, &plan); break;
    case SCHED_DO_PREVIEW:
        CHECK(q->preview_due && q->device == d);
        q->preview_due = false;
        break;
    case SCHED_DO_DECODE:
        CHECK(q->device == d && can_decode >> q->model & 1);
        w->s.devices[d].turn.decodes++;
        ms = 4;
        w->served++;
        drop(w, plan.picked[0]);
        break;
    }
    w->busy_until[d] = w->now + ms;
    return true;
}

/* All that are free act until nobody can; then time goes on to the next end of something, by a
 * millisecond when nothing is under way. */
static void turn(struct world *w) {
    double next = HUGE_VAL;
    for (bool busy = true; busy;) {
        busy = false;
        for (int d = 0; d < DEVICES; d++)
            if (w->s.devices[d].serves && w->busy_until[d] <= w->now &&
                act(w, d, random_below(10) ? 3 : (uint32_t)random_below(4)))
                busy = true;
    }
    for (int d = 0; d < DEVICES; d++)
        if (w->busy_until[d] > w->now) next = fmin(next, w->busy_until[d]);
    w->now = next < HUGE_VAL ? next : w->now + 1;
}

static struct sched_seq some_job(void) {
    struct sched_seq q = job(50 + random_below(2000), 1 + random_below(8), random_below(20000));
    q.model = random_below(MODELS);
    q.key = (uint64_t)random_below(KEYS);
    q.priority = random_below(21) - 10;
    q.alone = random_below(20) == 0;
    q.preview_due = random_below(10) == 0;
    return q;
}

/* Devices fall away and come back, with one model or both; clients come and leave. */
static void lose_nobody(enum sched_policy policy, int events) {
    struct world w;
    int turns = 0;
    world_open(&w, policy, 1 + random_below(32));
    w.s.fair.quantum_ms = 500;
    while (w.arrived < events || w.n > 0) {
        for (int i = random_below(4); i > 0 && w.arrived < events && w.n < MAX_LINE; i--)
            if (random_below(4) == 0) add(&w, some_job());
        if (w.n > 0 && random_below(60) == 0) {
            drop(&w, random_below(w.n));
            w.left++;
        }
        if (random_below(200) == 0) lose(&w, random_below(DEVICES));
        if (random_below(20) == 0) {
            int d = random_below(DEVICES);
            if (!w.s.devices[d].serves) w.s.devices[d].serves = 1 + (uint32_t)random_below(3);
        }
        for (int d = 0; d < DEVICES; d++) /* who came back with one model gets the other, too */
            if (w.s.devices[d].serves && random_below(50) == 0) w.s.devices[d].serves = 3;
        turn(&w);
        if (!CHECK(++turns < 100 * events)) return; /* it would never end */
    }
    CHECK_INT(w.served + w.left, w.arrived);
    CHECK(w.rewound > 0 && w.steps > 0);
    sched_finish(&w.s);
}

static void test_nobody_is_lost_when_devices_fall_away_and_come_back(void) {
    lose_nobody(SCHED_FCFS, 10000);
    lose_nobody(SCHED_EDF, 15000);
}

static void test_all_devices_work_while_there_is_work(void) {
    struct world w;
    world_open(&w, SCHED_EDF, 8);
    for (int i = 0; i < MAX_LINE; i++) {
        struct sched_seq q = job(200, 10, 1e6);
        q.model = i % MODELS;
        add(&w, q);
    }
    while (w.n > 0 && w.now < 1e7) turn(&w);
    CHECK_INT(w.served, MAX_LINE);
    CHECK(w.joint > 10); /* and steps were shared */
    for (int d = 0; d < DEVICES; d++)
        if (!CHECK(w.work[d] > 0.75 * w.now)) printf("        %d: %g of %g\n", d, w.work[d], w.now);
    sched_finish(&w.s);
}

/* A stream of work that is in time and sooner due keeps every device busy. */
static void test_nobody_starves_on_several_devices(void) {
    struct world w;
    world_open(&w, SCHED_EDF, 1);
    w.s.limits.patience_ms = 10000;
    double backlog = 0;
    for (int i = 0; i < 20; i++) { /* hopeless from the start, half of each model */
        struct sched_seq q = job(1000, 10, 1);
        q.model = i % MODELS;
        add(&w, q);
        backlog += 8 + 10 * 105 * (1 + i % MODELS) + 6;
    }
    int old = 20;
    while (old > 0 && w.now < 1e6) {
        for (int fresh = w.n - old; fresh < 12; fresh++) {
            struct sched_seq q = job(200, 4, 2000);
            q.model = fresh % MODELS;
            add(&w, q);
        }
        turn(&w);
        old = 0;
        for (int k = 0; k < w.n; k++) old += w.seqs[k].id < 20;
    }
    CHECK_INT(old, 0);
    /* with all of it on one device, as the bound of one has it */
    CHECK(w.now <= 10000 + w.s.limits.aged_share * (backlog + 20 * 210) + backlog);
    sched_finish(&w.s);
}

static void test_shares_are_fair_over_all_devices(void) {
    struct world w;
    int busy[KEYS];
    world_open(&w, SCHED_EDF, 4);
    w.s.fair.quantum_ms = 3000;
    w.s.limits.patience_ms = 1e12;
    w.s.limits.level_ms = 0;
    for (int i = 0; i < 10000; i++) {
        memset(busy, 0, sizeof busy);
        for (int k = 0; k < w.n; k++) busy[w.seqs[k].key]++;
        for (int k = 0; k < KEYS; k++)
            for (; busy[k] < 15 && w.n < MAX_LINE; busy[k]++) {
                struct sched_seq q = job(100 + 300 * k, 1 + random_below(12), random_below(2000));
                q.key = (uint64_t)k;
                q.model = random_below(MODELS);
                add(&w, q);
            }
        turn(&w);
        double least = w.share[0], most = least;
        for (int k = 1; k < KEYS; k++) {
            least = fmin(least, w.share[k]);
            most = fmax(most, w.share[k]);
        }
        /* the bound of one device, and what the others have under way */
        if (!CHECK(most - least <= w.s.fair.quantum_ms + 2 * DEVICES * w.longest_step)) {
            printf("        %g - %g after %d\n", most, least, i);
            return;
        }
    }
    sched_finish(&w.s);
}

/* The quickest that serves its model, the first of equals; of all when none does. */
static int quickest(const struct sched *s, const struct sched_seq *q) {
    int best = -1;
    double least[2] = {HUGE_VAL, HUGE_VAL};
    if (q->device >= 0) return q->device;
    for (int d = 0; d < s->n_devices; d++) {
        const struct sched_costs *c = &s->devices[d].costs[q->model];
        double ms = (q->stage == SCHED_WAITING ? c->open_ms : 0) +
                    q->steps_left * sched_solo_ms(c, q->tokens) + sched_tail_ms(c, q->pixels);
        int serves = s->devices[d].serves >> q->model & 1;
        if (ms >= least[serves] || (!serves && least[1] < HUGE_VAL)) continue;
        least[serves] = ms;
        best = d;
    }
    return best;
}

static void test_what_is_left_is_counted_on_the_device_that_will_do_it(void) {
    struct world w;
    for (int round = 0; round < 2000; round++) {
        world_open(&w, SCHED_EDF, 4);
        for (int d = 0; d < DEVICES; d++) {
            slow_down(&w, d, 1 + random_below(3));
            w.s.devices[d].serves = (uint32_t)random_below(4);
        }
        struct sched_seq q = some_job();
        q.device = random_below(2 * DEVICES) - DEVICES < 0 ? -1 : random_below(DEVICES);
        q.on = random_below(DEVICES);
        sched_judge(&w.s, &q, 10);
        const int on = quickest(&w.s, &q);
        const struct sched_costs *c = &w.s.devices[on].costs[q.model];
        const double solo_ms = sched_solo_ms(c, q.tokens);
        CHECK_INT(q.on, on);
        CHECK_NEAR(q.solo_ms, solo_ms, 0);
        CHECK_NEAR(q.left_ms, c->open_ms + q.steps_left * solo_ms + sched_tail_ms(c, q.pixels), 0);
        sched_finish(&w.s);
    }
}

/* ---- devices that differ --------------------------------------------------------------------- */

static void test_a_slow_device_leaves_what_the_fast_one_has_done_earlier(void) {
    struct world w;
    world_open(&w, SCHED_EDF, 4);
    slow_down(&w, 1, 10);
    w.s.devices[2].serves = 0;
    add(&w, job(200, 10, 1e6));
    sched_order(&w.s, w.seqs, w.n, 0);
    CHECK_INT(sched_next(&w.s, 1, w.seqs, w.n, 3).act, SCHED_DO_NOTHING);
    CHECK_INT(sched_next(&w.s, 0, w.seqs, w.n, 3).act, SCHED_DO_OPEN);
    w.s.devices[0].serves = 0; /* better late than never */
    sched_order(&w.s, w.seqs, w.n, 0);
    CHECK_INT(sched_next(&w.s, 1, w.seqs, w.n, 3).act, SCHED_DO_OPEN);
    w.s.devices[0].serves = 1;
    for (int i = 0; i < 40; i++) add(&w, job(200, 10, 1e6));
    while (w.n > 0 && w.now < 1e7) turn(&w);
    CHECK(w.work[1] > 0); /* with so many it is of use */
    CHECK(w.work[0] > 0.8 * w.now);
    sched_finish(&w.s);
}

static void test_a_device_does_not_begin_what_only_another_can_do_in_time(void) {
    struct world w;
    world_open(&w, SCHED_EDF, 1);
    slow_down(&w, 1, 3);
    w.s.devices[2].serves = 0;
    struct sched_seq held = job(2000, 40, 1e6), q = job(200, 10, 700);
    add(&w, held);
    add(&w, q);
    w.seqs[0].device = 0; /* for eight seconds */
    w.seqs[0].stage = SCHED_OPEN;
    sched_order(&w.s, w.seqs, w.n, 0);
    CHECK_INT(sched_next(&w.s, 1, w.seqs, w.n, 3).act, SCHED_DO_NOTHING);
    CHECK_INT(sched_next(&w.s, 0, w.seqs, w.n, 3).act, SCHED_DO_OPEN);
    sched_order(&w.s, w.seqs, w.n, 690); /* too late for either */
    CHECK_INT(sched_next(&w.s, 1, w.seqs, w.n, 3).act, SCHED_DO_OPEN);
    sched_finish(&w.s);
}

static void test_a_model_waits_for_a_device_that_has_it(void) {
    struct world w;
    world_open(&w, SCHED_EDF, 4);
    for (int d = 0; d < DEVICES; d++) w.s.devices[d].serves = d == 1 ? 2 : 1;
    struct sched_seq q = job(200, 10, 1e6);
    q.model = 1;
    add(&w, q);
    sched_order(&w.s, w.seqs, w.n, 0);
    CHECK_INT(sched_next(&w.s, 0, w.seqs, w.n, 3).act, SCHED_DO_NOTHING);
    CHECK_INT(sched_next(&w.s, 1, w.seqs, w.n, 3).act, SCHED_DO_OPEN);
    w.s.devices[1].serves = 0;
    sched_order(&w.s, w.seqs, w.n, 0);
    for (int d = 0; d < DEVICES; d++)
        CHECK_INT(sched_next(&w.s, d, w.seqs, w.n, 3).act, SCHED_DO_NOTHING);
    sched_finish(&w.s);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void test_after_memory_ran_out_steps_are_smaller_for_a_while(void) {
    struct sched s = known(SCHED_EDF, 8);
    struct sched_seq q[8];
    int picked[64], tokens = 100, steps = 0;
    uint64_t key = 0;
    for (int i = 0; i < 8; i++) {
        q[i] = job(100, 3, 1e6);
        q[i].stage = SCHED_OPEN;
    }
    sched_order(&s, q, 8, 0);
    CHECK_INT(sched_pick(&s, 0, picked, q, 8), 8);
    sched_step_too_large(&s, 0, 8);
    CHECK_INT(sched_pick(&s, 0, picked, q, 8), 4);
    sched_step_too_large(&s, 0, 4);
    sched_step_too_large(&s, 0, 2);
    CHECK_INT(sched_pick(&s, 0, picked, q, 8), 1);
    while (sched_pick(&s, 0, picked, q, 8) < 8 && steps < 10000) {
        sched_stepped(&s, 0, &(struct sched_step){0, 1, &tokens, &key, 15, false});
        steps++;
    }
    CHECK_INT(steps, 700); /* a hundred for each that is tried again */
    sched_finish(&s);
}

static void test_without_room_for_another_nobody_else_is_opened(void) {
    struct sched s = known(SCHED_EDF, 8);
    struct sched_seq q[8];
    int picked[64];
    for (int i = 0; i < 8; i++) {
        q[i] = job(100, 3, 1e6);
        q[i].id = i;
        q[i].stage = i < 3 ? SCHED_OPEN : SCHED_WAITING;
        q[i].device = i < 3 ? 0 : -1;
    }
    sched_no_room(&s, 0, 3);
    sched_order(&s, q, 8, 0);
    CHECK_INT(sched_pick(&s, 0, picked, q, 8), 3);
    for (int i = 0; i < 8; i++) q[i].stage = SCHED_WAITING, q[i].device = -1;
    sched_no_room(&s, 0, 0); /* one can always try */
    sched_order(&s, q, 8, 0);
    CHECK_INT(sched_pick(&s, 0, picked, q, 8), 1);
    sched_finish(&s);
}

/* ---- estimates ------------------------------------------------------------------------------- */

static double last_finish(const struct sched *s, struct sched_seq *q, int n) {
    double start[MAX_LINE], finish[MAX_LINE], last = 0;
    for (int i = 0; i < n; i++) {
        if (!CHECK(i < MAX_LINE)) return 0;
        start[i] = finish[i] = -1;
    }
    sched_eta(s, start, finish, q, n);
    for (int i = 0; i < n; i++) {
        CHECK(start[i] >= 0 && finish[i] >= start[i]);
        last = fmax(last, finish[i]);
    }
    return last;
}

static void test_estimates_follow_the_devices_that_are_there(void) {
    struct world w;
    double ms[DEVICES + 1], wait[DEVICES + 1];
    world_open(&w, SCHED_EDF, 1);
    for (int i = 0; i < 30; i++) add(&w, job(200, 10, 1e6));
    for (int there = 0; there <= DEVICES; there++) {
        for (int d = 0; d < DEVICES; d++) w.s.devices[d].serves = d < there;
        sched_order(&w.s, w.seqs, w.n, 0);
        ms[there] = last_finish(&w.s, w.seqs, w.n);
        wait[there] = sched_wait_ms(&w.s, w.seqs, w.n);
    }
    CHECK_NEAR(ms[1], 30 * (8 + 10 * 25 + 4) + 2, 1);
    CHECK_NEAR(ms[2], 15 * (8 + 10 * 25 + 4) + 2, 1);
    CHECK_NEAR(ms[3], 10 * (8 + 10 * 25 + 4) + 2, 1);
    CHECK_NEAR(wait[2], wait[1] / 2, 1e-6);
    CHECK_NEAR(wait[3], wait[1] / 3, 1e-6);
    CHECK_NEAR(wait[0], wait[1], 1e-6); /* as if one came back */
    sched_finish(&w.s);
}

static void test_the_estimate_is_about_what_the_devices_take(void) {
    for (int round = 0; round < 40; round++) {
        struct world w;
        world_open(&w, SCHED_EDF, 1 + random_below(8));
        for (int i = 10 + random_below(50); i > 0; i--) {
            struct sched_seq q = job(50 + random_below(2000), 1 + random_below(12), 1e7);
            q.model = random_below(MODELS);
            add(&w, q);
        }
        sched_order(&w.s, w.seqs, w.n, 0);
        double told = last_finish(&w.s, w.seqs, w.n);
        while (w.n > 0 && w.now < 1e7) turn(&w);
        sched_finish(&w.s);
        if (!CHECK(told > 0.6 * w.now && told < 1.7 * w.now)) {
            printf("        told %g, took %g\n", told, w.now);
            return;
        }
    }
}

int main(void) {
    TEST(test_nobody_is_lost_when_devices_fall_away_and_come_back);
    TEST(test_all_devices_work_while_there_is_work);
    TEST(test_nobody_starves_on_several_devices);
    TEST(test_shares_are_fair_over_all_devices);
    TEST(test_what_is_left_is_counted_on_the_device_that_will_do_it);
    TEST(test_a_slow_device_leaves_what_the_fast_one_has_done_earlier);
    TEST(test_a_device_does_not_begin_what_only_another_can_do_in_time);
    TEST(test_a_model_waits_for_a_device_that_has_it);
    TEST(test_after_memory_ran_out_steps_are_smaller_for_a_while);
    TEST(test_without_room_for_another_nobody_else_is_opened);
    TEST(test_estimates_follow_the_devices_that_are_there);
    TEST(test_the_estimate_is_about_what_the_devices_take);
    return TEST_END();
}
