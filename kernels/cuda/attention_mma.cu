/* attention_mma.cu - flash attention on the tensor cores: bf16 in, heads of 64 and 128, float
 * inside.
 *
 * One block per (128 query rows of one segment, head): four warps of 32 rows, so that every key
 * fragment read from shared memory feeds two products. Keys and values pass TK rows at a time:
 * values travel while the scores are computed, the next keys while the values are used. A tile of
 * keys belongs to one stream, image first, so TACA's gamma is part of the tile's scale and costs
 * nothing. S = Q K^T and O += P V are mma.m16n8k16; P stays in registers, because S's accumulators
 * lie as P's operand wants them. Compute bound: 4 * head_dim FLOP per query and key. */
#include "kernels/cuda/attention.cuh"

static constexpr int WARPS = 4, THREADS = 32 * WARPS, TQ = 128, WQ = TQ / WARPS;
static constexpr int MT = WQ / 16, PAD = 8;
static constexpr float LOG2E = 1.4426950408889634f;

/* Rows start 16 bytes apart in the banks: ldmatrix and cp.async meet no conflict. */
template <int D, int TK> struct mma_shared { bf16 q[TQ][D + PAD], k[TK][D + PAD], v[TK][D + PAD]; };

/* ---- who works on what ----------------------------------------------------------------------- */

struct query_tile {
    taca_seg seg;
    int stream, n;
    int64_t first; /* row of the segment */
};

/* The tiles of the streams that have an output, segment by segment; false past the last. */
static __device__ bool find_tile(const attention_call &a, int64_t at, query_tile *t) {
    for (int stream = TACA_IMG; stream <= TACA_TXT; stream++) {
        if (!a.o[stream].rows || !a.o[stream].cols) continue;
        for (int i = 0; i < a.n_segs; i++) {
            const int64_t n = seg_rows(a.segs[i], stream), tiles = (n + TQ - 1) / TQ;
            if (at < tiles) {
                const int64_t first = at * TQ, left = n - first;
                *t = {a.segs[i], stream, (int)(left < TQ ? left : TQ), first};
                return true;
            }
            at -= tiles;
        }
    }
    return false;
}

/* The segment's keys in tiles, image then text; a stream that is left out has none. */
template <int TK> struct key_walk {
    const attention_call &a;
    const query_tile &t;
    int head, n_img, n_txt, img_tiles, tiles;

    __device__ key_walk(const attention_call &call, const query_tile &tile, int h)
        : a(call), t(tile), head(h) {
        n_img = a.k[TACA_IMG].cols ? (int)t.seg.n_img : 0;
        n_txt = a.k[TACA_TXT].cols ? (int)t.seg.n_txt : 0;
        img_tiles = (n_img + TK - 1) / TK;
        tiles = img_tiles + (n_txt + TK - 1) / TK;
    }
    __device__ bool is_text(int b) const { return b >= img_tiles; }
    __device__ int first(int b) const { return (is_text(b) ? b - img_tiles : b) * TK; }
    __device__ int count(int b) const {
        const int left = (is_text(b) ? n_txt : n_img) - first(b);
        return left < TK ? left : TK;
    }
    /* scores to exponents of 2; never 0, so that a masked -inf stays -inf */
    __device__ float factor(int b) const {
        const float by = is_text(b) && t.stream == TACA_IMG ? t.seg.gamma * a.scale : a.scale;
        return fmaxf(by * LOG2E, 1e-30f);
    }
    __device__ const bf16 *row(const taca_mat (&m)[2], int b, int d) const {
        const int64_t r = (is_text(b) ? t.seg.txt : t.seg.img) + first(b);
        return (const bf16 *)(is_text(b) ? m[1].data : m[0].data) + r * ld(m, b) + head * d;
    }
    __device__ int64_t ld(const taca_mat (&m)[2], int b) const {
        return is_text(b) ? m[1].ld : m[0].ld;
    }
};

/* Rows [0, n) of a view into shared memory, zeros from there to ROWS. */
template <int D, int ROWS>
static __device__ __forceinline__ void load_rows(bf16 (*to)[D + PAD], const bf16 *from, int64_t ld,
                                                 int n) {
    constexpr int PER_ROW = D / 8, STEP = THREADS / PER_ROW;
    const int r0 = (int)threadIdx.x / PER_ROW, c = (int)threadIdx.x % PER_ROW * 8;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++) {
        const int r = r0 + i * STEP;
        cp_async16(&to[r][c], from + (r < n ? r : 0) * ld + c, r < n);
    }
}

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

static __device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
static __device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
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

static __device__ __forceinline__ uint32_t two(float a, float b) {
    const __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
    uint32_t u;
    memcpy(&u, &h, sizeof u);
    return u;
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

static __device__ __forceinline__ void store_two(float *to, float a, float b) {
    to[0] = a, to[1] = b;
}
static __device__ __forceinline__ void store_two(bf16 *to, float a, float b) {
    *(uint32_t *)to = two(a, b);
}

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
    if (!find_tile(a, blockIdx.x, &t)) return;
    const key_walk<TK> keys(a, t, head);
    const taca_mat &q = t.stream ? a.q[1] : a.q[0], &o = t.stream ? a.o[1] : a.o[0];
    const int64_t row = seg_first(t.seg, t.stream) + t.first;
    load_rows<D, TQ>(s->q, (const bf16 *)q.data + row * q.ld + head * D, q.ld, t.n);
    load_rows<D, TK>(s->k, keys.row(a.k, 0, D), keys.ld(a.k, 0), keys.count(0));
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
        load_rows<D, TK>(s->v, keys.row(a.v, b, D), keys.ld(a.v, b), n);
        cp_async_commit();
        multiply_qk<D, TK>(p, s->q + wq, s->k, lane);
        cp_async_wait<0>();
        __syncthreads(); /* the values have come; nobody reads these keys any more */
        if (b + 1 < keys.tiles)
            load_rows<D, TK>(s->k, keys.row(a.k, b + 1, D), keys.ld(a.k, b + 1), keys.count(b + 1));
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

static bool on_16_bytes(const taca_mat &m) {
    return m.cols == 0 || m.rows == 0 ||
           (m.dtype == TACA_BF16 && m.ld % 8 == 0 && (uintptr_t)m.data % 16 == 0);
}

/* Values are written in pairs. */
static bool in_pairs(const taca_mat &m) {
    return m.cols == 0 || m.rows == 0 ||
           (m.ld % 2 == 0 && (uintptr_t)m.data % (2 * taca_dtype_bytes(m.dtype)) == 0);
}

/* A backend of f32 is the precise one: there the weights are not rounded either. */
static bool can_attend(const struct cuda *c, const attention_call &a, const struct taca_layout *l) {
    bool yes = c->base.precision == TACA_BF16 && !a.causal && a.scale >= 0 &&
               (a.head_dim == 64 || a.head_dim == 128);
    yes = yes && !(a.rel_bias && a.head_dim != 64);
    for (int s = TACA_IMG; s <= TACA_TXT; s++)
        yes = yes && on_16_bytes(a.q[s]) && on_16_bytes(a.k[s]) && on_16_bytes(a.v[s]) &&
              in_pairs(a.o[s]);
    for (int i = 0; i < l->n_segs; i++) yes = yes && l->segs[i].gamma >= 0;
    return yes;
}

template <int D, int TK, bool BIAS>
static void attend(struct cuda *c, const attention_call &a, dim3 grid) {
    by_dtype(a.o[a.o[TACA_IMG].cols ? TACA_IMG : TACA_TXT].dtype, [&](auto *p) {
        launch(attention_mma_kernel<D, TK, BIAS, element<decltype(p)>>, grid, THREADS,
               sizeof(mma_shared<D, TK>), c->stream, a);
    });
}

bool attend_mma(struct cuda *c, const attention_call &a, const struct taca_layout *l) {
    int64_t tiles = 0;
    if (!can_attend(c, a, l)) return false;
    for (int s = TACA_IMG; s <= TACA_TXT; s++)
        for (int i = 0; a.o[s].cols && a.o[s].rows && i < l->n_segs; i++)
            tiles += (seg_rows(l->segs[i], s) + TQ - 1) / TQ;
    const dim3 grid((unsigned)tiles, (unsigned)a.heads);
    if (a.rel_bias)
        attend<64, 64, true>(c, a, grid);
    else if (a.head_dim == 64)
        attend<64, 64, false>(c, a, grid);
    else
        attend<128, 64, false>(c, a, grid);
    return true;
}
