/* attention_wgmma.cu - flash attention on Hopper's warpgroup products: bf16 in, heads of 64 and
 * 128, float inside. sm_90a alone.
 *
 * One block per (64 query rows for each of its warpgroups, head). Tiles of 128 keys and of their
 * values lie in shared memory twice, filled by cp.async for the next tile while this one is used.
 * S = Q K^T reads both operands there; P stays in registers, because S's accumulators lie as the A
 * operand of O += P V wants them. The scores of the next tile are asked for before P V of this one:
 * while the latter runs, the former become weights. A tile belongs to one stream, image first, so
 * TACA's gamma is part of the tile's factor and costs nothing.
 *
 * Shared memory is as the descriptors of wgmma want it, "128-byte swizzle": panels of 64 columns,
 * a row is 128 bytes, and its 16-byte pieces are permuted by piece ^ row % 8. The same bytes serve
 * K with the head's columns as the inner dimension of a product and V with the keys as that. */
#include "kernels/cuda/attention_mma.cuh"

static constexpr int GROUP = 128, TK = 128, PANEL = 64, ROW_BYTES = 2 * PANEL,
                     BRICK = 8 * ROW_BYTES;

template <int D, int GROUPS> struct wgmma_shared {
    bf16 q[D / PANEL][64 * GROUPS][PANEL], k[2][D / PANEL][TK][PANEL], v[2][D / PANEL][TK][PANEL];
    float told[GROUP * GROUPS];
};

/* ---- shared memory --------------------------------------------------------------------------- */

/* An operand of wgmma: bricks of 8 rows of 128 bytes, swizzled, one after the other. LEAD: bytes
 * from panel to panel, in a product over rows. */
template <uint32_t LEAD> static __device__ __forceinline__ uint64_t describe(uint32_t address) {
    return (uint64_t)1 << 62 | (uint64_t)(BRICK >> 4) << 32 | LEAD >> 4 << 16 |
           (address >> 4 & 0x3fff);
}

/* Rows [0, n) of a view into panels, zeros from there to ROWS. */
template <int D, int ROWS, int THREADS>
static __device__ __forceinline__ void load_panels(bf16 (*to)[ROWS][PANEL], const bf16 *from,
                                                   int64_t ld, int n) {
    constexpr int PER_ROW = D / 8, STEP = THREADS / PER_ROW;
    const int r0 = (int)threadIdx.x / PER_ROW, piece = (int)threadIdx.x % PER_ROW;
#pragma unroll
    for (int i = 0; i < (ROWS + STEP - 1) / STEP; i++) {
        const int r = r0 + i * STEP;
        if (ROWS % STEP && r >= ROWS) break;
        cp_async16(&to[piece / 8][r][(piece % 8 ^ r % 8) * 8],
                   from + (r < n ? r : 0) * ld + piece * 8, r < n);
    }
}

/* ---- one warpgroup's work -------------------------------------------------------------------- */

/* A thread holds rows lane / 4 and lane / 4 + 8 of its warp's 16: values 0 and 1, 2 and 3 of every
 * four, whose columns are lane % 4 * 2 and the next of every eight. */
template <int D> struct group_state {
    float out[D / 2], top[2], sum[2];
    uint32_t p[TK / 16][4];
};

/* s = Q K^T; q and k: addresses of the warpgroup's queries and of the tile */
template <int D, int TQ>
static __device__ __forceinline__ void scores(float (&s)[TK / 2], uint32_t q, uint32_t k) {
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
        const uint32_t in = c % 4 * 32;
        wgmma_n128(s, describe<16>(q + c / 4 * TQ * ROW_BYTES + in),
                   describe<16>(k + c / 4 * TK * ROW_BYTES + in), c > 0);
    }
    wgmma_commit();
}

template <int D> static __device__ __forceinline__ void add_values(group_state<D> &r, uint32_t v) {
#pragma unroll
    for (int c = 0; c < TK / 16; c++)
        wgmma_wide(r.out, r.p[c], describe<TK * ROW_BYTES>(v + c * 2 * BRICK));
    wgmma_commit();
}

/* Scores of a tile with n keys become weights 2^(factor s - top); keep: by what the sums so far are
 * to be multiplied. */
template <int D>
static __device__ __forceinline__ void soften(group_state<D> &r, float (&s)[TK / 2],
                                              float (&keep)[2], float factor, int n) {
    if (n < TK) {
        const int j0 = (int)threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < TK / 2; i++)
            if (i / 4 * 8 + j0 + i % 2 >= n) s[i] = -INFINITY;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = s[2 * h];
#pragma unroll
        for (int i = 0; i < TK / 8; i++)
            top = fmaxf(top, fmaxf(s[4 * i + 2 * h], s[4 * i + 2 * h + 1]));
        top = fmaxf(r.top[h], quad_max(top) * factor);
        keep[h] = exp2_approx(r.top[h] - top); /* 0 in the first tile: top is finite */
        r.top[h] = top;
        float sum = r.sum[h] * keep[h];
#pragma unroll
        for (int i = 0; i < TK / 8; i++) {
            float *x = &s[4 * i + 2 * h];
            x[0] = exp2_approx(fmaf(x[0], factor, -top));
            x[1] = exp2_approx(fmaf(x[1], factor, -top));
            sum += x[0] + x[1];
        }
        r.sum[h] = sum;
    }
}

/* Weights as the next product takes them; what was summed before follows their maximum. */
template <int D>
static __device__ __forceinline__ void take_weights(group_state<D> &r, const float (&s)[TK / 2],
                                                    const float (&keep)[2]) {
#pragma unroll
    for (int i = 0; i < D / 2; i++) r.out[i] *= keep[i / 2 % 2];
#pragma unroll
    for (int i = 0; i < TK / 4; i++) r.p[i / 4][i % 4] = two(s[2 * i], s[2 * i + 1]);
}

template <int D, class O>
static __device__ __forceinline__ void store_out(const group_state<D> &r, const taca_mat &o,
                                                 int64_t row, int head, int n, int lane) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float by = 1 / quad_sum(r.sum[h]);
        const int i = lane / 4 + h * 8;
        if (i >= n) continue;
        O *to = (O *)o.data + (row + i) * o.ld + head * D + lane % 4 * 2;
#pragma unroll
        for (int k = 0; k < D / 8; k++)
            store_two(to + k * 8, r.out[4 * k + 2 * h] * by, r.out[4 * k + 2 * h + 1] * by);
    }
}

/* ---- kernel ---------------------------------------------------------------------------------- */

/* All but the newest N groups of this block's copies have come, and products see them; what was
 * read before may be overwritten. */
template <int N> static __device__ __forceinline__ void arrive() {
    cp_async_wait<N>();
    fence_proxy_async();
    __syncthreads();
}

/* Tile b of the keys or of their values. */
template <int D, int GROUPS>
static __device__ __forceinline__ void load_tile(bf16 (*to)[D / PANEL][TK][PANEL],
                                                 const key_walk<TK> &keys, const taca_mat (&m)[2],
                                                 int b) {
    load_panels<D, TK, GROUP * GROUPS>(to[b % 2], keys.row(m, b, D), keys.ld(m, b), keys.count(b));
}

/* The segment's keys for queries whose copies have been asked for. */
template <int D, int GROUPS>
static __device__ __forceinline__ void attend_keys(group_state<D> &r, const key_walk<TK> &keys,
                                                   wgmma_shared<D, GROUPS> *m) {
    constexpr uint32_t TQ = 64 * GROUPS, TILE = D * TK * sizeof(bf16);
    const uint32_t qs = shared_address(m->q) + threadIdx.x / GROUP * 64 * ROW_BYTES;
    const uint32_t ks = shared_address(m->k), vs = shared_address(m->v);
    float s[TK / 2], keep[2];
    load_tile<D, GROUPS>(m->k, keys, keys.a.k, 0);
    cp_async_commit();
    load_tile<D, GROUPS>(m->v, keys, keys.a.v, 0);
    if (keys.tiles > 1) load_tile<D, GROUPS>(m->k, keys, keys.a.k, 1);
    cp_async_commit();
    arrive<1>(); /* queries and the first keys */
    wgmma_fence();
    scores<D, TQ>(s, qs, ks);
    wgmma_wait<0>();
    pin(s);
    soften(r, s, keep, keys.factor(0), keys.count(0));
    take_weights(r, s, keep);
    for (int b = 0; b + 1 < keys.tiles; b++) {
        arrive<0>(); /* these values and the next keys */
        pin(r.out), pin(r.p), pin(s);
        wgmma_fence();
        scores<D, TQ>(s, qs, ks + (b + 1) % 2 * TILE);
        add_values(r, vs + b % 2 * TILE);
        if (b + 2 < keys.tiles) load_tile<D, GROUPS>(m->k, keys, keys.a.k, b + 2);
        load_tile<D, GROUPS>(m->v, keys, keys.a.v, b + 1);
        cp_async_commit();
        wgmma_wait<1>();
        pin(s);
        soften(r, s, keep, keys.factor(b + 1), keys.count(b + 1));
        /* Nobody reads it: but the assembler moves a wait up past arithmetic, not past a store, and
         * the weights are to be worked out while the values' product runs. */
        *(volatile float *)&m->told[threadIdx.x] = r.sum[0] + r.sum[1];
        wgmma_wait<0>();
        pin(r.out), pin(r.p);
        take_weights(r, s, keep);
    }
    arrive<0>(); /* the last values */
    pin(r.out), pin(r.p);
    wgmma_fence();
    add_values(r, vs + (keys.tiles - 1) % 2 * TILE);
    wgmma_wait<0>();
    pin(r.out), pin(r.p);
}

/* blockIdx.x: query tile, blockIdx.y: head */
template <int D, int GROUPS, class O>
static __global__ void __launch_bounds__(GROUP *GROUPS, 1)
    attention_wgmma_kernel(attention_call a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int TQ = 64 * GROUPS;
    char *raw = dynamic_shared<char>();
    auto *m = (wgmma_shared<D, GROUPS> *)(raw + (-shared_address(raw) & (BRICK - 1)));
    const int head = (int)blockIdx.y, wq = (int)threadIdx.x / 32 * 16; /* the warp's first row */
    query_tile t;
    if (!find_tile<TQ>(a, blockIdx.x, &t)) return;
    const key_walk<TK> keys(a, t, head);
    const taca_mat &q = t.stream ? a.q[1] : a.q[0], &o = t.stream ? a.o[1] : a.o[0];
    const int64_t row = seg_first(t.seg, t.stream) + t.first;
    load_panels<D, TQ, GROUP * GROUPS>(m->q, (const bf16 *)q.data + row * q.ld + head * D, q.ld,
                                       t.n);
    group_state<D> r = {};
    r.top[0] = r.top[1] = -INFINITY;
    attend_keys<D, GROUPS>(r, keys, m);
    store_out<D, O>(r, o, row + wq, head, t.n - wq, (int)threadIdx.x % 32);
#endif
}

/* ---- op -------------------------------------------------------------------------------------- */

template <int D, int GROUPS>
static void attend(struct cuda *c, const attention_call &a, const struct taca_layout *l) {
    by_dtype(a.o[a.o[TACA_IMG].cols ? TACA_IMG : TACA_TXT].dtype, [&](auto *p) {
        launch(attention_wgmma_kernel<D, GROUPS, element<decltype(p)>>,
               dim3(count_tiles<64 * GROUPS>(a, l), (unsigned)a.heads), GROUP * GROUPS,
               sizeof(wgmma_shared<D, GROUPS>) + BRICK, c->stream, a);
    });
}

bool attend_wgmma(struct cuda *c, const attention_call &a, const struct taca_layout *l) {
    if (c->arch != 90 || (a.head_dim != 64 && a.head_dim != 128) || a.rel_bias ||
        !suits_mma(c, a, l))
        return false;
    if (a.head_dim == 64)
        attend<64, 3>(c, a, l);
    else
        attend<128, 2>(c, a, l);
    return true;
}
