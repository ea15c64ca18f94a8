/* map.cu - feature maps: upsampling, and the ways in and out of the VAE. */
#include <cstdlib>

#include "kernels/cuda/cuda.cuh"

enum { THREADS = 256 };

template <class Y> static __global__ void chw_to_map_kernel(struct taca_map y, struct taca_chw x) {
    const int64_t k = my_value(), plane = x.h * x.w;
    if (k < plane * x.c) ((Y *)y.data)[k] = from_float<Y>(x.data[k % x.c * plane + k / x.c]);
}

template <class X> static __global__ void map_to_chw_kernel(struct taca_chw y, struct taca_map x) {
    const int64_t k = my_value(), plane = y.h * y.w;
    if (k < plane * y.c) y.data[k % y.c * plane + k / y.c] = to_float(((const X *)x.data)[k]);
}

template <class Y, class X>
static __global__ void upsample2_kernel(struct taca_map y, struct taca_map x) {
    const int64_t k = my_value(), ch = k % y.c, j = k / y.c % y.w, i = k / (y.c * y.w) % y.h;
    const int64_t n = k / (y.c * y.w * y.h);
    if (n >= y.n) return;
    const float v = to_float(((const X *)x.data)[((n * x.h + i / 2) * x.w + j / 2) * x.c + ch]);
    ((Y *)y.data)[k] = from_float<Y>(v);
}

void cuda_chw_to_map(struct taca_backend *b, struct taca_map y, struct taca_chw x) {
    struct cuda *c = cuda_of(b);
    by_dtype(y.dtype, [&](auto *p) {
        launch(chw_to_map_kernel<element<decltype(p)>>, blocks_for(x.c * x.h * x.w, THREADS),
               THREADS, 0, c->stream, y, x);
    });
    (void)cuda_launched(c, "chw_to_map");
}

void cuda_map_to_chw(struct taca_backend *b, struct taca_chw y, struct taca_map x) {
    struct cuda *c = cuda_of(b);
    by_dtype(x.dtype, [&](auto *p) {
        launch(map_to_chw_kernel<element<decltype(p)>>, blocks_for(y.c * y.h * y.w, THREADS),
               THREADS, 0, c->stream, y, x);
    });
    (void)cuda_launched(c, "map_to_chw");
}

void cuda_upsample2(struct taca_backend *b, struct taca_map y, struct taca_map x) {
    struct cuda *c = cuda_of(b);
    by_dtypes(y.dtype, x.dtype, [&](auto *p, auto *q) {
        launch(upsample2_kernel<element<decltype(p)>, element<decltype(q)>>,
               blocks_for(y.n * y.h * y.w * y.c, THREADS), THREADS, 0, c->stream, y, x);
    });
    (void)cuda_launched(c, "upsample2");
}

/* ---- pixels ---------------------------------------------------------------------------------- */

/* *bad becomes 1 when a value is not finite */
template <class X>
static __global__ void rgb8_kernel(uint8_t *dst, const X *x, int64_t n, int *bad) {
    const int64_t k = my_value();
    if (k >= n) return;
    const float v = to_float(x[k]);
    const bool finite = fabsf(v) <= 3.4028234663852886e38f;
    if (!finite) atomicOr(bad, 1);
    const float unit = finite ? fminf(fmaxf(v / 2 + 0.5f, 0), 1) : 0;
    dst[k] = (uint8_t)rintf(255 * unit);
}

void cuda_map_to_rgb8(struct taca_backend *b, uint8_t *pixels, struct taca_map x) {
    struct cuda *c = cuda_of(b);
    const int64_t n = x.h * x.w * x.c;
    int *wrong = (int *)(pixels + taca_rgb8_flag(x.h, x.w));
    b->ops->fill_zero(b, wrong, sizeof *wrong);
    by_dtype(x.dtype, [&](auto *p) {
        launch(rgb8_kernel<element<decltype(p)>>, blocks_for(n, THREADS), THREADS, 0, c->stream,
               pixels, (decltype(p))x.data, n, wrong);
    });
    (void)cuda_launched(c, "map_to_rgb8");
}
