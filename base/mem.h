/* mem.h - sizes that cannot overflow, blocks for numbers, and an arena for things that die
 * together.
 */
#ifndef TACA_BASE_MEM_H
#define TACA_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* *out = a * b; false (and *out untouched) when it does not fit. Every size with a factor from
 * outside (a file, a request) goes through here. */
static inline bool taca_mul(size_t *out, size_t a, size_t b) {
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}
static inline bool taca_add_size(size_t *out, size_t a, size_t b) {
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

/* Aligned to 64 bytes, not zeroed, NULL when out of memory; free() frees. From 4 MiB on it asks for
 * huge pages: faults on 4 KiB ones cost more than reading a checkpoint, and products 2 % of their
 * time. */
void *taca_block_alloc(size_t bytes);

/* A bump allocator: everything taken from it is freed by taca_arena_finish, nothing before.
 * Zero-initialise it. Not for more than one thread at a time. */
struct taca_arena {
    struct taca_arena_block *blocks;
    size_t total_bytes; /* handed out */
};

/* Zeroed memory aligned to 16, NULL when out of memory or when bytes is absurd. */
void *taca_arena_alloc(struct taca_arena *a, size_t bytes);
/* A NUL-terminated copy of len bytes. */
char *taca_arena_strndup(struct taca_arena *a, const char *s, size_t len);
void taca_arena_finish(struct taca_arena *a); /* frees everything; *a is empty and usable again */

#endif
