/* matmul.c - y = act(x W^T + b): oneDNN on weights laid out once, or plain loops.
 *
 * Rows are cut into blocks, one per item of the thread pool; a oneDNN primitive is made for a
 * number of rows, and the last few are kept per weight. Views with a stride go through dense
 * copies. In deterministic mode all blocks have one size, the last one padded, so that every row
 * meets the same code whatever the batch holds. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include "base/mem.h"
#include "kernels/cpu/dnn.h"
#include "kernels/cpu/int8.h"

enum { PRIMS = 8, LAYOUT_ROWS = 64, LEAST_ROWS = 16 };
/* Whole tiles of every kernel that the library may choose: 4 or 6 rows on AVX2, where the rest of a
 * block is summed in another order. */
enum { FIXED_ROWS = 48 };
/* Inputs of an 8-bit map, so that sums of 255 * 127 fit 31 bits. */
enum { MAX_NARROW = 65536 };

struct prim_key {
    int64_t rows;
    enum taca_dtype ytype;
    enum taca_act act;
};

struct cpu_linear {
    struct cpu_weight node;
    struct taca_linear pub;
    void *w; /* as `layout` says; scalar: [out, in] */
    dnnl_memory_desc_t layout;
    float *bias;             /* NULL without */
    struct cpu_int8 *narrow; /* in place of w */
    struct prim_key key[PRIMS];
    struct cpu_prim prim[PRIMS];
    uint64_t used[PRIMS], clock; /* the least recently used is replaced */
    int n_prims;
};

static struct cpu_linear *linear_of(const struct taca_linear *w) {
    return (struct cpu_linear *)((char *)w - offsetof(struct cpu_linear, pub));
}

static void linear_close(struct cpu_weight *node) {
    struct cpu_linear *l = (struct cpu_linear *)node;
    for (int i = 0; i < l->n_prims; i++) cpu_prim_close(&l->prim[i]);
    cpu_int8_close(l->narrow);
    free(l->w);
    free(l->bias);
    free(l);
}

/* ---- opening -------------------------------------------------------------------------------- */

/* Dense: with any other stride this release of the library takes its plain reference loop. */
static dnnl_status_t mat_desc(dnnl_memory_desc_t *md, int64_t rows, int64_t cols,
                              enum taca_dtype t) {
    const dnnl_dims_t dims = {rows, cols};
    return dnnl_memory_desc_init_by_tag(md, 2, dims, cpu_dnn_type(t), dnnl_ab);
}

/* The matmul of `key`; weights NULL leaves their layout to the library. */
static dnnl_status_t matmul_desc(dnnl_matmul_desc_t *desc, const struct cpu_linear *l,
                                 const struct prim_key *key, const dnnl_memory_desc_t *weights) {
    dnnl_memory_desc_t x, y, w, bias;
    const dnnl_dims_t wdims = {l->pub.in, l->pub.out}, bdims = {1, l->pub.out};
    dnnl_status_t s = mat_desc(&x, key->rows, l->pub.in, l->pub.dtype);
    if (s == dnnl_success) s = mat_desc(&y, key->rows, l->pub.out, key->ytype);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(&w, 2, wdims, cpu_dnn_type(l->pub.dtype),
                                         dnnl_format_tag_any);
    if (s == dnnl_success) s = dnnl_memory_desc_init_by_tag(&bias, 2, bdims, dnnl_f32, dnnl_ab);
    if (s != dnnl_success) return s;
    return dnnl_matmul_desc_init(desc, &x, weights ? weights : &w, l->bias ? &bias : NULL, &y);
}

/* Which layout the library wants for W. */
static dnnl_status_t find_layout(dnnl_memory_desc_t *layout, const struct cpu_linear *l,
                                 struct cpu_dnn *d) {
    const struct prim_key key = {LAYOUT_ROWS, TACA_F32, TACA_ACT_NONE};
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t s = matmul_desc(&desc, l, &key, NULL);
    if (s == dnnl_success) s = cpu_dnn_attr(&attr, TACA_ACT_NONE);
    if (s == dnnl_success) s = dnnl_primitive_desc_create(&pd, &desc, attr, d->engine, NULL);
    if (s == dnnl_success) *layout = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return s;
}

/* Moves W there; `plain` is [out, in] f32. */
static dnnl_status_t lay_out(struct cpu_linear *l, struct cpu_dnn *d, const float *plain) {
    dnnl_memory_desc_t from;
    const dnnl_dims_t dims = {l->pub.in, l->pub.out}, strides = {1, l->pub.in};
    dnnl_status_t s = find_layout(&l->layout, l, d);
    if (s == dnnl_success) s = dnnl_memory_desc_init_by_strides(&from, 2, dims, dnnl_f32, strides);
    if (s != dnnl_success) return s;
    const size_t bytes = dnnl_memory_desc_get_size(&l->layout);
    l->w = taca_block_alloc(bytes);
    return l->w ? cpu_dnn_reorder(d, l->w, &l->layout, plain, &from) : dnnl_out_of_memory;
}

static enum taca_code place_weights(struct cpu *c, struct cpu_linear *l, float **plain,
                                    const char *name, struct taca_err *err) {
    if (c->dnn) {
        cpu_dnn_bind(c->dnn);
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
    float *all = taca_block_alloc(bytes), *at = all;
    for (int i = 0; all && i < n; i++) {
        size_t k = (size_t)taca_tensor_count(&parts[i]);
        taca_to_f32(at, parts[i].data, parts[i].dtype, k);
        at += k;
    }
    return all;
}

static enum taca_dtype type_of(const struct taca_backend *b, int64_t in) {
    return b->narrow && b->narrow_type != TACA_NARROW_NONE && in <= MAX_NARROW ? TACA_U8
                                                                               : b->precision;
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
    l->pub.dtype = type_of(b, l->pub.in);
    l->pub.has_bias = biases != NULL;
    const bool narrow = l->pub.dtype == TACA_U8;
    if (narrow)
        l->narrow = cpu_int8_open(parts, n_parts, l->pub.out, l->pub.in);
    else
        plain = stack(parts, n_parts, l->pub.in * l->pub.out);
    if (biases) l->bias = stack(biases, n_parts, l->pub.out);
    if ((narrow ? !l->narrow : !plain) || (biases && !l->bias)) {
        rc = taca_fail(err, TACA_ENOMEM, "%s", parts[0].name);
        goto out;
    }
    rc = narrow ? TACA_OK : place_weights(c, l, &plain, parts[0].name, err);
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

void cpu_linear_close(struct taca_backend *b, struct taca_linear *w) {
    struct cpu_linear *l = linear_of(w);
    struct cpu_weight **at = &cpu_of(b)->weights;
    while (*at != &l->node) at = &(*at)->next;
    *at = l->node.next;
    linear_close(&l->node);
}

/* ---- running -------------------------------------------------------------------------------- */

static struct cpu_prim *prim_for(struct cpu *c, struct cpu_linear *l, const struct prim_key *key) {
    for (int i = 0; i < l->n_prims; i++) {
        const struct prim_key *k = &l->key[i];
        if (k->rows == key->rows && k->ytype == key->ytype && k->act == key->act) {
            l->used[i] = ++l->clock;
            return &l->prim[i];
        }
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
    int slot = 0;
    if (l->n_prims < PRIMS) {
        slot = l->n_prims++;
    } else {
        for (int i = 1; i < PRIMS; i++)
            if (l->used[i] < l->used[slot]) slot = i;
        cpu_prim_close(&l->prim[slot]);
    }
    l->used[slot] = ++l->clock;
    l->key[slot] = *key;
    l->prim[slot] = p;
    return &l->prim[slot];
}

/* A dense [rows, cols] in a work buffer; data NULL (and the error set) when out of memory. */
static struct taca_mat work_mat(struct cpu *c, struct cpu_buf *buf, enum taca_dtype t, int64_t rows,
                                int64_t cols) {
    size_t bytes = (size_t)(rows * cols) * taca_dtype_bytes(t);
    return (struct taca_mat){cpu_buf_get(c, buf, bytes, "linear"), t, rows, cols, cols};
}

/* Blocks of rows that threads take: `whole` blocks of `rows`, then perhaps one that differs. */
struct block_job {
    struct cpu *c;
    const struct cpu_linear *l;
    const struct cpu_prim *prim, *last_prim;
    struct taca_mat y, x, last_y, last_x;
    int64_t rows, whole;
    size_t pad_bytes;
    char *pad;
    _Atomic int status; /* the first failure, dnnl_success so far */
};

static void run_block(void *ctx, int64_t i, int worker) {
    struct block_job *j = ctx;
    const bool last = i == j->whole;
    struct taca_mat x = last ? j->last_x : taca_mat_rows(j->x, i * j->rows, j->rows);
    struct taca_mat y = last ? j->last_y : taca_mat_rows(j->y, i * j->rows, j->rows);
    const struct cpu_prim_data data = {.src = x.data,
                                       .weights = j->l->w,
                                       .bias = j->l->bias,
                                       .dst = y.data,
                                       .pad = j->pad + (size_t)worker * j->pad_bytes};
    dnnl_status_t s = cpu_prim_run(last ? j->last_prim : j->prim, j->c->dnn, &data);
    if (s != dnnl_success) atomic_store(&j->status, (int)s);
}

static const struct cpu_prim *prim_of(struct cpu *c, struct cpu_linear *l, struct taca_mat y,
                                      struct taca_mat x, enum taca_act act) {
    const struct prim_key key = {x.rows, y.dtype, act};
    return prim_for(c, l, &key);
}

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

/* All blocks of j, whose matrices are set. Primitives are found before any thread starts. */
static void run_blocks(struct block_job *j, struct cpu_linear *l, enum taca_act act) {
    struct cpu *c = j->c;
    const int64_t items = j->whole + (j->last_x.rows > 0);
    if (j->whole) {
        j->prim =
            prim_of(c, l, taca_mat_rows(j->y, 0, j->rows), taca_mat_rows(j->x, 0, j->rows), act);
        if (!j->prim) return;
        j->pad_bytes = j->prim->pad_bytes;
    }
    if (j->last_x.rows) {
        j->last_prim = prim_of(c, l, j->last_y, j->last_x, act);
        if (!j->last_prim) return;
        j->pad_bytes = max_size(j->pad_bytes, j->last_prim->pad_bytes);
    }
    j->pad_bytes = (j->pad_bytes + 63) / 64 * 64;
    j->pad = cpu_buf_get(c, &c->pad, j->pad_bytes * (size_t)c->threads, "linear");
    if (!j->pad) return;
    cpu_parallel(c->pool, items, run_block, j);
    const dnnl_status_t s = (dnnl_status_t)atomic_load(&j->status);
    if (s != dnnl_success)
        taca_backend_fail(&c->base, cpu_dnn_code(s), "linear: oneDNN: %s", cpu_dnn_status(s));
}

/* Rows of a block when there are `rows` in all. */
static int64_t block_rows(const struct cpu *c, int64_t rows) {
    if (c->deterministic) return FIXED_ROWS;
    const int64_t share = (rows + c->threads - 1) / c->threads;
    return share < LEAST_ROWS ? LEAST_ROWS : share;
}

/* x and y in types a primitive can have; in deterministic mode the tail goes through padded
 * copies. */
static void run_dnn(struct cpu *c, struct cpu_linear *l, struct taca_mat y, struct taca_mat x,
                    enum taca_act act) {
    struct block_job j = {.c = c, .l = l, .y = y, .x = x, .status = dnnl_success};
    j.rows = block_rows(c, x.rows);
    j.whole = x.rows / j.rows;
    const int64_t done = j.whole * j.rows, left = x.rows - done;
    j.last_x = taca_mat_rows(x, done, left);
    j.last_y = taca_mat_rows(y, done, left);
    const bool padded = c->deterministic && left > 0;
    if (padded) {
        const struct taca_mat from = j.last_x;
        j.last_x = work_mat(c, &c->tail_in, x.dtype, FIXED_ROWS, x.cols);
        j.last_y = work_mat(c, &c->tail_out, y.dtype, FIXED_ROWS, y.cols);
        if (!j.last_x.data || !j.last_y.data) return;
        memset(j.last_x.data, 0, (size_t)(FIXED_ROWS * x.cols) * taca_dtype_bytes(x.dtype));
        cpu_copy_rows(c, j.last_x, from);
    }
    run_blocks(&j, l, act);
    if (padded) cpu_copy_rows(c, taca_mat_rows(y, done, left), taca_mat_rows(j.last_y, 0, left));
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
                if (p->dtype == TACA_BF16) v = taca_bf16_to_f32(taca_f32_to_bf16(v));
                sum += v * cpu_get(j->l->w, p->dtype, o * p->in + i);
            }
            cpu_put(y.p, y.dtype, o, cpu_act(sum + (j->l->bias ? j->l->bias[o] : 0), j->act));
        }
    }
}

/* The library's fast code takes dense rows only; anything else meets its reference loop, a
 * thousand times slower. */
static bool is_dense(struct taca_mat m) { return m.ld == m.cols || m.rows == 1; }

void cpu_linear(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                const struct taca_linear *w, enum taca_act act) {
    struct cpu *c = cpu_of(b);
    struct cpu_linear *l = linear_of(w);
    if (l->narrow) {
        cpu_int8_linear(c, l->narrow, y, x, l->bias, act);
        return;
    }
    if (!c->dnn) {
        struct plain_job j = {l, y, x, act};
        cpu_split(c, y.rows, w->in * w->out, plain_rows, &j);
        return;
    }
    cpu_dnn_bind(c->dnn);
    struct taca_mat in = x, out = y;
    if (x.dtype != w->dtype || !is_dense(x)) {
        in = work_mat(c, &c->in, w->dtype, x.rows, x.cols);
        if (!in.data) return;
        cpu_copy_rows(c, in, x);
    }
    const bool narrowed = y.dtype == TACA_BF16 && w->dtype == TACA_F32; /* no such primitive */
    if (narrowed || !is_dense(y)) {
        out = work_mat(c, &c->out, narrowed ? TACA_F32 : y.dtype, y.rows, y.cols);
        if (!out.data) return;
    }
    run_dnn(c, l, out, in, act);
    if (out.data != y.data) cpu_copy_rows(c, y, out);
}

/* ---- foreseen -------------------------------------------------------------------------------- */

struct taca_weight_bytes cpu_weigh_linear(struct taca_backend *b, struct taca_linear *w) {
    struct cpu *c = cpu_of(b);
    struct cpu_linear l = {.pub = *w};
    const size_t plain = (size_t)(w->in * w->out) * sizeof(float);
    const size_t bias = w->has_bias ? (size_t)w->out * sizeof(float) : 0;
    struct taca_weight_bytes bytes = {sizeof l + bias, plain};
    w->dtype = l.pub.dtype = type_of(b, w->in);
    if (w->dtype == TACA_U8) {
        bytes.kept += cpu_int8_bytes(w->out, w->in);
        bytes.opening = (size_t)w->in * sizeof(float); /* a row */
    } else if (c->dnn) {
        dnnl_memory_desc_t layout;
        l.bias = w->has_bias ? (float *)&l : NULL; /* only whether it is there counts */
        if (find_layout(&layout, &l, c->dnn) == dnnl_success)
            bytes.kept += dnnl_memory_desc_get_size(&layout);
    } else {
        bytes = (struct taca_weight_bytes){bytes.kept + plain, 0};
    }
    return bytes;
}

/* The primitive for one block of rows. */
static void foresee_block(struct cpu *c, const struct taca_linear *w, const struct prim_key *key) {
    struct cpu_linear l = {.pub = *w};
    struct {
        struct taca_linear w;
        struct prim_key key;
    } what;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    l.bias = w->has_bias ? (float *)&l : NULL; /* only whether it is there counts */
    if (key->rows == 0 || matmul_desc(&desc, &l, key, NULL) != dnnl_success ||
        cpu_dnn_attr(&attr, key->act) != dnnl_success)
        return;
    memset(&what, 0, sizeof what); /* gaps, too: its bytes are its name */
    what.w.in = w->in;
    what.w.out = w->out;
    what.w.dtype = w->dtype;
    what.w.has_bias = w->has_bias;
    what.key.rows = key->rows;
    what.key.ytype = key->ytype;
    what.key.act = key->act;
    cpu_prim_foresee(c, &(struct cpu_prim_want){&desc, attr, &what, sizeof what, w});
    dnnl_primitive_attr_destroy(attr);
}

void cpu_foresee_linear(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                        const struct taca_linear *w, enum taca_act act) {
    struct cpu *c = cpu_of(b);
    if (w->dtype == TACA_U8) cpu_buf_foresee(&c->in, cpu_int8_work(w->in, x.rows));
    if (w->dtype == TACA_U8 || !c->dnn) return;
    const size_t ins = (size_t)(x.rows * x.cols), outs = (size_t)(y.rows * y.cols);
    const bool narrowed = y.dtype == TACA_BF16 && w->dtype == TACA_F32;
    const enum taca_dtype ytype = narrowed ? TACA_F32 : y.dtype;
    if (x.dtype != w->dtype || !is_dense(x))
        cpu_buf_foresee(&c->in, ins * taca_dtype_bytes(w->dtype));
    if (narrowed || !is_dense(y)) cpu_buf_foresee(&c->out, outs * taca_dtype_bytes(ytype));
    const int64_t rows = block_rows(c, x.rows), left = x.rows % rows;
    if (x.rows >= rows) foresee_block(c, w, &(struct prim_key){rows, ytype, act});
    if (!c->deterministic) {
        foresee_block(c, w, &(struct prim_key){left, ytype, act});
    } else if (left) {
        foresee_block(c, w, &(struct prim_key){FIXED_ROWS, ytype, act});
        cpu_buf_foresee(&c->tail_in, (size_t)(FIXED_ROWS * x.cols) * taca_dtype_bytes(w->dtype));
        cpu_buf_foresee(&c->tail_out, (size_t)(FIXED_ROWS * y.cols) * taca_dtype_bytes(ytype));
    }
}
