/* metrics_device.c - what each device is busy with and what it fails at, as its worker reports. */
#include <stdatomic.h>

#include "server/metrics.h"
#include "server/metrics_internal.h"

enum error { OUT_OF_MEMORY, DEVICE, NUMERICAL, OTHER, N_ERRORS };
static const char *const errors[N_ERRORS] = {"out_of_memory", "device", "numerical", "other"};

static struct device {
    atomic_uint_fast64_t busy_us, errors[N_ERRORS];
    _Atomic double used_bytes, total_bytes, arena_bytes;
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

void metrics_render_devices(struct taca_buf *out) {
    int n = atomic_load(&last) + 1;
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
