/* conns.h - the register of connections that the HTTP library holds.
 *
 * The library's threads enter and leave connections and say what each is doing; the loop walks the
 * register for body deadlines, heartbeats and the end of the service. One lock; a connection's
 * descriptor is valid while it is registered. Knows nothing of the library: a connection is a
 * handle, and streams do the waking. */
#ifndef TACA_SERVER_CONNS_H
#define TACA_SERVER_CONNS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "server/answer.h"
#include "server/stream.h"
#include "server/watch.h"

struct conns;
struct conn;

struct conns_opts {
    int max;
    bool count_peers; /* conns_count_of will be asked */
    int ping_ms;
    struct watch *watch; /* may be NULL */
    void *ctx;
    void (*left)(void *ctx, uint64_t job_key); /* any thread */
};

struct conns *conns_open(const struct conns_opts *opts); /* NULL when out of memory */
void conns_close(struct conns *r);                       /* must be empty; NULL is fine */
int conns_count(struct conns *r);                        /* those expected included */
int conns_count_of(struct conns *r, uint64_t peer);      /* of one client address: peers.h */

/* Loop thread. */
/* One was handed to the library and will enter. */
void conns_expect(struct conns *r, uint64_t peer);
/* Heartbeats and deadlines. True when some are left, for others want to get on meanwhile: call it
 * again soon. */
bool conns_tick(struct conns *r, int64_t now_us);
void conns_left(struct conns *r, uint64_t token, bool half);
void conns_cut_all(struct conns *r);

/* The library's threads. NULL = no room. */
struct conn *conn_enter(struct conns *r, int fd, uint64_t peer);
void conn_leave(struct conn *c); /* NULL is fine; just before its descriptor is closed */

/* The id is borrowed until the connection leaves; `headers` are lines for a refusal, taken over,
 * may be NULL. */
void conn_expect_body(struct conn *c, int64_t deadline_us, const char *request_id, char *headers);
void conn_more_body(struct conn *c, int64_t deadline_us); /* some has come */
/* False: the connection was refused meanwhile, there is nothing left to say on it. */
bool conn_body_done(struct conn *c);
/* Writes an error past the library, which takes no answer in the middle of a body, and throws away
 * what the client still sends for a moment. */
void conn_refuse(struct conn *c, const struct api_error *e);
int conn_refused_status(struct conn *c); /* 0 = not refused */

/* From now on the connection waits for the stream (one reference taken over). False: the service is
 * closing, the stream is gone at once. */
bool conn_attach(struct conn *c, struct stream *s, uint64_t job_key);
void conn_shut(struct conn *c); /* nothing can be sent any more */
void conn_done(struct conn *c); /* the last word was said: its client may leave */

#endif
