/* fleet.c - see fleet.h. */
#include "server/fleet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "server/metrics.h"

struct worker_place {
    struct fleet *fleet;
    int device, model;
    struct pool *pool; /* NULL = none */
    struct taca_engine_opts engine;
    bool refused; /* its last word was that it cannot open the model */
};

struct fleet {
    struct fleet_opts opts;
    struct fleet_hooks hooks;
    struct worker_place at[STATUS_DEVICES][MODELS_MAX];
    bool loaded[MODELS_MAX]; /* some worker had it since it was sent out */
    int leaving[MODELS_MAX]; /* workers that were asked to and are not gone */
    bool closing;
    void (*done)(void *ctx);
    void *done_ctx;
};

/* ---- what the workers say -------------------------------------------------------------------- */

static void on_ready(void *ctx, const struct wire_hello *hello) {
    struct worker_place *w = ctx;
    w->refused = false;
    w->fleet->loaded[w->model] = true;
    w->fleet->hooks.ready(w->fleet->hooks.ctx, w->device, w->model, hello);
}

static void on_answer(void *ctx, const struct wire_msg *m) {
    struct worker_place *w = ctx;
    w->fleet->hooks.answer(w->fleet->hooks.ctx, w->device, w->model, m);
}

static void on_memory(void *ctx, const struct wire_memory *m) {
    const struct worker_place *w = ctx;
    metric_device_memory(w->device, (double)m->device_used_bytes, (double)m->device_total_bytes);
    metric_device_arena(w->device, (double)m->scratch_peak_bytes);
}

static void on_lost(void *ctx, const char *reason) {
    struct worker_place *w = ctx;
    w->fleet->hooks.lost(w->fleet->hooks.ctx, w->device, w->model, reason);
}

/* A device may be to blame, or the memory that it has; the file, when nobody else knows better. */
static bool elsewhere_perhaps(const struct taca_err *err) {
    return err->code == TACA_EDEVICE || err->code == TACA_ENOMEM || err->code == TACA_EINTERNAL;
}

static void on_refused(void *ctx, const struct taca_err *err) {
    struct worker_place *w = ctx;
    struct fleet *f = w->fleet;
    bool hope = f->loaded[w->model];
    taca_log(TACA_LOG_ERROR, "model on %s: %s", f->opts.devices[w->device], err->text);
    w->refused = true;
    for (int d = 0; d < f->opts.n_devices && elsewhere_perhaps(err); d++)
        if (f->at[d][w->model].pool && !f->at[d][w->model].refused) hope = true;
    if (!hope) f->hooks.refused(f->hooks.ctx, w->model, err);
}

/* ---- coming and going ------------------------------------------------------------------------ */

enum taca_code fleet_open(struct fleet **out, const struct fleet_opts *opts,
                          const struct fleet_hooks *hooks, struct taca_err *err) {
    struct fleet *f = calloc(1, sizeof *f);
    if (!f) return taca_fail(err, TACA_ENOMEM, "opening the workers' side");
    f->opts = *opts;
    f->hooks = *hooks;
    opts->status->n_devices = opts->n_devices;
    for (int d = 0; d < opts->n_devices; d++) {
        struct service_device *s = &opts->status->devices[d];
        snprintf(s->name, sizeof s->name, "%s", opts->devices[d]);
        for (int m = 0; m < MODELS_MAX; m++)
            f->at[d][m] = (struct worker_place){.fleet = f, .device = d, .model = m};
    }
    *out = f;
    return TACA_OK;
}

/* Workers of one device never compute at the same time, those of several CPUs do: they share the
 * threads. */
static bool is_cpu(const char *device) { return strcmp(device, "cpu") == 0; }

static void choose_engine(struct worker_place *w, const struct fleet_source *source) {
    const struct fleet_opts *o = &w->fleet->opts;
    int cpus = 0;
    for (int d = 0; d < o->n_devices; d++) cpus += is_cpu(o->devices[d]);
    w->engine = source->engine;
    w->engine.device = o->devices[w->device];
    w->engine.threads = o->engine->threads;
    w->engine.share = is_cpu(o->devices[w->device]) ? cpus : 0;
    w->engine.precision = o->engine->precision;
    w->engine.deterministic = o->engine->deterministic;
    w->engine.text_cache_bytes = o->engine->text_cache_bytes;
}

enum taca_code fleet_send_out(struct fleet *f, int model, const struct fleet_source *source,
                              struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    f->loaded[model] = false;
    for (int d = 0; d < f->opts.n_devices && !rc; d++) {
        struct worker_place *w = &f->at[d][model];
        choose_engine(w, source);
        w->refused = false;
        const struct pool_opts opts = {.loop = f->opts.loop,
                                       .self = f->opts.self,
                                       .engine = &w->engine,
                                       .loras = source->loras,
                                       .check_memory = source->check_memory,
                                       .load_timeout_ms = f->opts.load_timeout_ms,
                                       .max_pixels = f->opts.max_pixels};
        const struct pool_hooks hooks = {w, on_ready, on_answer, on_memory, on_lost, on_refused};
        rc = pool_open(&w->pool, &opts, &hooks, err);
    }
    return rc;
}

static void finish_close(struct fleet *f) {
    for (int m = 0; m < MODELS_MAX; m++)
        if (f->leaving[m] > 0) return;
    void (*done)(void *) = f->done;
    void *ctx = f->done_ctx;
    free(f);
    done(ctx);
}

static void on_gone(void *ctx) {
    struct worker_place *w = ctx;
    struct fleet *f = w->fleet;
    if (--f->leaving[w->model] > 0) return;
    if (f->closing)
        finish_close(f);
    else
        f->hooks.recalled(f->hooks.ctx, w->model);
}

static void dismiss(struct fleet *f, int model, int patience_ms) {
    for (int d = 0; d < f->opts.n_devices; d++) {
        struct worker_place *w = &f->at[d][model];
        struct pool *pool = w->pool;
        if (!pool) continue;
        w->pool = NULL;
        f->leaving[model]++;
        pool_close(pool, patience_ms, on_gone, w);
    }
}

void fleet_recall(struct fleet *f, int model) {
    enum { PATIENCE_MS = 2000 };
    dismiss(f, model, PATIENCE_MS);
    if (f->leaving[model] == 0) f->hooks.recalled(f->hooks.ctx, model);
}

void fleet_close(struct fleet *f, int patience_ms, void (*done)(void *ctx), void *ctx) {
    f->closing = true;
    f->done = done;
    f->done_ctx = ctx;
    for (int m = 0; m < MODELS_MAX; m++) dismiss(f, m, patience_ms);
    finish_close(f);
}

void fleet_tell_log_level(struct fleet *f) {
    for (int d = 0; d < f->opts.n_devices; d++)
        for (int m = 0; m < MODELS_MAX; m++)
            if (f->at[d][m].pool) pool_tell_log_level(f->at[d][m].pool);
}

/* ---- how they stand -------------------------------------------------------------------------- */

int fleet_devices(const struct fleet *f) { return f->opts.n_devices; }

struct pool *fleet_worker(const struct fleet *f, int device, int model) {
    return f->at[device][model].pool;
}

bool fleet_serves(const struct fleet *f, int device, int model) {
    const struct pool *p = f->at[device][model].pool;
    return p && pool_ready(p) && !pool_doubted(p);
}

bool fleet_idle(const struct fleet *f, int model) {
    for (int d = 0; d < f->opts.n_devices; d++) {
        const struct pool *p = f->at[d][model].pool;
        if (p && !pool_slots_idle(p)) return false;
    }
    return true;
}

static enum worker_state state_of(const struct pool *p) {
    if (!p) return WORKER_NONE;
    if (pool_doubted(p)) return WORKER_BROKEN;
    return pool_ready(p) ? WORKER_READY : WORKER_LOADING;
}

void fleet_publish(struct fleet *f) {
    struct service_status *s = f->opts.status;
    int ready = 0, pause_ms = 0;
    for (int m = 0; m < atomic_load(&s->models.n); m++) {
        int count[WORKER_BROKEN + 1] = {0};
        for (int d = 0; d < f->opts.n_devices; d++) {
            const struct pool *p = f->at[d][m].pool;
            enum worker_state state = state_of(p);
            count[state]++;
            atomic_store(&s->devices[d].workers[m], (int)state);
            if (state == WORKER_BROKEN && pool_pause_ms(p) > pause_ms) pause_ms = pool_pause_ms(p);
        }
        struct model *model = &s->models.at[m];
        atomic_store(&model->workers, count[WORKER_READY]);
        atomic_store(&model->broken, count[WORKER_BROKEN] > 0 && count[WORKER_READY] == 0 &&
                                         count[WORKER_LOADING] == 0);
        metric_set_of(METRIC_MODEL_LOADED, m, count[WORKER_READY] > 0);
        metric_set_of(METRIC_WORKERS_READY, m, count[WORKER_READY]);
        metric_set_of(METRIC_WORKERS_WANTED, m, f->opts.n_devices - count[WORKER_NONE]);
        ready += count[WORKER_READY];
    }
    atomic_store(&s->workers, ready);
    atomic_store(&s->retry_s, pause_ms / 1000 + 1);
}
