/* jobs_readers.c - who gets what of a job and when; see reader.h.
 *
 * A reader is served in turns: whatever of the job it can have now is sent, or is being rendered
 * for it by the encoder, in which case nothing else is sent until that is back; so each reader sees
 * the ids of its events rise. Readers that want the same share one rendering. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/jobs_internal.h"

static uint64_t all_images(const struct job *job) {
    return job->request.n == 64 ? UINT64_MAX : (UINT64_C(1) << job->request.n) - 1;
}

static void take_out(struct job *job, struct reader *r) {
    struct reader **at = &job->readers;
    while (*at != r) at = &(*at)->next;
    *at = r->next;
}

/* ---- rendering ------------------------------------------------------------------------------- */

static struct encode_task *render_for(struct jobs *js, struct job *job, const struct reader *r,
                                      uint64_t mask) {
    for (struct reader *o = job->readers; o; o = o->next)
        if (o != r && o->task && o->task->render.mask == mask && reader_alike(o, r)) return o->task;
    struct encode_task *t = jobs_task(js, &(struct image_ref){job, 0}, ENCODE_RENDER);
    if (!t) return NULL;
    t->render.form = r->form;
    t->render.openai = r->openai;
    t->render.urls = r->urls;
    memcpy(t->render.base, r->base, sizeof t->render.base);
    t->render.mask = mask;
    t->render.files = js->ports.disk ? disk_files(js->ports.disk) : NULL;
    t->render.images = job->results;
    t->render.timings = job->timings;
    t->render.warnings = job->warnings;
    return jobs_hand_over(js, t) ? t : NULL;
}

static void no_memory(const struct job *job, struct reader *r) {
    struct api_error e = {0};
    api_fail(&e, 503, "out_of_memory", "", "the service is out of memory");
    stream_fail(r->stream, job->id, &e);
}

static void not_rendered(const struct job *job, struct reader *r, const struct taca_err *err) {
    struct api_error e = {0};
    if (err->code == TACA_ENOMEM) {
        no_memory(job, r);
        return;
    }
    if (err->code == TACA_ENOTFOUND)
        api_fail(&e, 410, "job_expired", "id", "the pictures of job %s are no longer kept",
                 job->id);
    else
        api_fail(&e, 503, "storage_unavailable", "",
                 "the pictures of job %s cannot be read from the job store", job->id);
    stream_fail(r->stream, job->id, &e);
}

/* ---- serving --------------------------------------------------------------------------------- */

/* These return true when the reader has had its last word. */

static bool serve_events(struct jobs *js, struct job *job, struct reader *r) {
    uint64_t missing = 0;
    for (int i = 0; i < job->request.n; i++) {
        uint64_t bit = UINT64_C(1) << i;
        if ((job->made & bit) && job->results[i].event_id <= r->after) r->sent |= bit;
        missing |= job->made & bit & ~r->sent;
    }
    if (missing) {
        r->task = render_for(js, job, r, missing);
        if (!r->task) no_memory(job, r);
        return !r->task;
    }
    if (job->state != JOB_DONE) return false;
    tell_final(job, r);
    return true;
}

static void give_image(struct jobs *js, struct job *job, struct reader *r, struct taca_buf *file) {
    if (r->fetch)
        tell_picture(job, r, file);
    else
        tell_image(js, job, r, file);
}

/* At once from the memory, or by way of the encoder, who can wait for a disk. */
static bool serve_image(struct jobs *js, struct job *job, struct reader *r) {
    const struct api_result_image *image = &job->results[r->index];
    struct taca_buf file;
    if (!image->bytes) {
        r->task = render_for(js, job, r, UINT64_C(1) << r->index);
        if (!r->task) no_memory(job, r);
        return !r->task;
    }
    taca_buf_init(&file, image->len + 1);
    taca_buf_put(&file, image->bytes, image->len);
    if (file.failed)
        no_memory(job, r);
    else
        give_image(js, job, r, &file);
    taca_buf_finish(&file);
    return true;
}

static bool serve(struct jobs *js, struct job *job, struct reader *r) {
    if (r->task || r->fresh) return false;
    if (r->fetch) return serve_image(js, job, r);
    if (r->form == API_REPLY_EVENTS) return serve_events(js, job, r);
    if (job->state != JOB_DONE) return false;
    if (job->end != JOB_COMPLETED) {
        tell_final(job, r);
        return true;
    }
    if (r->form == API_REPLY_IMAGE) return serve_image(js, job, r);
    r->task = render_for(js, job, r, all_images(job));
    if (!r->task) no_memory(job, r);
    return !r->task;
}

void readers_serve(struct jobs *js, struct job *job) {
    for (struct reader *r = job->readers, *next; r; r = next) {
        next = r->next;
        if (!serve(js, job, r)) continue;
        take_out(job, r);
        reader_close(r);
    }
}

static void give(struct jobs *js, struct job *job, struct reader *r, struct encode_task *t,
                 bool last) {
    if (r->form == API_REPLY_EVENTS) {
        stream_push(r->stream, STREAM_KEEP, 0, t->frame.data, t->frame.len);
        r->sent |= t->render.mask;
        return;
    }
    struct taca_buf body = t->frame;
    if (last) {
        t->frame = (struct taca_buf){0};
    } else {
        taca_buf_init(&body, t->frame.len + 1);
        taca_buf_put(&body, t->frame.data, t->frame.len);
    }
    if (body.failed) {
        taca_buf_finish(&body);
        no_memory(job, r);
        return;
    }
    if (r->form == API_REPLY_IMAGE)
        give_image(js, job, r, &body);
    else
        tell_json(job, r, &body);
}

void readers_rendered(struct jobs *js, struct job *job, struct encode_task *t) {
    int waiting = 0;
    for (struct reader *r = job->readers; r; r = r->next) waiting += r->task == t;
    for (struct reader *r = job->readers, *next; r; r = next) {
        next = r->next;
        if (r->task != t) continue;
        waiting--;
        r->task = NULL;
        if (t->rc != TACA_OK)
            not_rendered(job, r, &t->err);
        else
            give(js, job, r, t, waiting == 0);
        if (t->rc == TACA_OK && r->form == API_REPLY_EVENTS) continue;
        take_out(job, r);
        reader_close(r);
    }
    readers_serve(js, job);
}

/* ---- coming and going ------------------------------------------------------------------------ */

/* True when it has had its last word. */
static bool welcome(struct jobs *js, struct job *job, struct reader *r) {
    struct api_error e = {.retry_after_s = 5};
    r->fresh = false;
    if (r->ticket || r->confirm) {
        if (r->confirm)
            tell_status(js, job, r, 202);
        else
            tell_ticket(js, job, r);
        return true;
    }
    if (job->asleep) {
        api_fail(&e, 503, "draining", "", "the service is shutting down; the job is kept");
        stream_fail(r->stream, job->id, &e);
        return true;
    }
    if (r->wait_ms > 0 && r->form != API_REPLY_EVENTS)
        jobs_expires(js, r->give_up_us = taca_now_us() + (int64_t)r->wait_ms * 1000);
    if (r->form == API_REPLY_EVENTS) tell_so_far(js, job, r);
    return false;
}

void readers_welcome(struct jobs *js, struct job *job) {
    for (struct reader *r = job->readers, *next; r; r = next) {
        next = r->next;
        if (!r->fresh || !welcome(js, job, r)) continue;
        take_out(job, r);
        reader_close(r);
    }
}

void readers_come(struct jobs *js, struct job *job, struct reader *r) {
    r->next = job->readers;
    job->readers = r;
    r->fresh = !r->fetch;
    if (job->writes == 0) readers_welcome(js, job);
    readers_serve(js, job);
}

void readers_refuse(struct job *job, const struct api_error *e) {
    for (struct reader *r = job->readers, *next; r; r = next) {
        next = r->next;
        if (r->task) continue; /* has what it came for, it is only being written */
        stream_fail(r->stream, job->id, e);
        take_out(job, r);
        reader_close(r);
    }
}

/* What the policy of the request, or the way in which it came, says. */
static bool goes_on_alone(const struct job *job) {
    switch (job->request.on_disconnect) {
    case API_DISCONNECT_CANCEL: return false;
    case API_DISCONNECT_CONTINUE: return true;
    case API_DISCONNECT_DEFAULT: break;
    }
    return job->comes_back;
}

static bool leave(struct jobs *js, struct job *job, uint64_t key) {
    struct reader *r = job->readers;
    while (r && r->key != key) r = r->next;
    if (!r) return false;
    bool held = r->holds;
    take_out(job, r);
    reader_close(r);
    for (struct reader *o = job->readers; o; o = o->next)
        if (o->holds) held = false; /* somebody else still waits for it */
    if (held && job->listed && !goes_on_alone(job)) jobs_cancel(js, job, "disconnect", 499);
    return true;
}

void jobs_client_gone(struct jobs *js, uint64_t key) {
    for (struct job *job = js->first; job; job = job->next)
        if (leave(js, job, key)) return;
    if (js->renders == 0) return; /* nobody waits for anything that is over */
    for (struct job *job = store_first(js->store); job; job = job->younger)
        if (leave(js, job, key)) return;
}

int64_t readers_next_us(const struct job *job) {
    int64_t next = INT64_MAX;
    for (struct reader *r = job->readers; r; r = r->next)
        if (r->give_up_us && !r->task && r->give_up_us < next) next = r->give_up_us;
    return next;
}

void readers_give_up(struct jobs *js, struct job *job, int64_t now_us) {
    for (struct reader *r = job->readers, *next; r; r = next) {
        next = r->next;
        if (!r->give_up_us || r->task || now_us < r->give_up_us) continue;
        tell_ticket(js, job, r);
        take_out(job, r);
        reader_close(r);
    }
}

bool readers_watch(const struct job *job) {
    for (const struct reader *r = job->readers; r; r = r->next)
        if (r->form == API_REPLY_EVENTS && !stream_is_gone(r->stream)) return true;
    return false;
}
