/* serve_options.c - see serve_options.h. */
#include "server/serve_options.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "server/disk.h"
#include "server/loader.h"

static enum taca_code check_range(const char *flag, int v, int min, int max, struct taca_err *err) {
    if (v >= min && v <= max) return TACA_OK;
    return taca_fail_param(err, flag, "--%s must be in %d..%d, got %d", flag, min, max, v);
}

/* What names a file is there; the model itself is the loader's. */
static enum taca_code check_parts(const struct taca_engine_opts *e, struct taca_err *err) {
    const bool without_t5 = e->t5 && strcmp(e->t5, "none") == 0;
    const struct {
        const char *flag, *path;
    } parts[] = {{"transformer", e->transformer},
                 {"vae", e->vae},
                 {"clip-l", e->clip_l},
                 {"clip-g", e->clip_g},
                 {"t5", without_t5 ? NULL : e->t5},
                 {"taesd", e->taesd},
                 {"model-config", e->config}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (parts[i].path && parts[i].path[0] && access(parts[i].path, R_OK) != 0)
            return taca_fail_param(err, parts[i].flag, "--%s %s: %s", parts[i].flag, parts[i].path,
                                   strerror(errno));
    return TACA_OK;
}

enum taca_code serve_check_devices(const struct serve_opts *o, bool there, struct taca_err *err) {
    struct taca_err why = {0};
    for (int i = 0; i < o->devices.n; i++)
        if (taca_engine_check_device(o->devices.list[i], there, &why))
            return taca_fail_param(err, "device", "--device: %s", why.text);
    return TACA_OK;
}

enum taca_code serve_check(const struct serve_opts *o, struct taca_err *err) {
    const struct {
        const char *flag;
        int v, min, max;
    } ranges[] = {
        {"port", o->front.port, 0, 65535},
        {"max-queue", o->max_queue, 0, 1000000},
        {"max-batch-images", o->max_batch_images, 1, WIRE_MAX_SEQS},
        {"max-batch-tokens", o->max_batch_tokens, 0, 1 << 30},
        {"max-n", o->front.limits.max_n, 1, API_MAX_N},
        {"encode-threads", o->encode_threads, 1, 64},
        {"start-timeout", o->start_timeout_ms, 0, 24 * 3600 * 1000},
        {"drain-grace", o->drain_grace_ms, 0, 3600 * 1000},
        {"drain-timeout", o->drain_timeout_ms, 0, 24 * 3600 * 1000},
        {"job-ttl", o->job_ttl_ms, 0, 24 * 3600 * 1000},
        {"max-retries", o->max_retries, 0, 1000},
        {"step-timeout", o->step_timeout_ms, 10, 24 * 3600 * 1000},
    };
    if (o->front.limits.max_pixels < 64 || o->front.limits.max_pixels > INT64_C(1) << 28)
        return taca_fail_param(err, "max-pixels", "--max-pixels must be in 64..268435456, got %lld",
                               (long long)o->front.limits.max_pixels);
    if (disk_file(o->job_store) && !disk_file(o->job_store)[0])
        return taca_fail_param(err, "job-store",
                               "--job-store must be memory or sqlite:FILE, got \"%s\"",
                               o->job_store);
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        enum taca_code rc =
            check_range(ranges[i].flag, ranges[i].v, ranges[i].min, ranges[i].max, err);
        if (rc) return rc;
    }
    enum taca_code rc = check_parts(&o->engine, err);
    if (!rc) rc = serve_check_devices(o, false, err);
    return rc ? rc : loader_check(o, err);
}

struct jobs_opts serve_jobs_opts(const struct serve_opts *o) {
    struct jobs_opts jobs = {.policy = o->policy,
                             .deadline_factor = o->deadline_factor,
                             .fair_quantum_ms = o->fair_quantum_s * 1000,
                             .calibrate = o->calibrate,
                             .start_timeout_ms = o->start_timeout_ms,
                             .step_timeout_ms = o->step_timeout_ms,
                             .log_prompts = o->log_prompts,
                             .job_ttl_ms = o->job_ttl_ms,
                             .stored_bytes = o->max_stored_bytes,
                             .input_bytes = o->max_input_bytes,
                             .max_retries = o->max_retries};
    sched_limits_init(&jobs.limits, o->max_batch_images);
    jobs.limits.batch_tokens = o->max_batch_tokens;
    jobs.limits.queue = o->max_queue;
    jobs.limits.backlog_ms = o->max_backlog_s * 1000;
    jobs.limits.patience_ms = o->patience_s * 1000;
    return jobs;
}
