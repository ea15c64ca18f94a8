/* kernels_avx512.c - the inner loops for CPUs with AVX-512 F, BW, DQ and VL. */
#include <string.h>

#define CPU_KERNELS      cpu_kernels_avx512
#define CPU_KERNELS_NAME "avx512"
#include "kernels/cpu/kernels_simd.h"
