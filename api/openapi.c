/* openapi.c - the document of /openapi.json; see reply.h. People wrote what fields are for, the
 * parser's table says what they may be: whatever /v1/capabilities tells of a field becomes JSON
 * Schema here, and fields that it does not name are taken out. */
#include <stdlib.h>
#include <string.h>

#include "api/openapi.h"
#include "api/reply.h"
#include "base/json.h"

enum { MAX_CAPABILITIES = 256 << 10 };

/* Copies p[from] to schema[to] when it is there. */
static int copy(json_t *schema, const char *to, const json_t *p, const char *from) {
    json_t *v = json_object_get(p, from);
    return v && !json_is_null(v) ? json_object_set(schema, to, v) : 0;
}

/* null counts as absent, so it goes with every type but that of a field which must be there. */
static int set_type(json_t *schema, const char *type, bool required) {
    static const char *const plain[] = {"boolean", "integer", "number", "string"};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (strcmp(type, plain[i]) != 0) continue;
        return json_object_set_new(schema, "type",
                                   required ? json_string(type) : json_pack("[ss]", type, "null"));
    }
    return 0; /* a type in words: the schema is written by hand */
}

static int set_values(json_t *schema, json_t *values) {
    if (!values) return 0;
    json_t *list = json_copy(values);
    int bad = json_array_append_new(list, json_null());
    return json_object_set_new(schema, "enum", list) || bad;
}

/* How the models differ in it, behind what it is for. */
static int add_sentence(json_t *schema, const json_t *p) {
    const char *what = json_string_value(json_object_get(schema, "description"));
    const char *how = json_string_value(json_object_get(p, "by_model"));
    if (!how) return 0;
    const bool ends = what && *what && strchr(".!?", what[strlen(what) - 1]);
    json_t *both = json_sprintf("%s%s%s", what ? what : "", !what ? "" : ends ? " " : ". ", how);
    return json_object_set_new(schema, "description", both);
}

static int set_schema(json_t *schema, const json_t *p) {
    json_t *least = json_object_get(p, "min_bytes");
    bool required = json_number_value(least) > 0;
    json_t *choices = json_object_get(schema, "anyOf"); /* a range is that of the first */
    json_t *ranged = choices ? json_array_get(choices, 0) : schema;
    int bad = set_type(schema, json_string_value(json_object_get(p, "type")), required);
    bad |= copy(ranged, "minimum", p, "min") | copy(ranged, "maximum", p, "max");
    if (required) bad |= copy(schema, "minLength", p, "min_bytes");
    bad |= copy(ranged, "multipleOf", p, "multiple") | add_sentence(schema, p);
    bad |= copy(schema, "maxLength", p, "max_bytes"); /* characters are at most as many as bytes */
    bad |= set_values(schema, json_object_get(p, "values"));
    return bad | copy(schema, "default", p, "default");
}

static int set_alias(json_t *fields, const char *name, const json_t *schema, const json_t *p) {
    const char *alias = json_string_value(json_object_get(p, "alias"));
    if (!alias) return 0;
    json_t *twin = json_deep_copy(schema);
    json_object_del(twin, "default");
    int bad = json_object_set_new(twin, "description", json_sprintf("Another name of %s", name));
    return json_object_set_new(fields, alias, twin) || bad;
}

static int set_fields(json_t *fields, json_t *known) {
    const char *name;
    json_t *p;
    void *next;
    int bad = 0;
    json_object_foreach_safe(fields, next, name, p) {
        if (!json_object_get(known, name)) json_object_del(fields, name);
    }
    json_object_foreach(known, name, p) {
        json_t *schema = json_object_get(fields, name);
        if (!schema) {
            schema = json_object();
            bad |= json_object_set_new(fields, name, schema);
        }
        if (!schema) return -1;
        bad |= set_schema(schema, p);
        bad |= set_alias(fields, name, schema, p);
    }
    return bad;
}

static json_t *member(const json_t *o, const char *const *path) {
    json_t *v = (json_t *)(uintptr_t)o; /* getters take it with const and return it without */
    for (; *path; path++) v = json_object_get(v, *path);
    return v;
}

/* The one choice that is a member of an object. */
static int set_preview_methods(json_t *fields, const json_t *known) {
    static const char *const methods[] = {"previews", "methods", NULL};
    static const char *const method[] = {"properties", "method", NULL};
    json_t *forms = json_object_get(json_object_get(fields, "previews"), "anyOf");
    return set_values(member(json_array_get(forms, 1), method), member(known, methods));
}

/* Routes that this server does not have. */
static void drop_paths(json_t *doc, const char *prefix) {
    json_t *paths = json_object_get(doc, "paths"), *item;
    const char *path;
    void *next;
    json_object_foreach_safe(paths, next, path, item) {
        if (strncmp(path, prefix, strlen(prefix)) == 0) json_object_del(paths, path);
    }
}

static int complete(json_t *doc, json_t *capabilities) {
    static const char *const fields[] = {"components", "schemas", "GenerateRequest", "properties",
                                         NULL};
    json_t *info = json_object_get(doc, "info");
    int bad = copy(info, "version", capabilities, "version") | openapi_widen(capabilities);
    json_t *known = json_object_get(capabilities, "parameters");
    bad |= set_preview_methods(member(doc, fields), known);
    return bad | set_fields(member(doc, fields), known);
}

void api_openapi_json(struct taca_buf *out, const void *base, size_t len,
                      const struct api_served *served, const struct api_limits *l, bool a1111) {
    struct taca_buf text;
    taca_buf_init(&text, MAX_CAPABILITIES);
    api_capabilities_json(&text, l, served->usual, served->models, served->n);
    json_error_t why;
    bool no_memory;
    json_t *doc = taca_json_parse(base, len, &why, &no_memory);
    json_t *known = text.failed ? NULL : taca_json_parse(text.data, text.len, &why, &no_memory);
    char *made = NULL;
    if (doc && !a1111) drop_paths(doc, "/sdapi/");
    if (doc && known && complete(doc, known) == 0) made = json_dumps(doc, JSON_COMPACT);
    if (made)
        taca_buf_puts(out, made);
    else
        out->failed = true;
    free(made);
    json_decref(doc);
    json_decref(known);
    taca_buf_finish(&text);
}
