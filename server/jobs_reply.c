/* jobs_reply.c - what a client and the log are told about a job. Frames get their ids here and only
 * here, on one thread, so ids of a stream rise in the order of the frames. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/jobs_internal.h"
#include "server/metrics.h"

enum { SMALL_FRAME = 4096, STATUS_BODY = 256 * 1024 };
enum { LONGEST_LOG = 4096, LONGEST_PROMPT = 2500 }; /* a record is written whole or not at all */

double jobs_since_ms(int64_t from_us) { return (double)(taca_now_us() - from_us) / 1000.0; }

const char *job_end_name(const struct job *job) {
    switch (job->end) {
    case JOB_OPEN: break;
    case JOB_COMPLETED: return "completed";
    case JOB_FAILED: return "failed";
    case JOB_CANCELLED: return "cancelled";
    }
    return "open";
}

const char *job_status(const struct job *job) {
    switch (job->state) {
    case JOB_QUEUED: return "queued";
    case JOB_RUNNING:
    case JOB_ENDING: break;
    case JOB_DONE: return job_end_name(job);
    }
    return "running";
}

uint64_t job_next_event(struct job *job) { return ++job->last_event; }

/* ---- events ---------------------------------------------------------------------------------- */

/* Follows the events in one of the two languages, and is not in the middle of something. */
static bool listens(const struct reader *r, bool openai) {
    return r->form == API_REPLY_EVENTS && !r->task && !r->fresh && r->openai == openai;
}

static bool somebody(const struct job *job, bool openai) {
    for (const struct reader *r = job->readers; r; r = r->next)
        if (listens(r, openai) && (!openai || r->progress)) return true;
    return false;
}

static void push(struct job *job, bool openai, enum stream_class cls, int index,
                 struct taca_buf *frame) {
    for (struct reader *r = job->readers; r && !frame->failed; r = r->next)
        if (listens(r, openai) && (!openai || r->progress))
            stream_push(r->stream, cls, index, frame->data, frame->len);
    taca_buf_finish(frame);
}

static void push_to(struct reader *r, struct taca_buf *frame) {
    if (!frame->failed) stream_push(r->stream, STREAM_KEEP, 0, frame->data, frame->len);
    taca_buf_finish(frame);
}

static void put_started(struct taca_buf *b, const struct jobs *js, const struct job *job) {
    taca_buf_init(b, SMALL_FRAME);
    api_event_started(b, job->started_event, job->id, job->timings.queue_ms,
                      jobs_model(js, job)->id, job->request.params.steps);
}

void tell_started(struct jobs *js, struct job *job) {
    struct taca_buf b;
    jobs_tally(js, job, -1);
    job->state = JOB_RUNNING;
    job->lined_for = NULL;
    jobs_tally(js, job, 1);
    job->started_us = taca_now_us();
    job->started_s = time(NULL);
    job->timings.queue_ms = (double)(job->started_us - job->received_us) / 1000.0;
    metric_observe_sized(METRIC_QUEUE_WAIT, job->request.model, jobs_pixels(job),
                         job->timings.queue_ms / 1000);
    job->started_event = job_next_event(job);
    jobs_disk_stands(js, job);
    if (!somebody(job, false)) return;
    put_started(&b, js, job);
    push(job, false, STREAM_KEEP, 0, &b);
}

void tell_progress(struct job *job, int index, const struct wire_stepped *step, double eta_ms) {
    struct taca_buf b;
    job->progress = (struct api_progress){.index = index,
                                          .step = job->images[index].step,
                                          .steps = job->images[index].steps,
                                          .elapsed_ms = jobs_since_ms(job->started_us),
                                          .eta_ms = eta_ms,
                                          .batch = step->n,
                                          .batch_tokens = step->tokens};
    job->progress_event = job_next_event(job);
    if (somebody(job, false)) {
        taca_buf_init(&b, SMALL_FRAME);
        api_event_progress(&b, job->progress_event, job->id, &job->progress);
        push(job, false, STREAM_MERGE, index, &b);
    }
    if (somebody(job, true)) {
        taca_buf_init(&b, SMALL_FRAME);
        api_openai_progress(&b, &job->request, &job->progress);
        push(job, true, STREAM_MERGE, index, &b);
    }
}

void tell_preview(struct job *job, struct encode_task *t) {
    size_t len;
    const char *frame = encode_frame(t, job_next_event(job), &len);
    if (!job->previewed)
        metric_observe_sized(METRIC_FIRST_PREVIEW, job->request.model, jobs_pixels(job),
                             jobs_since_ms(job->received_us) / 1000);
    job->previewed = true;
    for (struct reader *r = job->readers; r; r = r->next)
        if (listens(r, job->request.openai))
            stream_push(r->stream, STREAM_DROP, t->index, frame, len);
}

void tell_retrying(struct job *job, const char *reason) {
    struct taca_buf b;
    uint64_t event = job_next_event(job);
    if (!somebody(job, false)) return;
    taca_buf_init(&b, SMALL_FRAME);
    api_event_retrying(&b, event, job->id, job->attempts, reason);
    push(job, false, STREAM_KEEP, 0, &b);
}

/* A picture that the reader still gets came before the last progress: told after that, its id would
 * be lower, and whoever comes back with the last id would miss it. */
static bool picture_is_older(const struct job *job, const struct reader *r) {
    for (int i = 0; i < job->request.n; i++)
        if ((job->made >> i & 1) && job->results[i].event_id > r->after &&
            job->results[i].event_id < job->progress_event)
            return true;
    return false;
}

/* For one who comes later: how it stands, and no more than it does not know. */
void tell_so_far(struct jobs *js, struct job *job, struct reader *r) {
    struct taca_buf b;
    const char *const headers[] = {"X-Job-Id", job->id, r->replayed ? "Idempotent-Replayed" : NULL,
                                   "true", NULL};
    stream_headers(r->stream, headers);
    if (job->state == JOB_DONE) return;
    stream_comment(r->stream); /* the head goes out at once, whatever there is to tell */
    if (r->openai && !r->progress) return;
    if (job->state == JOB_QUEUED && job->last_event > r->after) {
        bool known = job->listed && jobs_estimate(js);
        int position = known ? job->position : 0;
        double eta_ms = known ? job->finish_ms : -1;
        taca_buf_init(&b, SMALL_FRAME);
        if (r->openai)
            api_openai_queued(&b, &job->request, position, eta_ms);
        else
            api_event_queued(&b, job->last_event, job->id, job->created_s, position, eta_ms);
        push_to(r, &b);
    }
    if (r->openai) return;
    if (job->started_event > r->after) {
        put_started(&b, js, job);
        push_to(r, &b);
    }
    if (job->progress_event > r->after && !picture_is_older(job, r)) {
        taca_buf_init(&b, SMALL_FRAME);
        api_event_progress(&b, job->progress_event, job->id, &job->progress);
        push_to(r, &b);
    }
}

static void observe_stages(const struct job *job) {
    metric_observe(METRIC_STAGE_TEXT, job->timings.text_ms / 1000);
    metric_observe(METRIC_STAGE_DENOISE, job->timings.denoise_ms / 1000);
    metric_observe(METRIC_STAGE_VAE, job->timings.vae_ms / 1000);
    metric_observe(METRIC_STAGE_ENCODE, job->timings.encode_ms / 1000);
}

void job_completed(struct job *job) {
    observe_stages(job);
    job->end = JOB_COMPLETED;
    for (int i = 0; i < job->request.n; i++) job->bytes_out += job->results[i].len;
}

/* The last word: nobody waits for a picture any more. */
void tell_final(struct job *job, struct reader *r) {
    struct taca_buf b;
    struct api_error e = job->error;
    bool events = r->form == API_REPLY_EVENTS;
    if (events && (job->final_event <= r->after || (r->openai && job->end == JOB_COMPLETED))) {
        stream_end(r->stream);
        return;
    }
    if (job->end == JOB_FAILED || !events || r->openai) {
        api_fail(&e, 409, "cancelled", "", "the request was cancelled");
        stream_set_next_id(r->stream, job->final_event);
        stream_fail(r->stream, job->id, &e);
        return;
    }
    taca_buf_init(&b, SMALL_FRAME);
    if (job->end == JOB_CANCELLED)
        api_event_cancelled(&b, job->final_event, job->id, job->cancel_reason);
    else
        api_event_completed(&b, job->final_event, job->id, job->created_s, &job->timings,
                            job->warnings, job->request.n);
    push_to(r, &b);
    stream_end(r->stream);
}

/* ---- whole answers --------------------------------------------------------------------------- */

void tell_image(const struct jobs *js, struct job *job, struct reader *r, struct taca_buf *file) {
    const struct api_timings *t = &job->timings;
    char seed[24], steps[16], queue[24], gpu[24], timing[256];
    snprintf(seed, sizeof seed, "%" PRIu64, job->request.params.seed);
    snprintf(steps, sizeof steps, "%d", job->request.params.steps);
    snprintf(queue, sizeof queue, "%.1f", t->queue_ms);
    snprintf(gpu, sizeof gpu, "%.1f", t->text_ms + t->denoise_ms + t->vae_ms);
    snprintf(timing, sizeof timing,
             "queue;dur=%.1f, text;dur=%.1f, denoise;dur=%.1f, vae;dur=%.1f, encode;dur=%.1f, "
             "total;dur=%.1f",
             t->queue_ms, t->text_ms, t->denoise_ms, t->vae_ms, t->encode_ms, t->total_ms);
    const char *const headers[] = {"X-Job-Id",
                                   job->id,
                                   "X-Seed",
                                   seed,
                                   "X-Steps",
                                   steps,
                                   "X-Model",
                                   jobs_model(js, job)->id,
                                   "X-Queue-Ms",
                                   queue,
                                   "X-Gpu-Ms",
                                   gpu,
                                   "Server-Timing",
                                   timing,
                                   r->replayed ? "Idempotent-Replayed" : NULL,
                                   "true",
                                   NULL};
    stream_reply(r->stream, 200, api_format_type(job->request.file.format), headers, file);
}

void tell_picture(struct job *job, struct reader *r, struct taca_buf *file) {
    const enum api_format format = job->request.file.format;
    char tag[48], seed[24], name[API_ID_MAX + 64], age[64];
    snprintf(tag, sizeof tag, "\"%016" PRIx64 "-%d\"", job->tag, r->index);
    snprintf(seed, sizeof seed, "%" PRIu64, job->results[r->index].seed);
    snprintf(name, sizeof name, "inline; filename=\"%s-%d%s\"", job->id, r->index,
             api_format_ending(format));
    int64_t left_us = job->state == JOB_DONE ? job->expires_us - taca_now_us() : 0;
    snprintf(age, sizeof age, "private, max-age=%d", left_us > 0 ? (int)(left_us / 1000000) : 0);
    const char *const headers[] = {"ETag",   tag,  "Cache-Control",       age,  "X-Job-Id", job->id,
                                   "X-Seed", seed, "Content-Disposition", name, NULL};
    stream_reply(r->stream, file ? 200 : 304, file ? api_format_type(format) : NULL, headers,
                 file ? file : &(struct taca_buf){0});
}

void tell_json(struct job *job, struct reader *r, struct taca_buf *body) {
    const char *const headers[] = {"X-Job-Id", job->id, r->replayed ? "Idempotent-Replayed" : NULL,
                                   "true", NULL};
    stream_reply(r->stream, 200, "application/json", headers, body);
}

static void put_status(struct taca_buf *out, struct jobs *js, struct job *job,
                       const struct reader *r) {
    bool over = job->state == JOB_DONE, known = job->listed && jobs_estimate(js);
    bool waits = known && job->state == JOB_QUEUED;
    const struct api_job j = {.id = job->id,
                              .status = job_status(job),
                              .base = r->base,
                              .created_s = job->created_s,
                              .started_s = job->started_s,
                              .completed_s = over ? job->completed_s : 0,
                              .position = waits ? job->position : 0,
                              .eta_ms = known ? job->finish_ms : -1,
                              .error = over && job->error.status ? &job->error : NULL,
                              .images = over && job->end == JOB_COMPLETED ? job->results : NULL,
                              .n = job->request.n,
                              .timings = &job->timings,
                              .warnings = job->warnings};
    api_job_json(out, &j);
}

void tell_status(struct jobs *js, struct job *job, struct reader *r, int status) {
    const char *const headers[] = {"X-Job-Id", job->id, NULL};
    struct taca_buf body;
    taca_buf_init(&body, STATUS_BODY);
    put_status(&body, js, job, r);
    stream_reply(r->stream, status, "application/json", headers, &body);
    taca_buf_finish(&body);
}

void tell_ticket(struct jobs *js, struct job *job, struct reader *r) {
    char location[API_BASE_MAX + API_ID_MAX + 16];
    struct taca_buf body;
    snprintf(location, sizeof location, "%s/v1/jobs/%s", r->base, job->id);
    const char *const headers[] = {
        "X-Job-Id", job->id, "Location", location, r->replayed ? "Idempotent-Replayed" : NULL,
        "true",     NULL};
    taca_buf_init(&body, STATUS_BODY);
    put_status(&body, js, job, r);
    /* one that was quick is no surprise to who has just sent it */
    int status = job->state == JOB_DONE && r->replayed ? 200 : 202;
    stream_reply(r->stream, status, "application/json", headers, &body);
    taca_buf_finish(&body);
}

void tell_busy(struct jobs *js, struct job *job, const struct api_error *e, int queued) {
    char seconds[16], ms[16], depth[16];
    struct taca_buf body;
    snprintf(seconds, sizeof seconds, "%d", e->retry_after_s);
    snprintf(ms, sizeof ms, "%d000", e->retry_after_s);
    snprintf(depth, sizeof depth, "%d", queued);
    const char *const headers[] = {"Retry-After", seconds, "retry-after-ms", ms, "X-Queue-Depth",
                                   depth,         NULL};
    taca_buf_init(&body, SMALL_FRAME);
    api_error_json(&body, e);
    stream_reply(job->readers->stream, 429, "application/json", headers, &body);
    taca_buf_finish(&body);
    metric_add(METRIC_REJECTED, e->code, 1);
    jobs_count(job, "rejected");
    tell_log(js, job, 429, e->code);
    job_close(job);
}

void jobs_refuse(struct jobs *js, struct job *job, const struct api_error *e) {
    stream_fail(job->readers->stream, job->id, e);
    metric_add(METRIC_REJECTED, e->status == 400 ? "invalid_request" : e->code, 1);
    jobs_count(job, "rejected");
    tell_log(js, job, e->status, e->code);
    job_close(job);
}

/* ---- the log --------------------------------------------------------------------------------- */

static void put_request(struct taca_buf *out, const struct job *job) {
    taca_buf_puts(out, "\"request_id\":");
    taca_buf_json(out, job->request_id, strlen(job->request_id));
    trace_fields(out, &job->trace);
}

void tell_joined(const struct job *job, const struct job *there) {
    struct taca_buf b;
    taca_buf_init(&b, LONGEST_LOG);
    put_request(&b, job);
    taca_buf_printf(&b, ",\"job\":\"%s\"", there->id);
    if (job->client.name[0]) taca_buf_printf(&b, ",\"key\":\"%s\"", job->client.name);
    taca_log_fields(TACA_LOG_INFO, b.failed ? NULL : b.data, "request again");
    taca_buf_finish(&b);
}

/* As much of it as there is room for. A restored job that cannot be read has none. */
static void put_prompt(struct taca_buf *out, const char *prompt) {
    if (!prompt) return;
    const size_t whole = strlen(prompt);
    size_t len = whole;
    struct taca_buf text;
    taca_buf_init(&text, LONGEST_PROMPT);
    for (taca_buf_json(&text, prompt, len); text.failed && len > 0;) {
        len /= 2;
        while (len > 0 && ((unsigned char)prompt[len] & 0xC0) == 0x80) len--;
        taca_buf_reset(&text);
        taca_buf_json(&text, prompt, len);
    }
    if (!text.failed) taca_buf_printf(out, ",\"prompt\":%s", text.data);
    if (len < whole) taca_buf_printf(out, ",\"prompt_bytes\":%zu", whole);
    taca_buf_finish(&text);
}

void tell_log(const struct jobs *js, const struct job *job, int status, const char *error_code) {
    const struct taca_gen_params *p = &job->request.params;
    const struct api_timings *t = &job->timings;
    struct taca_buf b;
    taca_buf_init(&b, LONGEST_LOG);
    put_request(&b, job);
    taca_buf_printf(&b, ",\"job\":\"%s\",\"model\":", job->id);
    const char *model = jobs_model(js, job)->id;
    taca_buf_json(&b, model, strlen(model));
    taca_buf_printf(&b,
                    ",\"w\":%d,\"h\":%d,\"steps\":%d,\"n\":%d,\"seed\":%" PRIu64
                    ",\"code\":%d,\"queue_ms\":%.1f,\"denoise_ms\":%.1f,\"total_ms\":%.1f,"
                    "\"batch_mean\":%.2f,\"attempts\":%d,\"bytes\":%zu",
                    p->width_px, p->height_px, p->steps, job->request.n, p->seed, status,
                    t->queue_ms, t->denoise_ms, t->total_ms,
                    job->steps_run ? (double)job->sequences_seen / (double)job->steps_run : 0.0,
                    job->attempts, job->bytes_out);
    if (job->client.name[0]) taca_buf_printf(&b, ",\"key\":\"%s\"", job->client.name);
    if (error_code) taca_buf_printf(&b, ",\"error\":\"%s\"", error_code);
    if (job->cancel_reason) taca_buf_printf(&b, ",\"cancelled\":\"%s\"", job->cancel_reason);
    if (js->opts.log_prompts) put_prompt(&b, p->prompt);
    taca_log_fields(TACA_LOG_INFO, b.failed ? NULL : b.data, "request");
    taca_buf_finish(&b);
}
