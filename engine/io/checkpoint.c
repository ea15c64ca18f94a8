/* checkpoint.c - see checkpoint.h. Tensors of all files in one array sorted by name. */
#include "engine/io/checkpoint.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io/io.h"
#include "engine/io/safetensors.h"

struct item {
    const char *name;
    const struct taca_tensor *tensor;  /* NULL: a dtype that is not supported */
    const struct taca_st_other *other; /* then this is set */
    size_t file;
    bool asked;
};

struct taca_ckpt {
    char *path;
    struct io_files files;
    struct taca_safetensors **st; /* files.n */
    struct item *items;           /* sorted by name */
    size_t n;
    int64_t elements, bytes;
};

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct item *)a)->name, ((const struct item *)b)->name);
}

static struct item *find(const struct taca_ckpt *c, const char *name) {
    struct item key = {.name = name};
    return bsearch(&key, c->items, c->n, sizeof *c->items, by_name);
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ---- opening --------------------------------------------------------------------------------- */

static enum taca_code no_memory(const char *path, struct taca_err *err) {
    return taca_fail(err, TACA_ENOMEM, "%s: out of memory", path);
}

static enum taca_code open_files(struct taca_ckpt *c, struct taca_err *err) {
    size_t total = 0;
    c->st = calloc(c->files.n, sizeof(struct taca_safetensors *));
    if (!c->st) return no_memory(c->path, err);
    for (size_t i = 0; i < c->files.n; i++) {
        enum taca_code rc = taca_safetensors_open(&c->st[i], c->files.path[i], err);
        if (rc != TACA_OK) return rc;
        total += taca_safetensors_count(c->st[i]) + taca_safetensors_other_count(c->st[i]);
    }
    c->items = calloc(total + 1, sizeof *c->items);
    return c->items ? TACA_OK : no_memory(c->path, err);
}

static void add_items(struct taca_ckpt *c, size_t file) {
    const struct taca_safetensors *st = c->st[file];
    for (size_t i = 0; i < taca_safetensors_count(st); i++) {
        const struct taca_tensor *t = taca_safetensors_at(st, i);
        int64_t count = taca_tensor_count(t);
        c->items[c->n++] = (struct item){.name = t->name, .tensor = t, .file = file};
        c->elements += count;
        c->bytes += count * (int64_t)taca_dtype_bytes(t->dtype);
    }
    for (size_t i = 0; i < taca_safetensors_other_count(st); i++) {
        const struct taca_st_other *o = taca_safetensors_other_at(st, i);
        c->items[c->n++] = (struct item){.name = o->name, .other = o, .file = file};
        c->elements += o->elements;
        c->bytes += (int64_t)o->bytes;
    }
}

/* No tensor twice; and each one that the index lists where it says. */
static enum taca_code check_shards(const struct taca_ckpt *c, struct taca_err *err) {
    char shown[IO_SHOWN];
    const char *name;
    json_t *v, *map = json_object_get(c->files.index, "weight_map");
    for (size_t i = 1; i < c->n; i++) {
        const struct item *a = &c->items[i - 1], *b = &c->items[i];
        if (strcmp(a->name, b->name) == 0)
            return taca_fail(err, TACA_EFORMAT, "%s: tensor %s is in two shards, %s and %s",
                             c->path, io_shown(shown, a->name), base_name(c->files.path[a->file]),
                             base_name(c->files.path[b->file]));
    }
    json_object_foreach(map, name, v) {
        const char *shard = json_string_value(v);
        const struct item *it = find(c, name);
        if (!it || strcmp(base_name(c->files.path[it->file]), shard) != 0)
            return taca_fail(err, TACA_EFORMAT, "%s: tensor %s should be in %s and is not",
                             c->files.index_path, io_shown(shown, name), shard);
    }
    return TACA_OK;
}

enum taca_code taca_ckpt_open(struct taca_ckpt **out, const char *path, struct taca_err *err) {
    enum taca_code rc;
    struct taca_ckpt *c = calloc(1, sizeof *c);
    if (!c || !(c->path = strdup(path))) {
        rc = no_memory(path, err);
        goto out;
    }
    rc = io_files_find(&c->files, path, err);
    if (rc == TACA_OK) rc = open_files(c, err);
    if (rc != TACA_OK) goto out;
    for (size_t i = 0; i < c->files.n; i++) add_items(c, i);
    qsort(c->items, c->n, sizeof *c->items, by_name);
    rc = check_shards(c, err);
    if (rc != TACA_OK) goto out;
    *out = c;
    c = NULL;
out:
    taca_ckpt_close(c);
    return rc;
}

void taca_ckpt_close(struct taca_ckpt *c) {
    if (!c) return;
    for (size_t i = 0; c->st && i < c->files.n; i++) taca_safetensors_close(c->st[i]);
    free(c->st);
    free(c->items);
    free(c->path);
    io_files_finish(&c->files);
    free(c);
}

/* ---- asking ---------------------------------------------------------------------------------- */

bool taca_ckpt_has(const struct taca_ckpt *c, const char *fmt, ...) {
    char name[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return n >= 0 && (size_t)n < sizeof name && find(c, name);
}

const struct taca_tensor *taca_ckpt_peek(const struct taca_ckpt *c, const char *name) {
    const struct item *it = find(c, name);
    return it ? it->tensor : NULL;
}

/* Bytes that two names share at the front and at the back. */
static size_t likeness(const char *a, const char *b) {
    size_t la = strlen(a), lb = strlen(b), least = la < lb ? la : lb, front = 0, back = 0;
    while (front < least && a[front] == b[front]) front++;
    while (back < least - front && a[la - 1 - back] == b[lb - 1 - back]) back++;
    return front + back;
}

static enum taca_code missing(const struct taca_ckpt *c, const char *name, const char *wanted,
                              struct taca_err *err) {
    const char *like[2] = {NULL, NULL};
    size_t score[2] = {0, 0}, least = strlen(name) / 2;
    char shown[2][IO_SHOWN];
    for (size_t i = 0; i < c->n; i++) {
        size_t s = likeness(name, c->items[i].name);
        if (s <= least || s <= score[1]) continue;
        int k = s > score[0] ? 0 : 1;
        if (k == 0) like[1] = like[0], score[1] = score[0];
        like[k] = c->items[i].name;
        score[k] = s;
    }
    return taca_fail(err, TACA_ENOTFOUND, "%s: no tensor %s (%s wanted)%s%s%s%s%s", c->path, name,
                     wanted, like[0] ? "; there is " : "",
                     like[0] ? io_shown(shown[0], like[0]) : "", like[1] ? " and " : "",
                     like[1] ? io_shown(shown[1], like[1]) : "",
                     c->n == 0 ? "; the file has no tensors at all" : "");
}

static bool shape_is(const struct taca_tensor *t, int rank, const int64_t *dim) {
    if (t->rank != rank) return false;
    for (int i = 0; i < rank; i++)
        if (dim[i] >= 0 && t->dim[i] != dim[i]) return false;
    return true;
}

enum taca_code taca_ckpt_get(struct taca_ckpt *c, struct taca_tensor *out, const char *name,
                             int rank, const int64_t *dim, struct taca_err *err) {
    char wanted[IO_SHAPE], found[IO_SHAPE];
    struct item *it = find(c, name);
    io_shape(wanted, rank, dim);
    if (!it) return missing(c, name, wanted, err);
    it->asked = true;
    if (!it->tensor)
        return taca_fail(err, TACA_EUNSUPPORTED, "%s: tensor %s is %s, which is not supported yet",
                         c->path, name, it->other->dtype);
    if (!shape_is(it->tensor, rank, dim))
        return taca_fail(err, TACA_EFORMAT, "%s: tensor %s: %s wanted, %s found", c->path, name,
                         wanted, io_shape(found, it->tensor->rank, it->tensor->dim));
    *out = *it->tensor;
    return TACA_OK;
}

int64_t taca_ckpt_parameters(const struct taca_ckpt *c) { return c->elements; }

int64_t taca_ckpt_bytes(const struct taca_ckpt *c) { return c->bytes; }

void taca_ckpt_get_stats(const struct taca_ckpt *c, struct taca_ckpt_stats *out) {
    *out = (struct taca_ckpt_stats){.files = (int)c->files.n, .tensors = (int)c->n};
    for (size_t i = 0; i < c->n; i++) {
        const struct taca_tensor *t = c->items[i].tensor;
        const struct taca_st_other *o = c->items[i].other;
        if (o) {
            out->other_elements += o->elements;
            snprintf(out->other_dtype, sizeof out->other_dtype, "%s", o->dtype);
            continue;
        }
        int64_t n = taca_tensor_count(t);
        out->elements[t->dtype] += n;
        if (t->rank >= 2) out->in_matrices += n;
    }
}

void taca_ckpt_unused(const struct taca_ckpt *c, void (*fn)(void *ctx, const char *name),
                      void *ctx) {
    for (size_t i = 0; i < c->n; i++)
        if (!c->items[i].asked) fn(ctx, c->items[i].name);
}
