/* text_sd3.c - what an SD3 transformer is told about a prompt, see text.h. */
#include <inttypes.h>

#include "engine/text/text_parts.h"

static enum taca_code check(const struct text *t, const char *path, struct taca_err *err) {
    const struct clip *l = t->clip[0].clip, *g = t->clip[1].clip;
    if (clip_width(l) + clip_width(g) > t->opts.joint_width)
        return taca_fail(err, TACA_EFORMAT,
                         "%s: text_encoder and text_encoder_2 give %" PRId64 " + %" PRId64
                         " columns, the transformer takes %" PRId64 " (joint_attention_dim)",
                         path, clip_width(l), clip_width(g), t->opts.joint_width);
    if (clip_pooled_width(l) + clip_pooled_width(g) != t->opts.pooled_width)
        return taca_fail(err, TACA_EFORMAT,
                         "%s: text_encoder and text_encoder_2 pool to %" PRId64 " + %" PRId64
                         " values, the transformer takes %" PRId64 " (pooled_projection_dim)",
                         path, clip_pooled_width(l), clip_pooled_width(g), t->opts.pooled_width);
    return text_check_t5(t, path, err);
}

static enum taca_code encode(struct text *t, struct taca_scratch *s, const struct text_key *k,
                             const struct text_cond *cond, struct taca_err *err) {
    const struct taca_mat clip_rows = taca_mat_rows(cond->context, 0, t->clip_tokens);
    enum taca_code rc = TACA_OK;
    int64_t column = 0, pooled_column = 0;
    for (int i = 0; i < t->rules->n_clips && rc == TACA_OK; i++) {
        const struct clip *c = t->clip[i].clip;
        const struct clip_out out = {
            .hidden = taca_mat_cols(clip_rows, column, clip_width(c)),
            .pooled = taca_mat_cols(cond->pooled, pooled_column, clip_pooled_width(c))};
        rc = text_run_clip(t, s, i, k, &out, err);
        column += clip_width(c);
        pooled_column += clip_pooled_width(c);
    }
    if (rc != TACA_OK || !k->t5 || k->n_t5 == 0) return rc;
    return text_run_t5(t, s, k, taca_mat_rows(cond->context, t->clip_tokens, k->n_t5), err);
}

const struct text_rules text_sd3_rules = {
    .name = "SD3",
    .n_clips = 2,
    .t5 = TACA_TEXT_ENCODER_3,
    .t5_tok = TACA_TOKENIZER_3,
    .t5_prompt = 2,
    .clip_rows = true,
    .check = check,
    .encode = encode,
};
