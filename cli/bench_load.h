/* bench_load.h - `taca bench --server URL`: an open-loop load generator. It sends every request at
 * its own moment, whatever became of those before it, and counts its time from then: a server that
 * is late does not get fewer requests. */
#ifndef TACA_CLI_BENCH_LOAD_H
#define TACA_CLI_BENCH_LOAD_H

#include <stdbool.h>

/* --server is among the options: they are not those of the other benchmarks. */
bool bench_load_wanted(int argc, char **argv);
int bench_load_run(int argc, char **argv);

#endif
