/* tok_t5.c - text to T5 ids: cut out the special tokens, normalise, mark words, split them. See
 * tok_t5.h, tok_uni.h.
 *
 * Special tokens are looked for in the raw text alone; what lies between two is normalised on its
 * own, so no combining mark reaches across one. */
#include "engine/text/tok_t5.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "engine/text/tok.h"
#include "engine/text/tok_uni.h"

/* The reference's own map grows a character to 11 times its bytes at most. */
enum { MAX_TEXT = 16 << 20, MAX_GROWTH = 32, SPACE_BYTES = sizeof UNI_SPACE - 1 };

enum taca_code tok_t5_open(struct tok_t5 **out, const char *dir, struct taca_err *err) {
    struct tok_t5 *t = calloc(1, sizeof *t);
    if (!t) return taca_fail(err, TACA_ENOMEM, "%s: out of memory", dir);
    enum taca_code rc = tok_t5_load(t, dir, err);
    if (rc != TACA_OK) {
        tok_t5_close(t);
        return rc;
    }
    *out = t;
    return TACA_OK;
}

void tok_t5_close(struct tok_t5 *t) {
    if (!t) return;
    uni_vocab_finish(&t->model.vocab);
    uni_vocab_finish(&t->special);
    taca_arena_finish(&t->arena);
    free(t);
}

int tok_t5_vocab(const struct tok_t5 *t) { return t->n_ids; }

/* One text on its way: where the ids go, and memory reused from segment to segment. */
struct run {
    const struct tok_t5 *t;
    int32_t *ids;
    int len, n;  /* n counts on when ids are full */
    bool failed; /* out of memory */
    struct taca_buf normal, marked, word;
    struct uni_path path;
};

static void emit(void *ctx, int32_t id) {
    struct run *r = ctx;
    if (r->n < r->len - 1) r->ids[r->n] = id; /* the last place is EOS's */
    r->n++;
}

/* ---- words ----------------------------------------------------------------------------------- */

static bool begins_word(const char *s, size_t len) {
    return len >= SPACE_BYTES && memcmp(s, UNI_SPACE, SPACE_BYTES) == 0;
}

static void put_word(struct run *r, bool mark, const char *s, size_t len) {
    if (mark) {
        taca_buf_reset(&r->word);
        taca_buf_puts(&r->word, UNI_SPACE);
        taca_buf_put(&r->word, s, len);
        if (r->word.failed) {
            r->failed = true;
            return;
        }
        s = r->word.data;
        len = r->word.len;
    }
    if (!uni_split(&r->t->model, &r->path, s, len, emit, r)) r->failed = true;
}

/* A stretch in which spaces are U+2581 already; `first`: it begins the text. */
static void put_words(struct run *r, const char *s, size_t len, bool first) {
    const enum uni_prepend p = r->t->prepend;
    bool mark = (p == UNI_ALWAYS || (p == UNI_FIRST && first)) && !begins_word(s, len);
    size_t from = 0;
    for (size_t i = 1; i < len && r->t->split; i++) {
        if (!begins_word(s + i, len - i)) continue;
        put_word(r, mark, s + from, i - from);
        mark = false;
        from = i;
    }
    if (len > from) put_word(r, mark, s + from, len - from);
}

/* Words of white space as the reference's WhitespaceSplit has them. */
static void put_split(struct run *r, const char *s, size_t len, bool first) {
    size_t from = 0, used;
    uint32_t cp;
    for (size_t i = 0; i < len; i += used) {
        used = (size_t)taca_utf8_next(s + i, len - i, &cp);
        if (used == 0) used = 1, cp = 0;
        if (!tok_is_space((int32_t)cp)) continue;
        if (i > from) put_words(r, s + from, i - from, first && from == 0);
        from = i + used;
    }
    if (len > from) put_words(r, s + from, len - from, first && from == 0);
}

/* ---- segments -------------------------------------------------------------------------------- */

/* Length of s without the white space at its end. */
static size_t stripped(const char *s, size_t len) {
    while (len > 0) {
        size_t at = len - 1;
        uint32_t cp = 0;
        while (at > 0 && len - at < 4 && (s[at] & 0xC0) == 0x80) at--;
        if (taca_utf8_next(s + at, len - at, &cp) != (int)(len - at)) break;
        if (!tok_is_space((int32_t)cp)) break;
        len = at;
    }
    return len;
}

/* Spaces to U+2581: runs as one when the files say so, single ones unless words are split there. */
static void mark_spaces(const struct tok_t5 *t, struct taca_buf *out, const char *s, size_t len) {
    for (size_t i = 0, n; i < len; i += n) {
        const char *space = memchr(s + i, ' ', len - i);
        n = space ? (size_t)(space - (s + i)) : len - i;
        taca_buf_put(out, s + i, n);
        if (!space) break;
        i += n;
        for (n = 1; i + n < len && s[i + n] == ' ' && t->collapse;) n++;
        if (n > 1 || !t->split_space)
            taca_buf_puts(out, UNI_SPACE);
        else
            taca_buf_put(out, " ", 1);
    }
}

static void put_segment(struct run *r, const char *s, size_t len, bool first) {
    const struct tok_t5 *t = r->t;
    struct taca_buf *normal = &r->normal, *marked = &r->marked;
    taca_buf_reset(normal);
    taca_buf_reset(marked);
    if (t->map.n_units)
        uni_charsmap_apply(&t->map, normal, s, len);
    else
        taca_buf_put(normal, s, len);
    mark_spaces(t, marked, normal->data,
                t->strip_right ? stripped(normal->data, normal->len) : normal->len);
    if (normal->failed || marked->failed)
        r->failed = true;
    else if (t->split_space)
        put_split(r, marked->data, marked->len, first);
    else
        put_words(r, marked->data, marked->len, first);
}

/* The white space around a special token that goes with it. */
static size_t leading_space(const char *s, size_t len) {
    size_t n = 0, used;
    uint32_t cp;
    for (; n < len; n += used) {
        used = (size_t)taca_utf8_next(s + n, len - n, &cp);
        if (used == 0 || !tok_is_space((int32_t)cp)) break;
    }
    return n;
}

static void put_text(struct run *r, const char *s, size_t len) {
    size_t from = 0;
    for (size_t i = 0; i < len && !r->failed;) {
        const struct uni_piece *found = uni_vocab_longest(&r->t->special, s + i, len - i);
        if (!found) {
            i++;
            continue;
        }
        const size_t end = from + (found->lstrip ? stripped(s + from, i - from) : i - from);
        if (end > from) put_segment(r, s + from, end - from, from == 0);
        emit(r, found->id);
        i += found->len;
        if (found->rstrip) i += leading_space(s + i, len - i);
        from = i;
    }
    if (len > from) put_segment(r, s + from, len - from, from == 0);
}

/* s with U+FFFD for malformed bytes. */
static void put_valid(struct taca_buf *out, const char *s, size_t len) {
    uint32_t cp;
    for (size_t i = 0; i < len;) {
        size_t used = (size_t)taca_utf8_next(s + i, len - i, &cp);
        if (used)
            taca_buf_put(out, s + i, used);
        else
            taca_buf_puts(out, "\xEF\xBF\xBD");
        i += used ? used : 1;
    }
}

static void encode(struct run *r, const char *text, size_t len) {
    struct taca_buf valid;
    taca_buf_init(&valid, 3 * len + 1);
    if (taca_utf8_valid(text, len)) {
        put_text(r, text, len);
    } else {
        put_valid(&valid, text, len);
        if (valid.failed)
            r->failed = true;
        else
            put_text(r, valid.data, valid.len);
    }
    taca_buf_finish(&valid);
}

enum taca_code tok_t5_encode(const struct tok_t5 *t, const char *text, int32_t *ids, int len,
                             int *n_total, struct taca_err *err) {
    const size_t bytes = strlen(text), room = MAX_GROWTH * 3 * bytes + 64;
    if (len < 1)
        return taca_fail(err, TACA_EINVAL, "a prompt has 1 token at least, found room for %d", len);
    if (bytes > MAX_TEXT)
        return taca_fail(err, TACA_EINVAL, "a prompt of %zu bytes, at most %d", bytes, MAX_TEXT);

    struct run r = {.t = t, .ids = ids, .len = len};
    taca_buf_init(&r.normal, room);
    taca_buf_init(&r.marked, SPACE_BYTES * room);
    taca_buf_init(&r.word, SPACE_BYTES * room);
    encode(&r, text, bytes);
    taca_buf_finish(&r.normal);
    taca_buf_finish(&r.marked);
    taca_buf_finish(&r.word);
    uni_path_finish(&r.path);
    if (r.failed) return taca_fail(err, TACA_ENOMEM, "out of memory splitting %zu bytes", bytes);

    int end = r.n < len - 1 ? r.n : len - 1;
    ids[end] = t->eos;
    for (int i = end + 1; i < len; i++) ids[i] = t->pad;
    if (n_total) *n_total = r.n + 1;
    return TACA_OK;
}
