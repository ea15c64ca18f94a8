/* par.h - the CPU backend's threads. Knows nothing of tensors. */
#ifndef TACA_KERNELS_CPU_PAR_H
#define TACA_KERNELS_CPU_PAR_H

#include <stdint.h>

/* Calls fn(ctx, i) for every i in [0, n), on up to `threads` threads, in no particular order. Items
 * must not depend on each other. Serial when n or threads is 1 or the build has no OpenMP. */
void cpu_parallel(int threads, int64_t n, void (*fn)(void *ctx, int64_t i), void *ctx);

/* The number of the calling thread within cpu_parallel, in [0, threads). */
int cpu_worker(void);

/* Makes `threads` the width of parallel regions that libraries open from the calling thread. */
void cpu_parallel_bind(int threads);

/* Threads worth starting here: the affinity mask, cut to the cgroup's CPU quota. */
int cpu_threads_available(void);

#endif
