/* dnn.h - the little of oneDNN that matmul.c and conv.c share. */
#ifndef TACA_KERNELS_CPU_DNN_H
#define TACA_KERNELS_CPU_DNN_H

#include <oneapi/dnnl/dnnl.h>

#include "kernels/cpu/cpu.h"

struct cpu_dnn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    void (*set_width)(int threads); /* NULL when the library brings no OpenMP */
};

enum taca_code cpu_dnn_open(struct cpu_dnn **out, struct taca_err *err);
void cpu_dnn_close(struct cpu_dnn *d);

static inline dnnl_data_type_t cpu_dnn_type(enum taca_dtype t) {
    return t == TACA_BF16 ? dnnl_bf16 : dnnl_f32;
}

/* A primitive and what its arguments look like. Several threads may run one at the same time. */
struct cpu_prim {
    dnnl_primitive_t prim;
    dnnl_memory_desc_t src, dst, weights, bias, pad;
    bool has_bias;
    size_t pad_bytes;
};
struct cpu_prim_data {
    const void *src, *weights, *bias;
    void *dst, *pad;
};
/* From an operation descriptor (matmul or convolution). */
dnnl_status_t cpu_prim_open(struct cpu_prim *p, struct cpu_dnn *d, const_dnnl_op_desc_t desc,
                            const_dnnl_primitive_attr_t attr, bool bias);
dnnl_status_t cpu_prim_run(const struct cpu_prim *p, struct cpu_dnn *d,
                           const struct cpu_prim_data *data);
void cpu_prim_close(struct cpu_prim *p);

/* Foresees a primitive: its working memory in c->pad, its code once for each distinct one, and what
 * each weight that uses it keeps. */
struct cpu_prim_want {
    const_dnnl_op_desc_t desc;
    const_dnnl_primitive_attr_t attr;
    const void *what; /* names it by its bytes */
    size_t what_bytes;
    const void *weight;
};
void cpu_prim_foresee(struct cpu *c, const struct cpu_prim_want *want);
size_t cpu_code_foreseen(const struct cpu *c);
void cpu_code_forget(struct cpu *c);

/* src as `from` describes it, rewritten as `to` at dst. */
dnnl_status_t cpu_dnn_reorder(struct cpu_dnn *d, void *dst, const dnnl_memory_desc_t *to,
                              const void *src, const dnnl_memory_desc_t *from);

/* An attr with user scratchpad and, for act other than NONE, the activation as a post-op. */
dnnl_status_t cpu_dnn_attr(dnnl_primitive_attr_t *out, enum taca_act act);

const char *cpu_dnn_status(dnnl_status_t s);
enum taca_code cpu_dnn_code(dnnl_status_t s);

#endif
