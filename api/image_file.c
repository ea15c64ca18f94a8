/* image_file.c - see image_file.h. */
#include "api/image_file.h"

#include <stdlib.h>
#include <string.h>

#include "api/exif.h"
#include "api/jpeg.h"

static const struct kind {
    const char *head, *name;
    size_t at, len;
} kinds[] = {{"\x89PNG\r\n\x1A\n", "a PNG", 0, 8},
             {"\xFF\xD8\xFF", "a JPEG", 0, 3},
             {"WEBP", "a WebP", 8, 4},
             {"GIF8", "a GIF", 0, 4},
             {"BM", "a BMP", 0, 2},
             {"ftypavif", "an AVIF", 4, 8},
             {"ftyphei", "a HEIC", 4, 7}};
enum { PNG, JPEG, N_KINDS = sizeof kinds / sizeof *kinds };

static size_t kind_of(const void *bytes, size_t len) {
    size_t i = 0;
    while (i < N_KINDS && (len < kinds[i].at + kinds[i].len ||
                           memcmp((const char *)bytes + kinds[i].at, kinds[i].head, kinds[i].len)))
        i++;
    return i;
}

const char *api_image_kind(const void *bytes, size_t len) {
    const size_t kind = kind_of(bytes, len);
    return kind < N_KINDS ? kinds[kind].name : "no known kind of";
}

bool api_image_is_readable(const void *bytes, size_t len) {
    const size_t kind = kind_of(bytes, len);
    return kind == PNG || kind == JPEG;
}

enum taca_code api_image_size(int *width_px, int *height_px, const void *bytes, size_t len,
                              struct taca_err *err) {
    struct api_jpeg_head jpeg;
    struct api_size stored;
    int orientation;
    if (kind_of(bytes, len) == JPEG) {
        enum taca_code rc = api_jpeg_head(&jpeg, bytes, len, err);
        if (rc) return rc;
        stored = (struct api_size){jpeg.width_px, jpeg.height_px};
        orientation = jpeg.orientation;
    } else if (api_png_size(&stored.w, &stored.h, bytes, len)) {
        orientation = api_png_orientation(bytes, len);
    } else {
        return taca_fail(err, TACA_ENOTFOUND, "neither a PNG nor a JPEG file");
    }
    const struct api_size shown = api_exif_sides(stored, orientation);
    *width_px = shown.w;
    *height_px = shown.h;
    return TACA_OK;
}

/* In place of *pixels, which are freed. */
static enum taca_code turn(uint8_t **pixels, int channels, int *w, int *h, int orientation,
                           struct taca_err *err) {
    const struct api_size stored = {*w, *h}, shown = api_exif_sides(stored, orientation);
    if (orientation == EXIF_UPRIGHT) return TACA_OK;
    uint8_t *turned = api_exif_turn(*pixels, channels, stored, orientation);
    free(*pixels);
    *pixels = turned;
    if (!turned) return taca_fail(err, TACA_ENOMEM, "no memory to turn a picture");
    *w = shown.w;
    *h = shown.h;
    return TACA_OK;
}

static enum taca_code another_kind(const void *bytes, size_t len, struct taca_err *err) {
    return taca_fail(err, TACA_EFORMAT, "%zu bytes of %s file, wanted a PNG or JPEG", len,
                     api_image_kind(bytes, len));
}

enum taca_code api_image_read(struct taca_image *out, const void *bytes, size_t len,
                              int max_side_px, struct taca_err *err) {
    struct api_jpeg_head jpeg;
    struct taca_image img;
    const size_t kind = kind_of(bytes, len);
    const bool is_jpeg = kind == JPEG;
    if (!api_image_is_readable(bytes, len)) return another_kind(bytes, len, err);
    enum taca_code rc = is_jpeg ? api_jpeg_head(&jpeg, bytes, len, err) : TACA_OK;
    if (!rc) rc = (is_jpeg ? api_jpeg_read : api_png_read)(&img, bytes, len, max_side_px, err);
    if (!rc)
        rc = turn(&img.rgb, 3, &img.width_px, &img.height_px,
                  is_jpeg ? jpeg.orientation : api_png_orientation(bytes, len), err);
    if (!rc) *out = img;
    return rc;
}

static enum taca_code mask_of_jpeg(uint8_t **out, int *w, int *h, const void *bytes, size_t len,
                                   const struct api_mask_rule *rule, struct taca_err *err) {
    struct taca_image img;
    if (rule->holes)
        return taca_fail(err, TACA_EFORMAT,
                         "a JPEG, which is clear nowhere: what is clear is painted");
    enum taca_code rc = api_image_read(&img, bytes, len, rule->max_side_px, err);
    if (rc) return rc;
    api_mask_from_image(img.rgb, &img);
    *out = img.rgb;
    *w = img.width_px;
    *h = img.height_px;
    return TACA_OK;
}

enum taca_code api_image_read_mask(uint8_t **out, int *width_px, int *height_px, const void *bytes,
                                   size_t len, const struct api_mask_rule *rule,
                                   struct taca_err *err) {
    uint8_t *mask;
    if (kind_of(bytes, len) == JPEG)
        return mask_of_jpeg(out, width_px, height_px, bytes, len, rule, err);
    enum taca_code rc = api_png_read_mask(&mask, width_px, height_px, bytes, len, rule, err);
    if (!rc) rc = turn(&mask, 1, width_px, height_px, api_png_orientation(bytes, len), err);
    if (!rc) *out = mask;
    return rc;
}

enum taca_code api_image_text(struct taca_buf *out, const char *keyword, const void *bytes,
                              size_t len, struct taca_err *err) {
    const size_t kind = kind_of(bytes, len);
    if (kind == PNG) return api_png_text(out, keyword, bytes, len, err);
    if (kind == JPEG) return api_jpeg_text(out, keyword, bytes, len, err);
    return another_kind(bytes, len, err);
}
