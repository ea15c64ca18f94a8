/* checkpoint.c - the checkpoint of a text case: a folder, with a transformer from another file,
 * tensors of a component replaced, or components left out. See case.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/verify/case.h"

enum { TEXT_CACHE_BYTES = 64 << 20 };

/* c->dir/name, or where --weights has it. */
static enum taca_code find(const struct verify_case *c, char path[CASE_PATH], const char *name,
                           struct taca_err *err) {
    for (int i = -1; i < c->opts->n_weights; i++) {
        const char *from = i < 0 ? c->dir : c->opts->weights[i];
        int len = snprintf(path, CASE_PATH, "%s/%s", from, name);
        if (len < CASE_PATH && access(path, R_OK) == 0) return TACA_OK;
    }
    return taca_fail(err, TACA_ENOTFOUND, "no %.200s in %.200s", name, c->dir);
}

static enum taca_code open_dir(const struct verify_case *c, struct taca_model_dir *dir,
                               struct taca_err *err) {
    const char *weights = json_string_value(json_object_get(c->entry, "weights"));
    const json_t *other = json_object_get(c->entry, "transformer_file");
    char path[CASE_PATH], file[CASE_PATH];
    struct taca_model_paths paths = {.model = path};
    if (!weights) return taca_fail(err, TACA_EFORMAT, "the entry names no \"weights\"");
    enum taca_code rc = find(c, path, weights, err);
    if (!rc && other && !json_is_string(other))
        rc = taca_fail(err, TACA_EFORMAT, "transformer_file: wanted a path");
    if (!rc && other) rc = find(c, file, json_string_value(other), err);
    if (other) paths.part[TACA_DIT] = file;
    return rc ? rc : taca_model_open(dir, &paths, err);
}

/* Components that the call was given as None. Only T5 may be missing. */
static enum taca_code leave_out(const struct verify_case *c, struct taca_model_dir *dir,
                                struct taca_err *err) {
    const json_t *without = json_object_get(c->entry, "without"), *item;
    size_t i;
    json_array_foreach(without, i, item) {
        const char *name = json_string_value(item);
        if (!name)
            return taca_fail(err, TACA_EFORMAT, "without[%zu]: wanted a component's name", i);
        if (strcmp(name, "text_encoder_3") != 0 && strcmp(name, "tokenizer_3") != 0)
            return taca_fail(err, TACA_EUNSUPPORTED, "without %.64s: only T5 may be missing", name);
        dir->has[TACA_TEXT_ENCODER_3] = dir->has[TACA_TOKENIZER_3] = false;
        dir->left_out[TACA_TEXT_ENCODER_3] = dir->left_out[TACA_TOKENIZER_3] = false;
    }
    const bool needs = strcmp(dir->class_name, "StableDiffusion3Pipeline") == 0;
    if (needs && dir->left_out[TACA_TEXT_ENCODER_3])
        return taca_fail(err, TACA_ENOTFOUND, "%.200s: no text_encoder_3", dir->path);
    return TACA_OK;
}

/* ---- tensors replaced ------------------------------------------------------------------------ */

/* The tensors of `base`, with those of `over` in place of the ones of the same name, as a file. */
static enum taca_code write_merged(const char *path, const struct taca_safetensors *base,
                                   const struct taca_safetensors *over, struct taca_err *err) {
    const size_t n = taca_safetensors_count(base);
    struct taca_tensor *t = calloc(n ? n : 1, sizeof *t);
    if (!t) return taca_fail(err, TACA_ENOMEM, "%zu tensors", n);
    for (size_t i = 0; i < n; i++) {
        const struct taca_tensor *own = taca_safetensors_at(base, i);
        const struct taca_tensor *other = taca_safetensors_find(over, own->name);
        t[i] = other ? *other : *own;
    }
    enum taca_code rc = taca_safetensors_write(path, t, n, err);
    free(t);
    return rc;
}

static enum taca_code merge(const char *path, const char *dir, const char *over_path,
                            struct taca_err *err) {
    struct taca_safetensors *base = NULL, *over = NULL;
    char base_path[CASE_PATH];
    if (snprintf(base_path, sizeof base_path, "%s/model.safetensors", dir) >= CASE_PATH)
        return taca_fail(err, TACA_EINVAL, "%.200s: the path is too long", dir);
    enum taca_code rc = taca_safetensors_open(&base, base_path, err);
    if (!rc) rc = taca_safetensors_open(&over, over_path, err);
    for (size_t i = 0; !rc && i < taca_safetensors_count(over); i++) {
        const char *name = taca_safetensors_at(over, i)->name;
        if (!taca_safetensors_find(base, name))
            rc = taca_fail(err, TACA_EFORMAT, "%s: %.100s is in no file of the component",
                           over_path, name);
    }
    if (!rc) rc = write_merged(path, base, over, err);
    taca_safetensors_close(over);
    taca_safetensors_close(base);
    return rc;
}

/* A folder that holds a component with its replacements; [0] = 0: none. */
struct merged {
    char dir[32], file[64];
};

static void merged_finish(struct merged *m) {
    if (!m->dir[0]) return;
    unlink(m->file);
    rmdir(m->dir);
    m->dir[0] = 0;
}

static enum taca_code override(const struct verify_case *c, struct taca_model_dir *dir,
                               enum taca_component part, const char *name, struct merged *m,
                               struct taca_err *err) {
    char over[CASE_PATH];
    if (!dir->has[part])
        return taca_fail(err, TACA_EFORMAT, "override: no %s", taca_component_name(part));
    enum taca_code rc = find(c, over, name, err);
    if (rc) return rc;
    snprintf(m->dir, sizeof m->dir, "/tmp/taca_verify_XXXXXX");
    if (!mkdtemp(m->dir)) {
        m->dir[0] = 0;
        return taca_fail(err, TACA_EIO, "/tmp: %s", strerror(errno));
    }
    snprintf(m->file, sizeof m->file, "%s/model.safetensors", m->dir);
    rc = merge(m->file, dir->dir[part], over, err);
    char *path = rc ? NULL : strdup(m->dir);
    if (!rc && !path) rc = taca_fail(err, TACA_ENOMEM, "%s", m->dir);
    if (rc) return rc;
    free(dir->dir[part]);
    dir->dir[part] = path;
    return TACA_OK;
}

static enum taca_code override_any(const struct verify_case *c, struct taca_model_dir *dir,
                                   struct merged *m, struct taca_err *err) {
    const json_t *all = json_object_get(c->entry, "override");
    if (!all) return TACA_OK;
    for (int i = 0; i < TACA_COMPONENTS; i++) {
        const json_t *file = json_object_get(all, taca_component_name((enum taca_component)i));
        if (json_is_string(file) && json_object_size(all) == 1)
            return override(c, dir, (enum taca_component)i, json_string_value(file), m, err);
    }
    return taca_fail(err, TACA_EUNSUPPORTED, "override: wanted one component and its file");
}

/* ---- open ------------------------------------------------------------------------------------ */

static enum taca_code open_models(struct verify_case *c, const struct taca_model_dir *dir,
                                  int t5_tokens, struct taca_err *err) {
    struct taca_engine *e = c->e;
    struct taca_ckpt *ckpt = NULL;
    enum taca_code rc =
        taca_scheduler_load(&e->scheduler, dir->scheduler, seq_spacing(dir->class_name), err);
    if (!rc) rc = taca_model_weights(dir, TACA_TRANSFORMER, &ckpt, err);
    if (!rc) rc = dit_open(&e->dit, e->b, dir->config[TACA_TRANSFORMER], ckpt, err);
    taca_ckpt_close(ckpt);
    ckpt = NULL;
    if (!rc) rc = taca_model_weights(dir, TACA_VAE, &ckpt, err);
    if (!rc) rc = vae_open(&e->vae, e->b, dir->config[TACA_VAE], ckpt, err);
    taca_ckpt_close(ckpt);
    if (rc) return rc;
    const struct dit_info *d = dit_get_info(e->dit);
    const struct text_opts opts = {.family = d->kind == DIT_FLUX ? TEXT_FLUX : TEXT_SD3,
                                   .joint_width = d->joint_width,
                                   .pooled_width = d->pooled_width,
                                   .t5_tokens = t5_tokens,
                                   .cache_bytes = TEXT_CACHE_BYTES};
    rc = text_open(&e->text, e->b, dir, &opts, err);
    return rc ? rc : taca_scratch_reserve(&e->scratch, text_scratch_bytes(e->text), err);
}

enum taca_code case_open_checkpoint(struct verify_case *c, int t5_tokens, struct taca_err *err) {
    struct taca_model_dir dir = {0};
    struct merged m = {.dir = ""};
    enum taca_code rc = open_dir(c, &dir, err);
    if (!rc) rc = leave_out(c, &dir, err);
    if (!rc) rc = override_any(c, &dir, &m, err);
    if (!rc) rc = open_models(c, &dir, t5_tokens, err);
    merged_finish(&m);
    taca_model_dir_finish(&dir);
    return rc;
}
