/* runtime.cc - stand-in for the CUDA Runtime: one device whose memory is host memory.
 *
 * Work is done when a call returns. Pointers given to copies are looked up, so that a host pointer
 * where a device pointer belongs is an error. Faults on demand, see faults.h; a process that
 * cannot call it sets TACA_CUDA_HOST_FAULT="fail_alloc=7 lost_at=100 memory=1000000 devices=2". */
#include <cuda_runtime.h>

#include "faults.h"

#include <cstdio>
#include <map>
#include <mutex>

static std::mutex lock;
static std::map<uintptr_t, size_t> blocks;
static size_t in_use;
static cudaError_t last;

static cuda_host_faults faults = {-1, -1, 1ll << 30, 1};
static long long allocations, calls;

/* The environment's faults, before anything is asked. */
static const bool read_environment = [] {
    const char *text = getenv("TACA_CUDA_HOST_FAULT");
    const char *const names[] = {"fail_alloc=", "lost_at=", "memory=", "devices="};
    long long *const fields[] = {&faults.fail_alloc, &faults.lost_at, &faults.memory,
                                 &faults.devices};
    for (int i = 0; text && i < 4; i++) {
        const char *at = strstr(text, names[i]);
        if (at) *fields[i] = strtoll(at + strlen(names[i]), nullptr, 10);
    }
    return text != nullptr;
}();

void cuda_host_set_faults(const cuda_host_faults *f) {
    std::lock_guard<std::mutex> guard(lock);
    faults = *f;
    allocations = calls = 0;
}

long long cuda_host_calls(void) { return calls; }
int cuda_host_live_blocks(void) { return (int)blocks.size(); }

static cudaError_t keep(cudaError_t e) {
    if (e != cudaSuccess) last = e;
    return e;
}

/* Counts a call; the device is lost from the N-th on. */
static bool lost() {
    long long number = calls++;
    return faults.lost_at >= 0 && number >= faults.lost_at;
}

static size_t memory() { return (size_t)faults.memory; }

/* [p, p + bytes) lies in one live block */
static bool on_device(const void *p, size_t bytes) {
    auto it = blocks.upper_bound((uintptr_t)p);
    if (it == blocks.begin()) return false;
    --it;
    return (uintptr_t)p + bytes <= it->first + it->second;
}

cudaError_t cudaGetDeviceCount(int *n) {
    *n = (int)faults.devices;
    return *n > 0 ? cudaSuccess : keep(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
    return device >= 0 && device < faults.devices ? cudaSuccess : keep(cudaErrorInvalidValue);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    *p = {};
    snprintf(p->name, sizeof p->name, "host executor");
    p->totalGlobalMem = memory();
    p->sharedMemPerBlockOptin = 227 << 10;
    p->major = 9;
    p->multiProcessorCount = 4;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    std::lock_guard<std::mutex> guard(lock);
    *total_bytes = memory();
    *free_bytes = *total_bytes - in_use;
    return lost() ? keep(cudaErrorIllegalAddress) : cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    std::lock_guard<std::mutex> guard(lock);
    if (lost()) return keep(cudaErrorIllegalAddress);
    if (allocations++ == faults.fail_alloc || bytes > memory() - in_use)
        return keep(cudaErrorMemoryAllocation);
    if (posix_memalign(p, 256, bytes ? bytes : 1)) return keep(cudaErrorMemoryAllocation);
    memset(*p, 0xff, bytes); /* NaN in every float type, an index out of bounds as an integer */
    blocks[(uintptr_t)*p] = bytes;
    in_use += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    std::lock_guard<std::mutex> guard(lock);
    if (!p) return cudaSuccess;
    auto it = blocks.find((uintptr_t)p);
    if (it == blocks.end()) return keep(cudaErrorInvalidValue);
    in_use -= it->second;
    blocks.erase(it);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) {
    if (lost()) return keep(cudaErrorIllegalAddress);
    if (allocations++ == faults.fail_alloc) return keep(cudaErrorMemoryAllocation);
    return posix_memalign(p, 4096, bytes) ? keep(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
    std::lock_guard<std::mutex> guard(lock);
    if (lost()) return keep(cudaErrorIllegalAddress);
    bool to = kind != cudaMemcpyDeviceToHost, from = kind != cudaMemcpyHostToDevice;
    if ((to && !on_device(dst, bytes)) || (from && !on_device(src, bytes)))
        return keep(cudaErrorInvalidValue);
    memmove(dst, src, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t) {
    std::lock_guard<std::mutex> guard(lock);
    if (lost()) return keep(cudaErrorIllegalAddress);
    if (!on_device(p, bytes)) return keep(cudaErrorInvalidValue);
    memset(p, value, bytes);
    return cudaSuccess;
}

/* ---- streams and events: there is nothing to wait for ---------------------------------------- */

static cudaError_t handle(void **out) {
    if (lost()) return keep(cudaErrorIllegalAddress);
    *out = malloc(1);
    return *out ? cudaSuccess : keep(cudaErrorMemoryAllocation);
}
static cudaError_t nothing_to_do() { return lost() ? keep(cudaErrorIllegalAddress) : cudaSuccess; }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) { return handle((void **)s); }
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    free((void *)s);
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return nothing_to_do(); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) { return handle((void **)e); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    free((void *)e);
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return nothing_to_do(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return nothing_to_do(); }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) {
    *ms = 1;
    return nothing_to_do();
}

cudaError_t cudaGetLastError() {
    cudaError_t e = last;
    last = cudaSuccess;
    return e;
}

const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorInsufficientDriver: return "the driver is too old for this runtime";
    case cudaErrorNotReady: return "not ready";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidValue: break;
    }
    return "invalid argument";
}

bool cuda_host_may_launch(dim3 grid, dim3 block, size_t shared) {
    std::lock_guard<std::mutex> guard(lock);
    size_t threads = (size_t)block.x * block.y * block.z;
    if (lost()) return keep(cudaErrorIllegalAddress), false;
    if (threads == 0 || threads > 1024 || shared > (227u << 10) || !grid.x || !grid.y || !grid.z ||
        grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return keep(cudaErrorInvalidConfiguration), false;
    return true;
}
