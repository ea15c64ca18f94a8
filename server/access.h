/* access.h - who may ask: keys from a file of hashes, and the web pages of other origins that
 * browsers let in.
 *
 * Constant once it is open, so any thread may ask. Knows requests as headers
 * and paths; the keys themselves are nowhere: the file has their SHA-256. */
#ifndef TACA_SERVER_ACCESS_H
#define TACA_SERVER_ACCESS_H

#include <stdbool.h>

#include "api/error.h"
#include "api/limits.h"
#include "base/buf.h"
#include "base/err.h"
#include "server/sha256.h"

enum { CLIENT_NAME_MAX = 32, CLIENT_MODELS_MAX = 256, ACCESS_MAX_KEYS = 1024 };

/* Who asks, and what the key allows; 0 and "" are no limits of its own. */
struct access_client {
    char name[CLIENT_NAME_MAX + 1]; /* "" = no keys are asked for */
    int concurrency;                /* unfinished requests at once */
    int requests_per_minute;
    double pixel_steps_per_minute; /* width x height x steps x n */
    int max_pixels, max_side, max_steps, max_n;
    bool limits_priority;
    int max_priority;                   /* with limits_priority; higher ones become this */
    char models[CLIENT_MODELS_MAX + 1]; /* "a|b": these alone */
    bool admin;
};
/* One line of a key file: `name:sha256[:limits]`, the hash as 64 hex digits, limits as
 * `concurrency=4,models=a|b,admin` or the number alone, which is concurrency. TACA_EINVAL says what
 * is wrong without a word of the line, which may hold what somebody took for a hash. */
enum taca_code access_read_key(struct access_client *out, uint8_t hash[SHA256_BYTES],
                               const char *line, struct taca_err *err) TACA_MUST_USE;
/* The limits that a request with this key is read against. */
void access_narrow(const struct access_client *c, struct api_limits *l);
bool access_allows_model(const struct access_client *c, const char *id);

struct access;
struct access_opts {
    const char *origins, *key_file, *key;
};
/* origins: "https://a.example,https://b.example:8443", exact; NULL or "" = none.
 * key_file: a line for each key; empty lines and those that begin with # are skipped. NULL = no
 * keys.
 * key: one more, itself, called "api-key" and without limits; NULL or "" = none. */
enum taca_code access_open(struct access **out, const struct access_opts *opts,
                           struct taca_err *err) TACA_MUST_USE;
void access_close(struct access *a); /* NULL is fine */

/* `authorization` is the header's value or NULL: "Bearer <key>". 0, or 401 with *e filled. */
int access_check(const struct access *a, const char *path, const char *authorization,
                 struct access_client *out, struct api_error *e);
bool access_lets_in(const struct access *a, const char *origin); /* NULL = not a browser's */
/* Header lines of any answer; `origin` as above. */
void access_headers(const struct access *a, const char *origin, struct taca_buf *out);

#endif
