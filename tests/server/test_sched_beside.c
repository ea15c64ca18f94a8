/* test_sched_beside.c - a device that opens and decodes beside its steps: what may be at work
 * together, that nobody waits longer for it, and what is learnt of the costs. */
#include "tests/server/sched_fixture.h"

enum { MODELS = 2 };
static const uint32_t all_slots = (1u << MODELS) - 1;

/* One device in invented time; `step` and `beside` are what is out, each until its time. */
struct world {
    struct sched s;
    struct sched_seq seqs[N_MAX];
    int n, arrived, served, evicted, overlapped;
    double now, step_until, beside_until;
    int step[SCHED_MAX_BATCH], n_step; /* ids */
    int beside;                        /* id; -1 = none */
    int bound_step, bound_beside;      /* models; -1 = none */
};

static void world_open(struct world *w, enum sched_policy policy, int images) {
    *w = (struct world){.beside = -1, .bound_step = -1, .bound_beside = -1};
    w->s = known(policy, images);
    teach(&w->s.devices->costs[1], 2);
    w->s.devices->serves = all_slots;
}

static void add(struct world *w, struct sched_seq q) {
    q.id = w->arrived++;
    q.device = -1;
    q.arrival_ms = w->now;
    q.deadline_ms += w->now;
    w->seqs[w->n++] = q;
}

static struct sched_seq *find(struct world *w, int id) {
    for (int i = 0; i < w->n; i++)
        if (w->seqs[i].id == id) return &w->seqs[i];
    return NULL;
}

static void drop(struct world *w, struct sched_seq *q) { *q = w->seqs[--w->n]; }

static void begin_step(struct world *w, const struct sched_plan *plan) {
    int tokens[SCHED_MAX_BATCH];
    CHECK(plan->n >= 1 && plan->n <= w->s.limits.batch_images);
    w->n_step = plan->n;
    for (int i = 0; i < plan->n; i++) {
        struct sched_seq *q = &w->seqs[plan->picked[i]];
        CHECK(q->stage == SCHED_OPEN && q->steps_left > 0 && !q->beside && !q->stepping);
        CHECK(q->model == w->seqs[plan->picked[0]].model);
        q->stepping = true;
        w->step[i] = q->id;
        tokens[i] = q->tokens;
    }
    w->bound_step = w->seqs[plan->picked[0]].model;
    CHECK(w->bound_beside < 0 || w->bound_beside == w->bound_step);
    w->step_until = w->now + device_ms(tokens, plan->n);
}

static void begin_beside(struct world *w, struct sched_seq *q, double ms) {
    CHECK(!q->beside && !q->stepping);
    CHECK(w->bound_step < 0 || w->bound_step == q->model);
    q->beside = true;
    q->device = 0;
    w->beside = q->id;
    w->bound_beside = q->model;
    w->beside_until = w->now + ms;
    w->overlapped += w->n_step > 0;
}

/* False when there is nothing to begin. */
static bool begin(struct world *w) {
    struct sched_plan plan = {.act = SCHED_DO_NOTHING};
    int held = 0;
    sched_order(&w->s, w->seqs, w->n, w->now);
    if (w->n_step == 0) plan = sched_next_step(&w->s, 0, w->seqs, w->n, all_slots, w->bound_beside);
    if (plan.act == SCHED_DO_NOTHING && w->beside < 0)
        plan = sched_next_beside(&w->s, 0, w->seqs, w->n, all_slots, w->bound_step);
    struct sched_seq *q = &w->seqs[plan.picked[0]];
    switch (plan.act) {
    case SCHED_DO_NOTHING: return false;
    case SCHED_DO_STEP: begin_step(w, &plan); break;
    case SCHED_DO_OPEN:
        CHECK(q->stage == SCHED_WAITING);
        begin_beside(w, q, 8);
        for (int i = 0; i < w->n; i++)
            held += w->seqs[i].stage != SCHED_WAITING || w->seqs[i].beside;
        CHECK(held <= w->s.limits.open_images);
        break;
    case SCHED_DO_DECODE:
        CHECK(q->stage == SCHED_FINISHED);
        begin_beside(w, q, 4);
        break;
    case SCHED_DO_EVICT:
        CHECK(q->stage == SCHED_OPEN && !q->stepping && !q->beside && !q->feasible);
        q->stage = SCHED_WAITING;
        q->device = -1;
        w->evicted++;
        break;
    case SCHED_DO_PREVIEW:
        CHECK(q->preview_due && !q->beside && w->n_step == 0);
        q->preview_due = false;
        break;
    }
    return true;
}

static void end_step(struct world *w) {
    for (int i = 0; i < w->n_step; i++) {
        struct sched_seq *q = find(w, w->step[i]);
        if (!q) continue; /* left meanwhile */
        q->stepping = false;
        if (--q->steps_left == 0) q->stage = SCHED_FINISHED;
    }
    w->n_step = 0;
    w->bound_step = -1;
}

static void end_beside(struct world *w) {
    struct sched_seq *q = find(w, w->beside);
    w->beside = w->bound_beside = -1;
    if (!q) return;
    q->beside = false;
    if (q->stage == SCHED_WAITING) {
        q->stage = SCHED_OPEN;
        return;
    }
    w->served++;
    drop(w, q);
}

/* To the next end; with nothing at work there must be nothing to do. */
static void go_on(struct world *w) {
    const bool step = w->n_step > 0, beside = w->beside >= 0;
    if (!CHECK(step || beside)) exit(1);
    if (step && (!beside || w->step_until <= w->beside_until)) {
        w->now = w->step_until;
        end_step(w);
    } else {
        w->now = w->beside_until;
        end_beside(w);
    }
}

static void lose_nobody(enum sched_policy policy, int events) {
    struct world w;
    int left = 0;
    world_open(&w, policy, 1 + random_below(16));
    w.s.fair.quantum_ms = 500;
    while (w.arrived < events || w.n > 0) {
        if (w.arrived < events && w.n < N_MAX && random_below(3) == 0) {
            struct sched_seq q =
                job(50 + random_below(2000), 1 + random_below(8), random_below(20000));
            q.key = (uint64_t)random_below(KEYS);
            q.priority = random_below(21) - 10;
            q.alone = random_below(20) == 0;
            q.model = random_below(4) == 0;
            add(&w, q);
        }
        if (w.n > 0 && random_below(60) == 0) { /* whatever it is doing */
            drop(&w, &w.seqs[random_below(w.n)]);
            left++;
        }
        while (begin(&w)) continue;
        if (w.n > 0 || w.n_step > 0 || w.beside >= 0) go_on(&w);
    }
    CHECK_INT(w.served + left, w.arrived);
    CHECK(w.overlapped > w.arrived / 2);
    sched_finish(&w.s);
}
static void test_nobody_is_lost_and_nothing_is_asked_of_who_is_at_work(void) {
    lose_nobody(SCHED_EDF, 3000);
    lose_nobody(SCHED_FCFS, 1000);
    lose_nobody(SCHED_FILL, 1000);
}

static void test_steps_do_not_wait_for_a_decoding_or_an_opening(void) {
    struct world w;
    world_open(&w, SCHED_EDF, 4);
    for (int i = 0; i < 3; i++) add(&w, job(50, 3, 1e6 + i));
    w.seqs[0].stage = SCHED_FINISHED, w.seqs[0].steps_left = 0;
    w.seqs[1].stage = SCHED_OPEN;
    w.seqs[0].device = w.seqs[1].device = 0;
    CHECK(begin(&w) && w.n_step == 1 && w.step[0] == 1); /* the step first */
    CHECK(begin(&w) && w.beside == 0);
    CHECK(!begin(&w)); /* one of each */
    end_beside(&w);
    CHECK(begin(&w) && w.beside == 2 && w.n_step == 1); /* opened beside the same step */
    end_step(&w);
    CHECK(begin(&w) && w.n_step == 1 && w.step[0] == 1); /* and the next one does not wait for it */
    end_beside(&w);
    end_step(&w);
    CHECK(begin(&w) && w.n_step == 2); /* now both */
    sched_finish(&w.s);
}

/* A step of others would take 105 ms. */
static void test_who_leads_is_not_made_late_by_a_step_before_it_is_open(void) {
    for (int hurry = 0; hurry < 2; hurry++) {
        struct world w;
        world_open(&w, SCHED_EDF, 1);
        add(&w, job(1000, 2, hurry ? 8 + 2 * 105 + 20 + 50 : 1e6));
        add(&w, job(1000, 9, 2e6));
        w.seqs[1].stage = SCHED_OPEN;
        w.seqs[1].device = 0;
        w.s.limits.open_images = 4;
        CHECK(begin(&w));
        CHECK_INT(w.n_step, !hurry);
        if (!hurry) CHECK(begin(&w));
        CHECK_INT(w.beside, 0);
        sched_finish(&w.s);
    }
}

/* The first model has work for ever; the second one's turn comes when what is out has ended. */
static void test_models_that_share_a_device_take_turns(void) {
    struct world w;
    double began = -1;
    world_open(&w, SCHED_EDF, 4);
    for (int i = 0; i < 40; i++) add(&w, job(500, 60, 1e6));
    struct sched_seq other = job(500, 2, 1e5);
    other.model = 1;
    add(&w, other);
    for (int i = 0; i < 400 && w.n > 0 && began < 0; i++) {
        while (begin(&w)) continue;
        if (w.bound_step == 1 || w.bound_beside == 1) began = w.now;
        go_on(&w);
    }
    CHECK(began >= 0 && began < 1000);
    for (int i = 0; i < 400 && find(&w, 40); i++) { /* nor does its decoding wait for the others */
        while (begin(&w)) continue;
        go_on(&w);
    }
    CHECK(!find(&w, 40) && w.now < began + 1000);
    sched_finish(&w.s);
}

static void test_a_step_beside_something_teaches_at_most_how_fast_it_can_be(void) {
    struct sched s = known(SCHED_EDF, 4);
    int tokens = 1000;
    uint64_t key = 0;
    struct sched_step step = {
        .rows = 1, .tokens = &tokens, .keys = &key, .ms = 300, .beside = true};
    const double before = sched_solo_ms(s.devices->costs, tokens);
    for (int i = 0; i < 50; i++) sched_stepped(&s, 0, &step);
    CHECK_NEAR(sched_solo_ms(s.devices->costs, tokens), before, 1e-9);
    step.ms = before / 2;
    for (int i = 0; i < 50; i++) sched_stepped(&s, 0, &step);
    CHECK(sched_solo_ms(s.devices->costs, tokens) < 0.7 * before);
    step = (struct sched_step){.rows = 1, .tokens = &tokens, .keys = &key, .ms = 300};
    for (int i = 0; i < 50; i++) sched_stepped(&s, 0, &step);
    CHECK(sched_solo_ms(s.devices->costs, tokens) > 1.5 * before); /* by itself: that is the cost */
    sched_finish(&s);
}

int main(void) {
    TEST(test_nobody_is_lost_and_nothing_is_asked_of_who_is_at_work);
    TEST(test_steps_do_not_wait_for_a_decoding_or_an_opening);
    TEST(test_who_leads_is_not_made_late_by_a_step_before_it_is_open);
    TEST(test_models_that_share_a_device_take_turns);
    TEST(test_a_step_beside_something_teaches_at_most_how_fast_it_can_be);
    return TEST_END();
}
