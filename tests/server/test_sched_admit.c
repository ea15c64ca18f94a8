/* test_sched_admit.c - who may wait, who is sent away, and what is said about when to come back. */
#include "tests/server/sched_fixture.h"

enum { MIDDLE = UINT32_MAX / 2 }; /* of the jitter: none */

/* A line of jobs of one step each, so large that one by itself takes so long (with text and pixels,
 * 14 ms), due at that moment; all wait. */
struct line {
    struct sched s;
    struct sched_seq q[N_MAX];
    int n;
};

static struct sched_seq lasting(double ms, double deadline_ms) {
    struct sched_seq q = job((int)((ms - 14 - 5) / 0.1 + 0.5), 1, deadline_ms);
    q.device = -1;
    return q;
}

static void open_line(struct line *l, int places) {
    *l = (struct line){.n = 0};
    l->s = known(SCHED_EDF, 1);
    l->s.limits.queue = places;
    l->s.limits.backlog_ms = 0;
    l->s.limits.patience_ms = 1e9;
}

static void stand(struct line *l, int n, double ms, double deadline_ms) {
    for (int i = 0; i < n; i++) {
        l->q[l->n] = lasting(ms, deadline_ms);
        l->q[l->n].id = l->n;
        l->n++;
    }
}

static struct sched_answer ask(struct line *l, double now_ms, struct sched_seq q, double due_ms) {
    struct sched_newcomer c = {
        .seq = q, .images = 1, .due_ms = due_ms, .queued = l->n, .random = MIDDLE};
    sched_order(&l->s, l->q, l->n, now_ms);
    c.seq.arrival_ms = now_ms;
    return sched_admit(&l->s, &c, l->q, l->n);
}

static enum sched_verdict verdict(struct line *l, double now_ms, double ms, double deadline_ms) {
    return ask(l, now_ms, lasting(ms, deadline_ms), HUGE_VAL).verdict;
}

static int comes_back(struct line *l, uint32_t random) {
    struct sched_newcomer c = {.seq = lasting(100, 1e9),
                               .images = 1,
                               .due_ms = HUGE_VAL,
                               .queued = l->n,
                               .random = random};
    sched_order(&l->s, l->q, l->n, 0);
    const struct sched_answer a = sched_admit(&l->s, &c, l->q, l->n);
    CHECK_INT(a.verdict, SCHED_FULL);
    return a.retry_after_s;
}

static void test_a_full_queue_says_when_to_come_back(void) {
    struct line l;
    open_line(&l, 4);
    stand(&l, 3, 2500, 1e9);
    CHECK_INT(verdict(&l, 0, 2500, 1e9), SCHED_TAKE);
    stand(&l, 1, 2500, 1e9);
    CHECK_INT(comes_back(&l, MIDDLE), 10);
    CHECK_INT(comes_back(&l, UINT32_MAX), 12);
    CHECK_INT(comes_back(&l, 0), 8);
    sched_finish(&l.s);
    open_line(&l, 3);
    stand(&l, 3, 20, 1e9);
    CHECK_INT(comes_back(&l, MIDDLE), 1);
    sched_finish(&l.s);
    open_line(&l, 100);
    stand(&l, 100, 1e6, 1e9);
    CHECK_INT(comes_back(&l, MIDDLE), 60);
    sched_finish(&l.s);
    open_line(&l, 1);
    stand(&l, 1, 100, 1e9);
    l.q[0].pixels = nan("");
    CHECK_INT(comes_back(&l, MIDDLE), 60);
    sched_finish(&l.s);
}

static void test_so_does_a_backlog_but_an_idle_service_takes_anything(void) {
    struct line l;
    open_line(&l, 100);
    l.s.limits.backlog_ms = 30000;
    CHECK_INT(verdict(&l, 0, 1e7, 1e9), SCHED_TAKE);
    stand(&l, 1, 20000, 1e9);
    CHECK_INT(verdict(&l, 0, 10000, 1e9), SCHED_TAKE);
    stand(&l, 1, 8000, 1e9);
    struct sched_answer a = ask(&l, 0, lasting(6000, 1e9), HUGE_VAL);
    CHECK_INT(a.verdict, SCHED_FULL);
    CHECK_INT(a.retry_after_s, 4);
    l.n = 1;
    l.q[0] = lasting(5000, 1e9);
    a = ask(&l, 0, lasting(90000, 1e9), HUGE_VAL); /* gone in five seconds */
    CHECK_INT(a.verdict, SCHED_FULL);
    CHECK_INT(a.retry_after_s, 5);
    sched_finish(&l.s);
}

static void test_while_there_is_room_anybody_may_wait(void) {
    struct line l;
    open_line(&l, 40);
    for (int i = 0; i < 30; i++) {
        CHECK_INT(verdict(&l, 0, 1000, 3000),
                  SCHED_TAKE); /* from the fourth on they will be late */
        stand(&l, 1, 1000, 3000);
    }
    CHECK_INT(verdict(&l, 0, 1000, 3001), SCHED_CROWDED);
    sched_finish(&l.s);
}

static void test_the_last_quarter_is_for_those_who_will_be_in_time(void) {
    struct line l;
    open_line(&l, 40);
    stand(&l, 30, 1000, 3000); /* all could make it, none has to go */
    CHECK_INT(verdict(&l, 0, 100, 300), SCHED_TAKE);
    CHECK_INT(verdict(&l, 0, 100, 90), SCHED_CROWDED);
    CHECK_INT(verdict(&l, 0, 1000, 4000), SCHED_CROWDED);
    sched_finish(&l.s);
    open_line(&l, 40);
    stand(&l, 39, 1000, 900); /* late, whatever happens: nobody waits for them */
    CHECK_INT(verdict(&l, 0, 1000, 3000), SCHED_TAKE);
    stand(&l, 1, 1000, 900);
    CHECK_INT(verdict(&l, 0, 1000, 3000), SCHED_FULL);
    sched_finish(&l.s);
}

static void test_who_sent_somebody_away_takes_nobody_who_will_be_late_for_a_while(void) {
    struct line l;
    open_line(&l, 40);
    stand(&l, 40, 1000, 1e6);
    CHECK_INT(verdict(&l, 0, 1000, 3000), SCHED_FULL);
    l.n = 5;
    CHECK_INT(verdict(&l, 9000, 4000, 9000 + 4500), SCHED_TAKE);
    CHECK_INT(verdict(&l, 9000, 6000, 2e6), SCHED_TAKE); /* due after all of them, and in time */
    CHECK_INT(verdict(&l, 9000, 6000, 14000), SCHED_CROWDED); /* counts again */
    CHECK_INT(verdict(&l, 18900, 6000, 20000), SCHED_CROWDED);
    CHECK_INT(verdict(&l, 28950, 6000, 30000), SCHED_TAKE);
    sched_finish(&l.s);
}

static void test_an_own_deadline_that_cannot_be_met_is_refused_at_once(void) {
    struct line l;
    open_line(&l, 40);
    struct sched_answer a = ask(&l, 0, lasting(1000, 950), 999);
    CHECK_INT(a.verdict, SCHED_LATE);
    CHECK_NEAR(a.finish_ms, 1000, 1);
    CHECK_INT(ask(&l, 0, lasting(1000, 950), 1001).verdict, SCHED_TAKE);
    stand(&l, 3, 1000, 2000);
    a = ask(&l, 0, lasting(1000, 2850), 3000);
    CHECK_INT(a.verdict, SCHED_LATE); /* three are in front of it */
    CHECK_INT(a.retry_after_s, 1);
    CHECK_INT(ask(&l, 0, lasting(1000, 1900), 2000).verdict, SCHED_TAKE); /* in front of them */
    CHECK_INT(verdict(&l, 0, 9000, 100), SCHED_TAKE); /* nobody was sent away for want of room */
    sched_costs_init(l.s.devices->costs);             /* what is only guessed refuses nobody */
    CHECK_INT(ask(&l, 0, lasting(1000, 950), 2).verdict, SCHED_TAKE);
    sched_finish(&l.s);
}

static void test_what_will_still_come_and_is_due_before_counts(void) {
    struct line l;
    open_line(&l, 4);
    stand(&l, 4, 100, 1e6);
    for (int i = 0; i < 200; i++) /* half of the device's time */
        CHECK_INT(verdict(&l, i * 200, 100, i * 200 + 300), SCHED_FULL);
    const double now = 199 * 200;
    l.n = 1;
    CHECK_INT(verdict(&l, now, 100, now + 300), SCHED_TAKE); /* its like do not count against it */
    CHECK_INT(verdict(&l, now, 1000, now + 1500), SCHED_CROWDED);
    CHECK_INT(verdict(&l, now, 1000, now + 3000), SCHED_TAKE);
    l.q[0].deadline_ms = now; /* late: there is nothing to do that could be in time */
    CHECK_INT(verdict(&l, now, 1000, now + 1500), SCHED_TAKE);
    sched_finish(&l.s);
}

static void test_what_others_ask_does_not_keep_out_a_new_key(void) {
    struct line l;
    open_line(&l, 40);
    l.s.fair.quantum_ms = 1000;
    stand(&l, 35, 1000, 1500); /* of key 0, which has used up its share */
    sched_order(&l.s, l.q, l.n, 0);
    sched_fair_charge(&l.s.fair, 0, 400);
    for (int i = 0; i < 100; i++) verdict(&l, 0, 500, 1400);
    struct sched_seq q = lasting(1000, 1200);
    CHECK_INT(ask(&l, 0, q, HUGE_VAL).verdict, SCHED_CROWDED);
    q.key = 7;
    sched_fair_charge(&l.s.fair, 0, 200);
    l.s.fair.flows[0].credit_ms = -100;
    struct sched_newcomer c = {
        .seq = q, .images = 1, .due_ms = HUGE_VAL, .queued = l.n, .random = MIDDLE};
    for (int i = 0; i < l.n; i++) l.q[i].credit = false;
    CHECK_INT(sched_admit(&l.s, &c, l.q, l.n).verdict, SCHED_TAKE);
    sched_finish(&l.s);
}

static void test_several_devices_take_more(void) {
    struct line l;
    struct sched_limits limits;
    open_line(&l, 40);
    limits = l.s.limits;
    sched_finish(&l.s);
    if (!sched_init(&l.s, SCHED_EDF, &limits, 2)) abort();
    teach(l.s.devices[0].costs, 1);
    teach(l.s.devices[1].costs, 1);
    stand(&l, 30, 1000, 1e6);
    for (int i = 0; i < 3; i++) l.q[i].deadline_ms = 1500;
    CHECK_INT(verdict(&l, 0, 1000, 3000), SCHED_TAKE); /* 2500 with two, 4000 with one */
    l.s.devices[1].serves = 0;
    CHECK_INT(verdict(&l, 0, 1000, 3000), SCHED_CROWDED);
    sched_finish(&l.s);
}

/* Whatever stands there and whoever comes: limits hold, answers make sense, the line stays. */
static void test_no_answer_breaks_a_limit_or_touches_the_line(void) {
    int taken = 0, late_taken = 0;
    for (int round = 0; round < 20000; round++) {
        struct sched_seq q[N_MAX], before[N_MAX];
        struct sched s = random_sched((enum sched_policy)random_below(3));
        int n = random_below(N_MAX);
        s.limits.queue = random_below(100);
        s.limits.backlog_ms = random_below(2) ? random_below(1000000) : 0;
        s.demand.refused = random_below(2);
        for (int i = 0; i < n; i++) q[i] = random_seq(i);
        sched_order(&s, q, n, 0);
        memcpy(before, q, sizeof q);
        struct sched_newcomer c = {.seq = random_seq(n),
                                   .images = 1 + random_below(4),
                                   .due_ms = random_below(2) ? HUGE_VAL : random_below(100000),
                                   .queued = random_below(100) - 1,
                                   .random = (uint32_t)random_below(INT32_MAX) * 2};
        c.seq.arrival_ms = 0;
        c.seq.stage = SCHED_WAITING;
        c.seq.device = -1;
        const struct sched_answer a = sched_admit(&s, &c, q, n);
        bool no_place = c.queued >= s.limits.queue;
        CHECK(memcmp(before, q, (size_t)n * sizeof *q) == 0);
        CHECK(a.finish_ms > 0);
        if (a.verdict == SCHED_TAKE) {
            CHECK(!no_place && a.finish_ms <= c.due_ms);
            taken++;
            late_taken += a.finish_ms > c.seq.deadline_ms;
        } else {
            CHECK(a.retry_after_s >= 1 && a.retry_after_s <= 60);
        }
        if (a.verdict == SCHED_LATE) CHECK(a.finish_ms > c.due_ms);
        if (a.verdict == SCHED_CROWDED) CHECK(!no_place && s.policy == SCHED_EDF);
        sched_finish(&s);
    }
    CHECK(taken > 1000 && late_taken > 100); /* the test is about something */
}

int main(void) {
    TEST(test_a_full_queue_says_when_to_come_back);
    TEST(test_so_does_a_backlog_but_an_idle_service_takes_anything);
    TEST(test_while_there_is_room_anybody_may_wait);
    TEST(test_the_last_quarter_is_for_those_who_will_be_in_time);
    TEST(test_who_sent_somebody_away_takes_nobody_who_will_be_late_for_a_while);
    TEST(test_an_own_deadline_that_cannot_be_met_is_refused_at_once);
    TEST(test_what_will_still_come_and_is_due_before_counts);
    TEST(test_what_others_ask_does_not_keep_out_a_new_key);
    TEST(test_several_devices_take_more);
    TEST(test_no_answer_breaks_a_limit_or_touches_the_line);
    return TEST_END();
}
