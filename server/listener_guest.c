/* listener_guest.c - one connection from accept to a good head, or to a gentle refusal.
 *
 * The bytes are peeked, so that the HTTP library reads the very same ones later. SO_RCVLOWAT keeps
 * the level-triggered poll quiet until there is a byte more than last time; a socket that is
 * readable without one has been half-closed, and would spin the loop if it were kept. Unix sockets
 * know no SO_RCVLOWAT: a guest there that has not shown all is looked at again by the clock. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/answer.h"
#include "server/listener_parts.h"
#include "server/metrics.h"

enum { LINGER_MS = 1000, LINGER_BYTES = 64 * 1024, LOCAL_LOOK_MS = 10, MAX_ORIGIN = 512 };

struct guest {
    struct listener *listener;
    struct guest *next, *prev;
    uv_poll_t poll;
    uv_timer_t timer;
    int fd;
    bool lingering;
    bool local;           /* came in at a Unix socket */
    uint64_t deadline_ms; /* of a local one, on the loop's clock */
    long seen;            /* bytes at the last look */
    long drained;         /* bytes thrown away */
    int open_handles;
    struct sockaddr_storage peer;
    socklen_t peer_len;
};

static void wait_for_bytes(int fd, long n) {
    int low = (int)n;
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low);
}

static void on_handle_closed(uv_handle_t *handle) {
    struct guest *g = handle->data;
    struct listener *l = g->listener;
    if (--g->open_handles == 0) free(g);
    listener_handle_closed(l);
}

static void shows_no_more(struct guest *g) {
    struct listener *l = g->listener;
    l->showing--;
    if (l->peers) peers_drop(l->peers, peer_of((const struct sockaddr *)&g->peer, g->peer_len));
}

/* The loop forgets the socket; the caller owns it. *g is freed later. */
static int detach(struct guest *g) {
    struct listener *l = g->listener;
    if (g->prev)
        g->prev->next = g->next;
    else
        l->first = g->next;
    if (g->next) g->next->prev = g->prev;
    if (g->lingering)
        l->lingering--;
    else
        shows_no_more(g);
    uv_poll_stop(&g->poll);
    uv_close((uv_handle_t *)&g->poll, on_handle_closed);
    uv_close((uv_handle_t *)&g->timer, on_handle_closed);
    return g->fd;
}

static void drop(struct guest *g) { close(detach(g)); }

/* ---- refusing -------------------------------------------------------------------------------- */

/* What the answer takes from the request, as far as that is there: its id, and its origin, without
 * whose header no script could read what was wrong. True: it asks for a head alone. */
static bool describe_sender(struct listener *l, int fd, char id[REQUEST_ID_MAX + 1],
                            struct taca_buf *headers) {
    char origin[MAX_ORIGIN];
    ssize_t n = recv(fd, l->peek, sizeof l->peek, MSG_PEEK | MSG_DONTWAIT);
    size_t len = n > 0 ? (size_t)n : 0;
    bool has_id = head_find(id, REQUEST_ID_MAX + 1, l->peek, len, "X-Request-Id");
    if (!has_id || !request_id_ok(id, strlen(id))) request_id_make(id);
    bool has_origin = head_find(origin, sizeof origin, l->peek, len, "Origin");
    if (l->opts.rules) rules_headers(l->opts.rules, has_origin ? origin : NULL, headers);
    return len >= 5 && memcmp(l->peek, "HEAD ", 5) == 0;
}

static void send_refusal(struct listener *l, int fd, const struct refusal *r) {
    struct api_error e = {.retry_after_s = r->retry_after_s};
    struct taca_buf b, headers;
    char id[REQUEST_ID_MAX + 1];
    taca_buf_init(&b, 8192);
    taca_buf_init(&headers, 4096);
    const bool head_alone = describe_sender(l, fd, id, &headers);
    if (r->status == 405) taca_buf_puts(&headers, "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS\n");
    api_fail(&e, r->status, r->code, NULL, "%s", r->why);
    answer_error_bytes(&b, &e, id, headers.data);
    const char *body = b.failed ? NULL : strstr(b.data, "\r\n\r\n");
    if (head_alone && body) b.len = (size_t)(body + 4 - b.data);
    /* a fresh socket's buffer takes a few hundred bytes; if not, the peer has had no answer */
    if (!b.failed) (void)!send(fd, b.data, b.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    taca_buf_finish(&headers);
    taca_buf_finish(&b);
    metric_add(METRIC_REJECTED, r->reason, 1);
    metric_http("guard", "-", r->status, 0);
}

static void on_readable(uv_poll_t *poll, int status, int events);
static void on_timer(uv_timer_t *timer);
static void look(struct guest *g);

static void linger(struct guest *g) {
    shows_no_more(g);
    g->lingering = true;
    g->listener->lingering++;
    shutdown(g->fd, SHUT_WR);
    wait_for_bytes(g->fd, 1);
    uv_poll_start(&g->poll, UV_READABLE, on_readable);
    uv_timer_start(&g->timer, on_timer, LINGER_MS, 0);
    if (g->listener->lingering > LISTENER_MAX_LINGERING) drop(g);
}

static void refuse(struct guest *g, const struct refusal *r) {
    send_refusal(g->listener, g->fd, r);
    linger(g);
}

static void drain(struct guest *g) {
    struct listener *l = g->listener;
    ssize_t n = recv(g->fd, l->peek, sizeof l->peek, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n > 0) g->drained += n;
    if (n <= 0 || g->drained >= LINGER_BYTES) drop(g);
}

/* ---- looking at the head --------------------------------------------------------------------- */

static void refuse_head(struct guest *g, int status, const char *why) {
    static const struct {
        int status;
        const char *code;
    } codes[] = {{400, "http_400"},
                 {405, "http_405"},
                 {413, "body_too_large"},
                 {414, "http_414"},
                 {415, "unsupported_media_type"},
                 {417, "http_417"},
                 {431, "http_431"},
                 {501, "http_501"},
                 {505, "http_505"}};
    struct refusal r = {.status = status, .code = "http_400", .why = why};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i].status == status) r.code = codes[i].code;
    r.reason = status == 413 ? "body_too_large" : "bad_head";
    refuse(g, &r);
}

static void hand_over(struct guest *g, const struct head *h) {
    struct listener *l = g->listener;
    wait_for_bytes(g->fd, 1);
    int fd = detach(g); /* *g lives until its handles are closed */
    l->opts.hand_over(l->opts.ctx, fd, h, (const struct sockaddr *)&g->peer, g->peer_len);
}

static bool peer_is_done(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) == 1 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static void on_local_timer(uv_timer_t *timer) { look(timer->data); }

/* Some of the head is there, `n` bytes. */
static void wait_for_more(struct guest *g, ssize_t n) {
    if (n == g->seen && (!g->local || peer_is_done(g->fd))) {
        refuse_head(g, 400, "the connection was half-closed before the head was complete");
        return;
    }
    g->seen = n;
    if (!g->local) {
        wait_for_bytes(g->fd, n + 1);
    } else if (uv_now(g->listener->loop) >= g->deadline_ms) {
        on_timer(&g->timer);
    } else {
        uv_poll_stop(&g->poll);
        uv_timer_start(&g->timer, on_local_timer, LOCAL_LOOK_MS, 0);
    }
}

static void look(struct guest *g) {
    struct listener *l = g->listener;
    ssize_t n = recv(g->fd, l->peek, sizeof l->peek, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) { /* left without a word */
        drop(g);
        return;
    }
    struct head h;
    const char *why = NULL;
    int status = head_check(&h, l->peek, (size_t)n, l->opts.max_body_bytes);
    if (status == HEAD_MORE) {
        wait_for_more(g, n);
    } else if (status != HEAD_GOOD) {
        refuse_head(g, status, h.why);
    } else {
        if (h.chunked)
            status =
                head_check_chunks(l->peek + h.len, (size_t)n - h.len, l->opts.max_body_bytes, &why);
        if (status == HEAD_GOOD || status == HEAD_MORE)
            hand_over(g, &h);
        else
            refuse_head(g, status, why);
    }
}

static void on_readable(uv_poll_t *poll, int status, int events) {
    struct guest *g = poll->data;
    (void)events;
    if (status < 0)
        drop(g);
    else if (g->lingering)
        drain(g);
    else
        look(g);
}

static void on_timer(uv_timer_t *timer) {
    struct guest *g = timer->data;
    if (g->lingering) {
        drop(g);
    } else if (g->seen == 0) { /* it asked nothing: it gets nothing */
        metric_add(METRIC_REJECTED, "head_timeout", 1);
        drop(g);
    } else {
        refuse(g, &(struct refusal){.status = 408,
                                    .code = "head_timeout",
                                    .reason = "head_timeout",
                                    .why = "the request head did not arrive in time"});
    }
}

/* ---- arriving -------------------------------------------------------------------------------- */

/* `peer` may be NULL: not counted against it. */
static struct guest *admit(struct listener *l, int fd, const struct sockaddr *peer,
                           socklen_t peer_len) {
    struct guest *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    g->listener = l;
    g->fd = fd;
    if (peer) memcpy(&g->peer, peer, peer_len);
    g->peer_len = peer ? peer_len : 0;
    if (uv_poll_init(l->loop, &g->poll, fd) < 0) {
        free(g);
        return NULL;
    }
    uv_timer_init(l->loop, &g->timer);
    g->poll.data = g->timer.data = g;
    g->open_handles = 2;
    l->open_handles += 2;
    g->next = l->first;
    if (g->next) g->next->prev = g;
    l->first = g;
    l->showing++;
    if (l->peers) peers_add(l->peers, peer_of((const struct sockaddr *)&g->peer, g->peer_len));
    uv_poll_start(&g->poll, UV_READABLE, on_readable);
    return g;
}

const struct refusal no_room = {.status = 503,
                                .code = "too_many_connections",
                                .reason = "too_many_connections",
                                .why = "too many connections; try again in a moment",
                                .retry_after_s = 1};
const struct refusal too_many_of_peer = {.status = 429,
                                         .code = "ip_conn",
                                         .reason = "ip_conn",
                                         .why = "your address has too many connections open",
                                         .retry_after_s = 1};

void guest_arrive(struct listener *l, int fd, const struct sockaddr *peer, socklen_t peer_len) {
    struct guest *g = admit(l, fd, peer, peer_len);
    if (!g) {
        guest_send_away(l, fd, &no_room);
        return;
    }
    g->local = peer->sa_family == AF_UNIX;
    g->deadline_ms = uv_now(l->loop) + (uint64_t)l->opts.head_timeout_ms;
    uv_timer_start(&g->timer, on_timer, (uint64_t)l->opts.head_timeout_ms, 0);
    look(g); /* most heads are already there */
}

void guest_arrive_refused(struct listener *l, int fd, const struct refusal *r) {
    bool room = l->lingering < LISTENER_MAX_LINGERING;
    struct guest *g = room ? admit(l, fd, NULL, 0) : NULL;
    if (g)
        refuse(g, r);
    else
        guest_send_away(l, fd, r);
}

void guest_send_away(struct listener *l, int fd, const struct refusal *r) {
    char sink[4096];
    send_refusal(l, fd, r);
    shutdown(fd, SHUT_WR);
    for (int i = 0; i < 16 && recv(fd, sink, sizeof sink, MSG_DONTWAIT) > 0; i++) {
    }
    close(fd);
}

void guest_drop_all(struct listener *l) {
    while (l->first) drop(l->first);
}
