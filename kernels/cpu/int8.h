/* int8.h - linear maps whose weights are 8-bit integers with a scale per output, on inputs that are
 * brought to 8 bits with a scale per row while they pass (vpdpbusd). Called by matmul.c alone.
 *
 * Sums are exact integers, so that a result does not depend on threads or on the batch. */
#ifndef TACA_KERNELS_CPU_INT8_H
#define TACA_KERNELS_CPU_INT8_H

#include "kernels/cpu/cpu.h"

struct cpu_int8; /* prepared weights */

bool cpu_int8_supported(void);
/* What one of that shape takes, and what running it on so many rows takes beside it. */
size_t cpu_int8_bytes(int64_t out, int64_t in);
size_t cpu_int8_work(int64_t in, int64_t rows);
/* The rows of n parts below each other, `out` in all. NULL when out of memory. */
struct cpu_int8 *cpu_int8_open(const struct taca_tensor *parts, int n, int64_t out, int64_t in);
void cpu_int8_close(struct cpu_int8 *w);
/* y = act(x W^T + bias), views with any stride; bias [out] or NULL. */
void cpu_int8_linear(struct cpu *c, const struct cpu_int8 *w, struct taca_mat y, struct taca_mat x,
                     const float *bias, enum taca_act act);

#endif
