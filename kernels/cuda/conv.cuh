/* conv.cuh - one convolution as its kernels take it: a product of pixels and output channels over
 * k = (tap, input channel), whose left side is never stored. */
#pragma once
#include "kernels/cuda/cuda.cuh"

struct conv_call {
    struct taca_map y, x;
    const void *weight; /* [c_out, k_ld], the rest of each row zeros */
    const float *bias;
    struct taca_conv g;
    int64_t k, k_ld; /* kh * kw * c_in */
    bool add;        /* to what y holds */
};

/* An output value joins the map. */
template <class Y>
static __device__ __forceinline__ void put_output(const conv_call &a, int64_t at, float v) {
    Y *y = (Y *)a.y.data + at;
    *y = from_float<Y>(a.add ? to_float(*y) + v : v);
}

/* An output pixel's window: where its first tap lies. Pixels past the last are outside. */
struct conv_pixel {
    int64_t image; /* rows of the maps before this image; -1 outside */
    int64_t r, s;
};

static __device__ __forceinline__ conv_pixel pixel_at(const conv_call &a, int64_t p) {
    const int64_t i = p / a.y.w % a.y.h, j = p % a.y.w, n = p / (a.y.w * a.y.h);
    return {n < a.y.n ? n * a.x.h : -1, i * a.g.stride - a.g.pad_top,
            j * a.g.stride - a.g.pad_left};
}

/* The place in x of tap (dy, dx) and channel c; -1 where zeros are read. */
static __device__ __forceinline__ int64_t input_at(const conv_call &a, const conv_pixel &p, int dy,
                                                   int dx, int64_t c) {
    const int64_t r = p.r + dy, s = p.s + dx;
    if (p.image < 0 || dy >= a.g.kh || r < 0 || r >= a.x.h || s < 0 || s >= a.x.w) return -1;
    return ((p.image + r) * a.x.w + s) * a.x.c + c;
}

/* Input k of a pixel's window, whatever the number of channels. */
template <class X>
static __device__ __forceinline__ float input(const conv_call &a, const conv_pixel &p, int64_t k) {
    const int tap = (int)(k / a.x.c), dy = tap / (int)a.g.kw, dx = tap % (int)a.g.kw;
    const int64_t at = input_at(a, p, dy, dx, k % a.x.c);
    return at < 0 ? 0 : to_float(((const X *)a.x.data)[at]);
}

/* conv_mma.cu: bf16 weights. */
void conv_mma(struct cuda *c, const conv_call &a);
