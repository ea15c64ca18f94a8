/* strangers.h - files that may be anything, for the tests of readers. */
#ifndef TACA_TESTS_API_STRANGERS_H
#define TACA_TESTS_API_STRANGERS_H

#include "engine/params.h"
#include "tests/test.h"

typedef enum taca_code picture_reader(struct taca_image *out, const void *bytes, size_t len,
                                      int max_side_px, struct taca_err *err);

/* Reads a copy that ends with the file, so that a step past it is found, and looks at every pixel:
 * a picture, or a refusal that says why and leaves nothing. True = a picture. */
static bool read_whole(picture_reader *read, const void *bytes, size_t len, int max_side_px,
                       struct taca_err *err) {
    unsigned char *copy = malloc(len ? len : 1);
    struct taca_image img = {0};
    unsigned sum = 0;
    if (!copy) abort();
    memcpy(copy, bytes, len);
    *err = (struct taca_err){0};
    const enum taca_code rc = read(&img, copy, len, max_side_px, err);
    for (int i = 0; i < img.width_px * img.height_px * 3; i++) sum += img.rgb[i];
    CHECK(rc == TACA_OK || (rc == TACA_EFORMAT && err->text[0] && !img.rgb && sum == 0));
    taca_image_finish(&img);
    free(copy);
    return rc == TACA_OK;
}

#endif
