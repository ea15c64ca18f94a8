/* special.c - fields that are more than one value: model, seed, size, previews; see fields.h. */
#include <stdio.h>
#include <string.h>

#include "api/fields.h"

enum { DIGITS = 5 };

int api_set_model(struct api_draft *d, const json_t *v, struct api_name name) {
    if (!json_is_string(v))
        return api_refuse(d->err, name, "model must be a string, got %s", api_type_of(v));
    const struct api_offer one = {.n_models = 1, .models = {{d->model->id, d->model, false}}};
    if (strcmp(json_string_value(v), d->model->id) == 0) return 0; /* chosen before all fields */
    return api_no_such_model(d->err, json_string_value(v), name.param, &one);
}

int api_no_such_model(struct api_error *err, const char *id, const char *param,
                      const struct api_offer *offer) {
    char names[256] = "";
    size_t at = 0;
    for (int k = 0; k < offer->n_models && at < sizeof names; k++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s\"%s\"", k ? ", " : "",
                               offer->models[k].id);
    return api_fail(err, 404, "model_not_found", param, "no model \"%s\" here; this server has %s",
                    api_quote(id ? id : "").text, names);
}

int api_set_seed(struct api_draft *d, const json_t *v, struct api_name name) {
    return api_want_int(&d->seed, v, -1, API_MAX_SEED, name, d->err);
}

int api_set_strength(struct api_draft *d, const json_t *v, struct api_name name) {
    d->strength_param = name.param;
    return api_want_number(&d->r.params.strength, v, 0, 1, name, d->err);
}

/* 1..DIGITS digits without a leading zero; returns what follows, NULL when there are none. */
static const char *read_side(const char *s, int *px) {
    int n = 0;
    for (*px = 0; s[n] >= '0' && s[n] <= '9'; n++) {
        if (n == DIGITS) return NULL;
        *px = *px * 10 + (s[n] - '0');
    }
    return n > 0 && s[0] != '0' ? s + n : NULL;
}

int api_set_size(struct api_draft *d, const json_t *v, struct api_name name) {
    if (!json_is_string(v))
        return api_refuse(d->err, name, "size must be a string such as \"512x768\", got %s",
                          api_type_of(v));
    int w, h;
    const char *s = read_side(json_string_value(v), &w);
    if (!s || *s != 'x' || !(s = read_side(s + 1, &h)) || *s)
        return api_refuse(d->err, name,
                          "size must be width x height such as \"512x768\", got \"%s\"",
                          api_quote(json_string_value(v)).text);
    d->r.params.width_px = w; /* ranges are checked once both ways of giving sides are read */
    d->r.params.height_px = h;
    d->size_param = name.param;
    return 0;
}

static int preview_method(struct api_draft *d, const json_t *v, struct api_name name) {
    const char *text = json_string_value(v);
    for (int i = 0; text && taca_preview_names[i]; i++) {
        if (strcmp(text, taca_preview_names[i]) != 0) continue;
        if (i == TACA_PREVIEW_TAESD && !d->model->has_taesd)
            return api_refuse(d->err, name,
                              "%s \"taesd\" needs a decoder that this service has not loaded: "
                              "use \"latent_rgb\"",
                              name.param);
        d->r.params.preview = (enum taca_preview)i;
        return 0;
    }
    return api_refuse(d->err, name, "%s must be \"latent_rgb\"%s%s%s%s", name.param,
                      d->model->has_taesd ? " or \"taesd\"" : "", text ? ", got \"" : "",
                      text ? api_quote(text).text : "", text ? "\"" : ", a string");
}

/* {"every","max_side","method"}, all optional */
static int previews_object(struct api_draft *d, json_t *o, struct api_name name) {
    struct api_name every = {"previews.every", name.field},
                    side = {"previews.max_side", name.field},
                    method = {"previews.method", name.field};
    const char *key;
    char member[64];
    json_t *v;
    int64_t i;
    int rc = 0;
    d->r.previews = API_MAX_PREVIEWS;
    json_object_foreach(o, key, v) {
        if (strcmp(key, "every") == 0) {
            if (json_is_null(v)) continue;
            rc = api_want_int(&i, v, 1, TACA_MAX_STEPS, every, d->err);
            if (!rc) d->r.preview_every = (int)i;
        } else if (strcmp(key, "max_side") == 0) {
            if (json_is_null(v)) continue;
            rc = api_want_int(&i, v, 16, API_MAX_PREVIEW_PX, side, d->err);
            if (!rc) d->r.preview_max_side_px = (int)i;
        } else if (strcmp(key, "method") == 0) {
            if (json_is_null(v)) continue;
            rc = preview_method(d, v, method);
        } else {
            snprintf(member, sizeof member, "previews.%s", key);
            rc = api_fail(d->err, 400, "unknown_parameter", member,
                          "previews has no member \"%s\": it takes every, max_side and method",
                          api_quote(key).text);
        }
        if (rc) return rc;
    }
    return 0;
}

int api_set_previews(struct api_draft *d, const json_t *v, struct api_name name) {
    int64_t count;
    if (json_is_object(v)) return previews_object(d, (json_t *)(uintptr_t)v, name);
    if (!json_is_number(v))
        return api_refuse(d->err, name, "%s must be an integer in 0..%d or an object, got %s",
                          name.param, API_MAX_PREVIEWS, api_type_of(v));
    int rc = api_want_int(&count, v, 0, API_MAX_PREVIEWS, name, d->err);
    if (!rc) d->r.previews = (int)count;
    return rc;
}
