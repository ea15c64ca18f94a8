/* generate.c - POST /v1/generate up to the border: what the client wants becomes a job, the job is
 * the loop's, and the connection waits at the job's stream. */
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "server/metrics.h"
#include "server/routes.h"

static void refuse(struct http_reply *out, const struct api_error *e) {
    metric_add(METRIC_REQUESTS, "rejected", 1);
    reply_refuse(out, e);
}

/* "application/json", with or without parameters. */
static bool is_json(const char *content_type) {
    static const char json[] = "application/json";
    if (!content_type || strncasecmp(content_type, json, sizeof json - 1) != 0) return false;
    char next = content_type[sizeof json - 1];
    return next == 0 || next == ';' || next == ' ' || next == '\t';
}

bool generate_early(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    struct api_error e = {0};
    if (!is_json(q->content_type)) {
        api_fail(&e, 415, "unsupported_media_type", NULL,
                 "the body must be application/json, and Content-Type must say so");
        refuse(out, &e);
        return true;
    }
    if (!refuse_unless_ready(r, out)) return false;
    metric_add(METRIC_REQUESTS, "rejected", 1);
    return true;
}

/* Below 2^53, so that every JSON reader keeps all its digits. */
static bool random_seed(uint64_t *out) {
    uint64_t x;
    if (getrandom(&x, sizeof x, 0) != (ssize_t)sizeof x) return false;
    *out = x >> 11;
    return true;
}

static bool fill_job(struct job *j, const struct routes *r, const struct http_request *q,
                     struct api_error *e) {
    uint64_t seed;
    if (!random_seed(&seed)) {
        api_fail(e, 500, "internal", NULL, "no random numbers");
        return false;
    }
    struct api_request parsed = {0};
    if (api_request_parse(&parsed, q->body, q->body_len, &r->hooks.status->model, &r->limits, seed,
                          e))
        return false;
    j->request = parsed;
    if (api_negotiate(&j->reply, q->accept, &j->request, e)) return false;
    j->stream = stream_open(j->reply == API_REPLY_EVENTS ? STREAM_EVENTS : STREAM_REPLY);
    if (!j->stream) {
        api_fail(e, 503, "too_many_connections", NULL, "out of memory");
        return false;
    }
    j->received_us = q->received_us;
    j->created_s = time(NULL);
    memcpy(j->request_id, q->request_id, strlen(q->request_id) + 1);
    return true;
}

void generate_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    struct api_error e = {0};
    if (generate_early(r, q, out)) return;
    struct job *j = job_open();
    if (!j) {
        api_fail(&e, 503, "too_many_connections", NULL, "out of memory");
        refuse(out, &e);
        return;
    }
    if (!fill_job(j, r, q, &e)) {
        job_close(j);
        refuse(out, &e);
        return;
    }
    /* once submitted the job may be finished and freed at any moment */
    struct stream *stream = stream_ref(j->stream);
    uint64_t key = j->key;
    if (j->reply == API_REPLY_EVENTS) taca_buf_printf(&out->headers, "X-Job-Id: %s\n", j->id);
    if (r->hooks.submit(r->hooks.ctx, j)) {
        out->stream = stream;
        out->job_key = key;
        return;
    }
    stream_unref(stream);
    job_close(j);
    taca_buf_reset(&out->headers);
    e.retry_after_s = 1;
    api_fail(&e, 503, "draining", NULL, "the service is shutting down");
    refuse(out, &e);
}
