/* noise.c - see noise.h. A seed must give the same picture here as in the reference pipelines, so
 * every rounding is kept: the logarithm, sine and cosine are single-precision polynomials (the
 * coefficients of Cephes) evaluated with fused multiply-adds in one fixed order. Compilers may not
 * contract or reorder any of it (-ffp-contract=off). */
#include "engine/sample/noise.h"

#include <math.h>
#include <string.h>

/* ---- Mersenne Twister 19937 ------------------------------------------------------------------ */

enum { MT_N = 624, MT_M = 397 };

void taca_rng_seed(struct taca_rng *r, uint64_t seed) {
    *r = (struct taca_rng){.next = MT_N};
    uint32_t s = (uint32_t)seed;
    for (uint32_t i = 0; i < MT_N; i++) {
        r->state[i] = s;
        s = 1812433253u * (s ^ s >> 30) + i + 1;
    }
}

static uint32_t twist(uint32_t high, uint32_t low) {
    uint32_t y = (high & 0x80000000u) | (low & 0x7FFFFFFFu);
    return y >> 1 ^ (low & 1 ? 0x9908B0DFu : 0);
}

void taca_rng_seed_philox(struct taca_rng *r, uint64_t seed) {
    *r = (struct taca_rng){.philox = true, .key = seed};
}

static void refill(struct taca_rng *r) {
    uint32_t *s = r->state;
    int i = 0;
    for (; i < MT_N - MT_M; i++) s[i] = s[i + MT_M] ^ twist(s[i], s[i + 1]);
    for (; i < MT_N - 1; i++) s[i] = s[i + MT_M - MT_N] ^ twist(s[i], s[i + 1]);
    s[i] = s[i + MT_M - MT_N] ^ twist(s[i], s[0]);
    r->next = 0;
}

uint32_t taca_rng_u32(struct taca_rng *r) {
    if (r->next == MT_N) refill(r);
    uint32_t y = r->state[r->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9D2C5680u;
    y ^= y << 15 & 0xEFC60000u;
    return y ^ y >> 18;
}

/* ---- sixteen uniforms to sixteen normals ----------------------------------------------------- */

#define INLINE static inline __attribute__((always_inline))

/* ln u for u in [2^-24, 1]. */
INLINE float log_unit(float u) {
    static const float poly[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                                 -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                                 2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    uint32_t bits;
    memcpy(&bits, &u, sizeof bits);
    float e = (float)((int)(bits >> 23) - 126), m;
    bits = (bits & 0x007FFFFFu) | 0x3F000000u;
    memcpy(&m, &bits, sizeof m); /* u = m * 2^e, m in [1/2, 1) */
    bool low = m < 0.707106781186547524f;
    e -= low ? 1.0f : 0.0f;
    m = m - 1.0f + (low ? m : 0.0f);

    float z = m * m, y = poly[0];
    for (int k = 1; k < 9; k++) y = fmaf(y, m, poly[k]);
    y *= m;
    y = fmaf(y, z, e * -2.12194440e-4f);
    y = fmaf(-z, 0.5f, y);
    return fmaf(e, 0.693359375f, m + y);
}

/* sin and cos of theta in [0, 2 pi]. */
INLINE void sin_cos(float theta, float *sin_out, float *cos_out) {
    int j = (int)(theta * 1.27323954473516f);
    j = (j + 1) & ~1; /* the nearest even multiple of pi/4, removed in three parts */
    float q = (float)j, x = theta;
    x = fmaf(q, -0.78515625f, x);
    x = fmaf(q, -2.4187564849853515625e-4f, x);
    x = fmaf(q, -3.77489497744594108e-8f, x);

    float z = x * x;
    float c = fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f);
    c = fmaf(c, z, 4.166664568298827e-2f) * z;
    c = fmaf(c, z, -(z * 0.5f)) + 1.0f;
    float s = fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f);
    s = fmaf(s, z, -1.6666654611e-1f) * z;
    s = fmaf(s, x, x);

    bool straight = (j & 2) == 0;
    float sin_abs = straight ? s : c, cos_abs = straight ? c : s;
    *sin_out = j & 4 ? -sin_abs : sin_abs;
    *cos_out = ((j - 2) & 4) == 0 ? -cos_abs : cos_abs;
}

/* Box-Muller on every group of 16 in place: uniforms j and j + 8 make normals j and j + 8. */
INLINE void box_muller(float *x, size_t n) {
    for (size_t g = 0; g + 16 <= n; g += 16) {
        for (size_t j = g; j < g + 8; j++) {
            float radius = sqrtf(-2.0f * log_unit(1.0f - x[j])), s, c;
            sin_cos(6.28318530717958647692f * x[j + 8], &s, &c);
            x[j] = radius * c + 0.0f; /* + 0: the reference adds the mean, so -0 becomes 0 */
            x[j + 8] = radius * s + 0.0f;
        }
    }
}

static void box_muller_any(float *x, size_t n) { box_muller(x, n); }

/* The same code with the instruction instead of the library's exact but slow emulation. */
#if defined(__x86_64__) && !defined(TACA_NOISE_PORTABLE)
__attribute__((target("avx2,fma"))) static void box_muller_fma(float *x, size_t n) {
    box_muller(x, n);
}
static void groups_of_16(float *x, size_t n) {
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        box_muller_fma(x, n);
    else
        box_muller_any(x, n);
}
#else
static void groups_of_16(float *x, size_t n) { box_muller_any(x, n); }
#endif

/* ---- randn ----------------------------------------------------------------------------------- */

static void fill_uniform(struct taca_rng *r, float *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = (float)(taca_rng_u32(r) & 0xFFFFFFu) * 0x1p-24f;
}

static double uniform_double(struct taca_rng *r) {
    uint64_t high = taca_rng_u32(r);
    return (double)((high << 32 | taca_rng_u32(r)) & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

/* Fewer than 16 values go one at a time, in double, and keep the second normal of a pair. */
static float normal_one(struct taca_rng *r) {
    if (r->has_spare) {
        r->has_spare = false;
        return (float)r->spare;
    }
    double u1 = uniform_double(r), u2 = uniform_double(r);
    double radius = sqrt(-2.0 * log1p(-u2)), theta = 2.0 * 3.14159265358979323846 * u1;
    r->spare = radius * sin(theta);
    r->has_spare = true;
    return (float)(radius * cos(theta));
}

void taca_rng_randn(struct taca_rng *r, float *out, size_t n) {
    if (r->philox) {
        philox_randn(r->key, r->draws++, out, n);
        return;
    }
    if (n < 16) {
        for (size_t i = 0; i < n; i++) out[i] = normal_one(r);
        return;
    }
    fill_uniform(r, out, n);
    groups_of_16(out, n);
    if (n % 16 == 0) return;
    /* an incomplete last group is covered by 16 new uniforms that end with the array */
    fill_uniform(r, out + n - 16, 16);
    groups_of_16(out + n - 16, 16);
}
