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

void bench_once(struct bench_sample *s, void (*fn)(void *ctx), void *ctx) {
    const double wall = ms_of(CLOCK_MONOTONIC), cpu = ms_of(CLOCK_PROCESS_CPUTIME_ID);
    fn(ctx);
    if (s->n == BENCH_MAX_RUNS) return;
    s->wall_ms[s->n] = ms_of(CLOCK_MONOTONIC) - wall;
    s->cpu_ms[s->n++] = ms_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
}

void bench_repeat(struct bench_sample *s, const struct taca_bench *b, int least,
                  void (*fn)(void *ctx), void *ctx) {
    s->n = 0;
    fn(ctx);
    const double end = ms_of(CLOCK_MONOTONIC) + b->budget_ms;
    while (s->n < BENCH_MAX_RUNS && (s->n < least || ms_of(CLOCK_MONOTONIC) < end))
        bench_once(s, fn, ctx);
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
    if (row->gflop > 0 && ceiling > 0) {
        row->share = row->gflop / row->wall_ms.min * 1e3 / ceiling;
        row->cpu_share = row->gflop / row->cpu_ms.min * 1e3 * row->threads / ceiling;
    }
    b->row(b->ctx, row);
}

double bench_ratio(const struct bench_sample *a, const struct bench_sample *b) {
    double ratio[BENCH_MAX_RUNS];
    const int n = a->n < b->n ? a->n : b->n;
    for (int i = 0; i < n; i++) ratio[i] = a->cpu_ms[i] / b->cpu_ms[i];
    return times_of(ratio, n).median;
}

bool bench_wanted(const struct taca_bench *b, const char *group, const char *name) {
    return !b->filter || strstr(group, b->filter) || strstr(name, b->filter);
}

static float uniform(uint64_t *state) {
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return (float)(*state >> 40) * 0x1p-24f;
}

void bench_fill(void *data, enum taca_dtype dtype, int64_t n) {
    uint64_t state = 88172645463325252u;
    for (int64_t i = 0; i < n; i++) {
        const float radius = sqrtf(-2 * logf(1 - uniform(&state)));
        const float x = radius * cosf(6.2831853f * uniform(&state));
        if (dtype == TACA_F32)
            ((float *)data)[i] = x;
        else
            ((uint16_t *)data)[i] = taca_f32_to_bf16(x);
    }
}

enum taca_code bench_open_backend(struct taca_backend **out, const struct taca_bench *b,
                                  struct taca_err *err) {
    const struct taca_backend_opts o = {.threads = b->threads,
                                        .precision = precision_dtype(b->precision),
                                        .narrow = precision_narrow(b->precision)};
    return taca_backend_open(out, b->device, &o, err);
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
