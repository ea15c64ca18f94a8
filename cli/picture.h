/* picture.h - a picture and its mask from files, for `taca generate`. */
#ifndef TACA_CLI_PICTURE_H
#define TACA_CLI_PICTURE_H

#include "engine/params.h"

struct picture {
    struct taca_image image; /* no rgb: none was asked for */
    uint8_t *mask;           /* NULL = none */
};
/* Paths may be NULL. A mask must be as large as its image. picture_finish in any case. */
enum taca_code picture_read(struct picture *out, const char *image, const char *mask,
                            int max_side_px, struct taca_err *err) TACA_MUST_USE;
void picture_finish(struct picture *p);

#endif
