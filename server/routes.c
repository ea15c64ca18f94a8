/* routes.c - see routes.h. */
#include "server/routes.h"

#include <string.h>

#include "api/reply.h"
#include "server/answer.h"
#include "server/metrics.h"

typedef void route_fn(const struct routes *r, const struct http_request *q, struct http_reply *out);
typedef bool early_fn(const struct routes *r, const struct http_request *q, struct http_reply *out);

enum { MAX_REPLY_BYTES = 1 << 20 };

/* ---- answers --------------------------------------------------------------------------------- */

void reply_json(struct http_reply *out, int status) {
    out->status = status;
    out->content_type = "application/json";
}

/* The label of a refusal: the error's code, but one for all the fields a request may get wrong. */
static const char *reason_of(const struct api_error *e) {
    if (e->status == 405) return "not_allowed";
    if (e->status == 404) return "not_found";
    return e->status == 400 ? "invalid_request" : e->code;
}

void reply_refuse(struct http_reply *out, const struct api_error *e) {
    taca_buf_reset(&out->body);
    reply_json(out, e->status);
    answer_retry_headers(&out->headers, e);
    api_error_json(&out->body, e);
    metric_add(METRIC_REJECTED, reason_of(e), 1);
}

bool refuse_unless_ready(const struct routes *r, struct http_reply *out) {
    struct api_error e = {0};
    switch ((enum service_state)atomic_load(&r->hooks.status->state)) {
    case SERVICE_READY: return false;
    case SERVICE_LOADING:
        e.retry_after_s = 5;
        api_fail(&e, 503, "loading", NULL, "the model is still being loaded");
        break;
    case SERVICE_DRAINING:
        /* for the time of the grace work is still welcome: `submit` knows when that is over */
        if (r->hooks.status->model.id[0]) return false;
        e.retry_after_s = 1; /* another replica may answer at once */
        api_fail(&e, 503, "draining", NULL, "the service is shutting down");
        break;
    case SERVICE_FAILED:
        e.retry_after_s = 30;
        api_fail(&e, 503, "gpu_unavailable", NULL, "no device can serve requests");
        break;
    }
    reply_refuse(out, &e);
    return true;
}

/* ---- small routes ---------------------------------------------------------------------------- */

static void root(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    if (page_wanted(q)) {
        page_answer(r, q, out);
        return;
    }
    reply_json(out, 200);
    taca_buf_puts(&out->headers, "Vary: Accept\n");
    taca_buf_puts(&out->body, "{\"name\":\"taca\",\"version\":\"" TACA_VERSION "\",\"links\":{"
                              "\"generate\":\"/v1/generate\",\"models\":\"/v1/models\","
                              "\"capabilities\":\"/v1/capabilities\",\"queue\":\"/v1/queue\","
                              "\"health\":\"/health\",\"metrics\":\"/metrics\"}}");
}

/* What the model is can be told from READY on. */
static bool has_model(const struct routes *r, struct http_reply *out) {
    return !refuse_unless_ready(r, out);
}

static void models(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    (void)q;
    if (!has_model(r, out)) return;
    reply_json(out, 200);
    api_models_json(&out->body, &r->hooks.status->model, r->hooks.status->model_loaded_s);
}

static void capabilities(const struct routes *r, const struct http_request *q,
                         struct http_reply *out) {
    (void)q;
    if (!has_model(r, out)) return;
    reply_json(out, 200);
    api_capabilities_json(&out->body, &r->hooks.status->model, &r->limits);
}

static void queue(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    struct service_status *s = r->hooks.status;
    (void)q;
    reply_json(out, 200);
    taca_buf_printf(&out->body, "{\"waiting\":%d,\"running\":%d}", atomic_load(&s->waiting),
                    atomic_load(&s->running));
}

static void metrics(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    (void)q;
    out->status = 200;
    out->content_type = "text/plain; version=0.0.4; charset=utf-8";
    r->hooks.metrics(r->hooks.ctx, &out->body);
}

/* ---- the table ------------------------------------------------------------------------------- */

enum { PUBLIC = 1, ADMIN = 2, BOTH = 3 };

static const struct route {
    const char *path;
    int where;
    bool post; /* POST, else GET and HEAD */
    route_fn *answer;
    early_fn *early;
} table[] = {
    {"/", PUBLIC, false, root, NULL},
    {PAGE_FILES "{file}", PUBLIC, false, page_file_answer, NULL},
    {"/v1/generate", PUBLIC, true, generate_answer, generate_early},
    {"/v1/models", PUBLIC, false, models, NULL},
    {"/v1/capabilities", PUBLIC, false, capabilities, NULL},
    {"/v1/queue", PUBLIC, false, queue, NULL},
    {"/health", BOTH, false, health_answer, NULL},
    {"/livez", BOTH, false, livez_answer, NULL},
    {"/readyz", BOTH, false, readyz_answer, NULL},
    {"/startupz", BOTH, false, startupz_answer, NULL},
    {"/v2/health/live", BOTH, false, livez_answer, NULL},
    {"/v2/health/ready", BOTH, false, readyz_answer, NULL},
    {"/metrics", BOTH, false, metrics, NULL},
};

static const struct route *find(const struct http_request *q) {
    int here = q->admin ? ADMIN : PUBLIC;
    const char *path =
        strncmp(q->path, PAGE_FILES, strlen(PAGE_FILES)) ? q->path : PAGE_FILES "{file}";
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if ((table[i].where & here) && strcmp(table[i].path, path) == 0) return &table[i];
    return NULL;
}

static void answer_options(const char *allow, struct http_reply *out) {
    out->status = 204;
    taca_buf_printf(&out->headers, "Allow: %s\n", allow);
}

static void refuse_path(struct http_reply *out) {
    struct api_error e = {0};
    api_fail(&e, 404, "not_found", NULL, "there is nothing at this path");
    reply_refuse(out, &e);
}

static void refuse_method(const struct http_request *q, const char *allow, struct http_reply *out) {
    struct api_error e = {0};
    api_fail(&e, 405, "method_not_allowed", NULL, "%s is not served here; allowed: %s", q->method,
             allow);
    reply_refuse(out, &e);
    taca_buf_printf(&out->headers, "Allow: %s\n", allow);
}

/* The route to call, or NULL with *out filled. */
static const struct route *pick(const struct http_request *q, struct http_reply *out) {
    taca_buf_init(&out->body, MAX_REPLY_BYTES);
    taca_buf_init(&out->headers, 8192);
    bool options = strcmp(q->method, "OPTIONS") == 0;
    if (options && strcmp(q->path, "*") == 0) {
        answer_options("GET, HEAD, POST, OPTIONS", out);
        return NULL;
    }
    const struct route *t = find(q);
    if (!t) {
        refuse_path(out);
        return NULL;
    }
    out->route = t->path;
    const char *allow = t->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
    bool post = strcmp(q->method, "POST") == 0;
    bool get = strcmp(q->method, "GET") == 0 || strcmp(q->method, "HEAD") == 0;
    if (t->post ? post : get) return t;
    if (options)
        answer_options(allow, out);
    else
        refuse_method(q, allow, out);
    return NULL;
}

void routes_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    const struct route *t = pick(q, out);
    if (t) t->answer(r, q, out);
}

bool routes_early(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    const struct route *t = pick(q, out);
    if (!t) return true;
    if (t->early && t->early(r, q, out)) return true;
    taca_buf_finish(&out->body); /* the answer proper begins afresh */
    taca_buf_finish(&out->headers);
    return false;
}
