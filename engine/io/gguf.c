/* gguf.c - see gguf.h. A cursor walks over the mapping and never passes its end; what it reads is
 * little-endian whatever the machine. Keys are not kept but for the three that matter here. */
#include "engine/io/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/io/io.h"

enum {
    MAX_NAME = 512,
    MAX_KEY = 65535,
    MAX_DIMS = 4,
    MAX_ALIGNMENT = 1 << 20,
    MAX_TENSORS = 1 << 16,
    MAX_NOTES = 1024,             /* real files have none or a handful */
    LEAST_KEY = 8 + 4 + 1,        /* bytes of the shortest key with its value */
    LEAST_TENSOR = 8 + 4 + 4 + 8, /* of the shortest description of a tensor */
    DEFAULT_ALIGNMENT = 32
};

enum value_type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    BOOL,
    STRING,
    ARRAY,
    U64,
    I64,
    F64,
    VALUE_TYPES
};
/* bytes of a value, 0 = depends */
static const unsigned char value_bytes[VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* Tensor types that are not read: what they take, so that the file can be checked all the same. */
static const struct unread {
    unsigned char id;
    short block, bytes;
    char name[8];
} unread[] = {
    {9, 32, 36, "Q8_1"},     {15, 256, 292, "Q8_K"},   {16, 256, 66, "IQ2_XXS"},
    {17, 256, 74, "IQ2_XS"}, {18, 256, 98, "IQ3_XXS"}, {19, 256, 50, "IQ1_S"},
    {21, 256, 110, "IQ3_S"}, {22, 256, 82, "IQ2_S"},   {24, 1, 1, "I8"},
    {25, 1, 2, "I16"},       {28, 1, 8, "F64"},        {29, 256, 56, "IQ1_M"},
    {34, 256, 54, "TQ1_0"},  {35, 256, 66, "TQ2_0"},   {39, 32, 17, "MXFP4"},
};

struct text {
    const char *s; /* not terminated */
    size_t len;
};

struct taca_gguf {
    struct io_map map;
    struct taca_arena arena;
    char architecture[64];
    char title[192]; /* what it says of its name, one after the other */
    struct taca_stored *tensors;
    size_t n;
};

/* A shape that a key gives to a tensor, for writers that had to store another one. */
struct shape_note {
    struct text name;
    int rank;
    int64_t dim[TACA_MAX_RANK];
};

struct reader {
    const char *path;
    struct taca_gguf *g;
    const unsigned char *p, *end;
    uint64_t n_tensors, n_keys;
    size_t alignment;
    struct text *keys;
    struct shape_note *notes;
    size_t n_notes;
    uint64_t *offsets; /* of the tensors, relative to the data */
    struct taca_err *err;
};

/* ---- the cursor ------------------------------------------------------------------------------ */

static enum taca_code cut(const struct reader *r, const char *where) {
    return taca_fail(r->err, TACA_EFORMAT, "%s: truncated or malformed: %s reaches past its end",
                     r->path, where);
}

static size_t left(const struct reader *r) { return (size_t)(r->end - r->p); }

static bool take(struct reader *r, size_t bytes, uint64_t *out) {
    if (left(r) < bytes) return false;
    *out = 0;
    for (size_t i = bytes; i-- > 0;) *out = *out << 8 | r->p[i];
    r->p += bytes;
    return true;
}

static bool take_text(struct reader *r, struct text *out) {
    uint64_t len;
    if (!take(r, 8, &len) || len > left(r)) return false;
    *out = (struct text){(const char *)r->p, (size_t)len};
    r->p += len;
    return true;
}

static bool text_is(struct text t, const char *s) {
    return t.len == strlen(s) && memcmp(t.s, s, t.len) == 0;
}

static bool text_starts(struct text t, const char *s) {
    return t.len >= strlen(s) && memcmp(t.s, s, strlen(s)) == 0;
}

/* For messages. */
static const char *shown(char buf[IO_SHOWN], struct text t) {
    char copy[IO_SHOWN];
    size_t n = t.len < sizeof copy - 1 ? t.len : sizeof copy - 1;
    memcpy(copy, t.s, n);
    copy[n] = 0;
    return io_shown(buf, copy);
}

static int text_order(const void *a, const void *b) {
    const struct text *x = a, *y = b;
    size_t n = x->len < y->len ? x->len : y->len;
    int d = n ? memcmp(x->s, y->s, n) : 0;
    return d ? d : (x->len > y->len) - (x->len < y->len);
}

static enum taca_code no_memory(const struct reader *r) {
    return taca_fail(r->err, TACA_ENOMEM, "%s: out of memory", r->path);
}

/* ---- head ------------------------------------------------------------------------------------ */

static enum taca_code read_head(struct reader *r) {
    const struct io_map *m = &r->g->map;
    uint64_t magic, version;
    const char *like = io_looks_like(m->data, m->size);
    r->p = m->data;
    r->end = m->size ? m->data + m->size : m->data;
    if (m->size < 4 || memcmp(m->data, "GGUF", 4) != 0)
        return taca_fail(r->err, TACA_EFORMAT, "%s: wanted a GGUF file, this is %s", r->path,
                         like ? like : "something else");
    if (!take(r, 4, &magic) || !take(r, 4, &version)) return cut(r, "its head");
    if (version >> 16)
        return taca_fail(r->err, TACA_EUNSUPPORTED, "%s: a big-endian GGUF file", r->path);
    if (version != 2 && version != 3)
        return taca_fail(r->err, TACA_EUNSUPPORTED, "%s: GGUF version %u, wanted 2 or 3", r->path,
                         (unsigned)version);
    if (!take(r, 8, &r->n_tensors) || !take(r, 8, &r->n_keys)) return cut(r, "its head");
    /* no larger than what can still be there, so what is allocated is bounded by the file */
    if (r->n_keys > left(r) / LEAST_KEY)
        return taca_fail(r->err, TACA_EFORMAT, "%s: %llu keys in %zu bytes", r->path,
                         (unsigned long long)r->n_keys, left(r));
    if (r->n_tensors > left(r) / LEAST_TENSOR || r->n_tensors > MAX_TENSORS)
        return taca_fail(r->err, TACA_EFORMAT, "%s: %llu tensors in %zu bytes", r->path,
                         (unsigned long long)r->n_tensors, left(r));
    return TACA_OK;
}

/* ---- keys ------------------------------------------------------------------------------------ */

static bool skip_items(struct reader *r, uint64_t type, uint64_t n) {
    struct text t;
    if (type != STRING) {
        if (n > left(r) / value_bytes[type]) return false;
        r->p += n * value_bytes[type];
        return true;
    }
    while (n-- > 0)
        if (!take_text(r, &t)) return false;
    return true;
}

/* An array of the key comfy.gguf.orig_shape.<tensor>. */
static bool take_note(struct reader *r, struct text name, uint64_t n) {
    struct shape_note note = {.name = name, .rank = (int)n};
    for (uint64_t i = 0; i < n; i++) {
        uint64_t d;
        if (!take(r, 4, &d)) return false;
        note.dim[i] = (int32_t)(uint32_t)d;
    }
    r->notes[r->n_notes++] = note;
    return true;
}

static enum taca_code read_array(struct reader *r, struct text key) {
    static const char orig[] = "comfy.gguf.orig_shape.";
    char buf[IO_SHOWN];
    uint64_t type, n;
    if (!take(r, 4, &type) || !take(r, 8, &n)) return cut(r, shown(buf, key));
    if (type >= VALUE_TYPES || type == ARRAY)
        return taca_fail(r->err, TACA_EFORMAT, "%s: key %s: an array of type %llu", r->path,
                         shown(buf, key), (unsigned long long)type);
    bool ok;
    if (text_starts(key, orig) && type == I32 && n <= TACA_MAX_RANK && r->n_notes < MAX_NOTES)
        ok = take_note(r, (struct text){key.s + sizeof orig - 1, key.len - (sizeof orig - 1)}, n);
    else
        ok = skip_items(r, type, n);
    return ok ? TACA_OK : cut(r, shown(buf, key));
}

static enum taca_code read_alignment(struct reader *r, uint64_t type) {
    uint64_t v;
    if (type != U32 || !take(r, 4, &v))
        return taca_fail(r->err, TACA_EFORMAT, "%s: general.alignment is not a u32", r->path);
    if (v == 0 || v > MAX_ALIGNMENT || (v & (v - 1)))
        return taca_fail(r->err, TACA_EFORMAT,
                         "%s: general.alignment is %llu, wanted a power of two up to %d", r->path,
                         (unsigned long long)v, MAX_ALIGNMENT);
    r->alignment = (size_t)v;
    return TACA_OK;
}

static enum taca_code read_key(struct reader *r, struct text *key) {
    char buf[IO_SHOWN];
    struct text value;
    uint64_t type;
    if (!take_text(r, key)) return cut(r, "a key");
    if (key->len == 0 || key->len > MAX_KEY)
        return taca_fail(r->err, TACA_EFORMAT, "%s: a key of %zu bytes", r->path, key->len);
    if (!take(r, 4, &type)) return cut(r, shown(buf, *key));
    if (type >= VALUE_TYPES)
        return taca_fail(r->err, TACA_EFORMAT, "%s: key %s: a value of type %llu", r->path,
                         shown(buf, *key), (unsigned long long)type);
    if (text_is(*key, "general.alignment")) return read_alignment(r, type);
    if (type == ARRAY) return read_array(r, *key);
    if (type != STRING) return skip_items(r, type, 1) ? TACA_OK : cut(r, shown(buf, *key));
    if (!take_text(r, &value)) return cut(r, shown(buf, *key));
    if (text_is(*key, "general.architecture")) {
        shown(buf, value);
        memcpy(r->g->architecture, buf, sizeof r->g->architecture - 1);
    }
    if (text_is(*key, "general.name") || text_is(*key, "general.basename") ||
        text_is(*key, "general.finetune")) {
        const size_t n = strlen(r->g->title);
        snprintf(r->g->title + n, sizeof r->g->title - n, "%.60s ", shown(buf, value));
    }
    return TACA_OK;
}

static enum taca_code read_keys(struct reader *r) {
    char buf[IO_SHOWN];
    r->keys = calloc((size_t)r->n_keys + 1, sizeof *r->keys);
    r->notes = calloc(MAX_NOTES, sizeof *r->notes);
    if (!r->keys || !r->notes) return no_memory(r);
    for (size_t i = 0; i < r->n_keys; i++) {
        enum taca_code rc = read_key(r, &r->keys[i]);
        if (rc) return rc;
    }
    qsort(r->keys, (size_t)r->n_keys, sizeof *r->keys, text_order);
    for (size_t i = 1; i < r->n_keys; i++)
        if (text_order(&r->keys[i - 1], &r->keys[i]) == 0)
            return taca_fail(r->err, TACA_EFORMAT, "%s: key %s is there twice", r->path,
                             shown(buf, r->keys[i]));
    return TACA_OK;
}

/* ---- tensors --------------------------------------------------------------------------------- */

/* Block size and bytes of a type, and what is known of it; false for an unknown id. */
static bool find_type(struct taca_stored *t, uint64_t id, int *block, int *bytes) {
    for (int i = 0; i < TACA_STORED_OTHER; i++) {
        const struct taca_storage_traits *s = taca_storage_traits((enum taca_storage)i);
        if (s->gguf_id < 0 || (uint64_t)s->gguf_id != id) continue;
        t->type = (enum taca_storage)i;
        t->spelled = s->name;
        *block = s->block;
        *bytes = s->bytes;
        return true;
    }
    for (size_t i = 0; i < sizeof unread / sizeof *unread; i++) {
        if (unread[i].id != id) continue;
        t->type = TACA_STORED_OTHER;
        t->spelled = unread[i].name;
        *block = unread[i].block;
        *bytes = unread[i].bytes;
        return true;
    }
    return false;
}

static enum taca_code read_dims(struct reader *r, const char *name, uint64_t n,
                                struct taca_stored *t) {
    size_t count = 1;
    char buf[IO_SHOWN];
    if (n > MAX_DIMS)
        return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: %llu dimensions, at most %d wanted",
                         r->path, io_shown(buf, name), (unsigned long long)n, MAX_DIMS);
    t->rank = (int)n;
    for (int i = t->rank; i-- > 0;) { /* contiguous dimension first in the file, last here */
        uint64_t d;
        if (!take(r, 8, &d)) return cut(r, io_shown(buf, name));
        /* a 0 among them must not excuse the others: they are multiplied in any order later */
        if (d > INT64_MAX || !taca_mul(&count, count, d ? (size_t)d : 1) || count > INT64_MAX / 8)
            return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: shape overflows", r->path,
                             io_shown(buf, name));
        t->dim[i] = (int64_t)d;
    }
    return TACA_OK;
}

static enum taca_code read_tensor(struct reader *r, size_t i) {
    struct taca_stored *t = &r->g->tensors[i];
    char buf[IO_SHOWN], shape[IO_SHAPE];
    struct text name;
    uint64_t n, id;
    int block = 1, bytes = 0;
    if (!take_text(r, &name)) return cut(r, "a tensor's name");
    if (name.len == 0 || name.len > MAX_NAME || memchr(name.s, 0, name.len))
        return taca_fail(r->err, TACA_EFORMAT, "%s: a tensor name of %zu bytes, 1..%d wanted",
                         r->path, name.len, MAX_NAME);
    t->name = taca_arena_strndup(&r->g->arena, name.s, name.len);
    if (!t->name) return no_memory(r);
    io_shown(buf, t->name);
    if (!take(r, 4, &n)) return cut(r, buf);
    enum taca_code rc = read_dims(r, t->name, n, t);
    if (rc) return rc;
    if (!take(r, 4, &id) || !take(r, 8, &r->offsets[i])) return cut(r, buf);
    if (!find_type(t, id, &block, &bytes))
        return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: unknown type %llu", r->path, buf,
                         (unsigned long long)id);
    const int64_t last = t->rank ? t->dim[t->rank - 1] : 1;
    if (last % block)
        return taca_fail(r->err, TACA_EFORMAT,
                         "%s: tensor %s: %s of shape %s does not divide into blocks of %d", r->path,
                         buf, t->spelled, io_shape(shape, t->rank, t->dim), block);
    t->scale = 1;
    t->bytes = 0;
    if (!taca_mul(&t->bytes, (size_t)(taca_stored_count(t) / block), (size_t)bytes))
        return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: shape overflows", r->path, buf);
    return TACA_OK;
}

static void apply_note(struct taca_gguf *g, const struct shape_note *note) {
    for (size_t i = 0; i < g->n; i++) {
        struct taca_stored *t = &g->tensors[i], as = *t;
        if (strlen(t->name) != note->name.len || memcmp(t->name, note->name.s, note->name.len))
            continue;
        as.rank = note->rank;
        for (int k = 0; k < note->rank; k++) as.dim[k] = note->dim[k];
        size_t n = 1;
        for (int k = 0; k < as.rank; k++)
            if (as.dim[k] <= 0 || !taca_mul(&n, n, (size_t)as.dim[k])) return;
        if (n == (size_t)taca_stored_count(t)) *t = as;
    }
}

static enum taca_code check_names(const struct reader *r) {
    const struct taca_gguf *g = r->g;
    char buf[IO_SHOWN];
    struct text *names = calloc(g->n + 1, sizeof *names);
    enum taca_code rc = names ? TACA_OK : no_memory(r);
    for (size_t i = 0; i < g->n && !rc; i++)
        names[i] = (struct text){g->tensors[i].name, strlen(g->tensors[i].name)};
    if (!rc) qsort(names, g->n, sizeof *names, text_order);
    for (size_t i = 1; i < g->n && !rc; i++)
        if (text_order(&names[i - 1], &names[i]) == 0)
            rc = taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s is there twice", r->path,
                           shown(buf, names[i]));
    free(names);
    return rc;
}

/* The first multiple of the alignment from `at` on; false when there is none. */
static bool align_up(const struct reader *r, size_t at, size_t *out) {
    if (!taca_add_size(out, at, r->alignment - 1)) return false;
    *out &= ~(r->alignment - 1);
    return true;
}

/* Tensors lie one behind the other, each on the alignment, and end where the file ends. */
static enum taca_code place(struct reader *r) {
    const struct taca_gguf *g = r->g;
    char buf[IO_SHOWN];
    size_t at = 0, begin, data_at, size = g->map.size;
    if (!align_up(r, (size_t)(r->p - g->map.data), &data_at)) return cut(r, "its head");
    if (g->n && data_at > size) return cut(r, "its head");
    size_t have = size > data_at ? size - data_at : 0;
    for (size_t i = 0; i < g->n; i++) {
        struct taca_stored *t = &g->tensors[i];
        if (!align_up(r, at, &begin) || r->offsets[i] != begin)
            return taca_fail(r->err, TACA_EFORMAT,
                             "%s: tensor %s: begins at byte %llu of the data, %zu wanted", r->path,
                             io_shown(buf, t->name), (unsigned long long)r->offsets[i], begin);
        if (!taca_add_size(&at, begin, t->bytes) || at > have)
            return taca_fail(r->err, TACA_EFORMAT,
                             "%s: truncated: tensor %s wants %zu bytes at %zu, the file has %zu",
                             r->path, io_shown(buf, t->name), t->bytes, data_at + begin, size);
        t->data = g->map.data + data_at + begin;
    }
    if (!align_up(r, at, &begin) || have > begin)
        return taca_fail(r->err, TACA_EFORMAT, "%s: %zu bytes behind the last tensor", r->path,
                         have - at);
    return TACA_OK;
}

static enum taca_code read_tensors(struct reader *r) {
    struct taca_gguf *g = r->g;
    g->tensors = calloc((size_t)r->n_tensors + 1, sizeof *g->tensors);
    r->offsets = calloc((size_t)r->n_tensors + 1, sizeof *r->offsets);
    if (!g->tensors || !r->offsets) return no_memory(r);
    for (size_t i = 0; i < r->n_tensors; i++) {
        enum taca_code rc = read_tensor(r, i);
        if (rc) return rc;
        g->n++;
    }
    enum taca_code rc = check_names(r);
    if (!rc) rc = place(r);
    for (size_t i = 0; i < r->n_notes && !rc; i++) apply_note(g, &r->notes[i]);
    return rc;
}

enum taca_code taca_gguf_open(struct taca_gguf **out, const char *path, struct taca_err *err) {
    enum taca_code rc;
    struct reader r = {
        .path = path, .err = err, .alignment = DEFAULT_ALIGNMENT, .g = calloc(1, sizeof *r.g)};
    if (!r.g) {
        rc = no_memory(&r);
        goto out;
    }
    rc = io_map_open(&r.g->map, path, err);
    if (!rc) rc = read_head(&r);
    if (!rc) rc = read_keys(&r);
    if (!rc) rc = read_tensors(&r);
    if (rc) goto out;
    *out = r.g;
    r.g = NULL;
out:
    taca_gguf_close(r.g);
    free(r.keys);
    free(r.notes);
    free(r.offsets);
    return rc;
}

void taca_gguf_close(struct taca_gguf *g) {
    if (!g) return;
    free(g->tensors);
    taca_arena_finish(&g->arena);
    io_map_close(&g->map);
    free(g);
}

const char *taca_gguf_architecture(const struct taca_gguf *g) { return g->architecture; }
const char *taca_gguf_title(const struct taca_gguf *g) { return g->title; }

size_t taca_gguf_count(const struct taca_gguf *g) { return g->n; }

const struct taca_stored *taca_gguf_at(const struct taca_gguf *g, size_t i) {
    return i < g->n ? &g->tensors[i] : NULL;
}
