/* jobs_ask.c - questions about jobs, and requests that turn out to be one of them again. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "server/jobs_internal.h"
#include "server/metrics.h"

enum { SMALL_BODY = 64 * 1024, LISTED = 100 };

static void refuse(struct reader *r, const char *id, const char *reason,
                   const struct api_error *e) {
    metric_add(METRIC_REJECTED, reason, 1);
    stream_fail(r->stream, id, e);
}

static bool is_own(const struct access_client *a, const struct access_client *b) {
    return strcmp(a->name, b->name) == 0;
}

/* ---- the same request again ------------------------------------------------------------------ */

bool jobs_join(struct jobs *js, struct job *job) {
    struct api_error e = {0};
    struct job *there = NULL;
    if (job->named)
        there = store_find(js->store, job->id);
    else if (job->idempotency_key[0])
        there = store_find_key(js->store, job->idempotency_key);
    if (!there) return false;
    struct reader *r = job->readers;
    job->readers = NULL;
    if (is_own(&there->client, &job->client) &&
        memcmp(there->body_hash, job->body_hash, sizeof job->body_hash) == 0) {
        r->replayed = true;
        tell_joined(job, there);
        readers_come(js, there, r);
        job_close(job);
        return true;
    }
    if (job->named)
        api_fail(&e, 409, "job_exists", "id", "job %s is there already, made by another request",
                 job->id);
    else
        api_fail(&e, 409, "idempotency_conflict", "Idempotency-Key",
                 "this Idempotency-Key came with another body before");
    refuse(r, job->id, "conflict", &e);
    reader_close(r);
    jobs_count(job, "rejected");
    job_close(job);
    return true;
}

/* ---- cancelled before it was here ------------------------------------------------------------ */

static void remember_given_up(struct jobs *js, const struct ask *a) {
    struct given_up *g = &js->given_up[js->given_up_at++ % GIVEN_UP];
    *g = (struct given_up){.at_us = taca_now_us()};
    memcpy(g->id, a->id, sizeof g->id);
    memcpy(g->client, a->client.name, sizeof g->client);
}

bool jobs_refuse_given_up(struct jobs *js, struct job *job) {
    struct api_error e = {0};
    for (int i = 0; job->named && !e.status && i < GIVEN_UP; i++) {
        const struct given_up *g = &js->given_up[i];
        if (job->received_us < g->at_us && strcmp(job->id, g->id) == 0 &&
            strcmp(job->client.name, g->client) == 0)
            api_fail(&e, 409, "cancelled", "", "the request was cancelled");
    }
    if (!e.status) return false;
    stream_fail(job->readers->stream, job->id, &e);
    metric_add(METRIC_CANCELLED, "client", 1);
    jobs_count(job, "cancelled");
    tell_log(js, job, 499, "client_gone");
    job_close(job);
    return true;
}

/* ---- questions ------------------------------------------------------------------------------- */

static void answer_unknown(struct jobs *js, struct ask *a) {
    struct api_error e = {0};
    if (store_was_here(js->store, a->id)) {
        api_fail(&e, 410, "job_expired", "id", "job %s is over and its result is no longer kept",
                 a->id);
        refuse(a->reader, a->id, "expired", &e);
    } else {
        api_fail(&e, 404, "not_found", "id", "there is no job %s", a->id);
        refuse(a->reader, a->id, "not_found", &e);
    }
}

static void answer_image(struct jobs *js, struct ask *a, struct job *job) {
    char tag[48];
    struct api_error e = {0};
    bool ready = a->index < job->request.n && (job->made >> a->index & 1);
    if (!ready) {
        if (a->index >= job->request.n)
            api_fail(&e, 404, "not_found", "k", "job %s has %d images, counted from 0", job->id,
                     job->request.n);
        else if (job->state == JOB_DONE)
            api_fail(&e, 404, "not_found", "k", "job %s ended without this image", job->id);
        else
            api_fail(&e, 404, "image_not_ready", "k", "this image is not made yet");
        refuse(a->reader, job->id, "not_found", &e);
        return;
    }
    snprintf(tag, sizeof tag, "\"%016" PRIx64 "-%d\"", job->tag, a->index);
    a->reader->fetch = true;
    a->reader->index = a->index;
    if (strstr(a->known, tag) || strcmp(a->known, "*") == 0) {
        tell_picture(job, a->reader, NULL);
        return;
    }
    readers_come(js, job, a->reader);
    a->reader = NULL; /* the job's now */
}

static void answer_cancel(struct jobs *js, struct ask *a, struct job *job) {
    struct api_error e = {0};
    if (job->state >= JOB_ENDING) {
        api_fail(&e, 409, "already_finished", "id", "job %s is over: %s", job->id,
                 job_end_name(job));
        refuse(a->reader, job->id, "conflict", &e);
        return;
    }
    jobs_wake_up(js, job);
    jobs_cancel(js, job, "client", 499);
    a->reader->confirm = true;
    readers_come(js, job, a->reader);
    a->reader = NULL; /* the job's now */
}

/* Ids are what opens a job, so nobody is told those of others: where there are no keys, everybody
 * is one of the others. */
static void answer_queue(struct jobs *js, struct ask *a) {
    struct taca_buf body;
    const int waiting = js->queued;
    int listed = 0;
    bool known = jobs_estimate(js);
    taca_buf_init(&body, SMALL_BODY);
    taca_buf_printf(&body, "{\"waiting\":%d,\"running\":%d,\"jobs\":[", waiting,
                    js->count - waiting);
    for (struct job *job = js->first; job && listed < LISTED; job = job->next, listed++) {
        taca_buf_puts(&body, listed ? ",{" : "{");
        if (a->client.name[0] && is_own(&job->client, &a->client))
            taca_buf_printf(&body, "\"id\":\"%s\",", job->id);
        taca_buf_printf(&body, "\"status\":\"%s\",\"position\":", job_status(job));
        if (known && job->state == JOB_QUEUED)
            taca_buf_printf(&body, "%d", job->position);
        else
            taca_buf_puts(&body, "null");
        taca_buf_printf(&body, ",\"eta_ms\":%.0f,\"n\":%d}", known ? job->finish_ms : 0.0,
                        job->request.n);
    }
    taca_buf_puts(&body, "]}");
    stream_reply(a->reader->stream, 200, "application/json", NULL, &body);
    taca_buf_finish(&body);
}

static void answer_events_head(struct ask *a, const struct job *job) {
    const char *const headers[] = {"X-Job-Id", job->id, NULL};
    struct taca_buf nothing;
    taca_buf_init(&nothing, 1);
    stream_reply(a->reader->stream, 200, "text/event-stream", headers, &nothing);
}

static void answer(struct jobs *js, struct ask *a, struct job *job) {
    switch (a->kind) {
    case ASK_LOAD:
    case ASK_UNLOAD: /* the loader's */
    case ASK_QUEUE:
    case ASK_PROGRESS:
    case ASK_INTERRUPT: break;
    case ASK_STATUS: tell_status(js, job, a->reader, 200); break;
    case ASK_IMAGE: answer_image(js, a, job); break;
    case ASK_CANCEL: answer_cancel(js, a, job); break;
    case ASK_EVENTS:
        if (a->head) {
            answer_events_head(a, job);
            break;
        }
        readers_come(js, job, a->reader);
        a->reader = NULL; /* the job's now */
        break;
    }
}

void jobs_ask(struct jobs *js, struct ask *a) {
    if (a->kind == ASK_QUEUE) {
        answer_queue(js, a);
    } else if (a->kind == ASK_PROGRESS || a->kind == ASK_INTERRUPT) {
        jobs_answer_a1111(js, a);
    } else {
        struct job *job = store_find(js->store, a->id);
        if (job && is_own(&job->client, &a->client)) { /* others' jobs are not there at all */
            answer(js, a, job);
        } else {
            if (a->kind == ASK_CANCEL) remember_given_up(js, a);
            answer_unknown(js, a);
        }
    }
    ask_close(a);
}
