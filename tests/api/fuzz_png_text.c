/* fuzz_png_text.c - any bytes as the chunks of a PNG, their checksums set right: whatever is found
 * is text, and nothing is added when nothing is. For libFuzzer (preset fuzz). */
#include <string.h>
#include <zlib.h>

#include "api/png.h"
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

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    static const char *const keywords[] = {"taca", "parameters"};
    unsigned char *bytes = malloc(size ? size : 1);
    struct taca_buf text;
    if (!bytes) return 0;
    if (size) memcpy(bytes, data, size);
    mend_checksums(bytes, size);
    taca_buf_init(&text, 1 << 20);
    taca_buf_puts(&text, "before");
    for (int i = 0; i < 2; i++) {
        const size_t before = text.len;
        enum taca_code rc = api_png_text(&text, keywords[i], bytes, size, NULL);
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
