/* cpu.h - the CPU backend's own struct and what its files share. */
#ifndef TACA_KERNELS_CPU_CPU_H
#define TACA_KERNELS_CPU_CPU_H

#include <string.h>

#include "kernels/backend_ops.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/par.h"

/* Work memory that grows and stays; 64-aligned. */
struct cpu_buf {
    void *p;
    size_t size;
    size_t foreseen; /* what ops would have asked for */
};
static inline void cpu_buf_foresee(struct cpu_buf *b, size_t bytes) {
    if (b->foreseen < bytes) b->foreseen = bytes;
}

/* Anything with weights, in a list so that close finds it. */
struct cpu_weight {
    struct cpu_weight *next;
    void (*close)(struct cpu_weight *w);
};

struct cpu_dnn; /* dnn.h: the oneDNN engine and stream; NULL in scalar mode */
/* Keeps oneDNN's work on the calling thread: the pool is the only source of parallelism. */
void cpu_dnn_bind(void *dnn);

struct cpu {
    struct taca_backend base;
    const struct cpu_kernels *k;
    struct cpu_pool *pool;
    int threads;
    bool deterministic;
    struct cpu_dnn *dnn;
    struct cpu_weight *weights;
    struct cpu_buf in, out; /* inputs as a weight wants them, outputs before they are narrowed */
    struct cpu_buf tail_in, tail_out; /* padded last rows in deterministic mode */
    struct cpu_buf pad;               /* the library's, a piece per thread */
    struct cpu_buf own;               /* of attention and group norm */
    struct cpu_code *code;            /* compiled code that is foreseen; dnn.c */
};

static inline struct cpu *cpu_of(struct taca_backend *b) { return (struct cpu *)b; }

/* At least `bytes` of b; NULL records TACA_ENOMEM with the op's name. */
void *cpu_buf_get(struct cpu *c, struct cpu_buf *b, size_t bytes, const char *op);

/* fn(ctx, first, last) over [0, rows), split when `rows * cost` element steps repay a fork. */
void cpu_split(struct cpu *c, int64_t rows, int64_t cost,
               void (*fn)(void *ctx, int64_t first, int64_t last), void *ctx);
/* y = x, row by row, in y's type. */
void cpu_copy_rows(struct cpu *c, struct taca_mat y, struct taca_mat x);

static inline float cpu_get(const void *p, enum taca_dtype t, int64_t i) {
    return t == TACA_F32 ? ((const float *)p)[i] : taca_bf16_to_f32(((const uint16_t *)p)[i]);
}
static inline void cpu_put(void *p, enum taca_dtype t, int64_t i, float v) {
    if (t == TACA_F32)
        ((float *)p)[i] = v;
    else
        ((uint16_t *)p)[i] = taca_f32_to_bf16(v);
}
float cpu_act(float x, enum taca_act act); /* plain C */

/* the ops, by file */
extern const struct taca_backend_ops cpu_ops;
enum taca_code cpu_linear_open(struct taca_backend *b, struct taca_linear **out,
                               const struct taca_tensor *parts, const struct taca_tensor *biases,
                               int n_parts, struct taca_err *err); /* matmul.c */
void cpu_linear_close(struct taca_backend *b, struct taca_linear *w);
struct taca_weight_bytes cpu_weigh_linear(struct taca_backend *b, struct taca_linear *w);
void cpu_foresee_linear(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                        const struct taca_linear *w, enum taca_act act);
void cpu_linear(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                const struct taca_linear *w, enum taca_act act);
enum taca_code cpu_conv_open(struct taca_backend *b, struct taca_conv **out,
                             const struct taca_tensor *weight, const struct taca_tensor *bias,
                             const struct taca_conv *shape, struct taca_err *err); /* conv.c */
void cpu_conv2d(struct taca_backend *b, struct taca_map y, struct taca_map x,
                const struct taca_conv *w, bool add);
struct taca_weight_bytes cpu_weigh_conv(struct taca_backend *b, struct taca_conv *w);
void cpu_foresee_conv2d(struct taca_backend *b, struct taca_map y, struct taca_map x,
                        const struct taca_conv *w, bool add);
void cpu_foresee_attention(struct taca_backend *b, const struct taca_qkv *img,
                           const struct taca_qkv *txt, const struct taca_layout *l,
                           const struct taca_attn *a);
void cpu_attention(struct taca_backend *b, struct taca_mat o_img, struct taca_mat o_txt,
                   const struct taca_qkv *img, const struct taca_qkv *txt,
                   const struct taca_layout *l, const struct taca_attn *a); /* attention.c */
void cpu_layer_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x, const float *gain,
                    const float *bias, float eps); /* norm.c */
void cpu_norm_modulate(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                       struct taca_mat shift, struct taca_mat scale, const int32_t *seg_of_row,
                       float eps);
void cpu_gate_norm(struct taca_backend *b, struct taca_mat h, struct taca_mat x, struct taca_mat y,
                   const struct taca_gate_norm *m);
void cpu_rms_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x, const float *gain,
                  float eps);
void cpu_qk_norm_rope(struct taca_backend *b, struct taca_mat q, struct taca_mat k,
                      const struct taca_qk *w, int64_t d); /* heads.c */
void cpu_activate(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                  enum taca_act act); /* elementwise.c */
void cpu_gate_add(struct taca_backend *b, struct taca_mat x, struct taca_mat y,
                  struct taca_mat gate, const int32_t *seg_of_row);
void cpu_add(struct taca_backend *b, struct taca_mat y, struct taca_mat a, struct taca_mat c);
void cpu_multiply(struct taca_backend *b, struct taca_mat y, struct taca_mat a, struct taca_mat c);
void cpu_cfg_euler(struct taca_backend *b, struct taca_chw x, struct taca_chw c, struct taca_chw u,
                   float guidance, float dsigma);
void cpu_axpb(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float c);
void cpu_axpby(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float c);
void cpu_blend(struct taca_backend *b, struct taca_chw y, struct taca_chw x, struct taca_chw m);
void cpu_embed(struct taca_backend *b, struct taca_mat y, struct taca_mat table,
               const int32_t *ids); /* patch.c */
void cpu_time_features(struct taca_backend *b, struct taca_mat y, const float *t);
void cpu_patchify(struct taca_backend *b, struct taca_mat y, struct taca_chw x, int p,
                  enum taca_patch order);
void cpu_unpatchify(struct taca_backend *b, struct taca_chw y, struct taca_mat x, int p,
                    enum taca_patch order);
void cpu_add_position(struct taca_backend *b, struct taca_mat x, struct taca_mat table,
                      int64_t side, int64_t h, int64_t w);
void cpu_chw_to_map(struct taca_backend *b, struct taca_map y, struct taca_chw x); /* map.c */
void cpu_map_to_chw(struct taca_backend *b, struct taca_chw y, struct taca_map x);
void cpu_group_norm(struct taca_backend *b, struct taca_map y, struct taca_map x, const float *gain,
                    const float *bias, int groups, float eps, enum taca_act act);
void cpu_upsample2(struct taca_backend *b, struct taca_map y, struct taca_map x);
void cpu_map_to_rgb8(struct taca_backend *b, uint8_t *pixels, struct taca_map x);

#endif
