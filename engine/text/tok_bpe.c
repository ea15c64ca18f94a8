/* tok_bpe.c - text to CLIP ids: cut out the special tokens, split, merge. See tok_bpe.h, tok.h.
 *
 * Special tokens are looked for twice, as the reference does: some in the raw text, some after
 * normalisation (so <|STARTOFTEXT|> may count); what lies between is normalised and split on its
 * own, so no combining mark reaches across one. */
#include "engine/text/tok_bpe.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/tok.h"

enum { MAX_TEXT = INT32_MAX / 16 }; /* symbols are counted in 32 bits, text may grow when lowered */

enum taca_code tok_bpe_open(struct tok_bpe **out, const char *dir, struct taca_err *err) {
    struct tok_bpe *t = calloc(1, sizeof *t);
    if (!t) return taca_fail(err, TACA_ENOMEM, "%s: out of memory", dir);
    enum taca_code rc = tok_files_load(t, dir, err);
    if (rc != TACA_OK) {
        tok_bpe_close(t);
        return rc;
    }
    *out = t;
    return TACA_OK;
}

void tok_bpe_close(struct tok_bpe *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n_special; i++) tok_cps_finish(&t->special[i].cps);
    free(t->special);
    tok_merges_finish(&t->merges);
    taca_arena_finish(&t->arena);
    free(t);
}

int tok_bpe_vocab(const struct tok_bpe *t) { return t->vocab; }
int tok_bpe_max_length(const struct tok_bpe *t) { return t->max_length; }
int32_t tok_bpe_eos(const struct tok_bpe *t) { return t->eos; }

/* One text on its way: where the ids go, and memory reused from piece to piece. */
struct run {
    const struct tok_bpe *t;
    int32_t *ids;
    int len, n; /* n counts on when ids are full */
    struct tok_cps cps;
    struct tok_piece piece;
};

static void emit(struct run *r, int32_t id) {
    if (r->n < r->len - 1) r->ids[r->n] = id; /* the last place is EOS's */
    r->n++;
}

/* ---- pieces ---------------------------------------------------------------------------------- */

static bool emit_piece(struct run *r, const int32_t *cp, size_t n) {
    struct tok_piece *p = &r->piece;
    size_t symbols = 0;
    unsigned char bytes[4];
    for (size_t i = 0; i < n; i++) symbols += (size_t)tok_utf8(bytes, cp[i]);
    if (!tok_piece_reserve(p, symbols)) return false;
    p->n = 0;
    for (size_t i = 0; i < n; i++) {
        int used = tok_utf8(bytes, cp[i]);
        for (int k = 0; k < used; k++) {
            bool ends = i + 1 == n && k + 1 == used;
            int32_t id = ends ? r->t->last[bytes[k]] : r->t->first[bytes[k]];
            if (id < 0) id = r->t->unk;
            if (id >= 0) p->symbol[p->n++].id = id;
        }
    }
    if (p->n == 0) return true;
    tok_piece_merge(p, &r->t->merges);
    for (int32_t i = 0; i >= 0; i = p->symbol[i].next) emit(r, p->symbol[i].id);
    return true;
}

static bool starts_with(const int32_t *cp, size_t n, const char *word) {
    size_t i = 0;
    while (word[i] && i < n && cp[i] == word[i]) i++;
    return word[i] == 0;
}

/* Length of 's 't 're 've 'm 'll 'd at cp, 0 when it is none of them. */
static size_t contraction(const int32_t *cp, size_t n) {
    static const char *const all[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (starts_with(cp, n, all[i])) return strlen(all[i]);
    return 0;
}

/* The split keeps these two words whole; a second split cuts them into <|, letters, |>. So they
 * only stop what follows from joining the |>. */
static size_t marker(const int32_t *cp, size_t n) {
    static const char *const all[] = {"<|startoftext|>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (starts_with(cp, n, all[i])) return strlen(all[i]);
    return 0;
}

/* First match wins: marker, contraction, letters, one number, other signs. */
static size_t piece_length(const int32_t *cp, size_t n) {
    size_t used = cp[0] == '\'' ? contraction(cp, n) : 0;
    if (used) return used;
    enum tok_class class = tok_class_of(cp[0]);
    used = 1;
    if (class == TOK_LETTER || class == TOK_OTHER)
        while (used < n && tok_class_of(cp[used]) == class) used++;
    return used;
}

static bool split(struct run *r, const int32_t *cp, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t whole = cp[i] == '<' ? marker(cp + i, n - i) : 0;
        if (whole) {
            if (!emit_piece(r, cp + i, 2) || !emit_piece(r, cp + i + 2, whole - 4) ||
                !emit_piece(r, cp + i + whole - 2, 2))
                return false;
            i += whole;
            continue;
        }
        size_t used = 1;
        if (cp[i] != ' ') {
            used = piece_length(cp + i, n - i);
            if (!emit_piece(r, cp + i, used)) return false;
        }
        i += used;
    }
    return true;
}

/* ---- special tokens -------------------------------------------------------------------------- */

/* The longest normalised special token at cp, NULL when there is none. */
static const struct tok_special *special_in_cps(const struct tok_bpe *t, const int32_t *cp,
                                                size_t n) {
    const struct tok_special *best = NULL;
    for (size_t i = 0; i < t->n_special; i++) {
        const struct tok_special *s = &t->special[i];
        if (!s->normalized || s->cps.n > n || (best && best->cps.n >= s->cps.n)) continue;
        if (memcmp(s->cps.cp, cp, s->cps.n * sizeof *cp) == 0) best = s;
    }
    return best;
}

static const struct tok_special *special_in_text(const struct tok_bpe *t, const char *s,
                                                 size_t len) {
    const struct tok_special *best = NULL;
    for (size_t i = 0; i < t->n_special; i++) {
        const struct tok_special *c = &t->special[i];
        if (c->normalized || c->len > len || (best && best->len >= c->len)) continue;
        if (memcmp(c->text, s, c->len) == 0) best = c;
    }
    return best;
}

static bool encode_plain(struct run *r, const char *s, size_t len) {
    if (!tok_normalize(&r->cps, s, len)) return false;
    const int32_t *cp = r->cps.cp;
    size_t from = 0;
    for (size_t i = 0; i < r->cps.n;) {
        const struct tok_special *found = special_in_cps(r->t, cp + i, r->cps.n - i);
        if (!found) {
            i++;
            continue;
        }
        if (!split(r, cp + from, i - from)) return false;
        emit(r, found->id);
        i += found->cps.n;
        from = i;
    }
    return split(r, cp + from, r->cps.n - from);
}

static bool encode_text(struct run *r, const char *s, size_t len) {
    size_t from = 0;
    for (size_t i = 0; i < len;) {
        const struct tok_special *found = special_in_text(r->t, s + i, len - i);
        if (!found) {
            i++;
            continue;
        }
        if (i > from && !encode_plain(r, s + from, i - from)) return false;
        emit(r, found->id);
        i += found->len;
        from = i;
    }
    return from == len || encode_plain(r, s + from, len - from);
}

enum taca_code tok_bpe_encode(const struct tok_bpe *t, const char *text, int32_t *ids, int len,
                              int *n_total, struct taca_err *err) {
    size_t bytes = strlen(text);
    if (len < 2)
        return taca_fail(err, TACA_EINVAL, "a prompt has 2 tokens at least, found room for %d",
                         len);
    if (bytes > MAX_TEXT)
        return taca_fail(err, TACA_EINVAL, "a prompt of %zu bytes, at most %d", bytes, MAX_TEXT);

    struct run r = {.t = t, .ids = ids, .len = len};
    emit(&r, t->bos);
    bool ok = encode_text(&r, text, bytes);
    tok_cps_finish(&r.cps);
    tok_piece_finish(&r.piece);
    if (!ok) return taca_fail(err, TACA_ENOMEM, "out of memory splitting %zu bytes", bytes);

    int end = r.n < len - 1 ? r.n : len - 1;
    ids[end] = t->eos;
    for (int i = end + 1; i < len; i++) ids[i] = t->pad;
    if (n_total) *n_total = r.n + 1;
    return TACA_OK;
}
