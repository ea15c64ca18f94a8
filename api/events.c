/* events.c - the frames of an event stream; see reply.h. Every frame begins and ends here, so a
 * frame is well formed whatever its members are. */
#include "api/reply_parts.h"
#include "api/write.h"

static void begin(struct taca_buf *out, uint64_t event_id, const char *type, const char *id) {
    taca_buf_printf(out, "id: %llu\nevent: %s\ndata: {\"type\":\"%s\",\"id\":",
                    (unsigned long long)event_id, type, type);
    api_put_string(out, id);
}

static void end(struct taca_buf *out) { taca_buf_puts(out, "}\n\n"); }

static void put_ms_member(struct taca_buf *out, const char *name, double ms) {
    taca_buf_printf(out, ",\"%s\":", name);
    api_put_ms(out, ms);
}

void api_event_queued(struct taca_buf *out, uint64_t event_id, const char *id, int64_t created_s,
                      int position, double eta_ms) {
    begin(out, event_id, "queued", id);
    taca_buf_printf(out, ",\"created\":%lld,\"position\":%d", (long long)created_s, position);
    put_ms_member(out, "eta_ms", eta_ms);
    end(out);
}

void api_event_started(struct taca_buf *out, uint64_t event_id, const char *id, double queue_ms,
                       const char *model, int steps) {
    begin(out, event_id, "started", id);
    put_ms_member(out, "queue_ms", queue_ms);
    taca_buf_puts(out, ",\"model\":");
    api_put_string(out, model);
    taca_buf_printf(out, ",\"steps\":%d", steps);
    end(out);
}

void api_event_progress(struct taca_buf *out, uint64_t event_id, const char *id,
                        const struct api_progress *p) {
    begin(out, event_id, "progress", id);
    taca_buf_printf(out, ",\"index\":%d,\"step\":%d,\"steps\":%d", p->index, p->step, p->steps);
    put_ms_member(out, "elapsed_ms", p->elapsed_ms);
    put_ms_member(out, "eta_ms", p->eta_ms);
    taca_buf_printf(out, ",\"batch\":%d,\"batch_tokens\":%d", p->batch, p->batch_tokens);
    end(out);
}

void api_event_preview(struct taca_buf *out, uint64_t event_id, const char *id, int step,
                       int partial_index, const struct api_result_image *img) {
    begin(out, event_id, "preview", id);
    taca_buf_printf(out, ",\"index\":%d,\"step\":%d,\"partial_image_index\":%d,", img->index, step,
                    partial_index);
    api_put_picture(out, img);
    end(out);
}

void api_event_image(struct taca_buf *out, uint64_t event_id, const char *id,
                     const struct api_result_image *img) {
    begin(out, event_id, "image", id);
    taca_buf_printf(out, ",\"index\":%d,\"seed\":%llu,", img->index, (unsigned long long)img->seed);
    api_put_picture(out, img);
    end(out);
}

void api_event_completed(struct taca_buf *out, uint64_t event_id, const char *id, int64_t created_s,
                         const struct api_timings *t, unsigned warnings, int n) {
    begin(out, event_id, "completed", id);
    taca_buf_printf(out, ",\"created_at\":%lld,\"timings\":", (long long)created_s);
    api_put_timings(out, t);
    taca_buf_puts(out, ",\"warnings\":");
    api_warnings_json(out, warnings);
    taca_buf_printf(out, ",\"usage\":{\"images\":%d}", n);
    end(out);
}

void api_event_cancelled(struct taca_buf *out, uint64_t event_id, const char *id,
                         const char *reason) {
    begin(out, event_id, "cancelled", id);
    taca_buf_puts(out, ",\"reason\":");
    api_put_string(out, reason);
    end(out);
}

void api_event_error(struct taca_buf *out, uint64_t event_id, const char *id,
                     const struct api_error *e) {
    struct taca_buf body;
    taca_buf_init(&body, 8 * sizeof *e); /* every byte escaped still fits */
    api_error_json(&body, e);
    begin(out, event_id, "error", id);
    taca_buf_puts(out, ",");
    if (body.failed || body.len < 2)
        out->failed = true;
    else
        taca_buf_put(out, body.data + 1, body.len - 2); /* the member without its braces */
    taca_buf_finish(&body);
    end(out);
}

void api_event_retrying(struct taca_buf *out, uint64_t event_id, const char *id, int attempt,
                        const char *reason) {
    begin(out, event_id, "retrying", id);
    taca_buf_printf(out, ",\"attempt\":%d,\"reason\":", attempt);
    api_put_string(out, reason);
    end(out);
}
