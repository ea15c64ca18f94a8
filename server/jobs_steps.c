/* jobs_steps.c - what the worker's and the encoder's answers mean for the jobs; see jobs.h. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "server/jobs_internal.h"
#include "server/metrics.h"

static struct job_image *image_of(const struct image_ref *r) { return &r->job->images[r->index]; }

/* The request cannot be served: its own fault or the engine's, in HTTP terms. */
static void fail_with(struct jobs *js, struct job *job, const struct taca_err *err) {
    struct api_error e = {0};
    api_error_from(&e, err);
    jobs_fail(js, job, e.status < 500 ? "rejected" : "failed", &e);
}

/* ---- the worker's answers -------------------------------------------------------------------- */

static int held_by(const struct jobs *js, int device) {
    int held = 0;
    for (const struct job *job = js->first; job; job = job->next)
        for (int i = 0; i < job->request.n; i++)
            held += job->images[i].seq != 0 && job->images[i].device == device;
    return held;
}

/* Without memory for one more it waits until there are fewer; when it is the only one it never
 * fits. */
static void open_failed(struct jobs *js, const struct op *op, const struct taca_err *err) {
    struct job_image *im = image_of(&op->refs[0]);
    im->seq = 0;
    int held = held_by(js, op->device);
    if (err->code != TACA_ENOMEM || held == 0) {
        fail_with(js, op->refs[0].job, err);
        return;
    }
    taca_log(TACA_LOG_WARN, "no memory for one more beside %d: %s", held, err->text);
    sched_no_room(&js->sched, op->device, held);
}

static void opened(struct jobs *js, const struct op *op, const struct wire_opened *a) {
    struct job *job = op->refs[0].job;
    js->sched.devices[op->device].turn.open_ms += a->ms;
    if (!job) return; /* left meanwhile; its CLOSE is on the way */
    struct job_image *im = image_of(&op->refs[0]);
    if (a->err.code != TACA_OK) {
        struct taca_err err;
        wire_err_get(&err, &a->err);
        open_failed(js, op, &err);
        return;
    }
    /* beside a step it took at most so long */
    struct sched_costs *c = jobs_costs(js, op);
    if (!op->shared || !c->opened || a->ms < c->open_ms) sched_saw_open(c, a->ms);
    im->stage = a->steps > 0 ? IMAGE_OPEN : IMAGE_FINISHED; /* strength 0 leaves nothing to do */
    im->step = 0;
    im->steps = a->steps;
    im->tokens = a->tokens;
    job->warnings |= a->warnings;
    job->timings.text_ms += a->ms;
}

/* A joint step has failed and nobody has advanced. Without memory the next ones are smaller; else
 * each tries again by itself, so that the one at fault fails alone. */
static void step_failed(struct jobs *js, const struct op *op, const struct taca_err *err) {
    taca_log(TACA_LOG_WARN, "a step of %d failed: %s", op->n, err->text);
    if (err->code == TACA_ENOMEM) sched_step_too_large(&js->sched, op->device, op->n);
    for (int i = 0; i < op->n; i++) {
        struct job *job = op->refs[i].job;
        if (!job || job->state >= JOB_ENDING) continue;
        if (op->n == 1)
            fail_with(js, job, err);
        else if (err->code != TACA_ENOMEM)
            job->alone = true;
    }
}

static void count_step(struct jobs *js, const struct op *op, const struct wire_stepped *a) {
    const struct sched_step step = {op->model, op->n, op->tokens, op->keys, a->ms, op->shared};
    sched_stepped(&js->sched, op->device, &step);
    js->steps++;
    metric_add_of(METRIC_STEPS, op->model, NULL, (uint64_t)op->n);
    metric_add_of(METRIC_BESIDE, op->model, NULL, op->shared);
    metric_step(&(struct metric_step){op->device, op->model, a->ms / 1000, op->n, a->tokens});
}

static void stepped(struct jobs *js, const struct op *op, const struct wire_stepped *a) {
    if (a->err.code != TACA_OK) {
        struct taca_err err;
        wire_err_get(&err, &a->err);
        step_failed(js, op, &err);
        return;
    }
    count_step(js, op, a);
    bool events = false;
    for (int i = 0; i < op->n; i++) {
        struct job *job = op->refs[i].job;
        if (!job) continue;
        struct job_image *im = image_of(&op->refs[i]);
        if (++im->step >= im->steps) im->stage = IMAGE_FINISHED;
        if (readers_watch(job)) {
            im->preview_due = api_preview_due(&job->request, im->step);
            events = true;
        }
        if (job->counted != js->steps) { /* once, however many of its images were in it */
            job->counted = js->steps;
            job->timings.denoise_ms += a->ms;
            job->steps_run++;
            job->sequences_seen += op->n;
        }
    }
    if (!events || !jobs_estimate(js)) return;
    for (int i = 0; i < op->n; i++) {
        struct job *job = op->refs[i].job;
        if (job) tell_progress(job, op->refs[i].index, a, job->finish_ms);
    }
}

struct encode_task *jobs_task(struct jobs *js, const struct image_ref *r, enum encode_kind kind) {
    struct encode_task *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->kind = kind;
    t->job = r->job;
    t->index = r->index;
    t->slot = -1;
    t->model = jobs_model(js, r->job);
    return t;
}

bool jobs_hand_over(struct jobs *js, struct encode_task *t) {
    if (!js->stopped && encode_submit(js->ports.encode, t)) {
        t->job->borrowed++;
        js->renders += t->kind == ENCODE_RENDER;
        return true;
    }
    if (t->kind == ENCODE_PREVIEW) metric_add(METRIC_EVENTS_DROPPED, "preview", 1);
    encode_task_free(t);
    return false;
}

static void previewed(struct jobs *js, const struct op *op, const struct wire_msg *m) {
    const struct wire_pixels *a = &m->u.pixels;
    struct job *job = op->refs[0].job;
    if (!job) return;
    struct job_image *im = image_of(&op->refs[0]);
    int number = im->preview_due;
    im->preview_due = -1;
    if (a->err.code != TACA_OK) { /* a picture less on the way, the result is not touched */
        taca_log(TACA_LOG_WARN, "job %s: no preview: %s", job->id, a->err.text);
        return;
    }
    struct encode_task *t = jobs_task(js, &op->refs[0], ENCODE_PREVIEW);
    uint8_t *rgb = malloc(m->tail_len);
    if (!t || !rgb) {
        free(t);
        free(rgb);
        return;
    }
    memcpy(rgb, m->tail, m->tail_len);
    t->pixels = (struct taca_image){a->width_px, a->height_px, rgb};
    t->step = im->step;
    t->partial_index = number;
    (void)jobs_hand_over(js, t);
}

static void decoded(struct jobs *js, const struct op *op, const struct wire_pixels *a) {
    struct job *job = op->refs[0].job;
    struct encode_task *t = NULL;
    struct taca_err err = {0};
    if (job) {
        job->timings.vae_ms += a->ms;
        if (a->err.code != TACA_OK)
            wire_err_get(&err, &a->err);
        else if (!(t = jobs_task(js, &op->refs[0], ENCODE_IMAGE)))
            (void)taca_fail(&err, TACA_ENOMEM, "encoding an image");
    }
    struct pool *worker = jobs_worker(js, op);
    if (!t) {
        pool_give_slot(worker, op->slot);
        if (job) fail_with(js, job, &err);
        return;
    }
    struct job_image *im = image_of(&op->refs[0]);
    (void)pool_send(worker, &(struct wire_msg){.type = WIRE_CLOSE, .u.seq.id = im->seq}, 0);
    im->seq = 0;
    im->stage = IMAGE_ENCODING;
    pool_praise(worker);
    struct sched_costs *c = jobs_costs(js, op);
    const double pixels = (double)a->width_px * a->height_px;
    if (!op->shared || !c->decoded || a->ms < pixels * c->ms_per_pixel)
        sched_saw_decode(c, pixels, a->ms);
    t->slot = op->slot;
    t->worker = worker;
    /* the encoder only reads; the struct has one type for both directions */
    t->pixels = (struct taca_image){a->width_px, a->height_px,
                                    (uint8_t *)(uintptr_t)pool_slot(worker, op->slot)};
    if (!jobs_hand_over(js, t)) pool_give_slot(worker, op->slot);
}

/* A model that could not be measured is learnt from its first requests; but a worker that is not
 * trusted has failed its trial. */
static void calibrated(struct jobs *js, const struct op *op, const struct wire_calibrated *a) {
    struct sched_costs *c = jobs_costs(js, op);
    struct pool *worker = jobs_worker(js, op);
    if (a->err.code != TACA_OK) taca_log(TACA_LOG_WARN, "calibration: %s", a->err.text);
    if (a->err.code == TACA_OK)
        pool_praise(worker);
    else if (pool_doubted(worker))
        pool_condemn(worker, "trial");
    for (int64_t k = 0; k < a->n; k++) {
        int tokens[WIRE_MAX_SEQS];
        for (int i = 0; i < a->steps[k].rows; i++) tokens[i] = a->steps[k].tokens;
        sched_saw_step(c, tokens, a->steps[k].rows, a->steps[k].ms);
        taca_log(TACA_LOG_DEBUG, "calibration: %d x %d tokens: %.2f ms", (int)a->steps[k].rows,
                 (int)a->steps[k].tokens, a->steps[k].ms);
    }
    if (a->open_ms > 0) sched_saw_open(c, a->open_ms);
    sched_saw_decode(c, a->decode_pixels, a->decode_ms);
    taca_log(TACA_LOG_INFO,
             "calibrated with %d steps: %.2f ms of each are shared, full at %g tokens", (int)a->n,
             c->shared_ms, (double)c->saturation);
}

static enum taca_code code_of(const struct wire_msg *m) {
    switch (m->type) {
    case WIRE_OPENED: return (enum taca_code)m->u.opened.err.code;
    case WIRE_STEPPED: return (enum taca_code)m->u.stepped.err.code;
    case WIRE_PREVIEWED:
    case WIRE_DECODED: return (enum taca_code)m->u.pixels.err.code;
    case WIRE_CALIBRATED: return (enum taca_code)m->u.calibrated.err.code;
    case WIRE_OPEN:
    case WIRE_STEP:
    case WIRE_PREVIEW:
    case WIRE_DECODE:
    case WIRE_CLOSE:
    case WIRE_QUIT:
    case WIRE_CALIBRATE:
    case WIRE_LOG:
    case WIRE_MEMORY:
    case WIRE_HELLO:
    case WIRE_FAILED:
    case WIRE_TYPES_END: break;
    }
    return TACA_EPROTO;
}

/* Does the message answer what was asked? */
static bool fits(const struct op *op, int model, const struct wire_msg *m) {
    if (!op->active || op->model != model || m->type != op->type) return false;
    if (m->type == WIRE_STEPPED && m->u.stepped.err.code == TACA_OK) return m->u.stepped.n == op->n;
    if (m->type == WIRE_OPENED) return m->u.opened.id == op->id;
    if (m->type == WIRE_DECODED) {
        const struct wire_pixels *a = &m->u.pixels;
        const struct job *job = op->refs[0].job;
        return a->id == op->id && a->slot == op->slot &&
               (a->err.code != TACA_OK || !job ||
                (a->width_px == job->request.params.width_px &&
                 a->height_px == job->request.params.height_px));
    }
    return true;
}

static double ms_of(const struct wire_msg *m) {
    if (m->type == WIRE_OPENED) return m->u.opened.ms;
    if (m->type == WIRE_STEPPED) return m->u.stepped.ms;
    return m->type == WIRE_PREVIEWED || m->type == WIRE_DECODED ? m->u.pixels.ms : 0;
}

/* What was done beside steps keeps the device busy for as long as it goes on after them. */
static void count_device(const struct op *op, const struct wire_msg *m) {
    enum taca_code code = code_of(m);
    const double ms = ms_of(m) - op->steps_ms;
    metric_device_busy(op->device, ms > 0 ? ms / 1000 : 0);
    if (code != TACA_OK && code != TACA_EINVAL) metric_device_error(op->device, code);
}

struct pool *jobs_worker(const struct jobs *js, const struct op *op) {
    return fleet_worker(js->ports.fleet, op->device, op->model);
}

void jobs_answer(struct jobs *js, int device, int model, const struct wire_msg *m) {
    const int kind = op_kind(m->type);
    struct op op = js->ops[device][kind], *other = &js->ops[device][!kind];
    /* after either `lost` follows and clears the command */
    if (!fits(&op, model, m)) {
        pool_condemn(fleet_worker(js->ports.fleet, device, model), "protocol");
        return;
    }
    js->behind++;
    count_device(&op, m);
    if (kind == OP_STEP) other->steps_ms += ms_of(m);
    if (code_of(m) == TACA_EDEVICE) { /* for good: its jobs start again with the next worker */
        pool_condemn(jobs_worker(js, &op), "device");
        return;
    }
    js->ops[device][kind].active = false;
    if (m->type == WIRE_OPENED) opened(js, &op, &m->u.opened);
    if (m->type == WIRE_STEPPED) stepped(js, &op, &m->u.stepped);
    if (m->type == WIRE_PREVIEWED) previewed(js, &op, m);
    if (m->type == WIRE_DECODED) decoded(js, &op, &m->u.pixels);
    if (m->type == WIRE_CALIBRATED) calibrated(js, &op, &m->u.calibrated);
}

/* ---- a worker less --------------------------------------------------------------------------- */

void jobs_rewind(struct job_image *im) {
    im->seq = 0;
    im->stage = IMAGE_WAITING;
    im->step = 0;
    im->preview_due = -1;
}

/* Back to step 0 with the same seed what the device had of it; true when that was something. */
static bool rewind_job(struct job *job, int device) {
    bool lost = false;
    for (int i = 0; i < job->request.n; i++) {
        struct job_image *im = &job->images[i];
        if (!im->seq || im->device != device) continue;
        jobs_rewind(im);
        lost = true;
    }
    return lost;
}

void jobs_worker_lost(struct jobs *js, int device, int model, const char *reason) {
    metric_add(METRIC_RESTARTS, reason, 1);
    js->behind++;
    for (int k = 0; k < OP_KINDS; k++) {
        struct op *op = &js->ops[device][k];
        if (!op->active || op->model != model) continue;
        if (op->slot >= 0) pool_give_slot(jobs_worker(js, op), op->slot);
        op->active = false;
        js->sched.devices[device].turn = (struct sched_turn){0};
    }
    for (struct job *job = js->first, *next; job; job = next) {
        next = job->next;
        if (job->request.model != model || !rewind_job(job, device)) continue;
        if (++job->attempts <= js->opts.max_retries) {
            jobs_disk_stands(js, job);
            tell_retrying(job, reason);
            continue;
        }
        struct api_error e = {0};
        api_fail(&e, 500, "worker_lost", "", "the worker died %d times while it made this image",
                 job->attempts);
        jobs_fail(js, job, "failed", &e);
    }
}

/* ---- the encoder's answers ------------------------------------------------------------------- */

static void complete(struct jobs *js, struct job *job) {
    job_completed(job);
    jobs_finish(js, job, "ok", 200, NULL);
}

static bool keep_result(struct job *job, struct encode_task *t) {
    const struct taca_gen_params *p = &job->request.params;
    struct job_image *im = &job->images[t->index];
    if (!job->results) job->results = calloc((size_t)job->request.n, sizeof *job->results);
    if (!job->results) return false;
    im->file = t->file;
    t->file = (struct taca_buf){0};
    im->stage = IMAGE_DONE;
    job->results[t->index] = (struct api_result_image){.index = t->index,
                                                       .seed = p->seed + (uint64_t)t->index,
                                                       .width_px = p->width_px,
                                                       .height_px = p->height_px,
                                                       .bytes = im->file.data,
                                                       .len = im->file.len,
                                                       .event_id = job_next_event(job),
                                                       .format = job->request.file.format};
    job->made |= UINT64_C(1) << t->index;
    return true;
}

static void image_encoded(struct jobs *js, struct job *job, struct encode_task *t) {
    job->timings.encode_ms += t->ms;
    const int model = job->request.model, device = job->images[t->index].device;
    sched_saw_encode(&js->sched.devices[device].costs[model], jobs_pixels(job), t->ms);
    metric_add_of(METRIC_IMAGES, model, NULL, 1);
    metric_add_of(METRIC_PIXELS, model, NULL,
                  (uint64_t)t->pixels.width_px * (uint64_t)t->pixels.height_px);
    if (!keep_result(job, t)) {
        struct taca_err err = {.code = TACA_ENOMEM};
        fail_with(js, job, &err);
        return;
    }
    if (++job->images_done == job->request.n)
        complete(js, job);
    else
        readers_serve(js, job);
}

/* The job is not over. */
static void encoded(struct jobs *js, struct job *job, struct encode_task *t) {
    if (t->kind == ENCODE_PREVIEW) {
        /* a preview behind its image would be a step back */
        if (t->rc == TACA_OK && job->images[t->index].stage < IMAGE_DONE) tell_preview(job, t);
    } else if (t->rc != TACA_OK) {
        fail_with(js, job, &t->err);
    } else {
        image_encoded(js, job, t);
    }
}

void jobs_encoded(struct jobs *js, struct encode_task *t) {
    struct job *job = t->job;
    if (t->slot >= 0) pool_give_slot(t->worker, t->slot);
    job->borrowed--;
    if (t->kind == ENCODE_RENDER) {
        js->renders--;
        readers_rendered(js, job, t);
    } else if (job->listed) {
        encoded(js, job, t);
    }
    encode_task_free(t);
    jobs_free_input(job);
    jobs_spill(job);
    jobs_free_dropped(job);
}
