/* conns.c - see conns.h.
 *
 * Lock order: the register's lock, then a stream's, then the HTTP library's own. */
#include "server/conns.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "server/metrics.h"
#include "server/peers.h"

enum {
    LINGER_US = 1000 * 1000,
    SEND_BUFFER_BYTES = 65536,  /* a stalled reader of events costs no more kernel memory */
    NOT_SENT_BYTES = 32768,     /* nor one of a picture, whose buffer grows with a fast line */
    PINGS_AT_ONCE = 64,         /* each wakes a thread of the library */
    USER_TIMEOUT_MS = 30 * 1000 /* unacknowledged data: the peer has vanished */
};

struct conn {
    struct conns *owner;
    int fd;
    uint32_t slot;
    int64_t deadline_us; /* of the body, or of the moment after a refusal; 0 = none */
    int refused_status;  /* 0 = not refused */
    const char *request_id;
    char *headers; /* of a refusal; owned, NULL = none */
    uint64_t peer;
    struct stream *stream;
    uint64_t job_key; /* 0 = nobody needs to know that the client leaves */
    int64_t ping_us;
};

struct slot {
    struct conn *conn;   /* NULL = free */
    uint32_t generation; /* tokens of earlier users do not match */
    uint32_t next_free;
};

struct conns {
    struct conns_opts opts;
    pthread_mutex_t lock;
    bool closing;
    int count;
    /* the peers of those handed to the library whose threads have not taken them up yet; the first
     * n_overdue have been there for a tick */
    uint64_t *expected;
    int n_expected, n_overdue;
    struct peers *peers; /* NULL = not counted */
    uint32_t first_free; /* == opts.max: none */
    int next_slot, seen; /* where the tick goes on, and how many it has met on the way there */
    struct slot slots[];
};

struct conns *conns_open(const struct conns_opts *opts) {
    struct conns *r = calloc(1, sizeof *r + (size_t)opts->max * sizeof r->slots[0]);
    if (!r) return NULL;
    r->opts = *opts;
    r->expected = calloc((size_t)opts->max, sizeof r->expected[0]);
    if (opts->count_peers) r->peers = peers_open((size_t)opts->max);
    if (!r->expected || (opts->count_peers && !r->peers)) {
        peers_close(r->peers);
        free(r->expected);
        free(r);
        return NULL;
    }
    for (int i = 0; i < opts->max; i++) r->slots[i].next_free = (uint32_t)i + 1;
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

void conns_close(struct conns *r) {
    if (!r) return;
    pthread_mutex_destroy(&r->lock);
    peers_close(r->peers);
    free(r->expected);
    free(r);
}

int conns_count(struct conns *r) {
    pthread_mutex_lock(&r->lock);
    int n = r->count + r->n_expected;
    pthread_mutex_unlock(&r->lock);
    return n;
}

int conns_count_of(struct conns *r, uint64_t peer) {
    pthread_mutex_lock(&r->lock);
    int n = r->peers ? peers_count(r->peers, peer) : 0;
    pthread_mutex_unlock(&r->lock);
    return n;
}

/* ---- entering and leaving -------------------------------------------------------------------- */

static void set_option(int fd, int level, int name, int value) {
    setsockopt(fd, level, name, &value, sizeof value);
}

/* A peer that vanishes without a word is found by the kernel, also while nothing is sent. */
static void tune_socket(int fd) {
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS);
    set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOT_SENT_BYTES);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 15);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

static void count_peer(struct conns *r, uint64_t peer, bool here) {
    if (r->peers && here) peers_add(r->peers, peer);
    if (r->peers && !here) peers_drop(r->peers, peer);
}

void conns_expect(struct conns *r, uint64_t peer) {
    pthread_mutex_lock(&r->lock);
    if (r->n_expected < r->opts.max) { /* the listener's cap is lower */
        r->expected[r->n_expected++] = peer;
        count_peer(r, peer, true);
    }
    pthread_mutex_unlock(&r->lock);
}

static void strike_expected(struct conns *r, int at) {
    size_t behind = (size_t)(r->n_expected - at - 1);
    memmove(r->expected + at, r->expected + at + 1, behind * sizeof r->expected[0]);
    r->n_expected--;
    r->n_overdue -= at < r->n_overdue;
}

/* The library does not tell when it drops one (no memory): those are forgotten after two ticks. */
static void forget_expected(struct conns *r) {
    while (r->n_overdue > 0) {
        count_peer(r, r->expected[0], false);
        strike_expected(r, 0);
    }
    r->n_overdue = r->n_expected;
}

/* From here on it counts against its peer as a connection. */
static void has_come(struct conns *r, uint64_t peer) {
    for (int i = 0; i < r->n_expected; i++) {
        if (r->expected[i] != peer) continue;
        strike_expected(r, i);
        return;
    }
    count_peer(r, peer, true); /* so late that it was forgotten */
}

struct conn *conn_enter(struct conns *r, int fd, uint64_t peer) {
    struct conn *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->owner = r;
    c->fd = fd;
    c->peer = peer;
    tune_socket(fd);
    pthread_mutex_lock(&r->lock);
    has_come(r, peer);
    uint32_t at = r->first_free;
    if (at == (uint32_t)r->opts.max) {
        count_peer(r, peer, false);
        free(c);
        c = NULL;
    } else {
        r->first_free = r->slots[at].next_free;
        r->slots[at].conn = c;
        c->slot = at;
        r->count++;
    }
    pthread_mutex_unlock(&r->lock);
    return c;
}

void conn_leave(struct conn *c) {
    if (!c) return;
    struct conns *r = c->owner;
    struct stream *s = c->stream;
    pthread_mutex_lock(&r->lock);
    struct slot *slot = &r->slots[c->slot];
    slot->conn = NULL;
    slot->generation++;
    slot->next_free = r->first_free;
    r->first_free = c->slot;
    r->count--;
    count_peer(r, c->peer, false);
    if (s && r->opts.watch) watch_remove(r->opts.watch, c->fd);
    uint64_t key = c->job_key;
    pthread_mutex_unlock(&r->lock);
    if (s) {
        if (stream_kind(s) == STREAM_EVENTS) metric_inc(METRIC_SSE_STREAMS, -1);
        stream_gone(s);
        stream_unref(s);
    }
    if (key) r->opts.left(r->opts.ctx, key);
    free(c->headers);
    free(c);
}

/* ---- bodies ---------------------------------------------------------------------------------- */

void conn_expect_body(struct conn *c, int64_t deadline_us, const char *request_id, char *headers) {
    pthread_mutex_lock(&c->owner->lock);
    c->request_id = request_id;
    c->headers = headers;
    c->deadline_us = deadline_us;
    pthread_mutex_unlock(&c->owner->lock);
}

void conn_more_body(struct conn *c, int64_t deadline_us) {
    pthread_mutex_lock(&c->owner->lock);
    if (!c->refused_status) c->deadline_us = deadline_us;
    pthread_mutex_unlock(&c->owner->lock);
}

bool conn_body_done(struct conn *c) {
    pthread_mutex_lock(&c->owner->lock);
    bool good = c->refused_status == 0;
    if (good) {
        c->deadline_us = 0;
        free(c->headers);
        c->headers = NULL;
    }
    pthread_mutex_unlock(&c->owner->lock);
    return good;
}

int conn_refused_status(struct conn *c) {
    pthread_mutex_lock(&c->owner->lock);
    int status = c->refused_status;
    pthread_mutex_unlock(&c->owner->lock);
    return status;
}

/* Under the lock, before the body is done: the library has not written a byte of an answer. */
static void refuse_locked(struct conn *c, const struct api_error *e, int64_t now_us) {
    struct taca_buf b;
    taca_buf_init(&b, 8192);
    answer_error_bytes(&b, e, c->request_id, c->headers);
    if (!b.failed) (void)!send(c->fd, b.data, b.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    taca_buf_finish(&b);
    shutdown(c->fd, SHUT_WR);
    c->refused_status = e->status;
    c->deadline_us = now_us + LINGER_US;
    metric_add(METRIC_REJECTED, e->code, 1);
}

void conn_refuse(struct conn *c, const struct api_error *e) {
    pthread_mutex_lock(&c->owner->lock);
    if (!c->refused_status) refuse_locked(c, e, taca_now_us());
    pthread_mutex_unlock(&c->owner->lock);
}

static void late_body(struct conn *c, int64_t now_us) {
    struct api_error e = {0};
    if (c->refused_status) { /* the library notices and closes */
        c->deadline_us = 0;
        shutdown(c->fd, SHUT_RDWR);
        return;
    }
    api_fail(&e, 408, "body_timeout", NULL, "the request body did not arrive in time");
    refuse_locked(c, &e, now_us);
}

/* An end of the client's side that comes together with bytes wakes the library once, for those.
 * When they have been read it is shown the end once more; a body that is whole is answered all the
 * same.
 */
static void show_end(const struct conn *c) {
    char byte;
    if (recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) shutdown(c->fd, SHUT_RD);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static uint64_t token_of(const struct conn *c) {
    return (uint64_t)c->owner->slots[c->slot].generation << 32 | c->slot;
}

bool conn_attach(struct conn *c, struct stream *s, uint64_t job_key) {
    struct conns *r = c->owner;
    if (stream_kind(s) == STREAM_EVENTS) {
        set_option(c->fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES);
        metric_inc(METRIC_SSE_STREAMS, 1);
    }
    pthread_mutex_lock(&r->lock);
    c->stream = s;
    c->job_key = job_key;
    /* those who come together are not reminded together */
    c->ping_us = taca_now_us() + (int64_t)r->opts.ping_ms * (1000 - c->slot * 37 % 500);
    bool open = !r->closing;
    if (open && r->opts.watch) watch_add(r->opts.watch, c->fd, token_of(c));
    if (!open) stream_gone(s);
    pthread_mutex_unlock(&r->lock);
    return open;
}

void conn_done(struct conn *c) {
    pthread_mutex_lock(&c->owner->lock);
    c->job_key = 0;
    pthread_mutex_unlock(&c->owner->lock);
}

void conn_shut(struct conn *c) { shutdown(c->fd, SHUT_RDWR); }

static bool is_due(const struct conn *c, int64_t now_us) {
    return c->stream && stream_kind(c->stream) == STREAM_EVENTS && now_us >= c->ping_us;
}

bool conns_tick(struct conns *r, int64_t now_us) {
    int pings = 0;
    pthread_mutex_lock(&r->lock);
    if (r->next_slot == 0) forget_expected(r);
    for (; r->next_slot < r->opts.max && r->seen < r->count && pings < PINGS_AT_ONCE;
         r->next_slot++) {
        struct conn *c = r->slots[r->next_slot].conn;
        if (!c) continue;
        r->seen++;
        if (c->deadline_us && now_us >= c->deadline_us)
            late_body(c, now_us);
        else if (c->deadline_us)
            show_end(c);
        if (!is_due(c, now_us)) continue;
        c->ping_us = now_us + (int64_t)r->opts.ping_ms * 1000;
        stream_comment(c->stream);
        pings++;
    }
    bool more = pings == PINGS_AT_ONCE;
    if (!more) r->next_slot = r->seen = 0;
    pthread_mutex_unlock(&r->lock);
    return more;
}

/* A half-closed event stream may still be read: a byte is sent, and a client that is really gone
 * answers it with a reset. A half-closed client that waits for one reply is taken as gone. */
void conns_left(struct conns *r, uint64_t token, bool half) {
    uint64_t key = 0;
    uint32_t at = (uint32_t)token;
    pthread_mutex_lock(&r->lock);
    struct conn *c = at < (uint32_t)r->opts.max ? r->slots[at].conn : NULL;
    if (c && c->stream && token == token_of(c)) {
        if (half && stream_kind(c->stream) == STREAM_EVENTS) {
            stream_comment(c->stream);
            watch_again(r->opts.watch, c->fd, token);
        } else {
            key = c->job_key;
            c->job_key = 0;
            if (key) stream_gone(c->stream);
        }
    }
    pthread_mutex_unlock(&r->lock);
    if (key) r->opts.left(r->opts.ctx, key);
}

void conns_cut_all(struct conns *r) {
    pthread_mutex_lock(&r->lock);
    r->closing = true;
    r->n_expected = r->n_overdue = 0; /* there are no more ticks to forget them */
    for (int i = 0; i < r->opts.max; i++) {
        struct conn *c = r->slots[i].conn;
        if (!c) continue;
        c->job_key = 0; /* it is we who leave */
        if (c->stream) stream_gone(c->stream);
        if (c->deadline_us) shutdown(c->fd, SHUT_RDWR); /* its body will not be wanted */
    }
    pthread_mutex_unlock(&r->lock);
}
