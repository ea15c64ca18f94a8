/* png_read.c - PNG bytes of strangers to pixels, through libpng; see png.h. Sides are checked in
 * the first chunk, before anything of their size is allocated; chunks that do not change pixels are
 * passed over unread, but for how the camera was held. libpng reports errors by longjmp: what is
 * live then is in struct source. */
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/exif.h"
#include "api/png.h"

enum { HEAD_BYTES = 33, CHUNK_FRAME = 12, LARGEST_CHUNK = 8 << 20 };
static const unsigned char head[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n',
                                     0,    0,   0,   13,  'I',  'H',  'D',  'R'};

struct source {
    const unsigned char *at, *end;
    char message[128]; /* libpng's, from its last error */
    png_structp png;
    png_infop info;
    uint8_t *pixels; /* RGBA */
    bool has_alpha;  /* of the file: a channel, or a colour that is clear */
    png_bytep *rows;
};

static void on_read(png_structp png, png_bytep to, size_t n) {
    struct source *s = png_get_io_ptr(png);
    if ((size_t)(s->end - s->at) < n) png_error(png, "the file is cut short");
    memcpy(to, s->at, n);
    s->at += n;
}

__attribute__((noreturn)) static void on_error(png_structp png, png_const_charp message) {
    struct source *s = png_get_error_ptr(png);
    snprintf(s->message, sizeof s->message, "%s", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message) {
    (void)png;
    (void)message;
}

static uint32_t be32(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static enum taca_code check_head(const unsigned char *bytes, size_t len, int max_side_px,
                                 struct taca_err *err) {
    if (len < HEAD_BYTES || memcmp(bytes, head, sizeof head) != 0)
        return taca_fail(err, TACA_EFORMAT, "%zu bytes that are not a PNG file", len);
    const uint32_t w = be32(bytes + 16), h = be32(bytes + 20), max = (uint32_t)max_side_px;
    if (w < 1 || h < 1 || w > max || h > max)
        return taca_fail(err, TACA_EFORMAT, "a PNG of %u x %u pixels, wanted 1..%d each", w, h,
                         max_side_px);
    return TACA_OK;
}

/* Everything to 8-bit RGBA. */
static void set_transforms(struct source *s) {
    png_set_expand(s->png); /* palettes, fewer bits, tRNS */
    png_set_scale_16(s->png);
    png_set_gray_to_rgb(s->png);
    png_set_add_alpha(s->png, 255, PNG_FILLER_AFTER);
    png_set_interlace_handling(s->png);
    png_read_update_info(s->png, s->info);
}

/* TACA_OK, or anything else with s->message or without (no memory). */
static enum taca_code decode(struct source *s, uint32_t w, uint32_t h) {
    if (setjmp(png_jmpbuf(s->png))) return TACA_EFORMAT;
    png_set_read_fn(s->png, s, on_read);
    png_set_user_limits(s->png, w, h);
    png_set_chunk_cache_max(s->png, 16);
    png_set_chunk_malloc_max(s->png, LARGEST_CHUNK);
    png_set_crc_action(s->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_keep_unknown_chunks(s->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_read_info(s->png, s->info);
    s->has_alpha = (png_get_color_type(s->png, s->info) & PNG_COLOR_MASK_ALPHA) ||
                   png_get_valid(s->png, s->info, PNG_INFO_tRNS);
    set_transforms(s);
    const size_t row = (size_t)w * 4;
    if (png_get_rowbytes(s->png, s->info) != row) png_error(s->png, "an unknown kind of pixels");
    s->pixels = calloc(h, row);
    s->rows = calloc(h, sizeof *s->rows);
    if (!s->pixels || !s->rows) return TACA_ENOMEM;
    for (uint32_t y = 0; y < h; y++) s->rows[y] = s->pixels + y * row;
    png_read_image(s->png, s->rows);
    png_read_end(s->png, NULL);
    return TACA_OK;
}

/* Over white, in place: pixel i goes where nothing unread is. */
static void flatten(uint8_t *pixels, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const unsigned alpha = pixels[4 * i + 3];
        for (size_t c = 0; c < 3; c++)
            pixels[3 * i + c] =
                (uint8_t)((pixels[4 * i + c] * alpha + 255 * (255 - alpha) + 127) / 255);
    }
}

bool api_png_size(int *width_px, int *height_px, const void *bytes, size_t len) {
    const unsigned char *at = bytes;
    if (len < HEAD_BYTES || memcmp(at, head, sizeof head) != 0) return false;
    const uint32_t w = be32(at + 16), h = be32(at + 20);
    *width_px = w <= INT32_MAX ? (int)w : INT32_MAX;
    *height_px = h <= INT32_MAX ? (int)h : INT32_MAX;
    return true;
}

int api_png_orientation(const void *bytes, size_t len) {
    const unsigned char *at = (const unsigned char *)bytes + 8, *end = at - 8 + len;
    while (len >= HEAD_BYTES && end - at >= CHUNK_FRAME) {
        const uint32_t n = be32(at);
        if (n > (size_t)(end - at) - CHUNK_FRAME) break;
        if (memcmp(at + 4, "eXIf", 4) == 0) return api_exif_orientation(at + 8, n);
        at += CHUNK_FRAME + n;
    }
    return EXIF_UPRIGHT;
}

/* RGBA, s->pixels; *has_alpha (may be NULL): whether the file says anything about it. */
static enum taca_code read_rgba(struct source *s, int *w, int *h, bool *has_alpha, int max_side_px,
                                struct taca_err *err) {
    enum taca_code rc = check_head(s->at, (size_t)(s->end - s->at), max_side_px, err);
    if (rc) return rc;
    *w = (int)be32(s->at + 16);
    *h = (int)be32(s->at + 20);
    s->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, s, on_error, on_warning);
    if (s->png) s->info = png_create_info_struct(s->png);
    rc = s->info ? decode(s, (uint32_t)*w, (uint32_t)*h) : TACA_ENOMEM;
    if (rc == TACA_ENOMEM)
        taca_fail(err, rc, "no memory for a PNG of %d x %d pixels", *w, *h);
    else if (rc)
        taca_fail(err, rc, "a broken PNG file: %s", s->message);
    if (!rc && has_alpha) *has_alpha = s->has_alpha;
    png_destroy_read_struct(&s->png, &s->info, NULL);
    free(s->rows);
    if (rc) free(s->pixels);
    return rc;
}

enum taca_code api_png_read(struct taca_image *out, const void *bytes, size_t len, int max_side_px,
                            struct taca_err *err) {
    struct source s = {.at = bytes, .end = (const unsigned char *)bytes + len};
    int w, h;
    enum taca_code rc = read_rgba(&s, &w, &h, NULL, max_side_px, err);
    if (rc) return rc;
    flatten(s.pixels, (size_t)w * (size_t)h);
    uint8_t *rgb = realloc(s.pixels, (size_t)w * (size_t)h * 3);
    *out = (struct taca_image){w, h, rgb ? rgb : s.pixels};
    return TACA_OK;
}

static enum taca_code read_mask(uint8_t **out, int *w, int *h, struct source *s, int max_side_px,
                                struct taca_err *err) {
    enum taca_code rc = read_rgba(s, w, h, NULL, max_side_px, err);
    if (rc) return rc;
    const size_t n = (size_t)*w * (size_t)*h;
    flatten(s->pixels, n);
    api_mask_from_image(s->pixels, &(struct taca_image){*w, *h, s->pixels});
    *out = s->pixels;
    return TACA_OK;
}

static enum taca_code read_holes(uint8_t **out, int *w, int *h, struct source *s, int max_side_px,
                                 struct taca_err *err) {
    bool has_alpha;
    enum taca_code rc = read_rgba(s, w, h, &has_alpha, max_side_px, err);
    if (rc) return rc;
    const size_t n = (size_t)*w * (size_t)*h;
    if (!has_alpha) {
        free(s->pixels);
        return taca_fail(err, TACA_EFORMAT, "a PNG without transparency: what is clear is painted");
    }
    for (size_t i = 0; i < n; i++) s->pixels[i] = (uint8_t)(255 - s->pixels[4 * i + 3]);
    *out = s->pixels;
    return TACA_OK;
}

enum taca_code api_png_read_mask(uint8_t **out, int *width_px, int *height_px, const void *bytes,
                                 size_t len, const struct api_mask_rule *rule,
                                 struct taca_err *err) {
    struct source s = {.at = bytes, .end = (const unsigned char *)bytes + len};
    return (rule->holes ? read_holes : read_mask)(out, width_px, height_px, &s, rule->max_side_px,
                                                  err);
}

/* In place too: byte i goes where nothing unread is. */
void api_mask_from_image(uint8_t *mask, const struct taca_image *img) {
    const size_t n = (size_t)img->width_px * (size_t)img->height_px;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *p = img->rgb + 3 * i;
        mask[i] = (uint8_t)((p[0] * 299 + p[1] * 587 + p[2] * 114 + 500) / 1000);
    }
}
