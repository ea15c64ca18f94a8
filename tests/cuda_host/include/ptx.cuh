/* ptx.cuh - stand-in for kernels/cuda/device/ptx.cuh: the same names as warp collectives. Fragment
 * layouts are those of the PTX manual ("Matrix fragments for mma.m16n8k16", "ldmatrix"). */
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "wgmma.h"

struct host_frag4 {
    uint32_t r[4];
};

inline void host_ldmatrix(uint32_t (&d)[4], const void *row, bool trans) {
    if ((uintptr_t)row % 16) cuda_host::die("ldmatrix: a row is not 16-byte aligned");
    auto f = [trans](const void **rows, host_frag4 *o) {
        for (int l = 0; l < 32; l++)
            for (int m = 0; m < 4; m++) {
                uint16_t e[2];
                for (int j = 0; j < 2; j++) {
                    int r = trans ? l % 4 * 2 + j : l / 4, c = trans ? l / 4 : l % 4 * 2 + j;
                    memcpy(&e[j], (const char *)rows[8 * m + r] + 2 * c, 2);
                }
                o[l].r[m] = e[0] | (uint32_t)e[1] << 16;
            }
    };
    host_frag4 r = cuda_host::collective<const void *, host_frag4>(row, f);
    memcpy(d, r.r, sizeof r.r);
}
inline void ldmatrix_x4(uint32_t (&d)[4], const void *row) { host_ldmatrix(d, row, false); }
inline void ldmatrix_x4_trans(uint32_t (&d)[4], const void *row) { host_ldmatrix(d, row, true); }

struct host_mma_in {
    uint32_t a[4], b[2];
    float c[4];
};
struct host_mma_out {
    float d[4];
};
inline float host_bf16(uint32_t two, int half) {
    return __bfloat162float({(uint16_t)(two >> 16 * half)});
}
/* Products are exact in double; the sum is rounded once. */
inline void host_mma_warp(const host_mma_in *x, host_mma_out *o) {
    float a[16][16], b[16][8];
    for (int l = 0; l < 32; l++) {
        int g = l / 4, t = l % 4 * 2;
        for (int q = 0; q < 4; q++)
            for (int j = 0; j < 2; j++)
                a[g + q % 2 * 8][t + q / 2 * 8 + j] = host_bf16(x[l].a[q], j);
        for (int q = 0; q < 2; q++)
            for (int j = 0; j < 2; j++) b[t + q * 8 + j][g] = host_bf16(x[l].b[q], j);
    }
    for (int l = 0; l < 32; l++)
        for (int q = 0; q < 4; q++) {
            int r = l / 4 + q / 2 * 8, n = l % 4 * 2 + q % 2;
            double s = (double)x[l].c[q];
            for (int k = 0; k < 16; k++) s += (double)a[r][k] * (double)b[k][n];
            o[l].d[q] = (float)s;
        }
}
inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    host_mma_in in = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
    host_mma_out out = cuda_host::collective<host_mma_in, host_mma_out>(
        in, [](host_mma_in *x, host_mma_out *o) { host_mma_warp(x, o); });
    memcpy(c, out.d, sizeof out.d);
}

/* A copy happens at once or as late as the program allows, at the wait, as chance has it: a
 * forgotten wait shows as stale data, a forgotten barrier as data overwritten under a reader. */
inline void cp_async16(void *dst, const void *src, bool valid) {
    if ((uintptr_t)dst % 16 || (valid && (uintptr_t)src % 16))
        cuda_host::die("cp.async: an address is not 16-byte aligned");
    auto copy = [=] {
        if (valid)
            memcpy(dst, src, 16);
        else
            memset(dst, 0, 16);
        cuda_host::cur->unseen.push_back(dst);
    };
    if (cuda_host::chance() & 1)
        copy();
    else
        cuda_host::cur->copies.back().push_back(copy);
}
inline void cp_async_commit() { cuda_host::cur->copies.push_back({}); }
template <int N> inline void cp_async_wait() {
    auto &c = cuda_host::cur->copies;
    while (c.size() > (size_t)N + 1) {
        for (auto &f : c.front()) f();
        c.erase(c.begin());
    }
}

inline uint32_t shared_address(const void *p) { return cuda_host::shared_offset(p); }
inline void fence_proxy_async() { cuda_host::fence_async(); }
inline void wgmma_fence() { cuda_host::wgmma_fence(); }
inline void wgmma_commit() { cuda_host::wgmma_commit(); }
template <int N> inline void wgmma_wait() { cuda_host::wgmma_wait(N); }
template <class T> inline void pin(T &) {}
inline void wgmma_n128(float (&d)[64], uint64_t a, uint64_t b, bool add) {
    cuda_host::wgmma({a, nullptr, b, false, 128, add, d});
}
template <int N> inline void wgmma_wide(float (&d)[N], const uint32_t (&a)[4], uint64_t b) {
    static_assert(N == 32 || N == 64, "the shapes of the device's");
    cuda_host::wgmma({0, a, b, true, 2 * N, true, d});
}

inline float exp2_approx(float x) {
    const float y = exp2f(x);
    return y < 1.1754944e-38f ? 0 : y;
}

template <class T> inline T *dynamic_shared() { return (T *)cuda_host::shared_block; }

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t s, A... args) {
    cuda_host_launch(s, grid, block, shared, [=] { kernel((P)args...); });
}
