/* kernels_avx2.c - the inner loops for CPUs with AVX2 and FMA. */
#include <string.h>

#define CPU_KERNELS      cpu_kernels_avx2
#define CPU_KERNELS_NAME "avx2"
#include "kernels/cpu/kernels_simd.h"
