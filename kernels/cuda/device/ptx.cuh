/* ptx.cuh - the words of a GPU that CUDA C++ does not have, sm_80 and up; those of wgmma exist on
 * sm_90a alone.
 *
 * tests/cuda_host/include/ptx.cuh gives the same names on a CPU: what is not in both files cannot
 * be used by a kernel. Shared memory is dynamic only, as one struct per kernel, so that the host
 * executor can poison it between blocks. */
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Four 8x8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&d)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared_address(row)));
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&d)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared_address(row)));
}

/* c += a b; a [16, 16] row, b [16, 8] column, bf16; c [16, 8] float. */
__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 16 bytes from global to shared memory without passing through registers; zeros where !valid,
 * and then src is not read. */
__device__ __forceinline__ void cp_async16(void *dst, const void *src, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)),
                 "l"(src), "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;"); }
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N));
}

/* ---- warpgroups: sm_90a ---------------------------------------------------------------------- */

/* A product runs while its warpgroup goes on. Between wgmma_fence and the wait that ends its group
 * the registers of its operands belong to it, and so does the shared memory that it reads. Shared
 * memory that threads wrote, by cp.async too, is seen by it after their fence_proxy_async, then a
 * barrier. */
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int N> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* The compiler takes a product's registers for written when it is issued: this keeps their uses on
 * their side of the wait. */
template <int N> __device__ __forceinline__ void pin(float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(x[i])::"memory");
}
template <int N> __device__ __forceinline__ void pin(uint32_t (&x)[N][4]) {
#pragma unroll
    for (int i = 0; i < 4 * N; i++) asm volatile("" : "+r"(x[i / 4][i % 4])::"memory");
}

#define TACA_F4(d, i)  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TACA_F16(d, i) TACA_F4(d, i), TACA_F4(d, i + 4), TACA_F4(d, i + 8), TACA_F4(d, i + 12)
#define TACA_F32(d)    TACA_F16(d, 0), TACA_F16(d, 16)
#define TACA_F64(d)    TACA_F32(d), TACA_F16(d, 32), TACA_F16(d, 48)
#define TACA_D32                                                                                   \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"  \
    "%25,%26,%27,%28,%29,%30,%31"
#define TACA_D64                                                                                   \
    TACA_D32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,"   \
             "%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

/* d = a b^T (+ d where add): a [64, 16] and b [128, 16], both described in shared memory with the
 * 16 side by side; d [64, 128]: as fragments of m16n8k16, a warp for 16 rows. */
__device__ __forceinline__ void wgmma_n128(float (&d)[64], uint64_t a, uint64_t b, bool add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " TACA_D64
                 "}, %64, %65, p, 1, 1, 0, 0;\n}"
                 : TACA_F64(d)
                 : "l"(a), "l"(b), "r"((int)add));
}
/* d += a b: a [64, 16] in registers as that of m16n8k16, b [16, N] described in shared memory with
 * the N side by side. */
__device__ __forceinline__ void wgmma_wide(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " TACA_D64
                 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;"
                 : TACA_F64(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_wide(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " TACA_D32
                 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
                 : TACA_F32(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/* ---- the rest -------------------------------------------------------------------------------- */

/* 2^x to about 2 ulp, in one instruction; results below the normal numbers become 0. */
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <class T> __device__ __forceinline__ T *dynamic_shared() {
    extern __shared__ uint4 taca_shared[];
    return (T *)taca_shared;
}

/* kernel<<<grid, block, shared, stream>>>(args...), with the permission that more than 48 KiB of
 * shared memory need. Errors are cudaGetLastError's. */
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
            A... args) {
    if (shared > 48 * 1024 &&
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)shared) != cudaSuccess)
        return;
    kernel<<<grid, block, shared, stream>>>((P)args...);
}
