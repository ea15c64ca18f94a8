/* file.h - whole files. */
#ifndef TACA_CLI_FILE_H
#define TACA_CLI_FILE_H

#include "base/buf.h"
#include "base/err.h"

/* Appends all of it. Messages name the path. */
enum taca_code file_read(struct taca_buf *out, const char *path,
                         struct taca_err *err) TACA_MUST_USE;
/* A file that appears under its name only when it is complete; what a link names is replaced, not
 * the link. Into a device, a pipe, a socket and standard output the bytes are written as they come.
 */
enum taca_code file_write(const char *path, const struct taca_buf *bytes,
                          struct taca_err *err) TACA_MUST_USE;
/* What file_write would say about `path`, as far as it can be told before. */
enum taca_code file_check(const char *path, struct taca_err *err) TACA_MUST_USE;

#endif
