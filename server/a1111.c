/* a1111.c - the routes of /sdapi/v1, for clients of AUTOMATIC1111's API; only with --enable-a1111.
 * What they mean is api/a1111.h's matter. */
#include "api/a1111.h"

#include <string.h>

#include "server/routes.h"

enum { MAX_IGNORED = 256 };

/* Keys are for whole requests here, too; without a model there is nothing to list. */
void a1111_list_answer(const struct routes *r, const struct http_request *q,
                       struct http_reply *out) {
    struct api_offer offer = {.limits = &r->limits};
    if (refuse_unless_ready(r, out)) return;
    models_offer(&r->hooks.status->models, &offer);
    reply_json(out, 200);
    /* the table has only what is there */
    (void)api_a1111_list_json(&out->body, strrchr(q->path, '/') + 1, &offer);
}

void a1111_options_answer(const struct routes *r, const struct http_request *q,
                          struct http_reply *out) {
    struct api_error e = {0};
    char ignored[MAX_IGNORED];
    struct api_offer offer = {.limits = &r->limits};
    if (refuse_unless_ready(r, out)) return;
    models_offer(&r->hooks.status->models, &offer);
    if (api_a1111_set_options(q->body, q->body_len, &offer, ignored, sizeof ignored, &e)) {
        reply_refuse(out, &e);
        return;
    }
    reply_json(out, 200);
    if (ignored[0]) taca_buf_printf(&out->headers, "X-Ignored-Params: %s\n", ignored);
    taca_buf_puts(&out->body, "null");
}

void a1111_png_info_answer(const struct routes *r, const struct http_request *q,
                           struct http_reply *out) {
    struct api_error e = {0};
    reply_json(out, 200);
    if (api_a1111_png_info(&out->body, q->body, q->body_len, &r->limits, &e)) reply_refuse(out, &e);
}

/* One model, loaded: nothing to refresh. */
void a1111_nothing_answer(const struct routes *r, const struct http_request *q,
                          struct http_reply *out) {
    (void)r, (void)q;
    reply_json(out, 200);
    taca_buf_puts(&out->body, "{}");
}

void a1111_progress_answer(const struct routes *r, const struct http_request *q,
                           struct http_reply *out) {
    reply_when_asked(r, job_ask_open(ASK_PROGRESS, API_REPLY_JSON, q), out);
}

void a1111_interrupt_answer(const struct routes *r, const struct http_request *q,
                            struct http_reply *out) {
    reply_when_asked(r, job_ask_open(ASK_INTERRUPT, API_REPLY_JSON, q), out);
}
