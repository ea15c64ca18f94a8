/* utf8.h - decoding and checking UTF-8 as RFC 3629 has it (no surrogates, nothing overlong). */
#ifndef TACA_BASE_UTF8_H
#define TACA_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length 1..4 of the code point at s (len > 0 bytes are there), stored in *cp; 0 when malformed. */
static inline int taca_utf8_next(const char *s, size_t len, uint32_t *cp) {
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) return *cp = p[0], 1;
    int n = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : p[0] >= 0xC2 ? 2 : 0;
    if (n == 0 || p[0] > 0xF4 || len < (size_t)n) return 0;
    uint32_t c = p[0] & (0xFFu >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3Fu);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < least[n] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) return 0;
    return *cp = c, n;
}

static inline bool taca_utf8_valid(const char *s, size_t len) {
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int n = taca_utf8_next(s + i, len - i, &cp);
        if (n == 0) return false;
        i += (size_t)n;
    }
    return true;
}

#endif
