/* cuda_fp8.h - stand-in: e4m3 as CUDA's header offers it, saturating, rounding to nearest even. */
#pragma once
#include <cmath>
#include <cstdint>

typedef uint8_t __nv_fp8_storage_t;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

/* 448 is the largest value, 2^-9 the smallest step. */
inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t,
                                                __nv_fp8_interpretation_t) {
    const uint8_t sign = std::signbit(x) ? 0x80 : 0;
    float a = fabsf(x);
    if (a != a) return 0x7f;
    if (a >= 448) return sign | 0x7e;
    int e;
    (void)frexpf(a, &e);
    if (e < -5) e = -5; /* subnormals share the step of the smallest normals, 2^-6 */
    const int steps = (int)nearbyintf(ldexpf(a, 4 - e)); /* of 2^(e - 4): 8 to 16, less below */
    if (steps == 16) return sign | (uint8_t)((e + 1 + 6) << 3);
    if (steps < 8) return sign | (uint8_t)steps;
    return sign | (uint8_t)((e + 6) << 3 | (steps - 8));
}

inline float cuda_host_e4m3(uint8_t b) {
    const int e = b >> 3 & 15, m = b & 7;
    const float a = e ? ldexpf((float)(8 + m), e - 10) : ldexpf((float)m, -9);
    if ((b & 0x7f) == 0x7f) return NAN;
    return b & 0x80 ? -a : a;
}
