/* tensor.c - see tensor.h. */
#include "kernels/tensor.h"

#include <string.h>

const char *taca_dtype_name(enum taca_dtype t) {
    static const char *const names[TACA_DTYPES] = {"f32", "bf16", "f16", "i32", "i64", "u8"};
    return (unsigned)t < TACA_DTYPES ? names[t] : "?";
}

static float bf16_to_f32(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 0x3FF, bits;
    if (exp == 0) { /* zero and subnormals: man * 2^-24 is exact in float */
        float f = (float)man * 0x1p-24f;
        return sign ? -f : f;
    }
    bits = exp == 31 ? sign | 0x7F800000u | man << 13 : sign | (exp + 112) << 23 | man << 13;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

void taca_to_f32(float *dst, const void *src, enum taca_dtype dtype, size_t n) {
    const unsigned char *p = src; /* file data may be unaligned */
    if (dtype == TACA_F32) {
        memcpy(dst, p, n * sizeof *dst);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        dst[i] = dtype == TACA_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
    }
}
