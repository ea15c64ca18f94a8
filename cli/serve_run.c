/* serve_run.c - `taca serve` and the `taca worker` behind it: reads the options, checks what only
 * makes sense together, and reads them again when the running service asks for it (SIGHUP). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/cli.h"
#include "cli/config.h"
#include "cli/serve_options.h"

/* One reading of everything that options come from. */
struct reading {
    struct serve_options options;
    struct serve_table table;
    struct flag_source sources[SERVE_MAX_FLAGS];
    struct config *file; /* the options point into it */
    const char *demo;    /* the model when none is named */
};

/* The service's settings over time; `argv` and the environment never change. */
struct settings {
    int argc;
    char **argv;
    char *api_key;           /* TACA_API_KEY, which is not for workers */
    struct reading *first;   /* what was started with, and some of it is for good */
    struct reading *current; /* in force */
    struct reading *next;    /* read, not in force yet */
};

/* ---- reading --------------------------------------------------------------------------------- */

static void close_reading(struct reading *r) {
    if (!r) return;
    config_close(r->file);
    free(r);
}

static struct flag_set set_of(struct reading *r) {
    return (struct flag_set){
        .usage = "serve [options]",
        .about = "Serves images over HTTP until SIGTERM: POST /v1/generate, /health, /metrics.",
        .flags = r->table.flags,
        .n_flags = r->table.n,
        .sources = r->sources};
}

static struct reading *open_reading(struct taca_err *err) {
    struct reading *r = calloc(1, sizeof *r);
    if (!r)
        taca_fail(err, TACA_ENOMEM, "reading the options");
    else
        serve_options_init(&r->options, &r->table);
    return r;
}

/* Every item of the list stays on this machine. */
static bool host_is_local(const char *list) {
    for (const char *at = list; *at;) {
        size_t len = strcspn(at, ",");
        bool local = strncmp(at, "127.", 4) == 0 ||
                     (len == 9 && strncmp(at, "localhost", 9) == 0) ||
                     (len == 3 && strncmp(at, "::1", 3) == 0) ||
                     (len == 5 && strncmp(at, "[::1]", 5) == 0) || strncmp(at, "unix:", 5) == 0;
        if (!local) return false;
        at += len + (at[len] == ',');
    }
    return *list != 0;
}

/* Out of the environment that workers inherit, which is read again on SIGHUP. */
static void keep_key(struct settings *s) {
    const char *key = getenv("TACA_API_KEY");
    if (key && key[0]) s->api_key = strdup(key);
    unsetenv("TACA_API_KEY");
}

static void use_key(const struct settings *s, struct reading *r) {
    for (int i = 0; s->api_key && i < r->table.n; i++) {
        if (r->table.flags[i].out != &r->options.serve.front.api_key) continue;
        if (r->sources[i].from != FLAG_DEFAULT) return;
        r->options.serve.front.api_key = s->api_key;
        r->sources[i].from = FLAG_ENV;
    }
}

/* Behind flags_read: the file, and what must fit together. */
static enum taca_code finish_reading(const struct settings *s, struct reading *r,
                                     struct flag_set *set, struct taca_err *err) {
    struct serve_options *o = &r->options;
    use_key(s, r);
    enum taca_code rc = TACA_OK;
    if (o->config_file && o->config_file[0]) rc = config_read(&r->file, set, o->config_file, err);
    if (rc == TACA_OK) rc = serve_options_apply(o, err);
    if (rc != TACA_OK) return rc;
    if (o->serve.models.n == 0 && !o->serve.engine.transformer && (r->demo = cli_demo_model()))
        o->serve.models = (struct serve_list){&r->demo, 1};
    if (o->serve.models.n == 0 && !o->serve.engine.transformer)
        return taca_fail_param(err, "model",
                               "no model: give --model PATH (the demo model was not found)");
    if (!host_is_local(o->serve.front.host) && !o->serve.insecure &&
        !front_wants_keys(&o->serve.front))
        return taca_fail_param(err, "host",
                               "nobody has to log in to this service; to let other machines in all "
                               "the same, add --api-key-file or --insecure to --host %s",
                               o->serve.front.host);
    /* the very file that runs here, even when an upgrade has replaced it on the disk meanwhile */
    o->serve.self = "/proc/self/exe";
    return TACA_OK;
}

/* ---- reading again --------------------------------------------------------------------------- */

static enum taca_code read_again(void *ctx, const struct serve_opts **out, struct taca_err *err) {
    struct settings *s = ctx;
    close_reading(s->next);
    s->next = open_reading(err);
    if (!s->next) return TACA_ENOMEM;
    struct flag_set set = set_of(s->next);
    enum taca_code rc = flags_read(&set, s->argc, s->argv, err);
    if (rc == TACA_OK) rc = finish_reading(s, s->next, &set, err);
    if (rc == TACA_OK) *out = &s->next->options.serve;
    return rc;
}

static bool differs(const struct flag *a, const struct flag *b) {
    struct taca_buf one, other;
    taca_buf_init(&one, 1 << 20);
    taca_buf_init(&other, 1 << 20);
    flags_text(a, &one);
    flags_text(b, &other);
    bool same = one.len == other.len && one.data && other.data &&
                memcmp(one.data, other.data, one.len) == 0;
    taca_buf_finish(&one);
    taca_buf_finish(&other);
    return !same;
}

/* "max-queue, log-level" */
static void put_changed(struct taca_buf *out, const struct reading *now, const struct reading *then,
                        bool live) {
    for (int i = 0; i < now->table.n; i++) {
        const struct flag *f = &now->table.flags[i];
        if (f->not_in_file || f->live != live || !differs(f, &then->table.flags[i])) continue;
        taca_buf_printf(out, "%s%s", out->len ? ", " : "", f->name);
    }
}

static void tell_changes(const struct settings *s) {
    struct taca_buf now, later;
    taca_buf_init(&now, 4096);
    taca_buf_init(&later, 4096);
    put_changed(&now, s->next, s->current, true);
    put_changed(&later, s->next, s->first, false);
    taca_log(TACA_LOG_INFO, "reloaded; changed: %s", now.data ? now.data : "nothing");
    if (later.data) taca_log(TACA_LOG_WARN, "reloaded; these wait for a restart: %s", later.data);
    taca_buf_finish(&now);
    taca_buf_finish(&later);
}

static void take_next(void *ctx) {
    struct settings *s = ctx;
    tell_changes(s);
    taca_log_level((enum taca_log_level)s->next->options.log_level);
    if (s->current != s->first) close_reading(s->current);
    s->current = s->next;
    s->next = NULL;
}

/* ---- the commands ---------------------------------------------------------------------------- */

/* Workers inherit the environment: so they write to the same log in the same form. From which level
 * on their command line says. */
static void set_log(const struct serve_options *o) {
    bool json = o->log_format == 2 || (o->log_format == 0 && !isatty(STDERR_FILENO));
    setenv(SERVE_WORKER_LOG_FORMAT, json ? "json" : "text", 1);
    taca_log_setup((enum taca_log_level)o->log_level, json);
}

static int bad_config(const struct taca_err *err) {
    fprintf(stderr, "taca serve: %s\n", err->text);
    return EXIT_CONFIG;
}

static int check(const struct serve_opts *o) {
    struct taca_err err = {0};
    if (taca_serve_check(o, &err) != TACA_OK) return bad_config(&err);
    printf("the configuration is fine\n");
    return EXIT_OK;
}

static int run(struct settings *s, struct flag_set *set) {
    struct reading *r = s->first;
    struct taca_err err = {0};
    if (finish_reading(s, r, set, &err) != TACA_OK) return bad_config(&err);
    if (r->options.print_config) config_print(set, r->options.config_file, stdout);
    if (r->options.check_config) return check(&r->options.serve);
    if (r->options.print_config) return EXIT_OK;
    r->options.serve.reload = (struct serve_reload){s, read_again, take_next};
    set_log(&r->options);
    return taca_serve(&r->options.serve);
}

int cli_serve(int argc, char **argv) {
    struct taca_err err = {0};
    struct settings s = {.argc = argc, .argv = argv, .first = open_reading(&err)};
    if (!s.first) return bad_config(&err);
    s.current = s.first;
    keep_key(&s);
    struct flag_set set = set_of(s.first);
    enum flags_result parsed = flags_parse(&set, argc, argv);
    int exit_code = parsed == FLAGS_HELP ? EXIT_OK : EXIT_USAGE;
    if (parsed == FLAGS_OK) exit_code = run(&s, &set);
    if (s.current != s.first) close_reading(s.current);
    close_reading(s.next);
    close_reading(s.first);
    free(s.api_key);
    return exit_code;
}

int cli_worker(int argc, char **argv) {
    struct serve_options o;
    struct serve_table t;
    struct taca_err err = {0};
    worker_options_init(&o, &t);
    struct flag_set set = {.usage = "worker [options]",
                           .about = "The child process of `taca serve`; not for people.",
                           .flags = t.flags,
                           .n_flags = t.n};
    enum flags_result parsed = flags_parse(&set, argc, argv);
    if (parsed != FLAGS_OK) return parsed == FLAGS_HELP ? EXIT_OK : EXIT_USAGE;
    if (serve_options_apply(&o, &err) != TACA_OK) return bad_config(&err);
    set_log(&o);
    o.worker.engine = o.serve.engine;
    o.worker.loras = o.serve.loras;
    return taca_worker(&o.worker);
}
