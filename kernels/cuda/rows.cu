/* rows.cu - norms of rows: a warp per short row, a block per long one; float inside.
 *
 * Memory bound: a row is read once, kept in registers while it is measured, and written once, 16
 * bytes a thread. Rows of more than BLOCK * KEPT values, and views that do not begin on 16 bytes,
 * are read again for each pass. */
#include "kernels/cuda/fp8.cuh"

enum {
    WARPS = 4,
    LANES = 32,
    BLOCK = WARPS * LANES,
    KEPT = 32 /* values of a row a thread keeps */
};

struct sums {
    float part[WARPS];
};

/* What each warp has to say, for all of the block. */
static __device__ const sums *exchange(float x) {
    sums *s = dynamic_shared<sums>();
    __syncthreads(); /* the last ones have been read */
    if (threadIdx.x % LANES == 0) s->part[threadIdx.x / LANES] = x;
    __syncthreads();
    return s;
}

/* The sum and the maximum over T threads, in each of them. */
template <int T> static __device__ float sum_over(float x) {
    x = warp_sum(x);
    if (T == LANES) return x;
    const sums *s = exchange(x);
    x = 0;
    for (int i = 0; i < WARPS; i++) x += s->part[i];
    return x;
}
template <int T> static __device__ float max_over(float x) {
    x = warp_max(x);
    if (T == LANES) return x;
    const sums *s = exchange(x);
    for (int i = 0; i < WARPS; i++) x = fmaxf(x, s->part[i]);
    return x;
}

/* One row, N neighbours at a time, shared by T threads; IN_REGISTERS when cols <= T * KEPT. */
template <class X, int N, int T, bool IN_REGISTERS> struct row {
    const X *x;
    int64_t cols;
    int at; /* this thread's place among the T */
    pack<X, N> kept[IN_REGISTERS ? KEPT / N : 1];
    static constexpr bool KEEPS = IN_REGISTERS && std::is_same<X, float>::value;

    __device__ row(const X *from, int64_t n) : x(from), cols(n), at((int)threadIdx.x % T) {
        if constexpr (IN_REGISTERS) {
#pragma unroll
            for (int i = 0; i < KEPT / N; i++)
                if ((at + i * T) * N < cols)
                    kept[i] = *(const pack<X, N> *)(x + (int64_t)(at + i * T) * N);
        }
    }
    /* f(first column, the N values); what f makes of them stays where the row KEEPS it */
    template <class F> __device__ __forceinline__ void each(F f) {
        if constexpr (IN_REGISTERS) {
#pragma unroll
            for (int i = 0; i < KEPT / N; i++)
                if ((at + i * T) * N < cols) give(f, (at + i * T) * N, kept[i]);
        } else {
            for (int64_t k = (int64_t)at * N; k < cols; k += T * N) {
                pack<X, N> p = *(const pack<X, N> *)(x + k);
                give(f, k, p);
            }
        }
    }
    template <class F> static __device__ __forceinline__ void give(F f, int64_t k, pack<X, N> &p) {
        float v[N];
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = to_float(p.v[j]);
        f(k, v);
        if constexpr (KEEPS) {
#pragma unroll
            for (int j = 0; j < N; j++) p.v[j] = v[j];
        }
    }
    /* x += gate o y, here and in memory, where each thread finds its own again */
    __device__ __forceinline__ void add(X *to, const X *y, const float *gate) {
        if constexpr (IN_REGISTERS) {
#pragma unroll
            for (int i = 0; i < KEPT / N; i++)
                if ((at + i * T) * N < cols) add_pack(to, y, gate, (at + i * T) * N, kept[i]);
        } else {
            for (int64_t k = (int64_t)at * N; k < cols; k += T * N) {
                pack<X, N> p = *(const pack<X, N> *)(to + k);
                add_pack(to, y, gate, k, p);
            }
        }
    }
    static __device__ __forceinline__ void add_pack(X *to, const X *y, const float *gate, int64_t k,
                                                    pack<X, N> &p) {
        const pack<X, N> a = *(const pack<X, N> *)(y + k);
        const pack<float, N> g = *(const pack<float, N> *)(gate + k);
#pragma unroll
        for (int j = 0; j < N; j++) p.v[j] += g.v[j] * a.v[j];
        *(pack<X, N> *)(to + k) = p;
    }
    __device__ float sum(bool squares, float about) {
        float s = 0;
        each([&](int64_t, const float(&v)[N]) {
#pragma unroll
            for (int j = 0; j < N; j++) s += squares ? (v[j] - about) * (v[j] - about) : v[j];
        });
        return sum_over<T>(s);
    }
};

template <class Y, int N> static __device__ void put(Y *to, const float (&v)[N]) {
    pack<Y, N> p;
#pragma unroll
    for (int j = 0; j < N; j++) p.v[j] = from_float<Y>(v[j]);
    *(pack<Y, N> *)to = p;
}
/* N values of a vector, `otherwise` where there is none */
template <int N> static __device__ pack<float, N> some(const float *v, int64_t k, float otherwise) {
    if (v) return *(const pack<float, N> *)(v + k);
    pack<float, N> p;
    for (int j = 0; j < N; j++) p.v[j] = otherwise;
    return p;
}

/* What f makes of a row, as Y. */
template <class Y, class X, int N, int T, bool K, class F>
static __device__ __forceinline__ void put_row(Y *y, row<X, N, T, K> &r, F f) {
    r.each([&](int64_t k, float(&v)[N]) {
        f(k, v);
        put<Y, N>(y + k, v);
    });
}

/* The same in 8 bits, by way of bf16 like rows that were stored in between; the scale goes behind
 * them. */
template <class X, int N, int T, bool K, class F>
static __device__ __forceinline__ void put_row(e4m3 *y, row<X, N, T, K> &r, F f) {
    float most = 0;
    auto last = [&](int64_t k, float(&v)[N]) {
        f(k, v);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = to_float(from_float<bf16>(v[j]));
    };
    r.each([&](int64_t k, float(&v)[N]) {
        last(k, v);
#pragma unroll
        for (int j = 0; j < N; j++) most = fmaxf(most, fabsf(v[j]));
    });
    const float scale = e4m3_scale(max_over<T>(most));
    r.each([&](int64_t k, float(&v)[N]) {
        pack<e4m3, N> p;
        if constexpr (!row<X, N, T, K>::KEEPS) last(k, v);
#pragma unroll
        for (int j = 0; j < N; j++) p.v[j] = to_e4m3(v[j], scale);
        *(pack<e4m3, N> *)(y + k) = p;
    });
    if (r.at == 0) *(float *)(y + r.cols) = scale;
}

/* ---- kernels --------------------------------------------------------------------------------- */

/* The row of these T threads; -1 past the end. */
template <int T> static __device__ int64_t my_row(int64_t rows) {
    const int64_t r = (int64_t)blockIdx.x * (BLOCK / T) + threadIdx.x / T;
    return r < rows ? r : -1;
}

/* y = (x - mean) / sqrt(var + eps) * (plus + by) + to */
template <class Y, class X, int N, int T, bool K>
static __device__ __forceinline__ void normalize(Y *y, row<X, N, T, K> &r, float eps,
                                                 const float *by, float plus, const float *to) {
    const float mean = r.sum(false, 0) / (float)r.cols;
    const float inverse = rsqrtf(r.sum(true, mean) / (float)r.cols + eps);
    put_row(y, r, [&](int64_t k, float(&v)[N]) {
        const pack<float, N> b = some<N>(by, k, 1), t = some<N>(to, k, 0);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = (v[j] - mean) * inverse * (plus + b.v[j]) + t.v[j];
    });
}

template <class Y, class X, int N, int T, bool K>
static __global__ void layer_norm_kernel(struct taca_mat y, struct taca_mat x, const float *gain,
                                         const float *bias, float eps) {
    const int64_t r = my_row<T>(x.rows);
    if (r < 0) return;
    row<X, N, T, K> mine(at<X>(x, r, 0), x.cols);
    normalize(at<Y>(y, r, 0), mine, eps, gain, 0, bias);
}

template <class Y, class X, int N, int T, bool K>
static __global__ void norm_modulate_kernel(struct taca_mat y, struct taca_mat x,
                                            struct taca_mat shift, struct taca_mat scale,
                                            const int32_t *seg_of_row, float eps) {
    const int64_t r = my_row<T>(x.rows);
    if (r < 0) return;
    const int64_t s = seg_of_row[r];
    row<X, N, T, K> mine(at<X>(x, r, 0), x.cols);
    normalize(at<Y>(y, r, 0), mine, eps, at<float>(scale, s, 0), 1, at<float>(shift, s, 0));
}

template <class H, int N, int T, bool K>
static __global__ void gate_norm_kernel(struct taca_mat h, struct taca_mat x, struct taca_mat y,
                                        struct taca_gate_norm m) {
    const int64_t r = my_row<T>(x.rows);
    if (r < 0) return;
    const int64_t s = m.seg_of_row[r];
    row<float, N, T, K> mine(at<float>(x, r, 0), x.cols);
    mine.add(at<float>(x, r, 0), at<float>(y, r, 0), at<float>(m.gate, s, 0));
    normalize(at<H>(h, r, 0), mine, m.eps, at<float>(m.scale, s, 0), 1, at<float>(m.shift, s, 0));
}

template <class Y, class X, int N, int T, bool K>
static __device__ void scale_by_rms(Y *y, const X *x, int64_t cols, const float *gain, float eps) {
    row<X, N, T, K> r(x, cols);
    const float inverse = rsqrtf(r.sum(true, 0) / (float)cols + eps);
    r.each([&](int64_t k, float(&v)[N]) {
        const pack<float, N> g = some<N>(gain, k, 1);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = v[j] * inverse * g.v[j];
        put<Y, N>(y + k, v);
    });
}

template <class Y, class X, int N, int T, bool K>
static __global__ void rms_norm_kernel(struct taca_mat y, struct taca_mat x, const float *gain,
                                       float eps) {
    const int64_t r = my_row<T>(x.rows);
    if (r < 0) return;
    scale_by_rms<Y, X, N, T, K>((Y *)y.data + r * y.ld, (const X *)x.data + r * x.ld, x.cols, gain,
                                eps);
}

/* ---- ops ------------------------------------------------------------------------------------- */

/* Packs of n values need rows that begin and end on 16 bytes. */
static bool wide(struct taca_mat m, int n) {
    return m.cols % n == 0 && m.ld * (int64_t)taca_dtype_bytes(m.dtype) % 16 == 0 &&
           (uintptr_t)m.data % 16 == 0;
}
static bool wide(const float *v) { return (uintptr_t)v % 16 == 0; }

/* N, T and whether a row is kept, as the constants of a kernel's instance */
template <int PACK, int THREADS, bool REGISTERS> struct plan {
    static constexpr int N = PACK, T = THREADS;
    static constexpr bool K = REGISTERS;
};

/* f(plan, blocks) for so many rows; values that do not come in packs are not kept. */
template <int N, class F> static void by_length(int64_t rows, int64_t cols, F f) {
    constexpr bool K = N > 1;
    if (cols <= LANES * KEPT)
        f(plan<N, LANES, K>(), blocks_for(rows, WARPS));
    else if (cols <= BLOCK * KEPT)
        f(plan<N, BLOCK, K>(), (unsigned)rows);
    else
        f(plan<N, BLOCK, false>(), (unsigned)rows);
}
template <int N, class F> static void by_plan(int64_t rows, int64_t cols, bool packs, F f) {
    if (packs)
        by_length<N>(rows, cols, f);
    else
        by_length<1>(rows, cols, f);
}

void cuda_layer_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                     const float *gain, const float *bias, float eps) {
    struct cuda *c = cuda_of(b);
    by_dtypes(y.dtype, x.dtype, [&](auto *p, auto *q) {
        typedef element<decltype(p)> Y;
        typedef element<decltype(q)> X;
        constexpr int N = 16 / (int)sizeof(X);
        const bool packs = wide(y, N) && wide(x, N) && wide(gain) && wide(bias);
        by_plan<N>(x.rows, x.cols, packs, [&](auto l, unsigned blocks) {
            launch(layer_norm_kernel<Y, X, l.N, l.T, l.K>, blocks, BLOCK, sizeof(sums), c->stream,
                   y, x, gain, bias, eps);
        });
    });
    (void)cuda_launched(c, "layer_norm");
}

/* f(pointers of y's and x's element types); rows in 8 bits come from f32 ones. */
template <class F> static void by_output(struct taca_mat y, struct taca_mat x, F f) {
    if (y.dtype == TACA_U8)
        f((e4m3 *)nullptr, (float *)nullptr);
    else
        by_dtypes(y.dtype, x.dtype, f);
}

void cuda_norm_modulate(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                        struct taca_mat shift, struct taca_mat scale, const int32_t *seg_of_row,
                        float eps) {
    struct cuda *c = cuda_of(b);
    by_output(y, x, [&](auto *p, auto *q) {
        typedef element<decltype(p)> Y;
        typedef element<decltype(q)> X;
        constexpr int N = 16 / (int)sizeof(X);
        const bool packs = wide(y, N) && wide(x, N) && wide(shift, N) && wide(scale, N);
        by_plan<N>(x.rows, x.cols, packs, [&](auto l, unsigned blocks) {
            launch(norm_modulate_kernel<Y, X, l.N, l.T, l.K>, blocks, BLOCK, sizeof(sums),
                   c->stream, y, x, shift, scale, seg_of_row, eps);
        });
    });
    (void)cuda_launched(c, "norm_modulate");
}

void cuda_gate_norm(struct taca_backend *b, struct taca_mat h, struct taca_mat x, struct taca_mat y,
                    const struct taca_gate_norm *m) {
    struct cuda *c = cuda_of(b);
    auto launch_as = [&](auto *p) {
        typedef element<decltype(p)> H;
        constexpr int N = 16 / (int)sizeof(float);
        const bool packs = wide(h, N) && wide(x, N) && wide(y, N) && wide(m->gate, N) &&
                           wide(m->shift, N) && wide(m->scale, N);
        by_plan<N>(x.rows, x.cols, packs, [&](auto l, unsigned blocks) {
            launch(gate_norm_kernel<H, l.N, l.T, l.K>, blocks, BLOCK, sizeof(sums), c->stream, h, x,
                   y, *m);
        });
    };
    if (h.dtype == TACA_U8)
        launch_as((e4m3 *)nullptr);
    else
        by_dtype(h.dtype, launch_as);
    (void)cuda_launched(c, "gate_norm");
}

void cuda_rms_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x, const float *gain,
                   float eps) {
    struct cuda *c = cuda_of(b);
    by_dtypes(y.dtype, x.dtype, [&](auto *p, auto *q) {
        typedef element<decltype(p)> Y;
        typedef element<decltype(q)> X;
        constexpr int N = 16 / (int)sizeof(X);
        const bool packs = wide(y, N) && wide(x, N) && wide(gain);
        by_plan<N>(x.rows, x.cols, packs, [&](auto l, unsigned blocks) {
            launch(rms_norm_kernel<Y, X, l.N, l.T, l.K>, blocks, BLOCK, sizeof(sums), c->stream, y,
                   x, gain, eps);
        });
    });
    (void)cuda_launched(c, "rms_norm");
}
