/* fuzz_picture.c - any bytes as a picture that somebody sent, the checksums of a PNG's chunks set
 * right: it is refused with words, or has as many pixels as its head said. And as the chunks of a
 * PNG or the segments of a JPEG: whatever is found is text, and nothing is added when nothing is.
 * For libFuzzer (preset fuzz). */
#include <string.h>
#include <zlib.h>

#include "api/image_file.h"
#include "base/utf8.h"
#include "tests/fuzz/fuzz.h"

static size_t be32(const unsigned char *p) {
    return (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
}

/* Without this the first mutated byte of a chunk would be the last that is looked at. */
static void mend_checksums(unsigned char *bytes, size_t size) {
    for (size_t at = 8; at + 12 <= size;) {
        const size_t len = be32(bytes + at);
        if (len > size - at - 12) return;
        const uLong crc = crc32(0, bytes + at + 4, (uInt)len + 4);
        for (int i = 0; i < 4; i++)
            bytes[at + 8 + len + (size_t)i] = (unsigned char)(crc >> (24 - 8 * i));
        at += 12 + len;
    }
}

enum { MAX_SIDE = 256 };

static void read_picture(const unsigned char *bytes, size_t size) {
    const struct api_mask_rule rule = {size % 2, MAX_SIDE};
    struct taca_image img = {0};
    struct taca_err err = {0};
    uint8_t *mask = NULL;
    unsigned sum = 0;
    int w = 0, h = 0, mw = 0, mh = 0;
    enum taca_code head = api_image_size(&w, &h, bytes, size, &err);
    demand(head == TACA_OK || err.text[0], "a refusal with words", err.text);
    if (head || w > MAX_SIDE || h > MAX_SIDE) return;
    enum taca_code rc = api_image_read(&img, bytes, size, MAX_SIDE, &err);
    demand(rc == TACA_OK || (rc == err.code && err.text[0]), "a refusal with words", err.text);
    demand(rc || (img.width_px == w && img.height_px == h), "the size that its head said", "");
    for (int i = 0; i < img.width_px * img.height_px * 3; i++) sum += img.rgb[i];
    demand(sum <= 255u * 3 * MAX_SIDE * MAX_SIDE, "pixels", "");
    taca_image_finish(&img);
    if (api_image_read_mask(&mask, &mw, &mh, bytes, size, &rule, NULL)) return;
    demand(mw == w && mh == h && !rc, "a mask like the picture", "");
    for (int i = 0; i < mw * mh; i++) sum += mask[i];
    demand(sum <= 255u * 4 * MAX_SIDE * MAX_SIDE, "pixels", "");
    free(mask);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    static const char *const keywords[] = {"taca", "parameters"};
    unsigned char *bytes = malloc(size ? size : 1);
    struct taca_buf text;
    if (!bytes) return 0;
    if (size) memcpy(bytes, data, size);
    mend_checksums(bytes, size);
    read_picture(bytes, size);
    taca_buf_init(&text, 1 << 20);
    taca_buf_puts(&text, "before");
    for (int i = 0; i < 2; i++) {
        const size_t before = text.len;
        enum taca_code rc = api_image_text(&text, keywords[i], bytes, size, NULL);
        demand(rc == TACA_OK || rc == TACA_EFORMAT || rc == TACA_ENOTFOUND || rc == TACA_ENOMEM,
               "a code of its own", text.data);
        demand(rc == TACA_OK || text.failed || text.len == before, "nothing is added in vain",
               text.data);
        demand(strncmp(text.data, "before", 6) == 0, "what was there stays", text.data);
        demand(taca_utf8_valid(text.data, text.len), "it is UTF-8", text.data);
    }
    taca_buf_finish(&text);
    free(bytes);
    return 0;
}
