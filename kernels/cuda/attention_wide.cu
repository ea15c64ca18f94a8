/* attention_wide.cu - flash attention on the tensor cores for the VAE's head of 512, bf16 in.
 *
 * The output of one query alone fills the registers of many threads, so a block of eight warps
 * shares 64 queries: for the scores of a tile of 32 keys each warp takes 16 queries and 16 keys,
 * for the output all 64 queries and 64 columns. In between the weights pass through shared memory
 * as bf16, and the two warps of a row tell each other its maximum. Compute bound. */
#include "kernels/cuda/attention_mma.cuh"

static constexpr int D = 512, THREADS = 256, TQ = 64, TK = 32;
static constexpr int HALVES = TK / 16, SLICE = D / 8, MT = TQ / 16; /* SLICE: columns of a warp */

struct wide_shared {
    bf16 q[TQ][D + PAD], k[TK][D + PAD], v[TK][D + PAD], p[TQ][TK + PAD];
    float part[HALVES][TQ], keep[TQ];
};

/* As in attention_mma.cu: a lane holds rows lane / 4 and lane / 4 + 8 of a fragment. */
struct wide_state {
    float out[MT][SLICE / 8][4];
    float top[2], sum[2]; /* of the warp's 16 queries; the sum is that of its half of the keys */
};

struct place {
    int lane, row, half; /* row: the first of the 16 queries; half: which 16 keys */
};

static __device__ __forceinline__ void scores(float (&s)[2][4], const wide_shared *m,
                                              const place &w) {
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

/* The largest score of each row among this warp's keys, for the other warp of the row. */
static __device__ __forceinline__ void tell_top(float (&s)[2][4], wide_shared *m, const place &w,
                                                int n) {
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
static __device__ __forceinline__ void soften(wide_state *r, float (&s)[2][4], wide_shared *m,
                                              const place &w, float factor) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = w.row + w.lane / 4 + 8 * h;
        float top = m->part[0][row];
        for (int i = 1; i < HALVES; i++) top = fmaxf(top, m->part[i][row]);
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
static __device__ __forceinline__ void add_values(wide_state *r, const wide_shared *m, int lane,
                                                  int col) {
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
template <class O>
static __device__ __forceinline__ void finish(wide_state *r, wide_shared *m, const place &w,
                                              const taca_mat &o, int64_t row, int n, int col) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float sum = quad_sum(r->sum[h]);
        if (w.lane % 4 == 0) m->part[w.half][w.row + w.lane / 4 + 8 * h] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int i = t * 16 + w.lane / 4 + 8 * h;
            if (i >= n) continue;
            float sum = m->part[0][i];
            for (int k = 1; k < HALVES; k++) sum += m->part[k][i];
            O *to = (O *)o.data + (row + i) * o.ld + col + w.lane % 4 * 2;
#pragma unroll
            for (int k = 0; k < SLICE / 8; k++)
                store_two(to + k * 8, r->out[t][k][2 * h] / sum, r->out[t][k][2 * h + 1] / sum);
        }
}

/* blockIdx.x: query tile, blockIdx.y: head */
template <class O>
static __global__ void __launch_bounds__(THREADS) attention_wide_kernel(attention_call a) {
    wide_shared *m = dynamic_shared<wide_shared>();
    const int head = (int)blockIdx.y, warp = (int)threadIdx.x / 32;
    const place w = {(int)threadIdx.x % 32, warp / HALVES * 16, warp % HALVES};
    query_tile t;
    if (!find_tile<TQ>(a, blockIdx.x, &t)) return;
    const key_walk<TK> keys(a, t, head);
    const taca_mat &q = t.stream ? a.q[1] : a.q[0], &o = t.stream ? a.o[1] : a.o[0];
    const int64_t row = seg_first(t.seg, t.stream) + t.first;
    load_rows<D, TQ, THREADS>(m->q, (const bf16 *)q.data + row * q.ld + head * D, q.ld, t.n);
    load_rows<D, TK, THREADS>(m->k, keys.row(a.k, 0, D), keys.ld(a.k, 0), keys.count(0));
    cp_async_commit();

    wide_state r = {};
    r.top[0] = r.top[1] = -INFINITY;
    for (int b = 0; b < keys.tiles; b++) {
        float s[2][4];
        cp_async_wait<0>();
        __syncthreads(); /* the keys have come; values and weights of the last tile are read */
        load_rows<D, TK, THREADS>(m->v, keys.row(a.v, b, D), keys.ld(a.v, b), keys.count(b));
        cp_async_commit();
        scores(s, m, w);
        tell_top(s, m, w, keys.count(b));
        __syncthreads(); /* every top is told; the keys are read */
        if (b + 1 < keys.tiles)
            load_rows<D, TK, THREADS>(m->k, keys.row(a.k, b + 1, D), keys.ld(a.k, b + 1),
                                      keys.count(b + 1));
        cp_async_commit();
        soften(&r, s, m, w, keys.factor(b));
        cp_async_wait<1>();
        __syncthreads(); /* the values have come; the weights are written */
        add_values(&r, m, w.lane, warp * SLICE);
    }
    finish<O>(&r, m, w, o, row, t.n, head * D + warp * SLICE);
}

/* ---- op -------------------------------------------------------------------------------------- */

bool attend_wide(struct cuda *c, const attention_call &a, const struct taca_layout *l) {
    if (a.head_dim != D || a.rel_bias || !suits_mma(c, a, l)) return false;
    by_dtype(a.o[a.o[TACA_IMG].cols ? TACA_IMG : TACA_TXT].dtype, [&](auto *p) {
        launch(attention_wide_kernel<element<decltype(p)>>,
               dim3(count_tiles<TQ>(a, l), (unsigned)a.heads), THREADS, sizeof(wide_shared),
               c->stream, a);
    });
    return true;
}
