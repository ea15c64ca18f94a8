/* model_dir.c - see model_dir.h: directories, and what the other form shares with them. Components
 * from files are in model_parts.c. */
#include "engine/io/model_dir.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/io/io.h"
#include "engine/io/model_parts.h"

#define CLIP_TOKENIZER                                                                             \
    { "CLIPTokenizer", "CLIPTokenizerFast" }
#define T5_TOKENIZER                                                                               \
    { "T5TokenizerFast", "T5Tokenizer" }

static const struct model_pipeline pipelines[] = {
    {"StableDiffusion3Pipeline",
     IO_SD3,
     {
         [TACA_TRANSFORMER] = {{"SD3Transformer2DModel"}, TACA_DIT, false, NULL},
         [TACA_VAE] = {{"AutoencoderKL"}, TACA_AUTOENCODER, false, NULL},
         [TACA_TEXT_ENCODER] = {{"CLIPTextModelWithProjection"}, TACA_CLIP_L, false, NULL},
         [TACA_TEXT_ENCODER_2] = {{"CLIPTextModelWithProjection"}, TACA_CLIP_G, false, NULL},
         [TACA_TEXT_ENCODER_3] = {{"T5EncoderModel"}, TACA_T5, true, NULL},
         [TACA_TOKENIZER] = {CLIP_TOKENIZER, TACA_KINDS, false, "tokenizers/clip"},
         [TACA_TOKENIZER_2] = {CLIP_TOKENIZER, TACA_KINDS, false, "tokenizers/clip_g"},
         [TACA_TOKENIZER_3] = {T5_TOKENIZER, TACA_KINDS, true, "tokenizers/t5"},
     }},
    {"FluxPipeline",
     IO_FLUX,
     {
         [TACA_TRANSFORMER] = {{"FluxTransformer2DModel"}, TACA_DIT, false, NULL},
         [TACA_VAE] = {{"AutoencoderKL"}, TACA_AUTOENCODER, false, NULL},
         [TACA_TEXT_ENCODER] = {{"CLIPTextModel"}, TACA_CLIP_L, false, NULL},
         [TACA_TEXT_ENCODER_2] = {{"T5EncoderModel"}, TACA_T5, false, NULL},
         [TACA_TEXT_ENCODER_3] = {{NULL}, TACA_KINDS, true, NULL},
         [TACA_TOKENIZER] = {CLIP_TOKENIZER, TACA_KINDS, false, "tokenizers/clip"},
         [TACA_TOKENIZER_2] = {T5_TOKENIZER, TACA_KINDS, false, "tokenizers/t5"},
         [TACA_TOKENIZER_3] = {{NULL}, TACA_KINDS, true, NULL},
     }},
};
enum { PIPELINES = sizeof pipelines / sizeof *pipelines };
static const struct model_slot scheduler = {
    {"FlowMatchEulerDiscreteScheduler"}, TACA_KINDS, false, NULL};

const char *taca_component_name(enum taca_component c) {
    static const char *const names[TACA_COMPONENTS] = {
        "transformer",    "vae",       "text_encoder", "text_encoder_2",
        "text_encoder_3", "tokenizer", "tokenizer_2",  "tokenizer_3"};
    return (unsigned)c < TACA_COMPONENTS ? names[c] : "?";
}

const struct model_pipeline *model_pipeline_named(const char *class_name) {
    for (int i = 0; i < PIPELINES; i++)
        if (strcmp(pipelines[i].class_name, class_name) == 0) return &pipelines[i];
    return NULL;
}

const struct model_pipeline *model_pipeline_of(enum io_family family) {
    return &pipelines[family == IO_FLUX];
}

static bool is_tokenizer(enum taca_component c) { return c >= TACA_TOKENIZER; }

static enum taca_code no_memory(const char *path, struct taca_err *err) {
    return taca_fail(err, TACA_ENOMEM, "%s: out of memory", path);
}

enum taca_code model_no_memory(const struct model_opening *o) {
    return no_memory(o->d->path, o->err);
}

bool model_holds(const char *dir, const char *name) {
    char path[4096];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof path && stat(path, &st) == 0;
}

enum taca_code model_json(json_t **out, const char *dir, const char *name, bool required,
                          struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    char *path = io_join(dir, name);
    if (!path) return no_memory(dir, err);
    if (required || model_holds(dir, name)) rc = taca_json_load(out, path, err);
    free(path);
    return rc;
}

/* ---- model_index.json ------------------------------------------------------------------------ */

static enum taca_code explain_dir(const char *path, struct taca_err *err) {
    const char *hint = "";
    if (model_holds(path, "config.json"))
        hint = "; it looks like one component of a model, try the directory above";
    else if (model_holds(path, "snapshots"))
        hint = "; it looks like a Hugging Face cache entry, name one of its snapshots";
    return taca_fail(err, TACA_ENOTFOUND, "%s: no model_index.json in it%s", path, hint);
}

/* Models of the same structure that are given more than a prompt. */
static const char *wants_more(const char *class_name) {
    static const struct {
        const char *part, *what;
    } more[] = {{"FluxKontext", " (it is given a picture to change)"},
                {"FluxFill", " (it is given a picture and what of it to fill)"},
                {"FluxControl", " (it is given edges, depth or the like)"},
                {"StableDiffusion3ControlNet", " (it is given edges, depth or the like)"},
                {"FluxPriorRedux", " (it is given a picture to vary)"}};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        if (strncmp(class_name, more[i].part, strlen(more[i].part)) == 0) return more[i].what;
    return "";
}

static enum taca_code read_class(struct model_opening *o, const json_t *index) {
    struct taca_model_dir *d = o->d;
    const char *name = json_string_value(json_object_get(index, "_class_name"));
    char shown[IO_SHOWN];
    if (!name)
        return taca_fail(o->err, TACA_EFORMAT, "%s/model_index.json: no _class_name", d->path);
    o->pipe = model_pipeline_named(name);
    if (!o->pipe)
        return taca_fail(o->err, TACA_EUNSUPPORTED,
                         "%s: %s is not supported by this build%s; supported: %s, %s", d->path,
                         io_shown(shown, name), wants_more(name), pipelines[0].class_name,
                         pipelines[1].class_name);
    snprintf(d->class_name, sizeof d->class_name, "%s", name);
    return TACA_OK;
}

/* *present: whether the index has the component, [library, class], of a class we know. */
static enum taca_code read_entry(const struct model_opening *o, const json_t *index,
                                 const char *name, const struct model_slot *slot, bool *present) {
    const json_t *v = json_object_get(index, name);
    const json_t *library = json_array_get(v, 0), *class_name = json_array_get(v, 1);
    char shown[IO_SHOWN];
    *present = false;
    if (!v || json_is_null(v) || !slot->class_name[0]) return TACA_OK;
    if (json_array_size(v) == 2 && json_is_null(library) && json_is_null(class_name))
        return TACA_OK;
    if (json_array_size(v) != 2 || !json_is_string(library) || !json_is_string(class_name))
        return taca_fail(o->err, TACA_EFORMAT,
                         "%s/model_index.json: %s is not a pair [library, class]", o->d->path,
                         name);
    const char *found = json_string_value(class_name);
    for (int i = 0; i < 2; i++)
        if (slot->class_name[i] && strcmp(slot->class_name[i], found) == 0) *present = true;
    if (*present) return TACA_OK;
    return taca_fail(o->err, TACA_EUNSUPPORTED, "%s: %s is a %s, supported: %s", o->d->path, name,
                     io_shown(shown, found), slot->class_name[0]);
}

/* ---- components ------------------------------------------------------------------------------ */

/* *dir = the folder of a component that the index names; NULL when it is optional and not there. */
static enum taca_code locate(const struct model_opening *o, char **dir, const char *name,
                             bool optional) {
    const char *path = o->d->path;
    char *p = io_join(path, name);
    if (!p) return model_no_memory(o);
    if (io_is_dir(p)) {
        *dir = p;
        return TACA_OK;
    }
    free(p);
    if (optional || o->paths->partial) return TACA_OK;
    return taca_fail(o->err, TACA_ENOTFOUND,
                     "%s: model_index.json names %s, but %s/%s is not there", path, name, path,
                     name);
}

static enum taca_code absent(const struct model_opening *o, const char *name, bool optional) {
    if (optional || o->paths->partial) return TACA_OK;
    return taca_fail(o->err, TACA_EUNSUPPORTED, "%s: model_index.json has no %s, which %s needs",
                     o->d->path, name, o->pipe->class_name);
}

/* Given apart: *taken. What is not to be there is taken too. */
static enum taca_code take_given(const struct model_opening *o, enum taca_component which,
                                 bool *taken) {
    const enum taca_kind kind = o->pipe->slot[which].kind;
    const char *path = kind == TACA_KINDS ? NULL : o->paths->part[kind];
    *taken = path != NULL;
    if (!path) return TACA_OK;
    if (kind != TACA_T5 || strcmp(path, "none") != 0) return model_take(o, which, path);
    o->d->left_out[which] = true;
    return TACA_OK;
}

static enum taca_code open_component(const struct model_opening *o, const json_t *index,
                                     enum taca_component which) {
    struct taca_model_dir *d = o->d;
    const struct model_slot *slot = &o->pipe->slot[which];
    const char *name = taca_component_name(which);
    bool present, taken;
    enum taca_code rc = take_given(o, which, &taken);
    if (rc || taken) return rc;
    rc = read_entry(o, index, name, slot, &present);
    if (rc) return rc;
    if (!present) return absent(o, name, slot->optional);
    rc = locate(o, &d->dir[which], name, slot->optional);
    if (rc) return rc;
    d->has[which] = d->dir[which] != NULL;
    d->left_out[which] = !d->has[which];
    if (!d->has[which]) return TACA_OK;
    return model_json(&d->config[which], d->dir[which],
                      is_tokenizer(which) ? "tokenizer_config.json" : "config.json",
                      !is_tokenizer(which), o->err);
}

static enum taca_code open_scheduler(const struct model_opening *o, const json_t *index) {
    bool present;
    char *dir = NULL;
    enum taca_code rc = read_entry(o, index, "scheduler", &scheduler, &present);
    if (!rc && !present) rc = absent(o, "scheduler", false);
    if (!rc && present) rc = locate(o, &dir, "scheduler", false);
    if (!rc && dir) rc = model_json(&o->d->scheduler, dir, "scheduler_config.json", true, o->err);
    free(dir);
    return rc;
}

/* T5 goes with its tokenizer. */
static enum taca_code check_third(const struct model_opening *o) {
    struct taca_model_dir *d = o->d;
    if (!d->has[TACA_TEXT_ENCODER_3] || d->has[TACA_TOKENIZER_3]) return TACA_OK;
    if (o->paths->part[TACA_T5]) return model_take_tokenizer(o, TACA_TOKENIZER_3);
    return taca_fail(o->err, TACA_ENOTFOUND, "%s: text_encoder_3 is there, tokenizer_3 is not",
                     d->path);
}

static enum taca_code open_dir(struct model_opening *o) {
    struct taca_model_dir *d = o->d;
    json_t *index = NULL;
    if (!model_holds(d->path, "model_index.json")) return explain_dir(d->path, o->err);
    enum taca_code rc = model_json(&index, d->path, "model_index.json", true, o->err);
    if (!rc) rc = read_class(o, index);
    if (!rc) rc = model_check_parts(o);
    for (int i = 0; !rc && i < TACA_COMPONENTS; i++)
        rc = open_component(o, index, (enum taca_component)i);
    if (!rc) rc = open_scheduler(o, index);
    if (!rc) rc = model_json(&d->taca, d->path, "taca.json", false, o->err);
    if (!rc) rc = check_third(o);
    json_decref(index);
    return rc;
}

/* ---- either form ----------------------------------------------------------------------------- */

static enum taca_code check_path(const char *path, struct taca_err *err) {
    struct stat st;
    if (stat(path, &st) == 0) return TACA_OK;
    return taca_fail(err, errno == ENOENT || errno == ENOTDIR ? TACA_ENOTFOUND : TACA_EIO, "%s: %s",
                     path, strerror(errno));
}

enum taca_code taca_model_open(struct taca_model_dir *out, const struct taca_model_paths *paths,
                               struct taca_err *err) {
    struct taca_model_dir d = {.hollow = paths->hollow};
    struct model_opening o = {.d = &d, .paths = paths, .err = err};
    const char *path = paths->model ? paths->model : paths->part[TACA_DIT];
    if (!path) return taca_fail_param(err, "model", "no model: give --model or --transformer");
    enum taca_code rc = check_path(path, err);
    if (!rc && paths->config && !io_is_dir(paths->config))
        rc = taca_fail_param(err, "config", "--model-config %s: no such directory", paths->config);
    if (rc) return rc;
    d.path = strdup(path);
    if (!d.path) return no_memory(path, err);
    rc = paths->model && io_is_dir(path) ? open_dir(&o) : model_open_files(&o);
    json_decref(o.beside);
    for (int i = 0; i < TACA_COMPONENTS; i++)
        d.kind[i] = o.pipe ? o.pipe->slot[i].kind : TACA_KINDS;
    if (rc)
        taca_model_dir_finish(&d);
    else
        *out = d;
    return rc;
}

/* Files of CLIP-L may hold a projection that their pipelines do not apply (the reference puts the
 * identity there): a config that asks for it by its class is believed. */
static bool is_unprojected(const struct taca_model_dir *d, enum taca_component c) {
    const json_t *list = json_object_get(d->config[c], "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    return d->kind[c] == TACA_CLIP_L && !io_is_dir(d->dir[c]) &&
           !(name && strcmp(name, "CLIPTextModelWithProjection") == 0);
}

enum taca_code taca_model_weights(const struct taca_model_dir *d, enum taca_component c,
                                  struct taca_ckpt **out, struct taca_err *err) {
    if (!d->has[c])
        return taca_fail(err, TACA_ENOTFOUND, "%s: no %s", d->path, taca_component_name(c));
    enum taca_code rc = taca_ckpt_open_kind(out, d->dir[c], d->kind[c], err);
    if (!rc && d->hollow) taca_ckpt_set_hollow(*out);
    if (!rc && is_unprojected(d, c)) taca_ckpt_hide(*out, "text_projection.weight");
    return rc;
}

void taca_model_dir_finish(struct taca_model_dir *d) {
    for (int i = 0; i < TACA_COMPONENTS; i++) {
        free(d->dir[i]);
        json_decref(d->config[i]);
    }
    json_decref(d->scheduler);
    json_decref(d->taca);
    free(d->path);
    *d = (struct taca_model_dir){0};
}

/* ---- its name -------------------------------------------------------------------------------- */

/* "/cache/models--org--name/snapshots/0a1b" gives "name", another path its last part. */
static const char *name_in_path(char *path) {
    static const char snapshots[] = "/snapshots/", prefix[] = "models--";
    char *cut = strstr(path, snapshots);
    if (cut) {
        *cut = 0;
        const char *repo = strrchr(path, '/');
        repo = repo ? repo + 1 : path;
        if (strncmp(repo, prefix, sizeof prefix - 1) == 0) {
            const char *name = repo + sizeof prefix - 1;
            for (const char *p = name; (p = strstr(p, "--"));) name = p += 2;
            return name;
        }
        *cut = '/';
    }
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void taca_model_dir_id(const struct taca_model_dir *d, char *id, size_t size) {
    const char *name = json_string_value(json_object_get(d->taca, "id"));
    char *full = name && name[0] ? NULL : realpath(d->path, NULL); /* "." has a name too */
    if (full) name = name_in_path(full);
    if (!name || !name[0]) name = "model";
    size_t len = strlen(name);
    if (full && io_is_file(d->path)) { /* of a file without its ending */
        const char *dot = strrchr(name, '.');
        if (dot && dot > name) len = (size_t)(dot - name);
    }
    size_t n = 0;
    for (; n < len && n + 1 < size; n++)
        id[n] = isalnum((unsigned char)name[n]) || strchr("._-", name[n]) ? name[n] : '-';
    if (size) id[n] = 0;
    free(full);
}
