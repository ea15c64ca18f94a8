/* image_file.h - a picture as people send it: PNG or JPEG, the right way up. Knows neither requests
 * nor limits. */
#ifndef TACA_API_IMAGE_FILE_H
#define TACA_API_IMAGE_FILE_H

#include "api/png.h"

/* What the bytes look like, for people: "a JPEG", "a WebP", "no known kind of". */
const char *api_image_kind(const void *bytes, size_t len);
/* Whether it begins like a file that the functions below read; 8 bytes are enough. */
bool api_image_is_readable(const void *bytes, size_t len);
/* The sides as the picture is shown, from the head of the file: nothing of its size is made. Sides
 * of a PNG may be 0 or below. TACA_ENOTFOUND when it is of another kind, TACA_EFORMAT when its head
 * makes no sense. */
enum taca_code api_image_size(int *width_px, int *height_px, const void *bytes, size_t len,
                              struct taca_err *err) TACA_MUST_USE;
/* The picture as it is shown: what png.h and jpeg.h say, turned. */
enum taca_code api_image_read(struct taca_image *out, const void *bytes, size_t len,
                              int max_side_px, struct taca_err *err) TACA_MUST_USE;
/* As api_png_read_mask; a JPEG is clear nowhere. */
enum taca_code api_image_read_mask(uint8_t **out, int *width_px, int *height_px, const void *bytes,
                                   size_t len, const struct api_mask_rule *rule,
                                   struct taca_err *err) TACA_MUST_USE;
/* Appends what the file says of itself under this keyword: as api_png_text and api_jpeg_text have
 * it. TACA_EFORMAT when it is of another kind. */
enum taca_code api_image_text(struct taca_buf *out, const char *keyword, const void *bytes,
                              size_t len, struct taca_err *err) TACA_MUST_USE;

#endif
