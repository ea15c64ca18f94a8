/* healthcheck.c - asks a running service whether it is well: exit 0 or 1, for containers that have
 * no curl. By default the service that an environment like ours would have started. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/flags.h"

enum { TIMEOUT_MS = 3000, DEFAULT_PORT = 8080 };

/* Where one listens is not always where one can be asked: a list, "any address". */
static void set_host(struct client_url *t, const char *host) {
    size_t len = strcspn(host, ",");
    if (len > 1 && host[0] == '[' && host[len - 1] == ']') host++, len -= 2;
    snprintf(t->host, sizeof t->host, "%.*s", (int)len, host);
    if (strcmp(t->host, "0.0.0.0") == 0 || strcmp(t->host, "") == 0)
        snprintf(t->host, sizeof t->host, "127.0.0.1");
    if (strcmp(t->host, "::") == 0) snprintf(t->host, sizeof t->host, "::1");
}

/* 0 when it answers 200, else what is wrong on stderr. */
static int ask(const struct client_url *t) {
    struct taca_err err = {0};
    struct taca_buf body;
    int status = 0;
    struct client_request r = {.host = t->host,
                               .port = t->port,
                               .method = "GET",
                               .path = t->path,
                               .timeout_ms = TIMEOUT_MS};
    taca_buf_init(&body, 64 * 1024);
    enum taca_code rc = client_send(&r, &status, &body, &err);
    if (rc != TACA_OK)
        cli_fail("healthcheck", &err);
    else if (status != 200)
        fprintf(stderr, "taca healthcheck: %s answered %d\n", t->path, status);
    taca_buf_finish(&body);
    return rc == TACA_OK && status == 200 ? EXIT_OK : EXIT_FAILED;
}

int cli_healthcheck(int argc, char **argv) {
    const char *url = NULL, *host = "";
    bool ready = false;
    int port = DEFAULT_PORT;
    struct taca_err err = {0};
    const struct flag flags[] = {
        {"url", 0, FLAG_STRING, &url, .arg = "URL", .help = "ask exactly this address"},
        {"host", 0, FLAG_STRING, &host, .env = "TACA_HOST", .arg = "HOST",
         .help = "where it runs (127.0.0.1)"},
        {"port", 'p', FLAG_INT, &port, 1, 65535, .env = "TACA_PORT", .arg = "N",
         .help = "its port"},
        {"ready", 0, FLAG_SWITCH, &ready,
         .help = "ask whether it takes requests, not only whether it lives"},
    };
    struct flag_set set = {
        .usage = "healthcheck [options]",
        .about = "Exit 0 when a running service answers that it is well, else 1; at most 3 s.",
        .flags = flags,
        .n_flags = FLAGS_COUNT(flags)};
    enum flags_result parsed = flags_parse(&set, argc, argv);
    if (parsed != FLAGS_OK) return parsed == FLAGS_HELP ? EXIT_OK : EXIT_USAGE;
    struct client_url asked = {.port = port};
    if (url && client_url_parse(&asked, url, "url", &err)) return cli_fail("healthcheck", &err);
    struct client_url t = {.port = asked.port};
    set_host(&t, url ? asked.host : host);
    snprintf(t.path, sizeof t.path, "%s",
             asked.path[0] ? asked.path
             : ready       ? "/readyz"
                           : "/livez");
    return ask(&t);
}
