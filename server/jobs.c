/* jobs.c - see jobs.h. The table: who comes, who waits, who leaves. */
#include "server/jobs.h"

#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"
#include "server/jobs_internal.h"
#include "server/metrics.h"

enum { STARVED_US = 20 * 1000 };

enum taca_code jobs_open(struct jobs **out, const struct jobs_opts *opts,
                         const struct jobs_ports *ports, struct taca_err *err) {
    struct jobs *js = calloc(1, sizeof *js);
    if (!js) return taca_fail(err, TACA_ENOMEM, "opening the job table");
    js->opts = *opts;
    js->ports = *ports;
    *out = js; /* the caller closes it, whatever happens */
    if (!sched_init(&js->sched, opts->policy, &opts->limits, fleet_devices(ports->fleet)))
        return taca_fail(err, TACA_ENOMEM, "opening the scheduler");
    js->sched.fair.quantum_ms = opts->fair_quantum_ms;
    metric_set(METRIC_CAPACITY, opts->limits.queue);
    js->quota = quota_open();
    if (!js->quota) return taca_fail(err, TACA_ENOMEM, "opening the job table");
    for (int m = 0; m < SCHED_MODELS; m++) jobs_forget_model(js, m);
    return store_open(&js->store, (int64_t)opts->job_ttl_ms * 1000, opts->stored_bytes, err);
}

void jobs_reload(struct jobs *js, const struct jobs_opts *opts) {
    js->sched.limits.queue = opts->limits.queue;
    js->sched.limits.backlog_ms = opts->limits.backlog_ms;
    js->sched.limits.patience_ms = opts->limits.patience_ms;
    js->opts.deadline_factor = opts->deadline_factor;
    js->opts.start_timeout_ms = opts->start_timeout_ms;
    js->opts.step_timeout_ms = opts->step_timeout_ms;
    js->opts.log_prompts = opts->log_prompts;
    js->opts.max_retries = opts->max_retries;
    js->expiry_us = 0; /* limits may be shorter now */
    js->sched.fair.quantum_ms = opts->fair_quantum_ms;
    metric_set(METRIC_CAPACITY, opts->limits.queue);
}

void jobs_close(struct jobs *js) {
    struct job *job;
    if (!js) return;
    while (js->store && (job = store_evict(js->store, INT64_MAX))) {
        job->dropped = true;
        jobs_free_dropped(job);
    }
    for (struct job *next; (job = js->asleep); js->asleep = next) {
        next = job->next;
        job->dropped = true;
        store_discard(js->store, job);
        jobs_free_dropped(job);
    }
    store_close(js->store);
    quota_close(js->quota);
    free(js->seqs);
    free(js->refs);
    free(js->start_ms);
    free(js->finish_ms);
    free(js->next);
    sched_finish(&js->sched);
    free(js);
}

int jobs_unanswered(const struct jobs *js) { return js->count + js->renders + js->writes; }

void jobs_stop_encoding(struct jobs *js) { js->stopped = true; }

/* ---- limits ---------------------------------------------------------------------------------- */

static int64_t start_limit_us(const struct jobs *js, const struct job *job) {
    int own_ms = job->request.start_timeout_ms, ms = js->opts.start_timeout_ms;
    if (job->state != JOB_QUEUED) return INT64_MAX;
    if (own_ms > 0) return job->received_us + (int64_t)own_ms * 1000;
    return ms > 0 ? job->waits_since_us + (int64_t)ms * 1000 : INT64_MAX;
}

static int64_t deadline_us(const struct job *job) {
    if (job->request.deadline_ms <= 0) return INT64_MAX;
    return job->received_us + (int64_t)job->request.deadline_ms * 1000;
}

/* ---- coming ---------------------------------------------------------------------------------- */

/* Pictures to start from are kept as pixels until their jobs are over. */
static bool has_room(const struct jobs *js, const struct job *job) {
    size_t more = job->request.pixels.total_bytes, there = 0;
    for (const struct job *j = js->first; j && more; j = j->next)
        there += j->request.pixels.total_bytes;
    return there == 0 || there + more <= js->opts.input_bytes;
}

static void explain(struct api_error *e, const struct job *job, const struct sched_answer *a,
                    int queued) {
    e->retry_after_s = a->retry_after_s;
    if (a->verdict == SCHED_LATE)
        api_fail(e, 429, "deadline_infeasible", "deadline_ms",
                 "it would take about %.0f ms from now on, and deadline_ms is %d", a->finish_ms,
                 job->request.deadline_ms);
    else if (a->verdict == SCHED_CROWDED)
        api_fail(e, 429, "queue_full", "",
                 "more is asked for than can be done in time; try again in %d s", e->retry_after_s);
    else
        api_fail(e, 429, "queue_full", "", "%d requests are waiting already; try again in %d s",
                 queued, e->retry_after_s);
}

/* True with an estimate in the job. */
static bool admit(struct jobs *js, struct job *job) {
    struct sched_newcomer c;
    struct sched_answer a = {.verdict = SCHED_FULL, .retry_after_s = 5};
    struct api_error e = {0};
    jobs_describe_newcomer(js, job, &c);
    (void)!getrandom(&c.random, sizeof c.random, GRND_NONBLOCK);
    if (has_room(js, job)) a = sched_admit(&js->sched, &c, js->seqs, js->n_line);
    job->finish_ms = a.finish_ms;
    job->position = a.position;
    if (a.verdict == SCHED_TAKE) return true;
    int queued = c.queued < 0 ? 0 : c.queued;
    explain(&e, job, &a, queued);
    tell_busy(js, job, &e, queued);
    return false;
}

void jobs_tally(struct jobs *js, const struct job *job, int by) {
    const int queued = job->state == JOB_QUEUED ? by : 0;
    js->count += by;
    js->queued += queued;
    js->of_model[job->request.model] += by;
    js->queued_of_model[job->request.model] += queued;
}

void jobs_append(struct jobs *js, struct job *job) {
    job->listed = true;
    job->prev = js->last;
    job->next = NULL;
    *(js->last ? &js->last->next : &js->first) = job;
    js->last = job;
    jobs_tally(js, job, 1);
    js->behind++;
    jobs_expires(js, start_limit_us(js, job));
    jobs_expires(js, deadline_us(job));
}

/* True when its model was unloaded while the request was on its way here: the job is then used up.
 */
static bool refuse_for_gone(struct jobs *js, struct job *job) {
    struct api_error e = {0};
    for (int d = 0; d < js->sched.n_devices; d++)
        if (fleet_worker(js->ports.fleet, d, job->request.model)) return false;
    api_fail(&e, 404, "model_not_found", "model", "model \"%s\" is not loaded",
             jobs_model(js, job)->id);
    jobs_refuse(js, job, &e);
    return true;
}

void jobs_add(struct jobs *js, struct job *job) {
    job->state = JOB_QUEUED;
    job->waits_since_us = job->received_us;
    job->warnings = job->request.warnings;
    if (jobs_join(js, job) || jobs_refuse_given_up(js, job) || refuse_for_gone(js, job) ||
        jobs_refuse_client(js, job))
        return;
    job->flow = jobs_key(job->client.name[0] ? job->client.name : job->request.user);
    bool memory = jobs_line_about(js);
    if (memory && !admit(js, job)) return;
    jobs_charge(js, job);
    job->images = calloc((size_t)job->request.n, sizeof *job->images);
    jobs_append(js, job);
    store_add(js->store, job);
    if (!memory || !job->images || !jobs_disk_accept(js, job)) {
        struct api_error e = {0};
        api_fail(&e, 503, "out_of_memory", "", "the service is out of memory");
        jobs_fail(js, job, "failed", &e);
        return;
    }
    for (int i = 0; i < job->request.n; i++) job->images[i].preview_due = -1;
    (void)jobs_estimate(js); /* else it stays with what admission has found */
    job->eta_us = taca_now_us() + (int64_t)(job->finish_ms * 1000);
    struct reader *r = job->readers;
    job->readers = NULL;
    job->last_event = 1; /* queued: what the reader is told first */
    readers_come(js, job, r);
}

/* ---- leaving --------------------------------------------------------------------------------- */

void jobs_give_up(struct jobs *js, const struct job *job, struct job_image *im) {
    const struct wire_msg m = {.type = WIRE_CLOSE, .u.seq.id = im->seq};
    struct pool *worker = fleet_worker(js->ports.fleet, im->device, job->request.model);
    if (im->seq && worker) (void)pool_send(worker, &m, 0);
    im->seq = 0;
}

void jobs_take_out(struct jobs *js, struct job *job) {
    if (!job->listed) return;
    for (int i = 0; job->images && i < job->request.n; i++) {
        struct job_image *im = &job->images[i];
        /* commands are in order: this one reaches the worker after what it is doing now */
        jobs_give_up(js, job, im);
    }
    for (int d = 0; d < SCHED_DEVICES * OP_KINDS; d++) {
        struct op *op = &js->ops[d / OP_KINDS][d % OP_KINDS];
        for (int i = 0; op->active && i < op->n; i++)
            if (op->refs[i].job == job) op->refs[i].job = NULL;
    }
    *(job->prev ? &job->prev->next : &js->first) = job->next;
    *(job->next ? &job->next->prev : &js->last) = job->prev;
    job->next = job->prev = NULL;
    job->listed = false;
    jobs_tally(js, job, -1);
    js->behind++;
}

/* While somebody reads the request it stays as it is. */
void jobs_free_input(struct job *job) {
    if (job->state == JOB_DONE && job->borrowed == 0) api_request_drop_pixels(&job->request);
}

void jobs_free_dropped(struct job *job) {
    if (!job->dropped || job->borrowed > 0) return;
    for (int i = 0; job->images && i < job->request.n; i++) taca_buf_finish(&job->images[i].file);
    job_close(job);
}

void jobs_finish(struct jobs *js, struct job *job, const char *outcome, int status,
                 const char *error_code) {
    jobs_take_out(js, job);
    job->outcome = outcome;
    job->log_status = status;
    job->log_code = error_code;
    job->completed_s = time(NULL);
    job->final_event = job_next_event(job);
    job->timings.total_ms = jobs_since_ms(job->received_us);
    job->state = JOB_ENDING;
    if (!jobs_disk_end(js, job)) jobs_settle(js, job);
}

void jobs_settle(struct jobs *js, struct job *job) {
    const int model = job->request.model;
    job->state = JOB_DONE;
    jobs_count(job, job->outcome);
    metric_observe_sized(METRIC_REQUEST_DURATION, model, jobs_pixels(job),
                         job->timings.total_ms / 1000);
    if (job->log_status == 200 && job->eta_us > 0)
        metric_observe_of(METRIC_ETA_ERROR, model, (double)(job->eta_us - taca_now_us()) / 1e6);
    tell_log(js, job, job->log_status, job->log_code);
    jobs_free_input(job);
    readers_welcome(js, job);
    readers_serve(js, job);
    /* who comes again with the key of a failed request wants another try */
    if (job->end != JOB_COMPLETED) store_forget_key(js->store, job);
    store_keep(js->store, job, jobs_result_bytes(job), taca_now_us());
}

size_t jobs_result_bytes(const struct job *job) {
    size_t bytes = 0;
    for (int i = 0; i < job->request.n; i++)
        if (job->made >> i & 1) bytes += job->results[i].len;
    return bytes;
}

void jobs_fail(struct jobs *js, struct job *job, const char *outcome, const struct api_error *e) {
    job->error = *e;
    job->end = JOB_FAILED;
    jobs_finish(js, job, outcome, e->status, job->error.code);
}

void jobs_cancel(struct jobs *js, struct job *job, const char *reason, int status) {
    job->cancel_reason = reason;
    job->end = JOB_CANCELLED;
    metric_add(METRIC_CANCELLED, reason, 1);
    jobs_finish(js, job, status == 504 ? "expired" : "cancelled", status,
                status == 504 ? job->error.code : "client_gone");
}

void jobs_expires(struct jobs *js, int64_t at_us) {
    if (at_us < js->expiry_us) js->expiry_us = at_us;
}

int64_t jobs_next_expiry_us(const struct jobs *js) {
    int64_t next = store_next_expiry_us(js->store), now_us = taca_now_us();
    bool soon = js->starved || js->unpublished;
    if (soon && next > now_us + STARVED_US) next = now_us + STARVED_US;
    return js->expiry_us < next ? js->expiry_us : next;
}

void jobs_expire(struct jobs *js) {
    int64_t now = taca_now_us();
    if (now < js->expiry_us) return; /* nobody has to be looked at */
    for (struct job *job = js->first, *next; job; job = next) {
        struct api_error e = {0};
        next = job->next;
        readers_give_up(js, job, now);
        if (now >= deadline_us(job)) {
            api_fail(&job->error, 504, "deadline_exceeded", "deadline_ms",
                     "not finished within the %d ms that the request allows",
                     job->request.deadline_ms);
            jobs_cancel(js, job, "deadline", 504);
        } else if (now >= start_limit_us(js, job)) {
            api_fail(&e, 504, "start_timeout", "start_timeout_ms", "not started within %d ms",
                     (int)((start_limit_us(js, job) - job->received_us) / 1000));
            jobs_fail(js, job, "expired", &e);
        }
    }
    for (struct job *job = js->ends; job; job = job->next) readers_give_up(js, job, now);
    js->expiry_us = INT64_MAX;
    for (struct job *job = js->ends; job; job = job->next) jobs_expires(js, readers_next_us(job));
    for (struct job *job = js->first; job; job = job->next) {
        jobs_expires(js, start_limit_us(js, job));
        jobs_expires(js, deadline_us(job));
        jobs_expires(js, readers_next_us(job));
    }
}

/* A durable one whose row is still on its way goes to sleep when that is there. */
static void end_draining(struct jobs *js, struct job *job) {
    struct api_error e = {0};
    if (job->durable) {
        if (job->writes == 0) jobs_sleep(js, job);
        return;
    }
    api_fail(&e, 503, "draining", "", "the service is shutting down; try again");
    e.retry_after_s = 5;
    jobs_fail(js, job, "failed", &e);
}

void jobs_shed(struct jobs *js, double budget_ms) {
    if (!jobs_estimate(js)) return;
    for (struct job *job = js->first, *next; job; job = next) {
        next = job->next;
        if (job->state == JOB_QUEUED && job->finish_ms > budget_ms) end_draining(js, job);
    }
    js->n_line = 0;
}

void jobs_end_all(struct jobs *js) {
    js->closing = true;
    for (struct job *job = js->first, *next; job; job = next) {
        next = job->next;
        end_draining(js, job);
    }
}

/* ---- models ---------------------------------------------------------------------------------- */

int jobs_of_model(const struct jobs *js, int model) { return js->of_model[model]; }

bool jobs_command(const struct jobs *js, int model) {
    for (int d = 0; d < js->sched.n_devices; d++)
        for (int k = 0; k < OP_KINDS; k++)
            if (js->ops[d][k].active && js->ops[d][k].model == model) return true;
    return false;
}

void jobs_forget_model(struct jobs *js, int model) {
    for (int d = 0; d < js->sched.n_devices; d++) {
        sched_costs_init(&js->sched.devices[d].costs[model]);
        js->measured[d][model] = !js->opts.calibrate;
    }
}
