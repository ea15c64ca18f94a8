/* checkpoint.c - see checkpoint.h. Tensors of all files in one array sorted by name, and the views
 * on them (views.c) that model code sees. */
#include "engine/io/checkpoint.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/io/ckpt.h"

static struct ckpt_view *find(const struct taca_ckpt *c, const char *name) {
    size_t lo = 0, hi = c->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int d = strcmp(c->views[mid].t.name, name);
        if (d == 0) return &c->views[mid];
        if (d < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

const char *taca_kind_flag(enum taca_kind k) {
    static const char *const flags[TACA_KINDS] = {"transformer", "vae", "clip-l", "clip-g", "t5"};
    return (unsigned)k < TACA_KINDS ? flags[k] : "?";
}

/* ---- opening --------------------------------------------------------------------------------- */

static enum taca_code no_memory(const char *path, struct taca_err *err) {
    return taca_fail(err, TACA_ENOMEM, "%s: out of memory", path);
}

static bool is_gguf(const char *path) {
    char magic[4] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool ok = fd >= 0 && read(fd, magic, 4) == 4 && memcmp(magic, "GGUF", 4) == 0;
    if (fd >= 0) close(fd);
    return ok;
}

static enum taca_code open_files(struct taca_ckpt *c, struct taca_err *err) {
    size_t total = 0;
    c->st = calloc(c->files.n, sizeof(struct taca_safetensors *));
    c->gguf = calloc(c->files.n, sizeof(struct taca_gguf *));
    if (!c->st || !c->gguf) return no_memory(c->path, err);
    for (size_t i = 0; i < c->files.n; i++) {
        const char *path = c->files.path[i];
        enum taca_code rc = is_gguf(path) ? taca_gguf_open(&c->gguf[i], path, err)
                                          : taca_safetensors_open(&c->st[i], path, err);
        if (rc != TACA_OK) return rc;
        total += c->gguf[i] ? taca_gguf_count(c->gguf[i]) : taca_safetensors_stored_count(c->st[i]);
    }
    c->raw = calloc(total + 1, sizeof *c->raw);
    c->names.t = calloc(total + 1, sizeof *c->names.t);
    return c->raw && c->names.t ? TACA_OK : no_memory(c->path, err);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct ckpt_raw *)a)->t.name, ((const struct ckpt_raw *)b)->t.name);
}

static void list_tensors(struct taca_ckpt *c) {
    const struct taca_stored *t;
    for (size_t file = 0; file < c->files.n; file++)
        for (size_t i = 0;; i++) {
            t = c->gguf[file] ? taca_gguf_at(c->gguf[file], i)
                              : taca_safetensors_stored_at(c->st[file], i);
            if (!t) break;
            c->raw[c->n_raw++] = (struct ckpt_raw){.t = *t, .file = file};
        }
    qsort(c->raw, c->n_raw, sizeof *c->raw, by_name);
    for (size_t i = 0; i < c->n_raw; i++) c->names.t[i] = &c->raw[i].t;
    c->names.n = c->n_raw;
}

/* No tensor twice; and each one that the index lists where it says. */
static enum taca_code check_shards(const struct taca_ckpt *c, struct taca_err *err) {
    char shown[IO_SHOWN];
    const char *name;
    json_t *v, *map = json_object_get(c->files.index, "weight_map");
    for (size_t i = 1; i < c->n_raw; i++) {
        const struct ckpt_raw *a = &c->raw[i - 1], *b = &c->raw[i];
        if (strcmp(a->t.name, b->t.name) == 0)
            return taca_fail(err, TACA_EFORMAT, "%s: tensor %s is in two shards, %s and %s",
                             c->path, io_shown(shown, a->t.name), base_name(c->files.path[a->file]),
                             base_name(c->files.path[b->file]));
    }
    json_object_foreach(map, name, v) {
        const char *shard = json_string_value(v);
        const struct taca_stored *t = io_names_find(&c->names, name);
        const struct ckpt_raw *r = (const struct ckpt_raw *)t; /* its first member */
        if (!r || strcmp(base_name(c->files.path[r->file]), shard) != 0)
            return taca_fail(err, TACA_EFORMAT, "%s: tensor %s should be in %s and is not",
                             c->files.index_path, io_shown(shown, name), shard);
    }
    return TACA_OK;
}

/* Everything but the views. */
static enum taca_code open_raw(struct taca_ckpt **out, const char *path, struct taca_err *err) {
    enum taca_code rc;
    struct taca_ckpt *c = calloc(1, sizeof *c);
    if (!c || !(c->path = strdup(path))) {
        rc = no_memory(path, err);
        goto out;
    }
    rc = io_files_find(&c->files, path, err);
    if (rc == TACA_OK) rc = open_files(c, err);
    if (rc != TACA_OK) goto out;
    list_tensors(c);
    rc = check_shards(c, err);
    if (rc == TACA_OK) rc = ckpt_find_scales(c, err);
    if (rc != TACA_OK) goto out;
    *out = c;
    c = NULL;
out:
    taca_ckpt_close(c);
    return rc;
}

/* The only part of the file; layout NULL when there are none or several. */
static struct io_found only_part(const struct taca_ckpt *c) {
    struct io_found one = {0};
    for (int k = 0; k < TACA_KINDS; k++) {
        struct io_found f = io_layout_find(&c->names, (enum taca_kind)k);
        if (!f.layout || (one.layout == f.layout && strcmp(one.prefix, f.prefix) == 0)) continue;
        if (one.layout) return (struct io_found){0};
        one = f;
    }
    return one;
}

enum taca_code taca_ckpt_open(struct taca_ckpt **out, const char *path, struct taca_err *err) {
    struct taca_ckpt *c = NULL;
    enum taca_code rc = open_raw(&c, path, err);
    if (rc) return rc;
    c->part = only_part(c);
    rc = ckpt_make_views(c, err);
    if (rc)
        taca_ckpt_close(c);
    else
        *out = c;
    return rc;
}

/* ---- one part -------------------------------------------------------------------------------- */

/* The two CLIPs differ in size alone: the published ones are told apart. */
static bool is_the_other_clip(const struct taca_ckpt *c, enum taca_kind kind) {
    const struct ckpt_view *v = find(c, "text_model.embeddings.token_embedding.weight");
    const int64_t width = v && v->t.rank == 2 ? v->t.dim[1] : 0;
    return (kind == TACA_CLIP_L && width == 1280) || (kind == TACA_CLIP_G && width == 768);
}

/* The option that takes what the file has, "" when there is none. */
static const char *hint(char buf[64], const struct taca_ckpt *c) {
    buf[0] = 0;
    for (int k = 0; k < TACA_KINDS; k++) {
        if (!io_layout_find(&c->names, (enum taca_kind)k).layout) continue;
        if (buf[0]) return "; several parts are in it, give it with --model";
        if (k == TACA_CLIP_L) {
            snprintf(buf, 64, "; give it with --clip-l or --clip-g");
            k++; /* the same names */
        } else {
            snprintf(buf, 64, "; give it with --%s", taca_kind_flag((enum taca_kind)k));
        }
    }
    return buf;
}

static enum taca_code not_there(const struct taca_ckpt *c, enum taca_kind kind,
                                struct taca_err *err) {
    static const char *const wanted[TACA_KINDS] = {"a FLUX or SD3 transformer", "a VAE",
                                                   "a CLIP-L text encoder", "a CLIP-G text encoder",
                                                   "a T5 text encoder"};
    const char *like = io_names_look_like(&c->names);
    char way[64], shown[IO_SHOWN];
    if (like)
        return taca_fail(err, TACA_EFORMAT, "%s: wanted %s, this is %s%s", c->path, wanted[kind],
                         like,
                         strchr(like, ';') || strstr(like, "not supported") ? "" : hint(way, c));
    if (c->gguf[0] && taca_gguf_architecture(c->gguf[0])[0])
        return taca_fail(err, TACA_EFORMAT, "%s: wanted %s, this is a GGUF file of architecture %s",
                         c->path, wanted[kind],
                         io_shown(shown, taca_gguf_architecture(c->gguf[0])));
    return taca_fail(err, TACA_EFORMAT, "%s: wanted %s, its tensors are of no known model%s%s%s",
                     c->path, wanted[kind], c->n_raw ? " (the first is " : "",
                     c->n_raw ? io_shown(shown, c->raw[0].t.name) : "", c->n_raw ? ")" : "");
}

static enum taca_code take_part(struct taca_ckpt *c, enum taca_kind kind, struct taca_err *err) {
    const bool is_dir = io_is_dir(c->path);
    c->part = io_layout_find(&c->names, kind);
    const bool foreign = io_layout_find(&c->names, TACA_KINDS).layout && kind == TACA_DIT;
    /* a directory says what it is; its names may be new ones */
    const bool trusted = is_dir && !io_names_look_like(&c->names);
    if (foreign || (!c->part.layout && !trusted)) return not_there(c, kind, err);
    enum taca_code rc = ckpt_make_views(c, err);
    if (!rc && is_the_other_clip(c, kind))
        rc = taca_fail(err, TACA_EFORMAT,
                       "%s: wanted a CLIP-%c text encoder, this is a CLIP-%c; "
                       "give it with --clip-%c",
                       c->path, kind == TACA_CLIP_L ? 'L' : 'G', kind == TACA_CLIP_L ? 'G' : 'L',
                       kind == TACA_CLIP_L ? 'g' : 'l');
    return rc;
}

enum taca_code taca_ckpt_open_kind(struct taca_ckpt **out, const char *path, enum taca_kind kind,
                                   struct taca_err *err) {
    struct taca_ckpt *c = NULL;
    enum taca_code rc = open_raw(&c, path, err);
    if (rc) return rc;
    rc = take_part(c, kind, err);
    if (rc)
        taca_ckpt_close(c);
    else
        *out = c;
    return rc;
}

/* An encoder without a prefix is one of the two: that of the published size, or else L. */
bool taca_ckpt_holds(const struct taca_ckpt *c, enum taca_kind kind) {
    const struct io_found f = io_layout_find(&c->names, kind);
    if (!f.layout) return false;
    if ((kind != TACA_CLIP_L && kind != TACA_CLIP_G) || f.prefix[0]) return true;
    return (kind == TACA_CLIP_G) == is_the_other_clip(c, TACA_CLIP_L);
}

const char *taca_ckpt_looks_like(const struct taca_ckpt *c) {
    return io_names_look_like(&c->names);
}

bool taca_ckpt_is_called(const struct taca_ckpt *c, const char *word) {
    static const char *const keys[] = {"modelspec.title", "modelspec.architecture"};
    if (strcasestr(base_name(c->path), word)) return true;
    for (size_t i = 0; i < c->files.n; i++) {
        if (c->gguf[i] && strcasestr(taca_gguf_title(c->gguf[i]), word)) return true;
        for (size_t k = 0; c->st[i] && k < sizeof keys / sizeof *keys; k++) {
            const char *text = taca_safetensors_metadata(c->st[i], keys[k]);
            if (text && strcasestr(text, word)) return true;
        }
    }
    return false;
}

void taca_ckpt_hide(struct taca_ckpt *c, const char *name) {
    struct ckpt_view *v = find(c, name);
    if (!v) return;
    taca_ckpt_drop(c); /* views are about to move */
    c->elements -= taca_tensor_count(&v->t);
    c->bytes -= ckpt_stored_bytes(v);
    c->n--;
    memmove(v, v + 1, (size_t)(c->views + c->n - v) * sizeof *v);
}

void taca_ckpt_hold(struct taca_ckpt *c) { c->holds++; }

void taca_ckpt_close(struct taca_ckpt *c) {
    if (!c || c->holds-- > 0) return;
    taca_ckpt_drop(c);
    for (size_t i = 0; c->st && i < c->files.n; i++) taca_safetensors_close(c->st[i]);
    for (size_t i = 0; c->gguf && i < c->files.n; i++) taca_gguf_close(c->gguf[i]);
    free(c->st);
    free(c->gguf);
    free(c->raw);
    free(c->names.t);
    free(c->random);
    free(c->views);
    free(c->path);
    taca_arena_finish(&c->arena);
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

static bool readable(const struct ckpt_view *v) {
    return v->raw->t.type != TACA_STORED_OTHER && !v->raw->refused;
}

const struct taca_tensor *taca_ckpt_peek(const struct taca_ckpt *c, const char *name) {
    const struct ckpt_view *v = find(c, name);
    return v && readable(v) ? &v->t : NULL;
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
        size_t s = likeness(name, c->views[i].t.name);
        if (s <= least || s <= score[1]) continue;
        int k = s > score[0] ? 0 : 1;
        if (k == 0) like[1] = like[0], score[1] = score[0];
        like[k] = c->views[i].t.name;
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
    if (c->random) return ckpt_random_get(c, out, name, rank, dim, err);
    struct ckpt_view *v = find(c, name);
    io_shape(wanted, rank, dim);
    if (!v) return missing(c, name, wanted, err);
    v->asked = true;
    if (!readable(v))
        return taca_fail(err, TACA_EUNSUPPORTED, "%s: tensor %s is %s%s, which is not supported",
                         c->path, name, v->raw->t.spelled,
                         v->raw->refused ? " of a packed format" : "");
    if (!shape_is(&v->t, rank, dim))
        return taca_fail(err, TACA_EFORMAT, "%s: tensor %s: %s wanted, %s found", c->path, name,
                         wanted, io_shape(found, v->t.rank, v->t.dim));
    if (!v->t.data) {
        enum taca_code rc = ckpt_convert(c, v, err);
        if (rc) return rc;
    }
    *out = v->t;
    if (v->owned) out->data = v->owned;
    if (v->out) return TACA_OK;
    v->out = true;
    v->next_out = c->out;
    c->out = v;
    c->held += (size_t)ckpt_stored_bytes(v);
    if (v->owned) c->held += (size_t)taca_tensor_count(&v->t) * taca_dtype_bytes(v->t.dtype);
    if (c->most_held < c->held) c->most_held = c->held;
    return TACA_OK;
}

/* The file's bytes behind a view: whoever looks again gets them again. */
static void let_go(const struct ckpt_view *v) {
    const struct taca_stored *t = &v->raw->t;
    const struct taca_storage_traits *s = taca_storage_traits(t->type);
    io_map_let_go((const unsigned char *)t->data + v->first / s->block * s->bytes,
                  (size_t)ckpt_stored_bytes(v));
}

void taca_stored_let_go(const struct taca_stored *t) { io_map_let_go(t->data, t->bytes); }

void taca_ckpt_drop(struct taca_ckpt *c) {
    if (c->random) ckpt_random_drop(c->random);
    for (struct ckpt_view *v = c->out, *next; v; v = next) {
        next = v->next_out;
        let_go(v);
        free(v->owned);
        v->owned = NULL;
        v->next_out = NULL;
        v->out = false;
    }
    c->out = NULL;
    c->held = 0;
}

void taca_ckpt_set_hollow(struct taca_ckpt *c) { c->hollow = true; }

size_t taca_ckpt_most_held(const struct taca_ckpt *c) { return c->most_held; }

void taca_ckpt_set_floats(struct taca_ckpt *c, enum taca_dtype dtype) {
    taca_ckpt_drop(c);
    c->floats = dtype;
}

bool taca_ckpt_raw(struct taca_ckpt *c, const char *name, struct taca_stored *out) {
    struct ckpt_view *v = find(c, name);
    if (!v || v->how || !readable(v)) return false;
    const struct taca_stored *raw = &v->raw->t;
    const struct taca_storage_traits *s = taca_storage_traits(raw->type);
    const int64_t n = taca_tensor_count(&v->t);
    if (v->first % s->block || n % s->block) return false;
    v->asked = true;
    *out = *raw;
    out->name = v->t.name;
    out->data = (const unsigned char *)raw->data + (size_t)(v->first / s->block * s->bytes);
    out->bytes = (size_t)(n / s->block * s->bytes);
    out->rank = v->t.rank;
    memcpy(out->dim, v->t.dim, sizeof out->dim);
    if (raw->scales && n) /* without columns there are no rows to count */
        out->scales = (const unsigned char *)raw->scales +
                      (size_t)(v->first / (taca_stored_count(raw) / raw->dim[0])) * sizeof(float);
    return true;
}

int64_t taca_ckpt_parameters(const struct taca_ckpt *c) { return c->elements; }

int64_t taca_ckpt_bytes(const struct taca_ckpt *c) { return c->bytes; }

void taca_ckpt_get_stats(const struct taca_ckpt *c, struct taca_ckpt_stats *out) {
    *out = (struct taca_ckpt_stats){.files = (int)c->files.n};
    for (size_t i = 0; i < c->n; i++) {
        const struct ckpt_view *v = &c->views[i];
        if (v->alias) continue;
        const int64_t n = taca_tensor_count(&v->t);
        out->tensors++;
        out->elements[v->raw->t.type] += n;
        if (v->raw->t.type == TACA_STORED_OTHER)
            snprintf(out->other, sizeof out->other, "%s", v->raw->t.spelled);
        else if (v->t.rank >= 2)
            out->in_matrices += n;
    }
}

void taca_ckpt_unused(const struct taca_ckpt *c, void (*fn)(void *ctx, const char *name),
                      void *ctx) {
    for (size_t i = 0; i < c->n; i++)
        if (!c->views[i].asked && !c->views[i].alias) fn(ctx, c->views[i].t.name);
}
