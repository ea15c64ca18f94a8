/* text_cache.c - see text_cache.h. A list: entries are megabytes each, so there are few. */
#include "engine/text/text_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static uint64_t hash_key(const int32_t *key, size_t n) {
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint32_t)key[i]) * 0x100000001B3u;
    return h;
}

enum taca_code text_entry_open(struct text_entry **out, struct taca_backend *b, const int32_t *key,
                               size_t n_key, size_t block_bytes, struct taca_err *err) {
    struct text_entry *e = calloc(1, sizeof *e + n_key * sizeof *key);
    if (!e) return taca_fail(err, TACA_ENOMEM, "out of memory for a prompt");
    e->block = taca_alloc(b, block_bytes, err);
    if (!e->block) {
        free(e);
        return taca_alloc_code(b);
    }
    memcpy(e->key, key, n_key * sizeof *key);
    e->n_key = n_key;
    e->hash = hash_key(key, n_key);
    e->bytes = block_bytes + sizeof *e + n_key * sizeof *key;
    *out = e;
    return TACA_OK;
}

void text_entry_close(struct text_entry *e, struct taca_backend *b) {
    if (!e) return;
    taca_free(b, e->block);
    free(e);
}

static void unlink_entry(struct text_cache *c, struct text_entry *e) {
    *(e->prev ? &e->prev->next : &c->first) = e->next;
    *(e->next ? &e->next->prev : &c->last) = e->prev;
}

static void link_first(struct text_cache *c, struct text_entry *e) {
    e->prev = NULL;
    e->next = c->first;
    *(e->next ? &e->next->prev : &c->last) = e;
    c->first = e;
}

struct text_entry *text_cache_find(struct text_cache *c, const int32_t *key, size_t n_key) {
    const uint64_t hash = hash_key(key, n_key);
    for (struct text_entry *e = c->first; e; e = e->next) {
        if (e->hash != hash || e->n_key != n_key || memcmp(e->key, key, n_key * sizeof *key) != 0)
            continue;
        unlink_entry(c, e);
        link_first(c, e);
        return e;
    }
    return NULL;
}

void text_cache_add(struct text_cache *c, struct text_entry *e) {
    link_first(c, e);
    c->bytes += e->bytes;
    c->n_entries++;
}

void text_cache_trim(struct text_cache *c, size_t room) {
    const size_t allowed = room < c->max ? c->max - room : 0;
    for (struct text_entry *e = c->last, *before; e && c->bytes > allowed; e = before) {
        before = e->prev;
        if (e->refs > 0) continue;
        unlink_entry(c, e);
        c->bytes -= e->bytes;
        c->n_entries--;
        text_entry_close(e, c->b);
    }
}

void text_cache_finish(struct text_cache *c) {
    while (c->first) {
        struct text_entry *e = c->first;
        unlink_entry(c, e);
        text_entry_close(e, c->b);
    }
    *c = (struct text_cache){0};
}
