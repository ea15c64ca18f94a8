/* t5.h - the T5 v1.1 text encoder (XXL and any other size; the config says which).
 *
 * Gives the final-normed hidden states of all tokens, padding included: no token is masked. Knows
 * nothing of prompts: it takes ids. */
#ifndef TACA_ENGINE_TEXT_T5_H
#define TACA_ENGINE_TEXT_T5_H

#include <jansson.h>

#include "engine/io/checkpoint.h"
#include "kernels/backend.h"

struct t5;

/* For prompts of at most max_tokens. */
enum taca_code t5_open(struct t5 **out, struct taca_backend *b, const json_t *config,
                       struct taca_ckpt *ckpt, int max_tokens, struct taca_err *err) TACA_MUST_USE;
void t5_close(struct t5 *t); /* the weights go with the backend; NULL is fine */
int64_t t5_width(const struct t5 *t);
int t5_vocab(const struct t5 *t);
int64_t t5_weight_bytes(const struct t5 *t); /* on the device */
size_t t5_mapped_bytes(const struct t5 *t);  /* of the file, which stays open: its tokens */

/* n_seq prompts of `len` tokens each; ids [n_seq * len] in host memory (NULL is fine on a counting
 * backend), out [n_seq * len, width] f32. Queues the work; s is scratch whose `used` is restored. b
 * may be another backend than that of the weights only when it counts. */
enum taca_code t5_encode(const struct t5 *t, struct taca_backend *b, struct taca_scratch *s,
                         const int32_t *ids, int n_seq, int len, struct taca_mat out,
                         struct taca_err *err) TACA_MUST_USE;

/* Which row of the bias table holds for a key that is `distance` places after its query (negative:
 * before). Half of the buckets are for each direction; near ones are exact, the rest go by the
 * logarithm up to max_distance. */
int64_t t5_bucket(int64_t distance, int64_t buckets, int64_t max_distance);

#endif
