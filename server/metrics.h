/* metrics.h - the numbers of /metrics, kept as atomics so that any thread may count and any may
 * read.
 *
 * Names and labels are those of the operator's handbook (docs/metrics.md); nothing here is ever
 * labelled by prompt, job or user. One table in metrics.c describes every family. */
#ifndef TACA_SERVER_METRICS_H
#define TACA_SERVER_METRICS_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* Counters with one label each; values are fixed lists in metrics.c. */
enum metric_counter {
    METRIC_REQUESTS,  /* taca_requests_total{model,outcome}: ok cancelled failed rejected expired */
    METRIC_REJECTED,  /* taca_rejected_total{reason} */
    METRIC_CANCELLED, /* taca_cancelled_total{reason} */
    METRIC_RESTARTS,  /* taca_worker_restarts_total{reason} */
    METRIC_EVENTS_DROPPED, /* taca_events_dropped_total{kind} */
    METRIC_STEPS,
    METRIC_BESIDE,
    METRIC_IMAGES,
    METRIC_PIXELS,
    METRIC_PADDING_TOKENS,
    METRIC_JOBS_RESUMED,
    METRIC_STORE_TRANSACTIONS,
    METRIC_STORE_WRITES,
    METRIC_STORE_ERRORS /* taca_store_errors_total{op} */
};
enum metric_gauge {
    METRIC_CONNECTIONS,
    METRIC_SSE_STREAMS,
    METRIC_RUNNING,
    METRIC_WAITING,
    METRIC_CAPACITY,
    METRIC_BACKLOG_SECONDS,
    METRIC_DRAINING,
    METRIC_STORED_JOBS,
    METRIC_STORED_BYTES,
    METRIC_STORE_BROKEN,
    METRIC_MODEL_LOADED,
    METRIC_WORKERS_WANTED,
    METRIC_WORKERS_READY,
    METRIC_MODEL_LOAD_SECONDS,
    METRIC_RELOAD_GOOD, /* 1 when the options that were read last are in force */
    METRIC_RELOAD_TIME, /* when options were last taken over */
    METRIC_OVERLOAD
};
enum metric_histogram {
    METRIC_QUEUE_WAIT, /* seconds; by size class, as the next one: metric_observe_sized */
    METRIC_QUEUE_WAIT_XL = METRIC_QUEUE_WAIT + 3,
    METRIC_REQUEST_DURATION,
    METRIC_REQUEST_DURATION_XL = METRIC_REQUEST_DURATION + 3,
    METRIC_ETA_ERROR, /* predicted - actual */
    METRIC_STAGE_TEXT,
    METRIC_STAGE_DENOISE,
    METRIC_STAGE_VAE,
    METRIC_STAGE_ENCODE,
    METRIC_STAGE_WRITE,
    METRIC_FIRST_PREVIEW, /* by size class */
    METRIC_FIRST_PREVIEW_XL = METRIC_FIRST_PREVIEW + 3,
    METRIC_STORE_COMMIT
};

/* Families by model count for one (`_of`), numbered from 0; those without a model here are the
 * first one's, like requests that name none. */
enum { METRIC_MODELS = 8 };
void metric_add(enum metric_counter c, const char *label,
                uint64_t n); /* label NULL where there is none */
void metric_add_of(enum metric_counter c, int model, const char *label, uint64_t n);
void metric_set(enum metric_gauge g, double v);
void metric_set_of(enum metric_gauge g, int model, double v);
void metric_inc(enum metric_gauge g, int by);
void metric_observe(enum metric_histogram h, double v);
void metric_observe_of(enum metric_histogram h, int model, double v);
/* size_class s m l xl: up to 256, 512, 1024 pixels squared, and more. */
void metric_observe_sized(enum metric_histogram h, int model, double pixels, double v);
/* By the device's number: taca_gpu_busy_seconds_total{gpu}, taca_gpu_errors_total{gpu,code}, what
 * its memory is used for, where it has its own, and the most that one worker's steps took. */
enum { METRIC_DEVICES = 16 };
void metric_device_busy(int device, double seconds);
void metric_device_error(int device, enum taca_code code);
/* One forward of a batch: taca_step_duration_seconds, _batch_images and _batch_tokens by model and
 * device, and when the device's last one ended, which is now. */
struct metric_step {
    int device, model;
    double seconds;
    int images, tokens;
};
void metric_step(const struct metric_step *s);
void metric_device_memory(int device, double used_bytes, double total_bytes); /* total 0 = none */
void metric_device_arena(int device, double peak_bytes);
/* taca_http_requests_total{route,method,code} and its duration. `route` is a constant pattern. */
void metric_http(const char *route, const char *method, int code, double seconds);
/* taca_key_requests_total{key,outcome} and taca_key_pixel_steps_total{key}; name "" = nobody's. The
 * first names have rows of their own, all later ones share "other". */
void metric_key(const char *name, const char *outcome);
void metric_key_work(const char *name, double pixel_steps);
void metrics_set_model(int model, const char *name); /* once for each, by the loop */
/* Prometheus text format 0.0.4. */
enum { METRICS_MAX_BYTES = 4 << 20 }; /* as many models, devices and keys as there may be fit */
void metrics_render(struct taca_buf *out);

#endif
