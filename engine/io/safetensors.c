/* safetensors.c - see safetensors.h. The header is JSON (jansson); entries are copied into an arena
 * and the JSON is freed before open returns, so an open file costs its mapping and its names. */
#include "engine/io/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/io/io.h"

enum {
    PREFIX = 8, /* u64 little-endian: length of the header */
    MAX_HEADER = 100 * 1000 * 1000,
    MAX_HEADER_DEPTH = 3,
    MAX_HEADER_VALUES = 1000 * 1000, /* about 70 000 tensors */
    MAX_NAME = 512
};

struct entry {
    struct taca_stored t;
    size_t begin, end; /* relative to the data */
    size_t elements;
};

struct note {
    const char *key, *text;
};

struct taca_safetensors {
    struct io_map map;
    struct taca_arena arena;
    struct taca_stored *stored;         /* all, by offset */
    struct taca_tensor *tensors;        /* those of a dtype of ours, by offset */
    const struct taca_tensor **by_name; /* the same, sorted */
    size_t n_stored, n_tensors;
    struct note *notes; /* __metadata__, in file order */
    size_t n_notes;
};

/* While reading: where complaints belong. */
struct reader {
    const char *path;
    struct taca_safetensors *st;
    struct entry *entries;
    size_t n;
    struct taca_err *err;
};

static const struct dtype {
    char name[12];
    unsigned char bits;
    enum taca_storage type;
} dtypes[] = {
    {"F32", 32, TACA_STORED_F32},          {"BF16", 16, TACA_STORED_BF16},
    {"F16", 16, TACA_STORED_F16},          {"I32", 32, TACA_STORED_I32},
    {"I64", 64, TACA_STORED_I64},          {"U8", 8, TACA_STORED_U8},
    {"F8_E4M3", 8, TACA_STORED_F8_E4M3},   {"F8_E5M2", 8, TACA_STORED_F8_E5M2},
    {"F64", 64, TACA_STORED_OTHER},        {"U64", 64, TACA_STORED_OTHER},
    {"U32", 32, TACA_STORED_OTHER},        {"I16", 16, TACA_STORED_OTHER},
    {"U16", 16, TACA_STORED_OTHER},        {"I8", 8, TACA_STORED_OTHER},
    {"BOOL", 8, TACA_STORED_OTHER},        {"C64", 64, TACA_STORED_OTHER},
    {"F8_E8M0", 8, TACA_STORED_OTHER},     {"F8_E4M3FNUZ", 8, TACA_STORED_OTHER},
    {"F8_E5M2FNUZ", 8, TACA_STORED_OTHER}, {"F6_E2M3", 6, TACA_STORED_OTHER},
    {"F6_E3M2", 6, TACA_STORED_OTHER},     {"F4", 4, TACA_STORED_OTHER},
};

static const struct dtype *find_dtype(const char *name) {
    for (size_t i = 0; name && i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, name) == 0) return &dtypes[i];
    return NULL;
}

static enum taca_code no_memory(const struct reader *r) {
    return taca_fail(r->err, TACA_ENOMEM, "%s: out of memory", r->path);
}

/* ---- the prefix and the header as text ------------------------------------------------------- */

/* Explains a file whose first bytes cannot be right. */
static enum taca_code not_safetensors(const struct reader *r, uint64_t header) {
    const struct io_map *m = &r->st->map;
    const char *like = io_looks_like(m->data, m->size);
    if (like)
        return taca_fail(r->err, TACA_EFORMAT, "%s: wanted a safetensors file, this is %s", r->path,
                         like);
    if (m->size < PREFIX)
        return taca_fail(r->err, TACA_EFORMAT, "%s: truncated: %zu bytes found, at least %d wanted",
                         r->path, m->size, PREFIX + 2);
    if (header > MAX_HEADER)
        return taca_fail(r->err, TACA_EFORMAT,
                         "%s: not a safetensors file: header of %llu bytes, at most %d wanted",
                         r->path, (unsigned long long)header, MAX_HEADER);
    if (header < 2)
        return taca_fail(r->err, TACA_EFORMAT, "%s: header of %llu bytes, at least 2 wanted",
                         r->path, (unsigned long long)header);
    if (header > m->size - PREFIX)
        return taca_fail(r->err, TACA_EFORMAT,
                         "%s: truncated inside the header: %zu bytes found, at least %llu wanted",
                         r->path, m->size, (unsigned long long)header + PREFIX);
    return taca_fail(r->err, TACA_EFORMAT, "%s: not a safetensors file: its header is not JSON",
                     r->path);
}

/* The header as a JSON object, and where the data begins. */
static enum taca_code read_header(const struct reader *r, json_t **out, size_t *data_at) {
    const struct io_map *m = &r->st->map;
    uint64_t header = 0;
    if (m->size < PREFIX) return not_safetensors(r, header);
    for (int i = PREFIX - 1; i >= 0; i--) header = header << 8 | m->data[i];
    if (header < 2 || header > MAX_HEADER || header > m->size - PREFIX ||
        (m->data[PREFIX] != '{' && m->data[PREFIX] != '['))
        return not_safetensors(r, header);
    *data_at = PREFIX + (size_t)header;
    return io_json_parse(out, (const char *)m->data + PREFIX, (size_t)header, MAX_HEADER_DEPTH,
                         MAX_HEADER_VALUES, r->path, r->err);
}

/* ---- one entry ------------------------------------------------------------------------------- */

static enum taca_code read_shape(const struct reader *r, const char *shown, const json_t *shape,
                                 struct entry *e) {
    size_t rank = json_array_size(shape), count = 1, most = 1;
    if (!json_is_array(shape))
        return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: no shape", r->path, shown);
    if (rank > TACA_MAX_RANK)
        return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: %zu dimensions, at most %d wanted",
                         r->path, shown, rank, TACA_MAX_RANK);
    e->t.rank = (int)rank;
    for (size_t i = 0; i < rank; i++) {
        const json_t *d = json_array_get(shape, i);
        int64_t n = json_integer_value(d);
        if (!json_is_integer(d) || n < 0)
            return taca_fail(r->err, TACA_EFORMAT,
                             "%s: tensor %s: dimension %zu is not a non-negative integer", r->path,
                             shown, i);
        e->t.dim[i] = n;
        /* a 0 among them must not excuse the others: they are multiplied in any order later */
        if (!taca_mul(&most, most, n ? (size_t)n : 1) || most > INT64_MAX)
            return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: shape overflows", r->path,
                             shown);
        count *= (size_t)n;
    }
    e->elements = count;
    return TACA_OK;
}

static enum taca_code read_offsets(const struct reader *r, const char *shown, const json_t *pair,
                                   struct entry *e) {
    const json_t *b = json_array_get(pair, 0), *n = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_integer(b) || !json_is_integer(n) ||
        json_integer_value(b) < 0 || json_integer_value(n) < 0)
        return taca_fail(r->err, TACA_EFORMAT,
                         "%s: tensor %s: data_offsets is not a pair of non-negative integers",
                         r->path, shown);
    e->begin = (size_t)json_integer_value(b);
    e->end = (size_t)json_integer_value(n);
    if (e->begin > e->end)
        return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: data_offsets reversed, [%zu, %zu]",
                         r->path, shown, e->begin, e->end);
    return TACA_OK;
}

/* The bytes that the shape wants are those between the offsets. */
static enum taca_code check_bytes(const struct reader *r, const char *shown, const struct dtype *dt,
                                  const struct entry *e) {
    char shape[IO_SHAPE];
    size_t bits, found = e->end - e->begin;
    if (!taca_mul(&bits, e->elements, dt->bits))
        return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: shape overflows", r->path, shown);
    if (bits % 8 != 0)
        return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: %zu bits are not whole bytes",
                         r->path, shown, bits);
    if (bits / 8 != found)
        return taca_fail(r->err, TACA_EFORMAT,
                         "%s: tensor %s: %s of shape %s wants %zu bytes, its offsets give %zu",
                         r->path, shown, dt->name, io_shape(shape, e->t.rank, e->t.dim), bits / 8,
                         found);
    return TACA_OK;
}

static enum taca_code read_entry(const struct reader *r, const char *name, const json_t *v,
                                 struct entry *e) {
    char shown[IO_SHOWN], found[IO_SHOWN];
    size_t len = strlen(name);
    io_shown(shown, name);
    if (len == 0 || len > MAX_NAME)
        return taca_fail(r->err, TACA_EFORMAT, "%s: a tensor name of %zu bytes, 1..%d wanted (%s)",
                         r->path, len, MAX_NAME, shown);
    if (!json_is_object(v))
        return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: not an object", r->path, shown);
    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    const struct dtype *dt = find_dtype(dtype);
    if (!dtype) return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: no dtype", r->path, shown);
    if (!dt)
        return taca_fail(r->err, TACA_EFORMAT, "%s: tensor %s: unknown dtype %s", r->path, shown,
                         io_shown(found, dtype));
    enum taca_code rc = read_shape(r, shown, json_object_get(v, "shape"), e);
    if (rc == TACA_OK) rc = read_offsets(r, shown, json_object_get(v, "data_offsets"), e);
    if (rc == TACA_OK) rc = check_bytes(r, shown, dt, e);
    if (rc != TACA_OK) return rc;
    e->t.spelled = dt->name;
    e->t.type = dt->type;
    e->t.bytes = e->end - e->begin;
    e->t.scale = 1;
    e->t.name = taca_arena_strndup(&r->st->arena, name, len);
    return e->t.name ? TACA_OK : no_memory(r);
}

static enum taca_code read_metadata(const struct reader *r, json_t *meta) {
    struct taca_safetensors *st = r->st;
    const char *key;
    json_t *v;
    if (!json_is_object(meta))
        return taca_fail(r->err, TACA_EFORMAT, "%s: __metadata__ is not an object", r->path);
    st->notes = taca_arena_alloc(&st->arena, (json_object_size(meta) + 1) * sizeof *st->notes);
    if (!st->notes) return no_memory(r);
    json_object_foreach(meta, key, v) {
        char shown[IO_SHOWN];
        if (!json_is_string(v))
            return taca_fail(r->err, TACA_EFORMAT, "%s: __metadata__: %s is not a string", r->path,
                             io_shown(shown, key));
        struct note *n = &st->notes[st->n_notes++];
        n->key = taca_arena_strndup(&st->arena, key, strlen(key));
        n->text = taca_arena_strndup(&st->arena, json_string_value(v), json_string_length(v));
        if (!n->key || !n->text) return no_memory(r);
    }
    return TACA_OK;
}

static enum taca_code read_entries(struct reader *r, json_t *header) {
    const char *name;
    json_t *v;
    r->entries = calloc(json_object_size(header) + 1, sizeof *r->entries);
    if (!r->entries) return no_memory(r);
    json_object_foreach(header, name, v) {
        enum taca_code rc;
        if (strcmp(name, "__metadata__") == 0)
            rc = read_metadata(r, v);
        else
            rc = read_entry(r, name, v, &r->entries[r->n++]);
        if (rc != TACA_OK) return rc;
    }
    return TACA_OK;
}

/* ---- all entries together -------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1; /* empty tensors first */
    return strcmp(x->t.name, y->t.name);
}

/* Tensors follow each other without hole or overlap and end where the file ends. */
static enum taca_code check_tiling(const struct reader *r, size_t data_at) {
    size_t at = 0, have = r->st->map.size - data_at;
    char shown[IO_SHOWN];
    qsort(r->entries, r->n, sizeof *r->entries, by_offset);
    for (size_t i = 0; i < r->n; i++) {
        const struct entry *e = &r->entries[i];
        if (e->begin != at)
            return taca_fail(r->err, TACA_EFORMAT,
                             "%s: tensor %s: begins at byte %zu of the data, %s: %zu wanted",
                             r->path, io_shown(shown, e->t.name), e->begin,
                             e->begin < at ? "an overlap" : "a hole", at);
        at = e->end;
    }
    if (at > have)
        return taca_fail(r->err, TACA_EFORMAT, "%s: truncated: %zu bytes found, %zu wanted",
                         r->path, r->st->map.size, data_at + at);
    if (at < have)
        return taca_fail(r->err, TACA_EFORMAT,
                         "%s: %zu bytes behind the last tensor: %zu found, %zu wanted", r->path,
                         have - at, r->st->map.size, data_at + at);
    return TACA_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const struct taca_tensor *const *)a)->name,
                  (*(const struct taca_tensor *const *)b)->name);
}

static enum taca_code publish(const struct reader *r, size_t data_at) {
    struct taca_safetensors *st = r->st;
    st->stored = calloc(r->n + 1, sizeof *st->stored);
    st->tensors = calloc(r->n + 1, sizeof *st->tensors);
    st->by_name = calloc(r->n + 1, sizeof *st->by_name);
    if (!st->stored || !st->tensors || !st->by_name) return no_memory(r);
    for (size_t i = 0; i < r->n; i++) {
        struct taca_stored *t = &st->stored[st->n_stored++];
        *t = r->entries[i].t;
        t->data = st->map.data + data_at + r->entries[i].begin;
        if (!taca_storage_is_plain(t->type)) continue;
        struct taca_tensor *plain = &st->tensors[st->n_tensors];
        *plain = (struct taca_tensor){t->name, t->data, (enum taca_dtype)t->type, t->rank, {0}};
        memcpy(plain->dim, t->dim, sizeof plain->dim);
        st->by_name[st->n_tensors++] = plain;
    }
    qsort(st->by_name, st->n_tensors, sizeof *st->by_name, by_name);
    return TACA_OK;
}

enum taca_code taca_safetensors_open(struct taca_safetensors **out, const char *path,
                                     struct taca_err *err) {
    enum taca_code rc;
    json_t *header = NULL;
    size_t data_at = 0;
    struct reader r = {.path = path, .err = err, .st = calloc(1, sizeof *r.st)};

    if (!r.st) {
        rc = no_memory(&r);
        goto out;
    }
    rc = io_map_open(&r.st->map, path, err);
    if (rc == TACA_OK) rc = read_header(&r, &header, &data_at);
    if (rc == TACA_OK) rc = read_entries(&r, header);
    if (rc == TACA_OK) rc = check_tiling(&r, data_at);
    if (rc == TACA_OK) rc = publish(&r, data_at);
    if (rc != TACA_OK) goto out;
    *out = r.st;
    r.st = NULL;
out:
    taca_safetensors_close(r.st);
    free(r.entries);
    json_decref(header);
    return rc;
}

void taca_safetensors_close(struct taca_safetensors *st) {
    if (!st) return;
    free(st->tensors);
    free(st->by_name);
    free(st->stored);
    taca_arena_finish(&st->arena);
    io_map_close(&st->map);
    free(st);
}

size_t taca_safetensors_count(const struct taca_safetensors *st) { return st->n_tensors; }

const struct taca_tensor *taca_safetensors_at(const struct taca_safetensors *st, size_t i) {
    return i < st->n_tensors ? &st->tensors[i] : NULL;
}

const struct taca_tensor *taca_safetensors_find(const struct taca_safetensors *st,
                                                const char *name) {
    struct taca_tensor key = {.name = name};
    const struct taca_tensor *pkey = &key;
    const struct taca_tensor **hit =
        bsearch(&pkey, st->by_name, st->n_tensors, sizeof *st->by_name, by_name);
    return hit ? *hit : NULL;
}

size_t taca_safetensors_stored_count(const struct taca_safetensors *st) { return st->n_stored; }

const struct taca_stored *taca_safetensors_stored_at(const struct taca_safetensors *st, size_t i) {
    return i < st->n_stored ? &st->stored[i] : NULL;
}

const char *taca_safetensors_metadata(const struct taca_safetensors *st, const char *key) {
    for (size_t i = 0; i < st->n_notes; i++)
        if (strcmp(st->notes[i].key, key) == 0) return st->notes[i].text;
    return NULL;
}
