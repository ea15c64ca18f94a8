/* jpeg_read.c - see jpeg.h. Through libjpeg, which goes on when data are damaged and reports errors
 * by a function that must not return: here damage is an error too, and what is live when one jumps
 * out is in struct source. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

#include "api/exif.h"
#include "api/jpeg.h"

/* A progressive file of ten scans is usual. Each may name every pixel in a few bytes, so that their
 * number is what a small file can cost. */
enum { MOST_SCANS = 64, EXIF_BYTES = 4096, EXIF_MARKER = JPEG_APP0 + 1 };
static const char exif_name[] = "Exif\0"; /* and the NUL at its end */

struct source {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr from;
    struct jpeg_progress_mgr progress;
    jmp_buf out;
    char message[JMSG_LENGTH_MAX];
    bool no_memory, whole; /* whole: the file is no damaged one, but of a kind that is not read */
    uint8_t *rgb;
};

/* ---- what libjpeg calls ---------------------------------------------------------------------- */

__attribute__((noreturn)) static void give_up(struct source *s, const char *message) {
    if (message) snprintf(s->message, sizeof s->message, "%s", message);
    longjmp(s->out, 1);
}

__attribute__((noreturn)) static void on_error(j_common_ptr jpeg) {
    struct source *s = jpeg->client_data;
    s->no_memory = s->errors.msg_code == JERR_OUT_OF_MEMORY;
    s->errors.format_message(jpeg, s->message);
    give_up(s, NULL);
}

/* level -1: it found damage and would go on with grey. */
static void on_message(j_common_ptr jpeg, int level) {
    struct source *s = jpeg->client_data;
    static const int harmless[] = {JWRN_EXTRANEOUS_DATA, JWRN_ADOBE_XFORM, JWRN_JFIF_MAJOR,
                                   JWRN_NOT_SEQUENTIAL, JWRN_TOO_MUCH_DATA};
    if (level >= 0) return;
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (s->errors.msg_code == harmless[i]) return;
    on_error(jpeg);
}

static void on_source(j_decompress_ptr jpeg) { (void)jpeg; }

static boolean on_empty(j_decompress_ptr jpeg) {
    give_up(jpeg->client_data, "the file is cut short");
}

static void on_skip(j_decompress_ptr jpeg, long n) {
    struct source *s = jpeg->client_data;
    if (n <= 0) return;
    if ((size_t)n > s->from.bytes_in_buffer) give_up(s, "the file is cut short");
    s->from.next_input_byte += n;
    s->from.bytes_in_buffer -= (size_t)n;
}

static void on_progress(j_common_ptr jpeg) {
    struct source *s = jpeg->client_data;
    if (s->jpeg.input_scan_number > MOST_SCANS) give_up(s, "it has too many scans");
}

/* ---- reading --------------------------------------------------------------------------------- */

static void read_head(struct source *s, const void *bytes, size_t len) {
    s->jpeg.err = jpeg_std_error(&s->errors);
    s->jpeg.client_data = s;
    s->errors.error_exit = on_error;
    s->errors.emit_message = on_message;
    jpeg_create_decompress(&s->jpeg);
    s->from = (struct jpeg_source_mgr){.next_input_byte = bytes,
                                       .bytes_in_buffer = len,
                                       .init_source = on_source,
                                       .fill_input_buffer = on_empty,
                                       .skip_input_data = on_skip,
                                       .resync_to_restart = jpeg_resync_to_restart,
                                       .term_source = on_source};
    s->progress.progress_monitor = on_progress;
    s->jpeg.src = &s->from;
    s->jpeg.progress = &s->progress;
    jpeg_save_markers(&s->jpeg, EXIF_MARKER, EXIF_BYTES);
    jpeg_read_header(&s->jpeg, TRUE);
    const J_COLOR_SPACE colors = s->jpeg.jpeg_color_space;
    if (colors == JCS_YCbCr || colors == JCS_GRAYSCALE || colors == JCS_RGB) return;
    s->whole = true;
    give_up(s, colors == JCS_CMYK || colors == JCS_YCCK
                   ? "a JPEG file in CMYK, wanted one in RGB or grey"
                   : "a JPEG file of unknown colours, wanted one in RGB or grey");
}

static void read_pixels(struct source *s) {
    const size_t row = (size_t)s->jpeg.image_width * 3;
    s->jpeg.out_color_space = JCS_RGB;
    s->rgb = calloc(s->jpeg.image_height, row);
    if (!s->rgb) {
        s->no_memory = true;
        give_up(s, "no memory");
    }
    jpeg_start_decompress(&s->jpeg);
    while (s->jpeg.output_scanline < s->jpeg.output_height) {
        JSAMPROW at = s->rgb + s->jpeg.output_scanline * row;
        jpeg_read_scanlines(&s->jpeg, &at, 1);
    }
    jpeg_finish_decompress(&s->jpeg);
}

static int orientation_of(const struct source *s) {
    for (jpeg_saved_marker_ptr m = s->jpeg.marker_list; m; m = m->next)
        if (m->data_length > sizeof exif_name && memcmp(m->data, exif_name, sizeof exif_name) == 0)
            return api_exif_orientation(m->data + sizeof exif_name,
                                        m->data_length - sizeof exif_name);
    return EXIF_UPRIGHT;
}

static enum taca_code finish(struct source *s, enum taca_code rc, struct taca_err *err) {
    jpeg_destroy_decompress(&s->jpeg);
    if (rc) free(s->rgb);
    if (s->no_memory) return taca_fail(err, TACA_ENOMEM, "no memory for a JPEG");
    if (rc && s->message[0])
        taca_fail(err, rc, "%s%s", s->whole ? "" : "a broken JPEG file: ", s->message);
    return rc;
}

/* What it has allocated is s's, whether it jumped out or not. */
static enum taca_code try_head(struct source *s, const void *bytes, size_t len) {
    if (setjmp(s->out)) return TACA_EFORMAT;
    read_head(s, bytes, len);
    return TACA_OK;
}

static enum taca_code try_pixels(struct source *s, int max_side_px, struct taca_err *err) {
    const JDIMENSION max = (JDIMENSION)max_side_px;
    if (s->jpeg.image_width > max || s->jpeg.image_height > max)
        return taca_fail(err, TACA_EFORMAT, "a JPEG of %u x %u pixels, wanted 1..%d each",
                         s->jpeg.image_width, s->jpeg.image_height, max_side_px);
    if (setjmp(s->out)) return TACA_EFORMAT;
    read_pixels(s);
    return TACA_OK;
}

enum taca_code api_jpeg_head(struct api_jpeg_head *out, const void *bytes, size_t len,
                             struct taca_err *err) {
    struct source s = {.rgb = NULL};
    enum taca_code rc = try_head(&s, bytes, len);
    const struct api_jpeg_head head = {(int)s.jpeg.image_width, (int)s.jpeg.image_height,
                                       rc ? EXIF_UPRIGHT : orientation_of(&s)};
    rc = finish(&s, rc, err);
    if (!rc) *out = head;
    return rc;
}

enum taca_code api_jpeg_read(struct taca_image *out, const void *bytes, size_t len, int max_side_px,
                             struct taca_err *err) {
    struct source s = {.rgb = NULL};
    enum taca_code rc = try_head(&s, bytes, len);
    if (!rc) rc = try_pixels(&s, max_side_px, err);
    const int w = (int)s.jpeg.image_width, h = (int)s.jpeg.image_height;
    rc = finish(&s, rc, err);
    if (!rc) *out = (struct taca_image){w, h, s.rgb};
    return rc;
}
