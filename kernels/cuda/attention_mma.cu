/* attention_mma.cu - flash attention on the tensor cores: bf16 in, heads of 64 and 128, float
 * inside.
 *
 * One block per (128 query rows of one segment, head): four warps of 32 rows, so that every key
 * fragment read from shared memory feeds two products. Keys and values pass TK rows at a time:
 * values travel while the scores are computed, the next keys while the values are used. A tile of
 * keys belongs to one stream, image first, so TACA's gamma is part of the tile's scale and costs
 * nothing. S = Q K^T and O += P V are mma.m16n8k16; P stays in registers, because S's accumulators
 * lie as P's operand wants them. Compute bound: 4 * head_dim FLOP per query and key. */
#include "kernels/cuda/attention_mma.cuh"

static constexpr int WARPS = 4, THREADS = 32 * WARPS, TQ = 128, WQ = TQ / WARPS;
static constexpr int MT = WQ / 16;

/* Rows start 16 bytes apart in the banks: ldmatrix and cp.async meet no conflict. */
template <int D, int TK> struct mma_shared { bf16 q[TQ][D + PAD], k[TK][D + PAD], v[TK][D + PAD]; };

/* ---- one tile of keys ------------------------------------------------------------------------ */

/* A lane holds rows lane / 4 (values 0 and 1 of a fragment) and lane / 4 + 8 (values 2 and 3) of
 * each of the warp's MT row tiles, columns lane % 4 * 2 and the next of every 8. */
template <int D> struct running { float out[MT][D / 8][4], top[MT][2], sum[MT][2]; };
template <int TK> struct score_tile { float s[MT][TK / 8][4]; };

template <int D, int TK>
static __device__ __forceinline__ void multiply_qk(score_tile<TK> &p, const bf16 (*q)[D + PAD],
                                                   const bf16 (*k)[D + PAD], int lane) {
#pragma unroll
    for (int i = 0; i < MT * TK / 2; i++) p.s[i / (TK / 2)][i / 4 % (TK / 8)][i % 4] = 0;
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
        uint32_t qf[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
            ldmatrix_x4(qf[m], &q[m * 16 + lane % 16][c * 16 + lane / 16 * 8]);
#pragma unroll
        for (int n = 0; n < TK / 16; n++) {
            uint32_t kf[4];
            ldmatrix_x4(kf, &k[n * 16 + lane % 8 + lane / 16 * 8][c * 16 + lane / 8 % 2 * 8]);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_m16n8k16(p.s[m][2 * n], qf[m], kf[0], kf[1]);
                mma_m16n8k16(p.s[m][2 * n + 1], qf[m], kf[2], kf[3]);
            }
        }
    }
}

/* f(value, row of the warp's tile, key of the tile) */
template <int TK, class F>
static __device__ __forceinline__ void each_score(score_tile<TK> &p, int lane, F f) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < TK / 8; n++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                f(p.s[m][n][j], m * 16 + lane / 4 + j / 2 * 8, n * 8 + lane % 4 * 2 + j % 2);
}

/* Scores become weights 2^(factor s - top) of a maximum that moved on, and what was summed before
 * follows it. In most tiles no row's maximum moves: then nothing is multiplied by 1. */
template <int D, int TK>
static __device__ __forceinline__ void soften(running<D> &r, score_tile<TK> &p, float factor) {
    float keep[MT][2];
    bool moved = false;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float top = p.s[m][0][2 * h];
#pragma unroll
            for (int n = 0; n < TK / 8; n++)
                top = fmaxf(top, fmaxf(p.s[m][n][2 * h], p.s[m][n][2 * h + 1]));
            top = fmaxf(r.top[m][h], quad_max(top) * factor);
            keep[m][h] = exp2_approx(r.top[m][h] - top); /* 0 in the first tile: top is finite */
            moved |= !(keep[m][h] == 1);
            r.top[m][h] = top;
            float sum = r.sum[m][h] * keep[m][h];
#pragma unroll
            for (int n = 0; n < TK / 8; n++) {
                float *s = &p.s[m][n][2 * h];
                s[0] = exp2_approx(fmaf(s[0], factor, -top));
                s[1] = exp2_approx(fmaf(s[1], factor, -top));
                sum += s[0] + s[1];
            }
            r.sum[m][h] = sum;
        }
    if (!__any_sync(~0u, moved)) return;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) r.out[m][n][j] *= keep[m][j / 2];
}

template <int D, int TK>
static __device__ __forceinline__ void multiply_pv(running<D> &r, const score_tile<TK> &p,
                                                   const bf16 (*v)[D + PAD], int lane) {
#pragma unroll
    for (int c = 0; c < TK / 16; c++) {
        uint32_t pf[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *s = &p.s[m][2 * c + i / 2][i % 2 * 2];
                pf[m][i] = two(s[0], s[1]);
            }
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t vf[4];
            ldmatrix_x4_trans(vf, &v[c * 16 + lane % 16][n * 16 + lane / 16 * 8]);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_m16n8k16(r.out[m][2 * n], pf[m], vf[0], vf[1]);
                mma_m16n8k16(r.out[m][2 * n + 1], pf[m], vf[2], vf[3]);
            }
        }
    }
}

/* ---- kernel ---------------------------------------------------------------------------------- */

template <int D, class O>
static __device__ __forceinline__ void store_out(const running<D> &r, const taca_mat &o,
                                                 int64_t row, int head, int n, int lane) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float sum = quad_sum(r.sum[m][h]);
            const int i = m * 16 + lane / 4 + h * 8;
            if (i >= n) continue;
            O *to = (O *)o.data + (row + i) * o.ld + head * D + lane % 4 * 2;
#pragma unroll
            for (int k = 0; k < D / 8; k++)
                store_two(to + k * 8, r.out[m][k][2 * h] / sum, r.out[m][k][2 * h + 1] / sum);
        }
}

/* blockIdx.x: query tile, blockIdx.y: head. BIAS: T5's, on the image stream alone. */
template <int D, int TK, bool BIAS, class O>
static __global__ void __launch_bounds__(THREADS) attention_mma_kernel(attention_call a) {
    mma_shared<D, TK> *s = dynamic_shared<mma_shared<D, TK>>();
    const int head = (int)blockIdx.y, lane = (int)threadIdx.x % 32;
    const int wq = (int)threadIdx.x / 32 * WQ; /* this warp's first row of the tile */
    query_tile t;
    if (!find_tile<TQ>(a, blockIdx.x, &t)) return;
    const key_walk<TK> keys(a, t, head);
    const taca_mat &q = t.stream ? a.q[1] : a.q[0], &o = t.stream ? a.o[1] : a.o[0];
    const int64_t row = seg_first(t.seg, t.stream) + t.first;
    load_rows<D, TQ, THREADS>(s->q, (const bf16 *)q.data + row * q.ld + head * D, q.ld, t.n);
    load_rows<D, TK, THREADS>(s->k, keys.row(a.k, 0, D), keys.ld(a.k, 0), keys.count(0));
    cp_async_commit();

    running<D> r = {};
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) r.top[i / 2][i % 2] = -INFINITY;
    for (int b = 0; b < keys.tiles; b++) {
        const int n = keys.count(b);
        const float factor = keys.factor(b);
        score_tile<TK> p;
        cp_async_wait<0>();
        __syncthreads(); /* the keys have come; nobody reads the last values any more */
        load_rows<D, TK, THREADS>(s->v, keys.row(a.v, b, D), keys.ld(a.v, b), n);
        cp_async_commit();
        multiply_qk<D, TK>(p, s->q + wq, s->k, lane);
        cp_async_wait<0>();
        __syncthreads(); /* the values have come; nobody reads these keys any more */
        if (b + 1 < keys.tiles)
            load_rows<D, TK, THREADS>(s->k, keys.row(a.k, b + 1, D), keys.ld(a.k, b + 1),
                                      keys.count(b + 1));
        cp_async_commit();
        if (BIAS) {
            const float *bias = a.rel_bias + head * a.bias_ld + a.bias_zero;
            const int i0 = (int)t.first + wq, j0 = keys.first(b);
            each_score(p, lane, [&](float &x, int i, int j) {
                const bool is = i0 + i < (int)t.seg.n_img && j < n;
                x = fmaf(x, factor, is ? bias[i0 + i - j0 - j] * LOG2E : 0);
            });
        }
        if (n < TK) each_score(p, lane, [n](float &x, int, int j) { x = j < n ? x : -INFINITY; });
        soften<D, TK>(r, p, BIAS ? 1 : factor);
        multiply_pv<D, TK>(r, p, s->v, lane);
    }
    store_out<D, O>(r, o, row + wq, head, t.n - wq, lane);
}

/* ---- op -------------------------------------------------------------------------------------- */

static bool can_attend(const struct cuda *c, const attention_call &a, const struct taca_layout *l) {
    return (a.head_dim == 64 || a.head_dim == 128) && !(a.rel_bias && a.head_dim != 64) &&
           suits_mma(c, a, l);
}

template <int D, int TK, bool BIAS>
static void attend(struct cuda *c, const attention_call &a, dim3 grid) {
    by_dtype(a.o[a.o[TACA_IMG].cols ? TACA_IMG : TACA_TXT].dtype, [&](auto *p) {
        launch(attention_mma_kernel<D, TK, BIAS, element<decltype(p)>>, grid, THREADS,
               sizeof(mma_shared<D, TK>), c->stream, a);
    });
}

bool attend_mma(struct cuda *c, const attention_call &a, const struct taca_layout *l) {
    if (!can_attend(c, a, l)) return false;
    const dim3 grid(count_tiles<TQ>(a, l), (unsigned)a.heads);
    if (a.rel_bias)
        attend<64, 64, true>(c, a, grid);
    else if (a.head_dim == 64)
        attend<64, 64, false>(c, a, grid);
    else
        attend<128, 64, false>(c, a, grid);
    return true;
}
