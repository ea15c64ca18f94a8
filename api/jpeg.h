/* jpeg.h - JPEG bytes of strangers to pixels. */
#ifndef TACA_API_JPEG_H
#define TACA_API_JPEG_H

#include "engine/params.h"

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
