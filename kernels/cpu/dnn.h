/* dnn.h - the little of oneDNN that matmul.c and conv.c share. */
#ifndef TACA_KERNELS_CPU_DNN_H
#define TACA_KERNELS_CPU_DNN_H

#include <oneapi/dnnl/dnnl.h>

#include "kernels/cpu/cpu.h"

struct cpu_dnn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
};

enum taca_code cpu_dnn_open(struct cpu_dnn **out, struct taca_err *err);
void cpu_dnn_close(struct cpu_dnn *d);

static inline dnnl_data_type_t cpu_dnn_type(enum taca_dtype t) {
    return t == TACA_BF16 ? dnnl_bf16 : dnnl_f32;
}

/* A primitive with memory objects for its arguments; data handles are set per call. */
struct cpu_prim {
    dnnl_primitive_t prim;
    dnnl_memory_t src, dst, weights, bias, pad;
    size_t pad_bytes;
};
/* What a primitive is made of; weights may be format_any, w_data then comes later. */
struct cpu_prim_data {
    const void *src, *weights, *bias;
    void *dst;
};
/* From an operation descriptor (matmul or convolution). */
dnnl_status_t cpu_prim_open(struct cpu_prim *p, struct cpu_dnn *d, const_dnnl_op_desc_t desc,
                            const_dnnl_primitive_attr_t attr, bool bias);
dnnl_status_t cpu_prim_run(struct cpu_prim *p, struct cpu *c, const struct cpu_prim_data *data);
void cpu_prim_close(struct cpu_prim *p);

/* The weights of p's kind, moved from plain `from` at `data` into fresh memory of layout `to`. */
dnnl_status_t cpu_dnn_reorder(struct cpu_dnn *d, void *dst, const dnnl_memory_desc_t *to,
                              const void *src, const dnnl_memory_desc_t *from);

/* An attr with user scratchpad and, for act other than NONE, the activation as a post-op. */
dnnl_status_t cpu_dnn_attr(dnnl_primitive_attr_t *out, enum taca_act act);

const char *cpu_dnn_status(dnnl_status_t s);
enum taca_code cpu_dnn_code(dnnl_status_t s);

#endif
