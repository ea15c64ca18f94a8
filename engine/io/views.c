/* views.c - from a file's tensors to those that model code asks for, by the table of a layout. See
 * ckpt.h. A view is rows of a stored tensor where they lie; what has to be converted is converted
 * when somebody asks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io/ckpt.h"

static enum taca_code no_memory(const struct taca_ckpt *c, struct taca_err *err) {
    return taca_fail(err, TACA_ENOMEM, "%s: out of memory", c->path);
}

/* ---- scales ---------------------------------------------------------------------------------- */

static bool ends(const char *s, const char *tail) {
    size_t a = strlen(s), b = strlen(tail);
    return a >= b && strcmp(s + a - b, tail) == 0;
}

static struct ckpt_raw *find_raw(struct taca_ckpt *c, const char *name) {
    size_t lo = 0, hi = c->n_raw;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int d = strcmp(c->raw[mid].t.name, name);
        if (d == 0) return &c->raw[mid];
        if (d < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* One factor for the tensor, or one for each of its rows. */
static enum taca_code attach(struct taca_ckpt *c, struct ckpt_raw *w, const struct taca_stored *s,
                             struct taca_err *err) {
    char shown[IO_SHOWN], shape[IO_SHAPE];
    const int64_t n = taca_stored_count(s);
    if (s->type == TACA_STORED_F32 && n == 1) {
        memcpy(&w->t.scale, s->data, sizeof w->t.scale);
        return TACA_OK;
    }
    if (s->type == TACA_STORED_F32 && w->t.rank >= 1 && n > 0 && n == w->t.dim[0]) {
        w->t.scales = s->data;
        return TACA_OK;
    }
    return taca_fail(err, TACA_EUNSUPPORTED,
                     "%s: tensor %s: %s %s, wanted one f32 or one for each row", c->path,
                     io_shown(shown, s->name), s->spelled, io_shape(shape, s->rank, s->dim));
}

/* What the layer's own JSON says of its numbers. */
static bool readable_format(const struct taca_stored *note) {
    json_t *j = NULL;
    struct taca_err ignored = {0};
    if (note->type != TACA_STORED_U8 || note->bytes > 4096) return false;
    if (io_json_parse(&j, note->data, note->bytes, 8, 256, note->name, &ignored)) return false;
    const char *format = json_string_value(json_object_get(j, "format"));
    bool ok =
        format && (strcmp(format, "float8_e4m3fn") == 0 || strcmp(format, "float8_e5m2") == 0);
    json_decref(j);
    return ok;
}

static enum taca_code scale_of(struct taca_ckpt *c, struct ckpt_raw *w, size_t stem,
                               struct taca_err *err) {
    static const char *const scales[] = {"scale_weight", "weight_scale"};
    char name[IO_NAME];
    enum taca_code rc = TACA_OK;
    for (int i = 0; i < 2 && !rc; i++) {
        snprintf(name, sizeof name, "%.*s%s", (int)stem, w->t.name, scales[i]);
        const struct ckpt_raw *s = find_raw(c, name);
        if (s) rc = attach(c, w, &s->t, err);
        if (s && !taca_storage_is_float(w->t.type)) w->refused = true; /* packed nibbles */
    }
    static const char *const packed[] = {"weight_scale_2", "weight.absmax", "weight.quant_map"};
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%.*s%s", (int)stem, w->t.name, packed[i]);
        if (find_raw(c, name)) w->refused = true;
    }
    snprintf(name, sizeof name, "%.*scomfy_quant", (int)stem, w->t.name);
    const struct ckpt_raw *note = find_raw(c, name);
    if (note && !readable_format(&note->t)) w->refused = true;
    return rc;
}

enum taca_code ckpt_find_scales(struct taca_ckpt *c, struct taca_err *err) {
    static const char *const ballast[] = {
        ".scale_weight", ".scale_input", ".weight_scale", ".input_scale",   ".weight_scale_2",
        ".comfy_quant",  ".absmax",      ".quant_map",    ".nested_absmax", ".nested_quant_map"};
    for (size_t i = 0; i < c->n_raw; i++) {
        struct ckpt_raw *r = &c->raw[i];
        for (size_t k = 0; k < sizeof ballast / sizeof *ballast; k++)
            if (ends(r->t.name, ballast[k])) r->ballast = true;
        if (strcmp(r->t.name, "scaled_fp8") == 0 || ends(r->t.name, ".scaled_fp8") ||
            strstr(r->t.name, ".quant_state."))
            r->ballast = true;
        if (!ends(r->t.name, ".weight")) continue;
        enum taca_code rc = scale_of(c, r, strlen(r->t.name) - strlen("weight"), err);
        if (rc) return rc;
    }
    return TACA_OK;
}

/* ---- views ----------------------------------------------------------------------------------- */

static struct ckpt_view *add(struct taca_ckpt *c, const char *name, const struct ckpt_raw *raw,
                             struct taca_err *err) {
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : c->n_raw + 16;
        struct ckpt_view *v = realloc(c->views, cap * sizeof *v);
        if (!v) return no_memory(c, err), NULL;
        c->views = v;
        c->cap = cap;
    }
    struct ckpt_view *v = &c->views[c->n];
    *v = (struct ckpt_view){.raw = raw, .t = {.rank = raw->t.rank}};
    memcpy(v->t.dim, raw->t.dim, sizeof v->t.dim);
    v->t.name = name == raw->t.name ? name : taca_arena_strndup(&c->arena, name, strlen(name));
    if (!v->t.name) return no_memory(c, err), NULL;
    c->n++;
    return v;
}

static enum taca_code cut_rows(const struct taca_ckpt *c, struct ckpt_view *v,
                               const struct io_rule *r, struct taca_err *err) {
    char shown[IO_SHOWN];
    if (r->of == 0 || v->raw->refused) return TACA_OK;
    const int64_t rows = v->t.rank ? v->t.dim[0] : 1, unit = rows / r->of;
    if (rows % r->of)
        return taca_fail(err, TACA_EFORMAT, "%s: tensor %s has %lld rows, wanted a multiple of %d",
                         c->path, io_shown(shown, v->raw->t.name), (long long)rows, r->of);
    v->first = unit ? taca_tensor_count(&v->t) / rows * unit * r->first : 0;
    v->t.dim[0] = unit * r->count;
    return TACA_OK;
}

static void reshape(struct ckpt_view *v, unsigned how) {
    if (how & IO_SQUEEZE)
        while (v->t.rank > 2 && v->t.dim[v->t.rank - 1] == 1) v->t.rank--;
    if ((how & IO_TRANSPOSE) && v->t.rank == 2) {
        int64_t rows = v->t.dim[0];
        v->t.dim[0] = v->t.dim[1];
        v->t.dim[1] = rows;
    }
    v->how = how & (IO_SWAP | IO_TRANSPOSE);
}

/* All wanted names of one stored tensor; its own when the table has none. */
static enum taca_code add_tensor(struct taca_ckpt *c, const struct ckpt_raw *raw, long last,
                                 struct taca_err *err) {
    const char *name = raw->t.name + strlen(c->part.prefix);
    char want[IO_NAME];
    long number;
    const struct io_rule *r = c->part.layout ? c->part.layout->rules : NULL;
    while (r && r->have && !io_rule_apply(r, name, last, want, &number)) r++;
    if (!r || !r->have) return add(c, name, raw, err) ? TACA_OK : TACA_ENOMEM;
    for (const char *have = r->have; r->have && strcmp(r->have, have) == 0; r++) {
        io_rule_apply(r, name, last, want, &number);
        struct ckpt_view *v = add(c, want, raw, err);
        if (!v) return TACA_ENOMEM;
        unsigned how = r->how;
        if ((how & IO_SWAP_IN_LAST) && number == last) how |= IO_SWAP;
        enum taca_code rc = cut_rows(c, v, r, err);
        if (rc) return rc;
        reshape(v, how);
        v->alias = (how & IO_ALIAS) != 0;
    }
    return TACA_OK;
}

static int view_order(const void *a, const void *b) {
    const struct ckpt_view *x = a, *y = b;
    int d = strcmp(x->t.name, y->t.name);
    return d ? d : (int)x->alias - (int)y->alias;
}

/* Second names that are taken go; no other name may be there twice. */
static enum taca_code drop_doubles(struct taca_ckpt *c, struct taca_err *err) {
    char shown[IO_SHOWN];
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++) {
        const bool again = n > 0 && strcmp(c->views[n - 1].t.name, c->views[i].t.name) == 0;
        if (again && !c->views[i].alias)
            return taca_fail(err, TACA_EFORMAT, "%s: tensor %s is there under two names", c->path,
                             io_shown(shown, c->views[i].t.name));
        if (!again) c->views[n++] = c->views[i];
    }
    c->n = n;
    return TACA_OK;
}

static void settle(struct taca_ckpt *c, struct ckpt_view *v) {
    const struct taca_stored *raw = &v->raw->t;
    const bool plain = taca_storage_is_plain(raw->type) && raw->scale == 1 && !raw->scales;
    v->t.dtype = plain ? (enum taca_dtype)raw->type : TACA_F32;
    if (ckpt_is_direct(v))
        v->t.data = (const unsigned char *)raw->data +
                    (size_t)v->first * taca_dtype_bytes((enum taca_dtype)raw->type);
    if (v->alias) return;
    c->elements += taca_tensor_count(&v->t);
    c->bytes += ckpt_stored_bytes(v);
}

enum taca_code ckpt_make_views(struct taca_ckpt *c, struct taca_err *err) {
    if (!c->part.prefix) c->part.prefix = "";
    const bool all = c->part.layout == NULL;
    const long last = all ? -1 : io_layout_last(&c->names, c->part);
    for (size_t i = 0; i < c->n_raw; i++) {
        const struct ckpt_raw *raw = &c->raw[i];
        if (raw->ballast || (!all && !io_under_prefix(raw->t.name, c->part.prefix))) continue;
        enum taca_code rc = add_tensor(c, raw, last, err);
        if (rc) return rc;
    }
    if (c->n) qsort(c->views, c->n, sizeof *c->views, view_order);
    enum taca_code rc = drop_doubles(c, err);
    for (size_t i = 0; i < c->n && !rc; i++) settle(c, &c->views[i]);
    return rc;
}
