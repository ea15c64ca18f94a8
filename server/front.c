/* front.c - see front.h. Puts listeners, HTTP daemons, routes and the watch together, and takes
 * them apart again in the one order that works: nobody waits any more, then the daemons' threads
 * are joined, then the loop's handles are closed. */
#include "server/front.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mailbox.h"
#include "server/http.h"
#include "server/listener.h"
#include "server/metrics.h"
#include "server/routes.h"
#include "server/rules.h"
#include "server/watch.h"

enum {
    ADMIN_CONNECTIONS = 64,
    TICK_MS = 250,
    MORE_MS = 2, /* between parts of a tick: whoever waits for the loop gets on */
    STALL_S = 30,
    CLOSE_TICK_MS = 5,
    CLOSE_PATIENCE_MS = 2000, /* for answers that are being written */
    SPARE_DESCRIPTORS = 256,
    ADMIN_HOST = 128 /* bytes of an address or of unix:/path */
};

struct departure {
    struct taca_mail mail;
    uint64_t job_key;
};

struct front {
    uv_loop_t *loop;
    struct routes routes; /* each request gets the rules of its time */
    struct rules_place rules;
    struct watch *watch;
    struct http *http, *admin_http; /* admin: NULL when there is none */
    struct listener *listener, *admin_listener;
    struct taca_mailbox departures; /* HTTP threads to the loop */
    uv_async_t wake;
    uv_timer_t tick;
    int tick_ms;
    int64_t close_by_us;
    int open_parts; /* with uv handles of their own */
    void (*done)(void *ctx);
    void *done_ctx;
};

/* ---- clients that left ----------------------------------------------------------------------- */

static void wake_loop(void *ctx) {
    struct front *f = ctx;
    uv_async_send(&f->wake);
}

static void on_left(void *ctx, uint64_t job_key) {
    struct front *f = ctx;
    struct departure *d = malloc(sizeof *d);
    if (!d) {
        taca_log(TACA_LOG_WARN, "out of memory: a job goes on though its client left");
        return;
    }
    d->job_key = job_key;
    if (!taca_mailbox_post(&f->departures, &d->mail)) free(d);
}

static void on_wake(uv_async_t *wake) {
    struct front *f = wake->data;
    struct taca_mail *m = taca_mailbox_take(&f->departures);
    while (m) {
        struct departure *d = (struct departure *)m; /* mail is its first member */
        m = m->next;
        f->routes.hooks.client_gone(f->routes.hooks.ctx, d->job_key);
        free(d);
    }
}

static void on_watch(void *ctx, uint64_t token, bool half) {
    struct front *f = ctx;
    http_left(f->http, token, half);
}

/* ---- between the parts ----------------------------------------------------------------------- */

static struct routes under(const struct front *f, const struct rules *rules) {
    struct routes r = f->routes;
    r.limits = rules->limits;
    r.access = rules->access;
    return r;
}

static void answer(void *ctx, const struct http_request *q, struct http_reply *out) {
    struct front *f = ctx;
    struct rules *rules = rules_hold(&f->rules);
    struct routes r = under(f, rules);
    routes_answer(&r, q, out);
    rules_leave(&f->rules, rules);
}

static bool early(void *ctx, const struct http_request *q, struct http_reply *out) {
    struct front *f = ctx;
    struct rules *rules = rules_hold(&f->rules);
    struct routes r = under(f, rules);
    bool refused = routes_early(&r, q, out);
    rules_leave(&f->rules, rules);
    return refused;
}

static void take(void *ctx, int fd, const struct head *head, const struct sockaddr *peer,
                 socklen_t peer_len) {
    http_take(ctx, fd, head, peer, peer_len);
}

static int behind(void *ctx) { return http_connections(ctx); }

static int behind_of(void *ctx, uint64_t peer) { return http_connections_of(ctx, peer); }

static void on_tick(uv_timer_t *tick) {
    struct front *f = tick->data;
    int64_t now_us = taca_now_us();
    int n = http_connections(f->http) + listener_guests(f->listener);
    bool more = http_tick(f->http, now_us);
    if (f->admin_http && http_tick(f->admin_http, now_us)) more = true;
    metric_set(METRIC_CONNECTIONS, n);
    uv_timer_start(tick, on_tick, more ? MORE_MS : (uint64_t)f->tick_ms, 0);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Every connection is a descriptor: take what the hard limit allows, say so when it is too few. */
static void raise_descriptor_limit(int max_connections) {
    struct rlimit lim;
    rlim_t wanted = (rlim_t)max_connections + SPARE_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &lim) < 0 || lim.rlim_cur >= wanted) return;
    lim.rlim_cur = lim.rlim_max < wanted ? lim.rlim_max : wanted;
    setrlimit(RLIMIT_NOFILE, &lim);
    if (lim.rlim_cur < wanted)
        taca_log(TACA_LOG_WARN, "%llu descriptors are too few for %d connections",
                 (unsigned long long)lim.rlim_cur, max_connections);
}

static enum taca_code open_http(struct front *f, bool admin, const struct front_opts *o,
                                struct taca_err *err) {
    struct http_opts h = {.admin = admin,
                          .max_connections = admin ? ADMIN_CONNECTIONS : o->max_connections,
                          .count_peers = !admin && o->max_per_ip > 0,
                          .body_timeout_ms = o->body_timeout_ms,
                          .stall_s = o->stall_s ? o->stall_s : STALL_S,
                          .ping_ms = o->sse_ping_ms,
                          .max_body_bytes = o->limits.max_body_bytes,
                          .watch = admin ? NULL : f->watch,
                          .ctx = f,
                          .answer = answer,
                          .early = early,
                          .rules = admin ? NULL : &f->rules,
                          .left = on_left};
    return http_open(admin ? &f->admin_http : &f->http, &h, err);
}

static enum taca_code open_listener(struct front *f, bool admin, const char *hosts, int port,
                                    const struct front_opts *o, struct taca_err *err) {
    struct listener_opts l = {.hosts = hosts,
                              .port = port,
                              .socket_mode = o->socket_mode,
                              .given = admin ? o->given_admin : o->given,
                              .n_given = admin ? o->n_given_admin : o->n_given,
                              .max_connections = admin ? ADMIN_CONNECTIONS : o->max_connections,
                              .max_per_peer = admin ? 0 : o->max_per_ip,
                              .rules = admin ? NULL : &f->rules,
                              .head_timeout_ms = o->head_timeout_ms,
                              .max_body_bytes = o->limits.max_body_bytes,
                              .ctx = admin ? f->admin_http : f->http,
                              .hand_over = take,
                              .others = behind,
                              .others_of = behind_of};
    return listener_open(admin ? &f->admin_listener : &f->listener, f->loop, &l, err);
}

/* "127.0.0.1:8081", "[::1]:8081" or "unix:/path": one address, since who may load models depends on
 * it. */
static enum taca_code read_admin(const char *text, char host[ADMIN_HOST], int *port,
                                 struct taca_err *err) {
    const char *colon = strrchr(text, ':');
    const bool local = strncmp(text, "unix:", 5) == 0;
    char *end = NULL;
    long n = colon && colon[1] ? strtol(colon + 1, &end, 10) : -1;
    size_t len = local ? strlen(text) : colon ? (size_t)(colon - text) : 0;
    bool good = len > 0 && len < ADMIN_HOST && !strchr(text, ',');
    if (!good || (!local && (!end || *end || n < 0 || n > 65535)))
        return taca_fail_param(err, "admin-listen",
                               "--admin-listen must be one ADDR:PORT or unix:/PATH, got '%.200s'",
                               text);
    snprintf(host, ADMIN_HOST, "%.*s", (int)len, text);
    *port = local ? 0 : (int)n;
    return listener_check(host, err);
}

static bool wants_admin(const struct front_opts *o) {
    return o->n_given_admin || (o->admin_listen && o->admin_listen[0]);
}

static enum taca_code check_addresses(const struct front_opts *o, struct taca_err *err) {
    char host[ADMIN_HOST];
    int port;
    enum taca_code rc = o->n_given ? TACA_OK : listener_check(o->host, err);
    if (rc || o->n_given_admin || !wants_admin(o)) return rc;
    return read_admin(o->admin_listen, host, &port, err);
}

static enum taca_code open_admin(struct front *f, const struct front_opts *o,
                                 struct taca_err *err) {
    char host[ADMIN_HOST] = "";
    int port = 0;
    enum taca_code rc = o->n_given_admin ? TACA_OK : read_admin(o->admin_listen, host, &port, err);
    if (rc == TACA_OK) rc = open_http(f, true, o, err);
    return rc == TACA_OK ? open_listener(f, true, host, port, o, err) : rc;
}

/* An operator's listener that only this machine reaches. */
static bool admin_is_local(const struct front_opts *o) {
    static const char *const local[] = {"127.", "localhost:", "[::1]:", "unix:"};
    for (size_t i = 0; i < sizeof local / sizeof *local; i++)
        if (o->n_given_admin == 0 && strncmp(o->admin_listen, local[i], strlen(local[i])) == 0)
            return true;
    return false;
}

static void start_handles(struct front *f, const struct front_opts *o) {
    int tick_ms = o->sse_ping_ms / 4;
    if (o->body_timeout_ms / 4 < tick_ms) tick_ms = o->body_timeout_ms / 4;
    if (tick_ms > TICK_MS) tick_ms = TICK_MS;
    if (tick_ms < CLOSE_TICK_MS) tick_ms = CLOSE_TICK_MS;
    taca_mailbox_init(&f->departures, wake_loop, f);
    uv_async_init(f->loop, &f->wake, on_wake);
    uv_timer_init(f->loop, &f->tick);
    f->wake.data = f->tick.data = f;
    f->open_parts = 2;
    f->tick_ms = tick_ms;
    uv_timer_start(&f->tick, on_tick, (uint64_t)tick_ms, 0);
}

static enum taca_code open_access(struct access **out, const struct front_opts *o,
                                  struct taca_err *err) {
    return access_open(out, &(struct access_opts){o->cors_origin, o->api_key_file, o->api_key},
                       err);
}

enum taca_code front_check(const struct front_opts *opts, struct taca_err *err) {
    struct access *access = NULL;
    enum taca_code rc = check_addresses(opts, err);
    if (rc == TACA_OK) rc = open_access(&access, opts, err);
    access_close(access);
    return rc;
}

enum taca_code front_reload(struct front *f, const struct front_opts *opts, struct taca_err *err) {
    struct access *access = NULL;
    enum taca_code rc = check_addresses(opts, err); /* those of the next start */
    if (rc == TACA_OK) rc = open_access(&access, opts, err);
    return rc == TACA_OK ? rules_set(&f->rules, access, &opts->limits, err) : rc;
}

enum taca_code front_open(struct front **out, uv_loop_t *loop, const struct front_opts *opts,
                          const struct front_hooks *hooks, struct taca_err *err) {
    struct front *f = calloc(1, sizeof *f);
    if (!f) return taca_fail(err, TACA_ENOMEM, "front door");
    f->loop = loop;
    f->routes = (struct routes){.hooks = *hooks,
                                .ui = opts->ui,
                                .a1111 = opts->a1111,
                                .trusts_admin = admin_is_local(opts)};
    rules_init(&f->rules);
    raise_descriptor_limit(opts->max_connections);
    start_handles(f, opts);
    enum taca_code rc = front_reload(f, opts, err);
    if (rc == TACA_OK) rc = watch_open(&f->watch, loop, on_watch, f, err);
    if (rc == TACA_OK) rc = open_http(f, false, opts, err);
    if (rc == TACA_OK) rc = open_listener(f, false, opts->host, opts->port, opts, err);
    if (rc == TACA_OK && wants_admin(opts)) rc = open_admin(f, opts, err);
    if (rc == TACA_OK)
        *out = f;
    else
        front_close(f, NULL, NULL); /* finished when the loop runs */
    return rc;
}

int front_port(const struct front *f) { return listener_port(f->listener); }

int front_admin_port(const struct front *f) {
    return f->admin_listener ? listener_port(f->admin_listener) : 0;
}

void front_set_shut(struct front *f, bool shut) { listener_set_shut(f->listener, shut); }

void front_stop_accepting(struct front *f) { listener_stop(f->listener); }

int front_connections(const struct front *f) { return http_connections(f->http); }

int front_guests(const struct front *f) { return listener_guests(f->listener); }

/* ---- closing --------------------------------------------------------------------------------- */

static void on_part_closed(void *ctx) {
    struct front *f = ctx;
    if (--f->open_parts > 0) return;
    void (*done)(void *ctx) = f->done;
    void *done_ctx = f->done_ctx;
    rules_finish(&f->rules);
    free(f);
    if (done) done(done_ctx);
}

static void on_handle_closed(uv_handle_t *handle) { on_part_closed(handle->data); }

static void drop_departures(struct front *f) {
    taca_mailbox_close(&f->departures);
    struct taca_mail *m = taca_mailbox_take(&f->departures);
    while (m) {
        struct taca_mail *next = m->next;
        free(m);
        m = next;
    }
    taca_mailbox_finish(&f->departures);
}

/* The connections have ended, or their patience has. */
static void close_rest(struct front *f) {
    http_close(f->http);
    http_close(f->admin_http);
    drop_departures(f);
    uv_close((uv_handle_t *)&f->wake, on_handle_closed);
    uv_close((uv_handle_t *)&f->tick, on_handle_closed);
    if (f->watch) watch_close(f->watch, on_part_closed, f);
}

static int all_connections(const struct front *f) {
    return (f->http ? http_connections(f->http) : 0) +
           (f->admin_http ? http_connections(f->admin_http) : 0);
}

static void on_close_tick(uv_timer_t *tick) {
    struct front *f = tick->data;
    int n = all_connections(f);
    if (n > 0 && taca_now_us() < f->close_by_us) return;
    if (n > 0) taca_log(TACA_LOG_WARN, "%d connections are cut", n);
    uv_timer_stop(tick);
    close_rest(f);
}

void front_close(struct front *f, void (*done)(void *ctx), void *ctx) {
    f->done = done;
    f->done_ctx = ctx;
    f->open_parts += (f->watch != NULL) + (f->listener != NULL) + (f->admin_listener != NULL);
    if (f->listener) listener_close(f->listener, on_part_closed, f);
    if (f->admin_listener) listener_close(f->admin_listener, on_part_closed, f);
    if (f->http) http_cut_all(f->http);
    if (f->admin_http) http_cut_all(f->admin_http);
    f->close_by_us = taca_now_us() + (int64_t)CLOSE_PATIENCE_MS * 1000;
    uv_timer_start(&f->tick, on_close_tick, 1, CLOSE_TICK_MS);
}
