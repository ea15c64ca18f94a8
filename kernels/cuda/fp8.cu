/* fp8.cu - rows brought to 8-bit floats (e4m3) with a scale each: inputs per token, weights per
 * output.
 *
 *   scale_r = max |x_r| / 448,  q_ri = e4m3(x_ri / scale_r)
 * A row of zeros has scale 1. One warp per row; memory bound: a row is read twice, the second time
 * from L1. */
#include <cuda_fp8.h>

#include "kernels/cuda/cuda.cuh"

enum { WARPS = 4, LANES = 32 };

template <class X>
static __global__ void quantise_kernel(uint8_t *q, float *scale, struct taca_mat x) {
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / LANES;
    const int lane = (int)threadIdx.x % LANES;
    if (r >= x.rows) return;
    const X *row = (const X *)x.data + r * x.ld;
    float top = 0;
    for (int64_t i = lane; i < x.cols; i += LANES) top = fmaxf(top, fabsf(to_float(row[i])));
    top = warp_max(top);
    const float step = top > 0 ? top / 448 : 1;
    for (int64_t i = lane; i < x.cols; i += LANES)
        q[r * x.cols + i] =
            __nv_cvt_float_to_fp8(to_float(row[i]) / step, __NV_SATFINITE, __NV_E4M3);
    if (lane == 0) scale[r] = step;
}

void cuda_quantise(struct cuda *c, uint8_t *q, float *scale, struct taca_mat x) {
    by_dtype(x.dtype, [&](auto *p) {
        launch(quantise_kernel<element<decltype(p)>>, blocks_for(x.rows, WARPS), WARPS * LANES, 0,
               c->stream, q, scale, x);
    });
    (void)cuda_launched(c, "quantise");
}
