/* admin_routes.c - what operators may do, at their listener or with a key that says admin: load and
 * unload models. */
#include <stdlib.h>
#include <string.h>

#include "api/admin.h"
#include "server/routes.h"

/* Who reaches the listener from this machine alone, or has an operator's key. */
static bool is_operator(const struct routes *r, const struct http_request *q) {
    struct access_client client = {.admin = false};
    struct api_error e = {0};
    if (q->client.admin || (q->admin && r->trusts_admin)) return true;
    return access_check(r->access, q->path, q->authorization, &client, &e) == 0 && client.admin;
}

/* On this machine nobody logs in, so no web page may get anything done either: pages cannot send
 * this type without asking first, and cannot hide where they are from. */
static bool refuse_strangers(const struct routes *r, const struct http_request *q,
                             struct http_reply *out) {
    struct api_error e = {0};
    if (!is_operator(r, q))
        api_fail(&e, 403, "forbidden", NULL,
                 "this wants an API key with \"admin\" among its limits, or an --admin-listen that "
                 "only this machine reaches");
    else if (q->origin)
        api_fail(&e, 403, "forbidden", NULL, "web pages may not ask for this");
    else if (!is_json(q->content_type))
        api_fail(&e, 415, "unsupported_media_type", NULL,
                 "the body must be application/json, and Content-Type must say so");
    if (e.status) reply_refuse(out, &e);
    return e.status != 0;
}

static struct ask *open_order(enum ask_kind kind, const struct api_model_order *order) {
    struct ask *a = calloc(1, sizeof *a);
    if (a) a->reader = reader_open(API_REPLY_JSON);
    if (a && order->path[0]) a->path = strdup(order->path);
    if (!a || !a->reader || (order->path[0] && !a->path)) {
        ask_close(a);
        return NULL;
    }
    a->kind = kind;
    a->only_idle = order->only_idle;
    memcpy(a->model, order->model, sizeof a->model);
    return a;
}

static void answer_order(const struct routes *r, const struct http_request *q, enum ask_kind kind,
                         struct http_reply *out) {
    struct api_model_order order;
    struct api_error e = {0};
    if (refuse_strangers(r, q, out)) return;
    int rc = (kind == ASK_LOAD ? api_read_load : api_read_unload)(&order, q->body, q->body_len, &e);
    if (rc)
        reply_refuse(out, &e);
    else
        reply_when_asked(r, open_order(kind, &order), out);
}

void model_load_answer(const struct routes *r, const struct http_request *q,
                       struct http_reply *out) {
    answer_order(r, q, ASK_LOAD, out);
}

void model_unload_answer(const struct routes *r, const struct http_request *q,
                         struct http_reply *out) {
    answer_order(r, q, ASK_UNLOAD, out);
}
