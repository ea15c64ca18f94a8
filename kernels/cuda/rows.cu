/* rows.cu - norms and rotary places: one warp per row (or head), float inside.
 *
 * Memory bound: each reads a row once from memory (the later passes find it in L1) and writes it
 * once, 16 bytes a lane where the views allow. */
#include "kernels/cuda/cuda.cuh"

enum { WARPS = 4, LANES = 32 };

/* N neighbours of a row at once: N * sizeof(T) is 16 bytes, or N is 1. */
template <class T, int N> struct alignas(N == 1 ? sizeof(T) : 16) pack { T v[N]; };

/* 16-byte steps need rows that begin and end on 16 bytes. */
static bool wide(struct taca_mat m) {
    const int64_t n = 16 / (int64_t)taca_dtype_bytes(m.dtype);
    return m.cols % n == 0 && m.ld % n == 0 && (uintptr_t)m.data % 16 == 0;
}

template <class T, int N, class F>
static __device__ void each(const T *row, int64_t cols, int lane, F f) {
    for (int64_t i = (int64_t)lane * N; i < cols; i += LANES * N) {
        pack<T, N> p = *(const pack<T, N> *)(row + i);
        for (int j = 0; j < N; j++) f(i + j, to_float(p.v[j]));
    }
}

/* y_i = f(i, x_i), x and y may be the same row; y's type may be of another size. */
template <class Y, class X, int N, class F>
static __device__ void map_row(Y *y, const X *x, int64_t cols, int lane, F f) {
    for (int64_t i = (int64_t)lane * N; i < cols; i += LANES * N) {
        pack<X, N> p = *(const pack<X, N> *)(x + i);
        for (int j = 0; j < N; j++) y[i + j] = from_float<Y>(f(i + j, to_float(p.v[j])));
    }
}

struct moments {
    float mean, inverse; /* 1 / sqrt(var + eps) */
};
template <class X, int N>
static __device__ moments measure(const X *x, int64_t cols, int lane, float eps) {
    float sum = 0, squares = 0;
    each<X, N>(x, cols, lane, [&](int64_t, float v) { sum += v; });
    const float mean = warp_sum(sum) / (float)cols;
    each<X, N>(x, cols, lane, [&](int64_t, float v) { squares += (v - mean) * (v - mean); });
    return {mean, rsqrtf(warp_sum(squares) / (float)cols + eps)};
}

template <class X, int N>
static __device__ float inverse_rms(const X *x, int64_t cols, int lane, float eps) {
    float squares = 0;
    each<X, N>(x, cols, lane, [&](int64_t, float v) { squares += v * v; });
    return rsqrtf(warp_sum(squares) / (float)cols + eps);
}

/* ---- kernels --------------------------------------------------------------------------------- */

/* A warp's row; -1 past the end. */
static __device__ int64_t my_row(int64_t rows) {
    int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / LANES;
    return r < rows ? r : -1;
}

template <class Y, class X, int N>
static __global__ void layer_norm_kernel(struct taca_mat y, struct taca_mat x, const float *gain,
                                         const float *bias, float eps) {
    const int64_t r = my_row(x.rows);
    const int lane = (int)threadIdx.x % LANES;
    if (r < 0) return;
    const X *in = (const X *)x.data + r * x.ld;
    const moments m = measure<X, N>(in, x.cols, lane, eps);
    map_row<Y, X, N>((Y *)y.data + r * y.ld, in, x.cols, lane, [&](int64_t i, float v) {
        return (v - m.mean) * m.inverse * (gain ? gain[i] : 1) + (bias ? bias[i] : 0);
    });
}

template <class Y, class X, int N>
static __global__ void norm_modulate_kernel(struct taca_mat y, struct taca_mat x,
                                            struct taca_mat shift, struct taca_mat scale,
                                            const int32_t *seg_of_row, float eps) {
    const int64_t r = my_row(x.rows);
    const int lane = (int)threadIdx.x % LANES;
    if (r < 0) return;
    const int64_t s = seg_of_row[r];
    const X *in = (const X *)x.data + r * x.ld;
    const float *by = (const float *)scale.data + s * scale.ld;
    const float *plus = (const float *)shift.data + s * shift.ld;
    const moments m = measure<X, N>(in, x.cols, lane, eps);
    map_row<Y, X, N>((Y *)y.data + r * y.ld, in, x.cols, lane, [&](int64_t i, float v) {
        return (v - m.mean) * m.inverse * (1 + by[i]) + plus[i];
    });
}

template <class Y, class X, int N>
static __global__ void rms_norm_kernel(struct taca_mat y, struct taca_mat x, const float *gain,
                                       float eps) {
    const int64_t r = my_row(x.rows);
    const int lane = (int)threadIdx.x % LANES;
    if (r < 0) return;
    const X *in = (const X *)x.data + r * x.ld;
    const float inverse = inverse_rms<X, N>(in, x.cols, lane, eps);
    map_row<Y, X, N>((Y *)y.data + r * y.ld, in, x.cols, lane,
                     [&](int64_t i, float v) { return v * inverse * gain[i]; });
}

/* A warp per head of each row, in place. */
template <class X, int N>
static __global__ void head_rms_norm_kernel(struct taca_mat x, const float *gain, int64_t d,
                                            float eps) {
    const int64_t heads = x.cols / d, k = my_row(x.rows * heads);
    const int lane = (int)threadIdx.x % LANES;
    if (k < 0) return;
    X *head = (X *)x.data + k / heads * x.ld + k % heads * d;
    const float inverse = inverse_rms<X, N>(head, d, lane, eps);
    map_row<X, X, N>(head, head, d, lane,
                     [&](int64_t i, float v) { return v * inverse * gain[i]; });
}

/* A warp per row: pair p of every head turns by the row's angle p. */
template <class X> static __global__ void rope_kernel(struct taca_mat x, struct taca_mat table) {
    const int64_t r = my_row(x.rows), half = table.cols / 2;
    if (r < 0) return;
    X *row = (X *)x.data + r * x.ld;
    const float *angles = (const float *)table.data + r * table.ld;
    for (int64_t k = threadIdx.x % LANES; k < x.cols / 2; k += LANES) {
        const float c = angles[k % half], s = angles[half + k % half];
        const float a = to_float(row[2 * k]), b = to_float(row[2 * k + 1]);
        row[2 * k] = from_float<X>(a * c - b * s);
        row[2 * k + 1] = from_float<X>(b * c + a * s);
    }
}

/* ---- ops ------------------------------------------------------------------------------------- */

/* f(y's pointer type, x's, integral constant N) */
template <class F> static void by_width(struct taca_mat y, struct taca_mat x, bool w, F f) {
    by_dtypes(y.dtype, x.dtype, [&](auto *a, auto *b) {
        if (w)
            f(a, b, std::integral_constant<int, (int)(16 / sizeof *b)>());
        else
            f(a, b, std::integral_constant<int, 1>());
    });
}

void cuda_layer_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                     const float *gain, const float *bias, float eps) {
    struct cuda *c = cuda_of(b);
    by_width(y, x, wide(x), [&](auto *p, auto *q, auto n) {
        launch(layer_norm_kernel<element<decltype(p)>, element<decltype(q)>, decltype(n)::value>,
               blocks_for(x.rows, WARPS), WARPS * LANES, 0, c->stream, y, x, gain, bias, eps);
    });
    (void)cuda_launched(c, "layer_norm");
}

void cuda_norm_modulate(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                        struct taca_mat shift, struct taca_mat scale, const int32_t *seg_of_row,
                        float eps) {
    struct cuda *c = cuda_of(b);
    by_width(y, x, wide(x), [&](auto *p, auto *q, auto n) {
        launch(norm_modulate_kernel<element<decltype(p)>, element<decltype(q)>, decltype(n)::value>,
               blocks_for(x.rows, WARPS), WARPS * LANES, 0, c->stream, y, x, shift, scale,
               seg_of_row, eps);
    });
    (void)cuda_launched(c, "norm_modulate");
}

void cuda_rms_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x, const float *gain,
                   float eps) {
    struct cuda *c = cuda_of(b);
    by_width(y, x, wide(x), [&](auto *p, auto *q, auto n) {
        launch(rms_norm_kernel<element<decltype(p)>, element<decltype(q)>, decltype(n)::value>,
               blocks_for(x.rows, WARPS), WARPS * LANES, 0, c->stream, y, x, gain, eps);
    });
    (void)cuda_launched(c, "rms_norm");
}

void cuda_head_rms_norm(struct taca_backend *b, struct taca_mat x, const struct taca_vec *gain,
                        float eps) {
    struct cuda *c = cuda_of(b);
    struct taca_mat head = x;
    head.cols = gain->n; /* heads begin on 16 bytes when the first two do */
    by_width(x, x, wide(head), [&](auto *p, auto *, auto n) {
        launch(head_rms_norm_kernel<element<decltype(p)>, decltype(n)::value>,
               blocks_for(x.rows * (x.cols / gain->n), WARPS), WARPS * LANES, 0, c->stream, x,
               gain->data, gain->n, eps);
    });
    (void)cuda_launched(c, "head_rms_norm");
}

void cuda_rope(struct taca_backend *b, struct taca_mat x, struct taca_mat table) {
    struct cuda *c = cuda_of(b);
    by_dtype(x.dtype, [&](auto *p) {
        launch(rope_kernel<element<decltype(p)>>, blocks_for(x.rows, WARPS), WARPS * LANES, 0,
               c->stream, x, table);
    });
    (void)cuda_launched(c, "rope");
}
