/* listener.h - the sockets that accept, and the guests that have not shown a good head yet.
 *
 * Loop thread only. A connection is looked at (never read) until its head is complete, refused with
 * a JSON error when the head is not strict HTTP/1.x, late, or one too many, and handed on untouched
 * otherwise. Refused guests are closed gently: our side is shut, what they still send is thrown
 * away for a while, so that they can read the answer. Knows nothing of what happens behind it. */
#ifndef TACA_SERVER_LISTENER_H
#define TACA_SERVER_LISTENER_H

#include <stdint.h>
#include <sys/socket.h>
#include <uv.h>

#include "base/err.h"
#include "server/head.h"
#include "server/rules.h"

struct listener;

struct listener_opts {
    /* "localhost", an IPv4 or IPv6 address, "unix:/path", or a comma-separated list */
    const char *hosts;
    int port;        /* 0 = any, the same for all hosts */
    int socket_mode; /* permissions of a Unix socket */
    /* sockets that listen already, taken over; with any, hosts and port are not looked at */
    const int *given;
    int n_given;
    int max_connections;
    int max_per_peer; /* connections of one client address (peers.h), 0 = no limit of its own */
    int head_timeout_ms;
    uint64_t max_body_bytes;
    struct rules_place *rules; /* whose pages may read a refusal; NULL = nobody's */
    void *ctx;
    /* A good head: the descriptor is the callee's. */
    void (*hand_over)(void *ctx, int fd, const struct head *head, const struct sockaddr *peer,
                      socklen_t peer_len);
    /* connections that were handed over and still exist: they count against the limits */
    int (*others)(void *ctx);
    int (*others_of)(void *ctx, uint64_t peer); /* asked only when there is max_per_peer */
};

/* Whether `hosts` could be listened on, as far as the text tells. */
enum taca_code listener_check(const char *hosts, struct taca_err *err) TACA_MUST_USE;
enum taca_code listener_open(struct listener **out, uv_loop_t *loop,
                             const struct listener_opts *opts, struct taca_err *err) TACA_MUST_USE;
int listener_port(const struct listener *l); /* 0 = Unix sockets alone */
/* Newcomers get 503 when they come. */
void listener_set_shut(struct listener *l, bool shut);
void listener_stop(struct listener *l);        /* accepts no more; guests go on */
int listener_guests(const struct listener *l); /* still showing their heads */
/* Drops all guests; closed() is called when the last uv handle is closed, *l is then freed. */
void listener_close(struct listener *l, void (*closed)(void *ctx), void *ctx);

#endif
