/* simd.h - one vector of floats, 16 wide with AVX-512 and 8 wide with AVX2, chosen by the flags the
 * including file is compiled with. Arithmetic operators work on vf directly.
 *
 * Only kernels_simd.h includes this, and only code behind a run-time CPU check runs it. */
#ifndef TACA_KERNELS_CPU_SIMD_H
#define TACA_KERNELS_CPU_SIMD_H

#include <float.h>
#include <immintrin.h>

#include "kernels/cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__

enum { VL = 16 };
typedef __m512 vf;
typedef __m512i vi;

INLINE vf v_set(float x) { return _mm512_set1_ps(x); }
INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
/* NaN in x comes through */
INLINE vf v_at_least(vf x, float lo) { return _mm512_max_ps(v_set(lo), x); }
INLINE vf v_at_most(vf x, float hi) { return _mm512_min_ps(v_set(hi), x); }
INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf v_abs(vf x) { return _mm512_abs_ps(x); }
INLINE vf v_nearest(vf x) { return _mm512_roundscale_ps(x, 8); }
INLINE vf v_times_2_to(vf x, vf n) { return _mm512_scalef_ps(x, n); }
INLINE float v_sum(vf x) { return _mm512_reduce_add_ps(x); }
INLINE __mmask16 v_first(int64_t n) { return (__mmask16)((1u << n) - 1); }

INLINE vf v_load_n(const float *p, int64_t n) {
    return n >= VL ? v_load(p) : _mm512_maskz_loadu_ps(v_first(n), p);
}
INLINE void v_store_n(float *p, vf x, int64_t n) {
    if (n >= VL)
        v_store(p, x);
    else
        _mm512_mask_storeu_ps(p, v_first(n), x);
}
INLINE vf v_load_bf16_n(const uint16_t *p, int64_t n) {
    __m256i h =
        n >= VL ? _mm256_loadu_si256((const __m256i *)p) : _mm256_maskz_loadu_epi16(v_first(n), p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
/* round to nearest even; NaN stays a quiet NaN */
INLINE void v_store_bf16_n(uint16_t *p, vf x, int64_t n) {
    const vi bits = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
    vi odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
    vi up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
    __m256i h = _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
    if (n >= VL)
        _mm256_storeu_si256((__m256i *)p, h);
    else
        _mm256_mask_storeu_epi16(p, v_first(n), h);
}
/* x in lanes at or after `lane`, y before; lane may lie outside */
INLINE vf v_from_lane(int64_t lane, vf x, vf y) {
    const __mmask16 before = lane <= 0 ? 0 : lane >= VL ? 0xFFFF : v_first(lane);
    return _mm512_mask_mov_ps(x, before, y);
}
/* lanes 2i and 2i + 1 = p[i], of n values that are left */
INLINE vf v_twice_n(const float *p, int64_t n) {
    const vi twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(twice, v_load_n(p, n < VL / 2 ? n : VL / 2));
}
/* even lanes a c - b s, odd lanes a c + b s, b the neighbour of a */
INLINE vf v_turn(vf a, vf c, vf s) {
    return _mm512_fmaddsub_ps(a, c, _mm512_permute_ps(a, 0xB1) * s);
}

#else /* AVX2 and FMA */

enum { VL = 8 };
typedef __m256 vf;
typedef __m256i vi;

INLINE vf v_set(float x) { return _mm256_set1_ps(x); }
INLINE vf v_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void v_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf v_at_least(vf x, float lo) { return _mm256_max_ps(v_set(lo), x); }
INLINE vf v_at_most(vf x, float hi) { return _mm256_min_ps(v_set(hi), x); }
INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf v_abs(vf x) { return _mm256_andnot_ps(v_set(-0.0f), x); }
INLINE vf v_nearest(vf x) { return _mm256_round_ps(x, 8); }
/* n within +-252: two factors, so that the ends of the range are reached */
INLINE vf v_times_2_to(vf x, vf n) {
    const vi i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1),
             bias = _mm256_set1_epi32(127);
    vi a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    vi b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23);
    return x * _mm256_castsi256_ps(a) * _mm256_castsi256_ps(b);
}
INLINE float v_sum(vf x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE vi v_lanes(void) { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
INLINE vi v_first(int64_t n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), v_lanes()); }

INLINE vf v_load_n(const float *p, int64_t n) {
    return n >= VL ? v_load(p) : _mm256_maskload_ps(p, v_first(n));
}
INLINE void v_store_n(float *p, vf x, int64_t n) {
    if (n >= VL)
        v_store(p, x);
    else
        _mm256_maskstore_ps(p, v_first(n), x);
}
INLINE vf v_load_bf16_n(const uint16_t *p, int64_t n) {
    uint16_t part[VL] = {0};
    if (n < VL) {
        for (int64_t i = 0; i < n; i++) part[i] = p[i];
        p = part;
    }
    __m128i h = _mm_loadu_si128((const __m128i *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
INLINE void v_store_bf16_n(uint16_t *p, vf x, int64_t n) {
    const vi bits = _mm256_castps_si256(x), one = _mm256_set1_epi32(1);
    vi odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
    vi up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    vi quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    vi nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    up = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
    __m128i h = _mm_packus_epi32(_mm256_castsi256_si128(up), _mm256_extracti128_si256(up, 1));
    if (n >= VL) {
        _mm_storeu_si128((__m128i *)p, h);
        return;
    }
    uint16_t part[VL];
    _mm_storeu_si128((__m128i *)part, h);
    for (int64_t i = 0; i < n; i++) p[i] = part[i];
}
INLINE vf v_from_lane(int64_t lane, vf x, vf y) {
    const int64_t n = lane < 0 ? 0 : lane > VL ? VL : lane;
    return _mm256_blendv_ps(x, y, _mm256_castsi256_ps(v_first(n)));
}
INLINE vf v_twice_n(const float *p, int64_t n) {
    const vi twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    return _mm256_permutevar8x32_ps(v_load_n(p, n < VL / 2 ? n : VL / 2), twice);
}
INLINE vf v_turn(vf a, vf c, vf s) {
    return _mm256_fmaddsub_ps(a, c, _mm256_permute_ps(a, 0xB1) * s);
}

#endif

/* ---- elements of either float type: up to VL of the n that are left, 0 in the other lanes ------
 */

INLINE vf v_get(struct cpu_run r, int64_t i, int64_t n) {
    return r.dtype == TACA_F32 ? v_load_n((const float *)r.p + i, n)
                               : v_load_bf16_n((const uint16_t *)r.p + i, n);
}
INLINE void v_put(struct cpu_run r, int64_t i, vf x, int64_t n) {
    if (r.dtype == TACA_F32)
        v_store_n((float *)r.p + i, x, n);
    else
        v_store_bf16_n((uint16_t *)r.p + i, x, n);
}

/* ---- functions ---------------------------------------------------------------------------------
 */

/* e^x to about one ulp: x = n ln 2 + r with |r| <= ln 2 / 2, and the series of e^r to r^7, whose
 * next term is 5e-9. Below -104 it is 0, above 89 infinite. */
INLINE vf v_exp(vf x) {
    x = v_at_most(v_at_least(x, -104.0f), 89.0f);
    const vf n = v_nearest(x * v_set(1.44269504088896341f));
    vf r = v_fma(n, v_set(-0.693359375f), x); /* ln 2 in two parts, the first exact in 9 bits */
    r = v_fma(n, v_set(2.12194440054690583e-4f), r);
    vf p = v_fma(r, v_set(1.0f / 5040), v_set(1.0f / 720));
    p = v_fma(p, r, v_set(1.0f / 120));
    p = v_fma(p, r, v_set(1.0f / 24));
    p = v_fma(p, r, v_set(1.0f / 6));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(p, r, v_set(1.0f));
    p = v_fma(p, r, v_set(1.0f));
    return v_times_2_to(p, n);
}

/* 1 / (1 + e^-x) */
INLINE vf v_sigmoid(vf x) { return v_set(1.0f) / (v_set(1.0f) + v_exp(-x)); }

/* erf to 1.5e-7 absolute: Abramowitz and Stegun 7.1.26, odd in x. */
INLINE vf v_erf(vf x) {
    const vf z = v_abs(x), t = v_set(1.0f) / v_fma(v_set(0.3275911f), z, v_set(1.0f));
    vf p = v_fma(t, v_set(1.061405429f), v_set(-1.453152027f));
    p = v_fma(p, t, v_set(1.421413741f));
    p = v_fma(p, t, v_set(-0.284496736f));
    p = v_fma(p, t, v_set(0.254829592f));
    const vf y = v_set(1.0f) - p * t * v_exp(-(z * z));
    const vf s = x * v_set(FLT_MAX); /* its sign in full size; 0 stays 0 and erf(0) is 0 */
    return y * v_at_most(v_at_least(s, -1.0f), 1.0f);
}

/* 0.5 (1 + tanh u) is the sigmoid of 2 u, which keeps its digits when it is small. */
INLINE vf v_act(vf x, enum taca_act act) {
    switch (act) {
    case TACA_ACT_NONE: break;
    case TACA_ACT_SILU: return x * v_sigmoid(x);
    case TACA_ACT_GELU_TANH:
        return x * v_sigmoid(v_set(1.5957691216057308f) * v_fma(v_set(0.044715f) * x * x, x, x));
    case TACA_ACT_GELU_ERF:
        return v_set(0.5f) * x * (v_set(1.0f) + v_erf(x * v_set(0.7071067811865476f)));
    case TACA_ACT_QUICK_GELU: return x * v_sigmoid(v_set(1.702f) * x);
    case TACA_ACT_RELU: return v_max(v_set(0.0f), x); /* NaN in, NaN out: the second one wins */
    }
    return x;
}

#endif
