/* listener_parts.h - what the files of the listener share; for no one else. */
#ifndef TACA_SERVER_LISTENER_PARTS_H
#define TACA_SERVER_LISTENER_PARTS_H

#include <stdbool.h>

#include "server/head.h"
#include "server/listener.h"
#include "server/peers.h"

enum {
    LISTENER_MAX_SOCKETS = 8,
    LISTENER_PEEK_BYTES = 2 * HEAD_MAX_BYTES, /* a head, and what came of the body with it */
    LISTENER_MAX_LINGERING = 1024
};

struct guest;
struct accept_socket {
    uv_poll_t poll;
    int fd;
};

struct listener {
    uv_loop_t *loop;
    struct listener_opts opts; /* opts.hosts is not kept */
    struct accept_socket sockets[LISTENER_MAX_SOCKETS];
    int n_sockets, port;
    uv_timer_t pause; /* until descriptors may be free again */
    int spare_fd;     /* given up to accept and refuse one when there are no descriptors */
    uint64_t told_ms; /* when the log last heard of missing descriptors */
    bool stopped, closing, shut;
    struct guest *first;
    struct peers *peers;    /* of those who show their heads; NULL = not counted */
    int showing, lingering; /* guests by state */
    int open_handles;
    void (*closed)(void *ctx);
    void *closed_ctx;
    char peek[LISTENER_PEEK_BYTES];
};

/* listener_bind.c: sockets that listen on all of opts->hosts, one port, or those that are given.
 * Closes what it opened on failure. */
struct listener_bound {
    int fds[LISTENER_MAX_SOCKETS], n, port;
};
enum taca_code listener_bind(const struct listener_opts *opts, struct listener_bound *out,
                             struct taca_err *err) TACA_MUST_USE;
/* Closes; nobody finds a Unix socket's name that is in nobody's hands any more. */
void listener_unbind(int fd);

/* listener_guest.c */
struct refusal {
    int status;
    const char *code, *reason, *why; /* JSON code, metric label, message */
    int retry_after_s;
};
extern const struct refusal no_room, too_many_of_peer;
void guest_arrive(struct listener *l, int fd, const struct sockaddr *peer, socklen_t peer_len);
void guest_arrive_refused(struct listener *l, int fd, const struct refusal *r);
/* Answers, throws away what is there and closes, all at once: for when nothing can be allocated. */
void guest_send_away(struct listener *l, int fd, const struct refusal *r);
void guest_drop_all(struct listener *l);

/* listener.c: one of the listener's handles is closed */
void listener_handle_closed(struct listener *l);

#endif
