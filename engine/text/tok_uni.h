/* tok_uni.h - what the parts of the T5 tokenizer share: pieces found by prefix, the character map,
 * the best path through a word.
 *
 * Private to engine/text. A text goes  bytes -> segments between special tokens (tok_t5.c) ->
 * normalised text (tok_charsmap.c) -> words (tok_t5.c) -> ids (tok_uni.c); tok_t5_files.c and
 * tok_spiece.c fill struct tok_t5 from a checkpoint's files. */
#ifndef TACA_ENGINE_TEXT_TOK_UNI_H
#define TACA_ENGINE_TEXT_TOK_UNI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"

enum { UNI_MAX_ID = 1 << 24, UNI_MAX_PIECE = 512 /* bytes */ };
#define UNI_SPACE "\xE2\x96\x81" /* U+2581, which begins a word */

/* ---- pieces ---------------------------------------------------------------------------------- */

struct uni_piece {
    const char *text;
    uint32_t len;
    int32_t id;
    uint32_t order;      /* of addition */
    bool lstrip, rstrip; /* of a special token: takes the white space beside it along */
    double score;
};
/* Sorted by bytes once all are added, so a common prefix is a range. */
struct uni_vocab {
    struct uni_piece *piece;
    size_t n, cap;
    uint32_t first[257]; /* first piece that begins with that byte, or with a later one */
};
/* False when out of memory. The text is kept by reference. An empty one is left out. */
bool uni_vocab_add(struct uni_vocab *v, const struct uni_piece *p);
/* Makes v searchable; of equal texts the last one added stays. Adding afterwards needs another. */
void uni_vocab_sort(struct uni_vocab *v);
const struct uni_piece *uni_vocab_find(const struct uni_vocab *v, const char *s, size_t len);
/* The longest piece that s begins with, NULL when there is none. */
const struct uni_piece *uni_vocab_longest(const struct uni_vocab *v, const char *s, size_t len);
void uni_vocab_finish(struct uni_vocab *v);

/* ---- the best path --------------------------------------------------------------------------- */

/* Places between the bytes of a word; memory is kept from word to word. */
struct uni_node {
    double score;
    uint32_t from; /* where the piece that ends here begins; UINT32_MAX: nothing ends here */
    int32_t id;
};
struct uni_path {
    struct uni_node *node;
    size_t cap;
};
struct uni_model {
    struct uni_vocab vocab;
    int32_t unk;
    double unk_score; /* of a character that is no piece */
};
/* Splits a word so that the sum of scores is largest, of equal sums the one with the longer last
 * piece, and gives each id to `emit`, neighbouring unknowns as one. False when out of memory. */
bool uni_split(const struct uni_model *m, struct uni_path *path, const char *s, size_t len,
               void (*emit)(void *ctx, int32_t id), void *ctx);
void uni_path_finish(struct uni_path *p);

/* ---- the character map ----------------------------------------------------------------------- */

/* A trie over UTF-8 (a double array) and the replacements it points to. */
struct uni_charsmap {
    const uint32_t *unit;
    size_t n_units;
    const char *text;
    size_t text_len;
};
/* From the bytes of `precompiled_charsmap`; copies into `a`. */
enum taca_code uni_charsmap_load(struct uni_charsmap *m, struct taca_arena *a,
                                 const unsigned char *bytes, size_t len, const char *what,
                                 struct taca_err *err) TACA_MUST_USE;
/* Appends valid UTF-8 to out: a grapheme cluster of less than 6 bytes as what its shortest known
 * prefix stands for, all else code point by code point. */
void uni_charsmap_apply(const struct uni_charsmap *m, struct taca_buf *out, const char *s,
                        size_t len);

/* ---- the tokenizer --------------------------------------------------------------------------- */

enum uni_prepend { UNI_NEVER, UNI_FIRST, UNI_ALWAYS };

struct tok_t5 {
    struct taca_arena arena; /* texts of pieces, the character map */
    struct uni_model model;
    struct uni_vocab special; /* cut out of the raw text before anything else */
    struct uni_charsmap map;  /* no units: none */
    bool strip_right;         /* white space at the end of a segment goes */
    bool collapse;            /* a run of spaces is one */
    bool split_space;         /* words are split at white space first */
    bool split;               /* and before each U+2581 */
    enum uni_prepend prepend; /* U+2581 before what has none: in no, the first, any segment */
    int32_t eos, pad;
    int n_ids;
};

enum taca_code tok_t5_load(struct tok_t5 *t, const char *dir, struct taca_err *err) TACA_MUST_USE;
/* Pieces and character map of a SentencePiece model, ids in file order; sets model.unk. */
enum taca_code tok_spiece_read(struct tok_t5 *t, const unsigned char *data, size_t size,
                               const char *path, struct taca_err *err) TACA_MUST_USE;
/* Adds a piece: text copied, id = the number of pieces so far. */
enum taca_code tok_t5_add(struct tok_t5 *t, const char *text, size_t len, double score,
                          const char *path, struct taca_err *err) TACA_MUST_USE;

#endif
