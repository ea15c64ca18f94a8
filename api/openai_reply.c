/* openai_reply.c - results in the words of OpenAI's image API; see reply.h. Keys that its schema
 * does not have (seed, index) are added where they help: clients read what they know. */
#include "api/reply_parts.h"
#include "api/write.h"

static void put_look(struct taca_buf *out, const struct api_request *r) {
    taca_buf_printf(out,
                    "\"background\":\"opaque\",\"output_format\":\"%s\",\"quality\":\"%s\","
                    "\"size\":\"%dx%d\"",
                    api_format_name(r->file.format), r->quality ? r->quality : "auto",
                    r->params.width_px, r->params.height_px);
}

/* Tokens are what the model computes on: rows of text, and patches of `n` pictures. */
static void put_usage(struct taca_buf *out, const struct api_request *r,
                      const struct taca_model_info *m, int n) {
    int side = m->side_multiple_px > 0 ? m->side_multiple_px : 16;
    int text = m->clip_tokens + m->t5_tokens;
    const long long each = (long long)(r->params.width_px / side) * (r->params.height_px / side);
    const long long patches = each * n, given = r->edit ? each : 0;
    taca_buf_printf(out,
                    "\"usage\":{\"input_tokens\":%lld,\"output_tokens\":%lld,\"total_tokens\":%lld,"
                    "\"input_tokens_details\":{\"text_tokens\":%d,\"image_tokens\":%lld}}",
                    text + given, patches, patches + text + given, text, given);
}

void api_openai_json(struct taca_buf *out, int64_t created_s, const struct api_request *r,
                     const struct taca_model_info *m, const struct api_result_image *images) {
    taca_buf_printf(out, "{\"created\":%lld,\"data\":[", (long long)created_s);
    for (int i = 0; i < r->n; i++) {
        taca_buf_puts(out, i ? ",{" : "{");
        api_put_bytes(out, &images[i]);
        taca_buf_printf(out, ",\"revised_prompt\":null,\"seed\":%llu}",
                        (unsigned long long)images[i].seed);
    }
    taca_buf_puts(out, "],");
    put_look(out, r);
    taca_buf_puts(out, ",");
    put_usage(out, r, m, r->n);
    taca_buf_puts(out, "}");
}

/* Without an id: the official client takes a comment behind an event that has one for an event
 * without data, and gives up. Comments are our heartbeat. */
static void begin(struct taca_buf *out, const struct api_request *r, const char *type) {
    const char *family = r->edit ? "image_edit" : "image_generation";
    taca_buf_printf(out, "event: %s.%s\ndata: {\"type\":\"%s.%s\",", family, type, family, type);
}

void api_openai_partial(struct taca_buf *out, int64_t created_s, const struct api_request *r,
                        int partial_index, const struct api_result_image *img) {
    begin(out, r, "partial_image");
    api_put_bytes(out, img);
    taca_buf_printf(out, ",\"created_at\":%lld,", (long long)created_s);
    put_look(out, r);
    taca_buf_printf(out, ",\"partial_image_index\":%d,\"index\":%d}\n\n", partial_index,
                    img->index);
}

void api_openai_completed(struct taca_buf *out, int64_t created_s, const struct api_request *r,
                          const struct taca_model_info *m, const struct api_result_image *img) {
    begin(out, r, "completed");
    api_put_bytes(out, img);
    taca_buf_printf(out, ",\"created_at\":%lld,", (long long)created_s);
    put_look(out, r);
    taca_buf_printf(out, ",\"index\":%d,\"seed\":%llu,", img->index, (unsigned long long)img->seed);
    put_usage(out, r, m, 1);
    taca_buf_puts(out, "}\n\n");
}

void api_openai_queued(struct taca_buf *out, const struct api_request *r, int position,
                       double eta_ms) {
    begin(out, r, "queued");
    taca_buf_printf(out, "\"position\":%d,\"eta_ms\":", position);
    api_put_ms(out, eta_ms);
    taca_buf_puts(out, "}\n\n");
}

void api_openai_progress(struct taca_buf *out, const struct api_request *r,
                         const struct api_progress *p) {
    begin(out, r, "progress");
    taca_buf_printf(out, "\"index\":%d,\"step\":%d,\"steps\":%d,\"eta_ms\":", p->index, p->step,
                    p->steps);
    api_put_ms(out, p->eta_ms);
    taca_buf_puts(out, "}\n\n");
}
