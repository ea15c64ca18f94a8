/* tok_merge.c - byte-pair merges of one piece, in O(n log n). See tok.h.
 *
 * The pair of lowest rank merges first, the leftmost of equals; a heap of (rank, position) holds
 * the candidates. A candidate may be outdated when it comes up: it counts only if the pair at its
 * position still has its rank. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/tok.h"

/* ---- the table ------------------------------------------------------------------------------- */

static size_t slot_of(const struct tok_merges *m, int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    size_t i = (size_t)(h >> 32) & m->mask;
    while (m->slot[i].left >= 0 && (m->slot[i].left != left || m->slot[i].right != right))
        i = (i + 1) & m->mask;
    return i;
}

bool tok_merges_init(struct tok_merges *m, size_t n) {
    size_t slots = 16, bytes;
    if (n > SIZE_MAX / 8) return false;
    while (slots < 2 * n) slots *= 2;
    if (!taca_mul(&bytes, slots, sizeof *m->slot)) return false;
    m->slot = malloc(bytes);
    if (!m->slot) return false;
    m->mask = slots - 1;
    for (size_t i = 0; i < slots; i++) m->slot[i].left = -1;
    return true;
}

void tok_merges_put(struct tok_merges *m, struct tok_merge merge) {
    m->slot[slot_of(m, merge.left, merge.right)] = merge;
}

void tok_merges_finish(struct tok_merges *m) {
    free(m->slot);
    *m = (struct tok_merges){0};
}

/* ---- a piece --------------------------------------------------------------------------------- */

bool tok_piece_reserve(struct tok_piece *p, size_t n) {
    if (n <= p->cap) return true;
    size_t cap = n < 64 ? 64 : n + n / 2;
    struct tok_symbol *symbol = malloc(cap * sizeof *symbol);
    /* every merge takes a candidate off and puts at most two on: never more than 2 n */
    uint64_t *heap = malloc(2 * cap * sizeof *heap);
    if (!symbol || !heap) {
        free(symbol);
        free(heap);
        return false;
    }
    tok_piece_finish(p);
    *p = (struct tok_piece){.symbol = symbol, .heap = heap, .cap = cap};
    return true;
}

void tok_piece_finish(struct tok_piece *p) {
    free(p->symbol);
    free(p->heap);
    *p = (struct tok_piece){0};
}

static void push(struct tok_piece *p, uint64_t key) {
    size_t i = p->n_heap++;
    while (i > 0 && p->heap[(i - 1) / 2] > key) {
        p->heap[i] = p->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    p->heap[i] = key;
}

static uint64_t pop(struct tok_piece *p) {
    uint64_t top = p->heap[0], key = p->heap[--p->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= p->n_heap) break;
        if (child + 1 < p->n_heap && p->heap[child + 1] < p->heap[child]) child++;
        if (p->heap[child] >= key) break;
        p->heap[i] = p->heap[child];
        i = child;
    }
    p->heap[i] = key;
    return top;
}

/* The merge of the symbol at `at` with its right neighbour, NULL when there is none. */
static const struct tok_merge *merge_at(const struct tok_piece *p, const struct tok_merges *m,
                                        int32_t at) {
    const struct tok_symbol *s = &p->symbol[at];
    if (s->id < 0 || s->next < 0) return NULL;
    const struct tok_merge *found = &m->slot[slot_of(m, s->id, p->symbol[s->next].id)];
    return found->left >= 0 ? found : NULL;
}

static void offer(struct tok_piece *p, const struct tok_merges *m, int32_t at) {
    const struct tok_merge *found = at >= 0 ? merge_at(p, m, at) : NULL;
    if (found) push(p, (uint64_t)found->rank << 32 | (uint32_t)at);
}

void tok_piece_merge(struct tok_piece *p, const struct tok_merges *m) {
    const int32_t n = (int32_t)p->n;
    p->n_heap = 0;
    for (int32_t i = 0; i < n; i++) {
        p->symbol[i].prev = i - 1;
        p->symbol[i].next = i + 1 < n ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < n; i++) offer(p, m, i);
    while (p->n_heap > 0) {
        uint64_t key = pop(p);
        int32_t at = (int32_t)(uint32_t)key;
        const struct tok_merge *found = merge_at(p, m, at);
        if (!found || (uint64_t)found->rank != key >> 32) continue;
        struct tok_symbol *s = &p->symbol[at], *right = &p->symbol[s->next];
        s->id = found->id;
        s->next = right->next;
        right->id = -1;
        if (s->next >= 0) p->symbol[s->next].prev = at;
        offer(p, m, s->prev);
        offer(p, m, at);
    }
}
