/* admin.c - see admin.h. */
#include "api/admin.h"

#include <string.h>

#include "api/values.h"
#include "base/json.h"

enum { MAX_DEPTH = 4, MAX_VALUES = 16 };

static int set_text(char *out, size_t size, const char *field, const json_t *v,
                    struct api_error *err) {
    const struct api_name name = {field, field};
    if (!json_is_string(v))
        return api_refuse(err, name, "%s must be a string, got %s", field, api_type_of(v));
    size_t len = json_string_length(v);
    if (len < 1 || len >= size || strlen(json_string_value(v)) != len)
        return api_refuse(err, name, "%s must be 1..%zu bytes without NUL, got %zu", field,
                          size - 1, len);
    memcpy(out, json_string_value(v), len + 1);
    return 0;
}

static int set_when_busy(bool *only_idle, const json_t *v, struct api_error *err) {
    const char *s = json_is_string(v) ? json_string_value(v) : "";
    *only_idle = strcmp(s, "refuse") == 0;
    if (*only_idle || strcmp(s, "drain") == 0) return 0;
    return api_refuse(err, (struct api_name){"when_busy", "when_busy"},
                      "when_busy must be \"drain\" or \"refuse\"");
}

static int read_fields(struct api_model_order *out, json_t *root, bool load,
                       struct api_error *err) {
    const char *key;
    json_t *v;
    int rc = 0;
    json_object_foreach(root, key, v) {
        if (strcmp(key, "model") == 0)
            rc = set_text(out->model, sizeof out->model, "model", v, err);
        else if (load && strcmp(key, "path") == 0)
            rc = set_text(out->path, sizeof out->path, "path", v, err);
        else if (!load && strcmp(key, "when_busy") == 0)
            rc = set_when_busy(&out->only_idle, v, err);
        else
            rc = api_fail(err, 400, "unknown_parameter", api_quote(key).text,
                          "unknown field \"%s\"; there are model and %s", api_quote(key).text,
                          load ? "path" : "when_busy");
        if (rc) return rc;
    }
    if (out->model[0]) return 0;
    return api_refuse(err, (struct api_name){"model", "model"}, "model is missing");
}

static int read_order(struct api_model_order *out, const char *body, size_t len, bool load,
                      struct api_error *err) {
    json_error_t why;
    bool no_memory = false;
    *out = (struct api_model_order){.only_idle = false};
    json_t *root = NULL;
    if (taca_json_fit(body, len, MAX_DEPTH, MAX_VALUES) == TACA_JSON_FITS)
        root = taca_json_parse(body, len, &why, &no_memory);
    if (no_memory) return api_fail(err, 503, "out_of_memory", NULL, "out of memory");
    int rc = json_is_object(root)
                 ? read_fields(out, root, load, err)
                 : api_fail(err, 400, "invalid_json", NULL, "the body must be a small JSON object");
    json_decref(root);
    return rc;
}

int api_read_load(struct api_model_order *out, const char *body, size_t len,
                  struct api_error *err) {
    return read_order(out, body, len, true, err);
}

int api_read_unload(struct api_model_order *out, const char *body, size_t len,
                    struct api_error *err) {
    return read_order(out, body, len, false, err);
}
