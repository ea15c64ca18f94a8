/* tensor.c - see tensor.h. */
#include "kernels/tensor.h"

#include <string.h>

const char *taca_dtype_name(enum taca_dtype t) {
    static const char *const names[TACA_DTYPES] = {"f32", "bf16", "f16", "i32", "i64", "u8"};
    return (unsigned)t < TACA_DTYPES ? names[t] : "?";
}

/* The exponent field of f16 sits 112 too low once moved to its place in a float; one exact product
 * puts that right, subnormals included. Infinities and NaN need the float's full exponent. */
static float f16_to_f32(uint16_t h) {
    uint32_t bits = (uint32_t)(h & 0x7FFF) << 13;
    float f;
    memcpy(&f, &bits, sizeof f);
    f *= 0x1p112f;
    memcpy(&bits, &f, sizeof bits);
    bits |= (h & 0x7C00) == 0x7C00 ? 0x7F800000u : 0;
    bits |= (uint32_t)(h & 0x8000) << 16;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Loops a compiler turns into vectors: one dtype each, no branch inside. */
void taca_to_f32(float *dst, const void *src, enum taca_dtype dtype, size_t n) {
    const unsigned char *p = src; /* file data may be unaligned */
    uint16_t h;
    if (dtype == TACA_F32) {
        if (n) memcpy(dst, p, n * sizeof *dst);
    } else if (dtype == TACA_BF16) {
        for (size_t i = 0; i < n; i++) {
            memcpy(&h, p + 2 * i, sizeof h);
            dst[i] = taca_bf16_to_f32(h);
        }
    } else {
        for (size_t i = 0; i < n; i++) {
            memcpy(&h, p + 2 * i, sizeof h);
            dst[i] = f16_to_f32(h);
        }
    }
}
