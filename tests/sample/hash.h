/* hash.h - FNV-1a over the 32-bit patterns of floats, so that thousands of reference values fit
 * into one constant. */
#ifndef TACA_TESTS_SAMPLE_HASH_H
#define TACA_TESTS_SAMPLE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FNV_START UINT64_C(0xCBF29CE484222325)

static inline uint64_t fnv_floats(uint64_t h, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        h = (h ^ bits) * UINT64_C(0x100000001B3);
    }
    return h;
}

#endif
