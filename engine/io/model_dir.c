/* model_dir.c - see model_dir.h. */
#include "engine/io/model_dir.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/io/checkpoint.h"
#include "engine/io/io.h"

/* What this build understands as each component of StableDiffusion3Pipeline. */
struct component {
    const char *name;
    const char *class_name[2];
    bool is_tokenizer; /* its config has another name and may be missing */
    bool optional;
};
static const struct component components[TACA_COMPONENTS] = {
    [TACA_TRANSFORMER] = {"transformer", {"SD3Transformer2DModel"}, false, false},
    [TACA_VAE] = {"vae", {"AutoencoderKL"}, false, false},
    [TACA_TEXT_ENCODER] = {"text_encoder", {"CLIPTextModelWithProjection"}, false, false},
    [TACA_TEXT_ENCODER_2] = {"text_encoder_2", {"CLIPTextModelWithProjection"}, false, false},
    [TACA_TEXT_ENCODER_3] = {"text_encoder_3", {"T5EncoderModel"}, false, true},
    [TACA_TOKENIZER] = {"tokenizer", {"CLIPTokenizer", "CLIPTokenizerFast"}, true, false},
    [TACA_TOKENIZER_2] = {"tokenizer_2", {"CLIPTokenizer", "CLIPTokenizerFast"}, true, false},
    [TACA_TOKENIZER_3] = {"tokenizer_3", {"T5TokenizerFast", "T5Tokenizer"}, true, true},
};
static const struct component scheduler = {
    "scheduler", {"FlowMatchEulerDiscreteScheduler"}, false, false};

static const char supported[] = "StableDiffusion3Pipeline";

const char *taca_component_name(enum taca_component c) {
    return (unsigned)c < TACA_COMPONENTS ? components[c].name : "?";
}

static enum taca_code no_memory(const char *path, struct taca_err *err) {
    return taca_fail(err, TACA_ENOMEM, "%s: out of memory", path);
}

static bool holds(const char *dir, const char *name) {
    char path[4096];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof path && stat(path, &st) == 0;
}

/* ---- what else a path may be ----------------------------------------------------------------- */

static enum taca_code explain_file(const char *path, struct taca_err *err) {
    struct io_map m = {0};
    enum taca_code rc = io_map_open(&m, path, err);
    if (rc != TACA_OK) return rc;
    const char *like = io_looks_like(m.data, m.size);
    if (!like && m.size > 8 && m.data[8] == '{')
        like = "a single safetensors file, without the encoders' vocabularies and the configs";
    rc = taca_fail(err, TACA_EFORMAT, "%s: wanted a directory with model_index.json, this is %s",
                   path, like ? like : "a file");
    io_map_close(&m);
    return rc;
}

static enum taca_code explain_dir(const char *path, struct taca_err *err) {
    const char *hint = "";
    if (holds(path, "config.json"))
        hint = "; it looks like one component of a model, try the directory above";
    else if (holds(path, "snapshots"))
        hint = "; it looks like a Hugging Face cache entry, name one of its snapshots";
    return taca_fail(err, TACA_ENOTFOUND, "%s: no model_index.json in it%s", path, hint);
}

static enum taca_code check_path(const char *path, struct taca_err *err) {
    struct stat st;
    if (stat(path, &st) < 0)
        return taca_fail(err, errno == ENOENT || errno == ENOTDIR ? TACA_ENOTFOUND : TACA_EIO,
                         "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return explain_file(path, err);
    if (!holds(path, "model_index.json")) return explain_dir(path, err);
    return TACA_OK;
}

/* ---- model_index.json ------------------------------------------------------------------------ */

static enum taca_code read_class(struct taca_model_dir *d, const json_t *index,
                                 struct taca_err *err) {
    const char *name = json_string_value(json_object_get(index, "_class_name"));
    char shown[IO_SHOWN];
    if (!name) return taca_fail(err, TACA_EFORMAT, "%s/model_index.json: no _class_name", d->path);
    if (strcmp(name, supported) != 0)
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "%s: %s is not supported by this build; supported: %s", d->path,
                         io_shown(shown, name), supported);
    snprintf(d->class_name, sizeof d->class_name, "%s", name);
    return TACA_OK;
}

/* *present: whether the index has the component, [library, class], of a class we know. */
static enum taca_code read_entry(const struct taca_model_dir *d, const json_t *index,
                                 const struct component *c, bool *present, struct taca_err *err) {
    const json_t *v = json_object_get(index, c->name);
    const json_t *library = json_array_get(v, 0), *class_name = json_array_get(v, 1);
    char shown[IO_SHOWN];
    *present = false;
    if (!v || json_is_null(v)) return TACA_OK;
    if (json_array_size(v) == 2 && json_is_null(library) && json_is_null(class_name))
        return TACA_OK;
    if (json_array_size(v) != 2 || !json_is_string(library) || !json_is_string(class_name))
        return taca_fail(err, TACA_EFORMAT,
                         "%s/model_index.json: %s is not a pair [library, class]", d->path,
                         c->name);
    const char *name = json_string_value(class_name);
    for (int i = 0; i < 2; i++)
        if (c->class_name[i] && strcmp(c->class_name[i], name) == 0) *present = true;
    if (*present) return TACA_OK;
    return taca_fail(err, TACA_EUNSUPPORTED, "%s: %s is a %s, supported: %s", d->path, c->name,
                     io_shown(shown, name), c->class_name[0]);
}

/* ---- components ------------------------------------------------------------------------------ */

/* The JSON file `name` in dir; absent gives NULL unless required. */
static enum taca_code load_config(json_t **out, const char *dir, const char *name, bool required,
                                  struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    char *path = io_join(dir, name);
    if (!path) return no_memory(dir, err);
    if (required || holds(dir, name)) rc = taca_json_load(out, path, err);
    free(path);
    return rc;
}

/* *dir = the folder of a component that the index names; NULL when it is optional and not there. */
static enum taca_code locate(char **dir, const char *path, const struct component *c,
                             struct taca_err *err) {
    char *p = io_join(path, c->name);
    if (!p) return no_memory(path, err);
    if (io_is_dir(p)) {
        *dir = p;
        return TACA_OK;
    }
    free(p);
    if (c->optional) return TACA_OK;
    return taca_fail(err, TACA_ENOTFOUND, "%s: model_index.json names %s, but %s/%s is not there",
                     path, c->name, path, c->name);
}

static enum taca_code absent(const struct taca_model_dir *d, const struct component *c,
                             struct taca_err *err) {
    if (c->optional) return TACA_OK;
    return taca_fail(err, TACA_EUNSUPPORTED, "%s: model_index.json has no %s, which %s needs",
                     d->path, c->name, supported);
}

static enum taca_code open_component(struct taca_model_dir *d, const json_t *index,
                                     enum taca_component which, struct taca_err *err) {
    const struct component *c = &components[which];
    bool present;
    enum taca_code rc = read_entry(d, index, c, &present, err);
    if (rc != TACA_OK) return rc;
    if (!present) return absent(d, c, err);
    rc = locate(&d->dir[which], d->path, c, err);
    if (rc != TACA_OK) return rc;
    d->has[which] = d->dir[which] != NULL;
    d->left_out[which] = !d->has[which];
    if (!d->has[which]) return TACA_OK;
    return load_config(&d->config[which], d->dir[which],
                       c->is_tokenizer ? "tokenizer_config.json" : "config.json", !c->is_tokenizer,
                       err);
}

static enum taca_code open_scheduler(struct taca_model_dir *d, const json_t *index,
                                     struct taca_err *err) {
    bool present;
    char *dir = NULL;
    enum taca_code rc = read_entry(d, index, &scheduler, &present, err);
    if (rc == TACA_OK && !present) rc = absent(d, &scheduler, err);
    if (rc == TACA_OK) rc = locate(&dir, d->path, &scheduler, err);
    if (rc == TACA_OK) rc = load_config(&d->scheduler, dir, "scheduler_config.json", true, err);
    free(dir);
    return rc;
}

static enum taca_code open_all(struct taca_model_dir *d, const json_t *index,
                               struct taca_err *err) {
    enum taca_code rc = read_class(d, index, err);
    for (int i = 0; rc == TACA_OK && i < TACA_COMPONENTS; i++)
        rc = open_component(d, index, (enum taca_component)i, err);
    if (rc == TACA_OK) rc = open_scheduler(d, index, err);
    if (rc == TACA_OK) rc = load_config(&d->taca, d->path, "taca.json", false, err);
    if (rc == TACA_OK && d->has[TACA_TEXT_ENCODER_3] && !d->has[TACA_TOKENIZER_3])
        rc = taca_fail(err, TACA_ENOTFOUND, "%s: text_encoder_3 is there, tokenizer_3 is not",
                       d->path);
    return rc;
}

enum taca_code taca_model_dir_open(struct taca_model_dir *out, const char *path,
                                   struct taca_err *err) {
    struct taca_model_dir d = {0};
    json_t *index = NULL;
    enum taca_code rc = check_path(path, err);
    if (rc != TACA_OK) return rc;
    d.path = strdup(path);
    if (!d.path) return no_memory(path, err);
    rc = load_config(&index, path, "model_index.json", true, err);
    if (rc == TACA_OK) rc = open_all(&d, index, err);
    json_decref(index);
    if (rc == TACA_OK)
        *out = d;
    else
        taca_model_dir_finish(&d);
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
    size_t n = 0;
    for (; name[n] && n + 1 < size; n++)
        id[n] = isalnum((unsigned char)name[n]) || strchr("._-", name[n]) ? name[n] : '-';
    if (size) id[n] = 0;
    free(full);
}
