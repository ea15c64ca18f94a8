/* json.c - see json.h. */
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <threads.h>

static _Thread_local bool allocation_failed;

static void *noted_malloc(size_t bytes) {
    void *p = malloc(bytes);
    if (!p) allocation_failed = true;
    return p;
}

/* jansson takes its allocator for the whole process; ours is as good for everyone else. */
static void note_failures(void) { json_set_alloc_funcs(noted_malloc, free); }

enum taca_json_fit taca_json_fit(const char *text, size_t len, int max_depth, size_t max_values) {
    int depth = 0;
    size_t values = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        if (c == '"') in_string = true;
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--;
        values += c == '{' || c == '[' || c == ',' || c == ':';
        if (depth > max_depth) return TACA_JSON_TOO_DEEP;
        if (values > max_values) return TACA_JSON_TOO_MANY;
    }
    return TACA_JSON_FITS;
}

json_t *taca_json_parse(const char *text, size_t len, json_error_t *why, bool *no_memory) {
    static once_flag once = ONCE_FLAG_INIT;
    call_once(&once, note_failures);
    allocation_failed = false;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, why);
    *no_memory = allocation_failed;
    /* jansson names a flag of its own */
    if (!root && strstr(why->text, "JSON_ALLOW_NUL"))
        snprintf(why->text, sizeof why->text, "\\u0000 is not allowed in a string");
    if (!allocation_failed) return root;
    json_decref(root);
    return NULL;
}
