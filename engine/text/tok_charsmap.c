/* tok_charsmap.c - normalisation by a precompiled character map. See tok_uni.h.
 *
 * The map is [u32 bytes of the trie][trie][replacements, each with a NUL behind it], little endian.
 * A unit of the trie holds a label (the byte that leads to it), an offset to its children, and
 * whether a replacement belongs to what has been read; the child at offset ^ 0 then holds its
 * place. Files are not trusted: an index outside the trie is "not found". */
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "engine/text/tok_uni.h"

enum { CLUSTER_BYTES = 6 }; /* of the reference: clusters this long are not looked up whole */

static uint32_t read_u32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

enum taca_code uni_charsmap_load(struct uni_charsmap *m, struct taca_arena *a,
                                 const unsigned char *bytes, size_t len, const char *what,
                                 struct taca_err *err) {
    const size_t trie = len < 4 ? 0 : read_u32(bytes);
    if (len < 4 || trie % 4 != 0 || trie < 4 || trie > len - 4)
        return taca_fail(err, TACA_EFORMAT,
                         "%s: a character map of %zu bytes whose trie has %zu; wanted a multiple "
                         "of 4 that fits",
                         what, len, trie);
    uint32_t *unit = taca_arena_alloc(a, trie);
    const char *text = taca_arena_strndup(a, (const char *)bytes + 4 + trie, len - 4 - trie);
    if (!unit || !text) return taca_fail(err, TACA_ENOMEM, "%s: out of memory", what);
    for (size_t i = 0; i < trie / 4; i++) unit[i] = read_u32(bytes + 4 + 4 * i);
    *m = (struct uni_charsmap){unit, trie / 4, text, len - 4 - trie};
    return TACA_OK;
}

static size_t unit_offset(uint32_t u) { return (size_t)(u >> 10) << ((u & 0x200) >> 6); }

/* What the shortest known prefix of s stands for, NULL when none is known. */
static const char *find(const struct uni_charsmap *m, const char *s, size_t len) {
    size_t at = unit_offset(m->unit[0]);
    for (size_t i = 0; i < len && s[i]; i++) {
        const unsigned char c = (unsigned char)s[i];
        at ^= c;
        if (at >= m->n_units || (m->unit[at] & 0x800000FFu) != c) return NULL;
        const uint32_t u = m->unit[at];
        at ^= unit_offset(u);
        if (!(u & 0x100)) continue;
        const size_t place = at < m->n_units ? m->unit[at] & 0x7FFFFFFFu : m->text_len;
        return place < m->text_len ? m->text + place : NULL;
    }
    return NULL;
}

static bool put_found(const struct uni_charsmap *m, struct taca_buf *out, const char *s,
                      size_t len) {
    const char *to = find(m, s, len);
    if (to) taca_buf_puts(out, to); /* a NUL follows the last one too */
    return to != NULL;
}

/* Callers give valid text; a malformed byte would be one character. */
static size_t next(const char *s, size_t len, int32_t *cp) {
    uint32_t c = 0xFFFD;
    const int used = taca_utf8_next(s, len, &c);
    *cp = (int32_t)c;
    return used ? (size_t)used : 1;
}

/* The end of the grapheme cluster that begins at s. */
static size_t cluster(const char *s, size_t len) {
    int32_t before, after;
    utf8proc_int32_t state = 0;
    size_t end = next(s, len, &before);
    while (end < len) {
        const size_t used = next(s + end, len - end, &after);
        if (before < 0x80 && after < 0x80 && before != '\r') break;
        if (utf8proc_grapheme_break_stateful(before, after, &state)) break;
        end += used;
        before = after;
    }
    return end;
}

void uni_charsmap_apply(const struct uni_charsmap *m, struct taca_buf *out, const char *s,
                        size_t len) {
    int32_t cp;
    for (size_t i = 0; i < len && !out->failed;) {
        const size_t end = i + cluster(s + i, len - i);
        if (end - i < CLUSTER_BYTES && put_found(m, out, s + i, end - i)) {
            i = end;
            continue;
        }
        while (i < end) {
            const size_t used = next(s + i, end - i, &cp);
            if (!put_found(m, out, s + i, used)) taca_buf_put(out, s + i, used);
            i += used;
        }
    }
}
