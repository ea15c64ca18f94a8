/* backend.h - the ops an MM-DiT needs, each with its equation, on whatever device a backend drives.
 *
 * A backend is one device with its memory, its weights and its first error. Model code calls the
 * taca_* functions below; they check shapes and go through the backend's table (struct
 * taca_backend_ops, kernels/backend_ops.h), which only backends see. Rules for every op:
 *   - destination first; dtypes f32 or bf16 per view unless said otherwise; arithmetic in float,
 *     rounded to nearest even on the way out;
 *   - a destination aliases no source unless the op says "in place";
 *   - returns void: the backend keeps its first error (shape, device) and does nothing from then
 *     on; taca_sync reports it. So a forward pass reads like the paper;
 *   - rows are ragged: a batch is packed rows plus a struct taca_layout, never padding;
 *   - work is queued: data of a destination may be read by the host only after taca_download.
 * With `deterministic` a result row depends only on its own inputs and its segment, bit for bit,
 * not on what else is in the batch. */
#ifndef TACA_KERNELS_BACKEND_H
#define TACA_KERNELS_BACKEND_H

#include <stdbool.h>

#include "base/err.h"
#include "kernels/tensor.h"

struct taca_backend;

/* Types of narrow linear maps: 8-bit integers (a CPU with AVX512-VNNI), 8-bit floats of 3 mantissa
 * bits (a CUDA device of compute capability 9.0 or more). */
enum taca_narrow { TACA_NARROW_NONE, TACA_NARROW_INT8, TACA_NARROW_FP8 };

struct taca_backend_opts {
    int threads;               /* CPU worker threads; 0 = what the process may use */
    enum taca_dtype precision; /* matmul inputs: TACA_F32 or TACA_BF16 */
    enum taca_narrow narrow;   /* type of narrow linear maps, see taca_backend_narrow */
    bool deterministic;
    bool scalar; /* CPU: plain C paths only, the oracle of the vector code */
};

/* Opens the CPU backend. bf16 on a CPU without AVX512-BF16 falls back to f32 (see
 * taca_backend_precision). */
enum taca_code taca_cpu_open(struct taca_backend **out, const struct taca_backend_opts *opts,
                             struct taca_err *err) TACA_MUST_USE;
/* Opens the backend of a device: "cpu" (or NULL), "cuda", "cuda:N", or "auto": the first CUDA
 * device, the CPU where there is none. A device that cannot be had is an error that
 * says why. */
enum taca_code taca_backend_open(struct taca_backend **out, const char *device,
                                 const struct taca_backend_opts *opts,
                                 struct taca_err *err) TACA_MUST_USE;
/* Whether taca_backend_open knows the name, and with `there` whether it would find the device now:
 * what it would say. */
enum taca_code taca_device_check(const char *device, bool there,
                                 struct taca_err *err) TACA_MUST_USE;
/* CUDA devices that can be used; 0 and the reason in *err (may be NULL) when there is none:
 * TACA_ENOTFOUND where the program has no CUDA backend with it. */
int taca_cuda_devices(struct taca_err *err);

/* A backend that computes nothing and counts: run a forward on it with empty scratch to learn what
 * it costs. Weight handles of any backend may be passed to its ops. */
struct taca_counts {
    double flops; /* 1 multiply-add = 2; matmul, convolution and attention only */
    double narrow_flops, conv_flops, attention_flops; /* those among them */
    double weight_bytes;                              /* read once per op that uses them */
    size_t scratch_bytes;                             /* peak of the scratch given to it */
};
enum taca_code taca_count_open(struct taca_backend **out, enum taca_dtype precision,
                               struct taca_err *err) TACA_MUST_USE;
struct taca_counts taca_count_read(const struct taca_backend *b);

/* A counting backend that stands for a real one: what is opened on it has the types that it would
 * have there, and the memory it would take is foreseen. It takes `real` over, also on failure. */
enum taca_code taca_count_open_for(struct taca_backend **out, struct taca_backend *real,
                                   struct taca_err *err) TACA_MUST_USE;
/* One that counts for models opened on b, and foresees for the same real one: b, or what b stands
 * for. */
enum taca_code taca_count_open_beside(struct taca_backend **out, struct taca_backend *b,
                                      struct taca_err *err) TACA_MUST_USE;
struct taca_backend *taca_count_real(struct taca_backend *b); /* NULL when it stands for none */
struct taca_foreseen {
    size_t kept_bytes;    /* of everything opened on it */
    size_t opening_bytes; /* the most that was in use while something was opened */
    size_t work_bytes;    /* memory for the ops that were run: buffers, compiled code */
};
/* Zeroes when it stands for none. */
struct taca_foreseen taca_count_foreseen(const struct taca_backend *b);

/* Memory that ops take beside their views, in buffers that the backend tells apart; each is as
 * large as the op wants it that wants most. */
enum { TACA_WORK_BUFFERS = 2 };
struct taca_work {
    size_t bytes[TACA_WORK_BUFFERS];
};
/* Of the ops that were counted since the last call; none where backends find room by themselves. */
struct taca_work taca_count_work(struct taca_backend *count);
/* Makes the buffers that large, so that such ops allocate nothing. On failure some may be. */
enum taca_code taca_work_reserve(struct taca_backend *b, const struct taca_work *work,
                                 struct taca_err *err) TACA_MUST_USE;

void taca_backend_close(struct taca_backend *b); /* frees its weights too; NULL is fine */
const char *taca_backend_name(const struct taca_backend *b);   /* "cpu" */
const char *taca_backend_detail(const struct taca_backend *b); /* "avx512-bf16, 2 threads" */
/* dtype of matmul inputs: activations that only feed a linear should be stored so. */
enum taca_dtype taca_backend_precision(const struct taca_backend *b);

/* Memory of the whole device, whoever uses it. False where the device has none of its own, or does
 * not say. */
struct taca_device_memory {
    size_t used_bytes, total_bytes;
};
bool taca_backend_memory(struct taca_backend *b, struct taca_device_memory *out);
size_t taca_backend_scratch_peak(const struct taca_backend *b); /* the most in use so far */

/* From now on linear maps are opened as narrow ones, until told otherwise: a backend that has them
 * keeps their weights in 8 bits (dtype U8) with a scale per output and brings inputs to 8 bits with
 * a scale per row, the largest magnitude of either being 127 (INT8) or 448 (FP8, e4m3). Nothing
 * changes on a backend without. */
void taca_backend_narrow(struct taca_backend *b, bool on);
/* What it has: the type that was asked for, or NONE where the device cannot. */
enum taca_narrow taca_backend_narrow_type(const struct taca_backend *b);

/* ---- memory -------------------------------------------------------------------------------- */

void *taca_alloc(struct taca_backend *b, size_t bytes,
                 struct taca_err *err); /* 64-aligned; NULL on failure */
/* Why the last taca_alloc gave NULL: no memory, or the backend's error, as of a lost device. */
enum taca_code taca_alloc_code(const struct taca_backend *b);
void taca_free(struct taca_backend *b, void *p);
void taca_upload(struct taca_backend *b, void *dst, const void *host, size_t bytes);
void taca_download(struct taca_backend *b, void *host, const void *src, size_t bytes); /* waits */
void taca_fill_zero(struct taca_backend *b, void *dst, size_t bytes);
/* Waits for queued work; the first error since the last sync, which is cleared. */
enum taca_code taca_sync(struct taca_backend *b, struct taca_err *err) TACA_MUST_USE;

/* ---- replay ----------------------------------------------------------------------------------
 *
 * Ops cost a device little and the host much when they are small and many. A backend may keep the
 * ops between the two calls as one piece (a CUDA graph), and give its device that piece the next
 * time it meets the key:
 *     if (!taca_replay(b, key, bytes))
 *         do ops(); while (!taca_recorded(b));
 * The key tells apart everything that those ops depend on but the contents of device memory:
 * addresses, shapes, weights, scalars, the text of host arguments. Between the calls nothing is
 * uploaded, downloaded, allocated, closed or waited for. */

/* False where making a key would be in vain. */
bool taca_replays(const struct taca_backend *b);
/* True: the ops are queued, as they were recorded. False: run them, then ask taca_recorded. */
bool taca_replay(struct taca_backend *b, const void *key, size_t bytes);
/* False: recording them came to nothing, and neither was anything run. Run them again. */
bool taca_recorded(struct taca_backend *b);
/* What was recorded will not be replayed: something that it uses is about to go. */
void taca_replay_forget(struct taca_backend *b);
/* Whether to do so at all; on when a backend opens. */
void taca_backend_replay(struct taca_backend *b, bool on);
struct taca_replay_counts {
    long long plain, recorded, replayed; /* runs without, first and later runs of a recording */
    long long failed;                    /* recordings that came to nothing */
    int kept;                            /* recordings there are now */
    size_t kept_bytes;                   /* of the device that they take, as far as known */
};
struct taca_replay_counts taca_replay_count(const struct taca_backend *b);

/* ---- lanes ----------------------------------------------------------------------------------- */

/* Two queues of work on one device. What is called from now on is queued on the lane that was
 * chosen last, STEP at first, and runs there in order; the lanes run beside each other, STEP with
 * precedence, and meet only where the host waits for one (taca_sync, taca_download: those of the
 * lane of now) or a mark says so. Memory is freed on the lane that used it last. A backend without
 * lanes has one queue: choosing changes nothing and marks are done when they are set. */
enum taca_lane { TACA_LANE_STEP, TACA_LANE_SIDE, TACA_LANES };
bool taca_has_lanes(const struct taca_backend *b);
enum taca_lane taca_lane(struct taca_backend *b, enum taca_lane lane); /* returns the last one */

/* A place in a lane's queue. */
struct taca_mark {
    void *event; /* NULL: without lanes */
};
enum taca_code taca_mark_open(struct taca_backend *b, struct taca_mark *m,
                              struct taca_err *err) TACA_MUST_USE;
void taca_mark_close(struct taca_backend *b, struct taca_mark *m); /* zeroed is fine */
void taca_mark_set(struct taca_backend *b, struct taca_mark *m);   /* behind all that is queued */
/* Is all before it done? Also when it never will be: then taca_sync says why. */
bool taca_mark_done(struct taca_backend *b, const struct taca_mark *m);
/* What is queued from now on begins behind it. */
void taca_mark_follow(struct taca_backend *b, const struct taca_mark *m);
/* The first error since the last sync, which is cleared, without waiting: what could not be queued.
 * What fails on the device is reported by the sync that waits for it. */
enum taca_code taca_queued(struct taca_backend *b, struct taca_err *err) TACA_MUST_USE;

/* Step scratch: a bump allocator over one block of backend memory. taca_scratch_reserve makes room
 * (the only place that allocates); the taca_scratch_* getters advance, and on a counting backend or
 * a scratch without room they return views with data == NULL while `peak` keeps growing, the latter
 * also setting the backend's error. Release by setting `used` back to a saved value. */
struct taca_scratch {
    struct taca_backend *b;
    char *base;
    size_t size, used, peak;
};
enum taca_code taca_scratch_reserve(struct taca_scratch *s, size_t bytes,
                                    struct taca_err *err) TACA_MUST_USE;
void taca_scratch_finish(struct taca_scratch *s);
struct taca_mat taca_scratch_mat(struct taca_scratch *s, enum taca_dtype dtype, int64_t rows,
                                 int64_t cols);
struct taca_map taca_scratch_map(struct taca_scratch *s, enum taca_dtype dtype, int64_t n,
                                 int64_t h, int64_t w, int64_t c);

/* ---- weights: live as long as the backend, prepared once at load ---------------------------- */

/* y = x W^T + b. The parts' rows are stacked (q, k, v become one matmul); each part is [out_i, in]
 * (or [out_i, in, 1, 1], or a patch convolution [out_i, c, p, p], flattened). biases[i] is [out_i];
 * biases == NULL means no bias at all. */
struct taca_linear {
    int64_t in, out;
    enum taca_dtype dtype; /* as stored for the matmul */
    bool has_bias;
    bool short_bias; /* bf16 holds its values, as far as known */
};
enum taca_code taca_linear_open(struct taca_backend *b, struct taca_linear **out,
                                const struct taca_tensor *parts, const struct taca_tensor *biases,
                                int n_parts, struct taca_err *err) TACA_MUST_USE;

/* Weights that come and go (adapters). NULL is fine. */
void taca_linear_close(struct taca_backend *b, struct taca_linear *w);

struct taca_conv {
    int64_t c_in, c_out, kh, kw;
    int stride;
    int pad_top, pad_left, pad_bottom, pad_right;
    enum taca_dtype dtype;
};
/* weight [c_out, c_in, kh, kw], bias [c_out]; geometry fields of *shape (stride, pads) are taken.
 */
enum taca_code taca_conv_open(struct taca_backend *b, struct taca_conv **out,
                              const struct taca_tensor *weight, const struct taca_tensor *bias,
                              const struct taca_conv *shape, struct taca_err *err) TACA_MUST_USE;

/* n floats on the device (norm gains, biases). */
struct taca_vec {
    const float *data;
    int64_t n;
};
enum taca_code taca_vec_open(struct taca_backend *b, struct taca_vec *out,
                             const struct taca_tensor *t, struct taca_err *err) TACA_MUST_USE;
/* A lookup table [rows, cols] (token embeddings, position table), kept as f32. Rank 2, or rank 3
 * with a leading 1. */
enum taca_code taca_table_open(struct taca_backend *b, struct taca_mat *out,
                               const struct taca_tensor *t, struct taca_err *err) TACA_MUST_USE;

/* ---- raggedness ------------------------------------------------------------------------------ */

/* One attention segment: rows [img, img + n_img) of the image stream and [txt, txt + n_txt) of the
 * text stream. A CFG pair is two segments. Encoders and the VAE use the image stream alone. */
struct taca_seg {
    int64_t img, n_img;
    int64_t txt, n_txt;
    float gamma; /* TACA: factor on logits of image queries and text keys; 1 = plain attention */
};

/* The segments of one batch, shared by all ops of a forward; init copies them to the device. Row
 * ranges are contiguous, in order and cover each stream. */
struct taca_layout {
    struct taca_backend *b;
    const struct taca_seg *segs; /* host copy */
    int n_segs;
    int64_t img_rows, txt_rows;
    void *device;  /* the backend's own form */
    bool borrowed; /* that is scratch */
};
enum taca_code taca_layout_init(struct taca_layout *l, struct taca_backend *b,
                                const struct taca_seg *segs, int n_segs,
                                struct taca_err *err) TACA_MUST_USE;
/* The same with the device's form in scratch: free again when `used` is set back. */
enum taca_code taca_scratch_layout(struct taca_scratch *s, struct taca_layout *l,
                                   const struct taca_seg *segs, int n_segs,
                                   struct taca_err *err) TACA_MUST_USE;
void taca_layout_finish(struct taca_layout *l);

enum taca_stream { TACA_IMG, TACA_TXT };

/* ---- ops ------------------------------------------------------------------------------------- */

enum taca_act {
    TACA_ACT_NONE,
    TACA_ACT_SILU,       /* x / (1 + exp(-x)) */
    TACA_ACT_GELU_TANH,  /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    TACA_ACT_GELU_ERF,   /* 0.5 x (1 + erf(x / sqrt 2)) */
    TACA_ACT_QUICK_GELU, /* x / (1 + exp(-1.702 x)) */
    TACA_ACT_RELU,       /* max(x, 0) */
};

/* How rows should be stored that only feed w: in the backend's precision, or as TACA_U8 where what
 * makes them can bring them to 8 bits on its way (FP8). Such a row has its e4m3 values and behind
 * them the float that they are to be multiplied by, all on 16 bytes: ld = cols + TACA_ROW_SCALE.
 * norm_modulate and gate_norm of f32 rows write them, linear reads them, with the bits that bf16
 * rows in between would give; no other op knows them. */
enum { TACA_ROW_SCALE = 16 };
enum taca_dtype taca_linear_input(const struct taca_backend *b, const struct taca_linear *w);

/* y = act(x W^T + b).   x [rows, in], y [rows, out]; x may be f32 whatever the weights are. */
void taca_linear(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                 const struct taca_linear *w, enum taca_act act);

/* y_r += gate[s] * scale * (B A x_r + bias), s = segment of row r in a stream: a low-rank change of
 * a linear map, applied beside it. Rows whose gate is 0 are neither read nor written.
 *   x [rows, in], y [rows, out], often columns of a wider matrix; A [rank, in], B [out, rank];
 *   gate: one host float per segment, or one for all rows when layout is NULL; s: scratch */
struct taca_low_rank_parts {
    struct taca_tensor down, up;    /* A, B */
    const struct taca_tensor *bias; /* [out], NULL = none */
    float scale;
};
struct taca_low_rank {
    struct taca_linear *down, *up;
    float scale;
    bool has_bias;
};
enum taca_code taca_low_rank_open(struct taca_backend *b, struct taca_low_rank *out,
                                  const struct taca_low_rank_parts *p,
                                  struct taca_err *err) TACA_MUST_USE;
void taca_low_rank_close(struct taca_backend *b, struct taca_low_rank *w); /* zeroed is fine */
struct taca_gates {
    const float *gate;
    const struct taca_layout *layout;
    enum taca_stream stream;
};
void taca_low_rank_add(struct taca_backend *b, struct taca_scratch *s, struct taca_mat y,
                       struct taca_mat x, const struct taca_low_rank *w,
                       const struct taca_gates *g);

/* y = act(x), in place allowed. Same shape. */
void taca_activate(struct taca_backend *b, struct taca_mat y, struct taca_mat x, enum taca_act act);

/* y = (x - mean) / sqrt(var + eps) * gain + bias per row, biased variance.
 *   gain, bias  [cols] or NULL (1 and 0) */
void taca_layer_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                     const struct taca_vec *gain, const struct taca_vec *bias, float eps);

/* y_r = LN(x_r) o (1 + mod[s, scale..]) + mod[s, shift..], s = segment of row r in `stream`;
 * LN without gain and bias.   x, y [rows of stream, d]; mod f32 [n_segs, width]; shift, scale are
 * first columns of d-wide ranges. */
void taca_norm_modulate(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                        struct taca_mat mod, int64_t shift, int64_t scale,
                        const struct taca_layout *l, enum taca_stream stream, float eps);

/* x_r += mod[s, gate..] o y_r.   x f32, y any, shapes and mod as above. */
void taca_gate_add(struct taca_backend *b, struct taca_mat x, struct taca_mat y,
                   struct taca_mat mod, int64_t gate, const struct taca_layout *l,
                   enum taca_stream stream);

/* Between two sublayers, in one pass and with the bits of gate_add and norm_modulate one after the
 * other: what the last one gave joins the residual, which is normed for the next one.
 *   x_r += mod[s, gate..] o y_r;  h_r = LN(x_r) o (1 + mod[s, scale..]) + mod[s, shift..]
 *   x, y f32, h any, shapes and mod as above */
struct taca_adaln {
    struct taca_mat mod;
    int64_t gate, shift, scale;
    const struct taca_layout *layout;
    enum taca_stream stream;
    float eps;
};
void taca_gate_norm(struct taca_backend *b, struct taca_mat h, struct taca_mat x, struct taca_mat y,
                    const struct taca_adaln *m);

/* y = a + c, in place allowed (y may be a or c). */
void taca_add(struct taca_backend *b, struct taca_mat y, struct taca_mat a, struct taca_mat c);

/* y = a o c elementwise, in place allowed (y may be a or c). */
void taca_multiply(struct taca_backend *b, struct taca_mat y, struct taca_mat a, struct taca_mat c);

/* y = x / sqrt(mean(x^2) + eps) * gain per row, in place allowed.   gain [cols] */
void taca_rms_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                   const struct taca_vec *gain, float eps);

/* Queries and keys before attention, in place: each head h of each row is normed and then turned to
 * its rotary place, neighbours paired, and rounded once:
 *   x_h = x_h / sqrt(mean(x_h^2) + eps) * gain, gain_q for q and gain_k for k
 *   (x_2p, x_2p+1) = (x_2p cos_p - x_2p+1 sin_p, x_2p+1 cos_p + x_2p sin_p) for the pairs p of x_h
 *   q, k  [rows, heads * D] of one dtype; gains [D]
 *   table f32 [rows, D]: the cosines of a row's D/2 pairs, then their sines */
struct taca_qk {
    const struct taca_vec *gain_q, *gain_k; /* both or none: heads are not normed */
    struct taca_mat table;                  /* zeroed: nothing turns */
    float eps;
};
void taca_qk_norm_rope(struct taca_backend *b, struct taca_mat q, struct taca_mat k,
                       const struct taca_qk *w);

/* o = softmax(z) v per segment and head, over the segment's image and text keys jointly, where
 *   z_ij = gamma_s * scale * q_i.k_j   for image query i and text key j,
 *   z_ij = scale * q_i.k_j             otherwise;  CAUSAL: key j <= query i, image stream only.
 * With rel_bias, z_ij += rel_bias[head, n - 1 + i - j], i and j counted from the segment's start.
 *   q, k, v  [rows of the stream, heads * head_dim]; o alike, aliases none of them
 *   rel_bias [heads, 2 n - 1] f32 on the device, n at least the longest segment, image stream only;
 *            zeroed: none
 * Softmax in float with the maximum taken after gamma; no n x n matrix is stored. A bf16 backend
 * may round the weights of bf16 values to bf16, as inputs of the second product. gamma = 1 gives
 * the plain result bit for bit. A stream without rows may have zeroed views; zeroed text views
 * leave the text out though the layout has it: image rows attend to image rows alone. o of the text
 * stream may be zeroed (data NULL, no rows, no columns): text queries are then not computed. */
enum taca_mask { TACA_MASK_NONE, TACA_MASK_CAUSAL };
struct taca_qkv {
    struct taca_mat q, k, v;
};
struct taca_attn {
    int heads;
    float scale;
    enum taca_mask mask;
    struct taca_mat rel_bias;
};
void taca_attention(struct taca_backend *b, struct taca_mat o_img, struct taca_mat o_txt,
                    struct taca_qkv img, struct taca_qkv txt, const struct taca_layout *l,
                    const struct taca_attn *a);

/* y_r = table[ids[r]].   ids: rows(y) host integers, each in [0, rows(table)). */
void taca_embed(struct taca_backend *b, struct taca_mat y, struct taca_mat table,
                const int32_t *ids);

/* Sinusoidal features of t: y[r] = [cos(t_r f_k) | sin(t_r f_k)], k < cols/2, f_k = exp(e_k) with
 * e_k = float(-ln 10000) * k / (cols/2): exponent, frequency and product each rounded to float, as
 * the reference does.   t: rows(y) host floats; y f32 */
void taca_time_features(struct taca_backend *b, struct taca_mat y, const float *t);

/* Tokens of a latent in row-major patch order.   x [c, h, w], y [h/p * w/p, c*p*p]
 *   CHANNEL_MAJOR  column (ch * p + dy) * p + dx      (SD3 input, FLUX both ways)
 *   CHANNEL_LAST   column (dy * p + dx) * c + ch      (SD3 output) */
enum taca_patch { TACA_PATCH_CHANNEL_MAJOR, TACA_PATCH_CHANNEL_LAST };
void taca_patchify(struct taca_backend *b, struct taca_mat y, struct taca_chw x, int p,
                   enum taca_patch order);
void taca_unpatchify(struct taca_backend *b, struct taca_chw y, struct taca_mat x, int p,
                     enum taca_patch order);

/* x[r * w + c] += table[(top + r) * side + left + c], the centred h x w window of a side x side
 * table: top = (side - h) / 2, left = (side - w) / 2.   x [h*w, d], table [side*side, d] */
void taca_add_position(struct taca_backend *b, struct taca_mat x, struct taca_mat table,
                       int64_t side, int64_t h, int64_t w);

/* Euler step with classifier-free guidance: v = u + g (c - u), or v = c when u.data is NULL;
 * x += dsigma v; c := v (kept for previews).   x, c, u same shape */
void taca_cfg_euler(struct taca_backend *b, struct taca_chw x, struct taca_chw c, struct taca_chw u,
                    float guidance, float dsigma);

/* y = a * x + c elementwise, in place allowed. */
void taca_axpb(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float c);

/* y = a * x + c * y elementwise. */
void taca_axpby(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float c);

/* y = m * y + (1 - m) * x with one plane of m for all channels.   m [1, h, w] */
void taca_blend(struct taca_backend *b, struct taca_chw y, struct taca_chw x, struct taca_chw m);

/* ---- feature maps ---------------------------------------------------------------------------- */

/* map[0, y, x, ch] = chw[ch, y, x] and back. n = 1. */
void taca_chw_to_map(struct taca_backend *b, struct taca_map y, struct taca_chw x);
void taca_map_to_chw(struct taca_backend *b, struct taca_chw y, struct taca_map x);

/* y[n,i,j,o] = bias[o] + sum_{k,l,c} w[o,c,k,l] x[n, i*stride + k - pad_top, j*stride + l -
 * pad_left, c], zero outside x. */
void taca_conv2d(struct taca_backend *b, struct taca_map y, struct taca_map x,
                 const struct taca_conv *w);
/* y += that, rounded once. */
void taca_conv2d_add(struct taca_backend *b, struct taca_map y, struct taca_map x,
                     const struct taca_conv *w);

/* y = act((x - mean_g) / sqrt(var_g + eps) * gain_c + bias_c); mean and biased variance over the
 * h * w * c/groups values of image n and group g. act is NONE or SILU. In place allowed. */
void taca_group_norm(struct taca_backend *b, struct taca_map y, struct taca_map x,
                     const struct taca_vec *gain, const struct taca_vec *bias, int groups,
                     float eps, enum taca_act act);

/* y[n, i, j, c] = x[n, i/2, j/2, c]. */
void taca_upsample2(struct taca_backend *b, struct taca_map y, struct taca_map x);

/* pixels = round_half_even(255 * clamp(x/2 + 1/2, 0, 1)) as h * w RGB bytes; n = 1, c = 3. Values
 * that are not finite become 0.   pixels: taca_rgb8_bytes(h, w) of the device's memory */
size_t taca_rgb8_bytes(int64_t h, int64_t w);
void taca_map_to_rgb8(struct taca_backend *b, void *pixels, struct taca_map x);
/* Those bytes to HOST memory. Waits. When a value was not finite that is TACA_ENUMERIC at sync. */
void taca_rgb8_read(struct taca_backend *b, uint8_t *host, const void *pixels, int64_t h,
                    int64_t w);

/* A map seen as rows of pixels [n*h*w, c], and the other way round. */
static inline struct taca_mat taca_map_rows(struct taca_map m) {
    return (struct taca_mat){m.data, m.dtype, m.n * m.h * m.w, m.c, m.c};
}

#endif
