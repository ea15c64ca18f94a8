/* test_config_file.c - options from a file: what is taken, what is stronger, what a mistake is
 * told. */
#include "cli/config.h"
#include "tests/test.h"

#include <unistd.h>

struct values {
    const char *host;
    int port, level, small;
    double wait_s;
    bool ui;
    struct flag_list lora;
};

enum { N_FLAGS = 8 };
struct fixture {
    struct values v;
    struct flag flags[N_FLAGS];
    struct flag_source sources[N_FLAGS];
    struct flag_set set;
    struct config *config;
    struct taca_err err;
    char path[64];
};

static void open_fixture(struct fixture *f) {
    *f = (struct fixture){.v = {.host = "localhost", .port = 8080, .wait_s = 5, .ui = true}};
    const struct flag flags[N_FLAGS] = {
        {"host", 0, FLAG_STRING, &f->v.host, .env = "TACA_T_HOST"},
        {"port", 'p', FLAG_INT, &f->v.port, 0, 65535, .env = "TACA_T_PORT"},
        {"wait", 0, FLAG_NUMBER, &f->v.wait_s, 0.5, 60, .env = NULL},
        {"ui", 0, FLAG_SWITCH, &f->v.ui, .env = NULL},
        {"log-level", 0, FLAG_CHOICE, &f->v.level, .choices = "debug|info|warn"},
        {"lora", 0, FLAG_LIST, &f->v.lora, .env = "TACA_T_LORAS"},
        {"small", 0, FLAG_INT, &f->v.small, 1, 3, .env = NULL},
        {"config", 0, FLAG_STRING, NULL, .not_in_file = true},
    };
    memcpy(f->flags, flags, sizeof flags);
    f->set = (struct flag_set){.flags = f->flags, .n_flags = N_FLAGS, .sources = f->sources};
    snprintf(f->path, sizeof f->path, "/tmp/taca-config-%d.json", (int)getpid());
}

static void close_fixture(struct fixture *f) {
    config_close(f->config);
    unlink(f->path);
}

/* The command line first, as the program does it. */
static enum taca_code read_file(struct fixture *f, const char *text, char **argv, int argc) {
    char *nothing[] = {(char[]){"serve"}, NULL};
    FILE *file = fopen(f->path, "w");
    fputs(text, file);
    fclose(file);
    enum taca_code rc = flags_read(&f->set, argc ? argc : 1, argc ? argv : nothing, &f->err);
    return rc ? rc : config_read(&f->config, &f->set, f->path, &f->err);
}

static void test_every_type_is_taken_and_its_line_is_known(void) {
    struct fixture f;
    open_fixture(&f);
    CHECK_OK(
        read_file(&f,
                  "{\"host\": \"::\\u0031\",\n \"port\": 9,\n\n \"wait\": 1.5, \"ui\": false,\n"
                  " \"lora\": [\"a=\\\"{1}\\\"\",\n  \"b=2\"],\n \"log-level\": \"warn\"}\n",
                  NULL, 0),
        f.err);
    CHECK_STR(f.v.host, "::1");
    CHECK_INT(f.v.port, 9);
    CHECK_NEAR(f.v.wait_s, 1.5, 0);
    CHECK(!f.v.ui);
    CHECK_INT(f.v.level, 2);
    CHECK_INT(f.v.lora.n, 2);
    CHECK_STR(f.v.lora.item[0], "a=\"{1}\"");
    static const int lines[] = {1, 2, 4, 4, 7, 5, 0};
    for (int i = 0; i < 7; i++) {
        CHECK_INT(f.sources[i].line, lines[i]);
        CHECK_INT(f.sources[i].from, lines[i] ? FLAG_FILE : FLAG_DEFAULT);
    }
    close_fixture(&f);
}

static void test_command_line_and_environment_are_stronger(void) {
    struct fixture f;
    char *argv[] = {(char[]){"serve"}, (char[]){"--no-ui"}, (char[]){"-p"}, (char[]){"7"}};
    setenv("TACA_T_HOST", "10.0.0.1", 1);
    setenv("TACA_T_LORAS", "c=3", 1);
    setenv("TACA_T_PORT", "5", 1);
    open_fixture(&f);
    CHECK_OK(read_file(&f,
                       "{\"host\":\"::1\",\"lora\":[\"a=1\"],\"port\":1,\"ui\":true,\"wait\":2}",
                       argv, 4),
             f.err);
    CHECK_STR(f.v.host, "10.0.0.1");
    CHECK_INT(f.v.lora.n, 1);
    CHECK_STR(f.v.lora.item[0], "c=3");
    CHECK_INT(f.v.port, 7);
    CHECK(!f.v.ui);
    CHECK_NEAR(f.v.wait_s, 2, 0);
    static const enum flag_origin from[] = {FLAG_ENV, FLAG_ARG, FLAG_FILE, FLAG_ARG};
    for (int i = 0; i < 4; i++) CHECK_INT(f.sources[i].from, from[i]);
    unsetenv("TACA_T_HOST");
    unsetenv("TACA_T_LORAS");
    unsetenv("TACA_T_PORT");
    close_fixture(&f);
}

static void test_a_mistake_names_line_option_and_what_is_accepted(void) {
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"{\"prot\": 1}", "line 1: unknown option \"prot\", did you mean \"port\"?"},
        {"{\n\n\"zzzzzz\": 1}", "line 3: unknown option \"zzzzzz\""},
        {"{\"port\": 65536}", "line 1: port must be a whole number in 0..65535, got '65536'"},
        {"{\"port\": 1.5}", "whole number in 0..65535, got '1.5'"},
        {"{\"port\": 1e300}", "whole number in 0..65535"},
        {"{\"port\": \"80\"}", "port must be a number, got a string"},
        {"{\"port\": null}", "port must be a number, got null"},
        {"{\"small\": 4}", "small must be a whole number in 1..3"},
        {"{\"wait\": 0.4}", "wait must be a number in 0.5..60, got '0.4"},
        {"{\"ui\": \"no\"}", "ui must be true or false, got a string"},
        {"{\"log-level\": \"loud\"}", "log-level must be one of debug|info|warn, got 'loud'"},
        {"{\"log-level\": 1}", "log-level must be a string, got a number"},
        {"{\"lora\": 1}", "lora must be an array of strings, or one string, got a number"},
        {"{\"lora\": [\"a=1\", 2]}", "item 2 is a number"},
        {"{\"host\": {\"a\": 1}}", "host must be a string, got an object"},
        {"{\"config\": \"x\"}", "\"config\" belongs on the command line"},
        {"{\"port\": 1,\n\"port\": 2}", "line 2: duplicate"},
        {"{\"port\": 1,\n\"ui\" true}", "line 2:"},
        {"[1]", "not a JSON object"},
        {"", "line 1:"},
        {"{\"host\": [[[[1]]]]}", "too deep"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        open_fixture(&f);
        CHECK_INT(read_file(&f, cases[i].text, NULL, 0), TACA_EINVAL);
        CHECK_HAS(f.err.text, cases[i].says);
        CHECK_HAS(f.err.text, f.path);
        CHECK(!f.config);
        close_fixture(&f);
    }
}

static void test_what_is_overridden_must_be_right_all_the_same(void) {
    struct fixture f;
    char *argv[] = {(char[]){"serve"}, (char[]){"--port=7"}, (char[]){"--lora=a=1"}};
    open_fixture(&f);
    CHECK_INT(read_file(&f, "{\"port\": 70000}", argv, 3), TACA_EINVAL);
    CHECK_HAS(f.err.text, "port must be");
    CHECK_INT(f.v.port, 7);
    close_fixture(&f);
    open_fixture(&f);
    CHECK_INT(read_file(&f, "{\"lora\": [1]}", argv, 3), TACA_EINVAL);
    CHECK_INT(f.v.lora.n, 1);
    close_fixture(&f);
}

static void test_a_file_that_is_not_there_is_named(void) {
    struct fixture f;
    char *argv[] = {(char[]){"serve"}};
    open_fixture(&f);
    CHECK_OK(flags_read(&f.set, 1, argv, &f.err), f.err);
    CHECK_INT(config_read(&f.config, &f.set, "/nowhere/taca.json", &f.err), TACA_EIO);
    CHECK_HAS(f.err.text, "/nowhere/taca.json: No such file");
    close_fixture(&f);
}

int main(void) {
    TEST(test_every_type_is_taken_and_its_line_is_known);
    TEST(test_command_line_and_environment_are_stronger);
    TEST(test_a_mistake_names_line_option_and_what_is_accepted);
    TEST(test_what_is_overridden_must_be_right_all_the_same);
    TEST(test_a_file_that_is_not_there_is_named);
    return TEST_END();
}
