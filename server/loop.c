/* loop.c - taca_serve: the main thread. It ties front door, job table, worker and encoder together,
 * keeps the time and listens to signals; what happens to a job is decided in jobs.c.
 *
 *   SIGTERM  drain: not ready at once, new work for drain_grace, then only what was accepted;
 *            again: leave at once, waiting clients get their error, the worker is killed
 *   SIGINT   leave at once
 *   SIGHUP   read the options again
 *   SIGUSR1  ignored: the log is standard error's, there is nothing to open again
 *   SIGPIPE, SIGXFSZ  ignored: the write says what is wrong */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/jobs.h"
#include "server/loader.h"
#include "server/metrics.h"
#include "server/pressure.h"
#include "server/serve_options.h"
#include "server/systemd.h"

enum {
    BEAT_MS = 250,
    LOAD_TIMEOUT_MS = 600000,
    FLUSH_POLL_MS = 10,
    FLUSH_MS = 3000,     /* for the last bytes of the last answers */
    FAST_FLUSH_MS = 300, /* the same when leaving at once */
    GUEST_MS = 300,      /* for the last who came to say what they want */
    SPARE_END_MS = 7000, /* for what comes after the last answer */
    WORKER_PATIENCE_MS = 1000,
    EXIT_BAD_CONFIG = 78
};

enum phase { PHASE_SERVING, PHASE_GRACE, PHASE_DRAINING, PHASE_FLUSHING, PHASE_CLOSING };

struct serve {
    const struct serve_opts *opts;
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t beat, expiry, drain;
    uv_signal_t term, interrupt, hangup;
    struct taca_mailbox incoming; /* jobs from http threads */
    struct taca_mailbox asks;     /* questions from them */
    struct taca_mailbox results;  /* tasks from the encoder */
    struct taca_mailbox written;  /* writes from the store's thread */
    struct service_status status;
    struct systemd systemd;
    struct pressure pressure;
    struct front *front;
    struct fleet *fleet;
    struct loader *loader;
    struct encode *encode;
    struct disk *disk; /* NULL = jobs live in memory */
    struct jobs *jobs;
    enum phase phase;
    int drain_grace_ms, drain_timeout_ms;
    int64_t drain_end_us, flush_end_us, guests_end_us;
    bool fast;
    int exit_code;
};

static void begin_flush(struct serve *s);

/* ---- work ------------------------------------------------------------------------------------ */

/* A client that left while its pictures were unpacked left before anybody knew the job. */
static void add_job(struct serve *s, struct job *job) {
    struct stream *stream = stream_ref(job->readers->stream);
    const uint64_t key = job->readers->key;
    jobs_add(s->jobs, job);
    if (stream_is_gone(stream)) jobs_client_gone(s->jobs, key);
    stream_unref(stream);
}

static void take_unpacked(struct serve *s, struct encode_task *t) {
    struct job *job = t->job;
    struct api_error e = t->error;
    encode_task_free(t);
    if (!e.status && s->phase >= PHASE_DRAINING) {
        e.retry_after_s = 1;
        api_fail(&e, 503, "draining", NULL, "the service is shutting down");
    }
    if (e.status)
        jobs_refuse(s->jobs, job, &e);
    else
        add_job(s, job);
}

static void take_mail(struct serve *s) {
    for (struct taca_mail *m = taca_mailbox_take(&s->results), *next; m; m = next) {
        next = m->next;
        struct encode_task *t = (struct encode_task *)m;
        if (t->kind == ENCODE_UNPACK)
            take_unpacked(s, t);
        else
            jobs_encoded(s->jobs, t);
    }
    for (struct taca_mail *m = taca_mailbox_take(&s->written), *next; m; m = next) {
        next = m->next;
        struct disk_write *w = (struct disk_write *)m;
        if (w->kind == DISK_MODEL)
            loader_written(s->loader, w);
        else
            jobs_written(s->jobs, w);
    }
    for (struct taca_mail *m = taca_mailbox_take(&s->incoming), *next; m; m = next) {
        next = m->next;
        jobs_add(s->jobs, (struct job *)m);
    }
    for (struct taca_mail *m = taca_mailbox_take(&s->asks), *next; m; m = next) {
        next = m->next;
        struct ask *a = (struct ask *)m;
        if (a->kind == ASK_LOAD || a->kind == ASK_UNLOAD)
            loader_ask(s->loader, s->jobs, a);
        else
            jobs_ask(s->jobs, a);
    }
}

static void on_expiry(uv_timer_t *t);

/* After every event: do what can be done, then sleep no longer than the next job may. */
static void pump(struct serve *s) {
    if (s->phase == PHASE_CLOSING) return;
    jobs_pump(s->jobs);
    loader_settle(s->loader, s->jobs);
    fleet_publish(s->fleet);
    int64_t next = jobs_next_expiry_us(s->jobs);
    if (next == INT64_MAX) {
        uv_timer_stop(&s->expiry);
    } else {
        int64_t ms = (next - taca_now_us()) / 1000 + 1;
        uv_update_time(&s->loop);
        /* never 0: a 0 ms timer armed by its own callback would starve the loop */
        uv_timer_start(&s->expiry, on_expiry, (uint64_t)(ms < 1 ? 1 : ms), 0);
    }
    if (s->phase == PHASE_DRAINING && jobs_unanswered(s->jobs) == 0) begin_flush(s);
}

static void on_wake(uv_async_t *a) {
    struct serve *s = a->data;
    if (s->phase == PHASE_CLOSING) return;
    take_mail(s);
    pump(s);
}

static void on_expiry(uv_timer_t *t) { pump(t->data); }

static void watch_memory(struct serve *s) {
    if (!pressure_look(&s->pressure)) return;
    atomic_store(&s->status.pressure, (int)s->pressure.level);
    if (s->front) front_set_shut(s->front, s->pressure.level == PRESSURE_SHUT);
}

static void on_beat(uv_timer_t *t) {
    struct serve *s = t->data;
    int64_t now_us = taca_now_us();
    atomic_store(&s->status.last_beat_us, now_us);
    systemd_beat(&s->systemd, now_us / 1000);
    watch_memory(s);
    const struct taca_model_info *usual = models_usual(&s->status.models);
    if (s->phase == PHASE_SERVING && atomic_load(&s->status.state) == SERVICE_READY)
        systemd_status(&s->systemd, "%s with %s: %d waiting, %d running",
                       atomic_load(&s->status.workers) ? "ready" : "no worker",
                       usual ? usual->id : "no model", atomic_load(&s->status.waiting),
                       atomic_load(&s->status.running));
}

static void wake_loop(void *ctx) {
    struct serve *s = ctx;
    uv_async_send(&s->wake);
}

/* ---- the front door's hooks ------------------------------------------------------------------ */

static bool hook_submit(void *ctx, struct job *job) {
    struct serve *s = ctx;
    if (job->request.image.bytes) return encode_unpack(s->encode, job);
    return taca_mailbox_post(&s->incoming, &job->mail);
}

static bool hook_ask(void *ctx, struct ask *ask) {
    struct serve *s = ctx;
    return taca_mailbox_post(&s->asks, &ask->mail);
}

static void hook_client_gone(void *ctx, uint64_t key) {
    struct serve *s = ctx;
    if (s->phase == PHASE_CLOSING) return;
    take_mail(s); /* the job may still lie in the box */
    jobs_client_gone(s->jobs, key);
    pump(s);
}

static void hook_metrics(void *ctx, struct taca_buf *out) {
    (void)ctx;
    metrics_render(out);
}

/* ---- the workers' hooks ---------------------------------------------------------------------- */

/* Ready when each of the models that it was started with has a worker. */
static void settle_start(struct serve *s) {
    const struct models *models = &s->status.models;
    if (atomic_load(&s->status.state) != SERVICE_LOADING) return;
    for (int k = 0; k < atomic_load(&models->n); k++)
        if (models_state(models, k) == MODEL_LOADING) return;
    atomic_store(&s->status.state, SERVICE_READY);
    jobs_models_known(s->jobs);
    systemd_tell(&s->systemd, "READY=1");
}

static void hook_ready(void *ctx, int device, int model, const struct wire_hello *hello) {
    struct serve *s = ctx;
    struct models *models = &s->status.models;
    const struct taca_model_info *m = &hello->model;
    if (models_state(models, model) == MODEL_LOADING &&
        !models_loaded(models, model, m, (int64_t)time(NULL))) {
        taca_log(TACA_LOG_ERROR, "model %s: out of memory", m->id);
        return;
    }
    metrics_set_model(model, m->id);
    metric_set_of(METRIC_MODEL_LOAD_SECONDS, model, hello->load_ms / 1000);
    taca_log(TACA_LOG_INFO, "ready: model %s (%s) on %s: %s, %s, loaded in %.0f ms", m->id,
             m->family, s->status.devices[device].name, m->device, m->precision, hello->load_ms);
    settle_start(s);
    pump(s);
}

static void hook_answer(void *ctx, int device, int model, const struct wire_msg *m) {
    struct serve *s = ctx;
    jobs_answer(s->jobs, device, model, m);
    pump(s);
}

static void hook_lost(void *ctx, int device, int model, const char *reason) {
    struct serve *s = ctx;
    jobs_worker_lost(s->jobs, device, model, reason);
    pump(s);
}

static void leave_at_once(struct serve *s);

static void hook_refused(void *ctx, int model, const struct taca_err *err) {
    struct serve *s = ctx;
    bool ours =
        err->code == TACA_ENOMEM || err->code == TACA_EDEVICE || err->code == TACA_EINTERNAL;
    loader_refused(s->loader, model, err);
    if (atomic_load(&s->status.state) != SERVICE_LOADING) return;
    if (!loader_must_have(s->loader, model)) {
        settle_start(s);
        return;
    }
    s->exit_code = ours ? 1 : EXIT_BAD_CONFIG;
    atomic_store(&s->status.state, SERVICE_FAILED);
    leave_at_once(s);
}

static void hook_recalled(void *ctx, int model) {
    struct serve *s = ctx;
    loader_recalled(s->loader, s->jobs, model);
    pump(s);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void close_handle(uv_handle_t *h, void *ctx) {
    (void)ctx;
    if (!uv_is_closing(h)) uv_close(h, NULL);
}

static void on_fleet_closed(void *ctx) {
    struct serve *s = ctx;
    s->fleet = NULL;
    uv_walk(&s->loop, close_handle, NULL); /* ours are the only ones left */
}

static void on_front_closed(void *ctx) {
    struct serve *s = ctx;
    s->front = NULL;
    /* nobody borrows slots or jobs any more once the encoder has stopped */
    if (s->jobs) jobs_stop_encoding(s->jobs);
    encode_close(s->encode);
    s->encode = NULL;
    take_mail(s);
    disk_close(s->disk);
    s->disk = NULL;
    take_mail(s); /* jobs that ended meanwhile */
    if (s->fleet)
        fleet_close(s->fleet, s->fast ? 0 : WORKER_PATIENCE_MS, on_fleet_closed, s);
    else
        on_fleet_closed(s);
}

static void close_all(struct serve *s) {
    s->phase = PHASE_CLOSING;
    uv_timer_stop(&s->drain);
    uv_timer_stop(&s->expiry);
    taca_mailbox_close(&s->incoming);
    taca_mailbox_close(&s->asks);
    if (s->front)
        front_close(s->front, on_front_closed, s);
    else
        on_front_closed(s);
}

static void on_flush_poll(uv_timer_t *t) {
    struct serve *s = t->data;
    int64_t now_us = taca_now_us();
    bool quiet = front_guests(s->front) == 0 || now_us >= s->guests_end_us;
    if ((quiet && front_connections(s->front) == 0) || now_us >= s->flush_end_us) close_all(s);
}

static void begin_flush(struct serve *s) {
    if (s->phase >= PHASE_FLUSHING) return;
    s->phase = PHASE_FLUSHING;
    taca_mailbox_close(&s->incoming);
    take_mail(s);
    jobs_end_all(s->jobs);
    if (!s->front) {
        close_all(s);
        return;
    }
    front_stop_accepting(s->front);
    s->flush_end_us = taca_now_us() + (s->fast ? FAST_FLUSH_MS : FLUSH_MS) * INT64_C(1000);
    s->guests_end_us = taca_now_us() + GUEST_MS * INT64_C(1000);
    uv_timer_start(&s->drain, on_flush_poll, FLUSH_POLL_MS, FLUSH_POLL_MS);
}

static void leave_at_once(struct serve *s) {
    s->fast = true;
    systemd_tell(&s->systemd, "STOPPING=1");
    s->flush_end_us = taca_now_us() + FAST_FLUSH_MS * INT64_C(1000);
    begin_flush(s);
}

static void on_drain_end(uv_timer_t *t) {
    struct serve *s = t->data;
    taca_log(TACA_LOG_WARN, "drain: %d requests are not finished", jobs_unanswered(s->jobs));
    begin_flush(s);
}

/* The grace is over: nothing new comes in, what cannot be done in time is sent away now. */
static void on_grace_over(uv_timer_t *t) {
    struct serve *s = t->data;
    int64_t left_us = s->drain_end_us - taca_now_us();
    s->phase = PHASE_DRAINING;
    taca_mailbox_close(&s->incoming);
    take_mail(s);
    jobs_shed(s->jobs, (double)left_us / 1000);
    uv_timer_start(&s->drain, on_drain_end, (uint64_t)(left_us < 1000 ? 1 : left_us / 1000), 0);
    pump(s);
}

static void on_signal(uv_signal_t *h, int signal_no) {
    struct serve *s = h->data;
    if (signal_no == SIGINT || s->phase != PHASE_SERVING) {
        taca_log(TACA_LOG_INFO, "signal %d: leaving at once", signal_no);
        leave_at_once(s);
        return;
    }
    int grace_ms = s->drain_grace_ms < 1 ? 1 : s->drain_grace_ms;
    taca_log(TACA_LOG_INFO, "draining: %d requests in flight, new ones for another %d ms",
             jobs_unanswered(s->jobs), grace_ms);
    /* however long the drain may take: the supervisor is told not to lose its patience before */
    systemd_tell(&s->systemd, "STOPPING=1\nSTATUS=draining %d requests\nEXTEND_TIMEOUT_USEC=%lld",
                 jobs_unanswered(s->jobs),
                 (s->drain_timeout_ms + FLUSH_MS + SPARE_END_MS) * 1000LL);
    s->phase = PHASE_GRACE;
    s->drain_end_us = taca_now_us() + (int64_t)s->drain_timeout_ms * 1000;
    atomic_store(&s->status.state, SERVICE_DRAINING);
    metric_set(METRIC_DRAINING, 1);
    uv_timer_start(&s->drain, on_grace_over, (uint64_t)grace_ms, 0);
}

/* ---- the options ----------------------------------------------------------------------------- */

/* All of it or nothing: the door is the only part that can say no, so it goes first. */
static enum taca_code reload(struct serve *s, const struct serve_opts *o, struct taca_err *err) {
    enum taca_code rc = serve_check(o, err);
    if (rc != TACA_OK) return rc;
    if (o->front.limits.max_pixels > s->opts->front.limits.max_pixels)
        return taca_fail_param(err, "max-pixels",
                               "--max-pixels is above %lld, for which memory was set aside at the "
                               "start: that wants a restart",
                               (long long)s->opts->front.limits.max_pixels);
    rc = front_reload(s->front, &o->front, err);
    if (rc != TACA_OK) return rc;
    const struct jobs_opts jobs = serve_jobs_opts(o);
    jobs_reload(s->jobs, &jobs);
    s->drain_grace_ms = o->drain_grace_ms;
    s->drain_timeout_ms = o->drain_timeout_ms;
    return TACA_OK;
}

static void on_hangup(uv_signal_t *h, int signal_no) {
    struct serve *s = h->data;
    const struct serve_reload *r = &s->opts->reload;
    const struct serve_opts *o = NULL;
    struct taca_err err = {0};
    (void)signal_no;
    if (s->phase != PHASE_SERVING || !r->read) return;
    systemd_tell_reloading(&s->systemd);
    enum taca_code rc = r->read(r->ctx, &o, &err);
    if (rc == TACA_OK) rc = reload(s, o, &err);
    metric_set(METRIC_RELOAD_GOOD, rc == TACA_OK);
    if (atomic_load(&s->status.state) == SERVICE_READY) systemd_tell(&s->systemd, "READY=1");
    if (rc != TACA_OK) {
        taca_log(TACA_LOG_ERROR, "reload: everything stays as it is: %s", err.text);
        return;
    }
    r->taken(r->ctx);
    fleet_tell_log_level(s->fleet);
    metric_set(METRIC_RELOAD_TIME, (double)time(NULL));
    pump(s);
}

/* ---- the start ------------------------------------------------------------------------------- */

static void init_handles(struct serve *s) {
    uv_loop_init(&s->loop);
    uv_async_init(&s->loop, &s->wake, on_wake);
    uv_timer_init(&s->loop, &s->beat);
    uv_timer_init(&s->loop, &s->expiry);
    uv_timer_init(&s->loop, &s->drain);
    uv_signal_init(&s->loop, &s->term);
    uv_signal_init(&s->loop, &s->interrupt);
    uv_signal_init(&s->loop, &s->hangup);
    s->wake.data = s->beat.data = s->expiry.data = s->drain.data = s;
    s->term.data = s->interrupt.data = s->hangup.data = s;
    uv_signal_start(&s->term, on_signal, SIGTERM);
    uv_signal_start(&s->interrupt, on_signal, SIGINT);
    uv_signal_start(&s->hangup, on_hangup, SIGHUP);
    uv_timer_start(&s->beat, on_beat, BEAT_MS, BEAT_MS);
    on_beat(&s->beat);
    taca_mailbox_init(&s->incoming, wake_loop, s);
    taca_mailbox_init(&s->asks, wake_loop, s);
    taca_mailbox_init(&s->results, wake_loop, s);
    taca_mailbox_init(&s->written, wake_loop, s);
}

/* Whole or not at all: a reader never sees half a number. */
static enum taca_code write_port(const char *path, int port, struct taca_err *err) {
    char part[4096];
    FILE *f = NULL;
    if (!port) return taca_fail_param(err, "port-file", "--port-file: there is no port to write");
    int n = snprintf(part, sizeof part, "%s.part", path);
    if (n > 0 && (size_t)n < sizeof part) f = fopen(part, "we");
    bool ok = f && fprintf(f, "%d\n", port) > 0;
    if (f && fclose(f) != 0) ok = false;
    if (ok && rename(part, path) == 0) return TACA_OK;
    return taca_fail(err, TACA_EIO, "--port-file %s: %s", path, strerror(errno));
}

static enum taca_code open_store(struct serve *s, struct taca_err *err) {
    const char *file = disk_file(s->opts->job_store);
    struct taca_err why = {0};
    if (!file) return TACA_OK;
    enum taca_code rc = disk_open(&s->disk, file, &s->written, &why);
    if (rc == TACA_EBUSY || rc == TACA_ENOMEM) /* may be better in a moment */
        return taca_fail(err, rc, "--job-store: %s", why.text);
    return rc ? taca_fail_param(err, "job-store", "--job-store: %s", why.text) : TACA_OK;
}

static enum taca_code open_parts(struct serve *s, struct taca_err *err) {
    const struct serve_opts *o = s->opts;
    static const char *const best[] = {"auto"};
    const struct fleet_opts fleet = {.loop = &s->loop,
                                     .self = o->self,
                                     .engine = &o->engine,
                                     .n_devices = o->devices.n > 0 ? o->devices.n : 1,
                                     .devices = o->devices.n > 0 ? o->devices.list : best,
                                     .load_timeout_ms = LOAD_TIMEOUT_MS,
                                     .max_pixels = (size_t)o->front.limits.max_pixels,
                                     .status = &s->status};
    const struct fleet_hooks fleet_hooks = {s,         hook_ready,   hook_answer,
                                            hook_lost, hook_refused, hook_recalled};
    const struct front_hooks front_hooks = {s,        &s->status,       hook_submit,
                                            hook_ask, hook_client_gone, hook_metrics};
    const struct jobs_opts jobs = serve_jobs_opts(o);
    enum taca_code rc = open_store(s, err);
    if (!rc) rc = fleet_open(&s->fleet, &fleet, &fleet_hooks, err);
    if (!rc) rc = loader_open(&s->loader, o, s->fleet, &s->status, s->disk, err);
    if (!rc) rc = encode_open(&s->encode, o->encode_threads, &s->results, err);
    if (!rc)
        rc = jobs_open(&s->jobs, &jobs,
                       &(struct jobs_ports){s->fleet, s->encode, &s->status, s->disk}, err);
    if (!rc) rc = jobs_restore(s->jobs, err);
    if (!rc && s->disk) rc = disk_start(s->disk, err);
    struct front_opts front = o->front;
    front.given = s->systemd.main;
    front.n_given = s->systemd.n_main;
    front.given_admin = s->systemd.admin;
    front.n_given_admin = s->systemd.n_admin;
    if (!rc) rc = front_open(&s->front, &s->loop, &front, &front_hooks, err);
    if (!rc && o->port_file) rc = write_port(o->port_file, front_port(s->front), err);
    return rc;
}

static void announce(struct serve *s) {
    char fields[128];
    int port = front_port(s->front), admin = front_admin_port(s->front);
    const char *where =
        s->systemd.n_main ? "the sockets that were handed over" : s->opts->front.host;
    snprintf(fields, sizeof fields, "\"port\":%d,\"admin_port\":%d,\"pid\":%d", port, admin,
             (int)getpid());
    if (port)
        taca_log_fields(TACA_LOG_INFO, fields, "listening on %s:%d", where, port);
    else
        taca_log_fields(TACA_LOG_INFO, fields, "listening on %s", where);
    systemd_status(&s->systemd, "loading");
}

static enum taca_code check_sockets(const struct serve *s, struct taca_err *err) {
    const struct serve_opts *o = s->opts;
    if (o->insecure || front_wants_keys(&o->front) || !systemd_is_open_to_others(&s->systemd))
        return TACA_OK;
    return taca_fail_param(err, "LISTEN_FDS",
                           "nobody has to log in to this service; to let other machines in at the "
                           "sockets that were handed over, add --api-key-file or --insecure");
}

enum taca_code taca_serve_check(const struct serve_opts *opts, struct taca_err *err) {
    struct pressure pressure;
    enum taca_code rc = serve_check(opts, err);
    if (rc == TACA_OK) rc = serve_check_devices(opts, true, err);
    if (rc == TACA_OK) rc = pressure_open(&pressure, opts->memory_probe, "", err);
    return rc == TACA_OK ? front_check(&opts->front, err) : rc;
}

int taca_serve(const struct serve_opts *opts) {
    struct taca_err err = {0};
    if (serve_check(opts, &err)) {
        taca_log(TACA_LOG_ERROR, "%s", err.text);
        return EXIT_BAD_CONFIG;
    }
    struct serve *s = calloc(1, sizeof *s);
    if (!s) return 1;
    s->opts = opts;
    s->drain_grace_ms = opts->drain_grace_ms;
    s->drain_timeout_ms = opts->drain_timeout_ms;
    metric_set(METRIC_RELOAD_GOOD, 1);
    metric_set(METRIC_RELOAD_TIME, (double)time(NULL));
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR1, SIG_IGN); /* who rotates logs sends it to everybody */
    signal(SIGXFSZ, SIG_IGN);
    enum taca_code rc = systemd_open(&s->systemd, &err); /* no other thread is there yet */
    if (!rc) rc = check_sockets(s, &err);
    if (!rc) rc = pressure_open(&s->pressure, opts->memory_probe, "", &err);
    init_handles(s);
    if (!rc) rc = open_parts(s, &err);
    if (rc) {
        taca_log(TACA_LOG_ERROR, "%s", err.text);
        s->exit_code = rc == TACA_EINVAL ? EXIT_BAD_CONFIG : 1;
        s->fast = true;
        close_all(s);
    } else {
        announce(s);
        settle_start(s); /* there may be no model to wait for */
    }
    uv_run(&s->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&s->loop) != 0) taca_log(TACA_LOG_ERROR, "the loop has handles left");
    jobs_close(s->jobs);
    loader_close(s->loader);
    models_finish(&s->status.models);
    systemd_close(&s->systemd);
    taca_mailbox_finish(&s->incoming);
    taca_mailbox_finish(&s->asks);
    taca_mailbox_finish(&s->results);
    taca_mailbox_finish(&s->written);
    int exit_code = s->exit_code;
    taca_log(TACA_LOG_INFO, "stopped");
    free(s);
    return exit_code;
}
