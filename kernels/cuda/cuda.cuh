/* cuda.cuh - the CUDA backend's own struct and what its files share.
 *
 * A stream for each lane, in order: an op launches and returns, `wait` synchronises. Kernels get
 * plain views; host data travels through a pinned ring (stage.cu), so a caller's memory is free
 * again when an upload returns. Errors of the runtime become the backend's first error: no memory
 * is TACA_ENOMEM, the rest TACA_EDEVICE, after which a process must give the device up. */
#pragma once
#include <ptx.cuh>

#include <type_traits>

extern "C" {
#include "kernels/module.h"
}

typedef __nv_bfloat16 bf16;

/* Work memory that grows and stays. */
struct cuda_buf {
    void *p;
    size_t size;
    size_t foreseen, needed; /* by ops that were only counted: ever, and since last asked */
};

/* Anything with weights, in a list so that close finds it. */
struct cuda_weight {
    cuda_weight *next;
    void (*close)(struct cuda *c, cuda_weight *w);
};

/* Pinned host memory in two halves, each with the event that says when it was read. */
struct cuda_stage {
    char *p;
    size_t used;
    int half;
    cudaEvent_t read[2];
    bool pending[2];
};

/* What each lane has of its own. */
struct cuda_lane {
    cudaStream_t stream;
    struct cuda_stage stage;
    struct cuda_buf in, out; /* inputs as a weight wants them, outputs before they are narrowed */
    void *workspace;         /* cuBLASLt's */
};

/* A block that was handed out, or is kept for the next who asks for its size. */
struct cuda_block {
    void *p;
    size_t size; /* as allocated */
    bool used;
    enum taca_lane lane; /* that it was freed on, */
    uint64_t wait;       /* after so many waits for it */
};

struct cuda_graphs; /* graph.cu: ops that were recorded */
struct lt;          /* matmul.cu: the library, its handle and the algorithms chosen */

struct cuda {
    struct taca_backend base; /* first: the table casts */
    const struct taca_module_host *host;
    int device, sms;
    int arch;            /* 10 * major + minor of its compute capability */
    size_t shared_bytes; /* the most of shared memory that a block may have */
    bool deterministic;
    bool wgmma[2];       /* heads of 64, of 128: attention_wgmma.cu is right here, and not slower */
    cudaStream_t stream; /* these five are of the lane of now, `away` has the other's */
    struct cuda_stage stage;
    struct cuda_buf in, out;
    void *workspace;
    struct cuda_lane away;
    uint64_t waits[TACA_LANES];
    struct cuda_block *blocks; /* newest last */
    int n_blocks, cap_blocks;
    cuda_weight *weights;
    struct lt *lt;
    struct cuda_graphs *graphs; /* NULL: no memory for them */
};

static inline struct cuda *cuda_of(struct taca_backend *b) { return (struct cuda *)b; }

/* ---- errors ---------------------------------------------------------------------------------- */

/* True when e is no error; else it becomes the backend's, worded "what: reason". */
bool cuda_ok(struct cuda *c, cudaError_t e, const char *what);
/* The same of the launches since the last call. */
static inline bool cuda_launched(struct cuda *c, const char *op) {
    return cuda_ok(c, cudaGetLastError(), op);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* At least `bytes` of b; NULL records TACA_ENOMEM with the op's name. */
void *cuda_buf_get(struct cuda *c, struct cuda_buf *b, size_t bytes, const char *op);
/* Notes that so much will be asked for. */
static inline void cuda_buf_foresee(struct cuda_buf *b, size_t bytes) {
    if (b->foreseen < bytes) b->foreseen = bytes;
    if (b->needed < bytes) b->needed = bytes;
}
/* Device memory that lives as long as a weight; NULL and *err when there is none. */
void *cuda_weight_alloc(struct cuda *c, size_t bytes, const char *what, struct taca_err *err);

static const size_t CUDA_STAGE_HALF = 16 << 20; /* the most that is converted at once */
bool cuda_stage_open(struct cuda *c, struct cuda_stage *s);
void cuda_stage_close(struct cuda_stage *s);
void cuda_stage_upload(struct cuda *c, void *dst, const void *host, size_t bytes);

/* dst (bf16 or f32, device) gets n values of any float dtype in host memory: they travel as they
 * are and are converted on the device. */
void cuda_upload_as(struct cuda *c, void *dst, enum taca_dtype to, const void *host,
                    enum taca_dtype from, size_t n);

/* ---- recorded ops: graph.cu ------------------------------------------------------------------ */

bool cuda_graphs_open(struct cuda *c);
void cuda_graphs_close(struct cuda *c);
bool cuda_replay(struct taca_backend *b, const void *key, size_t bytes);
bool cuda_recorded(struct taca_backend *b);
void cuda_replay_forget(struct taca_backend *b);
struct taca_replay_counts cuda_replay_count(const struct taca_backend *b);
/* True while ops are recorded instead of run. Whoever has to allocate, wait or copy from the host's
 * memory then does nothing: the recording is given up, and the ops will run once more. */
bool cuda_must_not_now(struct cuda *c);

/* ---- lanes (lanes.cu) ------------------------------------------------------------------------ */

bool cuda_lanes_open(struct cuda *c);
void cuda_lanes_close(struct cuda *c);
/* The stream of either lane. */
static inline cudaStream_t cuda_stream_of(const struct cuda *c, enum taca_lane lane) {
    return lane == c->base.lane ? c->stream : c->away.stream;
}
/* True when it has nothing left to do. */
bool cuda_lane_idle(struct cuda *c, enum taca_lane lane);
void cuda_lane(struct taca_backend *b, enum taca_lane lane);
void *cuda_mark_open(struct taca_backend *b);
void cuda_mark_close(struct taca_backend *b, void *event);
void cuda_mark_set(struct taca_backend *b, void *event);
bool cuda_mark_done(struct taca_backend *b, void *event);
void cuda_mark_follow(struct taca_backend *b, void *event);

/* ---- values ---------------------------------------------------------------------------------- */

static __device__ __forceinline__ float to_float(float x) { return x; }
static __device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
template <class T> __device__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return __float2bfloat16_rn(x);
}

/* An activation as an op's last act; the formulas are those of enum taca_act. */
static __device__ __forceinline__ float act_of(float x, enum taca_act act) {
    switch (act) {
    case TACA_ACT_SILU: return x / (1 + expf(-x));
    case TACA_ACT_GELU_TANH:
        return 0.5f * x * (1 + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case TACA_ACT_GELU_ERF: return 0.5f * x * (1 + erff(x * 0.7071067811865476f));
    case TACA_ACT_QUICK_GELU: return x / (1 + expf(-1.702f * x));
    case TACA_ACT_RELU: return x > 0 ? x : 0;
    case TACA_ACT_NONE: break;
    }
    return x;
}

/* N neighbours at once: one access of at most 16 bytes, or two. */
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) pack { T v[N]; };

/* The sum over a warp, in every lane. */
static __device__ __forceinline__ float warp_sum(float x) {
    for (int m = 16; m; m >>= 1) x += __shfl_xor_sync(~0u, x, m);
    return x;
}
static __device__ __forceinline__ float warp_max(float x) {
    for (int m = 16; m; m >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, m));
    return x;
}

/* The value that is this thread's, in a launch of one thread for each. */
static __device__ __forceinline__ int64_t my_value() {
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}
/* Element (r, i) of a matrix whose type is known. */
template <class T>
static __device__ __forceinline__ T *at(struct taca_mat m, int64_t r, int64_t i) {
    return (T *)m.data + r * m.ld + i;
}

/* f(pointer of the view's element type, its value not used): picks an instance by dtype. */
template <class F> void by_dtype(enum taca_dtype t, F f) {
    if (t == TACA_BF16)
        f((bf16 *)nullptr);
    else
        f((float *)nullptr);
}
template <class P> using element = typename std::remove_pointer<P>::type;
template <class F> void by_dtypes(enum taca_dtype t, enum taca_dtype u, F f) {
    by_dtype(t, [&](auto *a) { by_dtype(u, [&](auto *b) { f(a, b); }); });
}

static inline unsigned blocks_for(int64_t n, int64_t per_block) {
    return (unsigned)((n + per_block - 1) / per_block);
}

/* ---- the ops, by file ------------------------------------------------------------------------ */

/* matmul.cu */
enum taca_code lt_open(struct cuda *c, struct taca_err *err);
/* Has the library 8-bit products with a scale for each row and each output on this device? It is
 * asked, nothing runs; false as well with the backend's error. */
bool lt_has_narrow(struct cuda *c);
void lt_close(struct cuda *c);
enum taca_code cuda_linear_open(struct taca_backend *b, struct taca_linear **out,
                                const struct taca_tensor *parts, const struct taca_tensor *biases,
                                int n_parts, struct taca_err *err);
void cuda_linear_close(struct taca_backend *b, struct taca_linear *w);
void cuda_linear(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                 const struct taca_linear *w, enum taca_act act);
struct taca_weight_bytes cuda_weigh_linear(struct taca_backend *b, struct taca_linear *w);
void cuda_foresee_linear(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                         const struct taca_linear *w, enum taca_act act);
extern const size_t cuda_lt_bytes; /* what the library is given */
/* fp8.cu: q [rows, cols] dense, scale [rows] */
void cuda_quantise(struct cuda *c, uint8_t *q, float *scale, struct taca_mat x);
/* scale [rows] of rows in 8 bits, which have theirs behind them */
void cuda_row_scales(struct cuda *c, float *scale, struct taca_mat x);
/* rows.cu */
void cuda_layer_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                     const float *gain, const float *bias, float eps);
void cuda_norm_modulate(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                        struct taca_mat shift, struct taca_mat scale, const int32_t *seg_of_row,
                        float eps);
void cuda_gate_norm(struct taca_backend *b, struct taca_mat h, struct taca_mat x, struct taca_mat y,
                    const struct taca_gate_norm *m);
void cuda_rms_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x, const float *gain,
                   float eps);
/* heads.cu */
void cuda_qk_norm_rope(struct taca_backend *b, struct taca_mat q, struct taca_mat k,
                       const struct taca_qk *w, int64_t d);
/* elementwise.cu */
void cuda_activate(struct taca_backend *b, struct taca_mat y, struct taca_mat x, enum taca_act act);
void cuda_gate_add(struct taca_backend *b, struct taca_mat x, struct taca_mat y,
                   struct taca_mat gate, const int32_t *seg_of_row);
void cuda_add(struct taca_backend *b, struct taca_mat y, struct taca_mat a, struct taca_mat m);
void cuda_multiply(struct taca_backend *b, struct taca_mat y, struct taca_mat a, struct taca_mat m);
void cuda_cfg_euler(struct taca_backend *b, struct taca_chw x, struct taca_chw v, struct taca_chw u,
                    float guidance, float dsigma);
void cuda_axpb(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float d);
void cuda_axpby(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float d);
void cuda_blend(struct taca_backend *b, struct taca_chw y, struct taca_chw x, struct taca_chw m);
/* attention_check.cu: chooses between kernels, and says so in the backend's detail */
enum taca_code cuda_attention_open(struct cuda *c, struct taca_err *err);
/* attention.cu */
void cuda_attention(struct taca_backend *b, struct taca_mat o_img, struct taca_mat o_txt,
                    const struct taca_qkv *img, const struct taca_qkv *txt,
                    const struct taca_layout *l, const struct taca_attn *a);
/* tokens.cu */
void cuda_embed(struct taca_backend *b, struct taca_mat y, struct taca_mat table,
                const int32_t *host_ids);
void cuda_time_features(struct taca_backend *b, struct taca_mat y, const float *host_t);
void cuda_patchify(struct taca_backend *b, struct taca_mat y, struct taca_chw x, int p,
                   enum taca_patch order);
void cuda_unpatchify(struct taca_backend *b, struct taca_chw y, struct taca_mat x, int p,
                     enum taca_patch order);
void cuda_add_position(struct taca_backend *b, struct taca_mat x, struct taca_mat table,
                       int64_t side, int64_t h, int64_t w);
/* conv.cu */
enum taca_code cuda_conv_open(struct taca_backend *b, struct taca_conv **out,
                              const struct taca_tensor *weight, const struct taca_tensor *bias,
                              const struct taca_conv *shape, struct taca_err *err);
struct taca_weight_bytes cuda_weigh_conv(struct taca_backend *b, struct taca_conv *w);
void cuda_conv2d(struct taca_backend *b, struct taca_map y, struct taca_map x,
                 const struct taca_conv *w, bool add);
void cuda_foresee_conv2d(struct taca_backend *b, struct taca_map y, struct taca_map x,
                         const struct taca_conv *w, bool add);
/* group_norm.cu */
static const size_t CUDA_GROUP_BYTES = 4 << 20; /* its work memory */
void cuda_group_norm(struct taca_backend *b, struct taca_map y, struct taca_map x,
                     const float *gain, const float *bias, int groups, float eps,
                     enum taca_act act);
/* map.cu */
void cuda_chw_to_map(struct taca_backend *b, struct taca_map y, struct taca_chw x);
void cuda_map_to_chw(struct taca_backend *b, struct taca_chw y, struct taca_map x);
void cuda_upsample2(struct taca_backend *b, struct taca_map y, struct taca_map x);
void cuda_map_to_rgb8(struct taca_backend *b, uint8_t *pixels, struct taca_map x);
