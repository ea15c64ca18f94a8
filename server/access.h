/* access.h - who may ask: keys from a file of hashes, and the web pages of other origins that
 * browsers let in.
 *
 * Read once at the start, constant from then on, so any thread may ask. Knows requests as headers
 * and paths; the keys themselves are nowhere: the file has their SHA-256. */
#ifndef TACA_SERVER_ACCESS_H
#define TACA_SERVER_ACCESS_H

#include <stdbool.h>

#include "api/error.h"
#include "base/buf.h"
#include "base/err.h"

enum { CLIENT_NAME_MAX = 32, ACCESS_MAX_KEYS = 1024 };

struct access_client {
    char name[CLIENT_NAME_MAX + 1]; /* "" = no keys are asked for */
    int concurrency;                /* unfinished requests at once, 0 = no limit of its own */
};

struct access;
/* origins: "https://a.example,https://b.example:8443", exact; NULL or "" = none.
 * key_file: a line for each key, `name:sha256` or `name:sha256:concurrency`, the hash as 64 hex
 * digits; empty lines and those that begin with # are skipped. NULL = no keys. */
enum taca_code access_open(struct access **out, const char *origins, const char *key_file,
                           struct taca_err *err) TACA_MUST_USE;
void access_close(struct access *a); /* NULL is fine */

/* `authorization` is the header's value or NULL: "Bearer <key>". 0, or 401 with *e filled. */
int access_check(const struct access *a, const char *path, const char *authorization,
                 struct access_client *out, struct api_error *e);
bool access_lets_in(const struct access *a, const char *origin); /* NULL = not a browser's */
/* Header lines of any answer; `origin` as above. */
void access_headers(const struct access *a, const char *origin, struct taca_buf *out);

#endif
