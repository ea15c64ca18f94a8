/* mem.c - see mem.h. An arena's blocks double up to 1 MiB; a larger request gets a block of its
 * own.
 */
#include "base/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { FIRST_BLOCK = 512, LARGEST_BLOCK = 1 << 20, ALIGN = 16 };

enum { LINE = 64, HUGE_PAGE = 2 << 20 };

void *taca_block_alloc(size_t bytes) {
    const size_t align = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : LINE;
    if (bytes > PTRDIFF_MAX - align) return NULL;
    void *p = aligned_alloc(align, (bytes + align - 1) / align * align);
    if (p && align == HUGE_PAGE) madvise(p, bytes, MADV_HUGEPAGE); /* not of the filling */
    return p;
}

struct taca_arena_block {
    struct taca_arena_block *next;
    size_t size, used;
    _Alignas(ALIGN) unsigned char data[];
};

static struct taca_arena_block *add_block(struct taca_arena *a, size_t need) {
    size_t size = a->blocks ? a->blocks->size * 2 : FIRST_BLOCK;
    if (size > LARGEST_BLOCK) size = LARGEST_BLOCK;
    if (size < need) size = need;
    struct taca_arena_block *b = calloc(1, sizeof *b + size);
    if (!b) return NULL;
    b->size = size;
    b->next = a->blocks;
    a->blocks = b;
    return b;
}

void *taca_arena_alloc(struct taca_arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 4) return NULL;
    size_t need = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    struct taca_arena_block *b = a->blocks;
    if (!b || b->size - b->used < need) {
        b = add_block(a, need);
        if (!b) return NULL;
    }
    void *p = b->data + b->used;
    b->used += need;
    a->total_bytes += need;
    return p;
}

char *taca_arena_strndup(struct taca_arena *a, const char *s, size_t len) {
    char *p = len < SIZE_MAX ? taca_arena_alloc(a, len + 1) : NULL;
    if (p) memcpy(p, s, len);
    return p;
}

void taca_arena_finish(struct taca_arena *a) {
    while (a->blocks) {
        struct taca_arena_block *next = a->blocks->next;
        free(a->blocks);
        a->blocks = next;
    }
    a->total_bytes = 0;
}
