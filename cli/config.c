/* config.c - see config.h. */
#include "cli/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

enum { MAX_FILE_BYTES = 256 * 1024, MAX_VALUES = 4096, MAX_DEPTH = 3 };

struct config {
    json_t *root;
};

/* ---- where a member stands ------------------------------------------------------------------- */

/* The parser tells no lines; it keeps the order, so the keys can be found again one by one. */
struct place {
    const char *at;
    int line, depth;
    bool key_next;
};

static void skip_string(struct place *p) {
    for (; *p->at != '"'; p->at++) p->at += *p->at == '\\';
    p->at++;
}

/* To behind the next key of the outermost object. The text is known to be JSON and to have one. */
static void next_key(struct place *p) {
    for (;;) {
        char c = *p->at++;
        if (c == '\n') p->line++;
        if (c == '{' || c == '[') p->depth++;
        if (c == '}' || c == ']') p->depth--;
        if (c == '"') skip_string(p);
        if (p->depth == 1 && (c == '{' || c == ',')) p->key_next = true;
        if (c == '"' && p->depth == 1 && p->key_next) {
            p->key_next = false;
            return;
        }
    }
}

/* ---- values ---------------------------------------------------------------------------------- */

static const char *type_name(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "true or false";
    case JSON_NULL: return "null";
    }
    return "something else";
}

static enum taca_code set_list(const struct flag *f, const char *shown, const json_t *v,
                               struct taca_err *err) {
    size_t i;
    json_t *item;
    enum taca_code rc = TACA_OK;
    json_array_foreach(v, i, item) {
        if (!json_is_string(item))
            return taca_fail_param(err, f->name, "%s must be an array of strings, item %zu is %s",
                                   shown, i + 1, type_name(item));
        if (rc == TACA_OK) rc = flags_set(f, shown, json_string_value(item), err);
    }
    return rc;
}

static enum taca_code set_value(const struct flag *f, const char *shown, const json_t *v,
                                struct taca_err *err) {
    char number[40];
    const char *wanted = "a string";
    switch (f->type) {
    case FLAG_INT:
    case FLAG_NUMBER:
        wanted = "a number";
        if (!json_is_number(v)) break;
        if (json_is_integer(v))
            snprintf(number, sizeof number, "%lld", (long long)json_integer_value(v));
        else
            snprintf(number, sizeof number, "%.17g", json_real_value(v));
        return flags_set(f, shown, number, err);
    case FLAG_SWITCH:
        wanted = "true or false";
        if (!json_is_boolean(v)) break;
        return flags_set(f, shown, json_is_true(v) ? "true" : "false", err);
    case FLAG_LIST:
        wanted = "an array of strings, or one string";
        if (json_is_string(v)) return flags_set(f, shown, json_string_value(v), err); /* of one */
        if (!json_is_array(v)) break;
        return set_list(f, shown, v, err);
    case FLAG_STRING:
    case FLAG_CHOICE:
        if (!json_is_string(v)) break;
        return flags_set(f, shown, json_string_value(v), err);
    }
    return taca_fail_param(err, f->name, "%s must be %s, got %s", shown, wanted, type_name(v));
}

/* The value of an option that something stronger has set: looked at, not taken. */
static enum taca_code try_value(const struct flag *f, const char *shown, const json_t *v,
                                struct taca_err *err) {
    union {
        const char *text;
        int whole;
        double number;
        bool on;
        struct flag_list list;
    } nowhere;
    struct flag same = *f;
    same.out = &nowhere;
    if (f->type == FLAG_LIST) nowhere.list.n = 0, nowhere.list.of_env = false;
    return set_value(&same, shown, v, err);
}

static enum taca_code set_member(struct flag_set *set, const char *path, int line, const char *key,
                                 const json_t *v, struct taca_err *err) {
    const struct flag *f = flags_find(set, key, strlen(key));
    char shown[512];
    if (!f) {
        const char *near = flags_nearest(set, key);
        return taca_fail_param(err, "", "%s line %d: unknown option \"%.60s\"%s%s%s", path, line,
                               key, near ? ", did you mean \"" : "", near ? near : "",
                               near ? "\"?" : "");
    }
    if (f->not_in_file)
        return taca_fail_param(err, f->name, "%s line %d: \"%s\" belongs on the command line", path,
                               line, key);
    snprintf(shown, sizeof shown, "%s line %d: %s", path, line, key);
    struct flag_source *source = &set->sources[f - set->flags];
    if (source->from != FLAG_DEFAULT) return try_value(f, shown, v, err);
    *source = (struct flag_source){FLAG_FILE, line};
    return set_value(f, shown, v, err);
}

/* ---- the file -------------------------------------------------------------------------------- */

static enum taca_code read_text(struct taca_buf *text, const char *path, struct taca_err *err) {
    FILE *f = fopen(path, "re");
    char *room = f ? taca_buf_reserve(text, MAX_FILE_BYTES) : NULL;
    if (room) text->len = fread(room, 1, MAX_FILE_BYTES, f);
    bool bad = !f || ferror(f);
    int cause = errno;
    if (f) fclose(f);
    if (bad) return taca_fail(err, TACA_EIO, "%s: %s", path, strerror(cause));
    if (!room) return taca_fail(err, TACA_ENOMEM, "reading %s", path);
    if (text->len == MAX_FILE_BYTES)
        return taca_fail_param(err, "config", "%s: larger than %d bytes", path, MAX_FILE_BYTES - 1);
    room[text->len] = 0;
    return TACA_OK;
}

static enum taca_code parse(json_t **root, const char *path, const char *text, size_t len,
                            struct taca_err *err) {
    json_error_t why;
    bool no_memory;
    if (taca_json_fit(text, len, MAX_DEPTH, MAX_VALUES) != TACA_JSON_FITS)
        return taca_fail_param(err, "config", "%s: too deep, or more than %d values", path,
                               MAX_VALUES);
    *root = taca_json_parse(text, len, &why, &no_memory);
    if (no_memory) return taca_fail(err, TACA_ENOMEM, "reading %s", path);
    if (!*root) return taca_fail_param(err, "config", "%s line %d: %s", path, why.line, why.text);
    if (json_is_object(*root)) return TACA_OK;
    return taca_fail_param(err, "config", "%s: not a JSON object", path);
}

enum taca_code config_parse(struct config **out, struct flag_set *set, const char *path,
                            const char *text, size_t len, struct taca_err *err) {
    struct config *c = calloc(1, sizeof *c);
    if (!c) return taca_fail(err, TACA_ENOMEM, "reading %s", path);
    enum taca_code rc = parse(&c->root, path, text, len, err);
    struct place at = {.at = text, .line = 1};
    const char *key;
    json_t *v;
    if (rc == TACA_OK) {
        json_object_foreach(c->root, key, v) {
            next_key(&at);
            if (rc == TACA_OK) rc = set_member(set, path, at.line, key, v, err);
        }
    }
    if (rc == TACA_OK)
        *out = c;
    else
        config_close(c);
    return rc;
}

enum taca_code config_read(struct config **out, struct flag_set *set, const char *path,
                           struct taca_err *err) {
    struct taca_buf text;
    taca_buf_init(&text, MAX_FILE_BYTES + 1);
    enum taca_code rc = read_text(&text, path, err);
    if (rc == TACA_OK) rc = config_parse(out, set, path, text.data, text.len, err);
    taca_buf_finish(&text);
    return rc;
}

void config_close(struct config *c) {
    if (!c) return;
    json_decref(c->root);
    free(c);
}

/* ---- telling --------------------------------------------------------------------------------- */

void config_print(const struct flag_set *set, const char *path, FILE *to) {
    for (int i = 0; i < set->n_flags; i++) {
        const struct flag *f = &set->flags[i];
        const struct flag_source *source = &set->sources[i];
        struct taca_buf text;
        if (f->not_in_file) continue;
        taca_buf_init(&text, 1 << 20);
        if (f->secret && *(const char **)f->out)
            taca_buf_puts(&text, "\"(secret)\"");
        else
            flags_text(f, &text);
        fprintf(to, "%-20s %-24s ", f->name, text.data && !text.failed ? text.data : "?");
        taca_buf_finish(&text);
        switch (source->from) {
        case FLAG_DEFAULT: fprintf(to, "default\n"); break;
        case FLAG_FILE: fprintf(to, "%s line %d\n", path, source->line); break;
        case FLAG_ENV: fprintf(to, "environment %s\n", f->env); break;
        case FLAG_ARG: fprintf(to, "command line\n"); break;
        }
    }
}
