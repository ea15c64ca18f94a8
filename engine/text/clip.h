/* clip.h - the CLIP text encoder (CLIP-L, OpenCLIP bigG and any other size; the config says which).
 *
 * Hidden state: output of layer N-2 (the input of the last one, no final norm), or earlier with
 * clip_skip. Pooled: final norm of the last layer at the first EOS, through text_projection if
 * there is one. */
#ifndef TACA_ENGINE_TEXT_CLIP_H
#define TACA_ENGINE_TEXT_CLIP_H

#include <jansson.h>

#include "engine/io/checkpoint.h"
#include "kernels/backend.h"

struct clip;

enum taca_code clip_open(struct clip **out, struct taca_backend *b, const json_t *config,
                         struct taca_ckpt *ckpt, struct taca_err *err) TACA_MUST_USE;
void clip_close(struct clip *c);          /* the weights go with the backend */
int64_t clip_width(const struct clip *c); /* of hidden */
int64_t clip_pooled_width(const struct clip *c);
int clip_max_positions(const struct clip *c);
int clip_vocab(const struct clip *c);

/* n_seq prompts of `len` tokens each, ids [n_seq * len] on the host, eos = the id that ends a
 * prompt. hidden  [n_seq * len, width] f32, pooled [n_seq, pooled_width] f32, either may have data
 * NULL last    as hidden: the final-normed last hidden state, data NULL when not wanted s scratch;
 * its `used` is restored */
struct clip_out {
    struct taca_mat hidden, pooled, last;
};
void clip_encode(struct clip *c, struct taca_backend *b, struct taca_scratch *s, const int32_t *ids,
                 int n_seq, int len, int32_t eos, int clip_skip, const struct clip_out *out);

#endif
