/* file.h - whole files. */
#ifndef TACA_CLI_FILE_H
#define TACA_CLI_FILE_H

#include "base/buf.h"
#include "base/err.h"

/* Appends all of it. Messages name the path. */
enum taca_code file_read(struct taca_buf *out, const char *path,
                         struct taca_err *err) TACA_MUST_USE;
/* A new file that appears under its name only when it is complete. */
enum taca_code file_write(const char *path, const struct taca_buf *bytes,
                          struct taca_err *err) TACA_MUST_USE;

#endif
