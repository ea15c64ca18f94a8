/* fp8.cu - rows brought to 8-bit floats with a scale each: inputs per token, weights per output.
 * One warp per row; memory bound: a row is read twice, the second time from L1. */
#include "kernels/cuda/fp8.cuh"

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
    const float step = e4m3_scale(top);
    for (int64_t i = lane; i < x.cols; i += LANES)
        q[r * x.cols + i] = to_e4m3(to_float(row[i]), step).bits;
    if (lane == 0) scale[r] = step;
}

void cuda_quantise(struct cuda *c, uint8_t *q, float *scale, struct taca_mat x) {
    by_dtype(x.dtype, [&](auto *p) {
        launch(quantise_kernel<element<decltype(p)>>, blocks_for(x.rows, WARPS), WARPS * LANES, 0,
               c->stream, q, scale, x);
    });
    (void)cuda_launched(c, "quantise");
}

/* The scales of rows that have theirs behind them. */
static __global__ void scales_kernel(float *scale, struct taca_mat x) {
    const int64_t r = my_value();
    if (r < x.rows) scale[r] = *(const float *)at<uint8_t>(x, r, x.cols);
}

void cuda_row_scales(struct cuda *c, float *scale, struct taca_mat x) {
    const int threads = 256;
    launch(scales_kernel, blocks_for(x.rows, threads), threads, 0, c->stream, scale, x);
    (void)cuda_launched(c, "scales");
}
