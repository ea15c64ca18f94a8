/* conv.c - 2D convolution on channels-last maps: oneDNN, or plain loops.
 *
 * Weights are laid out once. An image is cut into strips of output rows, one or more per thread;
 * a strip reads the input rows it needs and pads only where the image ends. A oneDNN primitive is
 * made per strip size and the last few are kept. What is added to the output is worked out in
 * memory of the thread, in strips that the caches hold: the library's own sum takes longer than
 * that. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include "base/mem.h"
#include "kernels/cpu/dnn.h"

enum { PRIMS = 16, LAYOUT_SIDE = 64, MAX_STRIPS = 64 };
static const int64_t ADDED = 1 << 18; /* values of a strip that is added */

/* Input rows and columns, padding above and below (left and right are the weight's). */
struct prim_key {
    int64_t h, w, top, bottom;
    enum taca_dtype ytype;
};

struct cpu_conv {
    struct cpu_weight node;
    struct taca_conv pub;
    void *w; /* as `layout` says; scalar: [c_out, c_in, kh, kw] */
    dnnl_memory_desc_t layout;
    float *bias;
    struct prim_key key[PRIMS];
    struct cpu_prim prim[PRIMS];
    uint64_t used[PRIMS], clock; /* the least recently used is replaced */
    int n_prims;
};

static struct cpu_conv *conv_of(const struct taca_conv *w) {
    return (struct cpu_conv *)((char *)w - offsetof(struct cpu_conv, pub));
}

static void conv_close(struct cpu_weight *node) {
    struct cpu_conv *v = (struct cpu_conv *)node;
    for (int i = 0; i < v->n_prims; i++) cpu_prim_close(&v->prim[i]);
    free(v->w);
    free(v->bias);
    free(v);
}

/* ---- opening -------------------------------------------------------------------------------- */

static int64_t out_side(int64_t in, int64_t pad, int64_t k, int stride) {
    return (in + pad - k) / stride + 1;
}

/* The convolution of `key`; weights NULL leaves their layout to the library. */
static dnnl_status_t conv_desc(dnnl_convolution_desc_t *desc, const struct cpu_conv *v,
                               const struct prim_key *key, const dnnl_memory_desc_t *weights) {
    const struct taca_conv *p = &v->pub;
    dnnl_memory_desc_t x, y, w, bias;
    const dnnl_dims_t xdims = {1, p->c_in, key->h, key->w};
    const dnnl_dims_t ydims = {1, p->c_out,
                               out_side(key->h, key->top + key->bottom, p->kh, p->stride),
                               out_side(key->w, p->pad_left + p->pad_right, p->kw, p->stride)};
    const dnnl_dims_t wdims = {p->c_out, p->c_in, p->kh, p->kw}, bdims = {p->c_out};
    const dnnl_dims_t strides = {p->stride, p->stride};
    const dnnl_dims_t low = {key->top, p->pad_left}, high = {key->bottom, p->pad_right};
    dnnl_status_t s = dnnl_memory_desc_init_by_tag(&x, 4, xdims, cpu_dnn_type(p->dtype), dnnl_nhwc);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(&y, 4, ydims, cpu_dnn_type(key->ytype), dnnl_nhwc);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(&w, 4, wdims, cpu_dnn_type(p->dtype), dnnl_format_tag_any);
    if (s == dnnl_success) s = dnnl_memory_desc_init_by_tag(&bias, 1, bdims, dnnl_f32, dnnl_x);
    if (s != dnnl_success) return s;
    return dnnl_convolution_forward_desc_init(desc, dnnl_forward_inference, dnnl_convolution_direct,
                                              &x, weights ? weights : &w, &bias, &y, strides, low,
                                              high);
}

static dnnl_status_t find_layout(dnnl_memory_desc_t *layout, const struct cpu_conv *v,
                                 struct cpu_dnn *d) {
    const struct taca_conv *p = &v->pub;
    const struct prim_key key = {LAYOUT_SIDE, LAYOUT_SIDE, p->pad_top, p->pad_bottom, p->dtype};
    dnnl_convolution_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t s = conv_desc(&desc, v, &key, NULL);
    if (s == dnnl_success) s = cpu_dnn_attr(&attr, TACA_ACT_NONE);
    if (s == dnnl_success) s = dnnl_primitive_desc_create(&pd, &desc, attr, d->engine, NULL);
    if (s == dnnl_success) *layout = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return s;
}

static dnnl_status_t lay_out(struct cpu_conv *v, struct cpu_dnn *d, const float *plain) {
    const struct taca_conv *p = &v->pub;
    dnnl_memory_desc_t from;
    const dnnl_dims_t dims = {p->c_out, p->c_in, p->kh, p->kw};
    dnnl_status_t s = find_layout(&v->layout, v, d);
    if (s == dnnl_success) s = dnnl_memory_desc_init_by_tag(&from, 4, dims, dnnl_f32, dnnl_oihw);
    if (s != dnnl_success) return s;
    const size_t bytes = dnnl_memory_desc_get_size(&v->layout);
    v->w = taca_block_alloc(bytes);
    return v->w ? cpu_dnn_reorder(d, v->w, &v->layout, plain, &from) : dnnl_out_of_memory;
}

static float *widen(const struct taca_tensor *t) {
    size_t n = (size_t)taca_tensor_count(t), bytes;
    float *p = taca_mul(&bytes, n, sizeof *p) ? taca_block_alloc(bytes) : NULL;
    if (p) taca_to_f32(p, t->data, t->dtype, n);
    return p;
}

enum taca_code cpu_conv_open(struct taca_backend *b, struct taca_conv **out,
                             const struct taca_tensor *weight, const struct taca_tensor *bias,
                             const struct taca_conv *shape, struct taca_err *err) {
    struct cpu *c = cpu_of(b);
    enum taca_code rc = TACA_OK;
    float *plain = widen(weight);
    struct cpu_conv *v = calloc(1, sizeof *v);
    if (v) {
        v->node.close = conv_close;
        v->bias = widen(bias);
    }
    if (!plain || !v || !v->bias) {
        rc = taca_fail(err, TACA_ENOMEM, "%s", weight->name);
        goto out;
    }
    v->pub = *shape;
    v->pub.dtype = b->precision;
    if (c->dnn) {
        cpu_dnn_bind(c->dnn);
        dnnl_status_t s = lay_out(v, c->dnn, plain);
        if (s != dnnl_success) {
            rc = taca_fail(err, cpu_dnn_code(s), "%s: oneDNN: %s", weight->name, cpu_dnn_status(s));
            goto out;
        }
    } else {
        if (v->pub.dtype == TACA_BF16)
            c->k->convert((struct cpu_run){plain, TACA_BF16}, (struct cpu_run){plain, TACA_F32},
                          taca_tensor_count(weight));
        v->w = plain;
        plain = NULL;
    }
    v->node.next = c->weights;
    c->weights = &v->node;
    *out = &v->pub;
    v = NULL; /* the backend owns it now */
out:
    free(plain);
    if (v) conv_close(&v->node);
    return rc;
}

/* ---- running -------------------------------------------------------------------------------- */

static const struct cpu_prim *prim_for(struct cpu *c, struct cpu_conv *v,
                                       const struct prim_key *key) {
    for (int i = 0; i < v->n_prims; i++) {
        const struct prim_key *k = &v->key[i];
        if (k->h == key->h && k->w == key->w && k->top == key->top && k->bottom == key->bottom &&
            k->ytype == key->ytype) {
            v->used[i] = ++v->clock;
            return &v->prim[i];
        }
    }
    struct cpu_prim p;
    dnnl_convolution_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t s = conv_desc(&desc, v, key, &v->layout);
    if (s == dnnl_success) s = cpu_dnn_attr(&attr, TACA_ACT_NONE);
    if (s == dnnl_success) s = cpu_prim_open(&p, c->dnn, &desc, attr, true);
    if (attr) dnnl_primitive_attr_destroy(attr);
    if (s != dnnl_success) {
        taca_backend_fail(&c->base, cpu_dnn_code(s),
                          "conv2d: oneDNN, x [%" PRId64 ", %" PRId64 ", %" PRId64 "]: %s", key->h,
                          key->w, v->pub.c_in, cpu_dnn_status(s));
        return NULL;
    }
    int slot = 0;
    if (v->n_prims < PRIMS) {
        slot = v->n_prims++;
    } else {
        for (int i = 1; i < PRIMS; i++)
            if (v->used[i] < v->used[slot]) slot = i;
        cpu_prim_close(&v->prim[slot]);
    }
    v->used[slot] = ++v->clock;
    v->key[slot] = *key;
    v->prim[slot] = p;
    return &v->prim[slot];
}

static bool work_map(struct cpu *c, struct cpu_buf *buf, struct taca_map *m, enum taca_dtype t) {
    m->dtype = t;
    m->data =
        cpu_buf_get(c, buf, (size_t)(m->n * m->h * m->w * m->c) * taca_dtype_bytes(t), "conv2d");
    return m->data != NULL;
}

/* Rows [y, y + rows) of an output image, and where its input starts. */
struct strip {
    const struct cpu_prim *prim;
    int64_t y, rows, x;
};
struct strip_job {
    struct cpu *c;
    const struct cpu_conv *v;
    struct taca_map y, x;
    struct strip strip[MAX_STRIPS];
    int64_t strips;
    bool add;
    size_t pad_bytes, own_bytes; /* a thread's */
    char *pad, *own;             /* own: strips that are to be added */
    _Atomic int status;
};

static void *map_row(struct taca_map m, int64_t image, int64_t row) {
    size_t at = (size_t)((image * m.h + row) * m.w * m.c);
    return (char *)m.data + at * taca_dtype_bytes(m.dtype);
}

static void run_strip(void *ctx, int64_t i, int worker) {
    struct strip_job *j = ctx;
    const struct strip *s = &j->strip[i % j->strips];
    const int64_t image = i / j->strips;
    const struct cpu_run y = {map_row(j->y, image, s->y), j->y.dtype};
    const struct cpu_run own = {j->add ? j->own + (size_t)worker * j->own_bytes : NULL, TACA_F32};
    const struct cpu_prim_data data = {.src = map_row(j->x, image, s->x),
                                       .weights = j->v->w,
                                       .bias = j->v->bias,
                                       .dst = j->add ? own.p : y.p,
                                       .pad = j->pad + (size_t)worker * j->pad_bytes};
    dnnl_status_t rc = cpu_prim_run(s->prim, j->c->dnn, &data);
    if (rc != dnnl_success)
        atomic_store(&j->status, (int)rc);
    else if (j->add)
        j->c->k->add(y, y, own, s->rows * j->y.w * j->y.c);
}

/* Strips of equal height, not lower than the kernel so that few sizes arise, and each worth a
 * thread. Those that are added are as low as is worth a call. */
static int64_t strip_rows(const struct cpu *c, const struct taca_conv *p, struct taca_map y,
                          bool add) {
    const double flops = 2.0 * (double)(y.h * y.w * y.c) * (double)(p->c_in * p->kh * p->kw);
    const int64_t floats = y.h * y.w * y.c;
    int64_t n = flops < 2e6 ? 1 : c->threads;
    if (add && n < floats / ADDED) n = floats / ADDED;
    if (n > MAX_STRIPS) n = MAX_STRIPS;
    int64_t rows = (y.h + n - 1) / n;
    return rows < p->kh ? p->kh : rows;
}

/* What the primitives write. */
static enum taca_dtype strip_type(const struct strip_job *j) {
    return j->add ? TACA_F32 : j->y.dtype;
}
/* Of a thread, for strips that are added. */
static size_t own_bytes(const struct strip_job *j, int64_t rows) {
    const int64_t n = (rows < j->y.h ? rows : j->y.h) * j->y.w * j->y.c;
    return ((size_t)n * sizeof(float) + 63) / 64 * 64;
}

/* The strip of output rows from y on, `rows` of them or what is left; *from = its first input row.
 */
static struct prim_key strip_key(const struct taca_conv *p, const struct strip_job *j, int64_t y,
                                 int64_t rows, int64_t *from) {
    const int64_t end = y + rows < j->y.h ? y + rows : j->y.h;
    const int64_t above = y * p->stride - p->pad_top;                 /* first input row wanted */
    const int64_t below = (end - 1) * p->stride + p->kh - p->pad_top; /* one after the last */
    const int64_t to = below < j->x.h ? below : j->x.h;
    *from = above > 0 ? above : 0;
    return (struct prim_key){to - *from, j->x.w, *from - above, below - to, strip_type(j)};
}

/* Cuts j's images and finds the primitives; false with the error set. */
static bool cut(struct strip_job *j, struct cpu_conv *v) {
    const struct taca_conv *p = &v->pub;
    const int64_t rows = strip_rows(j->c, p, j->y, j->add);
    if (j->add) j->own_bytes = own_bytes(j, rows);
    for (int64_t y = 0; y < j->y.h; y += rows) {
        int64_t from;
        const struct prim_key key = strip_key(p, j, y, rows, &from);
        struct strip *s = &j->strip[j->strips++];
        const int64_t end = y + rows < j->y.h ? y + rows : j->y.h;
        *s = (struct strip){prim_for(j->c, v, &key), y, end - y, from};
        if (!s->prim) return false;
        if (s->prim->pad_bytes > j->pad_bytes) j->pad_bytes = s->prim->pad_bytes;
    }
    j->pad_bytes = (j->pad_bytes + 63) / 64 * 64;
    return true;
}

/* The library has no bf16 result of an f32 convolution: it comes out in work memory. */
static bool comes_wide(const struct taca_conv *w, struct taca_map y, bool add) {
    return !add && y.dtype == TACA_BF16 && w->dtype == TACA_F32;
}

static void run_dnn(struct cpu *c, struct cpu_conv *v, struct taca_map y, struct taca_map x,
                    bool add) {
    const enum taca_dtype t = v->pub.dtype;
    struct strip_job j = {.c = c, .v = v, .y = y, .x = x, .add = add, .status = dnnl_success};
    if (x.dtype != t) {
        if (!work_map(c, &c->in, &j.x, t)) return;
        cpu_copy_rows(c, taca_map_rows(j.x), taca_map_rows(x));
    }
    if (comes_wide(&v->pub, y, add) && !work_map(c, &c->out, &j.y, t)) return;
    if (!cut(&j, v)) return;
    if (add) j.own = cpu_buf_get(c, &c->out, j.own_bytes * (size_t)c->threads, "conv2d");
    if (add && !j.own) return;
    j.pad = cpu_buf_get(c, &c->pad, j.pad_bytes * (size_t)c->threads, "conv2d");
    if (!j.pad) return;
    cpu_parallel(c->pool, x.n * j.strips, run_strip, &j);
    const dnnl_status_t s = (dnnl_status_t)atomic_load(&j.status);
    if (s != dnnl_success)
        taca_backend_fail(&c->base, cpu_dnn_code(s), "conv2d: oneDNN: %s", cpu_dnn_status(s));
    else if (j.y.data != y.data)
        cpu_copy_rows(c, taca_map_rows(y), taca_map_rows(j.y));
}

struct plain_job {
    const struct cpu_conv *v;
    struct taca_map y, x;
    bool add;
};

/* One output value: channel o at row i, column l of image n. */
static float plain_value(const struct plain_job *j, int64_t n, int64_t i, int64_t l, int64_t o) {
    const struct taca_conv *p = &j->v->pub;
    float sum = j->v->bias[o];
    for (int64_t k = 0; k < p->kh; k++)
        for (int64_t m = 0; m < p->kw; m++) {
            int64_t r = i * p->stride + k - p->pad_top, s = l * p->stride + m - p->pad_left;
            if (r < 0 || r >= j->x.h || s < 0 || s >= j->x.w) continue;
            for (int64_t ch = 0; ch < p->c_in; ch++) {
                float x =
                    cpu_get(j->x.data, j->x.dtype, ((n * j->x.h + r) * j->x.w + s) * j->x.c + ch);
                if (p->dtype == TACA_BF16) x = taca_bf16_to_f32(taca_f32_to_bf16(x));
                sum += x * cpu_get(j->v->w, p->dtype, ((o * p->c_in + ch) * p->kh + k) * p->kw + m);
            }
        }
    return sum;
}

/* Rows of the output, over all images. */
static void plain_rows(void *ctx, int64_t first, int64_t last) {
    const struct plain_job *j = ctx;
    for (int64_t r = first; r < last; r++)
        for (int64_t l = 0; l < j->y.w; l++)
            for (int64_t o = 0; o < j->y.c; o++) {
                const int64_t at = (r * j->y.w + l) * j->y.c + o;
                const float was = j->add ? cpu_get(j->y.data, j->y.dtype, at) : 0;
                cpu_put(j->y.data, j->y.dtype, at,
                        plain_value(j, r / j->y.h, r % j->y.h, l, o) + was);
            }
}

void cpu_conv2d(struct taca_backend *b, struct taca_map y, struct taca_map x,
                const struct taca_conv *w, bool add) {
    struct cpu *c = cpu_of(b);
    struct cpu_conv *v = conv_of(w);
    if (c->dnn) {
        cpu_dnn_bind(c->dnn);
        run_dnn(c, v, y, x, add);
        return;
    }
    struct plain_job j = {v, y, x, add};
    cpu_split(c, y.n * y.h, y.w * y.c * w->c_in * w->kh * w->kw, plain_rows, &j);
}

/* ---- foreseen -------------------------------------------------------------------------------- */

struct taca_weight_bytes cpu_weigh_conv(struct taca_backend *b, struct taca_conv *w) {
    struct cpu *c = cpu_of(b);
    const struct cpu_conv v = {.pub = *w};
    const size_t plain = (size_t)(w->c_out * w->c_in * w->kh * w->kw) * sizeof(float);
    const size_t rest = sizeof v + (size_t)w->c_out * sizeof(float);
    dnnl_memory_desc_t layout;
    if (!c->dnn || find_layout(&layout, &v, c->dnn) != dnnl_success)
        return (struct taca_weight_bytes){rest + plain, 0};
    return (struct taca_weight_bytes){rest + dnnl_memory_desc_get_size(&layout), plain};
}

static void foresee_strip(struct cpu *c, const struct taca_conv *w, const struct prim_key *key) {
    const struct cpu_conv v = {.pub = *w};
    struct {
        struct taca_conv w;
        struct prim_key key;
    } what;
    dnnl_convolution_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    if (conv_desc(&desc, &v, key, NULL) != dnnl_success ||
        cpu_dnn_attr(&attr, TACA_ACT_NONE) != dnnl_success)
        return;
    memset(&what, 0, sizeof what); /* gaps, too: its bytes are its name */
    what.w.c_in = w->c_in;
    what.w.c_out = w->c_out;
    what.w.kh = w->kh;
    what.w.stride = w->stride;
    what.key.h = key->h;
    what.key.w = key->w;
    what.key.top = key->top;
    what.key.bottom = key->bottom;
    what.key.ytype = key->ytype;
    cpu_prim_foresee(c, &(struct cpu_prim_want){&desc, attr, &what, sizeof what, w});
    dnnl_primitive_attr_destroy(attr);
}

void cpu_foresee_conv2d(struct taca_backend *b, struct taca_map y, struct taca_map x,
                        const struct taca_conv *w, bool add) {
    struct cpu *c = cpu_of(b);
    struct strip_job j = {.c = c, .x = x, .y = y, .add = add};
    const size_t ins = (size_t)(x.n * x.h * x.w * x.c), outs = (size_t)(y.n * y.h * y.w * y.c);
    if (!c->dnn) return;
    if (x.dtype != w->dtype) cpu_buf_foresee(&c->in, ins * taca_dtype_bytes(w->dtype));
    if (comes_wide(w, y, add)) {
        cpu_buf_foresee(&c->out, outs * sizeof(float));
        j.y.dtype = TACA_F32;
    }
    const int64_t rows = strip_rows(c, w, y, add);
    if (add) cpu_buf_foresee(&c->out, own_bytes(&j, rows) * (size_t)c->threads);
    for (int64_t at = 0; at < y.h; at += rows) {
        int64_t from;
        const struct prim_key key = strip_key(w, &j, at, rows, &from);
        foresee_strip(c, w, &key);
    }
}
