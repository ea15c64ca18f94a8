/* base64.c - RFC 4648 section 4: the plain alphabet, with padding, no line breaks. */
#include <stdint.h>

#include "api/reply.h"

void api_base64(struct taca_buf *out, const void *bytes, size_t len) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *in = bytes;
    size_t groups = len / 3 + (len % 3 != 0), n;
    char *p = taca_mul(&n, groups, 4) ? taca_buf_reserve(out, n) : NULL;
    if (!p) {
        out->failed = true;
        return;
    }
    for (; len >= 3; len -= 3, in += 3) {
        uint32_t v = (uint32_t)in[0] << 16 | (uint32_t)in[1] << 8 | in[2];
        *p++ = digit[v >> 18];
        *p++ = digit[v >> 12 & 63];
        *p++ = digit[v >> 6 & 63];
        *p++ = digit[v & 63];
    }
    if (len) {
        uint32_t v = (uint32_t)in[0] << 16 | (len == 2 ? (uint32_t)in[1] << 8 : 0);
        *p++ = digit[v >> 18];
        *p++ = digit[v >> 12 & 63];
        *p++ = len == 2 ? digit[v >> 6 & 63] : '=';
        *p++ = '=';
    }
    *p = 0; /* reserve leaves room for it */
    out->len += n;
}
