/* text_case.c - whole checkpoints from text to image: an entry of text_cases.json names a model
 * directory, the prompts and the arguments. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/verify/case.h"

enum { MAX_IDS = 4096 };

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
    enum taca_code rc = case_args_read(&s.args, c, err);
    if (!rc) rc = case_open_checkpoint(c, s.args.t5_tokens, err);
    return rc ? rc : run(c, &s, err);
}
