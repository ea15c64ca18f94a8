/* fp8.cuh - 8-bit floats (e4m3) and how values of a row become them:
 *   scale_r = max |x_r| / 448,  q_ri = e4m3(x_ri / scale_r)
 * A row of zeros has scale 1. */
#pragma once
#include <cuda_fp8.h>

#include "kernels/cuda/cuda.cuh"

struct e4m3 {
    uint8_t bits;
};

static __device__ __forceinline__ float e4m3_scale(float most) { return most > 0 ? most / 448 : 1; }
static __device__ __forceinline__ e4m3 to_e4m3(float x, float scale) {
    return {__nv_cvt_float_to_fp8(x / scale, __NV_SATFINITE, __NV_E4M3)};
}
