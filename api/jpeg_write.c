/* jpeg_write.c - pixels to JPEG bytes, through libjpeg; see jpeg.h. Its errors jump out: what is
 * live then is in struct sink, and everything else is allocated before. The bytes go straight into
 * the caller's buffer. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

#include "api/jpeg.h"

enum { ROOM = 16 << 10, FULL_COLOR_QUALITY = 90 };

struct sink {
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_destination_mgr to;
    jmp_buf out;
    struct taca_buf *file;
    char message[JMSG_LENGTH_MAX];
    bool no_memory;
};

/* ---- what libjpeg calls ---------------------------------------------------------------------- */

__attribute__((noreturn)) static void on_error(j_common_ptr jpeg) {
    struct sink *s = jpeg->client_data;
    s->no_memory = s->errors.msg_code == JERR_OUT_OF_MEMORY;
    s->errors.format_message(jpeg, s->message);
    longjmp(s->out, 1);
}

static void on_message(j_common_ptr jpeg, int level) {
    (void)jpeg;
    (void)level;
}

static void make_room(struct sink *s) {
    s->to.next_output_byte = (JOCTET *)taca_buf_reserve(s->file, ROOM);
    s->to.free_in_buffer = ROOM;
    if (s->to.next_output_byte) return;
    snprintf(s->message, sizeof s->message, "no room for the encoded image");
    longjmp(s->out, 1);
}

/* What libjpeg has put into the room so far is part of the file. */
static void take(struct sink *s) {
    s->file->len += ROOM - s->to.free_in_buffer;
    s->to.free_in_buffer = ROOM;
}

static void on_start(j_compress_ptr jpeg) { make_room(jpeg->client_data); }

static boolean on_full(j_compress_ptr jpeg) {
    struct sink *s = jpeg->client_data;
    s->to.free_in_buffer = 0; /* it says so by asking, and may not have counted */
    take(s);
    make_room(s);
    return TRUE;
}

static void on_end(j_compress_ptr jpeg) { take(jpeg->client_data); }

/* ---- writing --------------------------------------------------------------------------------- */

static void set_up(struct sink *s, const struct taca_image *img, int quality) {
    s->jpeg.err = jpeg_std_error(&s->errors);
    s->jpeg.client_data = s;
    s->errors.error_exit = on_error;
    s->errors.emit_message = on_message;
    jpeg_create_compress(&s->jpeg);
    s->to = (struct jpeg_destination_mgr){
        .init_destination = on_start, .empty_output_buffer = on_full, .term_destination = on_end};
    s->jpeg.dest = &s->to;
    s->jpeg.image_width = (JDIMENSION)img->width_px;
    s->jpeg.image_height = (JDIMENSION)img->height_px;
    s->jpeg.input_components = 3;
    s->jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&s->jpeg);
    jpeg_set_quality(&s->jpeg, quality, TRUE);
    s->jpeg.optimize_coding = TRUE;
    if (quality >= FULL_COLOR_QUALITY)
        s->jpeg.comp_info[0].h_samp_factor = s->jpeg.comp_info[0].v_samp_factor = 1;
}

static void write_all(struct sink *s, const struct taca_image *img, const struct taca_buf *texts) {
    jpeg_start_compress(&s->jpeg, TRUE); /* up to the JFIF segment, which is the first */
    take(s);
    taca_buf_put(s->file, texts->data, texts->len);
    make_room(s);
    while (s->jpeg.next_scanline < s->jpeg.image_height) {
        JSAMPROW row = img->rgb + (size_t)s->jpeg.next_scanline * (size_t)img->width_px * 3;
        jpeg_write_scanlines(&s->jpeg, &row, 1);
    }
    jpeg_finish_compress(&s->jpeg);
}

static bool run(struct sink *s, const struct taca_image *img, int quality,
                const struct taca_buf *texts) {
    if (setjmp(s->out)) return false;
    set_up(s, img, quality);
    write_all(s, img, texts);
    return true;
}

enum taca_code api_jpeg_write(struct taca_buf *out, const struct taca_image *img, int quality,
                              const struct api_image_text *texts, int n_texts,
                              struct taca_err *err) {
    struct sink s = {.file = out};
    const size_t before = out->len;
    const int w = img->width_px, h = img->height_px;
    struct taca_buf segments;
    enum taca_code rc = TACA_OK;
    if (w < 1 || h < 1 || !img->rgb)
        return taca_fail(err, TACA_EINVAL, "no JPEG of %dx%d pixels", w, h);
    if (quality < 0 || quality > 100)
        return taca_fail_param(err, "output_compression",
                               "output_compression must be in 0..100, got %d", quality);
    taca_buf_init(&segments, out->max);
    for (int i = 0; i < n_texts; i++) api_jpeg_put_text(&segments, &texts[i]);
    if (segments.failed)
        rc = taca_fail(err, TACA_ENOMEM, "the texts of a JPEG");
    else if (!run(&s, img, quality, &segments))
        rc = s.no_memory ? taca_fail(err, TACA_ENOMEM, "no memory for a JPEG of %dx%d", w, h)
                         : taca_fail(err, TACA_EINTERNAL, "JPEG of %dx%d: %s", w, h, s.message);
    jpeg_destroy_compress(&s.jpeg);
    taca_buf_finish(&segments);
    if (rc && out->data) {
        out->len = before; /* no half file */
        out->data[before] = 0;
    } else if (!rc) {
        out->data[out->len] = 0;
    }
    return rc;
}
