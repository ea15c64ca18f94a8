/* conv_mma.cu - convolution on the tensor cores: bf16 weights, float sums.
 *
 * An implicit matrix product, 128 pixels by TN output channels a block, 32 of k at a time through
 * STAGES buffers in shared memory. The left side is gathered from the map as it goes to shared
 * memory: by cp.async, 8 channels at once, where the channels come in eights; value by value
 * otherwise, which also rounds f32 maps. Compute bound: 2 * k FLOP per output value. */
#include "kernels/cuda/conv.cuh"

static constexpr int THREADS = 128, TM = 128, TK = 32, LD = TK + 8, STAGES = 3;
static constexpr int VECS = TK / 8, STEP = THREADS / VECS; /* rows that a pass over a tile loads */

/* Four warps share a tile: 2 x 2, or one below the other where it is narrow. */
template <int TN> struct warp_tile {
    static constexpr int ACROSS = TN >= 64 ? 2 : 1, M = TM * ACROSS / 4, N = TN / ACROSS;
    float sum[M / 16][N / 8][4];
};

/* Rows start 80 bytes apart: eight of them meet no bank conflict. */
template <int TN> struct conv_shared { bf16 a[STAGES][TM][LD], b[STAGES][TN][LD]; };

/* What a thread loads: a place in every chunk of k, and its rows of the left side. */
struct loader {
    conv_pixel pixel[TM / STEP];
    int row, at;   /* its first row, its place in a chunk */
    int64_t k;     /* of that place, in the next chunk */
    int dy, dx, c; /* the same as tap and channel */

    __device__ void start(const conv_call &a, int64_t first_pixel) {
        row = (int)threadIdx.x / VECS;
        at = (int)threadIdx.x % VECS * 8;
        for (int i = 0; i < TM / STEP; i++) pixel[i] = pixel_at(a, first_pixel + row + i * STEP);
        k = at;
        c = at % (int)a.x.c;
        const int tap = at / (int)a.x.c;
        dy = tap / (int)a.g.kw;
        dx = tap % (int)a.g.kw;
    }
    __device__ void advance(const conv_call &a) {
        k += TK;
        c += TK;
        while (c >= a.x.c) {
            c -= (int)a.x.c;
            if (++dx == a.g.kw) dx = 0, dy++;
        }
    }
};

/* The next chunk of the left side. X is void where eight channels are copied as they are. */
template <class X>
static __device__ void load_pixels(const conv_call &a, const loader &l, bf16 (*to)[LD]) {
#pragma unroll
    for (int i = 0; i < TM / STEP; i++) {
        bf16 *dst = &to[l.row + i * STEP][l.at];
        if constexpr (std::is_void<X>::value) {
            const int64_t at = input_at(a, l.pixel[i], l.dy, l.dx, l.c);
            cp_async16(dst, (const bf16 *)a.x.data + (at < 0 ? 0 : at), at >= 0);
        } else {
            for (int j = 0; j < 8; j++)
                dst[j] = from_float<bf16>(l.k + j < a.k ? input<X>(a, l.pixel[i], l.k + j) : 0);
        }
    }
}

template <int TN>
static __device__ void load_weights(const conv_call &a, const loader &l, int64_t first,
                                    bf16 (*to)[LD]) {
    constexpr int PASSES = (TN + STEP - 1) / STEP;
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        const int64_t o = first + l.row + i * STEP;
        const bool is = o < a.g.c_out && l.k < a.k_ld;
        cp_async16(&to[l.row + i * STEP][l.at],
                   (const bf16 *)a.weight + (is ? o * a.k_ld + l.k : 0), is);
    }
}

template <int TN>
static __device__ __forceinline__ void multiply(warp_tile<TN> &t, const bf16 (*a)[LD],
                                                const bf16 (*b)[LD], int lane) {
    constexpr int MT = warp_tile<TN>::M / 16, NT = warp_tile<TN>::N / 16;
#pragma unroll
    for (int c = 0; c < TK; c += 16) {
        uint32_t af[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) ldmatrix_x4(af[m], &a[m * 16 + lane % 16][c + lane / 16 * 8]);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            uint32_t bf[4];
            ldmatrix_x4(bf, &b[n * 16 + lane % 8 + lane / 16 * 8][c + lane / 8 % 2 * 8]);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_m16n8k16(t.sum[m][2 * n], af[m], bf[0], bf[1]);
                mma_m16n8k16(t.sum[m][2 * n + 1], af[m], bf[2], bf[3]);
            }
        }
    }
}

/* The warp's tile begins at pixel p, channel o. */
template <int TN, class Y>
static __device__ __forceinline__ void store(const conv_call &a, const warp_tile<TN> &t, int64_t p,
                                             int64_t o, int lane) {
    const int64_t pixels = a.y.n * a.y.h * a.y.w, c = a.y.c;
#pragma unroll
    for (int n = 0; n < warp_tile<TN>::N / 8; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int64_t to = o + n * 8 + lane % 4 * 2 + j;
            if (to >= c) continue;
            const float bias = a.bias[to];
#pragma unroll
            for (int m = 0; m < warp_tile<TN>::M / 16; m++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const int64_t at = p + m * 16 + lane / 4 + h * 8;
                    if (at < pixels) put_output<Y>(a, at * c + to, t.sum[m][n][2 * h + j] + bias);
                }
        }
}

/* blockIdx.x: the tiles of channels, then the tiles of pixels: those that share pixels run together
 * and find them in L2. */
template <int TN, class X, class Y>
static __global__ void __launch_bounds__(THREADS, 2) conv_mma_kernel(conv_call a) {
    typedef warp_tile<TN> tile;
    conv_shared<TN> *s = dynamic_shared<conv_shared<TN>>();
    const int64_t across = (a.g.c_out + TN - 1) / TN;
    const int64_t p = blockIdx.x / across * TM, o = blockIdx.x % across * TN;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int wm = warp / tile::ACROSS * tile::M, wn = warp % tile::ACROSS * tile::N;
    const int chunks = (int)((a.k + TK - 1) / TK);
    loader l;
    l.start(a, p);
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < chunks) {
            load_pixels<X>(a, l, s->a[i]);
            load_weights<TN>(a, l, o, s->b[i]);
            l.advance(a);
        }
        cp_async_commit();
    }
    tile t = {};
    for (int i = 0; i < chunks; i++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); /* chunk i has come; nobody reads the one before it any more */
        if (i + STAGES - 1 < chunks) {
            const int next = (i + STAGES - 1) % STAGES;
            load_pixels<X>(a, l, s->a[next]);
            load_weights<TN>(a, l, o, s->b[next]);
            l.advance(a);
        }
        cp_async_commit();
        multiply<TN>(t, s->a[i % STAGES] + wm, s->b[i % STAGES] + wn, lane);
    }
    store<TN, Y>(a, t, p + wm, o + wn, lane);
}

/* ---- op -------------------------------------------------------------------------------------- */

template <int TN, class X> static void convolve(struct cuda *c, const conv_call &a) {
    const int64_t across = (a.g.c_out + TN - 1) / TN, pixels = a.y.n * a.y.h * a.y.w;
    by_dtype(a.y.dtype, [&](auto *p) {
        launch(conv_mma_kernel<TN, X, element<decltype(p)>>,
               dim3((unsigned)(blocks_for(pixels, TM) * across)), THREADS, sizeof(conv_shared<TN>),
               c->stream, a);
    });
}

template <int TN> static void by_input(struct cuda *c, const conv_call &a) {
    if (a.x.dtype == TACA_F32)
        convolve<TN, float>(c, a);
    else if (a.x.c % 8 || (uintptr_t)a.x.data % 16)
        convolve<TN, bf16>(c, a);
    else
        convolve<TN, void>(c, a);
}

void conv_mma(struct cuda *c, const conv_call &a) {
    if (a.g.c_out > 64)
        by_input<128>(c, a);
    else if (a.g.c_out > 32)
        by_input<64>(c, a);
    else
        by_input<32>(c, a);
}
