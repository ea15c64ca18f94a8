/* stream.h - where a request's answer goes: the one object that an http thread and the producers
 * (loop, encode pool) share.
 *
 * Properties: reference counted, one mutex inside, bounded. A stream is either a reply (one status,
 * one body) or an event stream. Operation: producers push; the http side copies out what is there
 * and suspends its connection when there is nothing; a push resumes it. A slow reader loses
 * progress and previews, never the last word. Safety: no function blocks on the network; `consumer
 * gone` is sticky and pushes to a gone stream are dropped. Knows nothing of MHD: http.c registers
 * how to resume. */
#ifndef TACA_SERVER_STREAM_H
#define TACA_SERVER_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/error.h"
#include "base/buf.h"

struct stream;

enum stream_kind { STREAM_REPLY, STREAM_EVENTS };
enum { STREAM_MAX_BYTES = 8 << 20 }; /* queued for a slow reader before frames are dropped */
struct stream *stream_open(enum stream_kind kind); /* one reference; NULL when out of memory */
struct stream *stream_ref(struct stream *s);
void stream_unref(struct stream *s); /* NULL is fine */
enum stream_kind stream_kind(const struct stream *s);
bool stream_is_gone(struct stream *s);

/* ---- producers ------------------------------------------------------------------------------- */

enum stream_class {
    STREAM_MERGE, /* replaced by a newer one of the same index (progress) */
    STREAM_DROP,  /* dropped when the reader is slow (preview) */
    STREAM_KEEP   /* never dropped (queued, started, image, completed, cancelled, error) */
};
/* Queues one frame. The id of the frame comes from stream_next_id. `index` separates merges. */
void stream_push(struct stream *s, enum stream_class cls, int index, const void *frame, size_t len);
uint64_t stream_next_id(struct stream *s);
/* The next one is this: for frames whose numbers are a job's, not the stream's. */
void stream_set_next_id(struct stream *s, uint64_t id);
/* Headers of an event stream: pairs as for stream_reply. Before the first frame. */
void stream_headers(struct stream *s, const char *const *headers);
/* A comment frame: readers skip it, proxies and kernels see that the stream lives. */
void stream_comment(struct stream *s);
void stream_end(struct stream *s); /* no more frames: the connection closes after the last */

/* The one answer of a reply stream. `body` is moved (emptied); `headers` are pairs name, value
 * ended by NULL, copied; content_type must be a constant. Only the first answer counts. */
void stream_reply(struct stream *s, int status, const char *content_type,
                  const char *const *headers, struct taca_buf *body);
/* Any failure, in the stream's own form: an error answer, or an `error` frame and the end. An event
 * stream that fails before its first frame is answered like a reply, with a status of its own. */
void stream_fail(struct stream *s, const char *job_id, const struct api_error *e);

/* ---- the http side --------------------------------------------------------------------------- */

/* `resume` is called with the stream's lock held, at most once per wait. */
void stream_set_resume(struct stream *s, void (*resume)(void *ctx), void *ctx);
/* The client left or the connection ended: a wait is resumed a last time, then resume is forgotten
 * and everything queued is freed. */
void stream_gone(struct stream *s);
/* Events: copies at most max bytes. STREAM_ENDED = ended and drained, STREAM_CUT = gone, or a frame
 * that must not be lost was lost. 0 = nothing there: the caller waits, and on_wait(ctx), which
 * suspends its connection, was called under the lock. */
enum { STREAM_ENDED = -1, STREAM_CUT = -2 };
long stream_read(struct stream *s, char *out, size_t max, void (*on_wait)(void *ctx), void *ctx);
/* True when the answer is there (moved out), else on_wait was called under the lock. Status 0:
 * there will be no answer, because the client is gone or because events have begun (stream_read);
 * `headers` are then those of the events. */
struct stream_answer {
    int status; /* 0 = none */
    const char *content_type;
    char *headers; /* "Name: value\n"..., free() it */
    char *body;    /* free() it */
    size_t len;
};
bool stream_take(struct stream *s, struct stream_answer *out, void (*on_wait)(void *ctx),
                 void *ctx);

#endif
