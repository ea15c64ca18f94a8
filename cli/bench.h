/* bench.h - what the files of `taca bench` share. */
#ifndef TACA_CLI_BENCH_H
#define TACA_CLI_BENCH_H

#include "engine/bench/bench.h"

struct bench_machine {
    bool ops, models; /* after the ceilings */
    bool json;
    const char *device;
    int threads;
    enum taca_precision precision;
    double budget_ms;
    const char *filter;
    struct taca_bench_shape transformer; /* path NULL: none */
};
/* Ceilings, ops and whole forwards, a line each. */
enum taca_code bench_machine_run(const struct bench_machine *m, struct taca_err *err) TACA_MUST_USE;

#endif
