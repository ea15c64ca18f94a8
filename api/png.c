/* png.c - pixels to PNG bytes, through libpng; see png.h. The same pixels, level and texts give the
 * same bytes: no time chunk. libpng reports errors by longjmp, so nothing is allocated between
 * setjmp and the end of writing except by libpng itself. */
#include "api/png.h"

#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "base/utf8.h"

enum { MAX_TEXTS = 8, IDAT_BYTES = 64 << 10 };

struct sink {
    struct taca_buf *out;
    char message[128]; /* libpng's, from its last error */
};

static void on_write(png_structp png, png_bytep bytes, size_t len) {
    struct sink *s = png_get_io_ptr(png);
    taca_buf_put(s->out, bytes, len);
    if (s->out->failed) png_error(png, "no room for the encoded image");
}

static void on_flush(png_structp png) { (void)png; }

__attribute__((noreturn)) static void on_error(png_structp png, png_const_charp message) {
    struct sink *s = png_get_error_ptr(png);
    snprintf(s->message, sizeof s->message, "%s", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message) {
    (void)png;
    (void)message;
}

/* Text that tEXt may hold: Latin-1 without control characters other than the newline. A copy of it
 * in Latin-1, or NULL. */
static char *to_latin1(const char *text, struct taca_arena *a, bool *oom) {
    size_t len = strlen(text), n = 0;
    char *out = taca_arena_alloc(a, len + 1);
    if (!out) return *oom = true, NULL;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int bytes = taca_utf8_next(text + i, len - i, &cp);
        if (bytes == 0 || cp > 0xFF || (cp < 0x20 && cp != '\n') || (cp >= 0x7F && cp < 0xA0))
            return NULL;
        out[n++] = (char)cp;
        i += (size_t)bytes;
    }
    return out;
}

static enum taca_code prepare_texts(png_text *to, const struct api_image_text *from, int n,
                                    struct taca_arena *a, struct taca_err *err) {
    for (int i = 0; i < n; i++) {
        size_t key_len = strlen(from[i].keyword), len = strlen(from[i].text);
        bool oom = false;
        if (key_len < 1 || key_len > 79)
            return taca_fail(err, TACA_EINVAL, "PNG keyword of %zu bytes, wanted 1..79", key_len);
        if (!taca_utf8_valid(from[i].text, len))
            return taca_fail(err, TACA_EINVAL, "PNG text \"%s\" is not UTF-8", from[i].keyword);
        char *latin1 = to_latin1(from[i].text, a, &oom);
        char *keyword = taca_arena_strndup(a, from[i].keyword, key_len);
        char *utf8 = latin1 ? NULL : taca_arena_strndup(a, from[i].text, len);
        if (oom || !keyword || (!latin1 && !utf8))
            return taca_fail(err, TACA_ENOMEM, "PNG text of %zu bytes", len);
        to[i] = (png_text){.compression =
                               latin1 ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
                           .key = keyword,
                           .text = latin1 ? latin1 : utf8};
    }
    return TACA_OK;
}

struct job {
    const struct taca_image *img;
    int level, n_texts;
    png_text texts[MAX_TEXTS];
};

/* A picture from a decoder is smooth with a little noise: zlib's search for repeats finds short
 * matches there that cost more bits than they save. So levels 1..6 seek only runs, behind one cheap
 * row filter or behind the best of all five, and only the last levels search. 1024 x 1024 px:
 *   level   filter, strategy     noisy            smooth
 *   1..3    mean, runs            23 ms  945 KB     17 ms  414 KB
 *   4..6    best, runs            45 ms  945 KB     30 ms  407 KB
 *   9       best, search        1240 ms 1038 KB   1870 ms  359 KB
 *   (3      mean, search          57 ms 1144 KB     45 ms  481 KB) */
static void set_compression(png_structp png, int level) {
    enum { LAST_CHEAP_FILTER = 3, LAST_RUNS_ONLY = 6 };
    int filter = level == 0                   ? PNG_FILTER_NONE
                 : level <= LAST_CHEAP_FILTER ? PNG_FILTER_AVG
                                              : PNG_ALL_FILTERS;
    png_set_compression_level(png, level);
    png_set_compression_strategy(png, level <= LAST_RUNS_ONLY ? Z_RLE : Z_FILTERED);
    png_set_compression_buffer_size(png, IDAT_BYTES);
    png_set_filter(png, PNG_FILTER_TYPE_BASE, filter);
}

/* May leave by longjmp at any call. */
static void write_image(png_structp png, png_infop info, const struct job *job) {
    const struct taca_image *img = job->img;
    png_set_IHDR(png, info, (png_uint_32)img->width_px, (png_uint_32)img->height_px, 8,
                 PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    set_compression(png, job->level);
    if (job->n_texts) png_set_text(png, info, job->texts, job->n_texts);
    png_write_info(png, info);
    for (int y = 0; y < img->height_px; y++)
        png_write_row(png, img->rgb + (size_t)y * (size_t)img->width_px * 3);
    png_write_end(png, info);
}

/* False with s->message set when libpng gave up. */
static bool run(struct sink *s, const struct job *job) {
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, s, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (info && setjmp(png_jmpbuf(png)) == 0) {
        png_set_write_fn(png, s, on_write, on_flush);
        write_image(png, info, job);
        png_destroy_write_struct(&png, &info);
        return true;
    }
    png_destroy_write_struct(&png, &info);
    return false;
}

enum taca_code api_png_write(struct taca_buf *out, const struct taca_image *img, int level,
                             const struct api_image_text *texts, int n_texts,
                             struct taca_err *err) {
    struct sink s = {.out = out, .message = "out of memory"};
    struct job job = {.img = img, .level = level, .n_texts = n_texts};
    struct taca_arena arena = {0};
    size_t before = out->len;
    enum taca_code rc;

    if (img->width_px < 1 || img->height_px < 1 || !img->rgb)
        return taca_fail(err, TACA_EINVAL, "no PNG of %dx%d pixels", img->width_px, img->height_px);
    if (level < 0 || level > 9)
        return taca_fail_param(err, "png_level", "png_level must be in 0..9, got %d", level);
    if (n_texts < 0 || n_texts > MAX_TEXTS)
        return taca_fail(err, TACA_EINVAL, "%d PNG texts, wanted 0..%d", n_texts, MAX_TEXTS);
    rc = prepare_texts(job.texts, texts, n_texts, &arena, err);
    if (!rc && !run(&s, &job))
        rc = taca_fail(err, TACA_EINTERNAL, "PNG of %dx%d: %s", img->width_px, img->height_px,
                       s.message);
    if (rc && out->data) {
        out->len = before; /* no half file */
        out->data[before] = 0;
    }
    taca_arena_finish(&arena);
    return rc;
}
