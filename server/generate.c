/* generate.c - requests for pictures up to the border: what the client wants becomes a job, the job
 * is the loop's, and the connection waits at the stream of the job's reader. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "api/form.h"
#include "server/metrics.h"
#include "server/pressure.h"
#include "server/routes.h"

static void count_rejected(const struct http_request *q) {
    metric_add(METRIC_REQUESTS, "rejected", 1);
    metric_key(q->client.name, "rejected");
}

static void refuse(const struct http_request *q, struct http_reply *out,
                   const struct api_error *e) {
    count_rejected(q);
    reply_refuse(out, e);
}

/* "application/json", with or without parameters. */
bool is_json(const char *content_type) {
    static const char json[] = "application/json";
    if (!content_type || strncasecmp(content_type, json, sizeof json - 1) != 0) return false;
    char next = content_type[sizeof json - 1];
    return next == 0 || next == ';' || next == ' ' || next == '\t';
}

/* True, with *e filled, when memory is as short as `level`. */
static bool is_short(const struct routes *r, enum pressure_level level, struct api_error *e) {
    if (atomic_load(&r->hooks.status->pressure) < (int)level) return false;
    api_fail(e, 503, "overloaded", NULL, "memory is short; try again in a moment%s",
             level == PRESSURE_NO_ASYNC ? ", or wait for the answer" : "");
    e->retry_after_s = 5;
    return true;
}

static bool early(const struct routes *r, const struct http_request *q, bool or_form,
                  struct http_reply *out) {
    struct api_error e = {0};
    if (!is_json(q->content_type) && !(or_form && api_is_form(q->content_type))) {
        api_fail(&e, 415, "unsupported_media_type", NULL,
                 "the body must be application/json%s, and Content-Type must say so",
                 or_form ? " or multipart/form-data" : "");
        refuse(q, out, &e);
        return true;
    }
    if (refuse_unless_ready(r, out)) {
        count_rejected(q);
        return true;
    }
    if (!is_short(r, PRESSURE_NO_JOBS, &e)) return false;
    refuse(q, out, &e);
    return true;
}

bool generate_early(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    return early(r, q, false, out);
}

bool edit_early(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    return early(r, q, true, out);
}

/* Below 2^53, so that every JSON reader keeps all its digits. */
static bool random_seed(uint64_t *out) {
    uint64_t x;
    if (getrandom(&x, sizeof x, 0) != (ssize_t)sizeof x) return false;
    *out = x >> 11;
    return true;
}

/* ---- how the answer is wanted ---------------------------------------------------------------- */

enum { MAX_WAIT_S = 120 };

struct preference {
    bool async;
    int wait_s; /* 0 = none */
};

/* "respond-async, wait=10"; what is unknown or malformed counts as not said (RFC 7240). */
static struct preference read_prefer(const char *s) {
    struct preference p = {0};
    while (s && *s) {
        s += strspn(s, " \t,");
        size_t len = strcspn(s, ",;");
        size_t word = len;
        while (word > 0 && (s[word - 1] == ' ' || s[word - 1] == '\t')) word--;
        if (word == 13 && strncasecmp(s, "respond-async", 13) == 0) p.async = true;
        if (word > 5 && word < 10 && strncasecmp(s, "wait=", 5) == 0 &&
            strspn(s + 5, "0123456789") == word - 5)
            p.wait_s = (int)strtol(s + 5, NULL, 10);
        s += strcspn(s, ",");
    }
    if (p.wait_s > MAX_WAIT_S) p.wait_s = MAX_WAIT_S;
    return p;
}

void request_base(char out[API_BASE_MAX], const struct http_request *q) {
    static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]";
    bool tls = q->forwarded_proto && strcasecmp(q->forwarded_proto, "https") == 0;
    out[0] = 0;
    if (!q->host || !q->host[0] || strspn(q->host, ok) != strlen(q->host)) return;
    int n = snprintf(out, API_BASE_MAX, "%s://%s", tls ? "https" : "http", q->host);
    if (n < 0 || n >= API_BASE_MAX) out[0] = 0;
}

static bool open_reader(struct job *j, const struct http_request *q, struct http_reply *out,
                        struct api_error *e) {
    struct api_request *a = &j->request;
    enum api_reply form = API_REPLY_JSON;
    struct preference p = read_prefer(q->prefer);
    /* a stream that was asked for in the body is stronger than a header */
    bool async = !a->stream && (p.async || p.wait_s > 0), ticket = async && p.wait_s == 0;
    if (ticket ? api_settle_format(a, API_PNG, e) : api_negotiate(&form, q->accept, a, e))
        return false;
    if (form == API_REPLY_EVENTS && !ticket) async = false;
    struct reader *r = reader_open(form);
    if (!r) {
        api_fail(e, 503, "too_many_connections", NULL, "out of memory");
        return false;
    }
    r->openai = a->openai;
    r->progress = a->progress_events;
    r->urls = a->response == API_RESPONSE_URL;
    r->ticket = ticket;
    r->holds = true;
    request_base(r->base, q);
    if (async && !ticket) r->wait_ms = p.wait_s * 1000;
    if (async && p.async) taca_buf_puts(&out->headers, "Preference-Applied: respond-async\n");
    if (r->wait_ms) taca_buf_printf(&out->headers, "Preference-Applied: wait=%d\n", p.wait_s);
    j->comes_back = async || j->named || j->idempotency_key[0];
    j->readers = r;
    return true;
}

/* ---- jobs ------------------------------------------------------------------------------------ */

static bool set_key(struct job *j, const char *key, enum api_dialect dialect, struct api_error *e) {
    static const char letters[] = {'n', 'o', 'e', 'a', 'i'}; /* of the dialects */
    size_t len = key ? strlen(key) : 0;
    if (!key) return true;
    for (size_t i = 0; i < len; i++)
        if (key[i] < ' ' || key[i] > '~') len = 0;
    if (len < 1 || len > IDEMPOTENCY_KEY_MAX) {
        api_fail(e, 400, "invalid_idempotency_key", "Idempotency-Key",
                 "Idempotency-Key must be 1..%d printable ASCII characters", IDEMPOTENCY_KEY_MAX);
        return false;
    }
    /* each route and each client has keys of its own */
    snprintf(j->idempotency_key, sizeof j->idempotency_key, "%c%s:%s", letters[dialect],
             j->client.name, key);
    return true;
}

/* What the key says of a request that is fine by itself. */
static bool may_use(struct job *j, const struct taca_model_info *model, struct api_error *e) {
    const struct access_client *c = &j->client;
    if (!access_allows_model(c, model->id)) {
        api_fail(e, 403, "forbidden", "model", "this API key is not for model \"%s\"", model->id);
        return false;
    }
    if (c->limits_priority && j->request.priority > c->max_priority) {
        j->request.priority = c->max_priority;
        j->request.warnings |= TACA_WARN_PRIORITY_LOWERED;
    }
    return true;
}

static bool parse_body(struct job *j, const struct routes *r, const struct http_request *q,
                       enum api_dialect dialect, struct api_error *e) {
    const struct api_source from = {dialect, q->content_type, q->body, q->body_len, true};
    uint64_t seed;
    struct api_request parsed = {0};
    struct api_limits limits = r->limits;
    access_narrow(&q->client, &limits);
    if (!random_seed(&seed)) {
        api_fail(e, 500, "internal", NULL, "no random numbers");
        return false;
    }
    struct api_offer offer = {.limits = &limits};
    models_offer(&r->hooks.status->models, &offer);
    int rc = api_request_read(&parsed, &from, &offer, seed, e);
    if (!rc) j->request = parsed;
    return rc == 0 && may_use(j, offer.models[j->request.model].info, e);
}

/* Workers that come back in a moment are waited for; those that die again and again are not. */
static bool somebody_serves(const struct job *j, const struct routes *r, struct api_error *e) {
    const struct service_status *s = r->hooks.status;
    const struct model *m = &s->models.at[j->request.model];
    if (!atomic_load(&m->broken)) return true;
    e->retry_after_s = atomic_load(&s->retry_s);
    api_fail(e, 503, "gpu_unavailable", NULL, "no device can serve this model just now");
    return false;
}

/* What a repetition has in common: of a form not the bytes, whose boundary is made anew each time.
 */
static bool hash_body(struct job *j, const struct http_request *q, struct api_error *e) {
    struct api_form form;
    struct taca_buf all;
    if (!api_is_form(q->content_type)) return sha256(j->body_hash, q->body, q->body_len), true;
    if (api_form_read(&form, q->content_type, q->body, q->body_len, e)) return false;
    taca_buf_init(&all, 64 << 10);
    for (int i = 0; i < form.n; i++) {
        uint8_t hash[SHA256_BYTES];
        sha256(hash, form.parts[i].bytes, form.parts[i].len);
        taca_buf_put(&all, form.parts[i].name, strlen(form.parts[i].name) + 1);
        taca_buf_put(&all, hash, sizeof hash);
    }
    if (all.failed) api_fail(e, 503, "too_many_connections", NULL, "out of memory");
    if (!all.failed) sha256(j->body_hash, all.data ? all.data : "", all.len);
    taca_buf_finish(&all);
    return e->status == 0;
}

static bool fill_job(struct job *j, const struct routes *r, const struct http_request *q,
                     enum api_dialect dialect, struct http_reply *out, struct api_error *e) {
    j->client = q->client;
    if (!j->named && !set_key(j, q->idempotency_key, dialect, e)) return false;
    if (!parse_body(j, r, q, dialect, e) || !somebody_serves(j, r, e)) return false;
    if (!hash_body(j, q, e)) return false;
    if (!open_reader(j, q, out, e)) return false;
    if (j->readers->ticket && is_short(r, PRESSURE_NO_ASYNC, e)) return false;
    j->received_us = q->received_us;
    j->created_s = time(NULL);
    memcpy(j->request_id, q->request_id, strlen(q->request_id) + 1);
    j->trace = *q->trace;
    if (j->request.ignored)
        taca_buf_printf(&out->headers, "X-Ignored-Params: %s\n", j->request.ignored);
    return true;
}

void reply_no_memory(struct http_reply *out) {
    struct api_error e = {.retry_after_s = 1};
    api_fail(&e, 503, "too_many_connections", NULL, "out of memory");
    reply_refuse(out, &e);
}

static void refuse_closing(struct http_reply *out) {
    struct api_error e = {.retry_after_s = 1};
    taca_buf_reset(&out->headers);
    api_fail(&e, 503, "draining", NULL, "the service is shutting down");
    reply_refuse(out, &e);
}

static void refuse_crowd(struct http_reply *out) {
    struct api_error e = {.retry_after_s = 1};
    taca_buf_reset(&out->headers);
    api_fail(&e, 503, "too_many_connections", NULL,
             "too many pictures are being received: try again in a moment");
    reply_refuse(out, &e);
}

/* `id`: the client's choice, or NULL. */
static void make_job(const struct routes *r, const struct http_request *q, const char *id,
                     enum api_dialect dialect, struct http_reply *out) {
    struct api_error e = {0};
    if (early(r, q, dialect == API_OPENAI_EDIT, out)) return;
    struct job *j = job_open();
    if (!j) {
        count_rejected(q);
        reply_no_memory(out);
        return;
    }
    if (id) {
        snprintf(j->id, sizeof j->id, "%s", id);
        j->named = true;
    }
    if (!fill_job(j, r, q, dialect, out, &e)) {
        job_close(j);
        taca_buf_reset(&out->headers);
        refuse(q, out, &e);
        return;
    }
    /* once submitted the job may be finished and freed at any moment */
    struct stream *stream = stream_ref(j->readers->stream);
    uint64_t key = j->readers->key;
    if (r->hooks.submit(r->hooks.ctx, j)) {
        out->stream = stream;
        out->job_key = key;
        out->logged = true;
        return;
    }
    const bool draining = atomic_load(&r->hooks.status->state) == SERVICE_DRAINING;
    const bool crowd = j->request.image.bytes && !draining;
    stream_unref(stream);
    job_close(j);
    count_rejected(q);
    (crowd ? refuse_crowd : refuse_closing)(out);
}

void generate_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    make_job(r, q, NULL, API_NATIVE, out);
}

void openai_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    make_job(r, q, NULL, API_OPENAI, out);
}

void edit_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    make_job(r, q, NULL, API_OPENAI_EDIT, out);
}

void a1111_text_answer(const struct routes *r, const struct http_request *q,
                       struct http_reply *out) {
    make_job(r, q, NULL, API_A1111, out);
}

void a1111_image_answer(const struct routes *r, const struct http_request *q,
                        struct http_reply *out) {
    make_job(r, q, NULL, API_A1111_IMAGE, out);
}

void job_put_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    char id[API_ID_MAX + 1];
    job_id_from(id, q->path);
    make_job(r, q, id, API_NATIVE, out);
}

void reply_when_asked(const struct routes *r, struct ask *a, struct http_reply *out) {
    if (!a) {
        reply_no_memory(out);
        return;
    }
    struct stream *stream = stream_ref(a->reader->stream);
    uint64_t key = a->reader->key;
    if (r->hooks.ask(r->hooks.ctx, a)) {
        out->stream = stream;
        out->job_key = key;
        return;
    }
    stream_unref(stream);
    ask_close(a);
    refuse_closing(out);
}
