/* jpeg_text.c - texts in the segments before a JPEG's pixels; see jpeg.h. Without libjpeg: segments
 * are a marker, a length and bytes, and what follows the pixels' marker is not looked at. */
#include <stdio.h>
#include <string.h>

#include "api/exif.h"
#include "api/jpeg.h"
#include "base/utf8.h"

enum { SOI = 0xD8, SOS = 0xDA, APP1 = 0xE1, COM = 0xFE, TEM = 0x01, RST0 = 0xD0 };
enum { LENGTH_BYTES = 2, MOST_BYTES = 0xFFFF - LENGTH_BYTES, KEYWORD_BYTES = 80 };
static const char exif_name[] = "Exif\0", parameters[] = "parameters"; /* and the NUL at its end */

/* ---- writing --------------------------------------------------------------------------------- */

static void put_segment(struct taca_buf *out, int marker, const char *name, size_t name_len,
                        const char *bytes, size_t len) {
    const size_t all = LENGTH_BYTES + name_len + len;
    const unsigned char head[] = {0xFF, (unsigned char)marker, (unsigned char)(all >> 8),
                                  (unsigned char)all};
    taca_buf_put(out, head, sizeof head);
    taca_buf_put(out, name, name_len);
    taca_buf_put(out, bytes, len);
}

static void put_exif(struct taca_buf *out, const char *text) {
    struct taca_buf tiff;
    taca_buf_init(&tiff, out->max);
    api_exif_put_comment(&tiff, text);
    if (tiff.failed)
        out->failed = true;
    else if (tiff.len <= MOST_BYTES - sizeof exif_name)
        put_segment(out, APP1, exif_name, sizeof exif_name, tiff.data, tiff.len);
    taca_buf_finish(&tiff);
}

void api_jpeg_put_text(struct taca_buf *out, const struct api_image_text *text) {
    char name[KEYWORD_BYTES + 2];
    if (strcmp(text->keyword, parameters) == 0) {
        put_exif(out, text->text);
        return;
    }
    const int n = snprintf(name, sizeof name, "%s: ", text->keyword);
    const size_t room = MOST_BYTES - (size_t)n;
    for (size_t left = strlen(text->text), at = 0;;) {
        const size_t part = left < room ? left : room;
        put_segment(out, COM, name, (size_t)n, text->text + at, part);
        at += part;
        left -= part;
        if (left == 0) return;
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

struct segment {
    int marker;
    const char *data;
    size_t len;
};

/* The segment at *at, which moves behind it; false at the pixels, or where the file is broken. */
static bool next_segment(struct segment *s, const unsigned char *bytes, size_t len, size_t *at) {
    if (len - *at < 2 || bytes[*at] != 0xFF) return false;
    while (*at < len && bytes[*at] == 0xFF) ++*at; /* any number of them */
    if (len - *at < 1 + LENGTH_BYTES) return false;
    s->marker = bytes[*at];
    if (s->marker == TEM || (s->marker >= RST0 && s->marker <= SOS)) return false;
    const size_t all = (size_t)bytes[*at + 1] << 8 | bytes[*at + 2];
    ++*at;
    if (all < LENGTH_BYTES || all > len - *at) return false;
    s->data = (const char *)bytes + *at + LENGTH_BYTES;
    s->len = all - LENGTH_BYTES;
    *at += all;
    return true;
}

static bool begins(const struct segment *s, int marker, const char *name, size_t len) {
    return s->marker == marker && s->len >= len && memcmp(s->data, name, len) == 0;
}

/* True when the text is whole. */
static bool read_segment(struct taca_buf *out, const struct segment *s, const char *name,
                         size_t name_len, bool exif) {
    if (exif)
        return begins(s, APP1, exif_name, sizeof exif_name) &&
               api_exif_comment(out, s->data + sizeof exif_name, s->len - sizeof exif_name);
    if (begins(s, COM, name, name_len)) taca_buf_put(out, s->data + name_len, s->len - name_len);
    return false; /* others may follow */
}

enum taca_code api_jpeg_text(struct taca_buf *out, const char *keyword, const void *bytes,
                             size_t len, struct taca_err *err) {
    const unsigned char *b = bytes;
    const size_t before = out->len;
    const bool exif = strcmp(keyword, parameters) == 0;
    char name[KEYWORD_BYTES + 2];
    struct segment s;
    const int n = snprintf(name, sizeof name, "%s: ", keyword);
    if (len < 3 || b[0] != 0xFF || b[1] != SOI || b[2] != 0xFF)
        return taca_fail(err, TACA_EFORMAT, "%zu bytes that are not a JPEG file", len);
    bool whole = false;
    for (size_t at = 2; !whole && next_segment(&s, b, len, &at);)
        whole = read_segment(out, &s, name, (size_t)n, exif);
    if (out->failed) return taca_fail(err, TACA_ENOMEM, "the text \"%s\" of a JPEG", keyword);
    if (out->len > before && taca_utf8_valid(out->data + before, out->len - before)) return TACA_OK;
    if (out->data) out->data[out->len = before] = 0;
    return taca_fail(err, TACA_ENOTFOUND, "a JPEG without a text \"%s\"", keyword);
}
