/* listener.c - accepting: the cap on connections, and life without descriptors. */

#include "server/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "server/listener_parts.h"

enum { ACCEPTS_AT_ONCE = 64, LAST_ACCEPTS = 8192, PAUSE_MS = 100, TELL_MS = 10 * 1000 };

static int open_spare(void) { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

static void on_acceptable(uv_poll_t *poll, int status, int events);

static void set_accepting(struct listener *l, bool on) {
    for (int i = 0; i < l->n_sockets; i++) {
        if (on)
            uv_poll_start(&l->sockets[i].poll, UV_READABLE, on_acceptable);
        else
            uv_poll_stop(&l->sockets[i].poll);
    }
}

static void on_pause_over(uv_timer_t *timer) {
    struct listener *l = timer->data;
    if (l->spare_fd < 0) l->spare_fd = open_spare();
    if (!l->stopped) set_accepting(l, true);
}

/* Level-triggered readiness that cannot be served would spin: look again a little later. */
static void pause_accepting(struct listener *l) {
    set_accepting(l, false);
    uv_timer_start(&l->pause, on_pause_over, PAUSE_MS, 0);
}

/* No descriptor is left for the next in line: the spare one buys it an honest answer. */
static void refuse_with_spare(struct listener *l, int listening_fd) {
    if (l->spare_fd >= 0) {
        close(l->spare_fd);
        l->spare_fd = -1;
        int fd = accept4(listening_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) guest_send_away(l, fd, &no_room);
        l->spare_fd = open_spare();
    }
    if (l->spare_fd < 0) pause_accepting(l);
}

static void tell_no_descriptor(struct listener *l) {
    uint64_t now_ms = uv_now(l->loop);
    if (l->told_ms && now_ms - l->told_ms < TELL_MS) return;
    l->told_ms = now_ms;
    taca_log(TACA_LOG_WARN, "no descriptor left: refusing connections");
}

static const struct refusal no_memory = {.status = 503,
                                         .code = "overloaded",
                                         .reason = "overloaded",
                                         .why = "memory is short; try again in a moment",
                                         .retry_after_s = 5};

/* Why the next one cannot come in; NULL = it can. */
static const struct refusal *full_for(const struct listener *l, const struct sockaddr *addr,
                                      socklen_t len) {
    const struct listener_opts *o = &l->opts;
    if (l->shut) return &no_memory;
    if (l->showing + o->others(o->ctx) >= o->max_connections) return &no_room;
    uint64_t peer = o->max_per_peer ? peer_of(addr, len) : 0;
    if (!peer) return NULL;
    bool many = peers_count(l->peers, peer) + o->others_of(o->ctx, peer) >= o->max_per_peer;
    return many ? &too_many_of_peer : NULL;
}

/* The next in line; false when nobody is there, or nobody can be taken. */
static bool take_next(struct listener *l, int listening_fd) {
    struct sockaddr_storage peer;
    socklen_t len = sizeof peer;
    struct sockaddr *addr = (struct sockaddr *)&peer;
    int fd = accept4(listening_fd, addr, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        const struct refusal *full = full_for(l, addr, len);
        if (full)
            guest_arrive_refused(l, fd, full);
        else
            guest_arrive(l, fd, addr, len);
        return true;
    }
    if (errno == EMFILE || errno == ENFILE) {
        tell_no_descriptor(l);
        refuse_with_spare(l, listening_fd);
    } else if (errno == ENOBUFS || errno == ENOMEM) {
        pause_accepting(l);
    }
    return false; /* everything else is the peer's trouble, or nobody waits any more */
}

static void on_acceptable(uv_poll_t *poll, int status, int events) {
    struct listener *l = poll->data;
    int listening_fd, left = ACCEPTS_AT_ONCE;
    (void)status, (void)events;
    if (uv_fileno((uv_handle_t *)poll, &listening_fd) < 0) return;
    while (left-- > 0 && take_next(l, listening_fd)) {
    }
}

static void watch_sockets(struct listener *l, const int *fds, int n) {
    for (int i = 0; i < n; i++) {
        struct accept_socket *s = &l->sockets[i];
        s->fd = fds[i];
        uv_poll_init(l->loop, &s->poll, s->fd);
        s->poll.data = l;
    }
    l->n_sockets = n;
    uv_timer_init(l->loop, &l->pause);
    l->pause.data = l;
    l->open_handles = n + 1;
}

enum taca_code listener_open(struct listener **out, uv_loop_t *loop,
                             const struct listener_opts *opts, struct taca_err *err) {
    struct listener_bound bound;
    struct listener *l = calloc(1, sizeof *l);
    if (!l) return taca_fail(err, TACA_ENOMEM, "listener");
    l->loop = loop;
    l->opts = *opts;
    l->opts.hosts = NULL;
    l->opts.given = NULL;
    enum taca_code rc = TACA_OK;
    if (opts->max_per_peer) l->peers = peers_open((size_t)opts->max_connections);
    if (opts->max_per_peer && !l->peers) rc = taca_fail(err, TACA_ENOMEM, "listener");
    if (rc == TACA_OK) rc = listener_bind(opts, &bound, err);
    if (rc != TACA_OK) {
        peers_close(l->peers);
        free(l);
        return rc;
    }
    l->port = bound.port;
    l->spare_fd = open_spare();
    watch_sockets(l, bound.fds, bound.n);
    set_accepting(l, true);
    *out = l;
    return TACA_OK;
}

void listener_set_shut(struct listener *l, bool shut) { l->shut = shut; }

int listener_port(const struct listener *l) { return l->port; }

int listener_guests(const struct listener *l) { return l->showing; }

static void on_own_handle_closed(uv_handle_t *handle) { listener_handle_closed(handle->data); }

/* Closes the listening sockets too, so that the kernel refuses instead of parking newcomers; those
 * it has parked already are taken first, it would reset them. Sockets that were handed over stay
 * with whoever has them too, and so does their line. Each
 * watcher goes first: closed later, it would take the watch off whoever has its number by then. */
void listener_stop(struct listener *l) {
    if (l->stopped) return;
    for (int i = 0; i < l->n_sockets && !l->opts.n_given && !l->closing; i++)
        for (int left = LAST_ACCEPTS; left > 0 && take_next(l, l->sockets[i].fd); left--) {
        }
    l->stopped = true;
    uv_timer_stop(&l->pause);
    for (int i = 0; i < l->n_sockets; i++) {
        uv_close((uv_handle_t *)&l->sockets[i].poll, on_own_handle_closed);
        listener_unbind(l->sockets[i].fd);
        l->sockets[i].fd = -1;
    }
}

void listener_handle_closed(struct listener *l) {
    if (--l->open_handles > 0 || !l->closing) return;
    void (*closed)(void *ctx) = l->closed;
    void *ctx = l->closed_ctx;
    if (l->spare_fd >= 0) close(l->spare_fd);
    peers_close(l->peers);
    free(l);
    closed(ctx);
}

void listener_close(struct listener *l, void (*closed)(void *ctx), void *ctx) {
    l->closing = true;
    l->closed = closed;
    l->closed_ctx = ctx;
    listener_stop(l);
    guest_drop_all(l);
    uv_close((uv_handle_t *)&l->pause, on_own_handle_closed);
}
