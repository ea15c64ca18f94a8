/* fuzz_options.c - any bytes as a file of options: taken within the ranges, or a mistake with
 * words. */
#include "cli/config.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

enum { N_FLAGS = 7 };
struct values {
    const char *host;
    int port, level;
    double wait_s;
    bool ui;
    struct flag_list lora;
};

static void check_values(const struct values *v) {
    demand(v->port >= 0 && v->port <= 65535, "a port in range", "");
    demand(v->level >= 0 && v->level <= 2, "a choice that there is", "");
    demand(v->wait_s >= 0.5 && v->wait_s <= 60, "a number in range", "");
    demand(v->lora.n >= 0 && v->lora.n <= FLAG_LIST_MAX, "as many as fit", "");
    demand(strlen(v->host) < 1000000, "a text", "");
    for (int i = 0; i < v->lora.n; i++) demand(strlen(v->lora.item[i]) < 1000000, "an item", "");
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct values v = {.host = "localhost", .port = 8080, .wait_s = 5};
    const struct flag flags[N_FLAGS] = {
        {"host", 0, FLAG_STRING, &v.host, .env = NULL},
        {"port", 'p', FLAG_INT, &v.port, 0, 65535, .env = NULL},
        {"wait", 0, FLAG_NUMBER, &v.wait_s, 0.5, 60, .env = NULL},
        {"ui", 0, FLAG_SWITCH, &v.ui, .env = NULL},
        {"log-level", 0, FLAG_CHOICE, &v.level, .choices = "debug|info|warn"},
        {"lora", 0, FLAG_LIST, &v.lora, .env = NULL},
        {"config", 0, FLAG_STRING, NULL, .not_in_file = true},
    };
    struct flag_source sources[N_FLAGS] = {{FLAG_DEFAULT, 0}};
    struct flag_set set = {.flags = flags, .n_flags = N_FLAGS, .sources = sources};
    struct config *config = NULL;
    struct taca_err err = {0};
    int lines = 1;
    for (size_t i = 0; i < size; i++) lines += data[i] == '\n';
    sources[1].from = size % 2 ? FLAG_ARG : FLAG_DEFAULT; /* what is stronger is looked at too */
    enum taca_code rc = config_parse(&config, &set, "f", (const char *)data, size, &err);
    demand(rc == TACA_OK ? config != NULL : err.text[0] != 0, "a verdict with words", "");
    if (rc == TACA_OK) check_values(&v);
    for (int i = 0; rc == TACA_OK && i < N_FLAGS; i++)
        demand(sources[i].line >= 0 && sources[i].line <= lines, "a line of the file", "");
    config_close(config);
    return 0;
}
