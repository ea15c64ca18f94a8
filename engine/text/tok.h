/* tok.h - what the parts of the CLIP tokenizer share: code points, the merge table, specials.
 *
 * Private to engine/text. A text goes  bytes -> code points (tok_norm.c) -> pieces (tok_bpe.c) ->
 * ids (tok_merge.c); tok_files.c fills struct tok_bpe from a checkpoint's files. */
#ifndef TACA_ENGINE_TEXT_TOK_H
#define TACA_ENGINE_TEXT_TOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

/* ---- code points ----------------------------------------------------------------------------- */

struct tok_cps {
    int32_t *cp;
    size_t n, cap;
};
/* Replaces the content of *t by the NFC of s, white space as ' ', each code point in lower case.
 * Malformed bytes count as U+FFFD. False when out of memory. */
bool tok_normalize(struct tok_cps *t, const char *s, size_t len);
void tok_cps_finish(struct tok_cps *t);

enum tok_class { TOK_SPACE, TOK_LETTER, TOK_NUMBER, TOK_OTHER };
enum tok_class tok_class_of(int32_t cp); /* of a normalised code point */
bool tok_is_space(int32_t cp);           /* Unicode's White_Space */
int tok_utf8(unsigned char out[4], int32_t cp);

/* ---- merges ---------------------------------------------------------------------------------- */

/* Open addressing over pairs of ids; left = -1 marks a free slot. */
struct tok_merge {
    int32_t left, right, rank, id;
};
struct tok_merges {
    struct tok_merge *slot;
    size_t mask; /* slots - 1, a power of two minus one */
};
/* Room for n merges. */
bool tok_merges_init(struct tok_merges *m, size_t n);
/* The last merge of a pair wins, as in the reference. At most the n of init. */
void tok_merges_put(struct tok_merges *m, struct tok_merge merge);
void tok_merges_finish(struct tok_merges *m);

/* One piece being merged: its symbols, linked so that a merge is O(1), and the candidates by rank
 * and position. Memory is kept from piece to piece. */
struct tok_symbol {
    int32_t id; /* -1: merged into its left neighbour */
    int32_t prev, next;
};
struct tok_piece {
    struct tok_symbol *symbol;
    uint64_t *heap;
    size_t n, n_heap, cap;
};
/* Room for n symbols; false when out of memory. */
bool tok_piece_reserve(struct tok_piece *p, size_t n);
/* Merges symbol[0..n) (ids set) until no pair has a rank; the result hangs on symbol[0].next. */
void tok_piece_merge(struct tok_piece *p, const struct tok_merges *m);
void tok_piece_finish(struct tok_piece *p);

/* ---- the tokenizer --------------------------------------------------------------------------- */

/* A token that is cut out of the text before anything is split: as bytes of the raw text, or as
 * code points of the normalised one. */
struct tok_special {
    const char *text;
    size_t len;
    struct tok_cps cps; /* of a normalised one */
    int32_t id;
    bool normalized;
    bool listed; /* declared with its own flags, which a role such as pad does not change */
};

struct tok_bpe {
    struct taca_arena arena; /* texts of the specials */
    struct tok_merges merges;
    int32_t first[256], last[256]; /* id of a byte, and of a byte that ends a piece */
    int32_t bos, eos, pad, unk;    /* unk = -1: unknown bytes vanish */
    int vocab, max_length;
    struct tok_special *special;
    size_t n_special;
};

enum taca_code tok_files_load(struct tok_bpe *t, const char *dir,
                              struct taca_err *err) TACA_MUST_USE;

#endif
