/* matmul.c - y = act(x W^T + b): oneDNN on weights laid out once, or plain loops.
 *
 * A oneDNN primitive is made for a number of rows and two strides; the last few are kept per
 * weight. In deterministic mode rows go through in blocks of one size, the last one padded, so that
 * every row meets the same code whatever the batch holds. */
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>

#include "base/mem.h"
#include "kernels/cpu/dnn.h"
#include "kernels/cpu/par.h"

enum { PRIMS = 8, LAYOUT_ROWS = 64, FIXED_ROWS = 32 };

struct prim_key {
    int64_t rows, ldx, ldy;
    enum taca_dtype ytype;
    enum taca_act act;
};

struct cpu_linear {
    struct cpu_weight node;
    struct taca_linear pub;
    void *w; /* as `layout` says; scalar: [out, in] */
    dnnl_memory_desc_t layout;
    float *bias; /* NULL without */
    struct prim_key key[PRIMS];
    struct cpu_prim prim[PRIMS];
    int n_prims, next; /* the oldest is replaced */
};

static struct cpu_linear *linear_of(const struct taca_linear *w) {
    return (struct cpu_linear *)((char *)w - offsetof(struct cpu_linear, pub));
}

static void linear_close(struct cpu_weight *node) {
    struct cpu_linear *l = (struct cpu_linear *)node;
    for (int i = 0; i < l->n_prims; i++) cpu_prim_close(&l->prim[i]);
    free(l->w);
    free(l->bias);
    free(l);
}

/* ---- opening -------------------------------------------------------------------------------- */

static dnnl_status_t mat_desc(dnnl_memory_desc_t *md, int64_t rows, int64_t cols, int64_t ld,
                              enum taca_dtype t) {
    const dnnl_dims_t dims = {rows, cols}, strides = {ld, 1};
    return dnnl_memory_desc_init_by_strides(md, 2, dims, cpu_dnn_type(t), strides);
}

/* The matmul of `key`; weights NULL leaves their layout to the library. */
static dnnl_status_t matmul_desc(dnnl_matmul_desc_t *desc, const struct cpu_linear *l,
                                 const struct prim_key *key, const dnnl_memory_desc_t *weights) {
    dnnl_memory_desc_t x, y, w, bias;
    const dnnl_dims_t wdims = {l->pub.in, l->pub.out}, bdims = {1, l->pub.out};
    dnnl_status_t s = mat_desc(&x, key->rows, l->pub.in, key->ldx, l->pub.dtype);
    if (s == dnnl_success) s = mat_desc(&y, key->rows, l->pub.out, key->ldy, key->ytype);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(&w, 2, wdims, cpu_dnn_type(l->pub.dtype),
                                         dnnl_format_tag_any);
    if (s == dnnl_success) s = dnnl_memory_desc_init_by_tag(&bias, 2, bdims, dnnl_f32, dnnl_ab);
    if (s != dnnl_success) return s;
    return dnnl_matmul_desc_init(desc, &x, weights ? weights : &w, l->bias ? &bias : NULL, &y);
}

/* Asks which layout the library wants for W and moves it there; `plain` is [out, in] f32. */
static dnnl_status_t lay_out(struct cpu_linear *l, struct cpu_dnn *d, const float *plain) {
    const struct prim_key key = {LAYOUT_ROWS, l->pub.in, l->pub.out, TACA_F32, TACA_ACT_NONE};
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_memory_desc_t from;
    const dnnl_dims_t dims = {l->pub.in, l->pub.out}, strides = {1, l->pub.in};
    dnnl_status_t s = matmul_desc(&desc, l, &key, NULL);
    if (s == dnnl_success) s = cpu_dnn_attr(&attr, TACA_ACT_NONE);
    if (s == dnnl_success) s = dnnl_primitive_desc_create(&pd, &desc, attr, d->engine, NULL);
    if (s == dnnl_success) s = dnnl_memory_desc_init_by_strides(&from, 2, dims, dnnl_f32, strides);
    if (s == dnnl_success) {
        l->layout = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
        size_t bytes = dnnl_memory_desc_get_size(&l->layout);
        l->w = aligned_alloc(64, (bytes + 63) / 64 * 64);
        s = l->w ? cpu_dnn_reorder(d, l->w, &l->layout, plain, &from) : dnnl_out_of_memory;
    }
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return s;
}

static enum taca_code place_weights(struct cpu *c, struct cpu_linear *l, float **plain,
                                    const char *name, struct taca_err *err) {
    if (c->dnn) {
        cpu_parallel_bind(c->threads);
        dnnl_status_t s = lay_out(l, c->dnn, *plain);
        if (s == dnnl_success) return TACA_OK;
        return taca_fail(err, cpu_dnn_code(s), "%s: oneDNN: %s", name, cpu_dnn_status(s));
    }
    if (l->pub.dtype == TACA_BF16) /* narrowing in place: the write never passes the read */
        c->k->convert((struct cpu_run){*plain, TACA_BF16}, (struct cpu_run){*plain, TACA_F32},
                      l->pub.in * l->pub.out);
    l->w = *plain;
    *plain = NULL;
    return TACA_OK;
}

/* The parts stacked as f32; NULL when out of memory. */
static float *stack(const struct taca_tensor *parts, int n, int64_t count) {
    size_t bytes;
    if (!taca_mul(&bytes, (size_t)count, sizeof(float))) return NULL;
    float *all = malloc(bytes), *at = all;
    for (int i = 0; all && i < n; i++) {
        size_t k = (size_t)taca_tensor_count(&parts[i]);
        taca_to_f32(at, parts[i].data, parts[i].dtype, k);
        at += k;
    }
    return all;
}

enum taca_code cpu_linear_open(struct taca_backend *b, struct taca_linear **out,
                               const struct taca_tensor *parts, const struct taca_tensor *biases,
                               int n_parts, struct taca_err *err) {
    struct cpu *c = cpu_of(b);
    enum taca_code rc;
    float *plain = NULL;
    struct cpu_linear *l = calloc(1, sizeof *l);
    if (!l) return taca_fail(err, TACA_ENOMEM, "%s", parts[0].name);
    l->node.close = linear_close;
    for (int i = 0; i < n_parts; i++) l->pub.out += parts[i].dim[0];
    l->pub.in = taca_tensor_count(&parts[0]) / parts[0].dim[0];
    l->pub.dtype = b->precision;
    l->pub.has_bias = biases != NULL;
    plain = stack(parts, n_parts, l->pub.in * l->pub.out);
    if (biases) l->bias = stack(biases, n_parts, l->pub.out);
    if (!plain || (biases && !l->bias)) {
        rc = taca_fail(err, TACA_ENOMEM, "%s", parts[0].name);
        goto out;
    }
    rc = place_weights(c, l, &plain, parts[0].name, err);
    if (rc != TACA_OK) goto out;
    l->node.next = c->weights;
    c->weights = &l->node;
    *out = &l->pub;
    l = NULL; /* the backend owns it now */
out:
    free(plain);
    if (l) linear_close(&l->node);
    return rc;
}

/* ---- running -------------------------------------------------------------------------------- */

static struct cpu_prim *prim_for(struct cpu *c, struct cpu_linear *l, const struct prim_key *key) {
    for (int i = 0; i < l->n_prims; i++) {
        const struct prim_key *k = &l->key[i];
        if (k->rows == key->rows && k->ldx == key->ldx && k->ldy == key->ldy &&
            k->ytype == key->ytype && k->act == key->act)
            return &l->prim[i];
    }
    struct cpu_prim p;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t s = matmul_desc(&desc, l, key, &l->layout);
    if (s == dnnl_success) s = cpu_dnn_attr(&attr, key->act);
    if (s == dnnl_success) s = cpu_prim_open(&p, c->dnn, &desc, attr, l->bias != NULL);
    if (attr) dnnl_primitive_attr_destroy(attr);
    if (s != dnnl_success) {
        taca_backend_fail(&c->base, cpu_dnn_code(s),
                          "linear: oneDNN, %" PRId64 " rows, weight [%" PRId64 ", %" PRId64 "]: %s",
                          key->rows, l->pub.out, l->pub.in, cpu_dnn_status(s));
        return NULL;
    }
    int slot = l->n_prims < PRIMS ? l->n_prims++ : l->next;
    if (l->prim[slot].prim) cpu_prim_close(&l->prim[slot]);
    l->next = (slot + 1) % PRIMS;
    l->key[slot] = *key;
    l->prim[slot] = p;
    return &l->prim[slot];
}

struct convert_job {
    const struct cpu_kernels *k;
    struct taca_mat y, x;
};
static void convert_rows(void *ctx, int64_t first, int64_t last) {
    const struct convert_job *j = ctx;
    for (int64_t r = first; r < last; r++)
        j->k->convert(cpu_row(j->y, r), cpu_row(j->x, r), j->x.cols);
}
static void copy_rows(struct cpu *c, struct taca_mat y, struct taca_mat x) {
    struct convert_job j = {c->k, y, x};
    cpu_split(c, x.rows, x.cols, convert_rows, &j);
}

/* A dense [rows, cols] in a work buffer; data NULL (and the error set) when out of memory. */
static struct taca_mat work_mat(struct cpu *c, struct cpu_buf *buf, enum taca_dtype t, int64_t rows,
                                int64_t cols) {
    size_t bytes = (size_t)(rows * cols) * taca_dtype_bytes(t);
    return (struct taca_mat){cpu_buf_get(c, buf, bytes, "linear"), t, rows, cols, cols};
}

/* y = act(x W^T + b) with x and y in types and strides the primitive can have. */
static void run_prim(struct cpu *c, struct cpu_linear *l, struct taca_mat y, struct taca_mat x,
                     enum taca_act act) {
    const struct prim_key key = {x.rows, x.ld, y.ld, y.dtype, act};
    struct cpu_prim *p = prim_for(c, l, &key);
    if (!p) return;
    const struct cpu_prim_data data = {
        .src = x.data, .weights = l->w, .bias = l->bias, .dst = y.data};
    dnnl_status_t s = cpu_prim_run(p, c, &data);
    if (s != dnnl_success)
        taca_backend_fail(&c->base, cpu_dnn_code(s), "linear: oneDNN: %s", cpu_dnn_status(s));
}

/* One block; padded to `rows` rows when it is shorter. */
static void run_block(struct cpu *c, struct cpu_linear *l, struct taca_mat y, struct taca_mat x,
                      int64_t rows, enum taca_act act) {
    struct taca_mat in = x, out = y;
    const enum taca_dtype t = l->pub.dtype;
    if (x.dtype != t || x.rows != rows) {
        in = work_mat(c, &c->in, t, rows, x.cols);
        if (!in.data) return;
        copy_rows(c, in, x);
        struct taca_mat rest = taca_mat_rows(in, x.rows, rows - x.rows);
        memset(rest.data, 0, (size_t)(rest.rows * rest.cols) * taca_dtype_bytes(t));
    }
    if (y.rows != rows || (y.dtype == TACA_BF16 && t == TACA_F32)) {
        out = work_mat(c, &c->out, t == TACA_F32 ? TACA_F32 : y.dtype, rows, y.cols);
        if (!out.data) return;
    }
    run_prim(c, l, out, in, act);
    if (out.data != y.data) copy_rows(c, y, taca_mat_rows(out, 0, y.rows));
}

struct plain_job {
    const struct cpu_linear *l;
    struct taca_mat y, x;
    enum taca_act act;
};

static void plain_rows(void *ctx, int64_t first, int64_t last) {
    const struct plain_job *j = ctx;
    const struct taca_linear *p = &j->l->pub;
    for (int64_t r = first; r < last; r++) {
        struct cpu_run x = cpu_row(j->x, r), y = cpu_row(j->y, r);
        for (int64_t o = 0; o < p->out; o++) {
            float sum = 0;
            for (int64_t i = 0; i < p->in; i++) {
                float v = cpu_get(x.p, x.dtype, i);
                if (p->dtype == TACA_BF16) v = cpu_bf16_get(cpu_bf16_put(v));
                sum += v * cpu_get(j->l->w, p->dtype, o * p->in + i);
            }
            cpu_put(y.p, y.dtype, o, cpu_act(sum + (j->l->bias ? j->l->bias[o] : 0), j->act));
        }
    }
}

void cpu_linear(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                const struct taca_linear *w, enum taca_act act) {
    struct cpu *c = cpu_of(b);
    struct cpu_linear *l = linear_of(w);
    if (!c->dnn) {
        struct plain_job j = {l, y, x, act};
        cpu_split(c, y.rows, w->in * w->out, plain_rows, &j);
        return;
    }
    cpu_parallel_bind(c->threads);
    const int64_t block = c->deterministic ? FIXED_ROWS : x.rows;
    for (int64_t r = 0; r < x.rows; r += block) {
        int64_t n = x.rows - r < block ? x.rows - r : block;
        run_block(c, l, taca_mat_rows(y, r, n), taca_mat_rows(x, r, n), block, act);
    }
}
