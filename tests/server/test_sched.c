/* test_sched.c - the policy as properties over random lines: nobody overtakes, nobody starves, no
 * limit is passed, everybody is served. Time is invented. */
#include "server/sched.h"

#include "tests/test.h"

enum { N_MAX = 120 };

static uint64_t rng_state = 0x9E3779B97F4A7C15u;
static int random_below(int n) {
    rng_state ^= rng_state << 13, rng_state ^= rng_state >> 7, rng_state ^= rng_state << 17;
    return (int)((rng_state >> 33) % (uint64_t)n);
}

static struct sched_seq random_seq(void) {
    enum sched_stage stage = (enum sched_stage)random_below(3);
    return (struct sched_seq){.stage = stage,
                              .tokens = 50 + random_below(4000),
                              .steps_left = stage == SCHED_FINISHED ? 0 : 1 + random_below(30),
                              .pixels = 128 * 128,
                              .preview_due = random_below(10) == 0,
                              .alone = random_below(20) == 0};
}

static struct sched_limits random_limits(void) {
    int images = 1 + random_below(32);
    return (struct sched_limits){.batch_images = images,
                                 .batch_tokens = random_below(2) ? 500 + random_below(9000) : 0,
                                 .open_images = 2 * images,
                                 .queue = 10};
}

static void test_a_step_never_passes_its_limits_and_never_skips_anybody(void) {
    for (int round = 0; round < 20000; round++) {
        struct sched_seq seqs[N_MAX];
        struct sched_limits l = random_limits();
        int picked[64], n = random_below(N_MAX), tokens = 0, expect = 0;
        for (int i = 0; i < n; i++) seqs[i] = random_seq();
        int count = sched_pick(picked, seqs, n, &l);
        bool ok = count <= l.batch_images;
        for (int i = 0; i < count; i++) {
            while (expect < n && seqs[expect].stage == SCHED_FINISHED) expect++;
            ok = ok && picked[i] == expect++; /* the next in line, no gaps */
            tokens += seqs[picked[i]].tokens;
            ok = ok && (!seqs[picked[i]].alone || count == 1);
        }
        ok = ok && (count <= 1 || l.batch_tokens == 0 || tokens <= l.batch_tokens);
        if (!CHECK(ok)) return;
    }
}

static void test_one_sequence_larger_than_the_budget_still_runs(void) {
    struct sched_seq s = {.stage = SCHED_OPEN, .tokens = 9000, .steps_left = 3};
    struct sched_limits l = {.batch_images = 4, .batch_tokens = 100, .open_images = 8};
    int picked[64];
    CHECK_INT(sched_pick(picked, &s, 1, &l), 1);
}

static void test_a_small_one_does_not_overtake_a_large_one(void) {
    struct sched_seq s[3] = {{.stage = SCHED_OPEN, .tokens = 80, .steps_left = 3},
                             {.stage = SCHED_WAITING, .tokens = 90, .steps_left = 3},
                             {.stage = SCHED_WAITING, .tokens = 10, .steps_left = 3}};
    struct sched_limits l = {.batch_images = 4, .batch_tokens = 100, .open_images = 8};
    int picked[64];
    CHECK_INT(sched_pick(picked, s, 3, &l), 1);
    CHECK_INT(picked[0], 0);
}

static void test_sequences_held_at_once_are_bounded(void) {
    struct sched_seq s[10];
    struct sched_limits l = {.batch_images = 8, .open_images = 5};
    int picked[64];
    for (int i = 0; i < 10; i++)
        s[i] = (struct sched_seq){.stage = i < 4 ? SCHED_FINISHED : SCHED_WAITING,
                                  .tokens = 1,
                                  .steps_left = i < 4 ? 0 : 1};
    CHECK_INT(sched_pick(picked, s, 10, &l), 1); /* four finished ones are held already */
}

/* A worker in miniature: does what sched_next says, takes time for it, and counts. */
struct world {
    struct sched_seq seqs[N_MAX];
    int id[N_MAX], n;
    struct sched_turn turn;
    int decodes_in_turn;
    double open_in_turn, longest_open;
    int started[N_MAX * 4], n_started, served;
    double now;
};

static void remove_at(struct world *w, int at) {
    for (int i = at; i + 1 < w->n; i++) {
        w->seqs[i] = w->seqs[i + 1];
        w->id[i] = w->id[i + 1];
    }
    w->n--;
}

/* One action; false when there is nothing to do. */
static bool act(struct world *w, const struct sched_limits *l, bool can_decode) {
    int picked[64], n, ready = 0;
    for (int i = 0; i < w->n; i++) ready += w->seqs[i].stage == SCHED_OPEN;
    switch (sched_next(picked, &n, w->seqs, w->n, l, &w->turn, 20, can_decode)) {
    case SCHED_DO_NOTHING: return false;
    case SCHED_DO_OPEN:
        CHECK(w->seqs[picked[0]].stage == SCHED_WAITING);
        w->seqs[picked[0]].stage = SCHED_OPEN;
        w->started[w->n_started++] = w->id[picked[0]];
        w->turn.open_ms += 8;
        if (ready > 0 && w->turn.open_ms > w->longest_open) w->longest_open = w->turn.open_ms;
        w->now += 8;
        break;
    case SCHED_DO_STEP:
        for (int i = 0; i < n; i++) {
            struct sched_seq *s = &w->seqs[picked[i]];
            CHECK(s->stage == SCHED_OPEN && s->steps_left > 0);
            if (--s->steps_left == 0) s->stage = SCHED_FINISHED;
        }
        w->turn = (struct sched_turn){0};
        w->now += 20;
        break;
    case SCHED_DO_PREVIEW:
        CHECK(w->seqs[picked[0]].preview_due);
        w->seqs[picked[0]].preview_due = false;
        break;
    case SCHED_DO_DECODE:
        CHECK(can_decode && w->seqs[picked[0]].stage == SCHED_FINISHED);
        w->turn.decodes++;
        w->served++;
        remove_at(w, picked[0]);
        break;
    }
    return true;
}

static void test_everybody_is_served_in_the_order_of_arrival_whatever_happens(void) {
    for (int round = 0; round < 300; round++) {
        struct world w = {.n = 0};
        struct sched_limits l = random_limits();
        int arrived = 0, left = 0, actions = 0;
        while (arrived < N_MAX - 1 || w.n > 0) {
            if (arrived < N_MAX - 1 && random_below(4) == 0) {
                w.seqs[w.n] = random_seq();
                w.seqs[w.n].stage = SCHED_WAITING;
                w.seqs[w.n].steps_left = 1 + random_below(30);
                w.seqs[w.n].preview_due = false;
                w.id[w.n++] = arrived++;
            }
            if (w.n > 0 && random_below(40) == 0) { /* a client leaves */
                remove_at(&w, random_below(w.n));
                left++;
            }
            bool busy = act(&w, &l, random_below(10) != 0);
            if (!CHECK(++actions < 100000)) return; /* it would never end */
            (void)busy;
        }
        CHECK_INT(w.served + left, arrived);
        for (int i = 1; i < w.n_started; i++)
            if (!CHECK(w.started[i] > w.started[i - 1])) return;
        CHECK(w.longest_open <= 20 + 8); /* a step's time, and the one that passed it */
    }
}

static void test_at_most_one_is_decoded_between_two_steps_of_others(void) {
    struct sched_seq s[3] = {{.stage = SCHED_FINISHED, .tokens = 1},
                             {.stage = SCHED_FINISHED, .tokens = 1},
                             {.stage = SCHED_OPEN, .tokens = 1, .steps_left = 4}};
    struct sched_limits l = {.batch_images = 8, .open_images = 16};
    struct sched_turn turn = {0};
    int picked[64], n;
    CHECK_INT(sched_next(picked, &n, s, 3, &l, &turn, 10, true), SCHED_DO_DECODE);
    turn.decodes = 1;
    CHECK_INT(sched_next(picked, &n, s, 3, &l, &turn, 10, true), SCHED_DO_STEP);
    CHECK_INT(n, 1);
    CHECK_INT(picked[0], 2);
    CHECK_INT(sched_next(picked, &n, s, 2, &l, &turn, 10, true), SCHED_DO_DECODE);
    CHECK_INT(sched_next(picked, &n, s, 2, &l, &turn, 10, false), SCHED_DO_NOTHING);
}

static void test_eta_follows_the_policy(void) {
    /* one token costs 1 ms a step, opening and decoding nothing: two places, three jobs */
    struct sched_costs c = {.ms_per_token = 1};
    struct sched_limits l = {.batch_images = 2, .open_images = 4};
    struct sched_seq s[3] = {{.stage = SCHED_OPEN, .tokens = 10, .steps_left = 2},
                             {.stage = SCHED_OPEN, .tokens = 10, .steps_left = 4},
                             {.stage = SCHED_WAITING, .tokens = 10, .steps_left = 2}};
    double start[3], finish[3];
    sched_eta(start, finish, s, 3, &l, &c);
    CHECK_NEAR(finish[0], 40, 1e-9); /* 2 steps of 20 tokens */
    CHECK_NEAR(start[2], 40, 1e-9);  /* takes the place of the first */
    CHECK_NEAR(finish[1], 80, 1e-9);
    CHECK_NEAR(finish[2], 80, 1e-9);
    CHECK_NEAR(sched_backlog_ms(s, 3, &c), 80, 1e-9);
}

static void test_every_line_gets_an_eta_and_it_is_the_time_that_the_walk_takes(void) {
    for (int round = 0; round < 2000; round++) {
        struct sched_seq s[N_MAX];
        struct sched_limits l = random_limits();
        struct sched_costs c = {.ms_per_token = 0.5};
        double start[N_MAX], finish[N_MAX], total = 0, last = 0;
        int n = 1 + random_below(N_MAX - 1);
        for (int i = 0; i < n; i++) {
            s[i] = random_seq();
            start[i] = finish[i] = -1;
        }
        sched_eta(start, finish, s, n, &l, &c);
        for (int i = 0; i < n; i++) {
            total += s[i].steps_left * s[i].tokens * 0.5;
            if (!CHECK(finish[i] >= start[i] && start[i] >= 0)) return;
            if (finish[i] > last) last = finish[i];
        }
        if (!CHECK(fabs(last - total) <= 1e-6 * (total + 1)))
            return; /* nothing lost, nothing twice */
    }
}

static void test_a_full_queue_says_when_to_come_back(void) {
    struct sched_limits l = {.queue = 3};
    int after = -1;
    CHECK(sched_admit(2, &l, 1e6, 0, &after));
    CHECK_INT(after, -1);
    CHECK(!sched_admit(3, &l, 0, 0, &after));
    CHECK_INT(after, 1);
    CHECK(!sched_admit(3, &l, 10000, UINT32_MAX / 2, &after));
    CHECK_INT(after, 10);
    CHECK(!sched_admit(3, &l, 10000, UINT32_MAX, &after));
    CHECK_INT(after, 12);
    CHECK(!sched_admit(3, &l, 10000, 0, &after));
    CHECK_INT(after, 8);
    CHECK(!sched_admit(3, &l, 1e12, 5, &after));
    CHECK_INT(after, 60);
    CHECK(!sched_admit(3, &l, nan(""), 5, &after));
    CHECK_INT(after, 60);
}

static void test_costs_are_learnt_and_nonsense_is_not(void) {
    struct sched_costs c;
    sched_costs_init(&c);
    sched_saw_step(&c, 100, 50);
    CHECK_NEAR(c.ms_per_token, 0.5, 1e-12);
    for (int i = 0; i < 50; i++) sched_saw_step(&c, 100, 100);
    CHECK_NEAR(c.ms_per_token, 1, 1e-4);
    sched_saw_step(&c, 0, 5);
    sched_saw_step(&c, 10, nan(""));
    CHECK_NEAR(c.ms_per_token, 1, 1e-4);
}

int main(void) {
    TEST(test_a_step_never_passes_its_limits_and_never_skips_anybody);
    TEST(test_one_sequence_larger_than_the_budget_still_runs);
    TEST(test_a_small_one_does_not_overtake_a_large_one);
    TEST(test_sequences_held_at_once_are_bounded);
    TEST(test_everybody_is_served_in_the_order_of_arrival_whatever_happens);
    TEST(test_at_most_one_is_decoded_between_two_steps_of_others);
    TEST(test_eta_follows_the_policy);
    TEST(test_every_line_gets_an_eta_and_it_is_the_time_that_the_walk_takes);
    TEST(test_a_full_queue_says_when_to_come_back);
    TEST(test_costs_are_learnt_and_nonsense_is_not);
    return TEST_END();
}
