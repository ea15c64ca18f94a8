/* tok_norm.c - text to normalised code points: NFC, white space, lower case. See tok.h.
 *
 * Unicode's tables are utf8proc's. Its own normaliser is not used whole, because it orders
 * combining marks by insertion, which is quadratic in a run of them: a prompt is untrusted. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "engine/text/tok.h"

enum { MAX_DECOMPOSED = 32 }; /* of one code point; Unicode needs 4 for canonical forms */

static bool reserve(struct tok_cps *t, size_t n) {
    if (n <= t->cap) return true;
    size_t cap = t->cap ? t->cap : 64, bytes;
    while (cap < n) {
        if (!taca_mul(&cap, cap, 2)) return false;
    }
    if (!taca_mul(&bytes, cap, sizeof *t->cp)) return false;
    int32_t *p = realloc(t->cp, bytes);
    if (!p) return false;
    t->cp = p;
    t->cap = cap;
    return true;
}

void tok_cps_finish(struct tok_cps *t) {
    free(t->cp);
    *t = (struct tok_cps){0};
}

static int marks_class(int32_t cp) {
    return cp < 0x300 ? 0 : utf8proc_get_property(cp)->combining_class;
}

/* Stable order of one run of marks by combining class: insertion while short, counting when long.
 */
static bool order_run(int32_t *cp, size_t n) {
    if (n > 32) {
        size_t at[257] = {0};
        int32_t *from = malloc(n * sizeof *from);
        if (!from) return false;
        memcpy(from, cp, n * sizeof *from);
        for (size_t i = 0; i < n; i++) at[marks_class(from[i]) + 1]++;
        for (int c = 1; c <= 256; c++) at[c] += at[c - 1];
        for (size_t i = 0; i < n; i++) cp[at[marks_class(from[i])]++] = from[i];
        free(from);
        return true;
    }
    for (size_t i = 1; i < n; i++) {
        int32_t moving = cp[i];
        size_t k = i;
        for (; k > 0 && marks_class(cp[k - 1]) > marks_class(moving); k--) cp[k] = cp[k - 1];
        cp[k] = moving;
    }
    return true;
}

static bool order_marks(struct tok_cps *t) {
    for (size_t i = 0; i < t->n;) {
        size_t end = i;
        while (end < t->n && marks_class(t->cp[end]) != 0) end++;
        if (end - i > 1 && !order_run(t->cp + i, end - i)) return false;
        i = end + 1;
    }
    return true;
}

static bool decompose(struct tok_cps *t, const char *s, size_t len) {
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int used = taca_utf8_next(s + i, len - i, &cp);
        if (used == 0) cp = 0xFFFD, used = 1;
        i += (size_t)used;
        if (!reserve(t, t->n + MAX_DECOMPOSED)) return false;
        if (cp < 0xC0) { /* nothing below decomposes */
            t->cp[t->n++] = (int32_t)cp;
            continue;
        }
        int last_boundclass = 0;
        utf8proc_ssize_t n =
            utf8proc_decompose_char((int32_t)cp, t->cp + t->n, MAX_DECOMPOSED,
                                    UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &last_boundclass);
        if (n < 0 || n > MAX_DECOMPOSED) { /* cannot happen with these options; keep the text */
            t->cp[t->n] = (int32_t)cp;
            n = 1;
        }
        t->n += (size_t)n;
    }
    return true;
}

bool tok_is_space(int32_t cp) {
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

static int32_t fold(int32_t cp) {
    if (tok_is_space(cp)) return ' ';
    if (cp < 0x80) return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    return utf8proc_tolower(cp);
}

/* Lower case in place. Only U+0130 has more than one code point there: i and a dot above. */
static bool fold_all(struct tok_cps *t) {
    size_t extra = 0;
    for (size_t i = 0; i < t->n; i++) extra += t->cp[i] == 0x130;
    if (!reserve(t, t->n + extra)) return false;
    for (size_t i = t->n, to = t->n + extra; i-- > 0;) {
        if (t->cp[i] == 0x130) {
            t->cp[--to] = 0x307;
            t->cp[--to] = 'i';
        } else {
            t->cp[--to] = fold(t->cp[i]);
        }
    }
    t->n += extra;
    return true;
}

bool tok_normalize(struct tok_cps *t, const char *s, size_t len) {
    t->n = 0;
    if (!decompose(t, s, len) || !order_marks(t)) return false;
    utf8proc_ssize_t n =
        utf8proc_normalize_utf32(t->cp, (utf8proc_ssize_t)t->n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (n >= 0) t->n = (size_t)n;
    return fold_all(t);
}

enum tok_class tok_class_of(int32_t cp) {
    if (cp == ' ') return TOK_SPACE;
    if (cp < 0x80) {
        if (cp >= 'a' && cp <= 'z') return TOK_LETTER;
        return cp >= '0' && cp <= '9' ? TOK_NUMBER : TOK_OTHER;
    }
    utf8proc_category_t c = utf8proc_category(cp);
    if (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) return TOK_LETTER;
    if (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO) return TOK_NUMBER;
    return TOK_OTHER;
}

int tok_utf8(unsigned char out[4], int32_t cp) { return (int)utf8proc_encode_char(cp, out); }
