/* test_quota.c - what a key may ask for in a minute, with invented time. */
#include "server/quota.h"
#include "tests/test.h"

static double wait_for(struct quota *q, const char *name, struct quota_rates r, double now_ms) {
    bool by_steps;
    return quota_wait_ms(q, name, &r, now_ms, &by_steps);
}

static bool ask(struct quota *q, const char *name, struct quota_rates r, double now_ms,
                double steps) {
    if (wait_for(q, name, r, now_ms) > 0) return false;
    quota_charge(q, name, &r, now_ms, steps);
    return true;
}

static void test_a_minutes_worth_at_once_and_then_evenly(void) {
    struct quota *q = quota_open();
    const struct quota_rates r = {.requests = 6};
    for (int i = 0; i < 6; i++) CHECK(ask(q, "ann", r, 1000, 1e9));
    CHECK_NEAR(wait_for(q, "ann", r, 1000), 10000, 1e-6);
    CHECK_NEAR(wait_for(q, "ann", r, 5000), 6000, 1e-6);
    CHECK(!ask(q, "ann", r, 10999, 1));
    CHECK(ask(q, "ann", r, 11000.001, 1));
    CHECK(!ask(q, "ann", r, 11001, 1));
    int taken = 0;
    for (double t = 11001; t <= 11001 + 60 * 60000.0; t += 100) taken += ask(q, "ann", r, t, 1);
    CHECK_INT(taken, 6 * 60);
    quota_close(q);
}

static void test_large_requests_leave_a_debt_that_is_waited_for(void) {
    struct quota *q = quota_open();
    const struct quota_rates r = {.pixel_steps = 600};
    bool by_steps;
    CHECK(ask(q, "ann", r, 0, 1500));
    CHECK_NEAR(quota_wait_ms(q, "ann", &r, 0, &by_steps), 90100, 1e-6); /* until one is there */
    CHECK(by_steps);
    CHECK(!ask(q, "ann", r, 90000, 1));
    CHECK(ask(q, "ann", r, 90101, 1));
    quota_close(q);
}

static void test_names_are_apart_and_quiet_ones_do_not_save_up(void) {
    struct quota *q = quota_open();
    const struct quota_rates r = {.requests = 2, .pixel_steps = 100};
    CHECK(ask(q, "ann", r, 0, 10) && ask(q, "ann", r, 0, 10) && !ask(q, "ann", r, 0, 10));
    CHECK(ask(q, "bob", r, 0, 10) && ask(q, "bob", r, 0, 10) && !ask(q, "bob", r, 0, 10));
    for (int i = 0; i < 2; i++) CHECK(ask(q, "ann", r, 1e9, 10));
    CHECK(!ask(q, "ann", r, 1e9, 10));
    quota_close(q);
}

static void test_rates_may_change_and_a_clock_that_steps_back_gives_nothing(void) {
    struct quota *q = quota_open();
    struct quota_rates r = {.requests = 100};
    CHECK(ask(q, "ann", r, 1000, 1));
    r.requests = 1; /* what is above the new rate is gone */
    CHECK(ask(q, "ann", r, 1000, 1));
    CHECK(!ask(q, "ann", r, 1000, 1));
    CHECK(!ask(q, "ann", r, 0, 1));
    CHECK_NEAR(wait_for(q, "ann", r, 0), 60000, 1e-6);
    r = (struct quota_rates){0};
    CHECK(ask(q, "ann", r, 0, 1e30));
    quota_close(q);
}

static void test_more_names_than_there_is_room_for_push_the_oldest_out(void) {
    struct quota *q = quota_open();
    const struct quota_rates r = {.requests = 1};
    char name[16];
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "k%d", i);
        CHECK(ask(q, name, r, i, 1));
    }
    CHECK(!ask(q, "k2999", r, 3000, 1));
    CHECK(!ask(q, "k2500", r, 3000, 1));
    quota_close(q);
}

int main(void) {
    TEST(test_a_minutes_worth_at_once_and_then_evenly);
    TEST(test_large_requests_leave_a_debt_that_is_waited_for);
    TEST(test_names_are_apart_and_quiet_ones_do_not_save_up);
    TEST(test_rates_may_change_and_a_clock_that_steps_back_gives_nothing);
    TEST(test_more_names_than_there_is_room_for_push_the_oldest_out);
    return TEST_END();
}
