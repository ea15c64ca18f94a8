/* test_sched.c - the policy as properties over random lines and invented time: order as written,
 * nobody lost, nobody starved, shares fair, no deadline broken by a fill. */
#include "tests/server/sched_fixture.h"

/* ---- one decision ---------------------------------------------------------------------------- */

static bool inside_limits(const struct sched *s, const struct sched_seq *seqs, const int *picked,
                          int count) {
    int64_t tokens = 0,
            most = s->limits.batch_tokens ? s->limits.batch_tokens : s->devices->costs->saturation;
    bool ok = count <= s->limits.batch_images;
    for (int i = 0; i < count; i++) {
        ok = ok && (i == 0 || picked[i] > picked[i - 1]);
        ok = ok && seqs[picked[i]].stage != SCHED_FINISHED;
        ok = ok && (!seqs[picked[i]].alone || count == 1);
        tokens += seqs[picked[i]].tokens;
    }
    return ok && (count <= 1 || tokens <= most);
}

static void test_a_step_never_passes_its_limits(void) {
    for (int round = 0; round < 20000; round++) {
        struct sched_seq seqs[N_MAX];
        struct sched s = random_sched(random_below(2) ? SCHED_EDF : SCHED_FCFS);
        int picked[64], n = random_below(N_MAX), steppable = 0, held = 0;
        for (int i = 0; i < n; i++) seqs[i] = random_seq(i);
        sched_order(&s, seqs, n, 0);
        int count = sched_pick(&s, 0, picked, seqs, n);
        bool ok = inside_limits(&s, seqs, picked, count);
        for (int i = 0; i < n; i++) {
            held += seqs[i].stage != SCHED_WAITING;
            steppable += seqs[i].stage == SCHED_OPEN;
        }
        ok = ok && (count > 0 || steppable == 0 || s.policy == SCHED_FCFS);
        for (int i = 0; i < count; i++)
            if (seqs[picked[i]].stage == SCHED_WAITING) ok = ok && held++ < s.limits.open_images;
        sched_finish(&s);
        if (!CHECK(ok)) return;
    }
}

/* The rules of the order, written once more, and slowly. */
static bool before(const struct sched *s, const struct sched_seq *a, const struct sched_seq *b,
                   int top) {
    const struct sched_seq *q[2] = {a, b};
    int level[2];
    bool feasible[2];
    for (int i = 0; i < 2; i++) {
        level[i] = q[i]->priority + (int)((s->now_ms - q[i]->arrival_ms) / s->limits.level_ms);
        if (level[i] > top) level[i] = top;
        double ms = q[i]->steps_left * sched_solo_ms(s->devices->costs, q[i]->tokens) + 6;
        if (q[i]->stage == SCHED_WAITING) ms += 8;
        feasible[i] = s->now_ms + ms <= q[i]->deadline_ms;
    }
    if (level[0] != level[1]) return level[0] > level[1];
    if (feasible[0] != feasible[1]) return feasible[0];
    return a->deadline_ms <= b->deadline_ms;
}

static void test_the_order_is_priority_then_feasible_then_deadline(void) {
    for (int round = 0; round < 20000; round++) {
        struct sched_seq seqs[N_MAX];
        struct sched s = known(SCHED_EDF, 8);
        int n = random_below(N_MAX), top = -10;
        bool seen[N_MAX] = {false};
        s.limits.patience_ms = 1e12;
        for (int i = 0; i < n; i++) {
            seqs[i] = random_seq(i);
            if (seqs[i].priority > top) top = seqs[i].priority;
        }
        sched_order(&s, seqs, n, 0);
        for (int i = 0; i < n; i++) seen[seqs[i].id] = true;
        for (int i = 0; i < n; i++)
            if (!CHECK(seen[i])) return; /* nobody is lost by sorting */
        for (int i = 1; i < n; i++)
            if (!CHECK(before(&s, &seqs[i - 1], &seqs[i], top))) return;
        sched_finish(&s);
    }
}

/* Whoever would be in time if only the leader stepped is in time with the fill as well. */
static void test_a_fill_breaks_no_deadline(void) {
    int filled = 0;
    for (int round = 0; round < 50000; round++) {
        struct sched_seq seqs[N_MAX];
        struct sched s = random_sched(SCHED_EDF);
        int picked[64], tokens[64], n = 1 + random_below(24);
        for (int i = 0; i < n; i++) {
            seqs[i] = random_seq(i);
            seqs[i].tokens = 50 + random_below(150);
            seqs[i].deadline_ms = random_below(3000);
        }
        sched_order(&s, seqs, n, 0);
        int count = sched_pick(&s, 0, picked, seqs, n);
        for (int i = 0; i < count; i++) tokens[i] = seqs[picked[i]].tokens;
        struct sched_load load = {0};
        for (int i = 0; i < count; i++) sched_load_add(&load, s.devices->costs, tokens[i]);
        double joint = sched_load_ms(s.devices->costs, &load);
        filled += count > 1;
        bool ok = true;
        for (int i = 0, k = 0; i < n && count > 1; i++) {
            const struct sched_seq *q = &seqs[i];
            double slack = q->deadline_ms - q->left_ms;
            bool in = k < count && picked[k] == i;
            k += in;
            if (q->stage == SCHED_FINISHED) continue;
            if (i == picked[0])
                ok = ok && (slack < 0 || slack >= q->steps_left * (joint - q->solo_ms) - 1e-9);
            else if (!in && slack >= seqs[picked[0]].solo_ms)
                ok = ok && slack >= joint - 1e-9;
        }
        sched_finish(&s);
        if (!CHECK(ok)) return;
    }
    CHECK(filled > 1000); /* it was about something */
}

static void test_a_fill_must_gain(void) {
    struct sched s = known(SCHED_EDF, 8);
    struct sched_seq seqs[8];
    int picked[64];
    for (int i = 0; i < 8; i++)
        seqs[i] = (struct sched_seq){
            .id = i, .stage = SCHED_OPEN, .tokens = 100, .steps_left = 3, .deadline_ms = 1e6};
    sched_order(&s, seqs, 8, 0);
    CHECK(sched_pick(&s, 0, picked, seqs, 8) > 1); /* 15 ms each, 5 of them shared */
    for (int i = 0; i < 8; i++) seqs[i].tokens = 4000;
    sched_order(&s, seqs, 8, 0);
    CHECK_INT(sched_pick(&s, 0, picked, seqs, 8), 1); /* 405 ms each: one percent is not worth it */
    CHECK(s.devices->costs->saturation > 200 && s.devices->costs->saturation < 4000);
    sched_finish(&s);
}

static void test_one_sequence_larger_than_the_budget_still_runs(void) {
    struct sched s = known(SCHED_EDF, 4);
    struct sched_seq q = {.stage = SCHED_OPEN, .tokens = 9000, .steps_left = 3};
    int picked[64];
    s.limits.batch_tokens = 100;
    sched_order(&s, &q, 1, 0);
    CHECK_INT(sched_pick(&s, 0, picked, &q, 1), 1);
    sched_finish(&s);
}

static void test_first_come_is_first_served_without_gaps(void) {
    for (int round = 0; round < 20000; round++) {
        struct sched_seq seqs[N_MAX];
        struct sched s = random_sched(SCHED_FCFS);
        int picked[64], n = random_below(N_MAX), expect = 0;
        for (int i = 0; i < n; i++) seqs[i] = random_seq(i);
        sched_order(&s, seqs, n, 0);
        int count = sched_pick(&s, 0, picked, seqs, n);
        for (int i = 0; i < count; i++) {
            while (expect < n && seqs[expect].stage == SCHED_FINISHED) expect++;
            if (!CHECK(picked[i] == expect++ && seqs[picked[i]].id == picked[i])) return;
        }
        sched_finish(&s);
    }
}

/* A machine where a joint step costs more than the steps apart: only the baseline still joins. */
static void test_fill_joins_whatever_it_costs_within_the_limits(void) {
    static const struct {
        enum sched_policy policy;
        int batch_tokens;
        int wanted;
    } cases[] = {{SCHED_EDF, 0, 1}, {SCHED_FCFS, 0, 1}, {SCHED_FILL, 0, 8}, {SCHED_FILL, 250, 2}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct sched s = known(cases[k].policy, 8);
        struct sched_seq seqs[10];
        int picked[64];
        s.limits.batch_tokens = cases[k].batch_tokens;
        for (int i = 0; i < 200; i++) {
            sched_saw_step(s.devices->costs, (int[]){100}, 1, 10);
            for (int rows = 2; rows <= 8; rows++)
                sched_saw_step(s.devices->costs, (int[]){100, 100, 100, 100, 100, 100, 100, 100},
                               rows, 15.0 * rows);
        }
        for (int i = 0; i < 10; i++) {
            seqs[i] = job(100, 4, 1e6 + i);
            seqs[i].id = i;
            seqs[i].stage = SCHED_OPEN;
        }
        sched_order(&s, seqs, 10, 0);
        CHECK_INT(sched_pick(&s, 0, picked, seqs, 10), cases[k].wanted);
        sched_finish(&s);
    }
}

static void test_sequences_held_at_once_are_bounded(void) {
    struct sched s = known(SCHED_FCFS, 8);
    struct sched_seq seqs[10];
    int picked[64];
    s.limits.open_images = 5;
    for (int i = 0; i < 10; i++)
        seqs[i] = (struct sched_seq){.id = i,
                                     .stage = i < 4 ? SCHED_FINISHED : SCHED_WAITING,
                                     .tokens = 40,
                                     .steps_left = i < 4 ? 0 : 1};
    sched_order(&s, seqs, 10, 0);
    CHECK_INT(sched_pick(&s, 0, picked, seqs, 10), 1); /* four finished ones are held already */
    sched_finish(&s);
}

static void test_at_most_one_is_decoded_between_two_steps_of_others(void) {
    struct sched s = known(SCHED_EDF, 8);
    struct sched_seq q[3] = {{.id = 0, .stage = SCHED_FINISHED, .tokens = 1},
                             {.id = 1, .stage = SCHED_FINISHED, .tokens = 1},
                             {.id = 2, .stage = SCHED_OPEN, .tokens = 100, .steps_left = 4}};
    for (int i = 0; i < 3; i++) q[i].deadline_ms = 1000 + i;
    sched_order(&s, q, 3, 0);
    struct sched_plan plan = sched_next(&s, 0, q, 3, 1);
    CHECK(plan.act == SCHED_DO_DECODE && plan.picked[0] == 0);
    s.devices->turn.decodes = 1;
    plan = sched_next(&s, 0, q, 3, 1);
    CHECK(plan.act == SCHED_DO_STEP && plan.n == 1 && plan.picked[0] == 2);
    CHECK_INT(sched_next(&s, 0, q, 2, 1).act, SCHED_DO_DECODE);
    CHECK_INT(sched_next(&s, 0, q, 2, 0).act, SCHED_DO_NOTHING);
    sched_finish(&s);
}

/* ---- a worker in miniature ------------------------------------------------------------------- */

/* Does what sched_next says, takes invented time for it, and counts. */
struct world {
    struct sched s;
    struct sched_seq seqs[N_MAX];
    int n, arrived, served, left, evicted;
    double now, longest_open, longest_step;
    double device[KEYS]; /* ms of steps by key */
};

static void world_open(struct world *w, enum sched_policy policy, int images) {
    *w = (struct world){.n = 0};
    w->s = known(policy, images);
}

static void add(struct world *w, struct sched_seq q) {
    q.id = w->arrived++;
    q.arrival_ms = w->now;
    q.deadline_ms += w->now;
    w->seqs[w->n++] = q;
}

static void drop(struct world *w, int at) {
    memmove(w->seqs + at, w->seqs + at + 1, (size_t)(--w->n - at) * sizeof *w->seqs);
}

static void do_step(struct world *w, const int *picked, int n) {
    int tokens[64];
    uint64_t keys[64];
    int64_t sum = 0;
    for (int i = 0; i < n; i++) {
        struct sched_seq *q = &w->seqs[picked[i]];
        CHECK(q->stage == SCHED_OPEN && q->steps_left > 0);
        if (--q->steps_left == 0) q->stage = SCHED_FINISHED;
        tokens[i] = q->tokens;
        keys[i] = q->key;
        sum += q->tokens;
    }
    double ms = device_ms(tokens, n);
    for (int i = 0; i < n; i++) w->device[keys[i]] += ms * tokens[i] / (double)sum;
    w->s.devices->turn = (struct sched_turn){0};
    w->now += ms;
    if (ms > w->longest_step) w->longest_step = ms;
    sched_stepped(&w->s, 0,
                  &(struct sched_step){.rows = n, .tokens = tokens, .keys = keys, .ms = ms});
}

static void do_decode(struct world *w, int at) {
    CHECK(w->seqs[at].stage == SCHED_FINISHED);
    w->s.devices->turn.decodes++;
    w->now += 4;
    w->served++;
    drop(w, at);
}

/* One action; false when there is nothing to do. */
static bool act(struct world *w, bool can_decode) {
    int picked[64], ready = 0;
    sched_order(&w->s, w->seqs, w->n, w->now);
    int count = sched_pick(&w->s, 0, picked, w->seqs, w->n);
    for (int i = 0; i < count; i++) ready += w->seqs[picked[i]].stage == SCHED_OPEN;
    struct sched_plan plan = sched_next(&w->s, 0, w->seqs, w->n, can_decode);
    struct sched_seq *q = &w->seqs[plan.picked[0]];
    switch (plan.act) {
    case SCHED_DO_NOTHING: return false;
    case SCHED_DO_OPEN:
        CHECK(q->stage == SCHED_WAITING);
        q->stage = SCHED_OPEN;
        w->s.devices->turn.open_ms += 8;
        if (ready > 0) w->longest_open = fmax(w->longest_open, w->s.devices->turn.open_ms);
        w->now += 8;
        break;
    case SCHED_DO_EVICT:
        CHECK(q->stage == SCHED_OPEN && !q->feasible);
        q->stage = SCHED_WAITING; /* a little more than it had is near enough */
        q->steps_left++;
        w->evicted++;
        break;
    case SCHED_DO_STEP: do_step(w, plan.picked, plan.n); break;
    case SCHED_DO_PREVIEW:
        CHECK(q->preview_due);
        q->preview_due = false;
        break;
    case SCHED_DO_DECODE:
        CHECK(can_decode);
        do_decode(w, plan.picked[0]);
        break;
    }
    return true;
}

/* Comes, leaves, finishes, fails to be decoded: whatever happens, everyone is accounted for. */
static void lose_nobody(enum sched_policy policy, int events) {
    struct world w;
    int actions = 0;
    world_open(&w, policy, 1 + random_below(32));
    w.s.fair.quantum_ms = 500;
    while (w.arrived < events || w.n > 0) {
        if (w.arrived < events && w.n < N_MAX && random_below(6) == 0) {
            struct sched_seq q =
                job(50 + random_below(2000), 1 + random_below(8), random_below(20000));
            q.key = (uint64_t)random_below(KEYS);
            q.priority = random_below(21) - 10;
            q.alone = random_below(20) == 0;
            q.preview_due = random_below(10) == 0;
            add(&w, q);
        }
        if (w.n > 0 && random_below(60) == 0) {
            drop(&w, random_below(w.n));
            w.left++;
        }
        if (!act(&w, random_below(10) != 0)) w.now += 1;
        if (!CHECK(++actions < 100 * events)) return; /* it would never end */
    }
    CHECK_INT(w.served + w.left, w.arrived);
    CHECK(w.longest_open <= w.longest_step + 8); /* who steps waits for no more openings */
    sched_finish(&w.s);
}

static void test_nobody_is_lost_whatever_happens(void) {
    lose_nobody(SCHED_FCFS, 20000);
    lose_nobody(SCHED_FILL, 5000);
    lose_nobody(SCHED_EDF, 100000); /* about two million decisions */
}

/* A stream of work that is always in time and always sooner due would keep the others out. */
static void test_nobody_starves_beyond_the_bound(void) {
    struct world w;
    world_open(&w, SCHED_EDF, 1);
    w.s.limits.patience_ms = 10000;
    double backlog = 0;
    for (int i = 0; i < 20; i++) { /* hopeless from the start */
        add(&w, job(1000, 10, 1));
        backlog += 8 + 10 * 105 + 6;
    }
    for (int i = 0; i < 100000 && w.arrived - w.served > w.n - 20; i++) {
        int old = 0;
        for (int k = 0; k < w.n; k++) old += w.seqs[k].id < 20;
        if (old == 0) break;
        if (w.n - old < 5) add(&w, job(200, 4, 2000)); /* there is always one more */
        act(&w, true);
    }
    int old = 0;
    for (int k = 0; k < w.n; k++) old += w.seqs[k].id < 20;
    CHECK_INT(old, 0);
    double bound = 10000 + w.s.limits.aged_share * (backlog + 20 * 105) + backlog;
    if (!CHECK(w.now <= bound)) printf("        %g > %g\n", w.now, bound);
    CHECK(w.now > 10000 + (w.s.limits.aged_share - 2) * backlog); /* and it was not given more */
    sched_finish(&w.s);
}

/* Late ones that fill all places do not keep out one that can still be in time. */
static void test_a_place_is_found_for_who_is_in_time(void) {
    struct world w;
    world_open(&w, SCHED_EDF, 2);
    w.s.limits.open_images = 4;
    for (int i = 0; i < 8; i++) add(&w, job(200, 50, 1));
    for (int i = 0; i < 40; i++) act(&w, true);
    for (int i = 0; i < 8; i++) w.seqs[i].stage = i < 4 ? SCHED_OPEN : SCHED_WAITING;
    add(&w, job(200, 4, 400));
    int id = w.arrived - 1, there = 1;
    double start = w.now;
    while (there && w.now < start + 10000) {
        act(&w, true);
        there = 0;
        for (int i = 0; i < w.n; i++) there += w.seqs[i].id == id;
    }
    CHECK(w.now - start <= 400);
    CHECK_INT(w.evicted, 1);
    while (w.n > 0 && w.now < 1e6) act(&w, true);
    CHECK_INT(w.served, 9);
    sched_finish(&w.s);
}

static void test_low_priority_waits_but_rises(void) {
    struct world w;
    world_open(&w, SCHED_EDF, 1);
    struct sched_seq low = job(200, 10, 20000), high = job(200, 10, 2000);
    low.priority = -10;
    high.priority = 10;
    add(&w, low);
    bool early = false, there = true;
    while (w.now < 120000 && there) {
        if (w.n < 4) add(&w, high);
        act(&w, true);
        there = false;
        for (int i = 0; i < w.n; i++)
            if (w.seqs[i].id == 0) there = true, early = early || w.seqs[i].stage == SCHED_OPEN;
        if (w.now < 30000 && w.n > 1) CHECK(!early);
    }
    CHECK(!there);
    CHECK(w.now > 30000 && w.now < 20 * 3000 + 60000);
    sched_finish(&w.s);
}

static void test_high_priority_is_next_at_the_next_step(void) {
    struct world w;
    world_open(&w, SCHED_EDF, 4);
    for (int i = 0; i < 10; i++) add(&w, job(200, 20, 3000));
    for (int i = 0; i < 30; i++) act(&w, true);
    struct sched_seq high = job(200, 1, 5000);
    high.priority = 5;
    add(&w, high);
    double start = w.now;
    int id = w.arrived - 1, there = 1;
    while (there && w.now < start + 10000) {
        act(&w, true);
        there = 0;
        for (int i = 0; i < w.n; i++) there += w.seqs[i].id == id;
    }
    CHECK(w.now - start <= 8 + 2 * w.longest_step + 2 * 4);
    sched_finish(&w.s);
}

/* Keys that have work all the time differ by a quantum and a step, whatever they ask for. */
static void test_shares_are_fair_within_a_quantum(void) {
    for (int round = 0; round < 20; round++) {
        struct world w;
        int busy[KEYS];
        world_open(&w, SCHED_EDF, 1 + random_below(8));
        w.s.fair.quantum_ms = 3000;
        w.s.limits.patience_ms = 1e12; /* lateness is another rule */
        w.s.limits.level_ms = 0;
        for (int i = 0; i < 15000; i++) {
            memset(busy, 0, sizeof busy);
            for (int k = 0; k < w.n; k++)
                if (w.seqs[k].stage != SCHED_FINISHED) busy[w.seqs[k].key]++;
            for (int k = 0; k < KEYS; k++) /* key k asks for larger ones, due later or sooner */
                for (; busy[k] < 3 && w.n < N_MAX; busy[k]++) {
                    struct sched_seq q = job(100 + 300 * k, 1 + random_below(12),
                                             200 + random_below(round % 2 ? 900 * k + 1 : 2000));
                    q.key = (uint64_t)k;
                    add(&w, q);
                }
            act(&w, true);
            double least = w.device[0], most = least;
            for (int k = 1; k < KEYS; k++) {
                least = w.device[k] < least ? w.device[k] : least;
                most = w.device[k] > most ? w.device[k] : most;
            }
            if (!CHECK(most - least <= w.s.fair.quantum_ms + 2 * w.longest_step)) {
                printf("        %g - %g after %d\n", most, least, i);
                return;
            }
        }
        sched_finish(&w.s);
    }
}

static void test_leaving_and_coming_back_brings_no_new_share(void) {
    struct sched_fair f = {.quantum_ms = 1000};
    sched_fair_begin(&f);
    sched_fair_join(&f, 1, true);
    sched_fair_join(&f, 2, true);
    sched_fair_settle(&f);
    sched_fair_charge(&f, 1, 600);
    CHECK(!sched_fair_may_lead(&f, sched_fair_find(&f, 1)));
    CHECK(sched_fair_may_ride(&f, sched_fair_find(&f, 1)));
    sched_fair_begin(&f); /* 1 has left */
    sched_fair_join(&f, 2, true);
    sched_fair_settle(&f);
    sched_fair_begin(&f); /* and is back */
    sched_fair_join(&f, 1, true);
    sched_fair_join(&f, 2, true);
    sched_fair_settle(&f);
    CHECK(!sched_fair_may_lead(&f, sched_fair_find(&f, 1)));
    CHECK(sched_fair_may_lead(&f, sched_fair_find(&f, 2)));
    sched_fair_charge(&f, 2, 500); /* both are out: a new round */
    sched_fair_settle(&f);
    CHECK(sched_fair_may_lead(&f, sched_fair_find(&f, 1)));
    CHECK_NEAR(f.flows[0].credit_ms, 400, 1e-9);
    CHECK_NEAR(f.flows[1].credit_ms, 500, 1e-9);
    sched_fair_finish(&f);
}

int main(void) {
    TEST(test_a_step_never_passes_its_limits);
    TEST(test_the_order_is_priority_then_feasible_then_deadline);
    TEST(test_a_fill_breaks_no_deadline);
    TEST(test_a_fill_must_gain);
    TEST(test_one_sequence_larger_than_the_budget_still_runs);
    TEST(test_first_come_is_first_served_without_gaps);
    TEST(test_fill_joins_whatever_it_costs_within_the_limits);
    TEST(test_sequences_held_at_once_are_bounded);
    TEST(test_at_most_one_is_decoded_between_two_steps_of_others);
    TEST(test_nobody_is_lost_whatever_happens);
    TEST(test_nobody_starves_beyond_the_bound);
    TEST(test_a_place_is_found_for_who_is_in_time);
    TEST(test_low_priority_waits_but_rises);
    TEST(test_high_priority_is_next_at_the_next_step);
    TEST(test_shares_are_fair_within_a_quantum);
    TEST(test_leaving_and_coming_back_brings_no_new_share);
    return TEST_END();
}
