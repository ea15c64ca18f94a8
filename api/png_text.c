/* png_text.c - the text chunks of a PNG of strangers, without looking at its pixels; see png.h.
 * Whoever keeps a picture may have packed them anew: all three kinds are read, packed or not. */
#include <string.h>
#include <utf8proc.h>
#include <zlib.h>

#include "api/png.h"
#include "base/utf8.h"

enum { LARGEST_TEXT = 1 << 20, CHUNK_FRAME = 12 };
static const char signature[8] = "\x89PNG\r\n\x1a\n";

struct chunk {
    const char *type; /* four bytes */
    const unsigned char *data;
    size_t len;
};

static uint32_t be32(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The chunk at *at, which moves behind it; false at the end, or where the file is broken. */
static bool next_chunk(struct chunk *c, const unsigned char *bytes, size_t len, size_t *at) {
    if (len - *at < CHUNK_FRAME) return false;
    const unsigned char *p = bytes + *at;
    c->len = be32(p);
    if (c->len > len - *at - CHUNK_FRAME) return false;
    c->type = (const char *)p + 4;
    c->data = p + 8;
    *at += CHUNK_FRAME + c->len;
    uLong crc = crc32(0, p + 4, (uInt)c->len + 4);
    return crc == be32(c->data + c->len);
}

static void put_latin1(struct taca_buf *out, const unsigned char *s, size_t len) {
    for (size_t i = 0; i < len; i++) {
        utf8proc_uint8_t bytes[4];
        taca_buf_put(out, bytes, (size_t)utf8proc_encode_char(s[i], bytes));
    }
}

/* Text as its chunk has it: Latin-1 or UTF-8, which must be valid. */
static bool put_text(struct taca_buf *out, const unsigned char *s, size_t len, bool utf8) {
    if (!utf8)
        put_latin1(out, s, len);
    else if (taca_utf8_valid((const char *)s, len))
        taca_buf_put(out, s, len);
    else
        return false;
    return !out->failed;
}

static bool put_packed(struct taca_buf *out, const unsigned char *s, size_t len, bool utf8) {
    struct taca_buf plain;
    taca_buf_init(&plain, LARGEST_TEXT);
    uLongf n = LARGEST_TEXT - 1;
    char *to = taca_buf_reserve(&plain, n);
    bool ok = to && uncompress((Bytef *)to, &n, s, (uLong)len) == Z_OK &&
              put_text(out, (const unsigned char *)to, n, utf8);
    taca_buf_finish(&plain);
    return ok;
}

/* keyword, NUL, [packed, method, language, NUL, translated keyword, NUL,] text */
static bool put_international(struct taca_buf *out, const unsigned char *s, size_t len) {
    if (len < 2) return false;
    const bool packed = s[0] == 1;
    const unsigned char *end = s + len, *at = s + 2;
    for (int strings = 0; strings < 2; strings++) {
        at = memchr(at, 0, (size_t)(end - at));
        if (!at) return false;
        at++;
    }
    return (packed ? put_packed : put_text)(out, at, (size_t)(end - at), true);
}

static bool read_chunk(struct taca_buf *out, const struct chunk *c, const char *keyword) {
    const size_t key = strlen(keyword) + 1; /* with its NUL */
    if (c->len < key || memcmp(c->data, keyword, key) != 0) return false;
    const unsigned char *s = c->data + key;
    const size_t n = c->len - key;
    if (memcmp(c->type, "tEXt", 4) == 0) return put_text(out, s, n, false);
    if (memcmp(c->type, "iTXt", 4) == 0) return put_international(out, s, n);
    return memcmp(c->type, "zTXt", 4) == 0 && n > 0 && put_packed(out, s + 1, n - 1, false);
}

enum taca_code api_png_text(struct taca_buf *out, const char *keyword, const void *bytes,
                            size_t len, struct taca_err *err) {
    size_t at = sizeof signature, before = out->len;
    struct chunk c;
    if (len < sizeof signature || memcmp(bytes, signature, sizeof signature) != 0)
        return taca_fail(err, TACA_EFORMAT, "%zu bytes that are not a PNG file", len);
    while (next_chunk(&c, bytes, len, &at)) {
        if (read_chunk(out, &c, keyword)) return TACA_OK;
        if (out->data) out->data[out->len = before] = 0;
    }
    if (out->failed) return taca_fail(err, TACA_ENOMEM, "the text \"%s\" of a PNG", keyword);
    return taca_fail(err, TACA_ENOTFOUND, "a PNG without a text \"%s\"", keyword);
}
