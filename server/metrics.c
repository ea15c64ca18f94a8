/* metrics.c - see metrics.h.
 *
 * Two constant tables describe the families; the numbers lie beside them as atomics. What is
 * labelled by route is in metrics_http.c, what the kernel knows in metrics_process.c. */
#include "server/metrics.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "server/metrics_internal.h"

enum { MAX_LABELS = 40 };

/* Values of the one label of a counter; the last one also takes what is not in the list. */
static const char *const outcomes[] = {"ok", "cancelled", "failed", "rejected", "expired", NULL};
static const char *const rejections[] = {"queue_full",
                                         "deadline_infeasible",
                                         "draining",
                                         "loading",
                                         "gpu_unavailable",
                                         "invalid_request",
                                         "body_too_large",
                                         "bad_head",
                                         "head_timeout",
                                         "body_timeout",
                                         "too_many_connections",
                                         "ip_conn",
                                         "not_found",
                                         "not_allowed",
                                         "not_acceptable",
                                         "unsupported_media_type",
                                         "write_stall",
                                         "out_of_memory",
                                         "conflict",
                                         "key_concurrency",
                                         "rate_limited",
                                         "overloaded",
                                         "forbidden",
                                         "storage_unavailable",
                                         "invalid_api_key",
                                         "expired",
                                         "other",
                                         NULL};
_Static_assert(sizeof rejections / sizeof *rejections <= MAX_LABELS, "a row for every reason");
static const char *const cancels[] = {"disconnect", "deadline", "client", "other", NULL};
static const char *const restarts[] = {"signal", "exit",  "hang", "protocol",
                                       "device", "other", NULL};
static const char *const operations[] = {"write", "read", "other", NULL};
static const char *const drops[] = {"progress", "preview", "other", NULL};

static const struct counter_info {
    const char *name, *help, *label;
    const char *const *values;
    bool model;
} counters[] = {
    [METRIC_REQUESTS] = {"taca_requests_total", "Image requests by how they ended.", "outcome",
                         outcomes, true},
    [METRIC_REJECTED] = {"taca_rejected_total", "Requests and connections refused.", "reason",
                         rejections, false},
    [METRIC_CANCELLED] = {"taca_cancelled_total", "Accepted requests that were given up.", "reason",
                          cancels, false},
    [METRIC_RESTARTS] = {"taca_worker_restarts_total", "Workers that were lost.", "reason",
                         restarts, false},
    [METRIC_EVENTS_DROPPED] = {"taca_events_dropped_total",
                               "Events that a slow reader did not get.", "kind", drops, false},
    [METRIC_STEPS] = {"taca_steps_total", "Denoising steps, one per sequence and step.", NULL, NULL,
                      true},
    [METRIC_BESIDE] = {"taca_forwards_beside_total",
                       "Forwards beside which a sequence was opened or decoded.", NULL, NULL, true},
    [METRIC_IMAGES] = {"taca_images_total", "Images finished.", NULL, NULL, true},
    [METRIC_PIXELS] = {"taca_pixels_total", "Pixels of finished images.", NULL, NULL, true},
    [METRIC_PADDING_TOKENS] = {"taca_step_padding_tokens_total",
                               "Tokens computed for nobody; ragged packing keeps this at 0.", NULL,
                               NULL, false},
    [METRIC_JOBS_RESUMED] = {"taca_jobs_resumed_total",
                             "Jobs that another process left unfinished in the job store.", NULL,
                             NULL, false},
    [METRIC_STORE_TRANSACTIONS] = {"taca_store_transactions_total",
                                   "Transactions of the job store.", NULL, NULL, false},
    [METRIC_STORE_WRITES] = {"taca_store_writes_total", "Writes in them.", NULL, NULL, false},
    [METRIC_STORE_ERRORS] = {"taca_store_errors_total",
                             "Writes and reads of the job store that failed.", "op", operations,
                             false},
};
enum { N_COUNTERS = sizeof counters / sizeof counters[0] };

static const struct gauge_info {
    const char *name, *help;
    bool model;
} gauges[] = {
    [METRIC_CONNECTIONS] = {"taca_http_connections", "Open connections.", false},
    [METRIC_SSE_STREAMS] = {"taca_sse_streams", "Open event streams.", false},
    [METRIC_RUNNING] = {"taca_requests_running", "Requests that have been started.", true},
    [METRIC_WAITING] = {"taca_requests_waiting", "Requests in the queue.", true},
    [METRIC_CAPACITY] = {"taca_queue_capacity", "Requests that may wait.", false},
    [METRIC_BACKLOG_SECONDS] = {"taca_queue_backlog_gpu_seconds",
                                "Estimated device time of everything accepted.", true},
    [METRIC_DRAINING] = {"taca_draining", "1 while the service is shutting down.", false},
    [METRIC_STORED_JOBS] = {"taca_jobs_stored", "Finished jobs that can be asked for.", false},
    [METRIC_STORED_BYTES] = {"taca_jobs_stored_bytes", "Memory or disk of their results.", false},
    [METRIC_STORE_BROKEN] = {"taca_store_broken",
                             "1 once the disk has failed: durable jobs are refused.", false},
    [METRIC_MODEL_LOADED] = {"taca_model_loaded", "1 while a worker holds the model.", true},
    [METRIC_WORKERS_WANTED] = {"taca_workers_wanted", "Workers that shall hold the model.", true},
    [METRIC_WORKERS_READY] = {"taca_workers_ready", "Workers that can take its work now.", true},
    [METRIC_MODEL_LOAD_SECONDS] = {"taca_model_load_duration_seconds",
                                   "How long the last load took.", true},
    [METRIC_RELOAD_GOOD] = {"taca_config_last_reload_successful",
                            "1 when the options that were read last are in force.", false},
    [METRIC_RELOAD_TIME] = {"taca_config_reload_success_timestamp_seconds",
                            "When options were last taken over.", false},
    [METRIC_OVERLOAD] = {"taca_overload_level", "What is given up because memory is short, 0 to 3.",
                         false},
};
enum { N_GAUGES = sizeof gauges / sizeof gauges[0] };

/* Ended by HUGE_VAL, which is the +Inf bucket. */
const double metrics_seconds[] = {.005, .01, .025, .05, .1, .25, .5,  1,
                                  2.5,  5,   10,   30,  60, 120, 300, HUGE_VAL};
const double metrics_step_seconds[] = {.001, .0025, .005, .01, .025, .05,     .1,
                                       .25,  .5,    1,    2.5, 5,    HUGE_VAL};
static const double error_seconds[] = {-60, -30, -10, -5,  -2.5, -1, -.5, -.1,     0,
                                       .1,  .5,  1,   2.5, 5,    10, 30,  HUGE_VAL};

/* Rows of one name are one family and stand together; the first one has the help. */
static const struct histogram_info {
    const char *name, *help;
    const char *label; /* ready to be printed, NULL = none */
    const double *bounds;
    bool model;
} histograms[] = {
#define SIZED(first, metric, text)                                                                 \
    [first] = {metric, text, "size_class=\"s\"", metrics_seconds, true},                           \
    [(first) + 1] = {metric, "", "size_class=\"m\"", metrics_seconds, true},                       \
    [(first) + 2] = {metric, "", "size_class=\"l\"", metrics_seconds, true},                       \
    [(first) + 3] = {metric, "", "size_class=\"xl\"", metrics_seconds, true}
    SIZED(METRIC_QUEUE_WAIT, "taca_queue_wait_seconds", "From acceptance to the first work."),
    SIZED(METRIC_REQUEST_DURATION, "taca_request_duration_seconds",
          "From acceptance to the answer."),
    [METRIC_ETA_ERROR] = {"taca_eta_error_seconds", "The first estimate less the time it took.",
                          NULL, error_seconds, true},
    [METRIC_STAGE_TEXT] = {"taca_stage_duration_seconds", "Time of a request's stages.",
                           "stage=\"text\"", metrics_seconds, false},
    [METRIC_STAGE_DENOISE] = {"taca_stage_duration_seconds", "", "stage=\"denoise\"",
                              metrics_seconds, false},
    [METRIC_STAGE_VAE] = {"taca_stage_duration_seconds", "", "stage=\"vae\"", metrics_seconds,
                          false},
    [METRIC_STAGE_ENCODE] = {"taca_stage_duration_seconds", "", "stage=\"encode\"", metrics_seconds,
                             false},
    [METRIC_STAGE_WRITE] = {"taca_stage_duration_seconds", "", "stage=\"write\"", metrics_seconds,
                            false},
    SIZED(METRIC_FIRST_PREVIEW, "taca_time_to_first_preview_seconds",
          "From acceptance to the first preview of those that asked for some."),
    [METRIC_STORE_COMMIT] = {"taca_store_commit_seconds",
                             "From the taking of writes to their being on the disk.", NULL,
                             metrics_step_seconds, false},
};
#undef SIZED
enum { N_HISTOGRAMS = sizeof histograms / sizeof histograms[0] };

/* By model; what has none is the first one's. */
static atomic_uint_fast64_t counts[METRIC_MODELS][N_COUNTERS][MAX_LABELS];
static _Atomic double levels[METRIC_MODELS][N_GAUGES];
static struct histogram distributions[METRIC_MODELS][N_HISTOGRAMS];
/* Written once each, by the loop; until the first is published its label is empty. */
static char model_text[METRIC_MODELS][160];
static _Atomic(const char *) model_label[METRIC_MODELS];

/* ---- counting -------------------------------------------------------------------------------- */

void metric_add_of(enum metric_counter c, int model, const char *label, uint64_t n) {
    const char *const *values = counters[c].values;
    int i = 0;
    if (values)
        while (values[i + 1] && !(label && strcmp(values[i], label) == 0)) i++;
    atomic_fetch_add(&counts[model][c][i], n);
}

void metric_add(enum metric_counter c, const char *label, uint64_t n) {
    metric_add_of(c, 0, label, n);
}

void metric_set_of(enum metric_gauge g, int model, double v) { atomic_store(&levels[model][g], v); }
void metric_set(enum metric_gauge g, double v) { metric_set_of(g, 0, v); }

static void add_double(_Atomic double *to, double v) {
    double old = atomic_load(to);
    while (!atomic_compare_exchange_weak(to, &old, old + v)) {
    }
}

void metric_inc(enum metric_gauge g, int by) { add_double(&levels[0][g], by); }

void histogram_add(struct histogram *h, const double *bounds, double v) {
    int i = 0;
    while (v > bounds[i]) i++; /* the last bound is infinite; NaN lands in the first */
    atomic_fetch_add(&h->buckets[i], 1);
    add_double(&h->sum, v);
}

void metric_observe_of(enum metric_histogram h, int model, double v) {
    histogram_add(&distributions[model][h], histograms[h].bounds, v);
}

void metric_observe(enum metric_histogram h, double v) { metric_observe_of(h, 0, v); }

void metric_observe_sized(enum metric_histogram h, int model, double pixels, double v) {
    int above = 0;
    for (double most = 256 * 256; above < 3 && pixels > most; most *= 4) above++;
    metric_observe_of((enum metric_histogram)((int)h + above), model, v);
}

void metrics_set_model(int model, const char *name) {
    char *text = model_text[model];
    size_t n = 0;
    if (atomic_load(&model_label[model])) return;
    for (const char *s = name; *s && n + 3 < sizeof model_text[model]; s++) {
        if (*s == '"' || *s == '\\') text[n++] = '\\';
        text[n++] = *s == '\n' ? ' ' : *s;
    }
    text[n] = 0;
    atomic_store(&model_label[model], text);
}

/* ---- rendering ------------------------------------------------------------------------------- */

void metrics_head(struct taca_buf *out, const char *name, const char *help, const char *type) {
    taca_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

bool metrics_model_pair(char *out, size_t size, int model, bool wanted) {
    const char *name = atomic_load(&model_label[model]);
    out[0] = 0;
    if (model > 0 && (!wanted || !name)) return false;
    if (wanted) snprintf(out, size, "model=\"%s\"", name ? name : "");
    return true;
}

static void render_counts(struct taca_buf *out, int c, int model, const char *pair) {
    const struct counter_info *k = &counters[c];
    for (int i = 0; i == 0 || (k->values && k->values[i]); i++) {
        unsigned long long v = atomic_load(&counts[model][c][i]);
        if (k->values)
            taca_buf_printf(out, "%s{%s%s%s=\"%s\"} %llu\n", k->name, pair, *pair ? "," : "",
                            k->label, k->values[i], v);
        else if (*pair)
            taca_buf_printf(out, "%s{%s} %llu\n", k->name, pair, v);
        else
            taca_buf_printf(out, "%s %llu\n", k->name, v);
    }
}

static void render_counter(struct taca_buf *out, int c) {
    char pair[200];
    metrics_head(out, counters[c].name, counters[c].help, "counter");
    for (int m = 0; m < METRIC_MODELS; m++)
        if (metrics_model_pair(pair, sizeof pair, m, counters[c].model))
            render_counts(out, c, m, pair);
}

static void render_gauge(struct taca_buf *out, int g) {
    char pair[200];
    metrics_head(out, gauges[g].name, gauges[g].help, "gauge");
    for (int m = 0; m < METRIC_MODELS; m++) {
        if (!metrics_model_pair(pair, sizeof pair, m, gauges[g].model)) continue;
        const char *open = *pair ? "{" : "", *close = *pair ? "}" : "";
        taca_buf_printf(out, "%s%s%s%s %.15g\n", gauges[g].name, open, pair, close,
                        atomic_load(&levels[m][g]));
    }
}

void histogram_render(struct taca_buf *out, const char *name, const char *labels,
                      struct histogram *h, const double *bounds) {
    unsigned long long sum = 0;
    const char *comma = labels[0] ? "," : "";
    for (int i = 0;; i++) {
        sum += atomic_load(&h->buckets[i]);
        if (isinf(bounds[i])) break;
        taca_buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, labels, comma, bounds[i],
                        sum);
    }
    taca_buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma, sum);
    const char *open = labels[0] ? "{" : "", *close = labels[0] ? "}" : "";
    taca_buf_printf(out, "%s_sum%s%s%s %.9g\n", name, open, labels, close, atomic_load(&h->sum));
    taca_buf_printf(out, "%s_count%s%s%s %llu\n", name, open, labels, close, sum);
}

static void render_histogram(struct taca_buf *out, int h) {
    const struct histogram_info *k = &histograms[h];
    char pair[200], labels[300];
    if (k->help[0]) metrics_head(out, k->name, k->help, "histogram");
    for (int m = 0; m < METRIC_MODELS; m++) {
        if (!metrics_model_pair(pair, sizeof pair, m, k->model)) continue;
        snprintf(labels, sizeof labels, "%s%s%s", pair, *pair && k->label ? "," : "",
                 k->label ? k->label : "");
        histogram_render(out, k->name, labels, &distributions[m][h], k->bounds);
    }
}

void metrics_render(struct taca_buf *out) {
    for (int i = 0; i < N_COUNTERS; i++) render_counter(out, i);
    for (int i = 0; i < N_GAUGES; i++) render_gauge(out, i);
    for (int i = 0; i < N_HISTOGRAMS; i++) render_histogram(out, i);
    metrics_render_devices(out);
    metrics_render_keys(out);
    metrics_render_http(out);
    metrics_head(out, "taca_log_dropped_total", "Log records lost to a full pipe.", "counter");
    taca_buf_printf(out, "taca_log_dropped_total %llu\n", (unsigned long long)taca_log_dropped());
    metrics_render_process(out);
}
