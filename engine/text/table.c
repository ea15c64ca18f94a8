/* table.c - see table.h. */
#include "engine/text/table.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

/* That the file has it as it is wanted: whole blocks to a row. */
static bool lies_well(struct taca_ckpt *ckpt, const char *name, const int64_t dim[2],
                      struct taca_stored *s) {
    return taca_ckpt_raw(ckpt, name, s) && taca_storage_is_float(s->type) && s->rank == 2 &&
           s->dim[0] == dim[0] && s->dim[1] == dim[1] &&
           dim[1] % taca_storage_traits(s->type)->block == 0;
}

enum taca_code text_table_open(struct text_table *t, struct taca_backend *b, struct taca_ckpt *ckpt,
                               const char *name, const int64_t dim[2], struct taca_err *err) {
    struct taca_tensor whole;
    *t = (struct text_table){.rows = dim[0], .cols = dim[1]};
    if (lies_well(ckpt, name, dim, &t->stored)) {
        taca_ckpt_hold(ckpt);
        t->ckpt = ckpt;
        return TACA_OK;
    }
    enum taca_code rc = taca_ckpt_get(ckpt, &whole, name, 2, dim, err);
    if (!rc) rc = taca_table_open(b, &t->copy, &whole, err);
    return rc;
}

void text_table_close(struct text_table *t) {
    taca_ckpt_close(t->ckpt);
    *t = (struct text_table){0};
}

size_t text_table_kept(const struct text_table *t) {
    return t->ckpt ? 0 : (size_t)(t->rows * t->cols) * sizeof(float);
}

size_t text_table_mapped(const struct text_table *t) { return t->ckpt ? t->stored.bytes : 0; }

/* Values beyond what e4m3 holds have become NaN where a file was narrowed to it. Those of a token
 * would be all that a picture is made of: the reference takes 0 for them. */
static void drop_nan(const struct text_table *t, float *x, int64_t n) {
    for (int64_t i = 0; t->stored.type == TACA_STORED_F8_E4M3 && i < n; i++)
        if (isnan(x[i])) x[i] = 0;
}

static enum taca_code check_ids(const struct text_table *t, const int32_t *ids, int64_t n,
                                struct taca_err *err) {
    for (int64_t r = 0; r < n; r++)
        if (ids[r] < 0 || ids[r] >= t->rows)
            return taca_fail(err, TACA_EINTERNAL,
                             "id %" PRId32 " of token %" PRId64 ", the table has %" PRId64 " rows",
                             ids[r], r, t->rows);
    return TACA_OK;
}

enum taca_code text_table_embed(const struct text_table *t, struct taca_backend *b,
                                struct taca_mat y, const int32_t *ids, struct taca_err *err) {
    size_t bytes;
    if (!t->ckpt) {
        taca_embed(b, y, t->copy, ids);
        return TACA_OK;
    }
    if (!y.data) return TACA_OK; /* a counting backend, which reads no ids */
    enum taca_code rc = check_ids(t, ids, y.rows, err);
    if (rc) return rc;
    float *rows = taca_mul(&bytes, (size_t)(y.rows * t->cols), sizeof *rows) ? malloc(bytes) : NULL;
    if (!rows) return taca_fail(err, TACA_ENOMEM, "rows of %" PRId64 " tokens", y.rows);
    for (int64_t r = 0; r < y.rows; r++)
        taca_stored_read(rows + r * t->cols, &t->stored, ids[r] * t->cols, (size_t)t->cols);
    taca_stored_let_go(&t->stored);
    drop_nan(t, rows, y.rows * t->cols);
    if (y.ld == y.cols) taca_upload(b, y.data, rows, bytes);
    for (int64_t r = 0; y.ld != y.cols && r < y.rows; r++)
        taca_upload(b, taca_mat_rows(y, r, 1).data, rows + r * t->cols, bytes / (size_t)y.rows);
    rc = taca_queued(b, err);
    free(rows);
    return rc;
}
