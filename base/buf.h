/* buf.h - a growing byte string with a ceiling.
 *
 * Appends never fail loudly: the first one that would pass `max` or cannot allocate sets `failed`,
 * later ones do nothing, and the owner checks once at the end. The bytes are always followed by a
 * NUL that `len` does not count. */
#ifndef TACA_BASE_BUF_H
#define TACA_BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct taca_buf {
    char *data; /* NULL while empty */
    size_t len, cap, max;
    bool failed;
};

void taca_buf_init(struct taca_buf *b, size_t max);
void taca_buf_finish(struct taca_buf *b); /* frees; NULL and zeroed are fine */
void taca_buf_reset(struct taca_buf *b);  /* len = 0, failed = false, memory kept */
void taca_buf_put(struct taca_buf *b, const void *bytes, size_t len);
void taca_buf_puts(struct taca_buf *b, const char *s);
void taca_buf_printf(struct taca_buf *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* A JSON string with its quotes. Control bytes and non-ASCII controls become \u00XX, bytes that
 * are not valid UTF-8 become U+FFFD, so one event or log record stays one line. */
void taca_buf_json(struct taca_buf *b, const char *s, size_t len);
/* Text of whatever origin so that it does nothing to a terminal: controls but those in `keep`, and
 * bytes that are not valid UTF-8, become '?'. */
void taca_buf_plain(struct taca_buf *b, const char *s, size_t len, const char *keep);
/* Room for `len` bytes at the end without counting them; NULL sets failed. */
char *taca_buf_reserve(struct taca_buf *b, size_t len);

#endif
