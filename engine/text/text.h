/* text.h - prompts to conditioning, through every encoder that a checkpoint has, with a cache.
 *
 * SD3: context = [clip_l ++ clip_g on channels, zero-padded on the right to the joint width]
 * followed by the T5 rows (zero rows: T5 is absent); pooled = clip_l ++ clip_g. One thread. */
#ifndef TACA_ENGINE_TEXT_TEXT_H
#define TACA_ENGINE_TEXT_TEXT_H

#include "engine/io/model_dir.h"
#include "kernels/backend.h"

struct text;

struct text_opts {
    int64_t joint_width, pooled_width; /* what the transformer takes */
    int t5_tokens;                     /* rows of the T5 slot */
    size_t cache_bytes;
};

/* TACA_EUNSUPPORTED when the directory has a T5 encoder. dir is not needed afterwards. */
enum taca_code text_open(struct text **out, struct taca_backend *b,
                         const struct taca_model_dir *dir, const struct text_opts *opts,
                         struct taca_err *err) TACA_MUST_USE;
void text_close(struct text *t);            /* with all conds, held or not; NULL is fine */
int text_tokens(const struct text *t);      /* rows of every context */
int text_clip_tokens(const struct text *t); /* of them CLIP */
int64_t text_parameters(const struct text *t);
int64_t text_weight_bytes(const struct text *t); /* on the device */
/* Scratch that an encode needs at most. */
size_t text_scratch_bytes(const struct text *t);

struct text_prompt {
    const char *prompt, *prompt_2, *prompt_3; /* NULL or "" for 2 and 3 = prompt */
    int clip_skip;
};

/* An encoded prompt in the cache: valid until text_release; the cache drops what nobody holds. */
struct text_cond {
    struct taca_mat context; /* [text_tokens, joint_width] f32 */
    struct taca_mat pooled;  /* [1, pooled_width] f32 */
    bool cut;                /* the prompt had more tokens than an encoder takes */
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

/* Reference ids for tests and `taca verify`: encoder 0 = CLIP-L, 1 = CLIP-G. Returns their number,
 * text_clip_tokens, or -1 when they are more than max. */
int text_ids(const struct text *t, int encoder, const char *prompt, int32_t *ids, int max);

#endif
