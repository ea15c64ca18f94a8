/* access.c - see access.h. */
#include "server/access.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "api/reply.h"
#include "base/log.h"

enum { MAX_ORIGINS = 64, MAX_KEY_BYTES = 512, MAX_LINE = 1024 };

struct key {
    struct access_client client;
    uint8_t hash[SHA256_BYTES];
};

struct access {
    char *origins; /* the list, cut up */
    const char *origin[MAX_ORIGINS];
    int n_origins;
    bool keys_wanted;
    struct key *keys;
    int n_keys;
};

/* ---- the list of origins --------------------------------------------------------------------- */

/* scheme://host[:port]: what a browser sends, so anything longer would never match */
static bool is_origin(const char *s) {
    const char *host = strstr(s, "://");
    if (!host || (strncmp(s, "http://", 7) != 0 && strncmp(s, "https://", 8) != 0)) return false;
    host += 3;
    return *host && strcspn(host, "/?#*\\ \t\r\n\"") == strlen(host);
}

static enum taca_code read_origins(struct access *a, const char *list, struct taca_err *err) {
    if (!list || !*list) return TACA_OK;
    char *rest = a->origins = strdup(list);
    if (!rest) return taca_fail(err, TACA_ENOMEM, "reading --cors-origin");
    while (rest) {
        char *one = rest + strspn(rest, " ");
        rest = strchr(one, ',');
        if (rest) *rest++ = 0;
        if (!is_origin(one))
            return taca_fail_param(err, "cors-origin",
                                   "--cors-origin: \"%s\" is no origin such as https://a.example",
                                   one);
        if (a->n_origins == MAX_ORIGINS)
            return taca_fail_param(err, "cors-origin", "--cors-origin: more than %d origins",
                                   MAX_ORIGINS);
        a->origin[a->n_origins++] = one;
    }
    return TACA_OK;
}

bool access_lets_in(const struct access *a, const char *origin) {
    for (int i = 0; origin && i < a->n_origins; i++)
        if (strcmp(a->origin[i], origin) == 0) return true;
    return false;
}

void access_headers(const struct access *a, const char *origin, struct taca_buf *out) {
    if (a->n_origins == 0) return;
    taca_buf_puts(out, "Vary: Origin\n");
    if (!access_lets_in(a, origin)) return;
    taca_buf_printf(out, "Access-Control-Allow-Origin: %s\n", origin);
    taca_buf_puts(
        out,
        "Access-Control-Expose-Headers: ETag, Idempotent-Replayed, Location, "
        "Retry-After, traceparent, X-Gpu-Ms, X-Ignored-Params, X-Job-Id, X-Model, X-Queue-Depth, "
        "X-Queue-Ms, X-Request-Id, X-Seed, X-Steps\n");
}

/* ---- keys ------------------------------------------------------------------------------------ */

static enum taca_code keep_key(struct access *a, const struct key *k, struct taca_err *err) {
    struct key *grown = realloc(a->keys, (size_t)(a->n_keys + 1) * sizeof *k);
    if (!grown) return taca_fail(err, TACA_ENOMEM, "reading the API keys");
    a->keys = grown;
    a->keys[a->n_keys++] = *k;
    return TACA_OK;
}

static enum taca_code add_key(struct access *a, const char *path, const char *line, int number,
                              struct taca_err *err) {
    struct key k;
    struct taca_err why = {0};
    if (access_read_key(&k.client, k.hash, line, &why) != TACA_OK)
        return taca_fail_param(err, "api-key-file", "--api-key-file %s line %d: %s", path, number,
                               why.text);
    for (int i = 0; i < a->n_keys; i++)
        if (memcmp(a->keys[i].hash, k.hash, sizeof k.hash) == 0)
            return taca_fail_param(err, "api-key-file",
                                   "--api-key-file %s line %d: the key of another line again", path,
                                   number);
    if (a->n_keys == ACCESS_MAX_KEYS)
        return taca_fail_param(err, "api-key-file", "--api-key-file %s: more than %d keys", path,
                               ACCESS_MAX_KEYS);
    return keep_key(a, &k, err);
}

static enum taca_code read_keys(struct access *a, const char *path, struct taca_err *err) {
    char line[MAX_LINE];
    struct stat st;
    enum taca_code rc = TACA_OK;
    if (!path || !*path) return TACA_OK;
    a->keys_wanted = true;
    FILE *f = fopen(path, "re");
    if (!f)
        return taca_fail_param(err, "api-key-file", "--api-key-file %s: %s", path, strerror(errno));
    if (fstat(fileno(f), &st) == 0 && (st.st_mode & S_IROTH))
        taca_log(TACA_LOG_WARN, "%s can be read by everybody on this machine", path);
    for (int number = 1; rc == TACA_OK && fgets(line, sizeof line, f); number++) {
        bool whole = strchr(line, '\n') || feof(f);
        line[strcspn(line, "\r\n")] = 0;
        if (!whole)
            rc = taca_fail_param(err, "api-key-file",
                                 "--api-key-file %s line %d: longer than %d bytes", path, number,
                                 MAX_LINE - 2);
        else if (line[0] && line[0] != '#')
            rc = add_key(a, path, line, number, err);
    }
    fclose(f);
    if (rc == TACA_OK && a->n_keys == 0)
        rc = taca_fail_param(err, "api-key-file", "--api-key-file %s: there is no key in it", path);
    return rc;
}

static enum taca_code take_key(struct access *a, const char *key, struct taca_err *err) {
    struct key k = {.client.name = "api-key"};
    size_t len = key ? strlen(key) : 0;
    if (len == 0) return TACA_OK;
    a->keys_wanted = true;
    for (size_t i = 0; i < len; i++)
        if (key[i] <= ' ' || key[i] > '~') len = MAX_KEY_BYTES + 1;
    if (len > MAX_KEY_BYTES)
        return taca_fail_param(err, "api-key",
                               "--api-key must be 1..%d printable ASCII characters, no space",
                               MAX_KEY_BYTES);
    sha256(k.hash, key, len);
    return keep_key(a, &k, err);
}

/* Every key is compared to its end, whichever fits: time tells nothing. */
static const struct key *find_key(const struct access *a, const char *token, size_t len) {
    const struct key *found = NULL;
    uint8_t hash[SHA256_BYTES];
    sha256(hash, token, len);
    for (int i = 0; i < a->n_keys; i++) {
        volatile uint8_t differs = 0;
        for (int b = 0; b < SHA256_BYTES; b++) differs |= (uint8_t)(hash[b] ^ a->keys[i].hash[b]);
        found = differs ? found : &a->keys[i];
    }
    return found;
}

static const struct key *bearer_key(const struct access *a, const char *authorization) {
    static const char bearer[] = "Bearer ";
    if (strncasecmp(authorization, bearer, sizeof bearer - 1) != 0) return NULL;
    const char *token = authorization + sizeof bearer - 1;
    size_t len = strlen(token);
    return len > 0 && len <= MAX_KEY_BYTES ? find_key(a, token, len) : NULL;
}

/* What clients of A1111's API send: any name, and the key as its password. */
static const struct key *basic_key(const struct access *a, const char *authorization) {
    static const char basic[] = "Basic ";
    uint8_t pair[2 * MAX_KEY_BYTES];
    size_t len = 0, sent = strlen(authorization);
    if (strncasecmp(authorization, basic, sizeof basic - 1) != 0) return NULL;
    sent -= sizeof basic - 1;
    if (sent / 4 * 3 + 2 > sizeof pair ||
        !api_base64_read(pair, &len, authorization + sizeof basic - 1, sent))
        return NULL;
    const uint8_t *colon = memchr(pair, ':', len);
    size_t left = colon ? len - (size_t)(colon + 1 - pair) : 0;
    return left > 0 && left <= MAX_KEY_BYTES ? find_key(a, (const char *)colon + 1, left) : NULL;
}

int access_check(const struct access *a, const char *path, const char *authorization,
                 struct access_client *out, struct api_error *e) {
    const bool theirs = strncmp(path, "/sdapi/", 7) == 0;
    *out = (struct access_client){0};
    if (!a->keys_wanted || (!theirs && strncmp(path, "/v1/", 4) != 0)) return 0; /* pages, probes */
    const struct key *k = NULL;
    if (authorization) k = bearer_key(a, authorization);
    if (authorization && !k && theirs) k = basic_key(a, authorization);
    if (!k)
        return api_fail(e, 401, "invalid_api_key", NULL,
                        "%s: send Authorization: Bearer and a key of this service",
                        authorization ? "the API key is not known" : "an API key is needed");
    *out = k->client;
    return 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

enum taca_code access_open(struct access **out, const struct access_opts *opts,
                           struct taca_err *err) {
    struct access *a = calloc(1, sizeof *a);
    if (!a) return taca_fail(err, TACA_ENOMEM, "opening the lists of who may ask");
    enum taca_code rc = read_origins(a, opts->origins, err);
    if (rc == TACA_OK) rc = read_keys(a, opts->key_file, err);
    if (rc == TACA_OK) rc = take_key(a, opts->key, err);
    if (rc == TACA_OK)
        *out = a;
    else
        access_close(a);
    return rc;
}

void access_close(struct access *a) {
    if (!a) return;
    free(a->origins);
    free(a->keys);
    free(a);
}
