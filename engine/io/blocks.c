/* blocks.c - the twelve quantised block formats of GGUF that are read. See blocks.h.
 *
 * Formats of 32 elements: one scale d (half), maybe an offset m, then the elements; low nibbles
 * hold elements 0..15, high ones 16..31. Formats of 256 ("K") add small integer scales per 16 or 32
 * elements. Each function follows the bytes in the order of the file. */
#include "engine/io/blocks.h"

#include <stdint.h>
#include <string.h>

#include "kernels/tensor.h"

float io_half(const unsigned char *p) {
    float x;
    taca_to_f32(&x, p, TACA_F16, 1);
    return x;
}

static uint32_t le32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The values of the nonlinear 4-bit types. */
static const signed char steps[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

/* Loops run over elements that share their shifts, which lets compilers make vectors of them. */

/* n values of `bits` bits at the same place in consecutive bytes. */
static inline void field(int *q, const unsigned char *src, int n, int shift, int bits) {
    for (int i = 0; i < n; i++) q[i] = src[i] >> shift & ((1 << bits) - 1);
}

/* ---- blocks of 32 ---------------------------------------------------------------------------- */

static inline void nibbles(int q[32], const unsigned char *qs) {
    field(q, qs, 16, 0, 4);
    field(q + 16, qs, 16, 4, 4);
}

static void fifth_bits(int q[32], uint32_t high) {
    for (int i = 0; i < 32; i++) q[i] |= (int)(high >> i & 1) << 4;
}

void io_q4_0(float *dst, const unsigned char *src, size_t n) {
    int q[32];
    for (; n > 0; n--, src += 18, dst += 32) {
        const float d = io_half(src);
        nibbles(q, src + 2);
        for (int i = 0; i < 32; i++) dst[i] = d * (float)(q[i] - 8);
    }
}

void io_q4_1(float *dst, const unsigned char *src, size_t n) {
    int q[32];
    for (; n > 0; n--, src += 20, dst += 32) {
        const float d = io_half(src), m = io_half(src + 2);
        nibbles(q, src + 4);
        for (int i = 0; i < 32; i++) dst[i] = d * (float)q[i] + m;
    }
}

void io_q5_0(float *dst, const unsigned char *src, size_t n) {
    int q[32];
    for (; n > 0; n--, src += 22, dst += 32) {
        const float d = io_half(src);
        nibbles(q, src + 6);
        fifth_bits(q, le32(src + 2));
        for (int i = 0; i < 32; i++) dst[i] = d * (float)(q[i] - 16);
    }
}

void io_q5_1(float *dst, const unsigned char *src, size_t n) {
    int q[32];
    for (; n > 0; n--, src += 24, dst += 32) {
        const float d = io_half(src), m = io_half(src + 2);
        nibbles(q, src + 8);
        fifth_bits(q, le32(src + 4));
        for (int i = 0; i < 32; i++) dst[i] = d * (float)q[i] + m;
    }
}

void io_q8_0(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 34, dst += 32) {
        const float d = io_half(src);
        for (int i = 0; i < 32; i++) dst[i] = d * (float)(signed char)src[2 + i];
    }
}

void io_iq4_nl(float *dst, const unsigned char *src, size_t n) {
    int q[32];
    for (; n > 0; n--, src += 18, dst += 32) {
        const float d = io_half(src);
        nibbles(q, src + 2);
        for (int i = 0; i < 32; i++) dst[i] = d * (float)steps[q[i]];
    }
}

/* ---- blocks of 256 --------------------------------------------------------------------------- */

/* Group g of 16 two-bit elements in 64 bytes: each half of them holds four planes of 32. */
static inline void pairs(int q[16], const unsigned char *qs, int g) {
    field(q, qs + 32 * (g / 8) + 16 * (g % 2), 16, 2 * (g % 8 / 2), 2);
}

void io_q2_k(float *dst, const unsigned char *src, size_t n) {
    int q[16];
    for (; n > 0; n--, src += 84, dst += 256) {
        const float d = io_half(src + 80), dmin = io_half(src + 82);
        for (int g = 0; g < 16; g++) { /* 16 elements share a scale and an offset */
            const float scale = d * (float)(src[g] & 15), low = dmin * (float)(src[g] >> 4);
            pairs(q, src + 16, g);
            for (int i = 0; i < 16; i++) dst[16 * g + i] = scale * (float)q[i] - low;
        }
    }
}

void io_q3_k(float *dst, const unsigned char *src, size_t n) {
    int q[16], set[16];
    for (; n > 0; n--, src += 110, dst += 256) {
        const unsigned char *mask = src, *sc = src + 96;
        const float d = io_half(src + 108);
        for (int g = 0; g < 16; g++) {
            int low = sc[g % 8] >> (4 * (g / 8)) & 15, high = sc[8 + g % 4] >> (2 * (g / 4)) & 3;
            const float scale = d * (float)((low | high << 4) - 32);
            pairs(q, src + 32, g);
            field(set, mask + 16 * (g % 2), 16, g / 2, 1);
            for (int i = 0; i < 16; i++) dst[16 * g + i] = scale * (float)(q[i] + 4 * set[i] - 4);
        }
    }
}

/* Scale and offset j of eight, six bits each, packed in twelve bytes. */
static void six_bits(const unsigned char *sc, int j, int *scale, int *low) {
    if (j < 4) {
        *scale = sc[j] & 63;
        *low = sc[j + 4] & 63;
    } else {
        *scale = (sc[j + 4] & 15) | sc[j - 4] >> 6 << 4;
        *low = sc[j + 4] >> 4 | sc[j] >> 6 << 4;
    }
}

/* Group g of 32 four-bit elements in 128 bytes: each 32 bytes hold 32 low and 32 high nibbles. */
static inline void quads(int q[32], const unsigned char *qs, int g) {
    field(q, qs + 32 * (g / 2), 32, 4 * (g % 2), 4);
}

void io_q4_k(float *dst, const unsigned char *src, size_t n) {
    int q[32], s, m;
    for (; n > 0; n--, src += 144, dst += 256) {
        const float d = io_half(src), dmin = io_half(src + 2);
        for (int g = 0; g < 8; g++) {
            six_bits(src + 4, g, &s, &m);
            const float scale = d * (float)s, low = dmin * (float)m;
            quads(q, src + 16, g);
            for (int i = 0; i < 32; i++) dst[32 * g + i] = scale * (float)q[i] - low;
        }
    }
}

void io_q5_k(float *dst, const unsigned char *src, size_t n) {
    int q[32], high[32], s, m;
    for (; n > 0; n--, src += 176, dst += 256) {
        const float d = io_half(src), dmin = io_half(src + 2);
        for (int g = 0; g < 8; g++) {
            six_bits(src + 4, g, &s, &m);
            const float scale = d * (float)s, low = dmin * (float)m;
            quads(q, src + 48, g);
            field(high, src + 16, 32, g, 1);
            for (int i = 0; i < 32; i++)
                dst[32 * g + i] = scale * (float)(q[i] | high[i] << 4) - low;
        }
    }
}

void io_q6_k(float *dst, const unsigned char *src, size_t n) {
    int low[16], high[16];
    for (; n > 0; n--, src += 210, dst += 256) {
        const unsigned char *ql = src, *qh = src + 128, *sc = src + 192;
        const float d = io_half(src + 208);
        for (int g = 0; g < 16; g++) {
            const int half = g / 8, k = g % 8; /* 16 elements each */
            const float scale = d * (float)(signed char)sc[g];
            field(low, ql + 64 * half + 16 * (k % 4), 16, 4 * (k / 4), 4);
            field(high, qh + 32 * half + 16 * (k % 2), 16, 2 * (k / 2), 2);
            for (int i = 0; i < 16; i++)
                dst[16 * g + i] = scale * (float)((low[i] | high[i] << 4) - 32);
        }
    }
}

void io_iq4_xs(float *dst, const unsigned char *src, size_t n) {
    int q[32];
    for (; n > 0; n--, src += 136, dst += 256) {
        const unsigned high = (unsigned)src[2] | (unsigned)src[3] << 8;
        const float d = io_half(src);
        for (int g = 0; g < 8; g++) {
            int s = (src[4 + g / 2] >> (4 * (g % 2)) & 15) | (int)(high >> (2 * g) & 3) << 4;
            const float scale = d * (float)(s - 32);
            nibbles(q, src + 8 + 16 * g);
            for (int i = 0; i < 32; i++) dst[32 * g + i] = scale * (float)steps[q[i]];
        }
    }
}
