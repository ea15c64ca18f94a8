/* par.c - see par.h; the only file that speaks OpenMP. */
#include "kernels/cpu/par.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

void cpu_parallel(int threads, int64_t n, void (*fn)(void *ctx, int64_t i), void *ctx) {
#ifdef _OPENMP
    if (threads > 1 && n > 1) {
        if (threads > n) threads = (int)n;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (int64_t i = 0; i < n; i++) fn(ctx, i);
        return;
    }
#else
    (void)threads;
#endif
    for (int64_t i = 0; i < n; i++) fn(ctx, i);
}

int cpu_worker(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

void cpu_parallel_bind(int threads) {
#ifdef _OPENMP
    if (omp_get_max_threads() != threads) omp_set_num_threads(threads);
#else
    (void)threads;
#endif
}

/* CPUs of the cgroup's quota rounded up, 0 when there is none. */
static int quota_cpus(void) {
    long long quota = -1, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2) quota = -1; /* "max" */
        fclose(f);
    }
    if (quota <= 0 || period <= 0) return 0;
    return (int)((quota + period - 1) / period);
}

int cpu_threads_available(void) {
    cpu_set_t set;
    int n = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
    int quota = quota_cpus();
    if (quota > 0 && quota < n) n = quota;
    return n > 0 ? n : 1;
}
