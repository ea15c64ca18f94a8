/* cuda_runtime.h - stand-in for CUDA's header: kernels run by the executor, device memory is host
 * memory. Only the calls and words that kernels/cuda uses. */
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "executor.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n)              alignas(n)
#define __CUDA_ARCH_FEAT_SM90_ALL /* kernels of sm_90a have a body */

struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

#define threadIdx (cuda_host::cur->tid)
#define blockIdx  cuda_host::block_idx
#define blockDim  cuda_host::block_dim
#define gridDim   cuda_host::grid_dim
inline void __syncthreads() { cuda_host::yield(cuda_host::AT_BLOCK); }
inline void __syncwarp(unsigned = ~0u) {
    cuda_host::collective<int, int>(0, [](int *, int *o) { memset(o, 0, 32 * sizeof *o); });
}
template <class T> T __shfl_xor_sync(unsigned, T v, int m) {
    return cuda_host::collective<T, T>(v, [m](T *i, T *o) {
        for (int l = 0; l < 32; l++) o[l] = i[l ^ m];
    });
}
template <class T> T __shfl_sync(unsigned, T v, int src) {
    return cuda_host::collective<T, T>(v, [src](T *i, T *o) {
        for (int l = 0; l < 32; l++) o[l] = i[src & 31];
    });
}
inline int __any_sync(unsigned, int v) {
    return cuda_host::collective<int, int>(v, [](int *i, int *o) {
        int any = 0;
        for (int l = 0; l < 32; l++) any |= i[l] != 0;
        for (int l = 0; l < 32; l++) o[l] = any;
    });
}
/* As in the library, but no call: a NaN gives way. */
inline float host_fmaxf(float a, float b) { return a >= b || b != b ? a : b; }
inline float host_fminf(float a, float b) { return a <= b || b != b ? a : b; }
#define fmaxf host_fmaxf
#define fminf host_fminf
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline int atomicOr(int *p, int v) {
    int old = *p;
    *p |= v;
    return old;
}
inline float atomicAdd(float *p, float v) {
    float old = *p;
    *p += v;
    return old;
}

/* ---- the runtime (runtime.cc) ---------------------------------------------------------------- */

typedef struct cuda_host_stream *cudaStream_t;
typedef struct cuda_host_event *cudaEvent_t;
typedef struct cuda_host_graph *cudaGraph_t;
typedef struct cuda_host_exec *cudaGraphExec_t;
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901
};
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3
};
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount;
};

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority);
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphUpload(cudaGraphExec_t e, cudaStream_t s);
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t e);

namespace cuda_host {
int major();        /* of the device's compute capability, see faults.h */
bool fp8_is_bare(); /* likewise */
} /* namespace cuda_host */
/* A launch on a stream; what is wrong with it is left for cudaGetLastError. */
void cuda_host_launch(cudaStream_t s, dim3 grid, dim3 block, size_t shared,
                      const std::function<void()> &body);
/* The same of a library's work; false when the device is lost. */
bool cuda_host_library_call(cudaStream_t s, const std::function<void()> &work);
