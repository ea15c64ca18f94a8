/* metrics_device.c - what each device is busy with and what it fails at, as its worker reports. */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "server/metrics.h"
#include "server/metrics_internal.h"

enum error { OUT_OF_MEMORY, DEVICE, NUMERICAL, OTHER, N_ERRORS };
static const char *const errors[N_ERRORS] = {"out_of_memory", "device", "numerical", "other"};

/* Ended by HUGE_VAL, which is the +Inf bucket. */
static const double images_of_step[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, HUGE_VAL};
static const double tokens_of_step[] = {128,  256,   512,   1024,  2048,    4096,
                                        8192, 16384, 32768, 65536, HUGE_VAL};
enum step_family { SECONDS, IMAGES, TOKENS, N_STEP_FAMILIES };
static const struct {
    const char *name, *help;
    const double *bounds;
} step_families[N_STEP_FAMILIES] = {
    {"taca_step_duration_seconds", "One forward of a batch.", metrics_step_seconds},
    {"taca_step_batch_images", "Sequences in one forward.", images_of_step},
    {"taca_step_batch_tokens", "Tokens in one forward.", tokens_of_step},
};

static struct device {
    atomic_uint_fast64_t busy_us, errors[N_ERRORS];
    _Atomic double used_bytes, total_bytes, arena_bytes, last_step_s;
    struct histogram steps[METRIC_MODELS][N_STEP_FAMILIES];
} devices[METRIC_DEVICES];
static atomic_int last; /* the highest number that was named: one device is there in any case */

static struct device *device_of(int number) {
    if (number < 0 || number >= METRIC_DEVICES) number = METRIC_DEVICES - 1;
    int before = atomic_load(&last);
    while (number > before && !atomic_compare_exchange_weak(&last, &before, number)) {
    }
    return &devices[number];
}

void metric_device_busy(int device, double seconds) {
    if (seconds > 0) atomic_fetch_add(&device_of(device)->busy_us, (uint64_t)(seconds * 1e6 + .5));
}

void metric_device_error(int device, enum taca_code code) {
    enum error e = code == TACA_ENOMEM     ? OUT_OF_MEMORY
                   : code == TACA_EDEVICE  ? DEVICE
                   : code == TACA_ENUMERIC ? NUMERICAL
                                           : OTHER;
    atomic_fetch_add(&device_of(device)->errors[e], 1);
}

void metric_device_memory(int device, double used_bytes, double total_bytes) {
    struct device *d = device_of(device);
    atomic_store(&d->used_bytes, used_bytes);
    atomic_store(&d->total_bytes, total_bytes);
}

void metric_step(const struct metric_step *s) {
    struct device *d = device_of(s->device);
    struct histogram *h = d->steps[s->model];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    atomic_store(&d->last_step_s, (double)now.tv_sec + (double)now.tv_nsec / 1e9);
    histogram_add(&h[SECONDS], metrics_step_seconds, s->seconds);
    histogram_add(&h[IMAGES], images_of_step, s->images);
    histogram_add(&h[TOKENS], tokens_of_step, s->tokens);
}

/* Of several workers' the largest. Only the loop writes it. */
void metric_device_arena(int device, double peak_bytes) {
    struct device *d = device_of(device);
    if (peak_bytes > atomic_load(&d->arena_bytes)) atomic_store(&d->arena_bytes, peak_bytes);
}

/* Rows for devices that have memory of their own; with none the family has a head alone. */
static void render_memory(struct taca_buf *out, int n) {
    metrics_head(out, "taca_gpu_memory_used_bytes", "Memory of a GPU in use, by whomever.",
                 "gauge");
    for (int i = 0; i < n; i++)
        if (atomic_load(&devices[i].total_bytes) > 0)
            taca_buf_printf(out, "taca_gpu_memory_used_bytes{gpu=\"%d\"} %.15g\n", i,
                            atomic_load(&devices[i].used_bytes));
    metrics_head(out, "taca_gpu_memory_total_bytes", "Memory that a GPU has.", "gauge");
    for (int i = 0; i < n; i++)
        if (atomic_load(&devices[i].total_bytes) > 0)
            taca_buf_printf(out, "taca_gpu_memory_total_bytes{gpu=\"%d\"} %.15g\n", i,
                            atomic_load(&devices[i].total_bytes));
    metrics_head(out, "taca_arena_peak_bytes", "The most scratch memory of a worker so far.",
                 "gauge");
    for (int i = 0; i < n; i++)
        taca_buf_printf(out, "taca_arena_peak_bytes{gpu=\"%d\"} %.15g\n", i,
                        atomic_load(&devices[i].arena_bytes));
}

static void render_steps(struct taca_buf *out, int n) {
    metrics_head(out, "taca_last_step_timestamp_seconds", "When the last step ended.", "gauge");
    for (int i = 0; i < n; i++)
        taca_buf_printf(out, "taca_last_step_timestamp_seconds{gpu=\"%d\"} %.15g\n", i,
                        atomic_load(&devices[i].last_step_s));
    for (int f = 0; f < N_STEP_FAMILIES; f++) {
        metrics_head(out, step_families[f].name, step_families[f].help, "histogram");
        for (int m = 0; m < METRIC_MODELS; m++) {
            char pair[200], labels[240];
            if (!metrics_model_pair(pair, sizeof pair, m, true)) continue;
            for (int i = 0; i < n; i++) {
                snprintf(labels, sizeof labels, "%s,gpu=\"%d\"", pair, i);
                histogram_render(out, step_families[f].name, labels, &devices[i].steps[m][f],
                                 step_families[f].bounds);
            }
        }
    }
}

void metrics_render_devices(struct taca_buf *out) {
    int n = atomic_load(&last) + 1;
    render_steps(out, n);
    render_memory(out, n);
    metrics_head(out, "taca_gpu_busy_seconds_total",
                 "Time a device worked, of one or many requests.", "counter");
    for (int i = 0; i < n; i++)
        taca_buf_printf(out, "taca_gpu_busy_seconds_total{gpu=\"%d\"} %.6f\n", i,
                        (double)atomic_load(&devices[i].busy_us) / 1e6);
    metrics_head(out, "taca_gpu_errors_total", "Commands that a device failed at.", "counter");
    for (int i = 0; i < n; i++)
        for (int k = 0; k < N_ERRORS; k++)
            taca_buf_printf(out, "taca_gpu_errors_total{gpu=\"%d\",code=\"%s\"} %llu\n", i,
                            errors[k], (unsigned long long)atomic_load(&devices[i].errors[k]));
}
