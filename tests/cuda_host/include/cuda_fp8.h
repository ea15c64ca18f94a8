/* cuda_fp8.h - stand-in: e4m3 as CUDA's header offers it, saturating, rounding to nearest even. */
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

typedef uint8_t __nv_fp8_storage_t;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

/* 448 is the largest value, 2^-9 the smallest step. */
inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t,
                                                __nv_fp8_interpretation_t) {
    const uint8_t sign = std::signbit(x) ? 0x80 : 0;
    const float a = fabsf(x);
    if (a != a) return 0x7f;
    if (a >= 448) return sign | 0x7e;
    if (a < 0x1p-6f) return sign | (uint8_t)nearbyintf(a * 0x1p9f);
    uint32_t bits; /* of which 3 stay behind the point; the exponent is 120 less */
    memcpy(&bits, &a, sizeof bits);
    return sign | (uint8_t)((bits + 0x7ffff + (bits >> 20 & 1) - (120u << 23)) >> 20);
}

inline float cuda_host_e4m3(uint8_t b) {
    const int e = b >> 3 & 15, m = b & 7;
    const float a = e ? ldexpf((float)(8 + m), e - 10) : ldexpf((float)m, -9);
    if ((b & 0x7f) == 0x7f) return NAN;
    return b & 0x80 ? -a : a;
}
