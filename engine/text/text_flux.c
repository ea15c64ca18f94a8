/* text_flux.c - what a FLUX transformer is told about a prompt, see text.h. A text_projection that
 * the CLIP file may hold is not applied. */
#include <inttypes.h>

#include "engine/text/text_parts.h"

static enum taca_code check(const struct text *t, const char *path, struct taca_err *err) {
    const struct clip *l = t->clip[0].clip;
    if (!t->t5)
        return taca_fail(err, TACA_ENOTFOUND,
                         "%s: text_encoder_2 (T5) is not there; FLUX cannot do without", path);
    if (clip_width(l) != t->opts.pooled_width)
        return taca_fail(err, TACA_EFORMAT,
                         "%s: text_encoder pools to %" PRId64
                         " values, the transformer takes %" PRId64 " (pooled_projection_dim)",
                         path, clip_width(l), t->opts.pooled_width);
    return text_check_t5(t, path, err);
}

static enum taca_code encode(struct text *t, struct taca_scratch *s, const struct text_key *k,
                             const struct text_cond *cond, struct taca_err *err) {
    const struct clip_out out = {.pooled = cond->pooled};
    enum taca_code rc = text_run_clip(t, s, 0, k, &out, err);
    return rc == TACA_OK ? text_run_t5(t, s, k, cond->context, err) : rc;
}

const struct text_rules text_flux_rules = {
    .name = "FLUX",
    .n_clips = 1,
    .t5 = TACA_TEXT_ENCODER_2,
    .t5_tok = TACA_TOKENIZER_2,
    .t5_prompt = 1,
    .unprojected = true,
    .check = check,
    .encode = encode,
};
