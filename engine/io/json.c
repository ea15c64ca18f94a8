/* json.c - JSON from untrusted files, and fields of configs with their ranges. See checkpoint.h. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/json.h"
#include "engine/io/checkpoint.h"
#include "engine/io/io.h"

enum { MAX_FILE = 16 << 20, MAX_DEPTH = 64, MAX_VALUES = 4 << 20, INT_DIGITS = 18 };

enum taca_code io_json_parse(json_t **out, const char *text, size_t len, int max_depth,
                             size_t max_values, const char *what, struct taca_err *err) {
    const enum taca_json_fit fit = taca_json_fit(text, len, max_depth, max_values);
    if (fit == TACA_JSON_TOO_DEEP)
        return taca_fail(err, TACA_EFORMAT, "%s: JSON nested deeper than %d", what, max_depth);
    if (fit == TACA_JSON_TOO_MANY)
        return taca_fail(err, TACA_EFORMAT, "%s: JSON of more than %zu values", what, max_values);
    bool no_memory;
    json_error_t e = {.text = ""};
    json_t *root = taca_json_parse(text, len, &e, &no_memory);
    if (no_memory) return taca_fail(err, TACA_ENOMEM, "%s: out of memory reading JSON", what);
    if (!root) {
        char shown[IO_SHOWN];
        return taca_fail(err, TACA_EFORMAT, "%s: not valid JSON, line %d column %d: %s", what,
                         e.line, e.column, io_shown(shown, e.text));
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return taca_fail(err, TACA_EFORMAT, "%s: a JSON array where an object was wanted", what);
    }
    *out = root;
    return TACA_OK;
}

/* Published configs write "no limit" as an integer of 31 digits, which the parser refuses. The text
 * with "e0" behind every integer of more digits than surely fit, which makes a real number of it;
 * untouched when there is none. */
static void widen_integers(struct taca_buf *out, const char *text, size_t len) {
    size_t copied = 0, n;
    bool in_string = false;
    for (size_t i = 0; i < len; i += n) {
        n = 1;
        if (in_string) {
            if (text[i] == '\\') n = 2;
            in_string = text[i] != '"';
            continue;
        }
        in_string = text[i] == '"';
        if (!isdigit((unsigned char)text[i])) continue;
        while (i + n < len && isdigit((unsigned char)text[i + n])) n++;
        const bool ends = i + n == len || !strchr(".eE", text[i + n]);
        const bool starts = i == 0 || !strchr(".eE+", text[i - 1]); /* no fraction, no exponent */
        if (n <= INT_DIGITS || !ends || !starts) continue;
        taca_buf_put(out, text + copied, i + n - copied);
        taca_buf_puts(out, "e0");
        copied = i + n;
    }
    if (copied) taca_buf_put(out, text + copied, len - copied);
}

static enum taca_code parse_file(json_t **out, const struct io_map *m, const char *path,
                                 struct taca_err *err) {
    struct taca_buf wide;
    taca_buf_init(&wide, 2 * m->size);
    widen_integers(&wide, (const char *)m->data, m->size);
    enum taca_code rc = TACA_ENOMEM;
    if (wide.failed)
        taca_fail(err, rc, "%s: out of memory reading JSON", path);
    else if (wide.len)
        rc = io_json_parse(out, wide.data, wide.len, MAX_DEPTH, MAX_VALUES, path, err);
    else
        rc = io_json_parse(out, (const char *)m->data, m->size, MAX_DEPTH, MAX_VALUES, path, err);
    taca_buf_finish(&wide);
    return rc;
}

enum taca_code taca_json_load(json_t **out, const char *path, struct taca_err *err) {
    struct io_map m = {0};
    enum taca_code rc = io_map_open(&m, path, err);
    if (rc != TACA_OK) return rc;
    const char *like = m.size && m.data[0] == '{' ? NULL : io_looks_like(m.data, m.size);
    if (m.size > MAX_FILE)
        rc = taca_fail(err, TACA_EFORMAT, "%s: %zu bytes of JSON, at most %d are read", path,
                       m.size, MAX_FILE);
    else if (like)
        rc = taca_fail(err, TACA_EFORMAT, "%s: wanted JSON, this is %s", path, like);
    else
        rc = parse_file(out, &m, path, err);
    io_map_close(&m);
    return rc;
}

/* "key: found <json>, wanted <what>" */
static enum taca_code wrong(struct taca_err *err, const char *key, const json_t *v,
                            const char *wanted) {
    char shown[IO_SHOWN];
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    enum taca_code rc = taca_fail(err, TACA_EFORMAT, "%s: found %s, wanted %s", key,
                                  io_shown(shown, text ? text : "?"), wanted);
    free(text);
    return rc;
}

/* NULL when the field is absent or null */
static const json_t *field(const json_t *cfg, const char *key) {
    const json_t *v = json_object_get(cfg, key);
    return json_is_null(v) ? NULL : v;
}

enum taca_code taca_cfg_int(const json_t *cfg, const char *key, int64_t fallback, int64_t min,
                            int64_t max, int64_t *out, struct taca_err *err) {
    const json_t *v = field(cfg, key);
    int64_t x = v ? json_integer_value(v) : fallback;
    if (v && (!json_is_integer(v) || x < min || x > max)) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "an integer in %lld..%lld", (long long)min, (long long)max);
        return wrong(err, key, v, wanted);
    }
    *out = x;
    return TACA_OK;
}

enum taca_code taca_cfg_number(const json_t *cfg, const char *key, double fallback, double min,
                               double max, double *out, struct taca_err *err) {
    const json_t *v = field(cfg, key);
    double x = v ? json_number_value(v) : fallback;
    if (v && (!json_is_number(v) || !(x >= min && x <= max))) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "a number in %g..%g", min, max);
        return wrong(err, key, v, wanted);
    }
    *out = x;
    return TACA_OK;
}

enum taca_code taca_cfg_bool(const json_t *cfg, const char *key, bool fallback, bool *out,
                             struct taca_err *err) {
    const json_t *v = field(cfg, key);
    if (v && !json_is_boolean(v)) return wrong(err, key, v, "true or false");
    *out = v ? json_is_true(v) : fallback;
    return TACA_OK;
}

enum taca_code taca_cfg_string(const json_t *cfg, const char *key, const char *fallback,
                               const char **out, struct taca_err *err) {
    const json_t *v = field(cfg, key);
    if (v && !json_is_string(v)) return wrong(err, key, v, "a string");
    *out = v ? json_string_value(v) : fallback;
    return TACA_OK;
}

enum taca_code taca_cfg_ints(const json_t *cfg, const char *key, int64_t *out, int max_n, int *n,
                             struct taca_err *err) {
    const json_t *v = field(cfg, key);
    size_t count = v ? json_array_size(v) : 0;
    char wanted[80];
    snprintf(wanted, sizeof wanted, "an array of at most %d integers", max_n);
    if (v && (!json_is_array(v) || count > (size_t)max_n)) return wrong(err, key, v, wanted);
    for (size_t i = 0; i < count; i++)
        if (!json_is_integer(json_array_get(v, i))) return wrong(err, key, v, wanted);
    for (size_t i = 0; i < count; i++) out[i] = json_integer_value(json_array_get(v, i));
    *n = (int)count;
    return TACA_OK;
}
