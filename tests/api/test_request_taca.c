/* test_request_taca.c - the "taca" field: its shorthands, its windows, its refusals. */
#include "tests/api/common.h"

static struct taca_window window_of(const char *taca) {
    struct api_request r;
    struct api_error e;
    char members[256];
    snprintf(members, sizeof members, "\"taca\":%s", taca);
    if (!CHECK(parse_with(&r, &e, members) == 0)) printf("    %s: %s\n", taca, e.message);
    struct taca_window w = r.params.taca;
    api_request_finish(&r);
    return w;
}

static void refused(const char *taca, const char *param) {
    char members[256];
    snprintf(members, sizeof members, "\"taca\":%s", taca);
    check_refused(members, 400, "invalid_taca", param);
}

static void test_true_is_the_released_setting(void) {
    struct taca_window w = window_of("true");
    CHECK_INT(w.rule, TACA_WINDOW_FRACTION);
    CHECK(w.gamma == 1.2 && w.fraction == 0.1);
    struct taca_window o = window_of("{}");
    CHECK(memcmp(&o.rule, &w.rule, sizeof w.rule) == 0 && o.gamma == 1.2 && o.fraction == 0.1);
}

static void test_off_has_four_spellings_and_one_meaning(void) {
    static const char *const all[] = {"false", "null", "{\"enabled\":false}",
                                      "{\"scale\":3,\"steps\":5,\"enabled\":false}"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct taca_window w = window_of(all[i]);
        CHECK_INT(w.rule, TACA_WINDOW_OFF);
        CHECK(w.gamma == 1.2 && w.end_step == 3);
    }
    CHECK_INT(window_of("{\"enabled\":true}").rule, TACA_WINDOW_FRACTION);
}

static void test_every_window_can_be_said(void) {
    struct taca_window w = window_of("{\"scale\":1.5,\"fraction\":0.25}");
    CHECK(w.rule == TACA_WINDOW_FRACTION && w.gamma == 1.5 && w.fraction == 0.25);
    w = window_of("{\"steps\":3}");
    CHECK(w.rule == TACA_WINDOW_STEPS && w.first_step == 0 && w.end_step == 3 && w.gamma == 1.2);
    w = window_of("{\"steps\":[2,7]}");
    CHECK(w.rule == TACA_WINDOW_STEPS && w.first_step == 2 && w.end_step == 7);
    w = window_of("{\"threshold\":970}");
    CHECK(w.rule == TACA_WINDOW_SIGMA && w.sigma_min == 0.97 && w.sigma_max == 1.0);
    w = window_of("{\"timestep_low\":970}");
    CHECK(w.rule == TACA_WINDOW_SIGMA && w.sigma_min == 0.97 && w.sigma_max == 1.0);
    w = window_of("{\"timestep_high\":500}");
    CHECK(w.rule == TACA_WINDOW_SIGMA && w.sigma_min == 0.0 && w.sigma_max == 0.5);
    w = window_of("{\"timestep_high\":900,\"timestep_low\":800.5}");
    CHECK(w.sigma_min == 0.8005 && w.sigma_max == 0.9);
    w = window_of("{\"threshold\":970,\"fraction\":null,\"steps\":null}");
    CHECK_INT(w.rule, TACA_WINDOW_SIGMA);
}

static void test_ends_of_ranges(void) {
    static const char *const fine[] = {"{\"scale\":0}",
                                       "{\"scale\":10}",
                                       "{\"fraction\":0}",
                                       "{\"fraction\":1}",
                                       "{\"steps\":0}",
                                       "{\"steps\":200}",
                                       "{\"steps\":[5,5]}",
                                       "{\"steps\":[0,200]}",
                                       "{\"threshold\":0}",
                                       "{\"threshold\":1000}",
                                       "{\"timestep_low\":500,\"timestep_high\":500}"};
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) window_of(fine[i]);
    refused("{\"scale\":-0.1}", "taca.scale");
    refused("{\"scale\":10.1}", "taca.scale");
    refused("{\"scale\":\"1\"}", "taca.scale");
    refused("{\"fraction\":-0.1}", "taca.fraction");
    refused("{\"fraction\":1.1}", "taca.fraction");
    refused("{\"fraction\":true}", "taca.fraction");
    refused("{\"steps\":-1}", "taca.steps");
    refused("{\"steps\":201}", "taca.steps");
    refused("{\"steps\":1.5}", "taca.steps");
    refused("{\"steps\":[3]}", "taca.steps");
    refused("{\"steps\":[]}", "taca.steps");
    refused("{\"steps\":[1,2,3]}", "taca.steps");
    refused("{\"steps\":[5,4]}", "taca.steps");
    refused("{\"steps\":[\"1\",2]}", "taca.steps");
    refused("{\"steps\":\"3\"}", "taca.steps");
    refused("{\"threshold\":-1}", "taca.threshold");
    refused("{\"threshold\":1000.5}", "taca.threshold");
    refused("{\"timestep_low\":1001}", "taca.timestep_low");
    refused("{\"timestep_high\":-1}", "taca.timestep_high");
    refused("{\"timestep_low\":900,\"timestep_high\":800}", "taca.timestep_low");
    refused("{\"enabled\":1}", "taca.enabled");
    refused("1", "taca");
    refused("\"true\"", "taca");
    refused("[]", "taca");
}

static void test_one_window_at_most(void) {
    refused("{\"fraction\":0.1,\"steps\":3}", "taca");
    refused("{\"fraction\":0.1,\"threshold\":970}", "taca");
    refused("{\"steps\":3,\"timestep_low\":970}", "taca");
    refused("{\"threshold\":970,\"timestep_low\":970}", "taca");
    refused("{\"threshold\":970,\"timestep_high\":990}", "taca");
}

static void test_unknown_members_are_named(void) {
    check_refused("\"taca\":{\"gamma\":1.2}", 400, "unknown_parameter", "taca.gamma");
    check_refused("\"taca\":{\"\":1.2}", 400, "unknown_parameter", "taca.");
}

static void test_windows_survive_the_normalised_request(void) {
    static const char *const fixed[] = {"true",
                                        "false",
                                        "{\"scale\":1.1,\"steps\":[1,4]}",
                                        "{\"scale\":3,\"fraction\":0.3333333333333333}",
                                        "{\"threshold\":970}",
                                        "{\"timestep_low\":12.5,\"timestep_high\":987.654321}"};
    struct api_request r, again;
    struct api_error e;
    char members[256];
    for (int i = 0; i < 1200; i++) {
        int n_fixed = (int)(sizeof fixed / sizeof *fixed);
        if (i < n_fixed)
            snprintf(members, sizeof members, "\"taca\":%s", fixed[i]);
        else /* every tenth of a timestep, and thirds that have no short decimal */
            snprintf(members, sizeof members, "\"taca\":{\"threshold\":%.17g}",
                     i % 2 ? i / 1.2 : (double)i / 3);
        CHECK_INT(parse_with(&r, &e, members), 0);
        CHECK_INT(parse(&again, &e, r.json), 0);
        check_same_params(&r.params, &again.params);
        api_request_finish(&r);
        api_request_finish(&again);
    }
}

int main(void) {
    TEST(test_true_is_the_released_setting);
    TEST(test_off_has_four_spellings_and_one_meaning);
    TEST(test_every_window_can_be_said);
    TEST(test_ends_of_ranges);
    TEST(test_one_window_at_most);
    TEST(test_unknown_members_are_named);
    TEST(test_windows_survive_the_normalised_request);
    return TEST_END();
}
