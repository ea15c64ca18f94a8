/* ptx.cuh - stand-in for kernels/cuda/device/ptx.cuh: the same names as warp collectives. Fragment
 * layouts are those of the PTX manual ("Matrix fragments for mma.m16n8k16", "ldmatrix"). */
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "products.h"
#include "wgmma.h"

/* The 16-bit value `c` of a row. */
inline uint32_t host_half(const void *row, int c) {
    uint16_t x;
    memcpy(&x, (const char *)row + 2 * c, 2);
    return x;
}
struct host_ldmatrix_op {
    const void *row;
    uint32_t *d;
};
inline void host_ldmatrix(uint32_t (&d)[4], const void *row, bool trans) {
    if ((uintptr_t)row % 16) cuda_host::die("ldmatrix: a row is not 16-byte aligned");
    const host_ldmatrix_op mine = {row, d};
    cuda_host::meet(&mine, nullptr, [trans](cuda_host::fiber *w) {
        for (int m = 0; m < 4; m++) {
            const void *rows[8];
            for (int r = 0; r < 8; r++) rows[r] = ((const host_ldmatrix_op *)w[8 * m + r].in)->row;
            for (int l = 0; l < 32; l++) {
                const int a = l / 4, b = l % 4 * 2;
                ((const host_ldmatrix_op *)w[l].in)->d[m] =
                    trans ? host_half(rows[b], a) | host_half(rows[b + 1], a) << 16
                          : host_half(rows[a], b) | host_half(rows[a], b + 1) << 16;
            }
        }
    });
}
inline void ldmatrix_x4(uint32_t (&d)[4], const void *row) { host_ldmatrix(d, row, false); }
inline void ldmatrix_x4_trans(uint32_t (&d)[4], const void *row) { host_ldmatrix(d, row, true); }

inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const cuda_host::mma_op mine = {a, {b0, b1}, c};
    cuda_host::meet(&mine, nullptr, [](cuda_host::fiber *w) {
        const cuda_host::mma_op *lane[32];
        for (int l = 0; l < 32; l++) lane[l] = (const cuda_host::mma_op *)w[l].in;
        cuda_host::mma_warp(lane);
    });
}

/* A copy happens at once or as late as the program allows, at the wait, as chance has it: a
 * forgotten wait shows as stale data, a forgotten barrier as data overwritten under a reader. */
inline void host_copy16(void *dst, const void *src) {
    if (src)
        memcpy(dst, src, 16);
    else
        memset(dst, 0, 16);
    cuda_host::cur->unseen.push_back(dst);
}
inline void cp_async16(void *dst, const void *src, bool valid) {
    if ((uintptr_t)dst % 16 || (valid && (uintptr_t)src % 16))
        cuda_host::die("cp.async: an address is not 16-byte aligned");
    if (!valid) src = nullptr;
    if (cuda_host::chance() & 1)
        host_copy16(dst, src);
    else
        cuda_host::cur->copies.push_back({dst, src, cuda_host::cur->copy_group});
}
inline void cp_async_commit() { cuda_host::cur->copy_group++; }
template <int N> inline void cp_async_wait() {
    auto &late = cuda_host::cur->copies;
    size_t n = 0;
    for (; n < late.size() && late[n].group + N < cuda_host::cur->copy_group; n++)
        host_copy16(late[n].dst, late[n].src);
    late.erase(late.begin(), late.begin() + (ptrdiff_t)n);
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
