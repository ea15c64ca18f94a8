/* model_parts.c - a component from a file or a folder named by the user: its kind is checked by its
 * tensors, its config put together from shapes and from what is given. See model_parts.h. */
#include "engine/io/model_parts.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io/data_dir.h"
#include "engine/io/io.h"

/* ---- configs given beside -------------------------------------------------------------------- */

/* FILE.config.json, or the same without FILE's own ending. */
enum taca_code model_beside(json_t **out, const char *file, struct taca_err *err) {
    char path[PATH_MAX];
    const char *dot = strrchr(file, '.');
    const int lens[2] = {(int)strlen(file),
                         dot && !strchr(dot, '/') ? (int)(dot - file) : (int)strlen(file)};
    *out = NULL;
    for (int i = 0; i < 2; i++) {
        int n = snprintf(path, sizeof path, "%.*s.config.json", lens[i], file);
        if (n > 0 && (size_t)n < sizeof path && io_is_file(path))
            return taca_json_load(out, path, err);
    }
    return TACA_OK;
}

/* A config itself, not an object of configs. */
static bool is_one_config(const json_t *j) {
    return json_object_get(j, "_class_name") || json_object_get(j, "architectures") ||
           json_object_get(j, "model_type");
}

/* *out = what the file's companion says of `name`, borrowed; NULL when nothing. */
static enum taca_code section(const struct model_opening *o, const char *name, json_t **out) {
    json_t *v = o->beside && !is_one_config(o->beside) ? json_object_get(o->beside, name) : NULL;
    *out = v;
    if (!v || json_is_object(v)) return TACA_OK;
    return taca_fail(o->err, TACA_EFORMAT, "the config beside %s: %s is no object", o->d->path,
                     name);
}

/* A misspelt name would be a config that is not used. */
static enum taca_code check_sections(const struct model_opening *o) {
    const char *key;
    json_t *v;
    char shown[IO_SHOWN];
    if (!o->beside || is_one_config(o->beside)) return TACA_OK;
    json_object_foreach(o->beside, key, v) {
        bool known = strcmp(key, "scheduler") == 0 || strcmp(key, "taca") == 0;
        for (int i = TACA_TRANSFORMER; i <= TACA_TEXT_ENCODER_3; i++)
            known = known || strcmp(key, taca_component_name((enum taca_component)i)) == 0;
        if (!known)
            return taca_fail(o->err, TACA_EFORMAT,
                             "the config beside %s: %s is no component; wanted \"transformer\", "
                             "\"vae\", \"text_encoder\", ..., \"scheduler\" or \"taca\"",
                             o->d->path, io_shown(shown, key));
    }
    return TACA_OK;
}

/* Lays `from` over *into (NULL = empty); takes from's reference. */
static enum taca_code lay_over(const struct model_opening *o, json_t **into, json_t *from) {
    if (!from) return TACA_OK;
    if (!*into) {
        *into = from;
        return TACA_OK;
    }
    bool ok = json_object_update(*into, from) == 0;
    json_decref(from);
    return ok ? TACA_OK : model_no_memory(o);
}

static enum taca_code lay_folder(const struct model_opening *o, json_t **into, const char *dir,
                                 const char *sub) {
    json_t *j = NULL;
    char *folder = sub ? io_join(dir, sub) : strdup(dir);
    if (!folder) return model_no_memory(o);
    enum taca_code rc = model_json(&j, folder, "config.json", false, o->err);
    free(folder);
    return rc ? rc : lay_over(o, into, j);
}

/* What is said about a component, the nearest word last: the model's folder, the folder of
 * configs, the file's companion, the component's own folder. */
static enum taca_code given(const struct model_opening *o, json_t **out, enum taca_component which,
                            const char *path) {
    const char *name = taca_component_name(which), *model = o->paths->model;
    json_t *j = NULL;
    enum taca_code rc = TACA_OK;
    *out = NULL;
    if (model && io_is_dir(model)) rc = lay_folder(o, out, model, name);
    if (!rc && o->paths->config) rc = lay_folder(o, out, o->paths->config, name);
    if (!rc) rc = section(o, name, &j);
    if (!rc && j) rc = lay_over(o, out, json_deep_copy(j));
    j = NULL;
    if (!rc && io_is_dir(path)) {
        rc = lay_folder(o, out, path, NULL);
    } else if (!rc) {
        rc = model_beside(&j, path, o->err);
        if (!rc && j && is_one_config(j))
            rc = lay_over(o, out, j);
        else
            json_decref(j);
    }
    return rc;
}

/* ---- components ------------------------------------------------------------------------------ */

/* The one number without which a config is worthless and which may not show. */
static enum taca_code check_heads(const struct model_opening *o, enum taca_kind kind,
                                  const char *path, const json_t *config) {
    const bool needed = kind == TACA_DIT || kind == TACA_CLIP_L || kind == TACA_CLIP_G;
    if (!needed || o->paths->partial || json_object_get(config, "num_attention_heads"))
        return TACA_OK;
    return taca_fail(o->err, TACA_EFORMAT,
                     "%s: the number of attention heads does not show in the shapes; give the "
                     "config in %s.config.json or in a directory with --model-config",
                     path, path);
}

/* Kontext has the very shapes of dev, so only its name tells; it would be run without the picture
 * that it is made for. */
static enum taca_code check_variant(const struct model_opening *o, enum taca_kind kind,
                                    const struct taca_ckpt *c, const char *path) {
    if (kind != TACA_DIT || o->pipe->family != IO_FLUX || o->paths->partial ||
        !taca_ckpt_is_called(c, "kontext"))
        return TACA_OK;
    return taca_fail(o->err, TACA_EUNSUPPORTED,
                     "%s: by its name this is FLUX.1 Kontext, which is given a picture to change; "
                     "wanted one from text alone (dev, schnell, Krea)",
                     path);
}

enum taca_code model_take(const struct model_opening *o, enum taca_component which,
                          const char *path) {
    struct taca_model_dir *d = o->d;
    const struct model_slot *slot = &o->pipe->slot[which];
    struct taca_ckpt *ckpt = NULL;
    json_t *said = NULL, *config = NULL;
    enum taca_code rc = taca_ckpt_open_kind(&ckpt, path, slot->kind, o->err);
    if (!rc) rc = check_variant(o, slot->kind, ckpt, path);
    if (!rc) rc = given(o, &said, which, path);
    if (!rc) rc = io_derive(&config, ckpt, slot->kind, o->pipe->family, said, o->err);
    if (!rc) rc = check_heads(o, slot->kind, path, config);
    char *copy = rc ? NULL : strdup(path);
    if (!rc && !copy) rc = model_no_memory(o);
    json_decref(said);
    taca_ckpt_close(ckpt);
    if (rc) {
        json_decref(config);
        return rc;
    }
    d->dir[which] = copy;
    d->config[which] = config;
    d->has[which] = true;
    d->left_out[which] = false;
    return TACA_OK;
}

static enum taca_code tokenizer_at(const struct model_opening *o, enum taca_component which,
                                   char *dir) {
    if (!dir) return model_no_memory(o);
    o->d->dir[which] = dir;
    o->d->has[which] = true;
    o->d->left_out[which] = false;
    return model_json(&o->d->config[which], dir, "tokenizer_config.json", false, o->err);
}

enum taca_code model_take_tokenizer(const struct model_opening *o, enum taca_component which) {
    const struct model_slot *slot = &o->pipe->slot[which];
    const char *name = taca_component_name(which);
    char path[PATH_MAX];
    if (o->paths->config && model_holds(o->paths->config, name))
        return tokenizer_at(o, which, io_join(o->paths->config, name));
    if (taca_data_find(path, sizeof path, slot->data)) return tokenizer_at(o, which, strdup(path));
    if (o->paths->partial) return TACA_OK;
    return taca_fail(o->err, TACA_ENOTFOUND,
                     "%s: no %s, and the program's own models/%s is not there; give a directory "
                     "that has one with --model-config%s",
                     o->d->path, name, slot->data,
                     slot->optional ? ", or leave the encoder out with --t5 none" : "");
}

enum taca_code model_check_parts(const struct model_opening *o) {
    for (int k = 0; k < TACA_KINDS; k++) {
        bool wanted = o->paths->part[k] == NULL;
        for (int i = 0; i < TACA_COMPONENTS; i++)
            wanted = wanted || (o->pipe->slot[i].kind == (enum taca_kind)k);
        if (!wanted)
            return taca_fail_param(o->err, taca_kind_flag((enum taca_kind)k),
                                   "%s: a %s has no place for what --%s gives", o->d->path,
                                   o->pipe->class_name, taca_kind_flag((enum taca_kind)k));
    }
    return TACA_OK;
}

/* ---- a model of files ------------------------------------------------------------------------ */

/* Where the weights of a kind are: given apart, or in the model's file; NULL = nowhere. */
static const char *find_part(const struct model_opening *o, const struct taca_ckpt *whole,
                             enum taca_kind kind) {
    const char *part = o->paths->part[kind];
    if (part) return strcmp(part, "none") == 0 ? NULL : part;
    return whole && taca_ckpt_holds(whole, kind) ? o->paths->model : NULL;
}

static enum taca_code open_part(const struct model_opening *o, const struct taca_ckpt *whole,
                                enum taca_component which) {
    const struct model_slot *slot = &o->pipe->slot[which];
    const char *path = find_part(o, whole, slot->kind);
    if (path) return model_take(o, which, path);
    o->d->left_out[which] = true;
    if (slot->optional || o->paths->partial) return TACA_OK;
    return taca_fail(o->err, TACA_ENOTFOUND, "%s: no %s in it; give one with --%s", o->d->path,
                     taca_component_name(which), taca_kind_flag(slot->kind));
}

static enum taca_code open_extras(struct model_opening *o, const struct taca_ckpt *dit) {
    struct taca_model_dir *d = o->d;
    const char *config = o->paths->config;
    json_t *j;
    enum taca_code rc = section(o, "scheduler", &j);
    if (!rc) d->scheduler = json_incref(j);
    if (!rc) rc = section(o, "taca", &j);
    if (!rc) d->taca = json_incref(j);
    if (!rc && config && !d->taca) rc = model_json(&d->taca, config, "taca.json", false, o->err);
    if (!rc && config && !d->scheduler && model_holds(config, "scheduler")) {
        char *dir = io_join(config, "scheduler");
        if (!dir) return model_no_memory(o);
        rc = model_json(&d->scheduler, dir, "scheduler_config.json", false, o->err);
        free(dir);
    }
    if (!rc && !d->scheduler && dit)
        rc = io_derive_scheduler(&d->scheduler, dit, o->pipe->family, o->err);
    return rc;
}

static enum taca_code open_parts(struct model_opening *o, const struct taca_ckpt *whole,
                                 const struct taca_ckpt *dit) {
    static const struct {
        enum taca_component encoder, tokenizer;
    } pairs[] = {{TACA_TEXT_ENCODER, TACA_TOKENIZER},
                 {TACA_TEXT_ENCODER_2, TACA_TOKENIZER_2},
                 {TACA_TEXT_ENCODER_3, TACA_TOKENIZER_3}};
    enum taca_code rc = TACA_OK;
    for (int i = TACA_TRANSFORMER; i <= TACA_TEXT_ENCODER_3 && !rc; i++)
        if (o->pipe->slot[i].class_name[0]) rc = open_part(o, whole, (enum taca_component)i);
    for (int i = 0; i < 3 && !rc; i++)
        if (o->d->has[pairs[i].encoder]) rc = model_take_tokenizer(o, pairs[i].tokenizer);
    return rc ? rc : open_extras(o, dit);
}

enum taca_code model_open_files(struct model_opening *o) {
    const struct taca_model_paths *p = o->paths;
    struct taca_ckpt *whole = NULL, *dit = NULL;
    const char *path = p->part[TACA_DIT] ? p->part[TACA_DIT] : p->model;
    enum taca_code rc = TACA_OK;
    if (p->model) {
        rc = model_beside(&o->beside, p->model, o->err);
        if (!rc) rc = check_sections(o);
        if (!rc) rc = taca_ckpt_open(&whole, p->model, o->err);
    }
    const bool known = whole && taca_ckpt_looks_like(whole);
    const bool without =
        p->partial && !p->part[TACA_DIT] && known && !taca_ckpt_holds(whole, TACA_DIT);
    if (!rc && !without) rc = taca_ckpt_open_kind(&dit, path, TACA_DIT, o->err);
    if (!rc) {
        o->pipe = model_pipeline_of(dit ? io_family_of(dit) : IO_SD3);
        if (dit) snprintf(o->d->class_name, sizeof o->d->class_name, "%s", o->pipe->class_name);
        rc = model_check_parts(o);
        if (!rc) rc = open_parts(o, whole, dit);
    }
    taca_ckpt_close(dit);
    taca_ckpt_close(whole);
    return rc;
}
