/* jpeg.h - pixels and texts to JPEG bytes, and JPEG bytes of strangers to pixels and texts. */
#ifndef TACA_API_JPEG_H
#define TACA_API_JPEG_H

#include "api/image_write.h"

/* Appends a JFIF file. quality 0..100 is the scale of libjpeg's tables (0 counts as 1); from 90 up
 * colours are stored at every pixel, below at every second one of either direction. The same
 * pixels, quality and texts give the same bytes; texts as api_jpeg_put_text has them. Nothing is
 * appended on failure: TACA_EINVAL for arguments, TACA_ENOMEM, TACA_EINTERNAL for a full `out`. */
enum taca_code api_jpeg_write(struct taca_buf *out, const struct taca_image *img, int quality,
                              const struct api_image_text *texts, int n_texts,
                              struct taca_err *err) TACA_MUST_USE;
/* Appends the segments of one text, which stand before the pixels. "parameters" is the comment of
 * an EXIF block, where A1111 and viewers look for it: one segment, so it is left out where it has
 * more than 32 K characters. Any other is in as many comment segments as it needs, each beginning
 * with "keyword: ". */
void api_jpeg_put_text(struct taca_buf *out, const struct api_image_text *text);
/* Appends the text that has this keyword, as above. TACA_EFORMAT for what is no JPEG,
 * TACA_ENOTFOUND when there is none before the pixels, or it is no text. */
enum taca_code api_jpeg_text(struct taca_buf *out, const char *keyword, const void *bytes,
                             size_t len, struct taca_err *err) TACA_MUST_USE;

struct api_jpeg_head {
    int width_px, height_px; /* as stored */
    int orientation;         /* exif.h */
};
/* What stands before the pixels; nothing of the picture's size is made. TACA_EFORMAT: no JPEG, a
 * broken one, or one whose colours are neither RGB nor grey (CMYK). */
enum taca_code api_jpeg_head(struct api_jpeg_head *out, const void *bytes, size_t len,
                             struct taca_err *err) TACA_MUST_USE;
/* 8-bit RGB as stored, not turned; free with taca_image_finish. Colour profiles are passed over.
 * TACA_EFORMAT as above and for what is damaged anywhere or cut, has a side above max_side_px
 * (which is seen before memory is taken), or more scans than any encoder writes. */
enum taca_code api_jpeg_read(struct taca_image *out, const void *bytes, size_t len, int max_side_px,
                             struct taca_err *err) TACA_MUST_USE;

#endif
