/* elementwise.cu - ops whose values know only their own place: one thread per value, grid-stride.
 * Memory bound. */
#include "kernels/cuda/cuda.cuh"

enum { THREADS = 256 };

/* f(row, column) for every value of a [rows, cols] matrix: one launch for all of them. */
template <class F> static __device__ void each_value(int64_t rows, int64_t cols, F f) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * cols; i += step)
        f(i / cols, i % cols);
}

/* Enough blocks to fill the device, no more than there is work for. */
static dim3 grid_for(const struct cuda *c, int64_t values) {
    const unsigned wanted = blocks_for(values, THREADS), most = (unsigned)c->sms * 16;
    return dim3(wanted < most ? wanted : most);
}

template <class T> static __device__ T *at(struct taca_mat m, int64_t r, int64_t i) {
    return (T *)m.data + r * m.ld + i;
}

/* ---- rows of tokens -------------------------------------------------------------------------- */

template <class Y, class X>
static __global__ void activate_kernel(struct taca_mat y, struct taca_mat x, enum taca_act act) {
    each_value(y.rows, y.cols, [&](int64_t r, int64_t i) {
        *at<Y>(y, r, i) = from_float<Y>(act_of(to_float(*at<X>(x, r, i)), act));
    });
}

template <class Y>
static __global__ void gate_add_kernel(struct taca_mat x, struct taca_mat y, struct taca_mat gate,
                                       const int32_t *seg_of_row) {
    each_value(x.rows, x.cols, [&](int64_t r, int64_t i) {
        *at<float>(x, r, i) += *at<float>(gate, seg_of_row[r], i) * to_float(*at<Y>(y, r, i));
    });
}

/* MULTIPLY: y = a o m, else y = a + m. m's dtype is looked up: it is the rare third type. */
template <class Y, class A, bool MULTIPLY>
static __global__ void combine_kernel(struct taca_mat y, struct taca_mat a, struct taca_mat m) {
    each_value(y.rows, y.cols, [&](int64_t r, int64_t i) {
        const float u = to_float(*at<A>(a, r, i));
        const float v = m.dtype == TACA_BF16 ? to_float(*at<bf16>(m, r, i)) : *at<float>(m, r, i);
        *at<Y>(y, r, i) = from_float<Y>(MULTIPLY ? u * v : u + v);
    });
}

void cuda_activate(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                   enum taca_act act) {
    struct cuda *c = cuda_of(b);
    by_dtypes(y.dtype, x.dtype, [&](auto *p, auto *q) {
        launch(activate_kernel<element<decltype(p)>, element<decltype(q)>>,
               grid_for(c, y.rows * y.cols), THREADS, 0, c->stream, y, x, act);
    });
    (void)cuda_launched(c, "activate");
}

void cuda_gate_add(struct taca_backend *b, struct taca_mat x, struct taca_mat y,
                   struct taca_mat gate, const int32_t *seg_of_row) {
    struct cuda *c = cuda_of(b);
    by_dtype(y.dtype, [&](auto *p) {
        launch(gate_add_kernel<element<decltype(p)>>, grid_for(c, x.rows * x.cols), THREADS, 0,
               c->stream, x, y, gate, seg_of_row);
    });
    (void)cuda_launched(c, "gate_add");
}

template <bool MULTIPLY>
static void combine(struct cuda *c, struct taca_mat y, struct taca_mat a, struct taca_mat m) {
    by_dtypes(y.dtype, a.dtype, [&](auto *p, auto *q) {
        launch(combine_kernel<element<decltype(p)>, element<decltype(q)>, MULTIPLY>,
               grid_for(c, y.rows * y.cols), THREADS, 0, c->stream, y, a, m);
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
    each_value(1, n, [&](int64_t, int64_t i) {
        float w = v[i];
        if (u) w = u[i] + guidance * (w - u[i]);
        x[i] += dsigma * w;
        v[i] = w;
    });
}

/* y = a x + d (+ e y) */
static __global__ void affine_kernel(float *y, const float *x, float a, float d, float e,
                                     int64_t n) {
    each_value(1, n, [&](int64_t, int64_t i) {
        const float kept = e == 0 ? d : d + e * y[i];
        y[i] = a * x[i] + kept;
    });
}

static __global__ void blend_kernel(float *y, const float *x, const float *m, int64_t c,
                                    int64_t plane) {
    each_value(c, plane, [&](int64_t ch, int64_t i) {
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
