/* jobs.c - see jobs.h. The table: who comes, who waits, who leaves, what is next. */
#include "server/jobs.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/jobs_internal.h"
#include "server/metrics.h"

enum taca_code jobs_open(struct jobs **out, const struct jobs_opts *opts,
                         const struct jobs_ports *ports, struct taca_err *err) {
    struct jobs *js = calloc(1, sizeof *js);
    if (!js) return taca_fail(err, TACA_ENOMEM, "opening the job table");
    js->opts = *opts;
    js->ports = *ports;
    sched_costs_init(&js->costs);
    metric_set(METRIC_CAPACITY, opts->limits.queue);
    *out = js;
    return TACA_OK;
}

void jobs_close(struct jobs *js) {
    if (!js) return;
    free(js->seqs);
    free(js->refs);
    free(js->start_ms);
    free(js->finish_ms);
    free(js);
}

int jobs_unanswered(const struct jobs *js) { return js->count; }

/* ---- the line -------------------------------------------------------------------------------- */

static bool grow(void *array, size_t n, size_t size) {
    void *p = realloc(*(void **)array, n * size);
    if (p) *(void **)array = p;
    return p != NULL;
}

static bool line_room(struct jobs *js, int n) {
    if (n <= js->line_cap) return true;
    size_t cap = (size_t)n * 2;
    if (!grow(&js->seqs, cap, sizeof *js->seqs) || !grow(&js->refs, cap, sizeof *js->refs) ||
        !grow(&js->start_ms, cap, sizeof(double)) || !grow(&js->finish_ms, cap, sizeof(double)))
        return false;
    js->line_cap = (int)cap;
    return true;
}

/* Before the worker has said it: patches of the picture and the text, for each side of CFG. */
static int guess_tokens(const struct jobs *js, const struct taca_gen_params *p) {
    const struct taca_model_info *m = &js->ports.status->model;
    int side = m->side_multiple_px > 0 ? m->side_multiple_px : 16;
    int t5 = p->max_sequence_length > 0 ? p->max_sequence_length : m->t5_tokens;
    int tokens = (p->width_px / side) * (p->height_px / side) + m->clip_tokens + t5;
    return p->cfg_scale > 1 ? 2 * tokens : tokens;
}

static struct sched_seq describe(const struct jobs *js, const struct job *job, int index) {
    const struct taca_gen_params *p = &job->request.params;
    const struct job_image *im = &job->images[index];
    bool opened = im->stage != IMAGE_WAITING;
    return (struct sched_seq){
        .stage = im->stage == IMAGE_WAITING ? SCHED_WAITING
                 : im->stage == IMAGE_OPEN  ? SCHED_OPEN
                                            : SCHED_FINISHED,
        .tokens = opened ? im->tokens : guess_tokens(js, p),
        .steps_left = opened ? im->steps - im->step : p->steps,
        .pixels = (double)p->width_px * p->height_px,
        .preview_due = im->preview_due >= 0,
        .alone = job->alone || job->attempts >= 2,
    };
}

bool jobs_line_up(struct jobs *js) {
    js->n_line = 0;
    for (struct job *job = js->first; job; job = job->next) {
        if (!line_room(js, js->n_line + job->request.n)) return false;
        for (int i = 0; i < job->request.n; i++) {
            if (job->images[i].stage >= IMAGE_ENCODING) continue;
            js->seqs[js->n_line] = describe(js, job, i);
            js->refs[js->n_line++] = (struct image_ref){job, i};
        }
    }
    return true;
}

void jobs_estimate(struct jobs *js) {
    sched_eta(js->start_ms, js->finish_ms, js->seqs, js->n_line, &js->opts.limits, &js->costs);
}

/* Jobs that wait and would not be in the next step either. */
static int queued_behind(struct jobs *js) {
    int picked[WIRE_MAX_SEQS], queued = 0;
    int n = sched_pick(picked, js->seqs, js->n_line, &js->opts.limits);
    struct job *soon = NULL;
    for (struct job *job = js->first; job; job = job->next) queued += job->state == JOB_QUEUED;
    for (int i = 0; i < n; i++) {
        struct job *job = js->refs[picked[i]].job;
        if (job->state == JOB_QUEUED && job != soon) queued--;
        soon = job;
    }
    /* everybody fits and there is a place left: a newcomer does not wait at all */
    int steppable = 0;
    for (int i = 0; i < js->n_line; i++) steppable += js->seqs[i].stage != SCHED_FINISHED;
    return n == steppable && n < js->opts.limits.batch_images ? -1 : queued;
}

/* Jobs and estimated time, for the probes and /metrics. */
static void publish(struct jobs *js) {
    int waiting = 0;
    for (struct job *job = js->first; job; job = job->next) waiting += job->state == JOB_QUEUED;
    atomic_store(&js->ports.status->waiting, waiting);
    atomic_store(&js->ports.status->running, js->count - waiting);
    metric_set(METRIC_WAITING, waiting);
    metric_set(METRIC_RUNNING, js->count - waiting);
    metric_set(METRIC_BACKLOG_SECONDS, sched_backlog_ms(js->seqs, js->n_line, &js->costs) / 1000);
}

/* ---- coming ---------------------------------------------------------------------------------- */

static bool admit(struct jobs *js, struct job *job) {
    uint32_t random = 0;
    int retry_after_s;
    (void)!getrandom(&random, sizeof random, GRND_NONBLOCK);
    int queued = queued_behind(js);
    double backlog = sched_backlog_ms(js->seqs, js->n_line, &js->costs);
    if (queued < 0 || sched_admit(queued, &js->opts.limits, backlog, random, &retry_after_s))
        return true;
    tell_full(job, retry_after_s, queued);
    metric_add(METRIC_REJECTED, "queue_full", 1);
    return false;
}

static void append(struct jobs *js, struct job *job) {
    job->prev = js->last;
    job->next = NULL;
    *(js->last ? &js->last->next : &js->first) = job;
    js->last = job;
    js->count++;
}

void jobs_add(struct jobs *js, struct job *job) {
    job->state = JOB_QUEUED;
    bool memory = jobs_line_up(js);
    if (memory && !admit(js, job)) {
        metric_add(METRIC_REQUESTS, "rejected", 1);
        tell_log(js, job, 429, "queue_full");
        job_close(job);
        return;
    }
    job->images = calloc((size_t)job->request.n, sizeof *job->images);
    append(js, job);
    if (!memory || !job->images || !line_room(js, js->n_line + job->request.n)) {
        struct api_error e = {0};
        api_fail(&e, 503, "out_of_memory", "", "the service is out of memory");
        jobs_fail(js, job, "failed", &e);
        return;
    }
    for (int i = 0; i < job->request.n; i++) job->images[i].preview_due = -1;
    int position = 0;
    for (struct job *j = js->first; j; j = j->next) position += j->state == JOB_QUEUED;
    double eta_ms = 0;
    if (job->reply == API_REPLY_EVENTS && jobs_line_up(js)) {
        jobs_estimate(js);
        eta_ms = js->finish_ms[js->n_line - 1];
    }
    tell_queued(job, position, eta_ms);
}

/* ---- leaving --------------------------------------------------------------------------------- */

static void forget(struct jobs *js, struct job *job) {
    for (int i = 0; job->images && i < job->request.n; i++) {
        struct job_image *im = &job->images[i];
        /* commands are in order: this one reaches the worker after what it is doing now */
        if (im->seq)
            (void)pool_send(js->ports.pool,
                            &(struct wire_msg){.type = WIRE_CLOSE, .u.seq.id = im->seq}, 0);
        im->seq = 0;
    }
    for (int i = 0; js->op.active && i < js->op.n; i++)
        if (js->op.refs[i].job == job) js->op.refs[i].job = NULL;
    *(job->prev ? &job->prev->next : &js->first) = job->next;
    *(job->next ? &job->next->prev : &js->last) = job->prev;
    job->next = job->prev = NULL;
    js->count--;
}

void jobs_free_job(struct job *job) {
    for (int i = 0; job->images && i < job->request.n; i++) taca_buf_finish(&job->images[i].png);
    job_close(job);
}

void jobs_finish(struct jobs *js, struct job *job, const char *outcome, int status,
                 const char *error_code) {
    forget(js, job);
    job->state = JOB_DONE;
    job->timings.total_ms = jobs_since_ms(job->received_us);
    metric_add(METRIC_REQUESTS, outcome, 1);
    metric_observe(METRIC_REQUEST_DURATION, job->timings.total_ms / 1000);
    tell_log(js, job, status, error_code);
    if (job->borrowed == 0) jobs_free_job(job);
}

void jobs_fail(struct jobs *js, struct job *job, const char *outcome, const struct api_error *e) {
    stream_fail(job->stream, job->id, e);
    jobs_finish(js, job, outcome, e->status, e->code);
}

void jobs_client_gone(struct jobs *js, uint64_t key) {
    for (struct job *job = js->first; job; job = job->next) {
        if (job->key != key) continue;
        if (job->request.on_disconnect == API_DISCONNECT_CONTINUE) return;
        job->cancel_reason = "disconnect";
        metric_add(METRIC_CANCELLED, job->cancel_reason, 1);
        tell_cancelled(job);
        jobs_finish(js, job, "cancelled", 499, "client_gone");
        return;
    }
}

static int64_t start_limit_us(const struct jobs *js, const struct job *job) {
    int ms = job->request.start_timeout_ms > 0 ? job->request.start_timeout_ms
                                               : js->opts.start_timeout_ms;
    if (job->state != JOB_QUEUED || ms <= 0) return INT64_MAX;
    return job->received_us + (int64_t)ms * 1000;
}

static int64_t deadline_us(const struct job *job) {
    if (job->request.deadline_ms <= 0) return INT64_MAX;
    return job->received_us + (int64_t)job->request.deadline_ms * 1000;
}

int64_t jobs_next_expiry_us(const struct jobs *js) {
    int64_t next = INT64_MAX;
    for (struct job *job = js->first; job; job = job->next) {
        int64_t start = start_limit_us(js, job), end = deadline_us(job);
        if (start < next) next = start;
        if (end < next) next = end;
    }
    return next;
}

static void expire(struct jobs *js) {
    int64_t now = taca_now_us();
    for (struct job *job = js->first, *next; job; job = next) {
        struct api_error e = {0};
        next = job->next;
        if (now >= deadline_us(job)) {
            job->cancel_reason = "deadline";
            metric_add(METRIC_CANCELLED, job->cancel_reason, 1);
            api_fail(&e, 504, "deadline_exceeded", "deadline_ms",
                     "not finished within the %d ms that the request allows",
                     job->request.deadline_ms);
            if (job->reply != API_REPLY_EVENTS) {
                jobs_fail(js, job, "expired", &e);
                continue;
            }
            tell_cancelled(job);
            jobs_finish(js, job, "expired", 504, e.code);
        } else if (now >= start_limit_us(js, job)) {
            api_fail(&e, 504, "start_timeout", "start_timeout_ms", "not started within %d ms",
                     (int)((start_limit_us(js, job) - job->received_us) / 1000));
            jobs_fail(js, job, "expired", &e);
        }
    }
}

static void fail_draining(struct jobs *js, struct job *job) {
    struct api_error e = {0};
    api_fail(&e, 503, "draining", "", "the service is shutting down; try again");
    e.retry_after_s = 5;
    jobs_fail(js, job, "failed", &e);
}

void jobs_shed(struct jobs *js, double budget_ms) {
    if (!jobs_line_up(js)) return;
    jobs_estimate(js);
    /* the line names the jobs; ending one leaves the references to others valid */
    struct job *last = NULL;
    for (int i = 0; i < js->n_line; i++) {
        struct job *job = js->refs[i].job;
        if (job == last || job->state != JOB_QUEUED) continue;
        last = job;
        double finish = 0;
        int k = i;
        for (; k < js->n_line && js->refs[k].job == job; k++)
            if (js->finish_ms[k] > finish) finish = js->finish_ms[k];
        i = k - 1;
        if (finish > budget_ms) fail_draining(js, job);
    }
    js->n_line = 0;
}

void jobs_end_all(struct jobs *js) {
    while (js->first) fail_draining(js, js->first);
}

/* ---- what is next ---------------------------------------------------------------------------- */

static int free_slot(const struct jobs *js) {
    for (int i = 0; i < POOL_SLOTS; i++)
        if (!js->slot_used[i]) return i;
    return -1;
}

/* How long the worker may be silent about something that should take expected_ms. Slow is not dead:
 * the limit grows with the work, and what was never measured gets ten times the limit. */
static int patience_ms(const struct jobs *js, double expected_ms, bool measured) {
    double ms = js->opts.step_timeout_ms;
    if (!measured) ms *= 10;
    if (measured && 20 * expected_ms > ms) ms = 20 * expected_ms;
    return ms < INT_MAX / 2 ? (int)ms : INT_MAX / 2;
}

static int patience_for(const struct jobs *js, const struct wire_msg *m, const int *picked, int n) {
    const struct sched_costs *c = &js->costs;
    double tokens = 0;
    if (m->type == WIRE_OPEN) return patience_ms(js, c->open_ms, c->opened);
    if (m->type == WIRE_DECODE)
        return patience_ms(js, js->seqs[picked[0]].pixels * c->ms_per_pixel, c->decoded);
    for (int i = 0; i < n; i++) tokens += js->seqs[picked[i]].tokens;
    return patience_ms(js, tokens * c->ms_per_token, c->measured);
}

static bool send_op(struct jobs *js, const struct wire_msg *m, enum wire_type answer,
                    const int *picked, int n) {
    if (!pool_send(js->ports.pool, m, patience_for(js, m, picked, n))) return false;
    js->op = (struct op){.active = true, .type = answer, .n = n, .slot = -1};
    for (int i = 0; i < n; i++) js->op.refs[i] = js->refs[picked[i]];
    return true;
}

static void send_open(struct jobs *js, const int *picked) {
    struct job *job = js->refs[picked[0]].job;
    int index = js->refs[picked[0]].index;
    struct taca_gen_params p = job->request.params;
    struct taca_buf packed;
    p.seed += (uint64_t)index;
    taca_buf_init(&packed, WIRE_MAX_TAIL);
    taca_gen_params_pack(&packed, &p);
    struct wire_msg m = {.type = WIRE_OPEN,
                         .u.seq.id = js->last_seq + 1,
                         .tail = packed.data,
                         .tail_len = packed.len};
    if (!packed.failed && send_op(js, &m, WIRE_OPENED, picked, 1)) {
        job->images[index].seq = ++js->last_seq;
        if (job->state == JOB_QUEUED) tell_started(js, job);
    }
    taca_buf_finish(&packed);
}

static void send_step(struct jobs *js, const int *picked, int n) {
    struct wire_msg m = {.type = WIRE_STEP};
    m.u.step.n = n;
    for (int i = 0; i < n; i++) {
        const struct image_ref *r = &js->refs[picked[i]];
        m.u.step.ids[i] = r->job->images[r->index].seq;
    }
    if (send_op(js, &m, WIRE_STEPPED, picked, n)) js->turn = (struct sched_turn){0};
}

static void send_decode(struct jobs *js, const int *picked, int slot) {
    const struct image_ref *r = &js->refs[picked[0]];
    struct wire_msg m = {.type = WIRE_DECODE};
    m.u.decode = (struct wire_decode){.id = r->job->images[r->index].seq, .slot = slot};
    if (!send_op(js, &m, WIRE_DECODED, picked, 1)) return;
    js->op.slot = slot;
    js->slot_used[slot] = true;
    js->turn.decodes++;
}

static void send_preview(struct jobs *js, const int *picked) {
    const struct image_ref *r = &js->refs[picked[0]];
    struct wire_msg m = {.type = WIRE_PREVIEW, .u.seq.id = r->job->images[r->index].seq};
    (void)send_op(js, &m, WIRE_PREVIEWED, picked, 1);
}

void jobs_pump(struct jobs *js) {
    expire(js);
    if (!jobs_line_up(js)) return; /* out of memory: the next event tries again */
    if (!js->op.active && !js->sick && pool_ready(js->ports.pool)) {
        int picked[WIRE_MAX_SEQS], n, slot = free_slot(js);
        switch (sched_next(picked, &n, js->seqs, js->n_line, &js->opts.limits, &js->turn,
                           js->costs.step_ms, slot >= 0)) {
        case SCHED_DO_NOTHING: break;
        case SCHED_DO_OPEN: send_open(js, picked); break;
        case SCHED_DO_STEP: send_step(js, picked, n); break;
        case SCHED_DO_PREVIEW: send_preview(js, picked); break;
        case SCHED_DO_DECODE: send_decode(js, picked, slot); break;
        }
    }
    publish(js);
}
