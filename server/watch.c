/* watch.c - see watch.h. */
#include "server/watch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { EVENTS_AT_ONCE = 256 };

struct watch {
    int set;
    uv_poll_t poll;
    uv_check_t check; /* runs after all of a round's events: see watch_left_fn */
    watch_left_fn *left;
    void *ctx;
    struct epoll_event pending[EVENTS_AT_ONCE];
    int n_pending;
    int open_handles;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

static void on_check(uv_check_t *check) {
    struct watch *w = check->data;
    int n = w->n_pending;
    w->n_pending = 0;
    uv_check_stop(check);
    for (int i = 0; i < n; i++)
        w->left(w->ctx, w->pending[i].data.u64, !(w->pending[i].events & (EPOLLHUP | EPOLLERR)));
}

static void on_events(uv_poll_t *poll, int status, int events) {
    struct watch *w = poll->data;
    (void)status, (void)events;
    int n = epoll_wait(w->set, w->pending + w->n_pending, EVENTS_AT_ONCE - w->n_pending, 0);
    if (n <= 0) return; /* the set is level-triggered: what did not fit comes again */
    w->n_pending += n;
    uv_check_start(&w->check, on_check);
}

enum taca_code watch_open(struct watch **out, uv_loop_t *loop, watch_left_fn *left, void *ctx,
                          struct taca_err *err) {
    struct watch *w = calloc(1, sizeof *w);
    if (!w) return taca_fail(err, TACA_ENOMEM, "watch for clients that leave");
    w->set = epoll_create1(EPOLL_CLOEXEC);
    if (w->set < 0) {
        free(w);
        return taca_fail(err, TACA_EIO, "epoll_create1: %s", strerror(errno));
    }
    int rc = uv_poll_init(loop, &w->poll, w->set);
    if (rc < 0) {
        close(w->set);
        free(w);
        return taca_fail(err, TACA_EIO, "uv_poll_init: %s", uv_strerror(rc));
    }
    uv_check_init(loop, &w->check);
    w->poll.data = w->check.data = w;
    w->left = left;
    w->ctx = ctx;
    w->open_handles = 2;
    uv_poll_start(&w->poll, UV_READABLE, on_events);
    *out = w;
    return TACA_OK;
}

bool watch_add(struct watch *w, int fd, uint64_t token) {
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = token};
    return epoll_ctl(w->set, EPOLL_CTL_ADD, fd, &ev) == 0;
}

void watch_remove(struct watch *w, int fd) { epoll_ctl(w->set, EPOLL_CTL_DEL, fd, NULL); }

void watch_again(struct watch *w, int fd, uint64_t token) {
    /* EPOLLHUP and EPOLLERR need not be asked for; RDHUP would come again at once */
    struct epoll_event ev = {.events = EPOLLONESHOT, .data.u64 = token};
    epoll_ctl(w->set, EPOLL_CTL_MOD, fd, &ev);
}

static void on_closed(uv_handle_t *handle) {
    struct watch *w = handle->data;
    if (--w->open_handles > 0) return;
    void (*closed)(void *ctx) = w->closed;
    void *ctx = w->closed_ctx;
    close(w->set);
    free(w);
    closed(ctx);
}

void watch_close(struct watch *w, void (*closed)(void *ctx), void *ctx) {
    w->closed = closed;
    w->closed_ctx = ctx;
    uv_poll_stop(&w->poll);
    uv_close((uv_handle_t *)&w->poll, on_closed);
    uv_close((uv_handle_t *)&w->check, on_closed);
}
