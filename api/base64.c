/* base64.c - RFC 4648: written in the plain alphabet with padding, read as clients write it. */
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

/* 0..63; -1 = white space, -2 = neither. */
static int value_of(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+' || c == '-') return 62;
    if (c == '/' || c == '_') return 63;
    return c == '\r' || c == '\n' || c == ' ' || c == '\t' ? -1 : -2;
}

static size_t trim_padding(const char *s, size_t len) {
    int pads = 0;
    for (; len > 0; len--) {
        if (s[len - 1] == '=' && pads < 2)
            pads++;
        else if (value_of(s[len - 1]) != -1)
            break;
    }
    return len;
}

bool api_base64_read(uint8_t *out, size_t *out_len, const char *s, size_t len) {
    uint32_t group = 0;
    size_t digits = 0, n = 0;
    len = trim_padding(s, len);
    for (size_t i = 0; i < len; i++) {
        int v = value_of(s[i]);
        if (v == -1) continue;
        if (v < 0) return false;
        group = group << 6 | (uint32_t)v;
        if (++digits % 4 != 0) continue;
        out[n++] = (uint8_t)(group >> 16);
        out[n++] = (uint8_t)(group >> 8);
        out[n++] = (uint8_t)group;
    }
    if (digits % 4 == 1) return false;
    if (digits % 4 == 2) out[n++] = (uint8_t)(group >> 4);
    if (digits % 4 == 3) {
        out[n++] = (uint8_t)(group >> 10);
        out[n++] = (uint8_t)(group >> 2);
    }
    *out_len = n;
    return true;
}
