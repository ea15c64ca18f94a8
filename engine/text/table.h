/* table.h - the rows of a token embedding, left in the file where it has them: a prompt needs a few
 * hundred of 50,000, which are read and widened when it comes. Private to engine/text. */
#ifndef TACA_ENGINE_TEXT_TABLE_H
#define TACA_ENGINE_TEXT_TABLE_H

#include "engine/io/checkpoint.h"
#include "kernels/backend.h"

/* Zeroed is closed. */
struct text_table {
    int64_t rows, cols;
    struct taca_ckpt *ckpt;    /* held; NULL: the table was copied */
    struct taca_stored stored; /* in it */
    struct taca_mat copy;      /* of the backend; a file that has rows in another order */
};

enum taca_code text_table_open(struct text_table *t, struct taca_backend *b, struct taca_ckpt *ckpt,
                               const char *name, const int64_t dim[2],
                               struct taca_err *err) TACA_MUST_USE;
void text_table_close(struct text_table *t);
size_t text_table_kept(const struct text_table *t);   /* bytes on the backend */
size_t text_table_mapped(const struct text_table *t); /* bytes of the file */

/* y_r = row ids[r], y f32; ids in host memory, not read on a counting backend. Waits. */
enum taca_code text_table_embed(const struct text_table *t, struct taca_backend *b,
                                struct taca_mat y, const int32_t *ids,
                                struct taca_err *err) TACA_MUST_USE;

#endif
