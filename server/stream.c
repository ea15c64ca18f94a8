/* stream.c - see stream.h.
 *
 * One mutex per stream, held only for copies and for the two calls that suspend and resume a
 * connection. `waiting` is the whole protocol: the reader sets it under the lock just before it
 * suspends, whoever clears it under the lock resumes; so no resume can come before its suspend. */
#include "server/stream.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "api/reply.h"
#include "server/answer.h"
#include "server/metrics.h"

struct frame {
    struct frame *next;
    enum stream_class cls;
    int index;
    size_t len, sent; /* sent > 0: the reader has begun it, it can no longer be replaced */
    char bytes[];
};

struct stream {
    atomic_int refs;
    enum stream_kind kind;
    pthread_mutex_t lock;
    bool gone, ended, lost; /* lost: a frame that must be kept found no memory */
    bool waiting, begun;    /* begun: a frame was pushed, so failures are frames too */
    bool answered;
    struct frame *first, **last;
    size_t queued_bytes;
    uint64_t next_id;
    struct stream_answer answer;
    void (*resume)(void *ctx);
    void *resume_ctx;
};

struct stream *stream_open(enum stream_kind kind) {
    struct stream *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    atomic_init(&s->refs, 1);
    s->kind = kind;
    s->last = &s->first;
    s->next_id = 1;
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

struct stream *stream_ref(struct stream *s) {
    atomic_fetch_add(&s->refs, 1);
    return s;
}

static void free_queue(struct stream *s) {
    while (s->first) {
        struct frame *f = s->first;
        s->first = f->next;
        free(f);
    }
    s->last = &s->first;
    s->queued_bytes = 0;
}

static void free_answer(struct stream_answer *a) {
    free(a->headers);
    free(a->body);
    *a = (struct stream_answer){0};
}

void stream_unref(struct stream *s) {
    if (!s || atomic_fetch_sub(&s->refs, 1) != 1) return;
    free_queue(s);
    free_answer(&s->answer);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

enum stream_kind stream_kind(const struct stream *s) { return s->kind; }

bool stream_is_gone(struct stream *s) {
    pthread_mutex_lock(&s->lock);
    bool gone = s->gone;
    pthread_mutex_unlock(&s->lock);
    return gone;
}

/* ---- producers ------------------------------------------------------------------------------- */

static void wake(struct stream *s) {
    if (!s->waiting) return;
    s->waiting = false;
    if (s->resume) s->resume(s->resume_ctx);
}

static void unlink_frame(struct stream *s, struct frame **at) {
    struct frame *f = *at;
    *at = f->next;
    if (s->last == &f->next) s->last = at;
    s->queued_bytes -= f->len;
    free(f);
}

/* The newest state replaces one that was not read yet; it goes to the tail, so that frame ids stay
 * in order. */
static void drop_older(struct stream *s, int index) {
    for (struct frame **at = &s->first; *at; at = &(*at)->next)
        if ((*at)->cls == STREAM_MERGE && (*at)->index == index && (*at)->sent == 0) {
            unlink_frame(s, at);
            if (index >= 0) metric_add(METRIC_EVENTS_DROPPED, "progress", 1);
            return;
        }
}

static void drop_previews(struct stream *s) {
    for (struct frame **at = &s->first; *at;) {
        if ((*at)->cls == STREAM_DROP && (*at)->sent == 0) {
            unlink_frame(s, at);
            metric_add(METRIC_EVENTS_DROPPED, "preview", 1);
        } else {
            at = &(*at)->next;
        }
    }
}

/* False when the frame is to be dropped. */
static bool make_room(struct stream *s, enum stream_class cls, int index, size_t len) {
    if (cls == STREAM_MERGE) drop_older(s, index);
    if (s->queued_bytes + len <= STREAM_MAX_BYTES) return true;
    drop_previews(s);
    if (cls == STREAM_KEEP || s->queued_bytes + len <= STREAM_MAX_BYTES) return true;
    if (index >= 0)
        metric_add(METRIC_EVENTS_DROPPED, cls == STREAM_DROP ? "preview" : "progress", 1);
    return false;
}

static void push_locked(struct stream *s, enum stream_class cls, int index, const void *bytes,
                        size_t len) {
    if (s->gone || s->ended || s->answered || len == 0) return;
    if (!make_room(s, cls, index, len)) return;
    struct frame *f = malloc(sizeof *f + len);
    if (f) {
        *f = (struct frame){.cls = cls, .index = index, .len = len};
        memcpy(f->bytes, bytes, len);
        *s->last = f;
        s->last = &f->next;
        s->queued_bytes += len;
    } else if (cls == STREAM_KEEP) {
        s->lost = s->ended = true; /* better a cut stream than one with a hole */
    }
    s->begun = true;
    wake(s);
}

void stream_push(struct stream *s, enum stream_class cls, int index, const void *frame,
                 size_t len) {
    pthread_mutex_lock(&s->lock);
    push_locked(s, cls, index, frame, len);
    pthread_mutex_unlock(&s->lock);
}

uint64_t stream_next_id(struct stream *s) {
    pthread_mutex_lock(&s->lock);
    uint64_t id = s->next_id++;
    pthread_mutex_unlock(&s->lock);
    return id;
}

void stream_set_next_id(struct stream *s, uint64_t id) {
    pthread_mutex_lock(&s->lock);
    s->next_id = id;
    pthread_mutex_unlock(&s->lock);
}

void stream_comment(struct stream *s) {
    static const char comment[] = ": hb\n\n";
    stream_push(s, STREAM_MERGE, -1, comment, sizeof comment - 1);
}

void stream_end(struct stream *s) {
    pthread_mutex_lock(&s->lock);
    s->ended = true;
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

static void answer_locked(struct stream *s, struct stream_answer *a) {
    if (s->gone || s->ended || s->answered) {
        free_answer(a);
        return;
    }
    free(s->answer.headers); /* of the events that never began */
    s->answer = *a;
    s->answered = true;
    wake(s);
}

/* NULL-ended pairs to "Name: value\n" lines; NULL when there are none or no memory. */
static char *join_headers(const char *const *pairs) {
    struct taca_buf b;
    taca_buf_init(&b, 64 * 1024);
    for (; pairs && pairs[0] && pairs[1]; pairs += 2)
        taca_buf_printf(&b, "%s: %s\n", pairs[0], pairs[1]);
    if (!b.failed) return b.data;
    taca_buf_finish(&b);
    return NULL;
}

void stream_reply(struct stream *s, int status, const char *content_type,
                  const char *const *headers, struct taca_buf *body) {
    struct stream_answer a = {.status = status, .content_type = content_type};
    a.headers = join_headers(headers);
    a.body = body->data;
    a.len = body->len;
    *body = (struct taca_buf){.max = body->max};
    pthread_mutex_lock(&s->lock);
    answer_locked(s, &a);
    pthread_mutex_unlock(&s->lock);
}

void stream_headers(struct stream *s, const char *const *headers) {
    char *lines = join_headers(headers);
    pthread_mutex_lock(&s->lock);
    if (!s->answered && !s->gone) {
        free(s->answer.headers);
        s->answer.headers = lines;
        lines = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    free(lines);
}

static void fail_as_answer(struct stream *s, const struct api_error *e) {
    struct taca_buf body, headers;
    taca_buf_init(&body, 4096);
    taca_buf_init(&headers, 1024);
    api_error_json(&body, e);
    answer_retry_headers(&headers, e);
    struct stream_answer a = {.status = e->status,
                              .content_type = "application/json",
                              .headers = headers.data,
                              .body = body.data,
                              .len = body.len};
    answer_locked(s, &a);
}

void stream_fail(struct stream *s, const char *job_id, const struct api_error *e) {
    pthread_mutex_lock(&s->lock);
    if (s->kind == STREAM_EVENTS && s->begun) {
        struct taca_buf frame;
        taca_buf_init(&frame, 4096);
        api_event_error(&frame, s->next_id++, job_id, e);
        push_locked(s, STREAM_KEEP, 0, frame.data, frame.len);
        taca_buf_finish(&frame);
        s->ended = true;
        wake(s);
    } else {
        fail_as_answer(s, e);
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- the http side --------------------------------------------------------------------------- */

void stream_set_resume(struct stream *s, void (*resume)(void *ctx), void *ctx) {
    pthread_mutex_lock(&s->lock);
    s->resume = resume;
    s->resume_ctx = ctx;
    pthread_mutex_unlock(&s->lock);
}

void stream_gone(struct stream *s) {
    pthread_mutex_lock(&s->lock);
    s->gone = true;
    wake(s);
    s->resume = NULL;
    free_queue(s);
    free_answer(&s->answer);
    pthread_mutex_unlock(&s->lock);
}

static size_t copy_frames(struct stream *s, char *out, size_t max) {
    size_t n = 0;
    while (s->first && n < max) {
        struct frame *f = s->first;
        size_t part = f->len - f->sent < max - n ? f->len - f->sent : max - n;
        memcpy(out + n, f->bytes + f->sent, part);
        f->sent += part;
        n += part;
        if (f->sent == f->len) unlink_frame(s, &s->first);
    }
    return n;
}

long stream_read(struct stream *s, char *out, size_t max, void (*on_wait)(void *ctx), void *ctx) {
    pthread_mutex_lock(&s->lock);
    long n = (long)copy_frames(s, out, max);
    if (n == 0) {
        if (s->gone || s->lost) {
            n = STREAM_CUT;
        } else if (s->ended) {
            n = STREAM_ENDED;
        } else {
            s->waiting = true;
            on_wait(ctx);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return n;
}

bool stream_take(struct stream *s, struct stream_answer *out, void (*on_wait)(void *ctx),
                 void *ctx) {
    pthread_mutex_lock(&s->lock);
    bool there = s->answered || s->gone || s->ended || s->begun;
    if (there) {
        *out = s->answer;
        s->answer = (struct stream_answer){0};
    } else {
        s->waiting = true;
        on_wait(ctx);
    }
    pthread_mutex_unlock(&s->lock);
    return there;
}
