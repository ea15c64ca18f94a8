/* picture.c - see picture.h. */
#include "cli/picture.h"

#include <stdlib.h>

#include "api/image_file.h"
#include "base/buf.h"
#include "cli/file.h"

enum { LARGEST_FILE = 256 << 20 };

static enum taca_code read_file(struct taca_image *out, const char *path, int max_side_px,
                                struct taca_err *err) {
    struct taca_buf bytes;
    struct taca_err why = {0};
    taca_buf_init(&bytes, LARGEST_FILE);
    enum taca_code rc = file_read(&bytes, path, err);
    if (!rc && (rc = api_image_read(out, bytes.data, bytes.len, max_side_px, &why)))
        taca_fail(err, rc, "%s: %s", path, why.text);
    taca_buf_finish(&bytes);
    return rc;
}

enum taca_code picture_read(struct picture *out, const char *image, const char *mask,
                            int max_side_px, struct taca_err *err) {
    struct taca_image drawn = {0};
    *out = (struct picture){0};
    if (!image && mask)
        return taca_fail_param(err, "mask", "--mask needs the --image that it is the mask of");
    if (!image) return TACA_OK;
    enum taca_code rc = read_file(&out->image, image, max_side_px, err);
    if (rc || !mask) return rc;
    rc = read_file(&drawn, mask, max_side_px, err);
    if (!rc && (drawn.width_px != out->image.width_px || drawn.height_px != out->image.height_px))
        rc = taca_fail_param(err, "mask", "%s has %d x %d pixels, its image %d x %d", mask,
                             drawn.width_px, drawn.height_px, out->image.width_px,
                             out->image.height_px);
    if (!rc) {
        out->mask = malloc((size_t)drawn.width_px * (size_t)drawn.height_px);
        if (!out->mask) rc = taca_fail(err, TACA_ENOMEM, "a mask");
    }
    if (!rc) api_mask_from_image(out->mask, &drawn);
    taca_image_finish(&drawn);
    return rc;
}

void picture_finish(struct picture *p) {
    taca_image_finish(&p->image);
    free(p->mask);
    p->mask = NULL;
}
