/* clip.h - the CLIP text encoder (CLIP-L, OpenCLIP bigG and any other size; the config says which).
 *
 * Hidden state: output of layer N-2 (the input of the last one, no final norm), or earlier with
 * clip_skip. Pooled: final norm of the last layer at the first EOS, through text_projection if
 * there is one. Knows nothing of prompts: it takes ids. */
#ifndef TACA_ENGINE_TEXT_CLIP_H
#define TACA_ENGINE_TEXT_CLIP_H

#include <jansson.h>

#include "engine/io/checkpoint.h"
#include "kernels/backend.h"

struct clip;

enum taca_code clip_open(struct clip **out, struct taca_backend *b, const json_t *config,
                         struct taca_ckpt *ckpt, struct taca_err *err) TACA_MUST_USE;
void clip_close(struct clip *c);          /* the weights go with the backend; NULL is fine */
int64_t clip_width(const struct clip *c); /* of hidden */
int64_t clip_pooled_width(const struct clip *c);
int clip_max_positions(const struct clip *c);
int clip_vocab(const struct clip *c);
int64_t clip_weight_bytes(const struct clip *c); /* on the device */
size_t clip_mapped_bytes(const struct clip *c);  /* of the file, which stays open: its tokens */

/* n_seq prompts of `len` tokens each. */
struct clip_in {
    const int32_t *ids; /* [n_seq * len], host; NULL is fine on a counting backend */
    int n_seq, len;
    int32_t eos;      /* the id that ends a prompt */
    int clip_skip;    /* 0..layers-1: hidden comes from that many layers further up */
    bool unprojected; /* pooled [n_seq, width]: no text_projection though there is one */
};
/* Views on the backend; a zeroed one (rows == 0) is not wanted and not computed. */
struct clip_out {
    struct taca_mat hidden; /* [n_seq * len, width] f32 */
    struct taca_mat pooled; /* [n_seq, pooled_width] f32 */
    struct taca_mat last;   /* as hidden: the final-normed output of the last layer */
};
/* Queues the work; s is scratch whose `used` is restored. b may be another backend than that of
 * the weights only when it counts. */
enum taca_code clip_encode(const struct clip *c, struct taca_backend *b, struct taca_scratch *s,
                           const struct clip_in *in, const struct clip_out *out,
                           struct taca_err *err) TACA_MUST_USE;

#endif
