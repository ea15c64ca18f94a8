/* text.c - see text.h. Each prompt is tokenized for both encoders; the ids are the cache's key, so
 * texts that differ only in spelling share an entry. */
#include "engine/text/text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/text/clip.h"
#include "engine/text/text_cache.h"
#include "engine/text/tok_bpe.h"

enum { N_ENCODERS = 2 };
static const enum taca_component encoder_part[N_ENCODERS] = {TACA_TEXT_ENCODER,
                                                             TACA_TEXT_ENCODER_2};
static const enum taca_component tokenizer_part[N_ENCODERS] = {TACA_TOKENIZER, TACA_TOKENIZER_2};

struct encoder {
    struct tok_bpe *tok;
    struct clip *clip;
    int64_t parameters;
};

struct text {
    struct taca_backend *b;
    struct text_opts opts;
    struct encoder encoder[N_ENCODERS];
    int clip_tokens;
    size_t scratch_bytes;
    struct text_cache cache;
    struct text_stats stats;
};

/* ---- open ------------------------------------------------------------------------------------ */

static void log_unused(void *ctx, const char *name) {
    const char *tail = strrchr(name, '.');
    if (strcmp(tail ? tail + 1 : name, "position_ids") == 0) return; /* known ballast */
    if (strcmp(tail ? tail + 1 : name, "logit_scale") == 0) return;
    taca_log(TACA_LOG_WARN, "%s: tensor %s is not used", (const char *)ctx, name);
}

static enum taca_code open_clip(struct encoder *e, struct taca_backend *b,
                                const struct taca_model_dir *dir, enum taca_component part,
                                struct taca_err *err) {
    struct taca_ckpt *ckpt = NULL;
    struct taca_err why = {0};
    enum taca_code rc = taca_ckpt_open(&ckpt, dir->dir[part], err);
    if (rc != TACA_OK) return rc;
    rc = clip_open(&e->clip, b, dir->config[part], ckpt, &why);
    if (rc == TACA_OK) {
        e->parameters = taca_ckpt_parameters(ckpt);
        taca_ckpt_unused(ckpt, log_unused, dir->dir[part]);
    } else {
        rc = taca_fail(err, rc, "%s: %s", dir->dir[part], why.text); /* says which of the two */
    }
    taca_ckpt_close(ckpt);
    return rc;
}

static enum taca_code open_encoder(struct text *t, int i, const struct taca_model_dir *dir,
                                   struct taca_err *err) {
    struct encoder *e = &t->encoder[i];
    const enum taca_component part = encoder_part[i], tok = tokenizer_part[i];
    if (!dir->has[part] || !dir->has[tok])
        return taca_fail(err, TACA_ENOTFOUND, "%s: no %s", dir->path,
                         taca_component_name(dir->has[part] ? tok : part));
    enum taca_code rc = tok_bpe_open(&e->tok, dir->dir[tok], err);
    if (rc == TACA_OK) rc = open_clip(e, t->b, dir, part, err);
    if (rc != TACA_OK) return rc;
    if (tok_bpe_vocab(e->tok) > clip_vocab(e->clip))
        return taca_fail(err, TACA_EFORMAT, "%s: %s has ids to %d, %s takes ids to %d", dir->path,
                         taca_component_name(tok), tok_bpe_vocab(e->tok) - 1,
                         taca_component_name(part), clip_vocab(e->clip) - 1);
    return TACA_OK;
}

static int encoder_tokens(const struct encoder *e) {
    const int tokens = tok_bpe_max_length(e->tok), positions = clip_max_positions(e->clip);
    return tokens < positions ? tokens : positions;
}

/* That the two encoders fit each other and the transformer. */
static enum taca_code check_widths(struct text *t, const char *path, struct taca_err *err) {
    const struct encoder *l = &t->encoder[0], *g = &t->encoder[1];
    const int64_t width = clip_width(l->clip) + clip_width(g->clip);
    const int64_t pooled = clip_pooled_width(l->clip) + clip_pooled_width(g->clip);
    t->clip_tokens = encoder_tokens(l);
    if (encoder_tokens(g) != t->clip_tokens || t->clip_tokens < 2)
        return taca_fail(err, TACA_EFORMAT,
                         "%s: text_encoder takes %d tokens and text_encoder_2 %d; they must agree "
                         "and be 2 or more",
                         path, t->clip_tokens, encoder_tokens(g));
    if (width > t->opts.joint_width)
        return taca_fail(err, TACA_EFORMAT,
                         "%s: text_encoder and text_encoder_2 give %" PRId64 " + %" PRId64
                         " columns, the transformer takes %" PRId64 " (joint_attention_dim)",
                         path, clip_width(l->clip), clip_width(g->clip), t->opts.joint_width);
    if (pooled != t->opts.pooled_width)
        return taca_fail(err, TACA_EFORMAT,
                         "%s: text_encoder and text_encoder_2 pool to %" PRId64 " + %" PRId64
                         " values, the transformer takes %" PRId64 " (pooled_projection_dim)",
                         path, clip_pooled_width(l->clip), clip_pooled_width(g->clip),
                         t->opts.pooled_width);
    return TACA_OK;
}

/* The scratch of an encode is learnt by a dry run of both encoders. */
static enum taca_code measure(struct text *t, struct taca_err *err) {
    struct taca_backend *count = NULL;
    enum taca_code rc = taca_count_open(&count, taca_backend_precision(t->b), err);
    for (int i = 0; i < N_ENCODERS && rc == TACA_OK; i++) {
        const struct clip *c = t->encoder[i].clip;
        struct taca_scratch s = {.b = count};
        const struct clip_in in = {.n_seq = 1, .len = t->clip_tokens};
        const struct clip_out out = {
            .hidden = {NULL, TACA_F32, in.len, clip_width(c), clip_width(c)},
            .pooled = {NULL, TACA_F32, 1, clip_pooled_width(c), clip_pooled_width(c)}};
        rc = clip_encode(c, count, &s, &in, &out, err);
        if (s.peak > t->scratch_bytes) t->scratch_bytes = s.peak;
    }
    if (rc == TACA_OK) rc = taca_sync(count, err);
    taca_backend_close(count);
    return rc;
}

enum taca_code text_open(struct text **out, struct taca_backend *b,
                         const struct taca_model_dir *dir, const struct text_opts *opts,
                         struct taca_err *err) {
    if (dir->has[TACA_TEXT_ENCODER_3])
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "%s: T5 text encoders are not supported yet; to run without, set "
                         "text_encoder_3 and tokenizer_3 to [null, null] in model_index.json",
                         dir->path);
    struct text *t = calloc(1, sizeof *t);
    if (!t) return taca_fail(err, TACA_ENOMEM, "%s: out of memory", dir->path);
    t->b = b;
    t->opts = *opts;
    t->cache = (struct text_cache){.b = b, .max = opts->cache_bytes};
    enum taca_code rc = TACA_OK;
    for (int i = 0; i < N_ENCODERS && rc == TACA_OK; i++) rc = open_encoder(t, i, dir, err);
    if (rc == TACA_OK) rc = check_widths(t, dir->path, err);
    if (rc == TACA_OK) rc = measure(t, err);
    if (rc != TACA_OK) {
        text_close(t);
        return rc;
    }
    *out = t;
    return TACA_OK;
}

void text_close(struct text *t) {
    if (!t) return;
    text_cache_finish(&t->cache);
    for (int i = 0; i < N_ENCODERS; i++) {
        tok_bpe_close(t->encoder[i].tok);
        clip_close(t->encoder[i].clip);
    }
    free(t);
}

int text_tokens(const struct text *t) { return t->clip_tokens + t->opts.t5_tokens; }
int text_clip_tokens(const struct text *t) { return t->clip_tokens; }
size_t text_scratch_bytes(const struct text *t) { return t->scratch_bytes; }

int64_t text_parameters(const struct text *t) {
    return t->encoder[0].parameters + t->encoder[1].parameters;
}

int64_t text_weight_bytes(const struct text *t) {
    return clip_weight_bytes(t->encoder[0].clip) + clip_weight_bytes(t->encoder[1].clip);
}

struct text_stats text_stats(const struct text *t) {
    struct text_stats s = t->stats;
    s.bytes = t->cache.bytes;
    s.entries = t->cache.n_entries;
    return s;
}

int text_ids(const struct text *t, int encoder, const char *prompt, int32_t *ids, int max) {
    if (encoder < 0 || encoder >= N_ENCODERS || max < t->clip_tokens) return -1;
    enum taca_code rc =
        tok_bpe_encode(t->encoder[encoder].tok, prompt, ids, t->clip_tokens, NULL, NULL);
    return rc == TACA_OK ? t->clip_tokens : -1;
}

/* ---- encode ---------------------------------------------------------------------------------- */

/* What a prompt is to the encoders: [ids of L][ids of G][clip_skip]. */
struct key {
    int32_t *ids;
    size_t n;
    bool cut;
};

static enum taca_code make_key(const struct text *t, const struct text_prompt *p, struct key *key,
                               struct taca_err *err) {
    const char *first = p->prompt ? p->prompt : "";
    const char *const prompt[N_ENCODERS] = {first,
                                            p->prompt_2 && p->prompt_2[0] ? p->prompt_2 : first};
    const int len = t->clip_tokens;
    key->n = (size_t)len * N_ENCODERS + 1;
    key->ids = malloc(key->n * sizeof *key->ids);
    if (!key->ids) return taca_fail(err, TACA_ENOMEM, "out of memory for a prompt");
    for (int i = 0; i < N_ENCODERS; i++) {
        int total;
        enum taca_code rc =
            tok_bpe_encode(t->encoder[i].tok, prompt[i], key->ids + i * len, len, &total, err);
        if (rc != TACA_OK) return rc;
        if (total > len) key->cut = true;
    }
    key->ids[key->n - 1] = p->clip_skip;
    return TACA_OK;
}

/* Runs both encoders into the entry's context and pooled. */
static enum taca_code encode(struct text *t, struct taca_scratch *s, struct text_entry *e,
                             struct taca_err *err) {
    const struct text_cond *cond = &e->cond;
    const int len = t->clip_tokens;
    enum taca_code rc = TACA_OK;
    int64_t column = 0, pooled_column = 0;
    taca_fill_zero(t->b, cond->context.data,
                   (size_t)(cond->context.rows * cond->context.ld) * sizeof(float));
    for (int i = 0; i < N_ENCODERS && rc == TACA_OK; i++) {
        const struct clip *c = t->encoder[i].clip;
        const struct clip_in in = {.ids = e->key + i * len,
                                   .n_seq = 1,
                                   .len = len,
                                   .eos = tok_bpe_eos(t->encoder[i].tok),
                                   .clip_skip = e->key[e->n_key - 1]};
        const struct clip_out out = {
            .hidden = taca_mat_cols(taca_mat_rows(cond->context, 0, len), column, clip_width(c)),
            .pooled = taca_mat_cols(cond->pooled, pooled_column, clip_pooled_width(c))};
        rc = clip_encode(c, t->b, s, &in, &out, err);
        column += clip_width(c);
        pooled_column += clip_pooled_width(c);
        t->stats.passes++;
    }
    /* nothing that failed may stay in the cache, so the result is waited for */
    enum taca_code synced = taca_sync(t->b, err);
    return rc != TACA_OK ? rc : synced;
}

static enum taca_code make_entry(struct text *t, struct taca_scratch *s, const struct key *key,
                                 struct text_entry **out, struct taca_err *err) {
    const int64_t rows = text_tokens(t), joint = t->opts.joint_width, pooled = t->opts.pooled_width;
    struct text_entry *e = NULL;
    size_t bytes;
    if (!taca_mul(&bytes, (size_t)rows, (size_t)joint) ||
        !taca_add_size(&bytes, bytes, (size_t)pooled) || !taca_mul(&bytes, bytes, sizeof(float)))
        return taca_fail(err, TACA_ENOMEM, "a context of %" PRId64 " x %" PRId64, rows, joint);
    text_cache_trim(&t->cache, bytes);
    enum taca_code rc = text_entry_open(&e, t->b, key->ids, key->n, bytes, err);
    if (rc != TACA_OK) return rc;
    float *values = e->block;
    e->cond.context = (struct taca_mat){values, TACA_F32, rows, joint, joint};
    e->cond.pooled = (struct taca_mat){values + rows * joint, TACA_F32, 1, pooled, pooled};
    e->cond.cut = key->cut;
    rc = encode(t, s, e, err);
    if (rc != TACA_OK) {
        text_entry_close(e, t->b);
        return rc;
    }
    *out = e;
    return TACA_OK;
}

enum taca_code text_acquire(struct text *t, struct taca_scratch *s, const struct text_prompt *p,
                            const struct text_cond **out, struct taca_err *err) {
    struct key key = {0};
    struct text_entry *e = NULL;
    enum taca_code rc = make_key(t, p, &key, err);
    if (rc != TACA_OK) goto out;
    e = text_cache_find(&t->cache, key.ids, key.n);
    if (e) {
        t->stats.hits++;
    } else {
        t->stats.misses++;
        rc = make_entry(t, s, &key, &e, err);
        if (rc != TACA_OK) goto out;
        text_cache_add(&t->cache, e);
    }
    e->refs++;
    text_cache_trim(&t->cache, 0);
    *out = &e->cond;
out:
    free(key.ids);
    return rc;
}

void text_release(struct text *t, const struct text_cond *c) {
    if (!c) return;
    struct text_entry *e = (struct text_entry *)c; /* its first member */
    e->refs--;
    text_cache_trim(&t->cache, 0);
}
