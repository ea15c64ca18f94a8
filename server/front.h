/* front.h - the front door: listeners with the head guard on the loop, libmicrohttpd daemons
 * without a listen socket behind it, routes, event streams, and the watch for clients that left.
 *
 * Runs on the loop thread (listeners, watch) and on one thread per MHD daemon (requests). It never
 * computes: a parsed request becomes a job and goes to `submit`. */
#ifndef TACA_SERVER_FRONT_H
#define TACA_SERVER_FRONT_H

#include <stdatomic.h>
#include <uv.h>

#include "api/limits.h"
#include "base/err.h"
#include "engine/params.h"
#include "server/ask.h"
#include "server/job.h"
#include "server/status.h"

struct front_opts {
    const char *host;         /* "localhost", an address, unix:/path, or a comma-separated list */
    int port;                 /* 0 = any: front_port tells */
    const char *admin_listen; /* "127.0.0.1:8081", "unix:/path", "" = none */
    int socket_mode;          /* permissions of Unix sockets */
    /* sockets that listen already, in place of host and port, and of admin_listen */
    const int *given, *given_admin;
    int n_given, n_given_admin;
    int max_connections;
    int max_per_ip; /* of one client address, 0 = no limit of its own */
    int head_timeout_ms;
    int body_timeout_ms;
    int sse_ping_ms;
    int stall_s; /* of a client that takes nothing of its answer; 0 = 30 */
    struct api_limits limits;
    const char *cors_origin;  /* as in access.h, "" or NULL = none */
    const char *api_key_file; /* the same */
    const char *api_key;      /* the same */
    bool ui;                  /* the pages for people: the playground */
    bool a1111;               /* the routes of /sdapi/v1 */
};

struct front_hooks {
    void *ctx;
    struct service_status *status;
    /* Any http thread. True: the job is the loop's now. False: draining, or more pictures wait to
     * be unpacked than may; the caller still owns it. */
    bool (*submit)(void *ctx, struct job *job);
    /* The same for a question. */
    bool (*ask)(void *ctx, struct ask *ask);
    /* Loop thread: the client of this reader left (half-closed or reset) before its answer was
     * complete. */
    void (*client_gone)(void *ctx, uint64_t reader_key);
    /* Any http thread: the text of /metrics. */
    void (*metrics)(void *ctx, struct taca_buf *out);
};

/* Whether those options ask for a key. */
static inline bool front_wants_keys(const struct front_opts *o) {
    return o->api_key_file || (o->api_key && o->api_key[0]);
}

struct front;
/* Whether front_open would like them. */
enum taca_code front_check(const struct front_opts *opts, struct taca_err *err);
enum taca_code front_open(struct front **out, uv_loop_t *loop, const struct front_opts *opts,
                          const struct front_hooks *hooks, struct taca_err *err) TACA_MUST_USE;
int front_port(const struct front *f);       /* 0 = Unix sockets alone */
int front_admin_port(const struct front *f); /* 0 = none */
/* From the next request on: limits (but for max_body_bytes), keys and origins of `opts`. On failure
 * everything stays as it was. */
enum taca_code front_reload(struct front *f, const struct front_opts *opts, struct taca_err *err);
/* For as long as memory is short: newcomers are refused when they come, but for the operator's. */
void front_set_shut(struct front *f, bool shut);
/* Stops accepting; connections that are in go on. */
void front_stop_accepting(struct front *f);
/* Connections that still exist behind the guard. */
int front_connections(const struct front *f);
/* And before it. */
int front_guests(const struct front *f);
/* Ends every waiting connection, stops the daemons, closes its uv handles and calls done() on the
 * loop when the last is closed; the front is then freed. Streams must have ended or are cut. */
void front_close(struct front *f, void (*done)(void *ctx), void *ctx);

#endif
