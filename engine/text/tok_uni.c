/* tok_uni.c - unigram pieces: a sorted table searched by prefix, and the best path through a word.
 * See tok_uni.h. Time is linear in the text for pieces of bounded length. */
#include "engine/text/tok_uni.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

/* ---- pieces ---------------------------------------------------------------------------------- */

bool uni_vocab_add(struct uni_vocab *v, const struct uni_piece *p) {
    if (p->len == 0) return true;
    if (v->n == v->cap) {
        size_t cap = v->cap ? 2 * v->cap : 1024, bytes;
        struct uni_piece *grown =
            taca_mul(&bytes, cap, sizeof *grown) ? realloc(v->piece, bytes) : NULL;
        if (!grown) return false;
        v->piece = grown;
        v->cap = cap;
    }
    v->piece[v->n] = *p;
    v->piece[v->n].order = (uint32_t)v->n;
    v->n++;
    return true;
}

static int by_text(const struct uni_piece *a, const struct uni_piece *b) {
    int d = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);
    return d ? d : (a->len > b->len) - (a->len < b->len);
}

static int by_text_and_order(const void *x, const void *y) {
    const struct uni_piece *a = x, *b = y;
    int d = by_text(a, b);
    return d ? d : (a->order > b->order) - (a->order < b->order);
}

void uni_vocab_sort(struct uni_vocab *v) {
    size_t n = 0;
    if (v->n) qsort(v->piece, v->n, sizeof *v->piece, by_text_and_order);
    for (size_t i = 0; i < v->n; i++)
        if (i + 1 == v->n || by_text(&v->piece[i], &v->piece[i + 1]) != 0)
            v->piece[n++] = v->piece[i];
    v->n = n;
    memset(v->first, 0, sizeof v->first);
    for (size_t i = 0; i < n; i++) v->first[(unsigned char)v->piece[i].text[0] + 1]++;
    for (int c = 0; c < 256; c++) v->first[c + 1] += v->first[c];
}

void uni_vocab_finish(struct uni_vocab *v) {
    free(v->piece);
    *v = (struct uni_vocab){0};
}

/* The pieces that begin with the `depth` bytes read so far: [lo, hi). */
struct range {
    size_t lo, hi, depth;
};

/* The first of them whose next byte is c or larger. One that ends here has no next byte and comes
 * before all others. */
static size_t lower_bound(const struct uni_vocab *v, const struct range *r, int c) {
    size_t lo = r->lo, hi = r->hi;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct uni_piece *p = &v->piece[mid];
        if (p->len == r->depth || (unsigned char)p->text[r->depth] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* One byte more; false when no piece goes on with it. */
static bool step(const struct uni_vocab *v, struct range *r, char byte) {
    const int c = (unsigned char)byte;
    if (r->depth == 0) {
        *r = (struct range){v->first[c], v->first[c + 1], 1};
        return r->lo < r->hi;
    }
    r->lo = lower_bound(v, r, c);
    if (r->lo == r->hi || (unsigned char)v->piece[r->lo].text[r->depth] != c) return false;
    r->hi = lower_bound(v, r, c + 1);
    r->depth++;
    return true;
}

/* The piece that ends here, NULL when none does. */
static const struct uni_piece *whole(const struct uni_vocab *v, const struct range *r) {
    return v->piece[r->lo].len == r->depth ? &v->piece[r->lo] : NULL;
}

const struct uni_piece *uni_vocab_longest(const struct uni_vocab *v, const char *s, size_t len) {
    const struct uni_piece *best = NULL;
    struct range r = {0};
    for (size_t i = 0; i < len && step(v, &r, s[i]); i++) {
        const struct uni_piece *p = whole(v, &r);
        if (p) best = p;
    }
    return best;
}

const struct uni_piece *uni_vocab_find(const struct uni_vocab *v, const char *s, size_t len) {
    const struct uni_piece *p = uni_vocab_longest(v, s, len);
    return p && p->len == len ? p : NULL;
}

/* ---- the best path --------------------------------------------------------------------------- */

static bool path_reset(struct uni_path *p, size_t n) {
    if (n > p->cap) {
        size_t bytes;
        struct uni_node *grown =
            taca_mul(&bytes, n, 2 * sizeof *grown) ? realloc(p->node, bytes) : NULL;
        if (!grown) return false;
        p->node = grown;
        p->cap = 2 * n;
    }
    for (size_t i = 0; i < n; i++) p->node[i] = (struct uni_node){0, UINT32_MAX, 0};
    return true;
}

void uni_path_finish(struct uni_path *p) {
    free(p->node);
    *p = (struct uni_path){0};
}

/* A piece from `from` that ends at *to. Starts come in rising order and only a larger sum replaces,
 * so of equal sums the longest piece stays. */
static void offer(struct uni_node *to, size_t from, double score, int32_t id) {
    if (to->from != UINT32_MAX && !(score > to->score)) return;
    *to = (struct uni_node){score, (uint32_t)from, id};
}

/* All pieces that begin at character `at`, which has `used` bytes. */
static void offer_pieces(const struct uni_model *m, struct uni_node *node, const char *s,
                         size_t len, size_t at, size_t used) {
    const double so_far = node[at].score;
    struct range r = {0};
    bool single = false;
    for (size_t i = at; i < len && step(&m->vocab, &r, s[i]); i++) {
        const struct uni_piece *p = whole(&m->vocab, &r);
        if (!p) continue;
        offer(&node[i + 1], at, so_far + p->score, p->id);
        if (p->len == used) single = true;
    }
    if (!single) offer(&node[at + used], at, so_far + m->unk_score, m->unk);
}

bool uni_split(const struct uni_model *m, struct uni_path *path, const char *s, size_t len,
               void (*emit)(void *ctx, int32_t id), void *ctx) {
    uint32_t cp;
    if (len >= UINT32_MAX || !path_reset(path, len + 1)) return false;
    struct uni_node *node = path->node;
    for (size_t i = 0, used; i < len; i += used) {
        used = (size_t)taca_utf8_next(s + i, len - i, &cp);
        if (used == 0) used = 1; /* cannot happen in text of ours; a map may hold anything */
        offer_pieces(m, node, s, len, i, used);
    }
    /* turn the links round, so that the path can be walked from the start */
    for (size_t end = len, start = len ? node[len].from : 0; end > 0;) {
        size_t before = start ? node[start].from : 0;
        node[start].from = (uint32_t)end;
        end = start;
        start = before;
    }
    int32_t last = -1;
    for (size_t i = 0; i < len; i = node[i].from) {
        int32_t id = node[node[i].from].id;
        if (id != m->unk || last != m->unk) emit(ctx, id);
        last = id;
    }
    return true;
}
