/* routes.c - see routes.h. */
#include "server/routes.h"

#include <stdio.h>
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
    snprintf(out->error, sizeof out->error, "%s", e->code);
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
        if (models_usual(&r->hooks.status->models)) return false;
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
                              "\"health\":\"/health\",\"metrics\":\"/metrics\","
                              "\"docs\":\"/docs\",\"openapi\":\"/openapi.json\"}}");
}

/* What the models are can be told from READY on; operators may look earlier. */
static void models(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    if (!q->admin && refuse_unless_ready(r, out)) return;
    reply_json(out, 200);
    models_json(&r->hooks.status->models, q->admin || q->client.admin, &out->body);
}

const struct taca_model_info *usual_model(const struct routes *r, struct http_reply *out) {
    struct api_error e = {.retry_after_s = 5};
    if (refuse_unless_ready(r, out)) return NULL;
    const struct taca_model_info *m = models_usual(&r->hooks.status->models);
    if (m) return m;
    api_fail(&e, 503, "loading", NULL, "no model is loaded");
    reply_refuse(out, &e);
    return NULL;
}

int ready_models(const struct routes *r, const struct taca_model_info *out[MODELS_MAX]) {
    const struct models *all = &r->hooks.status->models;
    int n = 0;
    for (int k = 0; k < atomic_load(&all->n); k++)
        if (models_state(all, k) == MODEL_READY) out[n++] = models_info(all, k);
    return n;
}

static void loras(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    const struct taca_model_info *ready[MODELS_MAX];
    (void)q;
    if (refuse_unless_ready(r, out)) return;
    int n = ready_models(r, ready);
    reply_json(out, 200);
    api_loras_json(&out->body, ready, n);
}

static void capabilities(const struct routes *r, const struct http_request *q,
                         struct http_reply *out) {
    const struct taca_model_info *m = usual_model(r, out), *ready[MODELS_MAX];
    if (!m) return;
    int n = ready_models(r, ready), mine = 0;
    for (int k = 0; k < n; k++)
        if (access_allows_model(&q->client, ready[k]->id)) ready[mine++] = ready[k];
    reply_json(out, 200);
    struct api_limits own = r->limits;
    access_narrow(&q->client, &own);
    api_capabilities_json(&out->body, &own, m, ready, mine);
}

static void metrics(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    (void)q;
    out->status = 200;
    out->content_type = "text/plain; version=0.0.4; charset=utf-8";
    out->body.max = METRICS_MAX_BYTES;
    r->hooks.metrics(r->hooks.ctx, &out->body);
}

/* ---- the table ------------------------------------------------------------------------------- */

enum {
    PUBLIC = 1,
    ADMIN = 2,
    BOTH = 3,
    A1111 = 4,   /* public when it is asked for */
    OPERATOR = 8 /* public for keys that say admin: for all others it is not there */
};
enum method { GET = 1, POST = 2, PUT = 4, DELETE = 8 }; /* GET is HEAD too */

/* A path may be here once for each method. {id} stands for a job's id, {k} for a small number,
 * {file} for all the rest. */
static const struct route {
    const char *path;
    int where;
    enum method method;
    route_fn *answer;
    early_fn *early;
} table[] = {
    {"/", PUBLIC, GET, root, NULL},
    {"/docs", PUBLIC, GET, page_docs_answer, NULL},
    {"/openapi.json", PUBLIC, GET, openapi_answer, NULL},
    {PAGE_FILES "{file}", PUBLIC, GET, page_file_answer, NULL},
    {"/v1/generate", PUBLIC, POST, generate_answer, generate_early},
    {"/v1/images/generations", PUBLIC, POST, openai_answer, generate_early},
    {"/v1/images/edits", PUBLIC, POST, edit_answer, edit_early},
    {"/v1/jobs/{id}", PUBLIC, GET, job_status_answer, NULL},
    {"/v1/jobs/{id}", PUBLIC, PUT, job_put_answer, generate_early},
    {"/v1/jobs/{id}", PUBLIC, DELETE, job_cancel_answer, NULL},
    {"/v1/jobs/{id}/cancel", PUBLIC, POST, job_cancel_answer, NULL},
    {"/v1/jobs/{id}/events", PUBLIC, GET, job_events_answer, NULL},
    {"/v1/jobs/{id}/images/{k}", PUBLIC, GET, job_image_answer, NULL},
    {"/v1/models", BOTH, GET, models, NULL},
    {"/v1/models/load", ADMIN | OPERATOR, POST, model_load_answer, NULL},
    {"/v1/models/unload", ADMIN | OPERATOR, POST, model_unload_answer, NULL},
    {"/v1/loras", PUBLIC, GET, loras, NULL},
    {"/v1/capabilities", PUBLIC, GET, capabilities, NULL},
    {"/v1/queue", PUBLIC, GET, queue_answer, NULL},
    {"/sdapi/v1/txt2img", A1111, POST, a1111_text_answer, generate_early},
    {"/sdapi/v1/img2img", A1111, POST, a1111_image_answer, generate_early},
    {"/sdapi/v1/progress", A1111, GET, a1111_progress_answer, NULL},
    {"/sdapi/v1/interrupt", A1111, POST, a1111_interrupt_answer, NULL},
    {"/sdapi/v1/skip", A1111, POST, a1111_interrupt_answer, NULL},
    {"/sdapi/v1/options", A1111, POST, a1111_options_answer, NULL},
    {"/sdapi/v1/png-info", A1111, POST, a1111_png_info_answer, NULL},
    {"/sdapi/v1/refresh-checkpoints", A1111, POST, a1111_nothing_answer, NULL},
    {"/sdapi/v1/sd-models", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/samplers", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/schedulers", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/loras", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/upscalers", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/sd-vae", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/sd-modules", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/latent-upscale-modes", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/hypernetworks", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/face-restorers", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/prompt-styles", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/embeddings", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/scripts", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/cmd-flags", A1111, GET, a1111_list_answer, NULL},
    {"/sdapi/v1/options", A1111, GET, a1111_list_answer, NULL},
    {"/health", BOTH, GET, health_answer, NULL},
    {"/livez", BOTH, GET, livez_answer, NULL},
    {"/readyz", BOTH, GET, readyz_answer, NULL},
    {"/startupz", BOTH, GET, startupz_answer, NULL},
    {"/v2/health/live", BOTH, GET, livez_answer, NULL},
    {"/v2/health/ready", BOTH, GET, readyz_answer, NULL},
    {"/metrics", BOTH, GET, metrics, NULL},
};
enum { N_ROUTES = sizeof table / sizeof *table };

static bool match(const char *pattern, const char *path) {
    for (; *pattern; pattern++) {
        if (strcmp(pattern, "{file}") == 0) return true; /* the page knows its files */
        if (strncmp(pattern, "{id}", 4) == 0) {
            size_t len = job_id_len(path);
            if (!len) return false;
            path += len;
            pattern += 3;
        } else if (strncmp(pattern, "{k}", 3) == 0) {
            size_t digits = strspn(path, "0123456789");
            if (digits < 1 || digits > 2 || (digits == 2 && *path == '0')) return false;
            path += digits;
            pattern += 2;
        } else if (*pattern != *path++) {
            return false;
        }
    }
    return !*path;
}

static int method_of(const char *name) {
    static const struct {
        const char *name;
        enum method method;
    } names[] = {{"GET", GET}, {"HEAD", GET}, {"POST", POST}, {"PUT", PUT}, {"DELETE", DELETE}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i].name, name) == 0) return (int)names[i].method;
    return 0;
}

/* The route for path and method; NULL with the methods that the path has, 0 = no such path. */
static const struct route *find(const struct routes *r, const struct http_request *q,
                                const char **pattern, int *allowed) {
    int here = q->admin ? ADMIN : r->a1111 ? PUBLIC | A1111 : PUBLIC, method = method_of(q->method);
    if (q->client.admin) here |= OPERATOR;
    const struct route *found = NULL;
    *allowed = 0;
    for (size_t i = 0; i < N_ROUTES; i++) {
        if (!(table[i].where & here) || !match(table[i].path, q->path)) continue;
        *pattern = table[i].path;
        *allowed |= (int)table[i].method;
        if (method == (int)table[i].method) found = &table[i];
    }
    return found;
}

static void put_allow(struct taca_buf *out, int methods) {
    if (methods & GET) taca_buf_puts(out, "GET, HEAD, ");
    if (methods & POST) taca_buf_puts(out, "POST, ");
    if (methods & PUT) taca_buf_puts(out, "PUT, ");
    if (methods & DELETE) taca_buf_puts(out, "DELETE, ");
    taca_buf_puts(out, "OPTIONS");
}

static void answer_options(int methods, struct http_reply *out) {
    out->status = 204;
    taca_buf_puts(&out->headers, "Allow: ");
    put_allow(&out->headers, methods);
    taca_buf_puts(&out->headers, "\n");
}

static void refuse_path(struct http_reply *out) {
    struct api_error e = {0};
    api_fail(&e, 404, "not_found", NULL, "there is nothing at this path");
    reply_refuse(out, &e);
}

static void refuse_method(const struct http_request *q, int methods, struct http_reply *out) {
    struct api_error e = {0};
    struct taca_buf allow;
    taca_buf_init(&allow, 128);
    put_allow(&allow, methods);
    api_fail(&e, 405, "method_not_allowed", NULL, "%s is not served here; allowed: %s", q->method,
             allow.data ? allow.data : "");
    reply_refuse(out, &e);
    taca_buf_printf(&out->headers, "Allow: %s\n", allow.data ? allow.data : "");
    taca_buf_finish(&allow);
}

/* What a browser asks before it lets another origin's page send the real request. */
static void answer_preflight(const struct http_request *q, int methods, struct http_reply *out) {
    answer_options(methods, out);
    taca_buf_puts(&out->headers, "Access-Control-Allow-Methods: ");
    put_allow(&out->headers, methods);
    taca_buf_puts(
        &out->headers,
        "\nAccess-Control-Allow-Headers: Accept, Authorization, Content-Type, "
        "Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, traceparent, X-Request-Id\n"
        "Access-Control-Max-Age: 600\n");
    if (q->private_network)
        taca_buf_puts(&out->headers, "Access-Control-Allow-Private-Network: true\n");
}

static void refuse_stranger(const struct http_request *q, const struct api_error *e,
                            struct http_reply *out) {
    bool theirs = strncmp(q->path, "/sdapi/", 7) == 0;
    reply_refuse(out, e);
    taca_buf_puts(&out->headers, theirs ? "WWW-Authenticate: Basic realm=\"taca\", Bearer\n"
                                        : "WWW-Authenticate: Bearer\n");
}

/* The route to call, or NULL with *out filled. */
static const struct route *pick(const struct routes *r, struct http_request *q,
                                struct http_reply *out) {
    struct api_error e = {0};
    int allowed;
    taca_buf_init(&out->body, MAX_REPLY_BYTES);
    taca_buf_init(&out->headers, 8192);
    bool options = strcmp(q->method, "OPTIONS") == 0;
    if (options && strcmp(q->path, "*") == 0) {
        answer_options(GET | POST | PUT | DELETE, out);
        return NULL;
    }
    const struct route *t = find(r, q, &out->route, &allowed);
    if (options && allowed) { /* tells nothing, and preflights come without a key */
        if (q->wanted_method && access_lets_in(r->access, q->origin))
            answer_preflight(q, allowed, out);
        else
            answer_options(allowed, out);
        return NULL;
    }
    if (!q->admin && access_check(r->access, q->path, q->authorization, &q->client, &e)) {
        refuse_stranger(q, &e, out);
        return NULL;
    }
    memcpy(out->key, q->client.name, sizeof out->key);
    if (q->client.admin) t = find(r, q, &out->route, &allowed); /* and there is more for it */
    if (t) return t;
    if (!allowed)
        refuse_path(out);
    else
        refuse_method(q, allowed, out);
    return NULL;
}

static void add_access(const struct routes *r, const struct http_request *q,
                       struct http_reply *out) {
    if (!q->admin) access_headers(r->access, q->origin, &out->headers);
}

void routes_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    struct http_request known = *q;
    const struct route *t = pick(r, &known, out);
    if (t) t->answer(r, &known, out);
    add_access(r, q, out);
}

bool routes_early(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    struct http_request known = *q;
    const struct route *t = pick(r, &known, out);
    if (!t || (t->early && t->early(r, &known, out))) {
        add_access(r, q, out);
        return true;
    }
    taca_buf_finish(&out->body); /* the answer proper begins afresh */
    taca_buf_finish(&out->headers);
    return false;
}
