/* jobs_next.c - what the devices do next, and how long they may take. See jobs.h. */
#include <limits.h>

#include "base/clock.h"
#include "server/jobs_internal.h"

enum { CALIBRATE_MS = 250 };

/* How long the worker may be silent about something that should take expected_ms. Slow is not dead:
 * the limit grows with the work, and what was never measured gets ten times the limit. */
static int patience_ms(const struct jobs *js, double expected_ms, bool measured) {
    double ms = js->opts.step_timeout_ms;
    if (!measured) ms *= 10;
    if (measured && 20 * expected_ms > ms) ms = 20 * expected_ms;
    return ms < INT_MAX / 2 ? (int)ms : INT_MAX / 2;
}

static int patience_for(struct jobs *js, const struct op *op, const struct wire_msg *m,
                        const int *picked) {
    const struct sched_costs *c = jobs_costs(js, op);
    struct sched_load load = {0};
    if (m->type == WIRE_CALIBRATE) return patience_ms(js, 0, false);
    if (m->type == WIRE_OPEN) return patience_ms(js, c->open_ms, c->opened);
    if (m->type == WIRE_DECODE)
        return patience_ms(js, js->seqs[picked[0]].pixels * c->ms_per_pixel, c->decoded);
    for (int i = 0; i < op->n; i++) sched_load_add(&load, c, js->seqs[picked[i]].tokens);
    return patience_ms(js, sched_load_ms(c, &load), c->measured);
}

/* `op` says where to and what is expected; true, and it is the device's, when it is on its way. */
static bool send_op(struct jobs *js, struct op op, const struct wire_msg *m, const int *picked) {
    struct pool *worker = jobs_worker(js, &op);
    if (!worker || !pool_send(worker, m, patience_for(js, &op, m, picked))) return false;
    op.active = true;
    for (int i = 0; i < op.n; i++) {
        op.refs[i] = *jobs_ref(js, picked[i]);
        op.tokens[i] = js->seqs[picked[i]].tokens;
        op.keys[i] = js->seqs[picked[i]].key;
    }
    struct op *other = &js->ops[op.device][op_kind(op.type) == OP_STEP ? OP_BESIDE : OP_STEP];
    op.shared = other->active;
    if (other->active) other->shared = true;
    js->ops[op.device][op_kind(op.type)] = op;
    js->behind++;
    return true;
}

static struct op op_of(const struct jobs *js, int device, const struct sched_plan *plan,
                       enum wire_type answer) {
    return (struct op){.device = device,
                       .model = js->seqs[plan->picked[0]].model,
                       .type = answer,
                       .n = plan->n,
                       .slot = -1};
}

static bool put_input(struct pool *worker, const struct taca_gen_params *p, struct wire_open *o) {
    const size_t pixels = (size_t)p->width_px * (size_t)p->height_px;
    if (!p->image) return true;
    o->image_bytes = (int64_t)pixels * 3;
    o->mask_bytes = p->mask ? (int64_t)pixels : 0;
    return worker && pool_put_input(worker, p->image, p->mask, pixels);
}

/* A worker that is new, or not trusted any more: it measures what steps take, and so shows that it
 * can. If a new one dies of it, the first requests tell the costs. */
static bool send_calibrate(struct jobs *js, int device) {
    for (int m = 0; m < SCHED_MODELS; m++) {
        const struct pool *worker = fleet_worker(js->ports.fleet, device, m);
        if (!worker || !pool_ready(worker)) continue;
        if (js->measured[device][m] && !pool_doubted(worker)) continue;
        const struct op op = {.device = device, .model = m, .type = WIRE_CALIBRATED, .slot = -1};
        const struct wire_msg msg = {.type = WIRE_CALIBRATE, .u.calibrate.budget_ms = CALIBRATE_MS};
        js->measured[device][m] = true;
        if (send_op(js, op, &msg, NULL)) return true;
    }
    return false;
}

static bool send_open(struct jobs *js, int device, const struct sched_plan *plan) {
    const struct image_ref *r = jobs_ref(js, plan->picked[0]);
    struct op op = op_of(js, device, plan, WIRE_OPENED);
    struct job *job = r->job;
    int index = r->index;
    struct taca_gen_params p = job->request.params;
    struct wire_msg m = {.type = WIRE_OPEN, .u.open.id = js->last_seq + 1};
    struct taca_buf packed;
    op.id = m.u.open.id;
    bool ok = put_input(jobs_worker(js, &op), &p, &m.u.open);
    p.seed += (uint64_t)index;
    p.image = p.mask = NULL;
    taca_buf_init(&packed, WIRE_MAX_TAIL);
    taca_gen_params_pack(&packed, &p);
    m.tail = packed.data;
    m.tail_len = packed.len;
    bool sent = ok && !packed.failed && send_op(js, op, &m, plan->picked);
    taca_buf_finish(&packed);
    if (!sent) return false;
    job->images[index].seq = ++js->last_seq;
    job->images[index].device = device;
    if (job->state == JOB_QUEUED) tell_started(js, job);
    return true;
}

static bool send_step(struct jobs *js, int device, const struct sched_plan *plan) {
    struct wire_msg m = {.type = WIRE_STEP};
    m.u.step.n = plan->n;
    for (int i = 0; i < plan->n; i++) {
        const struct image_ref *r = jobs_ref(js, plan->picked[i]);
        m.u.step.ids[i] = r->job->images[r->index].seq;
    }
    if (!send_op(js, op_of(js, device, plan, WIRE_STEPPED), &m, plan->picked)) return false;
    js->sched.devices[device].turn = (struct sched_turn){0};
    return true;
}

static bool send_decode(struct jobs *js, int device, const struct sched_plan *plan) {
    const struct image_ref *r = jobs_ref(js, plan->picked[0]);
    struct op op = op_of(js, device, plan, WIRE_DECODED);
    struct pool *worker = jobs_worker(js, &op);
    op.slot = worker ? pool_take_slot(worker) : -1;
    if (op.slot < 0) return false;
    struct wire_msg m = {.type = WIRE_DECODE};
    op.id = r->job->images[r->index].seq;
    m.u.decode = (struct wire_decode){.id = op.id, .slot = op.slot};
    if (!send_op(js, op, &m, plan->picked)) {
        pool_give_slot(worker, op.slot);
        return false;
    }
    js->sched.devices[device].turn.decodes++;
    return true;
}

static bool send_preview(struct jobs *js, int device, const struct sched_plan *plan) {
    const struct image_ref *r = jobs_ref(js, plan->picked[0]);
    const struct wire_msg m = {.type = WIRE_PREVIEW, .u.seq.id = r->job->images[r->index].seq};
    return send_op(js, op_of(js, device, plan, WIRE_PREVIEWED), &m, plan->picked);
}

static void drop_old(struct jobs *js) {
    struct job *job;
    while ((job = store_evict(js->store, taca_now_us()))) {
        jobs_disk_remove(js, job);
        job->dropped = true;
        jobs_free_dropped(job);
    }
}

static bool start_over(struct jobs *js, const struct sched_plan *plan) {
    const struct image_ref *r = jobs_ref(js, plan->picked[0]);
    struct job_image *im = &r->job->images[r->index];
    jobs_give_up(js, r->job, im);
    jobs_rewind(im);
    js->behind++;
    return true;
}

static uint32_t who_can_decode(const struct jobs *js, int device) {
    uint32_t models = 0;
    for (int m = 0; m < SCHED_MODELS; m++) {
        const struct pool *worker = fleet_worker(js->ports.fleet, device, m);
        if (worker && pool_has_slot(worker)) models |= UINT32_C(1) << m;
    }
    return models;
}

static bool do_plan(struct jobs *js, int device, const struct sched_plan *plan) {
    switch (plan->act) {
    case SCHED_DO_NOTHING: break;
    case SCHED_DO_OPEN: return send_open(js, device, plan);
    case SCHED_DO_EVICT: return start_over(js, plan);
    case SCHED_DO_STEP: return send_step(js, device, plan);
    case SCHED_DO_PREVIEW: return send_preview(js, device, plan);
    case SCHED_DO_DECODE: return send_decode(js, device, plan);
    }
    return false;
}

/* The step first: what else there is to do is then done beside it. */
static struct sched_plan next_beside_steps(struct jobs *js, int device) {
    const struct op *step = &js->ops[device][OP_STEP], *beside = &js->ops[device][OP_BESIDE];
    struct sched_plan plan = {.act = SCHED_DO_NOTHING};
    if (step->active && step->type != WIRE_STEPPED) return plan; /* wants the engine for itself */
    if (!step->active)
        plan = sched_next_step(&js->sched, device, js->seqs, js->n_line, who_can_decode(js, device),
                               beside->active ? beside->model : -1);
    if (plan.act == SCHED_DO_NOTHING && !beside->active)
        plan = sched_next_beside(&js->sched, device, js->seqs, js->n_line,
                                 who_can_decode(js, device), step->active ? step->model : -1);
    return plan;
}

/* May it be given a command? */
static bool takes_one(const struct jobs *js, int device) {
    const bool step = js->ops[device][OP_STEP].active, beside = js->ops[device][OP_BESIDE].active;
    return !(step && beside) && (!(step || beside) || js->overlaps[device]);
}

static bool somebody_takes_one(const struct jobs *js) {
    for (int d = 0; d < js->sched.n_devices; d++)
        if (takes_one(js, d)) return true;
    return false;
}

/* True when it did something that changes what the others see. */
static bool pump_device(struct jobs *js, int device) {
    const bool idle = !js->ops[device][OP_STEP].active && !js->ops[device][OP_BESIDE].active;
    if (!takes_one(js, device)) return false;
    if (idle && send_calibrate(js, device)) return true;
    const struct sched_plan plan =
        js->overlaps[device]
            ? next_beside_steps(js, device)
            : sched_next(&js->sched, device, js->seqs, js->n_line, who_can_decode(js, device));
    bool done = do_plan(js, device, &plan);
    if (plan.act != SCHED_DO_NOTHING && !done) js->starved = true;
    return done;
}

void jobs_pump(struct jobs *js) {
    jobs_expire(js);
    drop_old(js);
    js->starved = false;
    for (bool again = somebody_takes_one(js); again;) {
        again = false;
        for (int d = 0; d < js->sched.n_devices; d++) {
            if (!takes_one(js, d)) continue;
            if (!jobs_line_up(js)) {
                js->starved = true;
                return;
            }
            again = pump_device(js, d) || again;
        }
    }
    jobs_publish(js);
}
