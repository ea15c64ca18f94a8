/* text.c - see text.h. Each prompt is tokenized for every encoder; the ids are the cache's key, so
 * texts that differ only in spelling share an entry. */
#include "engine/text/text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/text/text_parts.h"

/* ---- open ------------------------------------------------------------------------------------ */

enum taca_code text_count(struct text *t, struct taca_backend *count, int t5_tokens,
                          size_t *scratch_bytes, struct taca_err *err) {
    static const int32_t any[1]; /* a dry run reads no ids; T5 is there */
    const int64_t rows = text_rows(t, t5_tokens), joint = t->opts.joint_width,
                  pooled = t->opts.pooled_width;
    const struct text_stats stats = t->stats;
    struct taca_scratch s = {.b = count};
    const struct text_key k = {.t5 = t->t5 ? any : NULL,
                               .n_t5 = t5_tokens ? t5_tokens : t->opts.t5_tokens};
    const struct text_cond cond = {.context = {NULL, TACA_F32, rows, joint, joint},
                                   .pooled = {NULL, TACA_F32, 1, pooled, pooled}};
    enum taca_code rc = t->rules->encode(t, &s, &k, &cond, err);
    if (rc == TACA_OK) rc = taca_sync(count, err);
    t->stats = stats; /* that was no run */
    *scratch_bytes = s.peak;
    return rc;
}

/* The scratch of an encode is learnt by a dry run of the longest one. */
static enum taca_code measure(struct text *t, struct taca_err *err) {
    struct taca_backend *count = NULL;
    enum taca_code rc = taca_count_open(&count, taca_backend_precision(t->b), err);
    if (rc == TACA_OK) rc = text_count(t, count, TACA_MAX_T5_TOKENS, &t->scratch_bytes, err);
    taca_backend_close(count);
    return rc;
}

enum taca_code text_open(struct text **out, struct taca_backend *b,
                         const struct taca_model_dir *dir, const struct text_opts *opts,
                         struct taca_err *err) {
    const struct text_rules *rules = opts->family == TEXT_FLUX ? &text_flux_rules : &text_sd3_rules;
    if (opts->t5_tokens < !rules->clip_rows || opts->t5_tokens > TACA_MAX_T5_TOKENS)
        return taca_fail(err, TACA_EINVAL, "%s: %d T5 tokens, %s takes %d..%d", dir->path,
                         opts->t5_tokens, rules->name, !rules->clip_rows, TACA_MAX_T5_TOKENS);
    struct text *t = calloc(1, sizeof *t);
    if (!t) return taca_fail(err, TACA_ENOMEM, "%s: out of memory", dir->path);
    t->b = b;
    t->opts = *opts;
    t->rules = rules;
    t->cache = (struct text_cache){.b = b, .max = opts->cache_bytes};
    enum taca_code rc = text_open_encoders(t, dir, err);
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
    for (int i = 0; i < TEXT_MAX_CLIPS; i++) {
        tok_bpe_close(t->clip[i].tok);
        clip_close(t->clip[i].clip);
    }
    tok_t5_close(t->t5_tok);
    t5_close(t->t5);
    free(t);
}

int text_tokens(const struct text *t) { return text_rows(t, 0); }
int text_rows(const struct text *t, int t5_tokens) {
    return (t->rules->clip_rows ? t->clip_tokens : 0) + (t5_tokens ? t5_tokens : t->opts.t5_tokens);
}
int text_clip_tokens(const struct text *t) { return t->clip_tokens; }
bool text_has_t5(const struct text *t) { return t->t5 != NULL; }
size_t text_scratch_bytes(const struct text *t) { return t->scratch_bytes; }
size_t text_most_held(const struct text *t) { return t->most_held; }
size_t text_mapped_bytes(const struct text *t) {
    size_t bytes = t->t5 ? t5_mapped_bytes(t->t5) : 0;
    for (int i = 0; i < t->rules->n_clips; i++) bytes += clip_mapped_bytes(t->clip[i].clip);
    return bytes;
}
size_t text_cond_bytes(const struct text *t, int t5_tokens) {
    const int64_t joint = t->opts.joint_width, pooled = t->opts.pooled_width;
    return (size_t)(text_rows(t, t5_tokens) * joint + pooled) * sizeof(float);
}
int64_t text_parameters(const struct text *t) { return t->parameters; }

int64_t text_weight_bytes(const struct text *t) {
    int64_t bytes = t->t5 ? t5_weight_bytes(t->t5) : 0;
    for (int i = 0; i < t->rules->n_clips; i++) bytes += clip_weight_bytes(t->clip[i].clip);
    return bytes;
}

struct text_stats text_stats(const struct text *t) {
    struct text_stats s = t->stats;
    s.bytes = t->cache.bytes;
    s.entries = t->cache.n_entries;
    return s;
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* [ids of each CLIP encoder][ids of T5][cut][clip_skip][T5 tokens]. What was cut belongs to it: a
 * text that just fits and one that goes on have the same ids. */
enum { CUT = 1, CLIP_CUT = 2 };
struct key {
    int32_t *ids;
    size_t n;
};

/* The prompt that an encoder reads: its own, unless that is missing or empty. */
static const char *prompt_of(const struct text_prompt *p, int which) {
    const char *const all[] = {p->prompt, p->prompt_2, p->prompt_3};
    const char *own = all[which];
    return own && own[0] ? own : p->prompt ? p->prompt : "";
}

static int t5_tokens(const struct text *t, const struct text_prompt *p) {
    return p->t5_tokens ? p->t5_tokens : t->opts.t5_tokens;
}

int text_ids(const struct text *t, enum text_encoder encoder, const struct text_prompt *p,
             int32_t *ids, int max) {
    const bool t5 = encoder == TEXT_T5;
    const int n = t5 ? t5_tokens(t, p) : t->clip_tokens;
    enum taca_code rc;
    if (t5 ? !t->t5 : !t->clip[encoder].tok) return 0;
    if (n > max) return -1;
    if (t5)
        rc = tok_t5_encode(t->t5_tok, prompt_of(p, t->rules->t5_prompt), ids, n, NULL, NULL);
    else
        rc = tok_bpe_encode(t->clip[encoder].tok, prompt_of(p, (int)encoder), ids, n, NULL, NULL);
    return rc == TACA_OK ? n : -1;
}

/* *read: the text that T5 has read to its end, NULL without one. */
static enum taca_code key_of_t5(const struct text *t, const struct text_prompt *p, int32_t *ids,
                                int n, struct key *key, const char **read, struct taca_err *err) {
    const char *text = prompt_of(p, t->rules->t5_prompt);
    int total;
    *read = NULL;
    if (n == 0) return TACA_OK;
    enum taca_code rc = tok_t5_encode(t->t5_tok, text, ids, n, &total, err);
    if (rc != TACA_OK) return rc;
    if (total > n)
        key->ids[key->n - 3] |= CUT;
    else
        *read = text;
    return TACA_OK;
}

static enum taca_code make_key(const struct text *t, const struct text_prompt *p, struct key *key,
                               struct taca_err *err) {
    const int len = t->clip_tokens, n_t5 = t->t5 ? t5_tokens(t, p) : 0;
    const char *read;
    key->n = (size_t)(len * t->rules->n_clips + n_t5 + 3);
    key->ids = malloc(key->n * sizeof *key->ids);
    if (!key->ids) return taca_fail(err, TACA_ENOMEM, "out of memory for a prompt");
    int32_t *tail = key->ids + key->n - 3;
    tail[0] = 0;
    tail[1] = t->rules->clip_rows ? p->clip_skip : 0;
    tail[2] = t5_tokens(t, p);
    enum taca_code rc = key_of_t5(t, p, tail - n_t5, n_t5, key, &read, err);
    for (int i = 0; i < t->rules->n_clips && rc == TACA_OK; i++) {
        const char *text = prompt_of(p, i);
        int total;
        rc = tok_bpe_encode(t->clip[i].tok, text, key->ids + i * len, len, &total, err);
        if (rc == TACA_OK && total > len)
            tail[0] |= read && strcmp(read, text) == 0 ? CLIP_CUT : CUT;
    }
    return rc;
}

static struct text_key tokens_of(const struct text *t, const int32_t *key, size_t n) {
    struct text_key k = {.n_t5 = key[n - 1], .clip_skip = key[n - 2]};
    for (int i = 0; i < t->rules->n_clips; i++) k.clip[i] = key + i * t->clip_tokens;
    if (t->t5) k.t5 = key + t->rules->n_clips * t->clip_tokens;
    return k;
}

/* ---- encode ---------------------------------------------------------------------------------- */

static enum taca_code encode(struct text *t, struct taca_scratch *s, struct text_entry *e,
                             struct taca_err *err) {
    const struct text_key k = tokens_of(t, e->key, e->n_key);
    taca_fill_zero(t->b, e->cond.context.data,
                   (size_t)(e->cond.context.rows * e->cond.context.ld) * sizeof(float));
    enum taca_code rc = t->rules->encode(t, s, &k, &e->cond, err);
    /* what was not queued must not stay in the cache; a device that fails later is lost */
    enum taca_code queued = taca_queued(t->b, err);
    return rc != TACA_OK ? rc : queued;
}

static enum taca_code make_entry(struct text *t, struct taca_scratch *s, const struct key *key,
                                 struct text_entry **out, struct taca_err *err) {
    const int64_t rows = text_rows(t, key->ids[key->n - 1]), joint = t->opts.joint_width,
                  pooled = t->opts.pooled_width;
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
    e->cond.cut = key->ids[key->n - 3] & CUT;
    e->cond.clip_cut = key->ids[key->n - 3] & CLIP_CUT;
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
    if (p->t5_tokens < 0 || p->t5_tokens > TACA_MAX_T5_TOKENS)
        return taca_fail_param(err, "max_sequence_length",
                               "max_sequence_length must be in 1..%d, got %d", TACA_MAX_T5_TOKENS,
                               p->t5_tokens);
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
