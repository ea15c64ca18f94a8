/* text_parts.h - an opened text inside, and what a family of models does with it. Private to
 * engine/text.
 *
 * text.c tokenizes, keeps the cache and calls the family; text_open.c opens encoders; text_sd3.c
 * and text_flux.c know what a transformer wants to see. */
#ifndef TACA_ENGINE_TEXT_TEXT_PARTS_H
#define TACA_ENGINE_TEXT_TEXT_PARTS_H

#include "engine/text/clip.h"
#include "engine/text/t5.h"
#include "engine/text/text.h"
#include "engine/text/text_cache.h"
#include "engine/text/tok_bpe.h"
#include "engine/text/tok_t5.h"

enum { TEXT_MAX_CLIPS = 2 };

struct text_clip {
    struct tok_bpe *tok;
    struct clip *clip;
};

struct text {
    struct taca_backend *b;
    struct text_opts opts;
    const struct text_rules *rules;
    struct text_clip clip[TEXT_MAX_CLIPS];
    int clip_tokens;
    struct tok_t5 *t5_tok; /* NULL with t5: absent */
    struct t5 *t5;
    int64_t parameters;
    size_t scratch_bytes, most_held;
    struct text_cache cache;
    struct text_stats stats;
};

/* What a prompt is to the encoders. */
struct text_key {
    const int32_t *clip[TEXT_MAX_CLIPS]; /* clip_tokens each */
    const int32_t *t5;                   /* NULL without a T5 encoder */
    int n_t5, clip_skip;
};

struct text_rules {
    const char *name;
    int n_clips;
    enum taca_component t5, t5_tok;
    int t5_prompt;    /* which of the three prompts it reads; CLIP encoder i reads prompt i */
    bool clip_rows;   /* the context begins with CLIP's rows, which clip_skip changes */
    bool unprojected; /* pooled is not multiplied by a text_projection */
    /* That the encoders fit each other and the transformer. */
    enum taca_code (*check)(const struct text *t, const char *path, struct taca_err *err);
    /* Fills cond's views, of the right shapes and zeroed. Queued. */
    enum taca_code (*encode)(struct text *t, struct taca_scratch *s, const struct text_key *k,
                             const struct text_cond *cond, struct taca_err *err);
};
extern const struct text_rules text_sd3_rules, text_flux_rules;

/* The encoders and tokenizers of the family; t->rules and opts are set. */
enum taca_code text_open_encoders(struct text *t, const struct taca_model_dir *dir,
                                  struct taca_err *err) TACA_MUST_USE;
/* One CLIP encoder; hidden or pooled may be zeroed. Counted. */
enum taca_code text_run_clip(struct text *t, struct taca_scratch *s, int i,
                             const struct text_key *k, const struct clip_out *out,
                             struct taca_err *err) TACA_MUST_USE;
/* T5 into `rows` [n_t5, its width]. Counted. */
enum taca_code text_run_t5(struct text *t, struct taca_scratch *s, const struct text_key *k,
                           struct taca_mat rows, struct taca_err *err) TACA_MUST_USE;
/* That T5's rows are as wide as the transformer takes; fine without T5. */
enum taca_code text_check_t5(const struct text *t, const char *path,
                             struct taca_err *err) TACA_MUST_USE;

#endif
