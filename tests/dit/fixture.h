/* fixture.h - a transformer opened from a golden set, and forwards from host memory to host memory.
 *
 * Scratch is reserved to the byte that a dry run on the counting backend asks for, so every forward
 * here also checks the memory plan. */
#ifndef TACA_TESTS_DIT_FIXTURE_H
#define TACA_TESTS_DIT_FIXTURE_H

#include "engine/dit/model.h"
#include "engine/io/checkpoint.h"
#include "tests/test.h"

enum { MAX_ITEMS = 8, MAX_BLOCKS = 2 + 10 * MAX_ITEMS, PATH_LEN = 512 };

struct model {
    struct taca_backend *b;
    struct taca_ckpt *ckpt;
    json_t *config;
    struct dit *dit;
    struct taca_scratch scratch;
    struct taca_err err;
    void *block[MAX_BLOCKS]; /* device memory of one forward */
    int n_blocks;
};

/* One latent under one condition, on the host. */
struct sample {
    const float *latent; /* [in_channels, h, w] */
    int64_t h, w;
    const float *text; /* [n_text, joint_width] */
    int64_t n_text;
    const float *pooled; /* [pooled_width] */
    const float *temb;   /* NULL, or [width] instead of what t, guidance and pooled give */
    const float *places; /* NULL, or [image rows + n_text, 3] instead of the usual ones */
    float t, guidance, gamma;
};

typedef void tap_fn(void *ctx, const char *name, struct taca_mat value);

struct pass {
    const struct sample *samples;
    int n;
    const bool *skip;
    tap_fn *tap;
    void *tap_ctx;
};

/* ---- opening --------------------------------------------------------------------------------- */

static inline bool model_open(struct model *m, const char *config, const char *weights,
                              const struct taca_backend_opts *opts) {
    *m = (struct model){0};
    enum taca_code rc = taca_cpu_open(&m->b, opts, &m->err);
    if (!rc) rc = taca_json_load(&m->config, config, &m->err);
    if (!rc) rc = taca_ckpt_open(&m->ckpt, weights, &m->err);
    if (!rc) rc = dit_open(&m->dit, m->b, m->config, m->ckpt, &m->err);
    m->scratch.b = m->b;
    CHECK_OK(rc, m->err);
    return rc == TACA_OK;
}

static inline void model_close(struct model *m) {
    if (m->b) taca_scratch_finish(&m->scratch);
    dit_close(m->dit);
    taca_ckpt_close(m->ckpt);
    json_decref(m->config);
    taca_backend_close(m->b);
}

/* A tensor of a golden file as host floats. Free it; NULL when it is not there. */
static inline float *golden(struct taca_ckpt *io, const char *name, int rank, int64_t *dim) {
    const struct taca_tensor *seen = taca_ckpt_peek(io, name);
    struct taca_tensor t;
    struct taca_err err = {0};
    int64_t any[TACA_MAX_RANK] = {-1, -1, -1, -1, -1};
    if (!seen) return NULL;
    CHECK_OK(taca_ckpt_get(io, &t, name, rank, any, &err), err);
    if (dim) memcpy(dim, t.dim, (size_t)rank * sizeof *dim);
    size_t n = (size_t)taca_tensor_count(&t);
    float *x = malloc(n * sizeof *x);
    if (!x) abort();
    taca_to_f32(x, t.data, t.dtype, n);
    return x;
}

/* ---- device memory --------------------------------------------------------------------------- */

static inline float *put(struct model *m, const float *host, int64_t n) {
    if (m->n_blocks == MAX_BLOCKS) abort();
    size_t bytes = (size_t)n * sizeof *host;
    float *p = taca_alloc(m->b, bytes, &m->err);
    if (!p) abort();
    m->block[m->n_blocks++] = p;
    if (host)
        taca_upload(m->b, p, host, bytes);
    else
        taca_fill_zero(m->b, p, bytes);
    return p;
}

static inline struct taca_mat put_mat(struct model *m, const float *host, int64_t rows,
                                      int64_t cols) {
    return (struct taca_mat){put(m, host, rows * cols), TACA_F32, rows, cols, cols};
}

static inline void drop(struct model *m) {
    while (m->n_blocks) taca_free(m->b, m->block[--m->n_blocks]);
}

static inline struct taca_mat nowhere(struct taca_mat x) {
    x.data = NULL;
    return x;
}

/* Bytes a forward needs: the same calls on a backend that only counts, without any memory. */
static inline struct taca_counts count_run(struct model *m, struct taca_backend *count,
                                           const struct dit_forward *f) {
    struct taca_scratch s = {.b = count};
    struct taca_layout layout = {0};
    struct dit_item items[MAX_ITEMS];
    for (int i = 0; i < f->n_items; i++) {
        items[i] = f->items[i];
        items[i].latent.data = items[i].velocity.data = NULL;
        items[i].context = nowhere(items[i].context);
        items[i].places = nowhere(items[i].places);
        items[i].mod = nowhere(items[i].mod);
    }
    CHECK_OK(taca_layout_init(&layout, count, f->layout->segs, f->n_items, &m->err), m->err);
    struct dit_forward dry = {
        .items = items, .n_items = f->n_items, .layout = &layout, .skip = f->skip};
    dit_run(m->dit, count, &s, &dry);
    CHECK_OK(taca_sync(count, &m->err), m->err);
    CHECK_INT(s.used, 0);
    CHECK_INT(s.peak, taca_count_read(count).scratch_bytes);
    taca_layout_finish(&layout);
    return taca_count_read(count);
}

static inline struct taca_counts count_forward(struct model *m, const struct dit_forward *f) {
    struct taca_backend *count = NULL;
    struct taca_counts r = {0};
    CHECK_OK(taca_count_open(&count, taca_backend_precision(m->b), &m->err), m->err);
    if (count) r = count_run(m, count, f);
    taca_backend_close(count);
    return r;
}

static inline size_t count_modulation(struct model *m, int64_t n, int64_t pooled_rows) {
    const struct dit_info *info = dit_get_info(m->dit);
    struct taca_backend *count = NULL;
    float t[MAX_ITEMS] = {0};
    CHECK_OK(taca_count_open(&count, taca_backend_precision(m->b), &m->err), m->err);
    struct taca_scratch s = {.b = count};
    const struct dit_condition c = {
        .t = t, .pooled = {NULL, TACA_F32, pooled_rows, info->pooled_width, info->pooled_width}};
    dit_modulation(m->dit, count, &s,
                   (struct taca_mat){NULL, TACA_F32, n, info->mod_width, info->mod_width}, &c);
    CHECK_OK(taca_sync(count, &m->err), m->err);
    taca_backend_close(count);
    return s.peak;
}

/* ---- forwards -------------------------------------------------------------------------------- */

/* The rotary places of a sample; a model without them needs none. */
static inline struct taca_mat places_of(struct model *m, const struct sample *s) {
    const struct dit_info *info = dit_get_info(m->dit);
    const int64_t rows = s->h / info->patch * (s->w / info->patch) + s->n_text;
    if (!info->place_width) return (struct taca_mat){0};
    float *host = malloc((size_t)(rows * info->place_width) * sizeof *host);
    if (!host) abort();
    if (s->places)
        dit_places_at(m->dit, host, s->places, rows);
    else
        dit_places(m->dit, host, s->h, s->w, s->n_text);
    struct taca_mat table = put_mat(m, host, rows, info->place_width);
    free(host);
    return table;
}

/* The modulations of one sample, from its time and pooled text or from a given embedding. */
static inline struct taca_mat modulation_of(struct model *m, const struct sample *s) {
    const struct dit_info *info = dit_get_info(m->dit);
    struct taca_mat mod = put_mat(m, NULL, 1, info->mod_width);
    CHECK_OK(taca_scratch_reserve(&m->scratch, count_modulation(m, 1, 1), &m->err), m->err);
    if (s->temb) {
        dit_modulation_of(m->dit, m->b, &m->scratch, mod, put_mat(m, s->temb, 1, info->width));
        return mod;
    }
    const struct dit_condition c = {.t = &s->t,
                                    .guidance = s->guidance,
                                    .pooled = put_mat(m, s->pooled, 1, info->pooled_width)};
    dit_modulation(m->dit, m->b, &m->scratch, mod, &c);
    return mod;
}

static inline struct dit_item item_of(struct model *m, const struct sample *s) {
    const struct dit_info *info = dit_get_info(m->dit);
    const int64_t n = info->in_channels * s->h * s->w;
    struct taca_mat text = put_mat(m, s->text, s->n_text, info->joint_width);
    struct taca_mat context = put_mat(m, NULL, s->n_text, info->width);
    dit_context(m->dit, m->b, &m->scratch, context, text, NULL);
    return (struct dit_item){.latent = {put(m, s->latent, n), info->in_channels, s->h, s->w},
                             .velocity = {put(m, NULL, n), info->in_channels, s->h, s->w},
                             .context = context,
                             .places = places_of(m, s),
                             .mod = modulation_of(m, s),
                             .gamma = s->gamma};
}

/* out[i] = the velocity of sample i, [in_channels, h, w]. False when the backend failed. */
static inline bool forward(struct model *m, const struct pass *p, float *const *out) {
    struct dit_item items[MAX_ITEMS];
    struct taca_seg segs[MAX_ITEMS];
    struct taca_layout layout = {0};
    m->err = (struct taca_err){0};
    for (int i = 0; i < p->n; i++) items[i] = item_of(m, &p->samples[i]);
    dit_segments(m->dit, items, p->n, segs);
    CHECK_OK(taca_layout_init(&layout, m->b, segs, p->n, &m->err), m->err);
    struct dit_forward f = {.items = items,
                            .n_items = p->n,
                            .layout = &layout,
                            .skip = p->skip,
                            .tap = p->tap,
                            .tap_ctx = p->tap_ctx};
    size_t bytes = count_forward(m, &f).scratch_bytes;
    CHECK_OK(taca_scratch_reserve(&m->scratch, bytes, &m->err), m->err);
    dit_run(m->dit, m->b, &m->scratch, &f);
    CHECK_INT(m->scratch.used, 0);
    for (int i = 0; i < p->n; i++)
        taca_download(m->b, out[i], items[i].velocity.data,
                      (size_t)(items[i].latent.c * items[i].latent.h * items[i].latent.w) *
                          sizeof(float));
    enum taca_code rc = taca_sync(m->b, &m->err);
    CHECK_OK(rc, m->err);
    taca_layout_finish(&layout);
    drop(m);
    return rc == TACA_OK;
}

/* The rows of a tapped matrix, dense; n must be their number. */
static inline void fetch(struct model *m, float *dst, struct taca_mat x) {
    CHECK(x.dtype == TACA_F32);
    for (int64_t r = 0; r < x.rows; r++)
        taca_download(m->b, dst + r * x.cols, (float *)x.data + r * x.ld,
                      (size_t)x.cols * sizeof *dst);
}

static inline double worst_diff(const float *a, const float *b, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

#endif
