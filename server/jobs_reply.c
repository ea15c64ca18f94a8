/* jobs_reply.c - what a client and the log are told about a job. Frames get their ids here and only
 * here, on one thread, so ids of a stream rise in the order of the frames. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/jobs_internal.h"
#include "server/metrics.h"

enum { SMALL_FRAME = 4096, LONGEST_LOG = 4096 };

double jobs_since_ms(int64_t from_us) { return (double)(taca_now_us() - from_us) / 1000.0; }

static bool listens(const struct job *job) {
    return job->reply == API_REPLY_EVENTS && !stream_is_gone(job->stream);
}

static void push(struct job *job, enum stream_class cls, int index, struct taca_buf *frame) {
    if (!frame->failed) stream_push(job->stream, cls, index, frame->data, frame->len);
    taca_buf_finish(frame);
}

/* ---- events ---------------------------------------------------------------------------------- */

void tell_queued(struct job *job, int position, double eta_ms) {
    struct taca_buf b;
    if (!listens(job)) return;
    taca_buf_init(&b, SMALL_FRAME);
    api_event_queued(&b, stream_next_id(job->stream), job->id, job->created_s, position, eta_ms);
    push(job, STREAM_KEEP, 0, &b);
}

void tell_started(struct jobs *js, struct job *job) {
    struct taca_buf b;
    job->state = JOB_RUNNING;
    job->started_us = taca_now_us();
    job->timings.queue_ms = (double)(job->started_us - job->received_us) / 1000.0;
    metric_observe_sized(METRIC_QUEUE_WAIT, jobs_pixels(job), job->timings.queue_ms / 1000);
    if (!listens(job)) return;
    taca_buf_init(&b, SMALL_FRAME);
    api_event_started(&b, stream_next_id(job->stream), job->id, job->timings.queue_ms,
                      js->ports.status->model.id, job->request.params.steps);
    push(job, STREAM_KEEP, 0, &b);
}

void tell_progress(struct job *job, int index, const struct wire_stepped *step, double eta_ms) {
    struct taca_buf b;
    if (!listens(job)) return;
    struct api_progress p = {.index = index,
                             .step = job->images[index].step,
                             .steps = job->images[index].steps,
                             .elapsed_ms = jobs_since_ms(job->started_us),
                             .eta_ms = eta_ms,
                             .batch = step->n,
                             .batch_tokens = step->tokens};
    taca_buf_init(&b, SMALL_FRAME);
    api_event_progress(&b, stream_next_id(job->stream), job->id, &p);
    push(job, STREAM_MERGE, index, &b);
}

void tell_frame(struct job *job, struct encode_task *t, enum stream_class cls) {
    size_t len;
    if (!listens(job)) return;
    const char *frame = encode_frame(t, stream_next_id(job->stream), &len);
    stream_push(job->stream, cls, t->index, frame, len);
    if (cls == STREAM_KEEP) job->bytes_out += len;
}

void tell_retrying(struct job *job, const char *reason) {
    struct taca_buf b;
    if (!listens(job)) return;
    taca_buf_init(&b, SMALL_FRAME);
    api_event_retrying(&b, stream_next_id(job->stream), job->id, job->attempts, reason);
    push(job, STREAM_KEEP, 0, &b);
}

/* The last frame of a job that was given up. A plain reply of a client that left has no reader. */
void tell_cancelled(struct job *job) {
    struct taca_buf b;
    if (listens(job)) {
        taca_buf_init(&b, SMALL_FRAME);
        api_event_cancelled(&b, stream_next_id(job->stream), job->id, job->cancel_reason);
        push(job, STREAM_KEEP, 0, &b);
    }
    stream_end(job->stream);
}

static void observe_stages(struct job *job) {
    metric_observe(METRIC_STAGE_TEXT, job->timings.text_ms / 1000);
    metric_observe(METRIC_STAGE_DENOISE, job->timings.denoise_ms / 1000);
    metric_observe(METRIC_STAGE_VAE, job->timings.vae_ms / 1000);
    metric_observe(METRIC_STAGE_ENCODE, job->timings.encode_ms / 1000);
    job->timings.total_ms = jobs_since_ms(job->received_us);
}

void tell_completed(struct job *job) {
    struct taca_buf b;
    observe_stages(job);
    if (listens(job)) {
        taca_buf_init(&b, SMALL_FRAME);
        api_event_completed(&b, stream_next_id(job->stream), job->id, job->created_s, &job->timings,
                            job->warnings, job->request.n);
        push(job, STREAM_KEEP, 0, &b);
    }
    stream_end(job->stream);
}

/* ---- whole answers --------------------------------------------------------------------------- */

void tell_image(const struct jobs *js, struct job *job) {
    const struct api_timings *t = &job->timings;
    struct taca_buf *png = &job->images[0].png;
    char seed[24], steps[16], queue[24], gpu[24], timing[256];
    observe_stages(job);
    snprintf(seed, sizeof seed, "%" PRIu64, job->request.params.seed);
    snprintf(steps, sizeof steps, "%d", job->request.params.steps);
    snprintf(queue, sizeof queue, "%.1f", t->queue_ms);
    snprintf(gpu, sizeof gpu, "%.1f", t->text_ms + t->denoise_ms + t->vae_ms);
    snprintf(timing, sizeof timing,
             "queue;dur=%.1f, text;dur=%.1f, denoise;dur=%.1f, vae;dur=%.1f, encode;dur=%.1f, "
             "total;dur=%.1f",
             t->queue_ms, t->text_ms, t->denoise_ms, t->vae_ms, t->encode_ms, t->total_ms);
    const char *const headers[] = {"X-Job-Id",      job->id, "X-Seed",   seed,
                                   "X-Steps",       steps,   "X-Model",  js->ports.status->model.id,
                                   "X-Queue-Ms",    queue,   "X-Gpu-Ms", gpu,
                                   "Server-Timing", timing,  NULL};
    job->bytes_out = png->len;
    stream_reply(job->stream, 200, "image/png", headers, png);
}

void tell_json(struct job *job, struct encode_task *t) {
    const char *const headers[] = {"X-Job-Id", job->id, NULL};
    observe_stages(job);
    job->bytes_out = t->frame.len;
    stream_reply(job->stream, 200, "application/json", headers, &t->frame);
}

void tell_full(struct job *job, int retry_after_s, int queued) {
    char seconds[16], ms[16], depth[16];
    struct api_error e = {0};
    struct taca_buf body;
    api_fail(&e, 429, "queue_full", "", "%d requests are waiting already; try again in %d s",
             queued, retry_after_s);
    snprintf(seconds, sizeof seconds, "%d", retry_after_s);
    snprintf(ms, sizeof ms, "%d000", retry_after_s);
    snprintf(depth, sizeof depth, "%d", queued);
    const char *const headers[] = {"Retry-After", seconds, "retry-after-ms", ms, "X-Queue-Depth",
                                   depth,         NULL};
    taca_buf_init(&body, SMALL_FRAME);
    api_error_json(&body, &e);
    stream_reply(job->stream, 429, "application/json", headers, &body);
}

/* ---- the log --------------------------------------------------------------------------------- */

void tell_log(const struct jobs *js, const struct job *job, int status, const char *error_code) {
    const struct taca_gen_params *p = &job->request.params;
    const struct api_timings *t = &job->timings;
    struct taca_buf b;
    taca_buf_init(&b, js->opts.log_prompts ? 4 * LONGEST_LOG : LONGEST_LOG);
    taca_buf_puts(&b, "\"request_id\":");
    taca_buf_json(&b, job->request_id, strlen(job->request_id));
    taca_buf_printf(&b, ",\"job\":\"%s\",\"model\":", job->id);
    taca_buf_json(&b, js->ports.status->model.id, strlen(js->ports.status->model.id));
    taca_buf_printf(&b,
                    ",\"w\":%d,\"h\":%d,\"steps\":%d,\"n\":%d,\"seed\":%" PRIu64
                    ",\"code\":%d,\"queue_ms\":%.1f,\"denoise_ms\":%.1f,\"total_ms\":%.1f,"
                    "\"batch_mean\":%.2f,\"attempts\":%d,\"bytes\":%zu",
                    p->width_px, p->height_px, p->steps, job->request.n, p->seed, status,
                    t->queue_ms, t->denoise_ms, t->total_ms,
                    job->steps_run ? (double)job->sequences_seen / (double)job->steps_run : 0.0,
                    job->attempts, job->bytes_out);
    if (error_code) taca_buf_printf(&b, ",\"error\":\"%s\"", error_code);
    if (job->cancel_reason) taca_buf_printf(&b, ",\"cancelled\":\"%s\"", job->cancel_reason);
    if (js->opts.log_prompts) {
        taca_buf_puts(&b, ",\"prompt\":");
        taca_buf_json(&b, p->prompt, strlen(p->prompt));
    }
    taca_log_fields(TACA_LOG_INFO, b.failed ? NULL : b.data, "request");
    taca_buf_finish(&b);
}
