/* pictures.h - small pictures as clients send them, for the tests of api/. */
#ifndef TACA_TESTS_API_PICTURES_H
#define TACA_TESTS_API_PICTURES_H

#include "api/png.h"
#include "tests/api/common.h"

/* Sample c of pixel i of any test picture. */
__attribute__((unused)) static uint8_t painted(int i, int c) {
    return (uint8_t)((unsigned)i * 2654435761u >> (8 + 5 * c));
}

__attribute__((unused)) static void paint_png(struct taca_buf *out, int w, int h) {
    struct taca_err err = {0};
    uint8_t *rgb = malloc((size_t)w * (size_t)h * 3);
    for (int i = 0; rgb && i < w * h; i++)
        for (int c = 0; c < 3; c++) rgb[3 * i + c] = painted(i, c);
    taca_buf_init(out, 1 << 24);
    CHECK_OK(api_png_write(out, &(struct taca_image){w, h, rgb}, 1, NULL, 0, &err), err);
    free(rgb);
}

/* {"prompt":"a cat",<members>"image":"<base64 of the picture>"} */
__attribute__((unused)) static void picture_body(struct taca_buf *out, int w, int h,
                                                 const char *members) {
    struct taca_buf png;
    paint_png(&png, w, h);
    taca_buf_init(out, 1 << 24);
    taca_buf_printf(out, "{\"prompt\":\"a cat\",%s\"image\":\"", members);
    api_base64(out, png.data, png.len);
    taca_buf_puts(out, "\"}");
    taca_buf_finish(&png);
}

#endif
