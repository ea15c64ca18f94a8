/* probe.h - what this CPU can do at best: the ceilings that benchmarks hold their figures against.
 *
 * Measured, not looked up: a loop of nothing but independent multiply-adds, and one of nothing but
 * loads. Rates come from CPU time, so that other work on the machine does not lower them. */
#ifndef TACA_KERNELS_PROBE_H
#define TACA_KERNELS_PROBE_H

#include <stddef.h>

/* Of all threads together; 0 where the CPU has no such instruction. */
struct taca_ceilings {
    double f32;  /* GFLOP/s of fused multiply-adds */
    double bf16; /* GFLOP/s of vdpbf16ps */
    double int8; /* GOP/s of vpdpbusd */
};
/* threads >= 1. About 0.1 s. */
struct taca_ceilings taca_probe_arithmetic(int threads);

/* Threads the process may use. */
int taca_probe_threads(void);

/* GB/s of `threads` threads that read `bytes` over and over, each its own share; 0 without memory.
 */
double taca_probe_read(size_t bytes, int threads);

#endif
