/* attention.cuh - one attention call as its kernels take it. */
#pragma once
#include "kernels/cuda/cuda.cuh"

/* Views by stream, TACA_IMG and TACA_TXT; a stream that is left out has no columns. */
struct attention_call {
    struct taca_mat q[2], k[2], v[2], o[2];
    const struct taca_seg *segs; /* device */
    int n_segs, heads, head_dim;
    float scale;
    bool causal;
    const float *rel_bias;      /* [heads, 2 n - 1], NULL = none */
    int64_t bias_ld, bias_zero; /* the column of i == j */
};

/* The segment's rows of a stream. */
static __host__ __device__ __forceinline__ int64_t seg_first(const struct taca_seg &s, int stream) {
    return stream == TACA_IMG ? s.img : s.txt;
}
static __host__ __device__ __forceinline__ int64_t seg_rows(const struct taca_seg &s, int stream) {
    return stream == TACA_IMG ? s.n_img : s.n_txt;
}

/* attention_mma.cu, _wgmma.cu and _wide.cu: false where the kernel cannot take the call, and
 * nothing was launched. */
bool attend_mma(struct cuda *c, const attention_call &a, const struct taca_layout *l);
bool attend_wgmma(struct cuda *c, const attention_call &a, const struct taca_layout *l);
bool attend_wide(struct cuda *c, const attention_call &a, const struct taca_layout *l);
