/* exif.c - see exif.h. */
#include "api/exif.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"

enum { ORIENTATION = 0x0112, DETAILS = 0x8769, COMMENT = 0x9286 }; /* tags */
enum { SHORT = 3, LONG = 4, UNDEFINED = 7 };                       /* types */
enum { ENTRY_BYTES = 12, CODE_BYTES = 8, REPLACEMENT = 0xFFFD };
static const char unicode[CODE_BYTES] = "UNICODE", ascii[CODE_BYTES] = "ASCII";

struct tiff {
    const unsigned char *bytes;
    size_t len;
    int little; /* byte order */
};

/* n bytes at `at`, which lie inside. */
static uint32_t number(const struct tiff *t, size_t at, int n) {
    uint32_t v = 0;
    for (int i = 0; i < n; i++) v = v << 8 | t->bytes[at + (size_t)(t->little ? n - 1 - i : i)];
    return v;
}

static bool open_tiff(struct tiff *t, const void *bytes, size_t len) {
    *t = (struct tiff){bytes, len, len > 0 && *(const char *)bytes == 'I'};
    return len >= 8 && memcmp(bytes, t->little ? "II" : "MM", 2) == 0 && number(t, 2, 2) == 42;
}

/* Where the entry of this tag and type is, in the directory at `directory`; 0 = nowhere. */
static size_t find(const struct tiff *t, size_t directory, uint32_t tag, uint32_t type) {
    if (directory > t->len - 2) return 0;
    const size_t n = number(t, directory, 2);
    for (size_t i = 0, at = directory + 2; i < n && t->len - at >= ENTRY_BYTES; i++) {
        if (number(t, at, 2) == tag && number(t, at + 2, 2) == type) return at;
        at += ENTRY_BYTES;
    }
    return 0;
}

int api_exif_orientation(const void *tiff, size_t len) {
    struct tiff t;
    const size_t at = open_tiff(&t, tiff, len) ? find(&t, number(&t, 4, 4), ORIENTATION, SHORT) : 0;
    const int v = at ? (int)number(&t, at + 8, 2) : EXIF_UPRIGHT;
    return v >= EXIF_UPRIGHT && v <= EXIF_LAST ? v : EXIF_UPRIGHT;
}

/* ---- the comment ----------------------------------------------------------------------------- */

static void put_utf8(struct taca_buf *out, uint32_t cp) {
    utf8proc_uint8_t bytes[4];
    taca_buf_put(out, bytes, (size_t)utf8proc_encode_char((utf8proc_int32_t)cp, bytes));
}

static bool read_utf16(struct taca_buf *out, const struct tiff *t, size_t at, size_t bytes) {
    for (size_t end = at + bytes / 2 * 2; at < end; at += 2) {
        uint32_t cp = number(t, at, 2);
        if (cp >= 0xD800 && cp < 0xDC00 && end - at >= 4) {
            const uint32_t low = number(t, at += 2, 2);
            if (low < 0xDC00 || low > 0xDFFF) return false;
            cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
        }
        if (cp >= 0xD800 && cp <= 0xDFFF) return false;
        put_utf8(out, cp);
    }
    return true;
}

static bool read_ascii(struct taca_buf *out, const char *s, size_t len) {
    const char *nul = memchr(s, 0, len);
    if (nul) len = (size_t)(nul - s);
    if (!taca_utf8_valid(s, len)) return false;
    taca_buf_put(out, s, len);
    return true;
}

bool api_exif_comment(struct taca_buf *out, const void *tiff, size_t len) {
    struct tiff t;
    const size_t before = out->len;
    if (!open_tiff(&t, tiff, len)) return false;
    size_t at = find(&t, number(&t, 4, 4), DETAILS, LONG);
    if (at) at = find(&t, number(&t, at + 8, 4), COMMENT, UNDEFINED);
    if (!at) return false;
    const size_t n = number(&t, at + 4, 4), from = number(&t, at + 8, 4);
    if (n <= CODE_BYTES || n > len || from > len - n) return false;
    const char *s = (const char *)tiff + from;
    bool ok = false;
    if (memcmp(s, unicode, CODE_BYTES) == 0)
        ok = read_utf16(out, &t, from + CODE_BYTES, n - CODE_BYTES);
    else if (memcmp(s, ascii, CODE_BYTES) == 0)
        ok = read_ascii(out, s + CODE_BYTES, n - CODE_BYTES);
    if (!ok && out->data) out->data[out->len = before] = 0;
    return ok && !out->failed;
}

static void put_number(struct taca_buf *out, uint32_t v, int n) {
    char bytes[4];
    for (int i = 0; i < n; i++) bytes[i] = (char)(v >> 8 * (n - 1 - i));
    taca_buf_put(out, bytes, (size_t)n);
}

static void put_utf16(struct taca_buf *out, const char *s) {
    for (size_t len = strlen(s); len > 0;) {
        uint32_t cp = REPLACEMENT;
        const int n = taca_utf8_next(s, len, &cp);
        s += n ? n : 1;
        len -= (size_t)(n ? n : 1);
        if (cp >= 0x10000) put_number(out, 0xD800 + ((cp - 0x10000) >> 10), 2);
        put_number(out, cp >= 0x10000 ? 0xDC00 + (cp & 0x3FF) : cp, 2);
    }
}

/* A directory of one entry, the last there is. */
static void put_directory(struct taca_buf *out, uint32_t tag, uint32_t type, size_t n,
                          size_t value) {
    put_number(out, 1, 2);
    put_number(out, tag, 2);
    put_number(out, type, 2);
    put_number(out, (uint32_t)n, 4);
    put_number(out, (uint32_t)value, 4);
    put_number(out, 0, 4);
}

void api_exif_put_comment(struct taca_buf *out, const char *utf8) {
    enum { HEAD = 8, DIRECTORY = 2 + ENTRY_BYTES + 4 };
    struct taca_buf text;
    taca_buf_init(&text, out->max);
    put_utf16(&text, utf8);
    if (text.failed) out->failed = true;
    taca_buf_put(out, "MM\0*\0\0\0\x08", HEAD);
    put_directory(out, DETAILS, LONG, 1, HEAD + DIRECTORY);
    put_directory(out, COMMENT, UNDEFINED, CODE_BYTES + text.len, HEAD + 2 * DIRECTORY);
    taca_buf_put(out, unicode, CODE_BYTES);
    taca_buf_put(out, text.data, text.len);
    taca_buf_finish(&text);
}

/* ---- turning --------------------------------------------------------------------------------- */

struct api_size api_exif_sides(struct api_size s, int orientation) {
    return orientation < 5 ? s : (struct api_size){s.h, s.w};
}

uint8_t *api_exif_turn(const uint8_t *in, int channels, struct api_size stored, int orientation) {
    static const struct {
        int swapped, right_to_left, bottom_up; /* of the stored rows and columns */
    } ways[EXIF_LAST + 1] = {{0, 0, 0}, {0, 0, 0}, {0, 1, 0}, {0, 1, 1}, {0, 0, 1},
                             {1, 0, 0}, {1, 0, 1}, {1, 1, 1}, {1, 1, 0}};
    const struct api_size to = api_exif_sides(stored, orientation);
    const size_t c = (size_t)channels;
    uint8_t *out = malloc((size_t)to.w * (size_t)to.h * c), *at = out;
    for (int y = 0; out && y < to.h; y++)
        for (int x = 0; x < to.w; x++, at += c) {
            int sx = ways[orientation].swapped ? y : x, sy = ways[orientation].swapped ? x : y;
            if (ways[orientation].right_to_left) sx = stored.w - 1 - sx;
            if (ways[orientation].bottom_up) sy = stored.h - 1 - sy;
            memcpy(at, in + ((size_t)sy * (size_t)stored.w + (size_t)sx) * c, c);
        }
    return out;
}
