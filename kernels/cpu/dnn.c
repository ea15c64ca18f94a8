/* dnn.c - see dnn.h. */
#include "kernels/cpu/dnn.h"

#include <dlfcn.h>
#include <stdlib.h>

enum taca_code cpu_dnn_open(struct cpu_dnn **out, struct taca_err *err) {
    struct cpu_dnn *d = calloc(1, sizeof *d);
    if (!d) return taca_fail(err, TACA_ENOMEM, "cpu backend");
    dnnl_status_t s = dnnl_engine_create(&d->engine, dnnl_cpu, 0);
    if (s == dnnl_success) s = dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags);
    if (s != dnnl_success) {
        cpu_dnn_close(d);
        return taca_fail(err, TACA_EDEVICE, "oneDNN: %s", cpu_dnn_status(s));
    }
    /* Debian's oneDNN runs on libgomp, whose width is a setting of each calling thread. Looked up
     * rather than linked: this program needs no OpenMP of its own. */
    void *symbol = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    memcpy(&d->set_width, &symbol, sizeof symbol);
    *out = d;
    return TACA_OK;
}

void cpu_dnn_bind(void *dnn) {
    const struct cpu_dnn *d = dnn;
    if (d && d->set_width) d->set_width(1);
}

void cpu_dnn_close(struct cpu_dnn *d) {
    if (!d) return;
    if (d->stream) dnnl_stream_destroy(d->stream);
    if (d->engine) dnnl_engine_destroy(d->engine);
    free(d);
}

const char *cpu_dnn_status(dnnl_status_t s) {
    switch (s) {
    case dnnl_success: return "success";
    case dnnl_out_of_memory: return "out of memory";
    case dnnl_invalid_arguments: return "invalid arguments";
    case dnnl_unimplemented: return "not implemented";
    case dnnl_iterator_ends: return "no implementation left";
    case dnnl_runtime_error: return "runtime error";
    case dnnl_not_required: return "not required";
    }
    return "unknown status";
}

enum taca_code cpu_dnn_code(dnnl_status_t s) {
    return s == dnnl_out_of_memory ? TACA_ENOMEM : TACA_EDEVICE;
}

dnnl_status_t cpu_dnn_attr(dnnl_primitive_attr_t *out, enum taca_act act) {
    static const struct {
        dnnl_alg_kind_t kind;
        float alpha;
    } eltwise[] = {
        [TACA_ACT_SILU] = {dnnl_eltwise_swish, 1.0f},
        [TACA_ACT_GELU_TANH] = {dnnl_eltwise_gelu_tanh, 0.0f},
        [TACA_ACT_GELU_ERF] = {dnnl_eltwise_gelu_erf, 0.0f},
        [TACA_ACT_QUICK_GELU] = {dnnl_eltwise_swish, 1.702f},
        [TACA_ACT_RELU] = {dnnl_eltwise_relu, 0.0f},
    };
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t s = dnnl_primitive_attr_create(&attr);
    if (s != dnnl_success) return s;
    s = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (s == dnnl_success && act != TACA_ACT_NONE) {
        s = dnnl_post_ops_create(&ops);
        if (s == dnnl_success)
            s = dnnl_post_ops_append_eltwise(ops, 1.0f, eltwise[act].kind, eltwise[act].alpha,
                                             0.0f);
        if (s == dnnl_success) s = dnnl_primitive_attr_set_post_ops(attr, ops);
        if (ops) dnnl_post_ops_destroy(ops);
    }
    if (s != dnnl_success) {
        dnnl_primitive_attr_destroy(attr);
        return s;
    }
    *out = attr;
    return dnnl_success;
}

dnnl_status_t cpu_prim_open(struct cpu_prim *p, struct cpu_dnn *d, const_dnnl_op_desc_t desc,
                            const_dnnl_primitive_attr_t attr, bool bias) {
    dnnl_primitive_desc_t pd = NULL;
    struct cpu_prim n = {.has_bias = bias};
    dnnl_status_t s = dnnl_primitive_desc_create(&pd, desc, attr, d->engine, NULL);
    if (s != dnnl_success) return s;
    s = dnnl_primitive_create(&n.prim, pd);
    if (s == dnnl_success) {
        n.src = *dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0);
        n.dst = *dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0);
        n.weights = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
        if (bias) n.bias = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 1);
        n.pad = *dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
        n.pad_bytes = dnnl_memory_desc_get_size(&n.pad);
        *p = n;
    }
    dnnl_primitive_desc_destroy(pd);
    return s;
}

dnnl_status_t cpu_prim_run(const struct cpu_prim *p, struct cpu_dnn *d,
                           const struct cpu_prim_data *data) {
    const struct {
        int arg;
        const dnnl_memory_desc_t *md;
        const void *data;
    } want[] = {
        {DNNL_ARG_SRC, &p->src, data->src},    {DNNL_ARG_WEIGHTS, &p->weights, data->weights},
        {DNNL_ARG_DST, &p->dst, data->dst},    {DNNL_ARG_SCRATCHPAD, &p->pad, data->pad},
        {DNNL_ARG_BIAS, &p->bias, data->bias},
    };
    const int n = p->has_bias ? 5 : 4;
    dnnl_exec_arg_t args[5] = {0};
    dnnl_status_t s = dnnl_success;
    for (int i = 0; i < n && s == dnnl_success; i++) {
        args[i].arg = want[i].arg;
        s = dnnl_memory_create(&args[i].memory, want[i].md, d->engine, (void *)want[i].data);
    }
    if (s == dnnl_success) s = dnnl_primitive_execute(p->prim, d->stream, n, args);
    for (int i = 0; i < n; i++)
        if (args[i].memory) dnnl_memory_destroy(args[i].memory);
    return s;
}

void cpu_prim_close(struct cpu_prim *p) {
    if (p->prim) dnnl_primitive_destroy(p->prim);
    p->prim = NULL;
}

dnnl_status_t cpu_dnn_reorder(struct cpu_dnn *d, void *dst, const dnnl_memory_desc_t *to,
                              const void *src, const dnnl_memory_desc_t *from) {
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t prim = NULL;
    dnnl_memory_t a = NULL, b = NULL;
    dnnl_status_t s = dnnl_memory_create(&a, from, d->engine, (void *)src);
    if (s == dnnl_success) s = dnnl_memory_create(&b, to, d->engine, dst);
    if (s == dnnl_success)
        s = dnnl_reorder_primitive_desc_create(&pd, from, d->engine, to, d->engine, NULL);
    if (s == dnnl_success) s = dnnl_primitive_create(&prim, pd);
    if (s == dnnl_success) {
        dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, a}, {DNNL_ARG_TO, b}};
        s = dnnl_primitive_execute(prim, d->stream, 2, args);
    }
    if (s == dnnl_success) s = dnnl_stream_wait(d->stream);
    if (prim) dnnl_primitive_destroy(prim);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (b) dnnl_memory_destroy(b);
    if (a) dnnl_memory_destroy(a);
    return s;
}

/* ---- foreseen -------------------------------------------------------------------------------- */

/* Of a distinct primitive with its kernels, and of each weight's hold on one, as measured. */
enum { CODE_BYTES = 52 << 10, HOLD_BYTES = 20 << 10 };

/* Hashes of what would exist. */
struct seen {
    uint64_t *hash;
    size_t n, cap;
};
struct cpu_code {
    struct seen prims, holds;
};

static uint64_t hash_of(uint64_t h, const void *data, size_t bytes) {
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * 1099511628211u;
    return h;
}

/* False when it was there before, or there is no memory to remember it. */
static bool add(struct seen *s, uint64_t hash) {
    for (size_t i = 0; i < s->n; i++)
        if (s->hash[i] == hash) return false;
    if (s->n == s->cap) {
        const size_t cap = s->cap ? 2 * s->cap : 64;
        uint64_t *p = realloc(s->hash, cap * sizeof *p);
        if (!p) return false;
        s->hash = p;
        s->cap = cap;
    }
    s->hash[s->n++] = hash;
    return true;
}

void cpu_prim_foresee(struct cpu *c, const struct cpu_prim_want *want) {
    const uint64_t what = hash_of(14695981039346656037u, want->what, want->what_bytes);
    const uint64_t hold = hash_of(what, &want->weight, sizeof want->weight);
    dnnl_primitive_desc_t pd = NULL;
    if (!c->code) c->code = calloc(1, sizeof *c->code);
    if (!c->code || !add(&c->code->holds, hold) || !add(&c->code->prims, what)) return;
    if (dnnl_primitive_desc_create(&pd, want->desc, want->attr, c->dnn->engine, NULL) !=
        dnnl_success)
        return;
    const dnnl_memory_desc_t *pad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    const size_t one = (dnnl_memory_desc_get_size(pad) + 63) / 64 * 64;
    cpu_buf_foresee(&c->pad, one * (size_t)c->threads);
    dnnl_primitive_desc_destroy(pd);
}

size_t cpu_code_foreseen(const struct cpu *c) {
    return c->code ? c->code->prims.n * CODE_BYTES + c->code->holds.n * HOLD_BYTES : 0;
}

void cpu_code_forget(struct cpu *c) {
    if (!c->code) return;
    free(c->code->prims.hash);
    free(c->code->holds.hash);
    free(c->code);
    c->code = NULL;
}
