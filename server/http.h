/* http.h - requests and answers, behind the guard and in front of the routes.
 *
 * The only file that knows the HTTP library is http.c: daemons without a listening socket, one
 * thread each, that are given connections. It collects the body, asks `answer` once, and writes
 * what comes back: an answer that is there, or whatever arrives at a stream. One connection is one
 * request. */
#ifndef TACA_SERVER_HTTP_H
#define TACA_SERVER_HTTP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/err.h"
#include "server/access.h"
#include "server/head.h"
#include "server/rules.h"
#include "server/stream.h"
#include "server/trace.h"
#include "server/watch.h"

struct http;

/* Valid during the call. */
struct http_request {
    const char *method, *path; /* the path without query, %XX decoded */
    /* NULL = not sent */
    const char *accept, *content_type, *host, *forwarded_proto, *prefer, *idempotency_key,
        *last_event_id, *if_none_match, *origin, *authorization, *wanted_method, *private_network;
    const char *request_id;
    const struct trace *trace;
    const char *body; /* NUL behind it */
    size_t body_len;
    struct access_client client; /* whose key it has; filled in by the routes */
    bool admin;                  /* came in at the operator's listener */
    int64_t received_us;
};
/* Zeroed; a route fills in either status, type and body, or a stream to wait for. */
struct http_reply {
    int status;
    const char *route;        /* a constant pattern, for the metrics */
    const char *content_type; /* a constant; NULL = none */
    /* "Name: value\n" lines, instead of fixed ones of that name; of the stream's answer too */
    struct taca_buf headers;
    struct taca_buf body;
    struct stream *stream; /* one reference, the http side's now */
    /* for the log: whether a job's record tells of it, whose API key it was, an error's code */
    bool logged;
    char key[CLIENT_NAME_MAX + 1];
    char error[48];
    uint64_t job_key; /* named to `left` if the client leaves before the stream's last word */
};

struct http_opts {
    bool admin; /* one daemon for all; else one for each size of head */
    int max_connections;
    bool count_peers;    /* http_connections_of will be asked */
    int body_timeout_ms; /* and a second for every 64 KiB that have come */
    int stall_s;         /* neither a byte in nor out: dropped */
    int ping_ms;         /* silence on an event stream before a comment is sent */
    size_t max_body_bytes;
    struct rules_place *rules; /* whose pages may read a refusal amid a body; NULL = nobody's */
    struct watch *watch;       /* may be NULL on an admin listener: nothing waits there */
    void *ctx;
    /* Daemon threads. */
    void (*answer)(void *ctx, const struct http_request *q, struct http_reply *out);
    /* Before the body of a client that asked whether to send it: true = refused, *out is filled. */
    bool (*early)(void *ctx, const struct http_request *q, struct http_reply *out);
    /* Any thread: a connection ended though its job was not done. */
    void (*left)(void *ctx, uint64_t job_key);
};

enum taca_code http_open(struct http **out, const struct http_opts *opts,
                         struct taca_err *err) TACA_MUST_USE;
/* The descriptor is the daemon's, whatever happens. Its head is there and was found good. */
void http_take(struct http *h, int fd, const struct head *head, const struct sockaddr *peer,
               socklen_t peer_len);
int http_connections(const struct http *h);
int http_connections_of(const struct http *h, uint64_t peer); /* of one address: peers.h */

/* Loop thread. */
bool http_tick(struct http *h, int64_t now_us);            /* see conns_tick */
void http_left(struct http *h, uint64_t token, bool half); /* what the watch reports */
void http_cut_all(struct http *h); /* ends everything that waits; nothing waits from now on */
void http_close(struct http *h);   /* after http_cut_all; joins the threads; NULL is fine */

#endif
