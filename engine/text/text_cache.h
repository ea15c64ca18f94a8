/* text_cache.h - encoded prompts, most recently used first, within a number of bytes.
 *
 * Entries are found by the ids that made them. A held entry (refs > 0) is never dropped, so the
 * total passes the limit while more is held than it allows. Private to engine/text; one thread. */
#ifndef TACA_ENGINE_TEXT_TEXT_CACHE_H
#define TACA_ENGINE_TEXT_TEXT_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/text/text.h"

struct text_entry {
    struct text_cond cond; /* first: a holder gives it back */
    struct text_entry *prev, *next;
    void *block; /* on the backend: context, then pooled */
    size_t bytes;
    int refs;
    uint64_t hash;
    size_t n_key;
    int32_t key[];
};

struct text_cache {
    struct taca_backend *b;
    size_t max, bytes;
    int n_entries;
    struct text_entry *first, *last;
};

/* An entry with room for block_bytes on the backend and a copy of the key, in no cache yet. */
enum taca_code text_entry_open(struct text_entry **out, struct taca_backend *b, const int32_t *key,
                               size_t n_key, size_t block_bytes,
                               struct taca_err *err) TACA_MUST_USE;
void text_entry_close(struct text_entry *e, struct taca_backend *b); /* NULL is fine */

struct text_entry *text_cache_find(struct text_cache *c, const int32_t *key, size_t n_key);
/* Takes e over, as the most recent one. */
void text_cache_add(struct text_cache *c, struct text_entry *e);
/* Drops old entries that nobody holds until bytes + room <= max, or none is left. */
void text_cache_trim(struct text_cache *c, size_t room);
void text_cache_finish(struct text_cache *c); /* held or not */

#endif
