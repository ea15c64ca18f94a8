/* text_case.c - whole checkpoints from text to image: an entry of text_cases.json names a model
 * directory, the prompts and the arguments. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/verify/case.h"

enum { TEXT_CACHE_BYTES = 64 << 20, MAX_IDS = 4096 };

/* ---- the checkpoint -------------------------------------------------------------------------- */

static enum taca_code open_dir(struct verify_case *c, struct taca_model_dir *dir,
                               struct taca_err *err) {
    const char *weights = json_string_value(json_object_get(c->entry, "weights"));
    char path[CASE_PATH];
    if (!weights) return taca_fail(err, TACA_EFORMAT, "the entry names no \"weights\"");
    for (int i = -1; i < c->opts->n_weights; i++) {
        const char *from = i < 0 ? c->dir : c->opts->weights[i];
        int len = snprintf(path, sizeof path, "%s/%s", from, weights);
        if ((size_t)len < sizeof path && access(path, R_OK) == 0)
            return taca_model_dir_open(dir, path, err);
    }
    return taca_fail(err, TACA_ENOTFOUND, "no checkpoint %.200s in %.200s", weights, c->dir);
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
    if (dir->left_out[TACA_TEXT_ENCODER_3])
        return taca_fail(err, TACA_ENOTFOUND, "%.200s: no text_encoder_3", dir->path);
    return TACA_OK;
}

static enum taca_code refuse_replacements(const struct verify_case *c, struct taca_err *err) {
    static const char *const keys[] = {"transformer_file", "override"};
    for (int i = 0; i < 2; i++)
        if (json_object_get(c->entry, keys[i]))
            return taca_fail(err, TACA_EUNSUPPORTED, "\"%s\" is not part of this build", keys[i]);
    return TACA_OK;
}

static enum taca_code open_models(struct verify_case *c, const struct taca_model_dir *dir,
                                  const struct case_args *a, struct taca_err *err) {
    struct taca_engine *e = c->e;
    struct taca_ckpt *ckpt = NULL;
    enum taca_code rc =
        taca_scheduler_load(&e->scheduler, dir->scheduler, seq_spacing(dir->class_name), err);
    if (!rc) rc = taca_ckpt_open(&ckpt, dir->dir[TACA_TRANSFORMER], err);
    if (!rc) rc = dit_open(&e->dit, e->b, dir->config[TACA_TRANSFORMER], ckpt, err);
    taca_ckpt_close(ckpt);
    ckpt = NULL;
    if (!rc) rc = taca_ckpt_open(&ckpt, dir->dir[TACA_VAE], err);
    if (!rc) rc = vae_open(&e->vae, e->b, dir->config[TACA_VAE], ckpt, err);
    taca_ckpt_close(ckpt);
    if (rc) return rc;
    const struct dit_info *d = dit_get_info(e->dit);
    const struct text_opts opts = {.family = d->kind == DIT_FLUX ? TEXT_FLUX : TEXT_SD3,
                                   .joint_width = d->joint_width,
                                   .pooled_width = d->pooled_width,
                                   .t5_tokens = a->t5_tokens,
                                   .cache_bytes = TEXT_CACHE_BYTES};
    rc = text_open(&e->text, e->b, dir, &opts, err);
    return rc ? rc : taca_scratch_reserve(&e->scratch, text_scratch_bytes(e->text), err);
}

/* ---- prompts --------------------------------------------------------------------------------- */

/* *out = args.<prefix>prompt<number>; "" when absent. */
static enum taca_code prompt_of(const struct verify_case *c, const char *prefix, const char *number,
                                const char **out, struct taca_err *err) {
    char key[64];
    snprintf(key, sizeof key, "%sprompt%s", prefix, number);
    const json_t *v = json_object_get(json_object_get(c->entry, "args"), key);
    *out = json_string_value(v);
    if (!*out && v && !json_is_null(v))
        return taca_fail(err, TACA_EUNSUPPORTED, "args.%s: wanted one string", key);
    if (!*out) *out = "";
    return TACA_OK;
}

static enum taca_code compare_ids(struct verify_case *c, const struct text_prompt *p,
                                  const char *infix, struct taca_err *err) {
    static const char *const encoder[] = {"clip_l", "clip_g", "t5"}; /* enum text_encoder */
    enum taca_code rc = TACA_OK;
    int32_t *ids = calloc(MAX_IDS, sizeof *ids);
    if (!ids) return taca_fail(err, TACA_ENOMEM, "token ids");
    for (int i = 0; i < 3 && !rc; i++) {
        char output[64];
        snprintf(output, sizeof output, "ids.%s%s", infix, encoder[i]);
        int n = text_ids(c->e->text, (enum text_encoder)i, p, ids, MAX_IDS);
        if (n < 0) rc = taca_fail(err, TACA_EUNSUPPORTED, "%s: not made, or too many", output);
        if (n > 0) rc = case_compare_ids(c, output, ids, n, err);
    }
    free(ids);
    return rc;
}

static enum taca_code compare_mat(struct verify_case *c, const char *infix, const char *output,
                                  struct taca_mat m, struct taca_err *err) {
    char name[64];
    float *host;
    enum taca_code rc = case_floats(c, &host, m.rows * m.cols, err);
    if (rc) return rc;
    snprintf(name, sizeof name, "%s%s", infix, output);
    taca_download(c->e->b, host, m.data, (size_t)(m.rows * m.cols) * sizeof *host);
    rc = taca_sync(c->e->b, err);
    return rc ? rc : case_compare(c, name, host, m.rows * m.cols, err);
}

/* Encodes the prompt or the negative prompt and compares ids, sequence and pooled vector. */
static enum taca_code encode(struct verify_case *c, bool negative, int clip_skip,
                             const struct text_cond **out, struct taca_err *err) {
    const char *prefix = negative ? "negative_" : "";
    struct text_prompt p = {.clip_skip = clip_skip};
    enum taca_code rc = prompt_of(c, prefix, "", &p.prompt, err);
    if (!rc) rc = prompt_of(c, prefix, "_2", &p.prompt_2, err);
    if (!rc) rc = prompt_of(c, prefix, "_3", &p.prompt_3, err);
    if (!rc) rc = compare_ids(c, &p, negative ? "negative." : "", err);
    if (!rc) rc = text_acquire(c->e->text, &c->e->scratch, &p, out, err);
    if (!rc) rc = compare_mat(c, prefix, "prompt_embeds", (*out)->context, err);
    if (!rc) rc = compare_mat(c, prefix, "pooled_prompt_embeds", (*out)->pooled, err);
    return rc;
}

static enum taca_code run(struct verify_case *c, struct case_sampling *s, struct taca_err *err) {
    const struct text_cond *cond = NULL, *uncond = NULL;
    bool guided = s->args.guidance > 1;
    enum taca_code rc = encode(c, false, s->args.clip_skip, &cond, err);
    if (!rc && guided) rc = encode(c, true, 0, &uncond, err);
    s->images = s->args.images;
    for (int i = 0; i < s->images && !rc; i++) {
        s->cond[i] = (struct seq_text){cond->context, cond->pooled};
        if (guided) s->uncond[i] = (struct seq_text){uncond->context, uncond->pooled};
    }
    if (!rc) rc = case_sample(c, s, err);
    text_release(c->e->text, cond);
    text_release(c->e->text, uncond);
    return rc;
}

enum taca_code verify_text_case(struct verify_case *c, struct taca_err *err) {
    struct case_sampling s = {0};
    struct taca_model_dir dir = {0};
    enum taca_code rc = case_args_read(&s.args, c, err);
    if (!rc) rc = refuse_replacements(c, err);
    if (!rc) rc = open_dir(c, &dir, err);
    if (!rc) rc = leave_out(c, &dir, err);
    if (!rc) rc = open_models(c, &dir, &s.args, err);
    taca_model_dir_finish(&dir);
    return rc ? rc : run(c, &s, err);
}
