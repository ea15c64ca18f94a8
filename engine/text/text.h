/* text.h - prompts to conditioning, through every encoder that a checkpoint has, with a cache.
 *
 * SD3:  context = [clip_l ++ clip_g on channels, zero-padded on the right to the joint width]
 *       followed by the T5 rows (zero rows: T5 is absent); pooled = clip_l ++ clip_g.
 * FLUX: context = the T5 rows; pooled = clip_l without any projection.
 * One thread. */
#ifndef TACA_ENGINE_TEXT_TEXT_H
#define TACA_ENGINE_TEXT_TEXT_H

#include "engine/io/model_dir.h"
#include "engine/params.h"
#include "kernels/backend.h"

struct text;

enum text_family { TEXT_SD3, TEXT_FLUX };

struct text_opts {
    enum text_family family;
    int64_t joint_width, pooled_width; /* what the transformer takes */
    int t5_tokens; /* T5 rows of a prompt that does not say: 0 (SD3: none) .. TACA_MAX_T5_TOKENS */
    size_t cache_bytes;
};

/* dir is not needed afterwards. */
enum taca_code text_open(struct text **out, struct taca_backend *b,
                         const struct taca_model_dir *dir, const struct text_opts *opts,
                         struct taca_err *err) TACA_MUST_USE;
void text_close(struct text *t);       /* with all conds, held or not; NULL is fine */
int text_tokens(const struct text *t); /* rows of a context of a prompt that does not say */
int text_rows(const struct text *t, int t5_tokens); /* of one that does; 0 = does not */
int text_clip_tokens(const struct text *t);         /* that a CLIP encoder takes */
bool text_has_t5(const struct text *t);
int64_t text_parameters(const struct text *t);
int64_t text_weight_bytes(const struct text *t); /* on the device */
/* Scratch that an encode needs at most. */
size_t text_scratch_bytes(const struct text *t);
/* What encoding one prompt of t5_tokens costs (0: as opened). count: a counting backend, whose
 * figures grow by it. *scratch_bytes: what it needs. */
enum taca_code text_count(struct text *t, struct taca_backend *count, int t5_tokens,
                          size_t *scratch_bytes, struct taca_err *err) TACA_MUST_USE;
/* Memory of one prompt in the cache, and what files and conversions took while it was opened. */
size_t text_cond_bytes(const struct text *t, int t5_tokens);
size_t text_most_held(const struct text *t);
size_t text_mapped_bytes(const struct text *t); /* of files that stay open: token embeddings */

struct text_prompt {
    /* NULL or "" for 2 and 3 = prompt. SD3: CLIP-L, CLIP-G, T5; FLUX: CLIP-L, T5. */
    const char *prompt, *prompt_2, *prompt_3;
    int clip_skip; /* SD3 */
    int t5_tokens; /* 0 = as opened */
};

/* An encoded prompt in the cache: valid until text_release; the cache drops what nobody holds. */
struct text_cond {
    struct taca_mat context; /* [text_tokens, joint_width] f32 */
    struct taca_mat pooled;  /* [1, pooled_width] f32 */
    bool cut;                /* a prompt had more tokens than its encoder takes; the rest is lost */
    bool clip_cut;           /* CLIP takes only the start of a prompt that T5 reads to its end */
};
enum taca_code text_acquire(struct text *t, struct taca_scratch *s, const struct text_prompt *p,
                            const struct text_cond **out, struct taca_err *err) TACA_MUST_USE;
void text_release(struct text *t, const struct text_cond *c); /* NULL is fine */

/* What the cache did; passes counts runs of one encoder. */
struct text_stats {
    int64_t hits, misses, passes;
    size_t bytes;
    int entries;
};
struct text_stats text_stats(const struct text *t);

/* The ids of a prompt as that encoder gets them, for tests and `taca verify`. Returns their number,
 * 0 when the family or the checkpoint lacks the encoder, -1 when they are more than max. */
enum text_encoder { TEXT_CLIP_L, TEXT_CLIP_G, TEXT_T5 };
int text_ids(const struct text *t, enum text_encoder encoder, const struct text_prompt *p,
             int32_t *ids, int max);

#endif
