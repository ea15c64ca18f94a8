/* elementwise.cu - ops whose values know only their own place: a thread takes eight neighbours
 * where views allow, else one, grid-stride. Memory bound. */
#include "kernels/cuda/cuda.cuh"

enum { THREADS = 256 };

/* f(row, first column) for every N neighbours of a [rows, cols] matrix: one launch for all of them.
 * Few matrices have so many that 32 bits do not count them, and dividing those is quick. */
template <int N, class F> static __device__ void each_pack(int64_t rows, int64_t cols, F f) {
    const int64_t packs = rows * (cols / N), step = (int64_t)gridDim.x * blockDim.x;
    const int64_t first = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (packs <= 0x7fffffff) {
        const unsigned across = (unsigned)(cols / N);
        for (int64_t i = first; i < packs; i += step)
            f((int64_t)((unsigned)i / across), (int64_t)((unsigned)i % across) * N);
    } else {
        for (int64_t i = first; i < packs; i += step) f(i / (cols / N), i % (cols / N) * N);
    }
}

/* Enough blocks to fill the device, no more than there is work for. */
static dim3 grid_for(const struct cuda *c, int64_t packs) {
    const unsigned wanted = blocks_for(packs, THREADS), most = (unsigned)c->sms * 16;
    return dim3(wanted < most ? wanted : most);
}

/* N neighbours as floats, and back */
template <int N> struct values { float v[N]; };
template <class T, int N>
static __device__ __forceinline__ values<N> get(struct taca_mat m, int64_t r, int64_t i) {
    const pack<T, N> p = *(const pack<T, N> *)((const T *)m.data + r * m.ld + i);
    values<N> x;
#pragma unroll
    for (int j = 0; j < N; j++) x.v[j] = to_float(p.v[j]);
    return x;
}
template <class T, int N>
static __device__ __forceinline__ void put(struct taca_mat m, int64_t r, int64_t i, values<N> x) {
    pack<T, N> p;
#pragma unroll
    for (int j = 0; j < N; j++) p.v[j] = from_float<T>(x.v[j]);
    *(pack<T, N> *)((T *)m.data + r * m.ld + i) = p;
}

/* ---- rows of tokens -------------------------------------------------------------------------- */

template <class Y, class X, int N>
static __global__ void activate_kernel(struct taca_mat y, struct taca_mat x, enum taca_act act) {
    each_pack<N>(y.rows, y.cols, [&](int64_t r, int64_t i) {
        values<N> a = get<X, N>(x, r, i);
#pragma unroll
        for (int j = 0; j < N; j++) a.v[j] = act_of(a.v[j], act);
        put<Y, N>(y, r, i, a);
    });
}

template <class Y, int N>
static __global__ void gate_add_kernel(struct taca_mat x, struct taca_mat y, struct taca_mat gate,
                                       const int32_t *seg_of_row) {
    each_pack<N>(x.rows, x.cols, [&](int64_t r, int64_t i) {
        const values<N> a = get<Y, N>(y, r, i), g = get<float, N>(gate, seg_of_row[r], i);
        values<N> sum = get<float, N>(x, r, i);
#pragma unroll
        for (int j = 0; j < N; j++) sum.v[j] += g.v[j] * a.v[j];
        put<float, N>(x, r, i, sum);
    });
}

/* MULTIPLY: y = a o m, else y = a + m. m's dtype is looked up: it is the rare third type. */
template <class Y, class A, bool MULTIPLY, int N>
static __global__ void combine_kernel(struct taca_mat y, struct taca_mat a, struct taca_mat m) {
    each_pack<N>(y.rows, y.cols, [&](int64_t r, int64_t i) {
        values<N> u = get<A, N>(a, r, i), v;
        v = m.dtype == TACA_BF16 ? get<bf16, N>(m, r, i) : get<float, N>(m, r, i);
#pragma unroll
        for (int j = 0; j < N; j++) u.v[j] = MULTIPLY ? u.v[j] * v.v[j] : u.v[j] + v.v[j];
        put<Y, N>(y, r, i, u);
    });
}

/* Rows that begin and end on 16 bytes go WIDE at a time, others value by value. */
static constexpr int WIDE = 8;
static bool wide(struct taca_mat m) {
    return m.cols % WIDE == 0 && m.ld * (int64_t)taca_dtype_bytes(m.dtype) % 16 == 0 &&
           (uintptr_t)m.data % 16 == 0;
}
/* f(integral constant N) */
template <class F> static void by_width(bool w, F f) {
    if (w)
        f(std::integral_constant<int, WIDE>());
    else
        f(std::integral_constant<int, 1>());
}

void cuda_activate(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                   enum taca_act act) {
    struct cuda *c = cuda_of(b);
    by_dtypes(y.dtype, x.dtype, [&](auto *p, auto *q) {
        by_width(wide(y) && wide(x), [&](auto n) {
            launch(activate_kernel<element<decltype(p)>, element<decltype(q)>, n()>,
                   grid_for(c, y.rows * y.cols / n()), THREADS, 0, c->stream, y, x, act);
        });
    });
    (void)cuda_launched(c, "activate");
}

void cuda_gate_add(struct taca_backend *b, struct taca_mat x, struct taca_mat y,
                   struct taca_mat gate, const int32_t *seg_of_row) {
    struct cuda *c = cuda_of(b);
    by_dtype(y.dtype, [&](auto *p) {
        by_width(wide(x) && wide(y) && wide(gate), [&](auto n) {
            launch(gate_add_kernel<element<decltype(p)>, n()>, grid_for(c, x.rows * x.cols / n()),
                   THREADS, 0, c->stream, x, y, gate, seg_of_row);
        });
    });
    (void)cuda_launched(c, "gate_add");
}

template <bool MULTIPLY>
static void combine(struct cuda *c, struct taca_mat y, struct taca_mat a, struct taca_mat m) {
    by_dtypes(y.dtype, a.dtype, [&](auto *p, auto *q) {
        by_width(wide(y) && wide(a) && wide(m), [&](auto n) {
            launch(combine_kernel<element<decltype(p)>, element<decltype(q)>, MULTIPLY, n()>,
                   grid_for(c, y.rows * y.cols / n()), THREADS, 0, c->stream, y, a, m);
        });
    });
    (void)cuda_launched(c, MULTIPLY ? "multiply" : "add");
}

void cuda_add(struct taca_backend *b, struct taca_mat y, struct taca_mat a, struct taca_mat m) {
    combine<false>(cuda_of(b), y, a, m);
}

void cuda_multiply(struct taca_backend *b, struct taca_mat y, struct taca_mat a,
                   struct taca_mat m) {
    combine<true>(cuda_of(b), y, a, m);
}

/* ---- latents --------------------------------------------------------------------------------- */

/* v = u + g (v - u); x += dsigma v; without u: x += dsigma v */
static __global__ void cfg_euler_kernel(float *x, float *v, const float *u, float guidance,
                                        float dsigma, int64_t n) {
    each_pack<1>(1, n, [&](int64_t, int64_t i) {
        float w = v[i];
        if (u) w = u[i] + guidance * (w - u[i]);
        x[i] += dsigma * w;
        v[i] = w;
    });
}

/* y = a x + d (+ e y) */
static __global__ void affine_kernel(float *y, const float *x, float a, float d, float e,
                                     int64_t n) {
    each_pack<1>(1, n, [&](int64_t, int64_t i) {
        const float kept = e == 0 ? d : d + e * y[i];
        y[i] = a * x[i] + kept;
    });
}

static __global__ void blend_kernel(float *y, const float *x, const float *m, int64_t c,
                                    int64_t plane) {
    each_pack<1>(c, plane, [&](int64_t ch, int64_t i) {
        const int64_t k = ch * plane + i;
        y[k] = m[i] * y[k] + (1 - m[i]) * x[k];
    });
}

static int64_t count(struct taca_chw m) { return m.c * m.h * m.w; }

void cuda_cfg_euler(struct taca_backend *b, struct taca_chw x, struct taca_chw v, struct taca_chw u,
                    float guidance, float dsigma) {
    struct cuda *c = cuda_of(b);
    launch(cfg_euler_kernel, grid_for(c, count(x)), THREADS, 0, c->stream, x.data, v.data, u.data,
           guidance, dsigma, count(x));
    (void)cuda_launched(c, "cfg_euler");
}

void cuda_axpb(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float d) {
    struct cuda *c = cuda_of(b);
    launch(affine_kernel, grid_for(c, count(y)), THREADS, 0, c->stream, y.data, x.data, a, d, 0.0f,
           count(y));
    (void)cuda_launched(c, "axpb");
}

void cuda_axpby(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float d) {
    struct cuda *c = cuda_of(b);
    launch(affine_kernel, grid_for(c, count(y)), THREADS, 0, c->stream, y.data, x.data, a, 0.0f, d,
           count(y));
    (void)cuda_launched(c, "axpby");
}

void cuda_blend(struct taca_backend *b, struct taca_chw y, struct taca_chw x, struct taca_chw m) {
    struct cuda *c = cuda_of(b);
    launch(blend_kernel, grid_for(c, count(y)), THREADS, 0, c->stream, y.data, x.data, m.data, y.c,
           y.h * y.w);
    (void)cuda_launched(c, "blend");
}
