/* model_set.c - model sets: where they are, what they are, and one forward pass compared. Serves
 * module cases, TACA cases and, for their weights, pipelines. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/verify/case.h"

/* ---- finding --------------------------------------------------------------------------------- */

enum { MAX_PLACES = VERIFY_MAX_FOLDERS + 2 };

/* The folders with model sets, in order; the last lies beside the case's own. */
static int places(const struct verify_case *c, char out[MAX_PLACES][CASE_PATH]) {
    int n = 0;
    snprintf(out[n++], CASE_PATH, "%s", c->dir);
    for (int i = 0; i < c->opts->n_weights; i++)
        snprintf(out[n++], CASE_PATH, "%s", c->opts->weights[i]);
    snprintf(out[n++], CASE_PATH, "%.4000s/../models", c->dir);
    return n;
}

static bool join(char *out, const char *dir, const char *name, const char *suffix) {
    return (size_t)snprintf(out, CASE_PATH, "%s/%s%s", dir, name, suffix) < CASE_PATH &&
           access(out, R_OK) == 0;
}

enum taca_code set_find(const struct verify_case *c, const char *name, struct set_paths *out,
                        struct taca_err *err) {
    static const char *const layouts[] = {"diffusers", "orig", "bfl"};
    const char *wanted = c->opts->layout;
    char place[MAX_PLACES][CASE_PATH], suffix[40];
    bool has_config = false;
    int n = places(c, place);
    for (int i = 0; i < n; i++) {
        if (!join(out->config, place[i], name, ".config.json")) continue;
        has_config = true;
        for (int k = 0; k < 3; k++) {
            if (wanted && strcmp(wanted, layouts[k]) != 0) continue;
            snprintf(suffix, sizeof suffix, ".%s.safetensors", layouts[k]);
            if (join(out->weights, place[i], name, suffix)) return TACA_OK;
        }
    }
    if (has_config && wanted) /* of a folder's sets, those without it are passed over */
        return taca_fail(err, TACA_EUNSUPPORTED, "%s has no %s.%s.safetensors", name, name, wanted);
    return taca_fail(err, TACA_ENOTFOUND,
                     "no model set %s (%s.config.json%s) beside the case, in ../models or in a "
                     "--weights folder",
                     name, name,
                     has_config ? " is there, its weights .diffusers|orig|bfl.safetensors are not"
                                : " and .diffusers.safetensors");
}

void set_each(const struct verify_case *c, const char *suffix,
              void (*fn)(void *ctx, const char *name), void *ctx) {
    char place[MAX_PLACES][CASE_PATH], tail[64];
    int n = places(c, place);
    snprintf(tail, sizeof tail, "%s.config.json", suffix);
    for (int i = 0; i < n; i++) {
        struct dirent **entry;
        int entries = scandir(place[i], &entry, NULL, alphasort);
        for (int k = 0; k < entries; k++) {
            char *name = entry[k]->d_name;
            size_t len = strlen(name), cut = strlen(tail);
            if (len > cut && strcmp(name + len - cut, tail) == 0) {
                name[len - strlen(".config.json")] = 0;
                fn(ctx, name);
            }
            free(entry[k]);
        }
        if (entries >= 0) free(entry);
    }
}

/* ---- opening --------------------------------------------------------------------------------- */

enum set_type set_type_of(const json_t *config) {
    static const struct {
        const char *key; /* a field that only this type has */
        enum set_type type;
    } tell[] = {{"block_out_channels", SET_VAE}, {"latent_channels", SET_VAE},
                {"num_single_layers", SET_FLUX}, {"axes_dims_rope", SET_FLUX},
                {"guidance_embeds", SET_FLUX},   {"caption_projection_dim", SET_SD3},
                {"pos_embed_max_size", SET_SD3}, {"dual_attention_layers", SET_SD3},
                {"joint_attention_dim", SET_SD3}};
    const char *class_name = json_string_value(json_object_get(config, "_class_name"));
    if (class_name && strcmp(class_name, "AutoencoderKL") == 0) return SET_VAE;
    if (class_name && strcmp(class_name, "FluxTransformer2DModel") == 0) return SET_FLUX;
    if (class_name && strcmp(class_name, "SD3Transformer2DModel") == 0) return SET_SD3;
    for (size_t i = 0; i < sizeof tell / sizeof *tell; i++)
        if (json_object_get(config, tell[i].key)) return tell[i].type;
    return SET_UNKNOWN;
}

static enum taca_code open_typed(struct verify_case *c, enum set_type type, const json_t *config,
                                 struct taca_ckpt *ckpt, struct taca_err *err) {
    switch (type) {
    case SET_SD3:
    case SET_FLUX: return dit_open(&c->e->dit, c->e->b, config, ckpt, err);
    case SET_VAE: return vae_open(&c->e->vae, c->e->b, config, ckpt, err);
    case SET_UNKNOWN: break;
    }
    return taca_fail(err, TACA_EUNSUPPORTED,
                     "the config is of no known model (SD3 or FLUX transformer, AutoencoderKL)");
}

enum taca_code set_open(struct verify_case *c, const char *name, enum set_type *type,
                        json_t **config, struct taca_err *err) {
    struct set_paths *paths = malloc(sizeof *paths);
    struct taca_ckpt *ckpt = NULL;
    json_t *json = NULL;
    if (!paths) return taca_fail(err, TACA_ENOMEM, "model set %s", name);
    enum taca_code rc = set_find(c, name, paths, err);
    if (!rc) rc = taca_json_load(&json, paths->config, err);
    if (!rc) {
        *type = set_type_of(json);
        bool open = *type == SET_VAE ? c->e->vae != NULL : c->e->dit != NULL;
        if (open) rc = taca_fail(err, TACA_EFORMAT, "%s: wanted a model of another type", name);
    }
    /* What a case cannot run needs no weights read. */
    if (!rc && *type != SET_UNKNOWN) rc = taca_ckpt_open(&ckpt, paths->weights, err);
    if (!rc) rc = open_typed(c, *type, json, ckpt, err);
    taca_ckpt_close(ckpt);
    free(paths);
    if (!rc && config)
        *config = json;
    else
        json_decref(json);
    return rc;
}
