/* transformer.c - one forward pass of a transformer against its reference: module sets, and TACA
 * sets with their factors and skipped layers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/verify/case.h"

/* The blocks that `list` (of `key`) names; *skip is NULL when it names none. Free it. */
static enum taca_code skip_list(const struct verify_case *c, const json_t *json, const char *key,
                                bool **skip, struct taca_err *err) {
    enum { MAX_SKIPPED = 256 };
    int64_t layer[MAX_SKIPPED], depth = dit_get_info(c->e->dit)->depth;
    int n;
    *skip = NULL;
    enum taca_code rc = taca_cfg_ints(json, key, layer, MAX_SKIPPED, &n, err);
    if (rc || n == 0) return rc;
    bool *on = calloc((size_t)depth, sizeof *on);
    if (!on) return taca_fail(err, TACA_ENOMEM, "%s", key);
    for (int i = 0; i < n && !rc; i++) {
        if (layer[i] < 0 || layer[i] >= depth)
            rc = taca_fail(err, TACA_EFORMAT, "%s has layer %lld, wanted 0..%lld", key,
                           (long long)layer[i], (long long)depth - 1);
        else
            on[layer[i]] = true;
    }
    if (rc)
        free(on);
    else
        *skip = on;
    return rc;
}

/* ---- sets ------------------------------------------------------------------------------------ */

static enum taca_code compare_transformer(struct verify_case *c, const json_t *config,
                                          struct taca_err *err) {
    struct case_batch in = {0};
    bool *skip = NULL;
    enum taca_code rc = case_batch_load(c, &in, err);
    if (!rc && case_has(c, "out")) rc = case_batch_run(c, &in, 1, NULL, "out", err);
    if (!rc) rc = skip_list(c, config, "skip_layers_case", &skip, err);
    if (!rc && skip) rc = case_batch_run(c, &in, 1, skip, "out.skip_layers", err);
    free(skip);
    return rc;
}

enum taca_code verify_model_set(struct verify_case *c, struct taca_err *err) {
    enum set_type type;
    json_t *config = NULL;
    enum taca_code rc = set_open(c, c->name, &type, &config, err);
    if (!rc) rc = type == SET_VAE ? verify_vae(c, err) : compare_transformer(c, config, err);
    json_decref(config);
    return rc;
}

enum taca_code verify_taca_set(struct verify_case *c, struct taca_err *err) {
    const char *model = json_string_value(json_object_get(c->entry, "model"));
    const json_t *gammas = json_object_get(c->entry, "gammas"), *g;
    struct case_batch in = {0};
    enum set_type type;
    bool *skip = NULL;
    size_t i;
    if (!model || json_array_size(gammas) == 0)
        return taca_fail(err, TACA_EFORMAT, "%s.json: wanted a \"model\" and an array \"gammas\"",
                         c->name);
    enum taca_code rc = set_open(c, model, &type, NULL, err);
    if (!rc && type == SET_VAE)
        rc = taca_fail(err, TACA_EFORMAT, "%s.json: model %s is no transformer", c->name, model);
    if (!rc) rc = case_batch_load(c, &in, err);
    if (!rc) rc = skip_list(c, c->entry, "skip_layers", &skip, err);
    json_array_foreach(gammas, i, g) {
        double gamma = json_number_value(g);
        char output[64];
        if (!rc && (!json_is_number(g) || !(gamma >= 0 && gamma <= 1000)))
            rc = taca_fail(err, TACA_EFORMAT, "%s.json: gammas[%zu] is not a number in 0..1000",
                           c->name, i);
        snprintf(output, sizeof output, "out.gamma_%g", gamma);
        if (!rc && case_has(c, output))
            rc = case_batch_run(c, &in, (float)gamma, NULL, output, err);
        snprintf(output, sizeof output, "out.skip_layers.gamma_%g", gamma);
        if (!rc && skip && case_has(c, output))
            rc = case_batch_run(c, &in, (float)gamma, skip, output, err);
    }
    free(skip);
    return rc;
}
