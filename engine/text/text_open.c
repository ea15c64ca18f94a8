/* text_open.c - the encoders of a model directory, and running one of them. See text_parts.h. Each
 * encoder's files are closed as soon as its weights are prepared. */
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "engine/text/text_parts.h"

static const enum taca_component clip_part[TEXT_MAX_CLIPS] = {TACA_TEXT_ENCODER,
                                                              TACA_TEXT_ENCODER_2};
static const enum taca_component clip_tok[TEXT_MAX_CLIPS] = {TACA_TOKENIZER, TACA_TOKENIZER_2};

static void log_unused(void *ctx, const char *name) {
    static const char *const ballast[] = {"position_ids", "logit_scale",
                                          "encoder.embed_tokens.weight"};
    for (size_t i = 0; i < sizeof ballast / sizeof *ballast; i++) {
        const size_t n = strlen(name), tail = strlen(ballast[i]);
        if (n >= tail && strcmp(name + n - tail, ballast[i]) == 0) return;
    }
    taca_log(TACA_LOG_WARN, "%s: tensor %s is not used", (const char *)ctx, name);
}

/* The weights of encoder i (CLIP), or of T5 when i is TEXT_MAX_CLIPS. */
static enum taca_code open_weights(struct text *t, int i, const struct taca_model_dir *dir,
                                   enum taca_component part, struct taca_err *err) {
    struct taca_ckpt *ckpt = NULL;
    struct taca_err why = {0};
    enum taca_code rc = taca_model_weights(dir, part, &ckpt, err);
    if (rc != TACA_OK) return rc;
    if (i < TEXT_MAX_CLIPS)
        rc = clip_open(&t->clip[i].clip, t->b, dir->config[part], ckpt, &why);
    else
        rc = t5_open(&t->t5, t->b, dir->config[part], ckpt, TACA_MAX_T5_TOKENS, &why);
    if (rc == TACA_OK) {
        t->parameters += taca_ckpt_parameters(ckpt);
        taca_ckpt_unused(ckpt, log_unused, dir->dir[part]);
    } else {
        rc = taca_fail(err, rc, "%s: %s", dir->dir[part], why.text); /* says which of them */
    }
    if (t->most_held < taca_ckpt_most_held(ckpt)) t->most_held = taca_ckpt_most_held(ckpt);
    taca_ckpt_close(ckpt);
    return rc;
}

static enum taca_code check_vocab(const struct taca_model_dir *dir, enum taca_component part,
                                  enum taca_component tok, int made, int taken,
                                  struct taca_err *err) {
    if (made <= taken) return TACA_OK;
    return taca_fail(err, TACA_EFORMAT, "%s: %s has ids to %d, %s takes ids to %d", dir->path,
                     taca_component_name(tok), made - 1, taca_component_name(part), taken - 1);
}

static enum taca_code open_clip(struct text *t, int i, const struct taca_model_dir *dir,
                                struct taca_err *err) {
    struct text_clip *c = &t->clip[i];
    const enum taca_component part = clip_part[i], tok = clip_tok[i];
    if (!dir->has[part] || !dir->has[tok])
        return taca_fail(err, TACA_ENOTFOUND, "%s: no %s", dir->path,
                         taca_component_name(dir->has[part] ? tok : part));
    enum taca_code rc = tok_bpe_open(&c->tok, dir->dir[tok], err);
    if (rc == TACA_OK) rc = open_weights(t, i, dir, part, err);
    if (rc != TACA_OK) return rc;
    return check_vocab(dir, part, tok, tok_bpe_vocab(c->tok), clip_vocab(c->clip), err);
}

static enum taca_code open_t5(struct text *t, const struct taca_model_dir *dir,
                              struct taca_err *err) {
    const enum taca_component part = t->rules->t5, tok = t->rules->t5_tok;
    if (!dir->has[part]) return TACA_OK;
    if (!dir->has[tok])
        return taca_fail(err, TACA_ENOTFOUND, "%s: no %s", dir->path, taca_component_name(tok));
    enum taca_code rc = tok_t5_open(&t->t5_tok, dir->dir[tok], err);
    if (rc == TACA_OK) rc = open_weights(t, TEXT_MAX_CLIPS, dir, part, err);
    if (rc != TACA_OK) return rc;
    return check_vocab(dir, part, tok, tok_t5_vocab(t->t5_tok), t5_vocab(t->t5), err);
}

static int clip_tokens(const struct text_clip *c) {
    const int tokens = tok_bpe_max_length(c->tok), positions = clip_max_positions(c->clip);
    return tokens < positions ? tokens : positions;
}

enum taca_code text_open_encoders(struct text *t, const struct taca_model_dir *dir,
                                  struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    for (int i = 0; i < t->rules->n_clips && rc == TACA_OK; i++) rc = open_clip(t, i, dir, err);
    if (rc == TACA_OK) rc = open_t5(t, dir, err);
    if (rc != TACA_OK) return rc;
    t->clip_tokens = clip_tokens(&t->clip[0]);
    const int last = clip_tokens(&t->clip[t->rules->n_clips - 1]);
    if (t->clip_tokens < 2 || last != t->clip_tokens)
        return taca_fail(err, TACA_EFORMAT,
                         "%s: the CLIP encoders take %d and %d tokens; they must agree and be 2 or "
                         "more",
                         dir->path, t->clip_tokens, last);
    return t->rules->check(t, dir->path, err);
}

enum taca_code text_check_t5(const struct text *t, const char *path, struct taca_err *err) {
    if (!t->t5 || t5_width(t->t5) == t->opts.joint_width) return TACA_OK;
    return taca_fail(err, TACA_EFORMAT,
                     "%s: %s gives %" PRId64 " columns, the transformer takes %" PRId64
                     " (joint_attention_dim)",
                     path, taca_component_name(t->rules->t5), t5_width(t->t5), t->opts.joint_width);
}

enum taca_code text_run_clip(struct text *t, struct taca_scratch *s, int i,
                             const struct text_key *k, const struct clip_out *out,
                             struct taca_err *err) {
    const struct clip_in in = {.ids = k->clip[i],
                               .n_seq = 1,
                               .len = t->clip_tokens,
                               .eos = tok_bpe_eos(t->clip[i].tok),
                               .clip_skip = k->clip_skip,
                               .unprojected = t->rules->unprojected};
    t->stats.passes++;
    return clip_encode(t->clip[i].clip, s->b, s, &in, out, err);
}

enum taca_code text_run_t5(struct text *t, struct taca_scratch *s, const struct text_key *k,
                           struct taca_mat rows, struct taca_err *err) {
    t->stats.passes++;
    return t5_encode(t->t5, s->b, s, k->t5, 1, k->n_t5, rows, err);
}
