/* attention_wide.cu - flash attention on the tensor cores for the VAE's head of 512, bf16 in.
 *
 * The output of one query alone fills the registers of many threads, so a block of eight warps
 * shares 64 queries: for the scores of a tile of 32 keys each warp takes 16 queries and 16 keys,
 * for the output all 64 queries and 64 columns. In between the weights pass through shared memory
 * as bf16, and the warps of a row tell each other its maximum. Compute bound. Where a block may not
 * have that much shared memory (99 KiB on compute capability 8.6, 8.9 and 12.0) there are four
 * warps for 32 queries and 16 keys, two of which work out the scores. */
#include "kernels/cuda/attention_mma.cuh"

static constexpr int D = 512;

/* Queries of a block, keys of a tile, warps. */
template <int Q, int K, int W> struct wide_shape {
    static constexpr int TQ = Q, TK = K, WARPS = W, THREADS = 32 * W, HALVES = K / 16, MT = Q / 16,
                         SLICE = D / W; /* columns of a warp */
    struct shared {
        bf16 q[Q][D + PAD], k[K][D + PAD], v[K][D + PAD], p[Q][K + PAD];
        float part[HALVES][Q], keep[Q];
    };
    /* As in attention_mma.cu: a lane holds rows lane / 4 and lane / 4 + 8 of a fragment. */
    struct state {
        float out[MT][SLICE / 8][4];
        float top[2]; /* of the warp's 16 queries */
        float sum[2]; /* and of its part of the keys */
    };
};
typedef wide_shape<64, 32, 8> large_shape;
typedef wide_shape<32, 16, 4> small_shape;

struct place {
    int lane, row, half; /* row: the first of the 16 queries; half: which 16 keys */
    bool scores;         /* the warp has such */
};

template <class M>
static __device__ __forceinline__ void scores(float (&s)[2][4], const M *m, const place &w) {
#pragma unroll
    for (int i = 0; i < 8; i++) s[i / 4][i % 4] = 0;
#pragma unroll 8
    for (int c = 0; c < D; c += 16) {
        uint32_t qf[4], kf[4];
        ldmatrix_x4(qf, &m->q[w.row + w.lane % 16][c + w.lane / 16 * 8]);
        ldmatrix_x4(kf, &m->k[w.half * 16 + w.lane % 8 + w.lane / 16 * 8][c + w.lane / 8 % 2 * 8]);
        mma_m16n8k16(s[0], qf, kf[0], kf[1]);
        mma_m16n8k16(s[1], qf, kf[2], kf[3]);
    }
}

/* The largest score of each row among this warp's keys, for the other warps of the row. */
template <class M>
static __device__ __forceinline__ void tell_top(float (&s)[2][4], M *m, const place &w, int n) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = -INFINITY;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float *x = &s[i / 2][2 * h + i % 2];
            if (w.half * 16 + i / 2 * 8 + w.lane % 4 * 2 + i % 2 >= n) *x = -INFINITY;
            top = fmaxf(top, *x);
        }
        top = quad_max(top);
        if (w.lane % 4 == 0) m->part[w.half][w.row + w.lane / 4 + 8 * h] = top;
    }
}

/* Weights of the tile into shared memory, and by what the output so far is to be multiplied. */
template <class S>
static __device__ __forceinline__ void soften(typename S::state *r, float (&s)[2][4],
                                              typename S::shared *m, const place &w, float factor) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = w.row + w.lane / 4 + 8 * h;
        float top = m->part[0][row];
        for (int i = 1; i < S::HALVES; i++) top = fmaxf(top, m->part[i][row]);
        top = fmaxf(r->top[h], top * factor);
        const float keep = exp2_approx(r->top[h] - top);
        r->top[h] = top;
        r->sum[h] *= keep;
        if (w.half == 0 && w.lane % 4 == 0) m->keep[row] = keep;
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const float a = exp2_approx(fmaf(s[n][2 * h], factor, -top));
            const float b = exp2_approx(fmaf(s[n][2 * h + 1], factor, -top));
            r->sum[h] += a + b;
            store_two(&m->p[row][w.half * 16 + n * 8 + w.lane % 4 * 2], a, b);
        }
    }
}

/* out = keep o out + P V for all queries and the columns from `col`. */
template <class S>
static __device__ __forceinline__ void add_values(typename S::state *r, const typename S::shared *m,
                                                  int lane, int col) {
    constexpr int MT = S::MT, SLICE = S::SLICE, TK = S::TK;
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float keep = m->keep[t * 16 + lane / 4 + 8 * h];
#pragma unroll
            for (int n = 0; n < SLICE / 8; n++) {
                r->out[t][n][2 * h] *= keep;
                r->out[t][n][2 * h + 1] *= keep;
            }
        }
#pragma unroll
    for (int c = 0; c < TK; c += 16) {
        uint32_t pf[MT][4];
#pragma unroll
        for (int t = 0; t < MT; t++)
            ldmatrix_x4(pf[t], &m->p[t * 16 + lane % 16][c + lane / 16 * 8]);
#pragma unroll
        for (int n = 0; n < SLICE / 16; n++) {
            uint32_t vf[4];
            ldmatrix_x4_trans(vf, &m->v[c + lane % 16][col + n * 16 + lane / 16 * 8]);
#pragma unroll
            for (int t = 0; t < MT; t++) {
                mma_m16n8k16(r->out[t][2 * n], pf[t], vf[0], vf[1]);
                mma_m16n8k16(r->out[t][2 * n + 1], pf[t], vf[2], vf[3]);
            }
        }
    }
}

/* o: row `row` of the stream is the block's first query */
template <class S, class O>
static __device__ __forceinline__ void finish(typename S::state *r, typename S::shared *m,
                                              const place &w, const taca_mat &o, int64_t row, int n,
                                              int col) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float sum = quad_sum(r->sum[h]);
        if (w.scores && w.lane % 4 == 0) m->part[w.half][w.row + w.lane / 4 + 8 * h] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < S::MT; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int i = t * 16 + w.lane / 4 + 8 * h;
            if (i >= n) continue;
            float sum = m->part[0][i];
            for (int k = 1; k < S::HALVES; k++) sum += m->part[k][i];
            O *to = (O *)o.data + (row + i) * o.ld + col + w.lane % 4 * 2;
#pragma unroll
            for (int k = 0; k < S::SLICE / 8; k++)
                store_two(to + k * 8, r->out[t][k][2 * h] / sum, r->out[t][k][2 * h + 1] / sum);
        }
}

/* blockIdx.x: query tile, blockIdx.y: head */
template <class S, class O>
static __global__ void __launch_bounds__(S::THREADS) attention_wide_kernel(attention_call a) {
    constexpr int TQ = S::TQ, TK = S::TK, THREADS = S::THREADS;
    typename S::shared *m = dynamic_shared<typename S::shared>();
    const int head = (int)blockIdx.y, warp = (int)threadIdx.x / 32;
    const place w = {(int)threadIdx.x % 32, warp / S::HALVES * 16, warp % S::HALVES,
                     warp < S::MT * S::HALVES};
    query_tile t;
    if (!find_tile<TQ>(a, blockIdx.x, &t)) return;
    const key_walk<TK> keys(a, t, head);
    const taca_mat &q = t.stream ? a.q[1] : a.q[0], &o = t.stream ? a.o[1] : a.o[0];
    const int64_t row = seg_first(t.seg, t.stream) + t.first;
    load_rows<D, TQ, THREADS>(m->q, (const bf16 *)q.data + row * q.ld + head * D, q.ld, t.n);
    load_rows<D, TK, THREADS>(m->k, keys.row(a.k, 0, D), keys.ld(a.k, 0), keys.count(0));
    cp_async_commit();

    typename S::state r = {};
    r.top[0] = r.top[1] = -INFINITY;
    for (int b = 0; b < keys.tiles; b++) {
        float s[2][4];
        cp_async_wait<0>();
        __syncthreads(); /* the keys have come; values and weights of the last tile are read */
        load_rows<D, TK, THREADS>(m->v, keys.row(a.v, b, D), keys.ld(a.v, b), keys.count(b));
        cp_async_commit();
        if (w.scores) {
            scores(s, m, w);
            tell_top(s, m, w, keys.count(b));
        }
        __syncthreads(); /* every top is told; the keys are read */
        if (b + 1 < keys.tiles)
            load_rows<D, TK, THREADS>(m->k, keys.row(a.k, b + 1, D), keys.ld(a.k, b + 1),
                                      keys.count(b + 1));
        cp_async_commit();
        if (w.scores) soften<S>(&r, s, m, w, keys.factor(b));
        cp_async_wait<1>();
        __syncthreads(); /* the values have come; the weights are written */
        add_values<S>(&r, m, w.lane, warp * S::SLICE);
    }
    finish<S, O>(&r, m, w, o, row, t.n, head * D + warp * S::SLICE);
}

/* ---- op -------------------------------------------------------------------------------------- */

template <class S>
static void attend(struct cuda *c, const attention_call &a, const struct taca_layout *l) {
    by_dtype(a.o[a.o[TACA_IMG].cols ? TACA_IMG : TACA_TXT].dtype, [&](auto *p) {
        launch(attention_wide_kernel<S, element<decltype(p)>>,
               dim3(count_tiles<S::TQ>(a, l), (unsigned)a.heads), S::THREADS,
               sizeof(typename S::shared), c->stream, a);
    });
}

bool attend_wide(struct cuda *c, const attention_call &a, const struct taca_layout *l) {
    if (a.head_dim != D || a.rel_bias || !suits_mma(c, a, l)) return false;
    if (c->shared_bytes >= sizeof(large_shape::shared))
        attend<large_shape>(c, a, l);
    else
        attend<small_shape>(c, a, l);
    return true;
}
