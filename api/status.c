/* status.c - how a job stands, for those who ask; see reply.h. */
#include "api/reply_parts.h"
#include "api/write.h"

static void put_time(struct taca_buf *out, const char *name, int64_t s) {
    if (s)
        taca_buf_printf(out, ",\"%s\":%lld", name, (long long)s);
    else
        taca_buf_printf(out, ",\"%s\":null", name);
}

static void put_result(struct taca_buf *out, const struct api_job *j) {
    taca_buf_puts(out, "{\"images\":[");
    for (int i = 0; i < j->n; i++) {
        const struct api_result_image *img = &j->images[i];
        taca_buf_printf(out, "%s{\"index\":%d,\"seed\":%llu,", i ? "," : "", img->index,
                        (unsigned long long)img->seed);
        taca_buf_printf(out, "\"format\":\"%s\",\"width\":%d,\"height\":%d,\"url\":\"",
                        api_format_name(img->format), img->width_px, img->height_px);
        taca_buf_printf(out, "%s/v1/jobs/%s/images/%d\"}", j->base, j->id, img->index);
    }
    taca_buf_puts(out, "],\"timings\":");
    api_put_timings(out, j->timings);
    taca_buf_puts(out, ",\"warnings\":");
    api_warnings_json(out, j->warnings);
    taca_buf_puts(out, "}");
}

static void put_error(struct taca_buf *out, const struct api_error *e) {
    struct taca_buf b;
    taca_buf_init(&b, 8 * sizeof *e);
    api_error_json(&b, e);
    if (b.failed || b.len < 10)
        out->failed = true;
    else
        taca_buf_put(out, b.data + 9, b.len - 10); /* what is inside of {"error":...} */
    taca_buf_finish(&b);
}

void api_job_json(struct taca_buf *out, const struct api_job *j) {
    taca_buf_puts(out, "{\"id\":");
    api_put_string(out, j->id);
    taca_buf_printf(out, ",\"status\":\"%s\",\"created\":%lld,\"position\":", j->status,
                    (long long)j->created_s);
    if (j->position)
        taca_buf_printf(out, "%d", j->position);
    else
        taca_buf_puts(out, "null");
    taca_buf_puts(out, ",\"eta_ms\":");
    api_put_ms(out, j->eta_ms);
    put_time(out, "started", j->started_s);
    put_time(out, "completed", j->completed_s);
    taca_buf_puts(out, ",\"result\":");
    if (j->images)
        put_result(out, j);
    else
        taca_buf_puts(out, "null");
    taca_buf_puts(out, ",\"error\":");
    if (j->error)
        put_error(out, j->error);
    else
        taca_buf_puts(out, "null");
    taca_buf_printf(out,
                    ",\"urls\":{\"get\":\"%s/v1/jobs/%s\",\"events\":\"%s/v1/jobs/%s/events\","
                    "\"cancel\":\"%s/v1/jobs/%s/cancel\"}}",
                    j->base, j->id, j->base, j->id, j->base, j->id);
}
