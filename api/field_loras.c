/* field_loras.c - "loras" and "taca.lora": which adapters an image is made with, by the ids that
 * this server gave them. A client never names a file.
 *
 *   [{"id":"style"}, {"id":"hand","scale":0.5,"window":"taca"}] */
#include <stdio.h>
#include <string.h>

#include "api/fields.h"

static const double most = 2; /* either way */

static bool has(const struct taca_model_info *m, const char *id) {
    for (int i = 0; i < m->n_loras; i++)
        if (strcmp(m->loras[i].id, id) == 0) return true;
    return false;
}

static int not_found(struct api_draft *d, const char *id, struct api_name name) {
    const struct taca_model_info *m = d->model;
    char known[256];
    size_t used = 0;
    for (int i = 0; i < m->n_loras && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s\"%s\"", i ? ", " : "",
                                 m->loras[i].id);
    return api_fail(d->err, 404, "lora_not_found", name.param, "no adapter \"%s\" here; %s%s",
                    api_quote(id).text, used ? "this server has " : "this server has none",
                    used ? known : "");
}

/* v is an id of ours; the copy lives as long as the request. */
static int want_id(struct api_draft *d, const char **out, const json_t *v, struct api_name name) {
    if (!json_is_string(v))
        return api_refuse(d->err, name, "%s must be the id of an adapter, got %s", name.param,
                          api_type_of(v));
    const char *id = json_string_value(v);
    if (!has(d->model, id)) return not_found(d, id, name);
    *out = taca_arena_strndup(&d->r.arena, id, strlen(id));
    if (*out) return 0;
    return api_fail(d->err, 503, "gpu_oom", NULL, "out of memory reading the request");
}

static int want_when(struct api_draft *d, enum taca_lora_when *out, const json_t *v,
                     struct api_name name) {
    const char *s = json_is_string(v) ? json_string_value(v) : "";
    *out = strcmp(s, "taca") == 0 ? TACA_LORA_IN_WINDOW : TACA_LORA_ALWAYS;
    if (*out == TACA_LORA_IN_WINDOW || strcmp(s, "always") == 0) return 0;
    return api_refuse(d->err, name, "%s must be \"always\" or \"taca\", got %s%s%s", name.param,
                      json_is_string(v) ? "\"" : api_type_of(v), api_quote(s).text,
                      json_is_string(v) ? "\"" : "");
}

static int read_use(struct api_draft *d, struct taca_lora_use *use, json_t *o, int i) {
    char param[96];
    const char *key;
    json_t *v;
    int rc = 0;
    const struct api_name name = {param, "loras"};
    snprintf(param, sizeof param, "loras[%d]", i);
    if (!json_is_object(o))
        return api_refuse(d->err, name, "%s must be an object {id, scale, window}, got %s", param,
                          api_type_of(o));
    json_object_foreach(o, key, v) {
        if (json_is_null(v)) continue;
        snprintf(param, sizeof param, "loras[%d].%s", i, key);
        if (strcmp(key, "id") == 0)
            rc = want_id(d, &use->id, v, name);
        else if (strcmp(key, "scale") == 0)
            rc = api_want_number(&use->scale, v, -most, most, name, d->err);
        else if (strcmp(key, "window") == 0)
            rc = want_when(d, &use->when, v, name);
        else
            rc = api_fail(d->err, 400, "unknown_parameter", param,
                          "an item of loras has no member \"%s\": it takes id, scale and window",
                          api_quote(key).text);
        if (rc) return rc;
    }
    snprintf(param, sizeof param, "loras[%d].id", i);
    return use->id ? 0 : api_refuse(d->err, name, "%s is required", param);
}

int api_set_loras(struct api_draft *d, const json_t *v, struct api_name name) {
    struct taca_gen_params *p = &d->r.params;
    if (!json_is_array(v))
        return api_refuse(d->err, name, "loras must be an array of {id, scale, window}, got %s",
                          api_type_of(v));
    if (json_array_size(v) > API_MAX_LORAS)
        return api_refuse(d->err, name, "loras must be at most %d, got %zu", API_MAX_LORAS,
                          json_array_size(v));
    for (int i = 0; i < (int)json_array_size(v); i++) {
        struct taca_lora_use use = {.scale = 1};
        int rc = read_use(d, &use, json_array_get(v, (size_t)i), i);
        if (rc) return rc;
        p->loras[p->n_loras++] = use;
    }
    return 0;
}

int api_set_taca_lora(struct api_draft *d, const json_t *v) {
    const struct api_name name = {"taca.lora", "taca"};
    if (json_is_string(v)) return want_id(d, &d->taca_lora, v, name);
    if (!json_is_boolean(v))
        return api_refuse(d->err, name,
                          "taca.lora must be the id of an adapter, true or false, got %s",
                          api_type_of(v));
    if (!json_is_true(v)) return 0;
    if (d->model->n_loras > 1)
        return api_refuse(d->err, name,
                          "taca.lora must be an id: true is for servers with one adapter, this one "
                          "has %d",
                          d->model->n_loras);
    if (d->model->n_loras < 1)
        return api_fail(d->err, 404, "lora_not_found", name.param, "this server has no adapter");
    d->taca_lora = d->model->loras[0].id;
    d->taca_lora = taca_arena_strndup(&d->r.arena, d->taca_lora, strlen(d->taca_lora));
    if (d->taca_lora) return 0;
    return api_fail(d->err, 503, "gpu_oom", NULL, "out of memory reading the request");
}

int api_finish_loras(struct api_draft *d) {
    struct taca_gen_params *p = &d->r.params;
    const struct api_name name = {"taca.lora", "taca"};
    /* without the window it would follow it acts in no step */
    if (!d->taca_lora || p->taca.rule == TACA_WINDOW_OFF) return 0;
    for (int i = 0; i < p->n_loras; i++)
        if (strcmp(p->loras[i].id, d->taca_lora) == 0)
            return api_refuse(d->err, name,
                              "adapter \"%s\" is in loras and in taca.lora: name it once",
                              d->taca_lora);
    if (p->n_loras == API_MAX_LORAS)
        return api_refuse(d->err, name, "loras and taca.lora must be at most %d together, got %d",
                          API_MAX_LORAS, p->n_loras + 1);
    p->loras[p->n_loras++] = (struct taca_lora_use){d->taca_lora, 1, TACA_LORA_IN_WINDOW};
    return 0;
}
