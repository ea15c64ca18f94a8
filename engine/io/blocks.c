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

/* Element i of 32 in 16 bytes of nibbles. */
static int nibble(const unsigned char *qs, int i) { return qs[i % 16] >> (4 * (i / 16)) & 15; }

/* The values of the nonlinear 4-bit types. */
static const signed char steps[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

/* ---- blocks of 32 ---------------------------------------------------------------------------- */

void io_q4_0(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 18, dst += 32) {
        const float d = io_half(src);
        for (int i = 0; i < 32; i++) dst[i] = d * (float)(nibble(src + 2, i) - 8);
    }
}

void io_q4_1(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 20, dst += 32) {
        const float d = io_half(src), m = io_half(src + 2);
        for (int i = 0; i < 32; i++) dst[i] = d * (float)nibble(src + 4, i) + m;
    }
}

void io_q5_0(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 22, dst += 32) {
        const float d = io_half(src);
        const uint32_t high = le32(src + 2);
        for (int i = 0; i < 32; i++) {
            int q = nibble(src + 6, i) | (int)(high >> i & 1) << 4;
            dst[i] = d * (float)(q - 16);
        }
    }
}

void io_q5_1(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 24, dst += 32) {
        const float d = io_half(src), m = io_half(src + 2);
        const uint32_t high = le32(src + 4);
        for (int i = 0; i < 32; i++) {
            int q = nibble(src + 8, i) | (int)(high >> i & 1) << 4;
            dst[i] = d * (float)q + m;
        }
    }
}

void io_q8_0(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 34, dst += 32) {
        const float d = io_half(src);
        for (int i = 0; i < 32; i++) dst[i] = d * (float)(signed char)src[2 + i];
    }
}

void io_iq4_nl(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 18, dst += 32) {
        const float d = io_half(src);
        for (int i = 0; i < 32; i++) dst[i] = d * (float)steps[nibble(src + 2, i)];
    }
}

/* ---- blocks of 256 --------------------------------------------------------------------------- */

/* 2-bit element i of 64 bytes: four planes of 32 in each half. */
static int pair(const unsigned char *qs, int i) {
    return qs[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3;
}

void io_q2_k(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 84, dst += 256) {
        const float d = io_half(src + 80), dmin = io_half(src + 82);
        for (int g = 0; g < 16; g++) { /* 16 elements share a scale and an offset */
            const float scale = d * (float)(src[g] & 15), low = dmin * (float)(src[g] >> 4);
            for (int i = 16 * g; i < 16 * g + 16; i++)
                dst[i] = scale * (float)pair(src + 16, i) - low;
        }
    }
}

void io_q3_k(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 110, dst += 256) {
        const unsigned char *mask = src, *qs = src + 32, *sc = src + 96;
        const float d = io_half(src + 108);
        for (int g = 0; g < 16; g++) {
            int low = sc[g % 8] >> (4 * (g / 8)) & 15, high = sc[8 + g % 4] >> (2 * (g / 4)) & 3;
            const float scale = d * (float)((low | high << 4) - 32);
            for (int i = 16 * g; i < 16 * g + 16; i++) {
                int set = mask[i % 32] >> (i / 32) & 1;
                dst[i] = scale * (float)(pair(qs, i) - (set ? 0 : 4));
            }
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

/* 4-bit element i of 128 bytes: each 32 bytes hold 32 low and 32 high nibbles. */
static int quad(const unsigned char *qs, int i) {
    return qs[32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2)) & 15;
}

void io_q4_k(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 144, dst += 256) {
        const float d = io_half(src), dmin = io_half(src + 2);
        for (int g = 0; g < 8; g++) {
            int s, m;
            six_bits(src + 4, g, &s, &m);
            const float scale = d * (float)s, low = dmin * (float)m;
            for (int i = 32 * g; i < 32 * g + 32; i++)
                dst[i] = scale * (float)quad(src + 16, i) - low;
        }
    }
}

void io_q5_k(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 176, dst += 256) {
        const unsigned char *high = src + 16, *qs = src + 48;
        const float d = io_half(src), dmin = io_half(src + 2);
        for (int g = 0; g < 8; g++) {
            int s, m;
            six_bits(src + 4, g, &s, &m);
            const float scale = d * (float)s, low = dmin * (float)m;
            for (int i = 32 * g; i < 32 * g + 32; i++)
                dst[i] = scale * (float)(quad(qs, i) | (high[i % 32] >> g & 1) << 4) - low;
        }
    }
}

void io_q6_k(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 210, dst += 256) {
        const unsigned char *ql = src, *qh = src + 128, *sc = src + 192;
        const float d = io_half(src + 208);
        for (int i = 0; i < 256; i++) {
            const int half = i / 128, r = i % 128;
            int low = ql[64 * half + r % 64] >> (4 * (r / 64)) & 15;
            int high = qh[32 * half + r % 32] >> (2 * (r / 32)) & 3;
            dst[i] = d * (float)(signed char)sc[i / 16] * (float)((low | high << 4) - 32);
        }
    }
}

void io_iq4_xs(float *dst, const unsigned char *src, size_t n) {
    for (; n > 0; n--, src += 136, dst += 256) {
        const unsigned high = (unsigned)src[2] | (unsigned)src[3] << 8;
        const float d = io_half(src);
        for (int g = 0; g < 8; g++) {
            int s = (src[4 + g / 2] >> (4 * (g % 2)) & 15) | (int)(high >> (2 * g) & 3) << 4;
            const float scale = d * (float)(s - 32);
            for (int i = 0; i < 32; i++)
                dst[32 * g + i] = scale * (float)steps[nibble(src + 8 + 16 * g, i)];
        }
    }
}
