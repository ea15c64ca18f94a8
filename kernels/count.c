/* count.c - the backend that computes nothing and counts: what a forward costs before it runs.
 *
 * Its weights are handles without values, its views have no memory. Bytes of a weight are those of
 * the handle it is given, so the count of another backend's weights is that backend's traffic. One
 * that stands for a real backend also asks that what each weight and op would take there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend_ops.h"

/* A handle, first member the list so that close finds it. */
struct handle {
    struct handle *next;
    union {
        struct taca_linear linear;
        struct taca_conv conv;
    } u;
};

struct count {
    struct taca_backend base;
    struct taca_counts counts;
    struct handle *handles;
    struct taca_backend *real; /* what it stands for, NULL = none */
    bool owner;                /* of real */
    size_t kept, opening;
};

static struct count *count_of(struct taca_backend *b) { return (struct count *)b; }

static void count_close(struct taca_backend *b) {
    struct count *c = count_of(b);
    if (c->owner) taca_backend_close(c->real);
    while (c->handles) {
        struct handle *h = c->handles;
        c->handles = h->next;
        free(h);
    }
    taca_backend_finish(b);
    free(c);
}

void taca_count_keep(struct taca_backend *b, struct taca_weight_bytes bytes) {
    struct count *c = count_of(b);
    if (!c->real) return;
    c->kept += bytes.kept;
    if (c->opening < c->kept + bytes.opening) c->opening = c->kept + bytes.opening;
}

/* What is not of a model's own weights (gains of adapters) is so little that it is there. */
static void *count_alloc(struct taca_backend *b, size_t bytes) {
    (void)b;
    return malloc(bytes);
}
static void count_free(struct taca_backend *b, void *p) {
    (void)b;
    free(p);
}

static struct handle *new_handle(struct taca_backend *b, const char *name, struct taca_err *err) {
    struct handle *h = calloc(1, sizeof *h);
    if (!h) {
        (void)taca_fail(err, TACA_ENOMEM, "%s", name);
        return NULL;
    }
    h->next = count_of(b)->handles;
    count_of(b)->handles = h;
    return h;
}

static enum taca_code count_linear_open(struct taca_backend *b, struct taca_linear **out,
                                        const struct taca_tensor *parts,
                                        const struct taca_tensor *biases, int n_parts,
                                        struct taca_err *err) {
    struct handle *h = new_handle(b, parts[0].name, err);
    if (!h) return TACA_ENOMEM;
    struct taca_linear *l = &h->u.linear;
    for (int i = 0; i < n_parts; i++) l->out += parts[i].dim[0];
    l->in = taca_tensor_count(&parts[0]) / parts[0].dim[0];
    l->dtype = b->precision;
    l->has_bias = biases != NULL;
    struct taca_backend *real = count_of(b)->real;
    if (real && real->ops->weigh_linear) {
        real->narrow = b->narrow;
        taca_count_keep(b, real->ops->weigh_linear(real, l));
    }
    *out = l;
    return TACA_OK;
}

static enum taca_code count_conv_open(struct taca_backend *b, struct taca_conv **out,
                                      const struct taca_tensor *weight,
                                      const struct taca_tensor *bias, const struct taca_conv *shape,
                                      struct taca_err *err) {
    (void)bias;
    struct handle *h = new_handle(b, weight->name, err);
    if (!h) return TACA_ENOMEM;
    h->u.conv = *shape;
    h->u.conv.dtype = b->precision;
    struct taca_backend *real = count_of(b)->real;
    if (real && real->ops->weigh_conv) taca_count_keep(b, real->ops->weigh_conv(real, &h->u.conv));
    *out = &h->u.conv;
    return TACA_OK;
}

static void count_linear(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                         const struct taca_linear *w, enum taca_act act) {
    const double n = (double)w->in * (double)w->out;
    struct taca_counts *c = &count_of(b)->counts;
    struct taca_backend *real = count_of(b)->real;
    if (real && real->ops->foresee_linear) real->ops->foresee_linear(real, y, x, w, act);
    c->flops += 2 * n * (double)y.rows;
    if (w->dtype == TACA_U8) c->narrow_flops += 2 * n * (double)y.rows;
    c->weight_bytes += n * (double)taca_dtype_bytes(w->dtype);
    if (w->has_bias) c->weight_bytes += (double)w->out * sizeof(float);
}

static void count_conv2d(struct taca_backend *b, struct taca_map y, struct taca_map x,
                         const struct taca_conv *w, bool add) {
    const double n = (double)w->c_in * (double)w->c_out * (double)(w->kh * w->kw);
    const double flops = 2 * n * (double)(y.n * y.h * y.w);
    struct taca_counts *c = &count_of(b)->counts;
    struct taca_backend *real = count_of(b)->real;
    if (real && real->ops->foresee_conv2d) real->ops->foresee_conv2d(real, y, x, w, add);
    c->flops += flops;
    c->conv_flops += flops;
    c->weight_bytes += n * (double)taca_dtype_bytes(w->dtype) + (double)w->c_out * sizeof(float);
}

/* Two products of (queries x keys x head_dim) per head; pairs that a mask cuts are not counted. */
static void count_attention(struct taca_backend *b, struct taca_mat o_img, struct taca_mat o_txt,
                            const struct taca_qkv *img, const struct taca_qkv *txt,
                            const struct taca_layout *l, const struct taca_attn *a) {
    (void)o_img;
    const double d = (double)(l->img_rows ? img->q.cols : txt->q.cols);
    double pairs = 0;
    for (int i = 0; i < l->n_segs; i++) {
        const double ni = (double)l->segs[i].n_img;
        const double nt = txt->q.cols ? (double)l->segs[i].n_txt : 0; /* zeroed: left out */
        if (a->mask == TACA_MASK_CAUSAL)
            pairs += ni * (ni + 1) / 2;
        else
            pairs += (ni + (o_txt.cols ? nt : 0)) * (ni + nt);
    }
    struct taca_backend *real = count_of(b)->real;
    if (real && real->ops->foresee_attention) real->ops->foresee_attention(real, img, txt, l, a);
    count_of(b)->counts.flops += 4 * pairs * d;
    count_of(b)->counts.attention_flops += 4 * pairs * d;
}

static const struct taca_backend_ops count_ops = {
    .name = "count",
    .counting = true,
    .close = count_close,
    .alloc = count_alloc,
    .free = count_free,
    .linear_open = count_linear_open,
    .conv_open = count_conv_open,
    .linear = count_linear,
    .conv2d = count_conv2d,
    .attention = count_attention,
};

enum taca_code taca_count_open(struct taca_backend **out, enum taca_dtype precision,
                               struct taca_err *err) {
    struct count *c = calloc(1, sizeof *c);
    if (!c) return taca_fail(err, TACA_ENOMEM, "counting backend");
    c->base.ops = &count_ops;
    c->base.precision = precision;
    snprintf(c->base.detail, sizeof c->base.detail, "counts %s", taca_dtype_name(precision));
    *out = &c->base;
    return TACA_OK;
}

enum taca_code taca_count_open_for(struct taca_backend **out, struct taca_backend *real,
                                   struct taca_err *err) {
    enum taca_code rc = taca_count_open(out, real->precision, err);
    if (rc) {
        taca_backend_close(real);
        return rc;
    }
    struct count *c = count_of(*out);
    c->real = real;
    c->owner = true;
    c->base.narrow_type = real->narrow_type;
    memcpy(c->base.detail, real->detail, sizeof c->base.detail);
    return TACA_OK;
}

enum taca_code taca_count_open_beside(struct taca_backend **out, struct taca_backend *b,
                                      struct taca_err *err) {
    enum taca_code rc = taca_count_open(out, b->precision, err);
    if (rc) return rc;
    if (b->ops == &count_ops)
        count_of(*out)->real = count_of(b)->real;
    else if (b->ops->reserve)
        count_of(*out)->real = b;
    return TACA_OK;
}

struct taca_work taca_count_work(struct taca_backend *b) {
    struct taca_backend *real = taca_count_real(b);
    return real && real->ops->work ? real->ops->work(real) : (struct taca_work){0};
}

enum taca_code taca_work_reserve(struct taca_backend *b, const struct taca_work *work,
                                 struct taca_err *err) {
    size_t all = 0;
    if (!b->ops->reserve || b->ops->reserve(b, work)) return TACA_OK;
    if (b->error.code) return taca_fail(err, b->error.code, "%s", b->error.text);
    for (int i = 0; i < TACA_WORK_BUFFERS; i++) all += work->bytes[i];
    return taca_fail(err, TACA_ENOMEM, "%s: %zu bytes of work memory", b->ops->name, all);
}

struct taca_backend *taca_count_real(struct taca_backend *b) {
    return b->ops == &count_ops ? count_of(b)->real : NULL;
}

struct taca_foreseen taca_count_foreseen(const struct taca_backend *b) {
    const struct count *c = (const struct count *)b;
    if (b->ops != &count_ops || !c->real) return (struct taca_foreseen){0};
    return (struct taca_foreseen){c->kept, c->opening,
                                  c->real->ops->foreseen ? c->real->ops->foreseen(c->real) : 0};
}

struct taca_counts taca_count_read(const struct taca_backend *b) {
    struct taca_counts c = ((const struct count *)b)->counts;
    c.scratch_bytes = b->scratch_peak;
    return c;
}
