/* tok_bpe.h - the CLIP byte-pair tokenizer, with exactly the ids of the reference.
 *
 * Normalises (NFC, white space, lower case), splits, and merges; the rules are those of the Hugging
 * Face fast tokenizer. Vocabulary sizes and special ids come from the files, not from constants. */
#ifndef TACA_ENGINE_TEXT_TOK_BPE_H
#define TACA_ENGINE_TEXT_TOK_BPE_H

#include <stdint.h>

#include "base/err.h"

struct tok_bpe;

/* dir holds merges.txt and vocab.json (or tokenizer.json), plus special_tokens_map.json /
 * tokenizer_config.json, which name the pad token; with pad token "!" every '!' of a text is a
 * special token of id 0. */
enum taca_code tok_bpe_open(struct tok_bpe **out, const char *dir,
                            struct taca_err *err) TACA_MUST_USE;
void tok_bpe_close(struct tok_bpe *t);
int tok_bpe_vocab(const struct tok_bpe *t); /* largest id + 1 */
/* model_max_length of the config, 77 if it has none. */
int tok_bpe_max_length(const struct tok_bpe *t);
int32_t tok_bpe_eos(const struct tok_bpe *t);

/* Fills ids[0..len): BOS, the text's ids, EOS, padding; a longer text keeps its first len - 2 ids.
 * *n_total (may be NULL) gets the length with BOS and EOS before truncation. text is UTF-8;
 * malformed bytes count as U+FFFD. len >= 2. On failure what ids hold is undefined. */
enum taca_code tok_bpe_encode(const struct tok_bpe *t, const char *text, int32_t *ids, int len,
                              int *n_total, struct taca_err *err) TACA_MUST_USE;

#endif
