/* buf.c - see buf.h. */
#include "base/buf.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

void taca_buf_init(struct taca_buf *b, size_t max) { *b = (struct taca_buf){.max = max}; }

void taca_buf_finish(struct taca_buf *b) {
    free(b->data);
    *b = (struct taca_buf){.max = b->max};
}

void taca_buf_reset(struct taca_buf *b) {
    b->len = 0;
    b->failed = false;
    if (b->data) b->data[0] = 0;
}

char *taca_buf_reserve(struct taca_buf *b, size_t len) {
    if (b->failed) return NULL;
    /* doubling below must not wrap around */
    if (len > b->max - b->len || len >= SIZE_MAX / 2 - b->len) return b->failed = true, NULL;
    if (!b->data || b->cap - b->len <= len) { /* one more for the NUL */
        size_t cap = b->cap ? b->cap : 256;
        while (cap - b->len <= len) cap *= 2;
        char *p = realloc(b->data, cap);
        if (!p) return b->failed = true, NULL;
        b->data = p;
        b->cap = cap;
    }
    return b->data + b->len;
}

void taca_buf_put(struct taca_buf *b, const void *bytes, size_t len) {
    char *p = taca_buf_reserve(b, len);
    if (!p) return;
    if (len) memcpy(p, bytes, len);
    b->len += len;
    b->data[b->len] = 0;
}

void taca_buf_puts(struct taca_buf *b, const char *s) { taca_buf_put(b, s, strlen(s)); }

void taca_buf_printf(struct taca_buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : taca_buf_reserve(b, (size_t)n);
    if (!p) {
        b->failed = true;
        return;
    }
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap); /* reserve leaves room for the NUL */
    va_end(ap);
    b->len += (size_t)n;
}

/* U+2028/2029 and C1 controls end a line for some readers. */
static bool is_control(uint32_t cp) {
    return cp < 0x20 || (cp >= 0x7F && cp < 0xA0) || cp == 0x2028 || cp == 0x2029;
}

static void put_escaped(struct taca_buf *b, uint32_t cp, const char *raw, int n) {
    switch (cp) {
    case '"': taca_buf_puts(b, "\\\""); return;
    case '\\': taca_buf_puts(b, "\\\\"); return;
    case '\n': taca_buf_puts(b, "\\n"); return;
    case '\r': taca_buf_puts(b, "\\r"); return;
    case '\t': taca_buf_puts(b, "\\t"); return;
    default: break;
    }
    if (is_control(cp))
        taca_buf_printf(b, "\\u%04x", (unsigned)cp);
    else
        taca_buf_put(b, raw, (size_t)n);
}

void taca_buf_json(struct taca_buf *b, const char *s, size_t len) {
    taca_buf_puts(b, "\"");
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int n = taca_utf8_next(s + i, len - i, &cp);
        if (n == 0) {
            taca_buf_puts(b, "\\ufffd");
            n = 1;
        } else {
            put_escaped(b, cp, s + i, n);
        }
        i += (size_t)n;
    }
    taca_buf_puts(b, "\"");
}

void taca_buf_plain(struct taca_buf *b, const char *s, size_t len, const char *keep) {
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int n = taca_utf8_next(s + i, len - i, &cp);
        bool plain = n > 0 && (!is_control(cp) || (n == 1 && cp && strchr(keep, (int)cp)));
        taca_buf_put(b, plain ? s + i : "?", plain ? (size_t)n : 1);
        i += n ? (size_t)n : 1;
    }
}
