/* openapi_models.c - see openapi.h. A schema cannot say which model a range belongs to without one
 * schema for each of them, so a range is the widest and words say the rest. */
#include "api/openapi.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

enum { MAX_SENTENCE = 8192 };

/* ---- what is told of one --------------------------------------------------------------------- */

/* offered[part][from] becomes offered["parameters"][name][to]. */
static int give(json_t *offered, const char *name, const char *to, const char *part,
                const char *from) {
    json_t *p = json_object_get(json_object_get(offered, "parameters"), name);
    return json_object_set(p, to, json_object_get(json_object_get(offered, part), from));
}

static int complete(json_t *offered) {
    return give(offered, "width", "multiple", "model", "side_multiple_px") |
           give(offered, "height", "multiple", "model", "side_multiple_px") |
           give(offered, "previews", "methods", "previews", "methods");
}

static void put_value(struct taca_buf *b, const json_t *v) {
    char *text = json_dumps(v, JSON_ENCODE_ANY);
    if (text)
        taca_buf_puts(b, text);
    else
        b->failed = true;
    free(text);
}

/* "from 64 to 256, in steps of 16, 128 by default" */
static void put_rule(struct taca_buf *b, const json_t *p) {
    static const struct {
        const char *member, *before, *behind;
    } parts[] = {{"min", "from ", ""},
                 {"max", " to ", ""},
                 {"multiple", ", in steps of ", ""},
                 {"methods", ", method ", ""},
                 {"default", ", ", " by default"}};
    const size_t begin = b->len;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const json_t *v = json_object_get(p, parts[i].member);
        if (!v || json_is_null(v)) continue;
        const char *before = parts[i].before;
        taca_buf_puts(b, b->len == begin ? before + strspn(before, ", ") : before);
        put_value(b, v);
        taca_buf_puts(b, parts[i].behind);
    }
    if (b->len == begin) taca_buf_puts(b, "takes it");
}

/* ---- how they differ ------------------------------------------------------------------------- */

static const json_t *parameter(const json_t *offered, const char *name) {
    return json_object_get(json_object_get(offered, "parameters"), name);
}

static bool differ(const json_t *models, const char *name) {
    for (size_t i = 1; i < json_array_size(models); i++) {
        const json_t *a = parameter(json_array_get(models, 0), name);
        const json_t *b = parameter(json_array_get(models, i), name);
        if ((a || b) && !(a && b && json_equal(a, b))) return true;
    }
    return false;
}

static int set_sentence(json_t *known, const json_t *models, const char *name) {
    struct taca_buf b;
    json_t *m;
    size_t i;
    taca_buf_init(&b, MAX_SENTENCE);
    taca_buf_puts(&b, "By model: ");
    json_array_foreach(models, i, m) {
        const json_t *p = parameter(m, name);
        const char *id = json_string_value(json_object_get(json_object_get(m, "model"), "id"));
        taca_buf_printf(&b, "%s`%s` ", i ? "; " : "", id ? id : "");
        if (p)
            put_rule(&b, p);
        else
            taca_buf_puts(&b, "refuses it");
    }
    int bad = b.failed || json_object_set_new(known, "by_model", json_stringn(b.data, b.len));
    taca_buf_finish(&b);
    return bad;
}

/* ---- what any of them takes ------------------------------------------------------------------ */

static int64_t common_factor(int64_t a, int64_t b) {
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static int take_further(json_t *known, const char *end, const json_t *p, int sign) {
    json_t *mine = json_object_get(known, end), *other = json_object_get(p, end);
    bool further = sign * json_number_value(other) > sign * json_number_value(mine);
    return mine && other && further ? json_object_set(known, end, other) : 0;
}

/* Adds what is not there yet. */
static int join(json_t *list, const json_t *more) {
    json_t *v, *there;
    size_t i, k;
    int bad = 0;
    json_array_foreach(more, i, v) {
        bool found = false;
        json_array_foreach(list, k, there) found = found || json_equal(v, there);
        if (!found) bad |= json_array_append(list, v);
    }
    return bad;
}

static int widen(json_t *known, const char *name, json_t *p) {
    json_t *mine = json_object_get(known, name);
    if (!mine) { /* the usual model has no default for it, because it refuses it */
        int bad = json_object_set_new(known, name, json_deep_copy(p));
        (void)json_object_del(json_object_get(known, name), "default");
        return bad;
    }
    int64_t a = json_integer_value(json_object_get(mine, "multiple"));
    int64_t b = json_integer_value(json_object_get(p, "multiple"));
    int bad = take_further(mine, "min", p, -1) | take_further(mine, "max", p, 1);
    if (a && b) bad |= json_object_set_new(mine, "multiple", json_integer(common_factor(a, b)));
    bad |= join(json_object_get(mine, "methods"), json_object_get(p, "methods"));
    return bad | join(json_object_get(mine, "values"), json_object_get(p, "values"));
}

int openapi_widen(json_t *capabilities) {
    json_t *known = json_object_get(capabilities, "parameters"), *p, *m;
    json_t *models = json_object_get(capabilities, "models");
    const char *name;
    size_t i;
    int bad = complete(capabilities);
    json_array_foreach(models, i, m) {
        bad |= complete(m);
        json_object_foreach(json_object_get(m, "parameters"), name, p) bad |= widen(known, name, p);
    }
    json_object_foreach(known, name, p) {
        if (differ(models, name)) bad |= set_sentence(p, models, name);
    }
    return bad;
}
