/* access_key.c - one line of a key file, and what its limits mean for a request. See access.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/near.h"
#include "server/access.h"

enum { MAX_VALUE = 31 };

/* ---- the hash -------------------------------------------------------------------------------- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool read_hash(uint8_t out[SHA256_BYTES], const char *s) {
    for (int i = 0; i < SHA256_BYTES; i++) {
        int high = hex_digit(s[2 * i]), low = high < 0 ? -1 : hex_digit(s[2 * i + 1]);
        if (low < 0) return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* ---- limits ---------------------------------------------------------------------------------- */

enum limit {
    CONCURRENCY,
    REQUESTS_PER_MINUTE,
    PIXEL_STEPS_PER_MINUTE,
    MAX_PIXELS,
    MAX_SIDE,
    MAX_STEPS,
    MAX_N,
    MAX_PRIORITY,
    MODELS,
    ADMIN,
    N_LIMITS
};
static const struct {
    const char *name;
    double min, max; /* of a number, min > max: it is none */
} known[N_LIMITS] = {
    [CONCURRENCY] = {"concurrency", 1, 999999},
    [REQUESTS_PER_MINUTE] = {"requests-per-minute", 1, 1e6},
    [PIXEL_STEPS_PER_MINUTE] = {"pixel-steps-per-minute", 1, 1e15},
    [MAX_PIXELS] = {"max-pixels", 4096, 1 << 28},
    [MAX_SIDE] = {"max-side", 16, 1 << 14},
    [MAX_STEPS] = {"max-steps", 1, 1000},
    [MAX_N] = {"max-n", 1, 64},
    [MAX_PRIORITY] = {"max-priority", -10, 10},
    [MODELS] = {"models", 1, 0},
    [ADMIN] = {"admin", 1, 0},
};

/* The limit that the first `len` bytes name, or N_LIMITS. */
static enum limit find_limit(const char *word, size_t len) {
    int i = 0;
    while (i < N_LIMITS && (strlen(known[i].name) != len || memcmp(known[i].name, word, len) != 0))
        i++;
    return (enum limit)i;
}

static enum taca_code unknown(const char *word, size_t len, struct taca_err *err) {
    char text[MAX_VALUE + 1] = "";
    const char *names[N_LIMITS];
    for (int i = 0; i < N_LIMITS; i++) names[i] = known[i].name;
    if (len < sizeof text) memcpy(text, word, len);
    const char *near = taca_nearest(text, names, N_LIMITS);
    if (near)
        return taca_fail_param(err, "limits", "a limit that is not known, did you mean %s?", near);
    struct taca_buf all; /* not the word: it may be a secret in the wrong place */
    taca_buf_init(&all, 1024);
    for (int i = 0; i < N_LIMITS; i++) taca_buf_printf(&all, "%s%s", i ? ", " : "", names[i]);
    enum taca_code rc =
        taca_fail_param(err, "limits", "a limit that is not known, wanted one of %s",
                        all.data ? all.data : "the known");
    taca_buf_finish(&all);
    return rc;
}

static enum taca_code read_number(double *out, enum limit which, const char *text, size_t len,
                                  struct taca_err *err) {
    char copy[MAX_VALUE + 1] = "", *end = copy;
    if (len > 0 && len <= MAX_VALUE) memcpy(copy, text, len);
    double v = strtod(copy, &end);
    bool whole = which != PIXEL_STEPS_PER_MINUTE;
    if (end == copy || *end || !(v >= known[which].min && v <= known[which].max) ||
        (whole && v != floor(v)))
        return taca_fail_param(err, "limits", "%s must be %s in %.16g..%.16g", known[which].name,
                               whole ? "a whole number" : "a number", known[which].min,
                               known[which].max);
    *out = v;
    return TACA_OK;
}

static void set_number(struct access_client *c, enum limit which, double v) {
    switch (which) {
    case CONCURRENCY: c->concurrency = (int)v; break;
    case REQUESTS_PER_MINUTE: c->requests_per_minute = (int)v; break;
    case PIXEL_STEPS_PER_MINUTE: c->pixel_steps_per_minute = v; break;
    case MAX_PIXELS: c->max_pixels = (int)v; break;
    case MAX_SIDE: c->max_side = (int)v; break;
    case MAX_STEPS: c->max_steps = (int)v; break;
    case MAX_N: c->max_n = (int)v; break;
    case MAX_PRIORITY:
        c->limits_priority = true;
        c->max_priority = (int)v;
        break;
    case MODELS:
    case ADMIN:
    case N_LIMITS: break;
    }
}

/* `len` bytes: name, name=value, or a number alone. */
static enum taca_code read_limit(struct access_client *c, const char *s, size_t len,
                                 struct taca_err *err) {
    double v = 0;
    if (len > 0 && strspn(s, "0123456789") >= len) {
        enum taca_code rc = read_number(&v, CONCURRENCY, s, len, err);
        c->concurrency = (int)v;
        return rc;
    }
    size_t word = strcspn(s, "=");
    bool valued = word < len;
    if (!valued) word = len;
    enum limit which = find_limit(s, word);
    const char *value = s + word + valued;
    size_t value_len = len - word - valued;
    if (which == N_LIMITS) return unknown(s, word, err);
    if (which == ADMIN) {
        c->admin = true;
        return valued ? taca_fail_param(err, "limits", "admin has no value") : TACA_OK;
    }
    if (which == MODELS) {
        if (value_len < 1 || value_len > CLIENT_MODELS_MAX)
            return taca_fail_param(err, "limits",
                                   "models must be 1..%d bytes of ids with | between",
                                   CLIENT_MODELS_MAX);
        memcpy(c->models, value, value_len);
        c->models[value_len] = 0;
        return TACA_OK;
    }
    enum taca_code rc = read_number(&v, which, value, value_len, err);
    if (rc == TACA_OK) set_number(c, which, v);
    return rc;
}

enum taca_code access_read_key(struct access_client *out, uint8_t hash[SHA256_BYTES],
                               const char *line, struct taca_err *err) {
    static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    struct access_client c = {.name = ""};
    size_t name = strspn(line, ok);
    const char *s = line + name + 1;
    if (name < 1 || name > CLIENT_NAME_MAX || line[name] != ':' || !read_hash(hash, s))
        return taca_fail_param(err, "api-key-file", "not name:sha256 or name:sha256:limits");
    memcpy(c.name, line, name);
    s += 2 * SHA256_BYTES;
    if (*s && (*s != ':' || !s[1]))
        return taca_fail_param(err, "api-key-file", "not name:sha256 or name:sha256:limits");
    while (*s) { /* at the colon, or at the comma before the next */
        size_t len = strcspn(++s, ",");
        enum taca_code rc = read_limit(&c, s, len, err);
        if (rc != TACA_OK) return rc;
        s += len;
    }
    *out = c;
    return TACA_OK;
}

/* ---- what they mean -------------------------------------------------------------------------- */

static int least(int limit, int own) { return own > 0 && own < limit ? own : limit; }

void access_narrow(const struct access_client *c, struct api_limits *l) {
    if (c->max_pixels > 0 && c->max_pixels < l->max_pixels) l->max_pixels = c->max_pixels;
    l->max_side_px = least(l->max_side_px, c->max_side);
    l->max_steps = least(l->max_steps, c->max_steps);
    l->max_n = least(l->max_n, c->max_n);
}

bool access_allows_model(const struct access_client *c, const char *id) {
    size_t len = strlen(id);
    for (const char *at = c->models; *at;) {
        size_t n = strcspn(at, "|");
        if (n == len && memcmp(at, id, len) == 0) return true;
        at += n + (at[n] == '|');
    }
    return !c->models[0];
}
