/* disk_files.h - the pictures of durable jobs: one file each, whole or not there.
 *
 * A file is written under another name, flushed, renamed; disk_files_sync makes the names of all
 * that were written so last. Names come from the job's tag: no word of a client's is part of a
 * path. Functions may be called from any thread. */
#ifndef TACA_SERVER_DISK_FILES_H
#define TACA_SERVER_DISK_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* Which picture: of the job with this tag, and as which kind of file. */
struct disk_name {
    uint64_t tag;
    int index;
    const char *ending; /* ".png", ".jpg" */
};

struct disk_files;
/* Makes the directory when it is not there. */
enum taca_code disk_files_open(struct disk_files **out, const char *dir,
                               struct taca_err *err) TACA_MUST_USE;
void disk_files_close(struct disk_files *f); /* NULL is fine */

enum taca_code disk_files_write(const struct disk_files *f, const struct disk_name *of,
                                const void *bytes, size_t len, struct taca_err *err) TACA_MUST_USE;
enum taca_code disk_files_sync(const struct disk_files *f, struct taca_err *err) TACA_MUST_USE;
/* Appends the picture to *out. TACA_ENOTFOUND when there is no file, TACA_EFORMAT when it is not of
 * `len` bytes. */
enum taca_code disk_files_read(const struct disk_files *f, const struct disk_name *of, size_t len,
                               struct taca_buf *out, struct taca_err *err) TACA_MUST_USE;
void disk_files_remove(const struct disk_files *f, const struct disk_name *of);
/* Removes what nobody keeps, and what is left of unfinished writes; how many files that was. */
int disk_files_sweep(const struct disk_files *f, bool (*keep)(void *ctx, uint64_t tag, int index),
                     void *ctx);

#endif
