/* tok_t5.h - the T5 unigram tokenizer, with exactly the ids of the reference.
 *
 * Normalises by the vocabulary's own character map, marks words with U+2581 and takes the most
 * likely pieces; the rules are those of the Hugging Face fast tokenizer. Vocabulary and special ids
 * come from the files, not from constants. Knows nothing of encoders. */
#ifndef TACA_ENGINE_TEXT_TOK_T5_H
#define TACA_ENGINE_TEXT_TOK_T5_H

#include <stdint.h>

#include "base/err.h"

struct tok_t5;

/* dir holds tokenizer.json, or spiece.model with tokenizer_config.json where it is needed: "legacy"
 * (absent counts as true) sets U+2581 before every segment instead of the first alone, "extra_ids"
 * (100) is the number of tokens <extra_id_N> after the pieces of the file. */
enum taca_code tok_t5_open(struct tok_t5 **out, const char *dir,
                           struct taca_err *err) TACA_MUST_USE;
void tok_t5_close(struct tok_t5 *t);      /* NULL is fine */
int tok_t5_vocab(const struct tok_t5 *t); /* largest id + 1 */

/* Fills ids[0..len): the text's ids, EOS, padding; a longer text keeps its first len - 1 ids.
 * *n_total (may be NULL) gets the length with EOS before truncation. text is UTF-8; malformed bytes
 * count as U+FFFD. len >= 1. On failure what ids hold is undefined. */
enum taca_code tok_t5_encode(const struct tok_t5 *t, const char *text, int32_t *ids, int len,
                             int *n_total, struct taca_err *err) TACA_MUST_USE;

#endif
