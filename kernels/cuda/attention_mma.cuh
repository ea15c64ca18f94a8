/* attention_mma.cuh - what the attention kernels of the tensor cores share: who works on which
 * rows, in which order keys come, and when a call suits them. */
#pragma once
#include "kernels/cuda/attention.cuh"

static constexpr float LOG2E = 1.4426950408889634f;
/* Rows of shared memory start 16 bytes apart in the banks: ldmatrix and cp.async meet no
 * conflict. */
static constexpr int PAD = 8;

/* ---- who works on what ----------------------------------------------------------------------- */

struct query_tile {
    taca_seg seg;
    int stream, n;
    int64_t first; /* row of the segment */
};

/* The tiles of the streams that have an output, segment by segment; false past the last. */
template <int TQ>
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

/* Blocks that find a tile. */
template <int TQ>
static unsigned count_tiles(const attention_call &a, const struct taca_layout *l) {
    int64_t tiles = 0;
    for (int s = TACA_IMG; s <= TACA_TXT; s++)
        for (int i = 0; a.o[s].cols && a.o[s].rows && i < l->n_segs; i++)
            tiles += (seg_rows(l->segs[i], s) + TQ - 1) / TQ;
    return (unsigned)tiles;
}

/* Rows [0, n) of a view into shared memory, zeros from there to ROWS. */
template <int D, int ROWS, int THREADS>
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

/* ---- values ---------------------------------------------------------------------------------- */

/* Over the four lanes that share a row of a fragment. */
static __device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
static __device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

static __device__ __forceinline__ uint32_t two(float a, float b) {
    const __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
    uint32_t u;
    memcpy(&u, &h, sizeof u);
    return u;
}

static __device__ __forceinline__ void store_two(float *to, float a, float b) {
    to[0] = a, to[1] = b;
}
static __device__ __forceinline__ void store_two(bf16 *to, float a, float b) {
    *(uint32_t *)to = two(a, b);
}

/* ---- when ------------------------------------------------------------------------------------ */

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
static bool suits_mma(const struct cuda *c, const attention_call &a, const struct taca_layout *l) {
    bool yes = c->base.precision == TACA_BF16 && !a.causal && a.scale >= 0;
    for (int s = TACA_IMG; s <= TACA_TXT; s++)
        yes = yes && on_16_bytes(a.q[s]) && on_16_bytes(a.k[s]) && on_16_bytes(a.v[s]) &&
              in_pairs(a.o[s]);
    for (int i = 0; i < l->n_segs; i++) yes = yes && l->segs[i].gamma >= 0;
    return yes;
}
