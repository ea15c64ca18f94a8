/* png.h - pixels to PNG bytes, texts included, and PNG bytes to pixels. */
#ifndef TACA_API_PNG_H
#define TACA_API_PNG_H

#include "api/image_write.h"

/* Appends an 8-bit RGB PNG. level 0..9 is zlib's; a text is tEXt when it fits Latin-1, else iTXt.
 */
enum taca_code api_png_write(struct taca_buf *out, const struct taca_image *img, int level,
                             const struct api_image_text *texts, int n_texts,
                             struct taca_err *err) TACA_MUST_USE;

/* Any PNG (grey, palette, 16 bits, alpha, interlaced) as 8-bit RGB over white; free with
 * taca_image_finish. Colour profiles and gamma are passed over. TACA_EFORMAT for what is no PNG, is
 * broken or cut, or has a side above max_side_px, which is seen before memory is taken. */
enum taca_code api_png_read(struct taca_image *out, const void *bytes, size_t len, int max_side_px,
                            struct taca_err *err) TACA_MUST_USE;
/* What the head of a PNG file says, before anything of that size is made; false when it is none. */
bool api_png_size(int *width_px, int *height_px, const void *bytes, size_t len);
/* What its eXIf chunk says (exif.h); nothing that is read here is turned. */
int api_png_orientation(const void *bytes, size_t len);

struct api_mask_rule {
    bool holes; /* repaint where it is clear, instead of where it is white */
    int max_side_px;
};
/* A PNG as a byte for each pixel, 255 = repaint; free with free(). Errors as above; holes want a
 * file that can be clear somewhere. */
enum taca_code api_png_read_mask(uint8_t **out, int *width_px, int *height_px, const void *bytes,
                                 size_t len, const struct api_mask_rule *rule,
                                 struct taca_err *err) TACA_MUST_USE;
/* Its brightness: 255 = white = repaint. mask may be img->rgb. */
void api_mask_from_image(uint8_t *mask, const struct taca_image *img);

/* Appends the UTF-8 text of the chunk that has this keyword (tEXt, zTXt, iTXt). TACA_EFORMAT for
 * what is no PNG, TACA_ENOTFOUND when there is no such text before the end or where it is broken.
 */
enum taca_code api_png_text(struct taca_buf *out, const char *keyword, const void *bytes,
                            size_t len, struct taca_err *err) TACA_MUST_USE;

#endif
