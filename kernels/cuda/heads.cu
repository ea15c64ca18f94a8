/* heads.cu - queries and keys before attention: norm and rotary place of each head, in place.
 *
 * Memory bound: a head is read and written once, 16 bytes a thread. A block has one row of q and of
 * k; a thread keeps the gain and the angles of its place in a head and goes from head to head.
 * Heads that fill no such group of threads, and views that do not begin on 16 bytes, take a warp a
 * head and are read twice. */
#include "kernels/cuda/cuda.cuh"

enum { LANES = 32, BLOCK = 128 };

/* What the heads of one matrix meet; gain NULL: no norm. */
struct head_norm {
    const float *gain;
    float eps;
};

/* The sum over T neighbouring lanes, in each of them. */
template <int T> static __device__ __forceinline__ float sum_over(float x) {
#pragma unroll
    for (int m = T / 2; m; m >>= 1) x += __shfl_xor_sync(~0u, x, m);
    return x;
}

/* (a, b) turned by an angle of cosine c and sine s */
static __device__ __forceinline__ void turn(float &a, float &b, float c, float s) {
    const float x = a;
    a = x * c - b * s;
    b = b * c + x * s;
}

/* What a thread keeps: N neighbours' gains, and the angles of their pairs. */
template <int N> struct angles { pack<float, N / 2> c, s; };

/* All heads of a row, T threads with N values each. Lanes without a head go along, for the sums. */
template <class X, int N, int T>
static __device__ __forceinline__ void run_row(X *row, int heads, struct head_norm w,
                                               const angles<N> *turned) {
    const int mine = (int)threadIdx.x / T, at = (int)threadIdx.x % T * N;
    pack<float, N> gain;
    if (w.gain) gain = *(const pack<float, N> *)(w.gain + at);
    for (int first = 0; first < heads; first += BLOCK / T) {
        const bool there = first + mine < heads;
        pack<X, N> *to = (pack<X, N> *)(row + (first + mine) * (T * N) + at), p = {};
        float v[N], sum = 0;
        if (there) p = *to;
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = to_float(p.v[j]), sum += v[j] * v[j];
        if (w.gain) {
            const float inverse = rsqrtf(sum_over<T>(sum) / (T * N) + w.eps);
#pragma unroll
            for (int j = 0; j < N; j++) v[j] = v[j] * inverse * gain.v[j];
        }
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            if (turned) turn(v[j], v[j + 1], turned->c.v[j / 2], turned->s.v[j / 2]);
            p.v[j] = from_float<X>(v[j]);
            p.v[j + 1] = from_float<X>(v[j + 1]);
        }
        if (there) *to = p;
    }
}

template <class X, int N, int T>
static __global__ void __launch_bounds__(BLOCK)
    heads_kernel(struct taca_mat q, struct taca_mat k, struct head_norm wq, struct head_norm wk,
                 struct taca_mat table) {
    constexpr int D = T * N;
    const int64_t r = blockIdx.x;
    const int heads = (int)q.cols / D, at = (int)threadIdx.x % T * (N / 2);
    const float *angle = (const float *)table.data + r * table.ld;
    angles<N> kept, *turned = nullptr;
    if (table.cols) {
        kept.c = *(const pack<float, N / 2> *)(angle + at);
        kept.s = *(const pack<float, N / 2> *)(angle + D / 2 + at);
        turned = &kept;
    }
    run_row<X, N, T>((X *)q.data + r * q.ld, heads, wq, turned);
    run_row<X, N, T>((X *)k.data + r * k.ld, heads, wk, turned);
}

/* A warp per head of any width: the first half of the grid has q's, the second k's. */
template <class X>
static __global__ void __launch_bounds__(BLOCK)
    any_heads_kernel(struct taca_mat q, struct taca_mat k, struct head_norm wq, struct head_norm wk,
                     struct taca_mat table, int64_t d) {
    const int64_t heads = q.cols / d, n = q.rows * heads;
    const int64_t i = (int64_t)blockIdx.x * (BLOCK / LANES) + threadIdx.x / LANES;
    const int lane = (int)threadIdx.x % LANES;
    if (i >= 2 * n) return;
    const struct taca_mat m = i < n ? q : k;
    const struct head_norm w = i < n ? wq : wk;
    const int64_t r = i % n / heads;
    X *head = (X *)m.data + r * m.ld + i % heads * d;
    const float *angle = (const float *)table.data + r * table.ld;
    float sum = 0, inverse = 1;
    for (int64_t c = lane; c < d; c += LANES) sum += to_float(head[c]) * to_float(head[c]);
    if (w.gain) inverse = rsqrtf(sum_over<LANES>(sum) / (float)d + w.eps);
    for (int64_t c = 2 * lane; c < d; c += 2 * LANES) {
        const bool pair = c + 1 < d;
        float a = to_float(head[c]), b = pair ? to_float(head[c + 1]) : 0;
        if (w.gain) a = a * inverse * w.gain[c], b = pair ? b * inverse * w.gain[c + 1] : 0;
        if (table.cols) turn(a, b, angle[c / 2], angle[d / 2 + c / 2]);
        head[c] = from_float<X>(a);
        if (pair) head[c + 1] = from_float<X>(b);
    }
}

/* Rows on 16 bytes; gains and angles are read so, too. */
static bool wide(struct taca_mat m) {
    return m.ld * (int64_t)taca_dtype_bytes(m.dtype) % 16 == 0 && (uintptr_t)m.data % 16 == 0;
}

void cuda_qk_norm_rope(struct taca_backend *b, struct taca_mat q, struct taca_mat k,
                       const struct taca_qk *w, int64_t d) {
    struct cuda *c = cuda_of(b);
    const struct head_norm wq = {w->gain_q ? w->gain_q->data : nullptr, w->eps};
    const struct head_norm wk = {w->gain_k ? w->gain_k->data : nullptr, w->eps};
    const bool packs = wide(q) && wide(k) && wide(w->table) && (uintptr_t)wq.gain % 16 == 0 &&
                       (uintptr_t)wk.gain % 16 == 0;
    by_dtype(q.dtype, [&](auto *p) {
        typedef element<decltype(p)> X;
        constexpr int N = 16 / (int)sizeof(X);
        void (*kernel)(struct taca_mat, struct taca_mat, struct head_norm, struct head_norm,
                       struct taca_mat) = nullptr;
        if (packs && d == 8 * N) kernel = heads_kernel<X, N, 8>;
        if (packs && d == 16 * N) kernel = heads_kernel<X, N, 16>;
        if (packs && d == 32 * N) kernel = heads_kernel<X, N, 32>;
        if (kernel)
            launch(kernel, (unsigned)q.rows, BLOCK, 0, c->stream, q, k, wq, wk, w->table);
        else
            launch(any_heads_kernel<X>, blocks_for(2 * q.rows * (q.cols / d), BLOCK / LANES), BLOCK,
                   0, c->stream, q, k, wq, wk, w->table, d);
    });
    (void)cuda_launched(c, "qk_norm_rope");
}
