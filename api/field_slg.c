/* field_slg.c - the "skip_layer_guidance" field: an object.
 *
 *   {"layers":[7,8,9], "scale":2.8, "start":0.01, "stop":0.2}    all but layers may be absent */
#include <stdio.h>
#include <string.h>

#include "api/fields.h"

static struct api_name member(const char *param) {
    return (struct api_name){.param = param, .field = "skip_layer_guidance"};
}

static int read_layers(struct taca_slg *g, const struct taca_model_info *m, const json_t *v,
                       struct api_error *err) {
    const struct api_name name = member("skip_layer_guidance.layers");
    size_t i;
    json_t *item;
    if (!json_is_array(v) || json_array_size(v) == 0)
        return api_refuse(err, name, "%s must be an array of block numbers, got %s", name.param,
                          json_is_array(v) ? "none" : api_type_of(v));
    json_array_foreach((json_t *)(uintptr_t)v, i, item) {
        int64_t k;
        const int last = m->joint_blocks < 64 ? m->joint_blocks - 1 : 63;
        const int rc = api_want_int(&k, item, 0, last, name, err);
        if (rc) return rc;
        g->layers |= UINT64_C(1) << k;
    }
    return 0;
}

int api_set_slg(struct api_draft *d, const json_t *v, struct api_name name) {
    struct taca_slg g = taca_slg_default();
    const char *key;
    json_t *item;
    if (!json_is_object(v))
        return api_refuse(d->err, name, "%s must be an object, got %s", name.param, api_type_of(v));
    json_object_foreach((json_t *)(uintptr_t)v, key, item) {
        char param[96];
        int rc;
        snprintf(param, sizeof param, "skip_layer_guidance.%s", api_quote(key).text);
        if (strcmp(key, "layers") == 0)
            rc = read_layers(&g, d->model, item, d->err);
        else if (strcmp(key, "scale") == 0)
            rc = api_want_number(&g.scale, item, 0, 30, member(param), d->err);
        else if (strcmp(key, "start") == 0)
            rc = api_want_number(&g.start, item, 0, 1, member(param), d->err);
        else if (strcmp(key, "stop") == 0)
            rc = api_want_number(&g.stop, item, 0, 1, member(param), d->err);
        else
            rc = api_fail(d->err, 400, "unknown_parameter", param,
                          "skip_layer_guidance has no member \"%s\": it takes layers, scale, start "
                          "and stop",
                          api_quote(key).text);
        if (rc) return rc;
    }
    if (!g.layers)
        return api_refuse(d->err, member("skip_layer_guidance.layers"),
                          "skip_layer_guidance needs layers, such as [7,8,9]");
    d->r.params.slg = g;
    return 0;
}
