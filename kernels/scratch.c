/* scratch.c - the bump allocator behind one step, see backend.h.
 *
 * Each view starts on a 64-byte line. `used` moves even when there is no room, so that a dry run
 * on a counting backend and a run that fails both leave the true need in `peak`. */
#include <string.h>

#include "base/mem.h"
#include "kernels/backend_ops.h"

enum { LINE = 64 };

enum taca_code taca_scratch_reserve(struct taca_scratch *s, size_t bytes, struct taca_err *err) {
    if (bytes <= s->size || s->b->ops->counting) return TACA_OK;
    char *base = taca_alloc(s->b, bytes, err);
    if (!base) return taca_alloc_code(s->b);
    taca_replay_forget(s->b);
    taca_free(s->b, s->base);
    s->base = base;
    s->size = bytes;
    s->used = 0;
    return TACA_OK;
}

void taca_scratch_finish(struct taca_scratch *s) {
    if (s->b) {
        taca_replay_forget(s->b);
        taca_free(s->b, s->base);
    }
    s->base = NULL;
    s->size = s->used = 0;
}

static void *take(struct taca_scratch *s, size_t bytes) {
    struct taca_backend *b = s->b;
    size_t start = s->used;
    if (bytes > SIZE_MAX / 2 || start > SIZE_MAX / 2) {
        taca_backend_fail(b, TACA_ENOMEM, "scratch: %zu bytes more than %zu", bytes, start);
        return NULL;
    }
    s->used = start + (bytes + LINE - 1) / LINE * LINE;
    if (s->used > s->peak) s->peak = s->used;
    if (s->used > b->scratch_peak) b->scratch_peak = s->used;
    if (b->ops->counting) return NULL;
    if (s->used > s->size) {
        taca_backend_fail(b, TACA_EINTERNAL, "scratch: %zu bytes reserved, %zu needed", s->size,
                          s->used);
        return NULL;
    }
    return s->base + start;
}

/* Bytes of a dense array, SIZE_MAX when that does not fit. */
static size_t dense_bytes(enum taca_dtype dtype, const int64_t *dim, int rank) {
    size_t bytes = taca_dtype_bytes(dtype);
    for (int i = 0; i < rank; i++)
        if (dim[i] < 0 || !taca_mul(&bytes, bytes, (size_t)dim[i])) return SIZE_MAX;
    return bytes;
}

struct taca_mat taca_scratch_mat(struct taca_scratch *s, enum taca_dtype dtype, int64_t rows,
                                 int64_t cols) {
    const int64_t dim[] = {rows, cols};
    void *data = take(s, dense_bytes(dtype, dim, 2));
    return (struct taca_mat){data, dtype, rows, cols, cols};
}

struct taca_map taca_scratch_map(struct taca_scratch *s, enum taca_dtype dtype, int64_t n,
                                 int64_t h, int64_t w, int64_t c) {
    const int64_t dim[] = {n, h, w, c};
    void *data = take(s, dense_bytes(dtype, dim, 4));
    return (struct taca_map){data, dtype, n, h, w, c};
}
