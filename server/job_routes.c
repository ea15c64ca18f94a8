/* job_routes.c - routes that ask the loop about jobs. A path becomes a question, the connection
 * waits at the question's stream. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/routes.h"

enum { PREFIX_BYTES = sizeof "/v1/jobs/" - 1 };

static bool id_char(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
           c == '_' || c == '-';
}

size_t job_id_len(const char *s) {
    size_t n = 0;
    while (id_char(s[n])) n++;
    if (n > API_ID_MAX || (s[n] && s[n] != '/')) return 0;
    return strspn(s, ".") == n ? 0 : n; /* "." and "..": clients fold them away */
}

void job_id_from(char out[API_ID_MAX + 1], const char *path) {
    const char *id = path + PREFIX_BYTES;
    size_t n = job_id_len(id);
    memcpy(out, id, n);
    out[n] = 0;
}

struct ask *job_ask_open(enum ask_kind kind, enum api_reply form, const struct http_request *q) {
    struct ask *a = calloc(1, sizeof *a);
    if (a) a->reader = reader_open(form);
    if (!a || !a->reader) {
        free(a);
        return NULL;
    }
    a->kind = kind;
    a->client = q->client;
    bool of_one = kind != ASK_QUEUE && kind != ASK_PROGRESS && kind != ASK_INTERRUPT;
    if (of_one) job_id_from(a->id, q->path);
    request_base(a->reader->base, q);
    return a;
}

void job_status_answer(const struct routes *r, const struct http_request *q,
                       struct http_reply *out) {
    reply_when_asked(r, job_ask_open(ASK_STATUS, API_REPLY_JSON, q), out);
}

void job_cancel_answer(const struct routes *r, const struct http_request *q,
                       struct http_reply *out) {
    reply_when_asked(r, job_ask_open(ASK_CANCEL, API_REPLY_JSON, q), out);
}

void queue_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    reply_when_asked(r, job_ask_open(ASK_QUEUE, API_REPLY_JSON, q), out);
}

/* A header that is no id counts as not sent, which repeats what is known and loses nothing. */
static uint64_t event_id_of(const char *s) {
    enum { MOST_DIGITS = 18 };
    const size_t digits = s ? strspn(s, "0123456789") : 0;
    return digits > 0 && digits <= MOST_DIGITS && !s[digits] ? strtoull(s, NULL, 10) : 0;
}

/* An image may be large: its event here says where it is, so every line stays short. */
void job_events_answer(const struct routes *r, const struct http_request *q,
                       struct http_reply *out) {
    /* a stream without a body has no end to wait for */
    bool head = strcmp(q->method, "HEAD") == 0;
    struct ask *a = job_ask_open(ASK_EVENTS, head ? API_REPLY_JSON : API_REPLY_EVENTS, q);
    if (a) {
        a->head = head;
        a->reader->urls = true;
        a->reader->after = event_id_of(q->last_event_id);
    }
    reply_when_asked(r, a, out);
}

void job_image_answer(const struct routes *r, const struct http_request *q,
                      struct http_reply *out) {
    struct ask *a = job_ask_open(ASK_IMAGE, API_REPLY_IMAGE, q);
    if (a) {
        a->index =
            (int)strtol(strrchr(q->path, '/') + 1, NULL, 10); /* the table's pattern: digits */
        if (q->if_none_match) snprintf(a->known, sizeof a->known, "%s", q->if_none_match);
    }
    reply_when_asked(r, a, out);
}
