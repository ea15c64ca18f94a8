/* gguf_make.h - GGUF bytes by hand, right ones or wrong ones. */
#ifndef TACA_TESTS_IO_GGUF_MAKE_H
#define TACA_TESTS_IO_GGUF_MAKE_H

#include <string.h>

#include "base/buf.h"
#include "tests/io/tmp.h"

static struct taca_buf gg;

__attribute__((unused)) static void gg_int(uint64_t v, int bytes) {
    unsigned char b[8];
    for (int i = 0; i < bytes; i++) b[i] = (unsigned char)(v >> 8 * i);
    taca_buf_put(&gg, b, (size_t)bytes);
}

__attribute__((unused)) static void gg_text(const char *s) {
    gg_int(strlen(s), 8);
    taca_buf_puts(&gg, s);
}

__attribute__((unused)) static void gg_begin(uint32_t version, uint64_t tensors, uint64_t keys) {
    taca_buf_finish(&gg);
    taca_buf_init(&gg, 1 << 20);
    taca_buf_puts(&gg, "GGUF");
    gg_int(version, 4);
    gg_int(tensors, 8);
    gg_int(keys, 8);
}

__attribute__((unused)) static void gg_key_text(const char *key, const char *value) {
    gg_text(key);
    gg_int(8, 4);
    gg_text(value);
}

__attribute__((unused)) static void gg_key_u32(const char *key, uint32_t value) {
    gg_text(key);
    gg_int(4, 4);
    gg_int(value, 4);
}

/* ne0 is the contiguous dimension; ne1 = 0: rank 1. */
__attribute__((unused)) static void gg_tensor(const char *name, uint64_t ne0, uint64_t ne1,
                                              uint32_t type, uint64_t offset) {
    gg_text(name);
    gg_int(ne1 ? 2 : 1, 4);
    gg_int(ne0, 8);
    if (ne1) gg_int(ne1, 8);
    gg_int(type, 4);
    gg_int(offset, 8);
}

__attribute__((unused)) static void gg_pad(size_t to) {
    while (gg.len % to) gg_int(0, 1);
}

/* n bytes 1, 2, 3, ... */
__attribute__((unused)) static void gg_data(size_t n) {
    for (size_t i = 0; i < n; i++) gg_int(i + 1, 1);
}

__attribute__((unused)) static const char *gg_end(const char *name) {
    return tmp_write(name, gg.data, gg.len);
}

#endif
