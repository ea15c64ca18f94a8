/* group_norm.cu - group norm over channels-last maps, in three kernels an image.
 *
 * A block takes a chunk of the pixels and measures each channel of it: mean and sum of squares
 * about that mean, the values shifted by the channel's first one so that nothing cancels. One block
 * per group joins the parts in a fixed order. The last kernel is one thread per 16 bytes. Memory
 * bound: the map is read twice and written once. */
#include "kernels/cuda/cuda.cuh"

static constexpr int THREADS = 256;

/* So many values with this mean, and the sum of their squares about it. */
struct part {
    float mean, squares;
};
static __device__ __forceinline__ void join(float &n, part &p, float m, part q) {
    if (m == 0) return;
    const float all = n + m, d = q.mean - p.mean;
    p.mean += d * (m / all);
    p.squares += q.squares + d * d * (n / all) * m;
    n = all;
}

struct norm_call {
    const void *x; /* the image */
    void *y;
    int64_t pixels, c, chunk; /* pixels a block measures */
    int groups, chunks;
    part *parts; /* [chunks, c] */
    part *stats; /* [groups]: mean, and 1 / sqrt(var + eps) for squares */
};

static __device__ __forceinline__ int64_t chunk_end(const norm_call &a, int64_t first) {
    return first + a.chunk < a.pixels ? first + a.chunk : a.pixels;
}

template <int N> struct parts_shared {
    part p[THREADS][N];
    float n[THREADS];
};

/* blockIdx.x: chunk, blockIdx.y: slab of THREADS * N channels. Neighbours in a block have
 * neighbouring channels, what is left of the block goes over pixels. */
template <class X, int N> static __global__ void measure_kernel(norm_call a) {
    parts_shared<N> *s = dynamic_shared<parts_shared<N>>();
    const int packs = (int)(a.c / N), tid = (int)threadIdx.x, first = (int)blockIdx.y * THREADS;
    const int across = packs - first < THREADS ? packs - first : THREADS, down = THREADS / across;
    const int ch = (first + tid % across) * N, lane = tid / across;
    const int64_t begin = (int64_t)blockIdx.x * a.chunk, end = chunk_end(a, begin);
    float pivot[N] = {}, sum[N] = {}, squares[N] = {}, n = 0;
    for (int64_t p = begin + lane; p < end && lane < down; p += down, n += 1) {
        const pack<X, N> v = *(const pack<X, N> *)((const X *)a.x + p * a.c + ch);
#pragma unroll
        for (int j = 0; j < N; j++) {
            if (n == 0) pivot[j] = to_float(v.v[j]);
            const float d = to_float(v.v[j]) - pivot[j];
            sum[j] += d;
            squares[j] += d * d;
        }
    }
    s->n[tid] = n;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const float mean = n > 0 ? sum[j] / n : 0;
        s->p[tid][j] = {pivot[j] + mean, fmaxf(squares[j] - sum[j] * mean, 0)};
    }
    __syncthreads();
    if (tid >= across) return;
    for (int j = 0; j < N; j++) {
        part p = s->p[tid][j];
        float m = s->n[tid];
        for (int k = 1; k < down; k++)
            join(m, p, s->n[k * across + tid], s->p[k * across + tid][j]);
        a.parts[blockIdx.x * a.c + ch + j] = p;
    }
}

struct join_shared {
    part p[THREADS];
    float n[THREADS];
};

/* One block per group. */
static __global__ void join_kernel(norm_call a, float eps) {
    join_shared *s = dynamic_shared<join_shared>();
    const int64_t width = a.c / a.groups, first = blockIdx.x * width;
    const int tid = (int)threadIdx.x;
    part p = {0, 0};
    float n = 0;
    for (int64_t k = tid; k < a.chunks * width; k += THREADS) {
        const int64_t begin = k / width * a.chunk;
        join(n, p, (float)(chunk_end(a, begin) - begin),
             a.parts[k / width * a.c + first + k % width]);
    }
    s->p[tid] = p;
    s->n[tid] = n;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (tid >= half) continue;
        join(s->n[tid], s->p[tid], s->n[tid + half], s->p[tid + half]);
    }
    if (tid == 0) a.stats[blockIdx.x] = {s->p[0].mean, rsqrtf(s->p[0].squares / s->n[0] + eps)};
}

template <class Y, class X, int N>
static __global__ void apply_kernel(norm_call a, const float *gain, const float *bias,
                                    enum taca_act act) {
    const int width = (int)(a.c / a.groups);
    const int64_t packs = a.pixels * a.c / N, step = (int64_t)gridDim.x * THREADS;
    for (int64_t k = (int64_t)blockIdx.x * THREADS + threadIdx.x; k < packs; k += step) {
        const pack<X, N> v = ((const pack<X, N> *)a.x)[k];
        const int ch = (int)(k * N % a.c);
        pack<Y, N> out;
#pragma unroll
        for (int j = 0; j < N; j++) {
            const part s = a.stats[(ch + j) / width];
            const float z = (to_float(v.v[j]) - s.mean) * s.squares;
            out.v[j] = from_float<Y>(
                act_of(z * (gain ? gain[ch + j] : 1) + (bias ? bias[ch + j] : 0), act));
        }
        ((pack<Y, N> *)a.y)[k] = out;
    }
}

/* ---- op -------------------------------------------------------------------------------------- */

struct norm_last { /* what the last kernel wants beside */
    const float *gain, *bias;
    float eps;
    enum taca_act act;
};

template <class Y, class X, int N>
static void normalize(struct cuda *c, const norm_call &a, const norm_last &l) {
    const unsigned slabs = blocks_for(a.c / N, THREADS), most = (unsigned)c->sms * 16;
    const unsigned wanted = blocks_for(a.pixels * a.c / N, THREADS);
    launch(measure_kernel<X, N>, dim3((unsigned)a.chunks, slabs), THREADS, sizeof(parts_shared<N>),
           c->stream, a);
    launch(join_kernel, (unsigned)a.groups, THREADS, sizeof(join_shared), c->stream, a, l.eps);
    launch(apply_kernel<Y, X, N>, wanted < most ? wanted : most, THREADS, 0, c->stream, a, l.gain,
           l.bias, l.act);
}

/* Chunks of at least 64 pixels, enough to fill the device, no more than the parts have room for;
 * the same for an image whatever is beside it. */
static bool split(struct cuda *c, norm_call *a) {
    const size_t room = CUDA_GROUP_BYTES / sizeof(part) - (size_t)a->groups;
    int64_t chunks = (a->pixels + 63) / 64;
    if (chunks > 4 * c->sms) chunks = 4 * c->sms;
    if (chunks > (int64_t)room / a->c) chunks = (int64_t)room / a->c;
    a->stats = (part *)cuda_buf_get(c, &c->out, CUDA_GROUP_BYTES, "group_norm");
    if (!a->stats) return false;
    a->parts = a->stats + a->groups;
    a->chunk = (a->pixels + chunks - 1) / chunks;
    a->chunks = (int)((a->pixels + a->chunk - 1) / a->chunk);
    return true;
}

void cuda_group_norm(struct taca_backend *b, struct taca_map y, struct taca_map x,
                     const float *gain, const float *bias, int groups, float eps,
                     enum taca_act act) {
    struct cuda *c = cuda_of(b);
    norm_call a = {x.data, y.data, x.h * x.w, x.c, 0, groups, 0, NULL, NULL};
    if (!split(c, &a)) return;
    by_dtypes(y.dtype, x.dtype, [&](auto *p, auto *q) {
        typedef element<decltype(p)> Y;
        typedef element<decltype(q)> X;
        constexpr int N = 16 / (int)sizeof(X);
        const bool wide =
            x.c % N == 0 && (uintptr_t)x.data % 16 == 0 && (uintptr_t)y.data % 16 == 0;
        for (int64_t i = 0; i < x.n; i++) {
            a.x = (const X *)x.data + i * a.pixels * a.c;
            a.y = (Y *)y.data + i * a.pixels * a.c;
            if (wide)
                normalize<Y, X, N>(c, a, {gain, bias, eps, act});
            else
                normalize<Y, X, 1>(c, a, {gain, bias, eps, act});
        }
    });
    (void)cuda_launched(c, "group_norm");
}
