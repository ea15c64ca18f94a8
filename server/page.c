/* page.c - the pages for people: the playground at /, the description of the API at /docs and for
 * programs at /openapi.json, and the files under /ui/ that the pages are made of.
 *
 * They are the only answers that a browser may run, so they carry a policy of their own: everything
 * from here, nothing inline, pictures also from memory. A browser keeps them and asks with the tag
 * whether they are still good. */
#include <string.h>

#include "api/reply.h"
#include "server/routes.h"
#include "web/assets.h"

static const char policy[] =
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'";

static const struct web_asset *find(const char *name) {
    for (const struct web_asset *a = web_assets; a->name; a++)
        if (strcmp(a->name, name) == 0) return a;
    return NULL;
}

static void refuse(struct http_reply *out) {
    struct api_error e = {0};
    api_fail(&e, 404, "not_found", NULL, "there is nothing at this path");
    reply_refuse(out, &e);
}

/* If-None-Match: "a", W/"b" or *. The tags are hex, so that one is never part of another. */
static bool known_to_client(const struct http_request *q, const struct web_asset *a) {
    const char *tags = q->if_none_match;
    return tags && (strstr(tags, a->etag) || strcmp(tags, "*") == 0);
}

static void send_file(const struct routes *r, const struct http_request *q, const char *name,
                      struct http_reply *out) {
    const struct web_asset *a = r->ui ? find(name) : NULL;
    if (!a) {
        refuse(out);
        return;
    }
    taca_buf_printf(&out->headers,
                    "Cache-Control: no-cache\nETag: %s\nContent-Security-Policy: %s\n"
                    "Referrer-Policy: no-referrer\n",
                    a->etag, policy);
    out->content_type = a->type;
    out->status = known_to_client(q, a) ? 304 : 200;
    if (out->status == 200) taca_buf_put(&out->body, a->bytes, a->len);
}

bool page_wanted(const struct http_request *q) {
    return q->accept && strstr(q->accept, "text/html") != NULL;
}

void page_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    send_file(r, q, "index.html", out);
    taca_buf_puts(&out->headers, "Vary: Accept\n");
}

void page_docs_answer(const struct routes *r, const struct http_request *q,
                      struct http_reply *out) {
    send_file(r, q, "docs.html", out);
}

/* Not the pages themselves: from another path their links would lead nowhere. */
void page_file_answer(const struct routes *r, const struct http_request *q,
                      struct http_reply *out) {
    const char *name = q->path + strlen(PAGE_FILES), *dot = strrchr(name, '.');
    bool part = dot && (!strcmp(dot, ".js") || !strcmp(dot, ".css") || !strcmp(dot, ".svg"));
    send_file(r, q, part ? name : "", out);
}

void openapi_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    const struct web_asset *a = find("openapi.json");
    const struct taca_model_info *m = usual_model(r, out), *ready[MODELS_MAX];
    (void)q;
    if (!m) return;
    const struct api_served served = {m, ready, ready_models(r, ready)};
    reply_json(out, 200);
    api_openapi_json(&out->body, a->bytes, a->len, &served, &r->limits, r->a1111);
}
