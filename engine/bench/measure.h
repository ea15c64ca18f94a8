/* measure.h - repeating something and what came of it. Inside engine/bench only. */
#ifndef TACA_ENGINE_BENCH_MEASURE_H
#define TACA_ENGINE_BENCH_MEASURE_H

#include "engine/bench/bench.h"
#include "engine/precision.h"

enum { BENCH_MAX_RUNS = 400 };

/* Something that queues its work on a backend. */
struct bench_work {
    struct taca_backend *b;
    void (*fn)(void *ctx);
    void *ctx;
};
struct bench_sample {
    double wall_ms[BENCH_MAX_RUNS], cpu_ms[BENCH_MAX_RUNS];
    int n;
    struct taca_err err; /* the first of any run */
};
/* One run, until the device has done it. */
void bench_once(struct bench_sample *s, const struct bench_work *w);
/* Once unmeasured, then until the budget is spent, at least `least` times. *s starts anew. */
void bench_repeat(struct bench_sample *s, const struct taca_bench *b, int least,
                  const struct bench_work *w);
/* Completes the row (group, name, dtype, threads, gflop, mbyte and ratio are there) and sends it.
 */
void bench_send(const struct taca_bench *b, struct taca_bench_row *row, struct bench_sample *s);
/* The median over runs of a to runs of b taken in turns, by CPU time, or the clock on the wall
 * where a device does the work; before they are sent. */
double bench_ratio(const struct bench_sample *a, const struct bench_sample *b, bool wall);
/* *device: what b computes on is no CPU. */
enum taca_code bench_finds_device(const struct taca_bench *b, bool *device,
                                  struct taca_err *err) TACA_MUST_USE;
bool bench_on_device(const struct taca_backend *b); /* it is no CPU */
bool bench_wanted(const struct taca_bench *b, const char *group, const char *name);

/* n normal values in either float type, in the backend's memory. */
void bench_fill(struct taca_backend *b, void *data, enum taca_dtype dtype, int64_t n);

enum taca_code bench_open_backend(struct taca_backend **out, const struct taca_bench *b,
                                  struct taca_err *err) TACA_MUST_USE;
/* Of the matrix products, as rows print it. */
const char *bench_dtype(const struct taca_backend *b);
int bench_threads(const struct taca_bench *b);

#endif
