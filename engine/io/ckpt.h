/* ckpt.h - inside a checkpoint: what checkpoint.c, views.c and convert.c share. */
#ifndef TACA_ENGINE_IO_CKPT_H
#define TACA_ENGINE_IO_CKPT_H

#include "base/mem.h"
#include "engine/io/checkpoint.h"
#include "engine/io/gguf.h"
#include "engine/io/io.h"
#include "engine/io/layout.h"
#include "engine/io/safetensors.h"

/* A tensor of some file. */
struct ckpt_raw {
    struct taca_stored t;
    size_t file;
    bool ballast; /* a scale or a marker of a quantised layer, no weight */
    bool refused; /* a scheme of quantisation that is not read */
};

/* A tensor as model code knows it: a run of rows of a raw one, maybe rearranged. */
struct ckpt_view {
    struct taca_tensor t; /* name, shape; data is NULL while it has to be converted */
    const struct ckpt_raw *raw;
    int64_t first; /* element of raw */
    unsigned how;  /* IO_SWAP or IO_TRANSPOSE or 0 */
    bool alias, asked;
    bool out;    /* handed out since the last drop, and in the list */
    void *owned; /* converted */
    struct ckpt_view *next_out;
};

struct taca_ckpt {
    char *path;
    struct io_files files;
    struct taca_safetensors **st; /* files.n of these two, one of each pair is set */
    struct taca_gguf **gguf;
    struct ckpt_raw *raw; /* of all files, sorted by name */
    size_t n_raw;
    struct io_names names; /* the same */
    struct io_found part;  /* layout NULL: names as stored */
    struct ckpt_view *views;
    size_t n, cap;              /* sorted by name */
    struct ckpt_view *out;      /* the list */
    struct taca_arena arena;    /* names of views */
    struct ckpt_random *random; /* there is no file: every tensor is made when asked for */
    enum taca_dtype floats;
    bool hollow;             /* conversions give zeros */
    int holds;               /* owners beside the first */
    size_t held, most_held;  /* bytes of files and conversions handed out since the last drop */
    int64_t elements, bytes; /* of all views */
};

/* Fills c->views from c->raw under c->part. */
enum taca_code ckpt_make_views(struct taca_ckpt *c, struct taca_err *err) TACA_MUST_USE;
/* Gives scales to the weights that have them, and marks what else belongs to such schemes. */
enum taca_code ckpt_find_scales(struct taca_ckpt *c, struct taca_err *err) TACA_MUST_USE;
/* Makes v->owned. */
enum taca_code ckpt_convert(struct taca_ckpt *c, struct ckpt_view *v,
                            struct taca_err *err) TACA_MUST_USE;
/* For a checkpoint without a file. */
enum taca_code ckpt_random_get(struct taca_ckpt *c, struct taca_tensor *out, const char *name,
                               int rank, const int64_t *dim, struct taca_err *err) TACA_MUST_USE;
void ckpt_random_drop(struct ckpt_random *r);
/* The view lies in the file as it is to be given out. */
static inline bool ckpt_is_direct(const struct ckpt_view *v) {
    const struct taca_stored *t = &v->raw->t;
    return taca_storage_is_plain(t->type) && !v->how && t->scale == 1 && !t->scales;
}

/* Bytes of the file that the view is made of. */
static inline int64_t ckpt_stored_bytes(const struct ckpt_view *v) {
    const struct taca_stored *t = &v->raw->t;
    const struct taca_storage_traits *s = taca_storage_traits(t->type);
    if (t->type == TACA_STORED_OTHER) return (int64_t)t->bytes;
    return taca_tensor_count(&v->t) / s->block * s->bytes;
}

#endif
