/* bench.h - how fast this machine is, and what of that the engine gets: ceilings, single ops at the
 * shapes of real models, whole forwards of real structures with random weights made on the spot.
 *
 * Figures go to a sink as they come. Knows neither files nor how a table looks. */
#ifndef TACA_ENGINE_BENCH_BENCH_H
#define TACA_ENGINE_BENCH_BENCH_H

#include "engine/engine.h"

/* Fastest run, quartiles. */
struct taca_bench_times {
    double min, q1, median, q3;
};

struct taca_bench_row {
    const char *group; /* "ceiling", "linear", "attention", "by row", "conv", "model" */
    const char *name;
    const char *dtype; /* "f32", "bf16", "int8" */
    int threads, n;    /* runs */
    bool device;       /* no CPU did it: ceilings are not its own */
    double gflop;      /* of one run; ceilings: GFLOP/s */
    double mbyte;      /* moved by one run at least, 0 = of no interest; ceilings: MB/s */
    struct taca_bench_times wall_ms;
    struct taca_bench_times cpu_ms; /* of all threads together */
    /* Of the arithmetic ceiling of its dtype, at the fastest run: by the clock on the wall, and by
     * CPU time, which other work on the machine lengthens less. 0 = of no interest. */
    double share, cpu_share;
    double ratio; /* to the same run in another way, as the name says; 0 = none */
};

struct taca_bench {
    const char *device; /* as taca_backend_open takes it; NULL = "cpu" */
    int threads;        /* 0 = what the process may use */
    enum taca_precision precision;
    double budget_ms;   /* what repeating one op may take */
    const char *filter; /* part of a name, or of a group; NULL = everything */
    void (*row)(void *ctx, const struct taca_bench_row *row);
    void *ctx;
    double ceiling[3]; /* GFLOP/s of all threads: f32, bf16, int8; taca_bench_ceilings fills them */
};

void taca_bench_ceilings(struct taca_bench *b);
enum taca_code taca_bench_ops(struct taca_bench *b, struct taca_err *err) TACA_MUST_USE;
/* SD3.5-medium, FLUX and the decoder of their VAE at 256 x 256. Needs about 7 GiB of memory. */
enum taca_code taca_bench_models(struct taca_bench *b, struct taca_err *err) TACA_MUST_USE;

/* A forward of the transformer in a directory (config.json and weights). */
struct taca_bench_shape {
    const char *path;
    int items; /* 1, or 2: a CFG pair */
    int latent_side, text_tokens;
};
enum taca_code taca_bench_transformer(struct taca_bench *b, const struct taca_bench_shape *shape,
                                      struct taca_err *err) TACA_MUST_USE;

#endif
