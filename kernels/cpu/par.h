/* par.h - a few threads that share the items of one op. Knows nothing of tensors.
 *
 * An op of a small model takes microseconds, so a waiting thread first spins, but only for a
 * bounded time: on a busy machine endless spinning takes the CPU from the thread one waits for. The
 * caller works too and never waits for a thread that has not started an item. */
#ifndef TACA_KERNELS_CPU_PAR_H
#define TACA_KERNELS_CPU_PAR_H

#include <stdint.h>

struct cpu_pool;

/* `threads` counts the caller; fewer start when the system refuses. NULL when out of memory. Each
 * helper calls init once, first thing. */
struct cpu_pool *cpu_pool_open(int threads, void (*init)(void *ctx), void *ctx);
void cpu_pool_close(struct cpu_pool *p);
int cpu_pool_threads(const struct cpu_pool *p);

/* Calls fn(ctx, i, worker) for every i in [0, n), in no particular order; worker, in [0, threads),
 * differs between calls that run at the same time. Returns when all are done. Not nested; from one
 * thread at a time. */
typedef void (*cpu_item_fn)(void *ctx, int64_t i, int worker);
void cpu_parallel(struct cpu_pool *p, int64_t n, cpu_item_fn fn, void *ctx);

/* Threads worth having here: the affinity mask, cut to the cgroup's CPU quota. */
int cpu_threads_available(void);

#endif
