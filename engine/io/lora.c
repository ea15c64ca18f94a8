/* lora.c - see lora.h. Keys are grouped by stem; each group becomes one delta, or one for each part
 * of a fused matrix. */
#include "engine/io/lora.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io/io.h"
#include "engine/io/lora_parts.h"

enum { MAX_WARNINGS = 64, MAX_ADAPTER_RANK = 4096 };

struct key {
    const struct taca_stored *t;
    size_t stem; /* bytes of the name */
    enum lora_kind kind;
};

struct reader {
    const char *name; /* of the file, without its folder: messages stay short */
    const struct taca_lora_model *model;
    const struct taca_lora_warn *warn;
    struct taca_err *err;
    struct taca_safetensors *st;
    struct key *keys;     /* sorted by stem, then kind */
    size_t n_keys, pairs; /* keys of any kind of adapter */
    struct lora_meta meta;
    struct lora_names names;
    struct taca_lora_file *out;
    const char **owner; /* per module: the key that changes it */
    int warnings, unknown, with_alpha, without_alpha;
    int text_stems;
    const struct key *first_text, *first_unknown;
};

/* The keys of one stem. */
struct group {
    const struct key *keys;
    size_t n;
    struct lora_core core;
    const struct lora_place *places;
    size_t n_places;
};

static const struct taca_stored *part(const struct group *g, enum lora_kind kind) {
    for (size_t i = 0; i < g->n; i++)
        if (g->keys[i].kind == kind) return g->keys[i].t;
    return NULL;
}

static void warn(struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void warn(struct reader *r, const char *fmt, ...) {
    char text[512], shown[512];
    va_list ap;
    if (r->warnings++ >= MAX_WARNINGS || !r->warn) return;
    int n = snprintf(text, sizeof text, "%s: ", r->name);
    va_start(ap, fmt);
    vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    va_end(ap);
    r->warn->fn(r->warn->ctx, io_clean(shown, sizeof shown, text));
}

static enum taca_code no_memory(const struct reader *r) {
    return taca_fail(r->err, TACA_ENOMEM, "%s: out of memory", r->name);
}

/* ---- keys ------------------------------------------------------------------------------------ */

static int by_stem(const void *a, const void *b) {
    const struct key *x = a, *y = b;
    const size_t least = x->stem < y->stem ? x->stem : y->stem;
    int order = memcmp(x->t->name, y->t->name, least);
    if (order) return order;
    if (x->stem != y->stem) return x->stem < y->stem ? -1 : 1;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    return strcmp(x->t->name, y->t->name);
}

static bool same_stem(const struct key *a, const struct key *b) {
    return a->stem == b->stem && memcmp(a->t->name, b->t->name, a->stem) == 0;
}

static enum taca_code sort_keys(struct reader *r) {
    const size_t n = taca_safetensors_stored_count(r->st);
    r->keys = calloc(n + 1, sizeof *r->keys);
    if (!r->keys) return no_memory(r);
    for (; r->n_keys < n; r->n_keys++) {
        struct key *k = &r->keys[r->n_keys];
        k->t = taca_safetensors_stored_at(r->st, r->n_keys);
        k->kind = lora_kind_of(k->t->name, &k->stem);
        r->pairs += k->kind < LORA_FULL && k->kind != LORA_GAIN;
    }
    qsort(r->keys, r->n_keys, sizeof *r->keys, by_stem);
    return TACA_OK;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* The tensor's values as floats, all finite. */
static enum taca_code values(struct reader *r, const struct taca_stored *t, const float **out) {
    char shown[IO_SHOWN];
    size_t bytes;
    const size_t n = (size_t)taca_stored_count(t);
    if (!taca_storage_is_float(t->type))
        return taca_fail(r->err, TACA_EFORMAT, "%s: %s is %s, wanted floats", r->name,
                         io_shown(shown, t->name), t->spelled);
    if (!taca_mul(&bytes, n, sizeof(float))) return no_memory(r);
    float *x = taca_arena_alloc(&r->out->memory, bytes ? bytes : 1);
    if (!x) return no_memory(r);
    taca_storage_to_f32(x, t->data, t->type, n);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return taca_fail(r->err, TACA_EFORMAT, "%s: %s has a value that is not finite", r->name,
                             io_shown(shown, t->name));
    *out = x;
    return TACA_OK;
}

/* A tensor as a matrix: [rows, cols], or a convolution's [rows, c, k, k] with its patch flattened.
 */
static bool as_matrix(const struct taca_stored *t, int64_t *rows, int64_t *cols) {
    if (t->rank != 2 && t->rank != 4) return false;
    *rows = t->dim[0];
    *cols = 1;
    for (int i = 1; i < t->rank; i++) *cols *= t->dim[i];
    return true;
}

static enum taca_code wrong_shape(struct reader *r, const struct taca_stored *t, int64_t rows,
                                  int64_t cols) {
    char shown[IO_SHOWN], found[IO_SHAPE], wanted[IO_SHAPE];
    const int64_t dim[] = {rows, cols};
    return taca_fail(r->err, TACA_EFORMAT, "%s: %s: %s found, %s wanted", r->name,
                     io_shown(shown, t->name), io_shape(found, t->rank, t->dim),
                     io_shape(wanted, cols ? 2 : 1, dim));
}

/* ---- one group ------------------------------------------------------------------------------- */

/* No kind twice, however it is spelled. */
static enum taca_code check_twice(struct reader *r, const struct group *g) {
    char a[IO_SHOWN], b[IO_SHOWN];
    for (size_t i = 1; i < g->n; i++)
        if (g->keys[i].kind == g->keys[i - 1].kind && g->keys[i].kind <= LORA_ALPHA)
            return taca_fail(r->err, TACA_EFORMAT, "%s: %s and %s are the same", r->name,
                             io_shown(a, g->keys[i - 1].t->name), io_shown(b, g->keys[i].t->name));
    return TACA_OK;
}

/* Kinds of change that are not a low-rank pair: the whole of it or nothing. */
static enum taca_code check_kinds(struct reader *r, const struct group *g) {
    char shown[IO_SHOWN];
    for (size_t i = 0; i < g->n; i++) {
        const struct key *k = &g->keys[i];
        if (k->kind >= LORA_DORA && k->kind < LORA_FULL)
            return taca_fail(r->err, TACA_EUNSUPPORTED,
                             "%s: %s belongs to %s, which is not supported", r->name,
                             io_shown(shown, k->t->name), lora_kind_text(k->kind));
        if (k->kind == LORA_FULL || k->kind == LORA_GAIN)
            warn(r, "%s changes a whole tensor, which is not supported: left out",
                 io_shown(shown, k->t->name));
    }
    return TACA_OK;
}

/* Rows of B that the places want. A processor's matrix may leave out the last part. */
static int64_t rows_wanted(const struct reader *r, struct group *g) {
    if (g->n_places > 1 && strcmp(g->core.naming, "XLabs") == 0 && g->n_places == 4) g->n_places--;
    int64_t rows = 0;
    for (size_t i = 0; i < g->n_places; i++) rows += r->model->modules[g->places[i].module].out;
    return rows;
}

static enum taca_code check_pair(struct reader *r, struct group *g, struct taca_lora_delta *d) {
    char a[IO_SHOWN], b[IO_SHOWN];
    const struct taca_stored *down = part(g, LORA_DOWN), *up = part(g, LORA_UP);
    const struct taca_stored *bias = part(g, LORA_BIAS);
    const struct taca_stored *one = down ? down : up ? up : bias;
    if (!down || !up)
        return taca_fail(r->err, TACA_EFORMAT, "%s: %s has no counterpart", r->name,
                         io_shown(a, one->name));
    const struct taca_lora_module *m = &r->model->modules[g->places[0].module];
    const int64_t in = m->in, out = rows_wanted(r, g);
    int64_t up_rows, up_cols, cols;
    if (!as_matrix(down, &d->rank, &cols) || (cols != in && !(m->doubles && cols == 2 * in)))
        return wrong_shape(r, down, down->rank ? down->dim[0] : 1, in);
    d->in = cols;
    if (d->rank < 1 || d->rank > MAX_ADAPTER_RANK)
        return taca_fail(r->err, TACA_EFORMAT, "%s: %s has rank %" PRId64 ", wanted 1..%d", r->name,
                         io_shown(a, down->name), d->rank, MAX_ADAPTER_RANK);
    if (!as_matrix(up, &up_rows, &up_cols)) return wrong_shape(r, up, out, d->rank);
    if (up_cols != d->rank)
        return taca_fail(r->err, TACA_EFORMAT, "%s: %s has rank %" PRId64 ", %s has rank %" PRId64,
                         r->name, io_shown(a, down->name), d->rank, io_shown(b, up->name), up_cols);
    if (up_rows != out) return wrong_shape(r, up, out, d->rank);
    if (bias && (bias->rank != 1 || bias->dim[0] != out)) return wrong_shape(r, bias, out, 0);
    return TACA_OK;
}

static enum taca_code scale_of(struct reader *r, const struct group *g, int64_t rank,
                               double *scale) {
    const struct taca_stored *t = part(g, LORA_ALPHA);
    const float *alpha;
    if (!t) {
        r->without_alpha += !r->meta.json && isnan(r->meta.alpha);
        return lora_meta_scale(&r->meta, g->core.name, rank, scale, r->err);
    }
    r->with_alpha++;
    if (taca_stored_count(t) != 1) return wrong_shape(r, t, 1, 0);
    enum taca_code rc = values(r, t, &alpha);
    if (!rc) *scale = (double)alpha[0] / (double)rank;
    return rc;
}

static enum taca_code wrong_scale(struct reader *r, const struct group *g, double scale) {
    char shown[IO_SHOWN];
    return taca_fail(r->err, TACA_EFORMAT, "%s: %s: alpha / rank is %g", r->name,
                     io_shown(shown, g->keys[0].t->name), scale);
}

static void swap_halves(float *to, const float *from, int64_t n) {
    const size_t half = (size_t)(n / 2);
    memcpy(to, from + half, half * sizeof *to);
    memcpy(to + half, from, half * sizeof *to);
}

/* The same rows, their halves the other way round. */
static enum taca_code swapped(struct reader *r, const float **x, int64_t n) {
    float *y = taca_arena_alloc(&r->out->memory, (size_t)n * sizeof *y);
    if (!y) return no_memory(r);
    swap_halves(y, *x, n);
    *x = y;
    return TACA_OK;
}

static enum taca_code claim(struct reader *r, const struct group *g, int module) {
    char a[IO_SHOWN], b[IO_SHOWN];
    if (r->owner[module])
        return taca_fail(r->err, TACA_EFORMAT, "%s: %s and %s change the same module %s", r->name,
                         io_shown(a, r->owner[module]), io_shown(b, g->keys[0].t->name),
                         r->model->modules[module].name);
    r->owner[module] = g->keys[0].t->name;
    return TACA_OK;
}

/* One delta for each place. */
static enum taca_code add_deltas(struct reader *r, const struct group *g,
                                 const struct taca_lora_delta *whole) {
    enum taca_code rc = TACA_OK;
    int64_t row = 0;
    for (size_t i = 0; i < g->n_places && !rc; i++) {
        const struct lora_place *p = &g->places[i];
        const int64_t out = r->model->modules[p->module].out;
        struct taca_lora_delta d = *whole;
        d.module = p->module;
        d.up += row * d.rank;
        if (d.bias) d.bias += row;
        rc = claim(r, g, p->module);
        if (!rc && p->swapped) rc = swapped(r, &d.up, out * d.rank);
        if (!rc && p->swapped && d.bias) rc = swapped(r, &d.bias, out);
        if (!rc) r->out->deltas[r->out->n_deltas++] = d;
        row += out;
    }
    return rc;
}

/* A group of a norm: nothing but its gain. */
static enum taca_code read_norm(struct reader *r, const struct group *g) {
    char shown[IO_SHOWN];
    const int module = g->places[0].module;
    const int64_t n = r->model->modules[module].out;
    for (size_t i = 0; i < g->n; i++) {
        const struct key *k = &g->keys[i];
        struct taca_lora_gain *to = &r->out->gains[r->out->n_gains];
        if (k->kind != LORA_GAIN) {
            warn(r, "%s: a norm has no such thing: left out", io_shown(shown, k->t->name));
            continue;
        }
        if (k->t->rank != 1 || k->t->dim[0] != n) return wrong_shape(r, k->t, n, 0);
        enum taca_code rc = claim(r, g, module);
        if (!rc) rc = values(r, k->t, &to->gain);
        if (rc) return rc;
        to->module = module;
        r->out->n_gains++;
    }
    return TACA_OK;
}

static enum taca_code read_group(struct reader *r, struct group *g) {
    const struct taca_stored *bias = part(g, LORA_BIAS);
    struct taca_lora_delta d = {0};
    double scale;
    enum taca_code rc = check_twice(r, g);
    if (!rc) rc = check_kinds(r, g);
    if (rc || !(part(g, LORA_DOWN) || part(g, LORA_UP) || bias)) return rc;
    rc = check_pair(r, g, &d);
    if (!rc) rc = scale_of(r, g, d.rank, &scale);
    if (!rc) rc = values(r, part(g, LORA_DOWN), &d.down);
    if (!rc) rc = values(r, part(g, LORA_UP), &d.up);
    if (!rc && bias) rc = values(r, bias, &d.bias);
    if (rc) return rc;
    d.scale = (float)scale;
    if (!isfinite(d.scale)) return wrong_scale(r, g, scale);
    r->out->naming = g->core.naming;
    for (size_t i = 0; i < g->n; i++)
        if (g->keys[i].kind < LORA_ALPHA) r->out->parameters += taca_stored_count(g->keys[i].t);
    return add_deltas(r, g, &d);
}

/* A stem that is no module of the model. */
static void note_unknown(struct reader *r, const struct group *g) {
    char stem[LORA_NAME];
    const struct key *k = &g->keys[0];
    if (g->core.text_encoder) {
        if (r->text_stems++ == 0) r->first_text = k;
        return;
    }
    if (r->unknown++ == 0) r->first_unknown = k;
    snprintf(stem, sizeof stem, "%.*s", (int)k->stem, k->t->name);
    warn(r, "%s: the model has no such module", stem);
}

static enum taca_code read_groups(struct reader *r) {
    for (size_t i = 0, end; i < r->n_keys; i = end) {
        struct group g = {.keys = r->keys + i};
        for (end = i + 1; end < r->n_keys && same_stem(&r->keys[i], &r->keys[end]);) end++;
        g.n = end - i;
        const bool known = lora_core_of(&g.core, r->keys[i].t->name, r->keys[i].stem);
        if (known && !g.core.text_encoder)
            g.n_places = lora_names_find(&r->names, &g.core, &g.places);
        if (g.n_places == 0) {
            note_unknown(r, &g);
            continue;
        }
        const bool norm = r->model->modules[g.places[0].module].in == 0;
        enum taca_code rc = norm ? read_norm(r, &g) : read_group(r, &g);
        if (rc) return rc;
    }
    return TACA_OK;
}

/* ---- the whole file -------------------------------------------------------------------------- */

/* No key matched: say whose they are. */
static enum taca_code nothing_matches(const struct reader *r) {
    char shown[IO_SHOWN];
    struct lora_core core;
    const struct key *k = r->first_unknown ? r->first_unknown : r->first_text;
    if (!k || !r->pairs)
        return taca_fail(r->err, TACA_EFORMAT, "%s: not an adapter: %zu tensors, no low-rank pair",
                         r->name, r->n_keys);
    const bool named = lora_core_of(&core, k->t->name, k->stem);
    const char *model = lora_model_of(k->t->name);
    if (!r->first_unknown)
        return taca_fail(r->err, TACA_EUNSUPPORTED,
                         "%s: an adapter of text encoders alone (%s names, such as %s): they are "
                         "not changed by this build",
                         r->name, core.naming, io_shown(shown, k->t->name));
    return taca_fail(r->err, TACA_EFORMAT,
                     "%s: no key matches this model: %s%s%s names, such as %s (%d modules)",
                     r->name, named ? core.naming : "unknown", model ? " over " : "",
                     model ? model : "", io_shown(shown, k->t->name), r->unknown);
}

static void sum_up(struct reader *r) {
    char shown[IO_SHOWN];
    if (r->first_text)
        warn(r, "%s and %d other modules of text encoders are left out",
             io_shown(shown, r->first_text->t->name), r->text_stems - 1);
    if (r->with_alpha && r->without_alpha)
        warn(r, "%d of %d modules have no alpha: their rank is taken for it", r->without_alpha,
             r->with_alpha + r->without_alpha);
    const int more = r->warnings - MAX_WARNINGS;
    char text[128];
    if (more <= 0 || !r->warn) return;
    snprintf(text, sizeof text, "%.64s: %d more warnings like these", r->name, more);
    r->warn->fn(r->warn->ctx, text);
}

static enum taca_code read_all(struct reader *r) {
    const size_t n = (size_t)r->model->n_modules;
    r->owner = calloc(n + 1, sizeof *r->owner);
    r->out->deltas = taca_arena_alloc(&r->out->memory, (n + 1) * sizeof *r->out->deltas);
    r->out->gains = taca_arena_alloc(&r->out->memory, (n + 1) * sizeof *r->out->gains);
    if (!r->owner || !r->out->deltas || !r->out->gains) return no_memory(r);
    enum taca_code rc = sort_keys(r);
    if (!rc) rc = lora_meta_open(&r->meta, r->st, r->name, r->err);
    if (!rc) rc = lora_names_open(&r->names, r->model, &r->out->memory, r->err);
    if (!rc) rc = read_groups(r);
    sum_up(r);
    if (!rc && r->out->n_deltas == 0) rc = nothing_matches(r);
    return rc;
}

enum taca_code taca_lora_read(struct taca_lora_file *out, const char *path,
                              const struct taca_lora_model *model, const struct taca_lora_warn *to,
                              struct taca_err *err) {
    const char *slash = strrchr(path, '/');
    struct taca_lora_file file = {0};
    struct reader r = {
        .name = slash ? slash + 1 : path, .model = model, .warn = to, .err = err, .out = &file};
    enum taca_code rc = taca_safetensors_open(&r.st, path, err);
    if (!rc) rc = read_all(&r);
    lora_meta_finish(&r.meta);
    free(r.keys);
    free(r.owner);
    taca_safetensors_close(r.st);
    if (rc)
        taca_lora_file_finish(&file);
    else
        *out = file;
    return rc;
}

void taca_lora_file_finish(struct taca_lora_file *f) {
    taca_arena_finish(&f->memory);
    *f = (struct taca_lora_file){0};
}
