/* measure.c - see measure.h; and the ceilings of the machine. */
#include "engine/bench/measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/probe.h"

static double ms_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

void bench_once(struct bench_sample *s, const struct bench_work *w) {
    const double wall = ms_of(CLOCK_MONOTONIC), cpu = ms_of(CLOCK_PROCESS_CPUTIME_ID);
    w->fn(w->ctx);
    if (taca_sync(w->b, &s->err) != TACA_OK || s->n == BENCH_MAX_RUNS) return;
    s->wall_ms[s->n] = ms_of(CLOCK_MONOTONIC) - wall;
    s->cpu_ms[s->n++] = ms_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
}

void bench_repeat(struct bench_sample *s, const struct taca_bench *b, int least,
                  const struct bench_work *w) {
    s->n = 0;
    s->err = (struct taca_err){0};
    bench_once(s, w);
    s->n = 0;
    const double end = ms_of(CLOCK_MONOTONIC) + b->budget_ms;
    while (!s->err.code && s->n < BENCH_MAX_RUNS && (s->n < least || ms_of(CLOCK_MONOTONIC) < end))
        bench_once(s, w);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct taca_bench_times times_of(double *ms, int n) {
    qsort(ms, (size_t)n, sizeof *ms, by_value);
    return (struct taca_bench_times){ms[0], ms[n / 4], ms[n / 2], ms[n * 3 / 4]};
}

static double ceiling_of(const struct taca_bench *b, const char *dtype) {
    static const char *const names[] = {"f32", "bf16", "int8"};
    for (int i = 0; i < 3; i++)
        if (strcmp(names[i], dtype) == 0) return b->ceiling[i];
    return 0;
}

void bench_send(const struct taca_bench *b, struct taca_bench_row *row, struct bench_sample *s) {
    const double ceiling = ceiling_of(b, row->dtype);
    row->n = s->n;
    row->wall_ms = times_of(s->wall_ms, s->n);
    row->cpu_ms = times_of(s->cpu_ms, s->n);
    if (row->gflop > 0 && ceiling > 0 && !row->device) {
        row->share = row->gflop / row->wall_ms.min * 1e3 / ceiling;
        row->cpu_share = row->gflop / row->cpu_ms.min * 1e3 * row->threads / ceiling;
    }
    b->row(b->ctx, row);
}

bool bench_on_device(const struct taca_backend *b) {
    return strcmp(taca_backend_name(b), "cpu") != 0;
}

double bench_ratio(const struct bench_sample *a, const struct bench_sample *b, bool wall) {
    double ratio[BENCH_MAX_RUNS];
    const int n = a->n < b->n ? a->n : b->n;
    const double *x = wall ? a->wall_ms : a->cpu_ms, *y = wall ? b->wall_ms : b->cpu_ms;
    for (int i = 0; i < n; i++) ratio[i] = x[i] / y[i];
    return times_of(ratio, n).median;
}

bool bench_wanted(const struct taca_bench *b, const char *group, const char *name) {
    return !b->filter || strstr(group, b->filter) || strstr(name, b->filter);
}

static float uniform(uint64_t *state) {
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return (float)(*state >> 40) * 0x1p-24f;
}

enum { FILL_AT_ONCE = 1 << 14 };

void bench_fill(struct taca_backend *b, void *data, enum taca_dtype dtype, int64_t n) {
    static float wide[FILL_AT_ONCE];
    static uint16_t narrow[FILL_AT_ONCE];
    uint64_t state = 88172645463325252u;
    for (int64_t done = 0; done < n; done += FILL_AT_ONCE) {
        const int64_t k = n - done < FILL_AT_ONCE ? n - done : FILL_AT_ONCE;
        for (int64_t i = 0; i < k; i++) {
            const float radius = sqrtf(-2 * logf(1 - uniform(&state)));
            wide[i] = radius * cosf(6.2831853f * uniform(&state));
            narrow[i] = taca_f32_to_bf16(wide[i]);
        }
        const size_t bytes = taca_dtype_bytes(dtype);
        const void *from = dtype == TACA_F32 ? (const void *)wide : (const void *)narrow;
        taca_upload(b, (char *)data + (size_t)done * bytes, from, (size_t)k * bytes);
    }
}

enum taca_code bench_open_backend(struct taca_backend **out, const struct taca_bench *b,
                                  struct taca_err *err) {
    const struct taca_backend_opts o = {.threads = b->threads,
                                        .precision = precision_dtype(b->precision),
                                        .narrow = precision_narrow(b->precision)};
    return taca_backend_open(out, b->device, &o, err);
}

enum taca_code bench_finds_device(const struct taca_bench *b, bool *device, struct taca_err *err) {
    struct taca_backend *probe;
    enum taca_code rc = bench_open_backend(&probe, b, err);
    if (rc) return rc;
    *device = bench_on_device(probe);
    taca_backend_close(probe);
    return TACA_OK;
}

const char *bench_dtype(const struct taca_backend *b) { return precision_name(b); }

int bench_threads(const struct taca_bench *b) {
    return b->threads > 0 ? b->threads : taca_probe_threads();
}

static void send_rate(const struct taca_bench *b, const char *name, const char *dtype, int threads,
                      double gflop, double mbyte) {
    struct taca_bench_row row = {.group = "ceiling",
                                 .name = name,
                                 .dtype = dtype,
                                 .threads = threads,
                                 .gflop = gflop,
                                 .mbyte = mbyte};
    b->row(b->ctx, &row);
}

void taca_bench_ceilings(struct taca_bench *b) {
    static const struct {
        const char *name;
        size_t bytes; /* per thread */
    } level[] = {{"read L1", 24 << 10}, {"read L2", 512 << 10}, {"read L3", 6 << 20}};
    const int all = bench_threads(b);
    for (int t = 1;; t = all) {
        const struct taca_ceilings c = taca_probe_arithmetic(t);
        send_rate(b, "fused multiply-add", "f32", t, c.f32, 0);
        send_rate(b, "vdpbf16ps", "bf16", t, c.bf16, 0);
        send_rate(b, "vpdpbusd", "int8", t, c.int8, 0);
        for (size_t i = 0; i < sizeof level / sizeof *level; i++)
            send_rate(b, level[i].name, "", t, 0,
                      taca_probe_read(level[i].bytes * (size_t)t, t) * 1e3);
        send_rate(b, "read memory", "", t, 0, taca_probe_read((size_t)512 << 20, t) * 1e3);
        b->ceiling[0] = c.f32;
        b->ceiling[1] = c.bf16;
        b->ceiling[2] = c.int8;
        if (t == all) return;
    }
}
