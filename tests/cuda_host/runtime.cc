/* runtime.cc - stand-in for the CUDA Runtime: one device whose memory is host memory.
 *
 * Kernels and copies wait in their streams (streams.cc). Pointers given to copies are looked up, so
 * that a host pointer where a device pointer belongs is an error. Faults on demand, see faults.h; a
 * process that cannot call it sets TACA_CUDA_HOST_FAULT="fail_alloc=7 lost_at=100 memory=1000000
 * devices=2 major=8 wgmma_wrong=1 bare_fp8=1". */
#include "queue.h"

#include "faults.h"
#include "wgmma.h"

#include <cstdio>
#include <map>
#include <vector>

using namespace cuda_host;
typedef std::lock_guard<std::mutex> guard;
typedef std::map<uintptr_t, size_t> ranges; /* length by beginning */

std::mutex cuda_host::device_lock;
static ranges blocks, pinned; /* of the device, of the host */
static size_t in_use;
static cudaError_t last;

static cuda_host_faults faults = {-1, -1, 1ll << 30, 1, 0, 0, 0};
static long long attempts, calls; /* to allocate, all */
static cuda_host_counts counted;
static int graphs; /* there are */

/* The environment's faults, before anything is asked. */
static const bool read_environment = [] {
    const char *text = getenv("TACA_CUDA_HOST_FAULT");
    const char *const names[] = {
        "fail_alloc=", "lost_at=", "memory=", "devices=", "major=", "wgmma_wrong=", "bare_fp8="};
    long long *const fields[] = {&faults.fail_alloc, &faults.lost_at, &faults.memory,
                                 &faults.devices,    &faults.major,   &faults.wgmma_wrong,
                                 &faults.bare_fp8};
    for (int i = 0; text && i < 7; i++) {
        const char *at = strstr(text, names[i]);
        if (at) *fields[i] = strtoll(at + strlen(names[i]), nullptr, 10);
    }
    return text != nullptr;
}();

void cuda_host_set_faults(const cuda_host_faults *f) {
    guard g(device_lock);
    faults = *f;
    attempts = calls = 0;
    counted = {};
}

bool cuda_host::has_wgmma() { return major() == 9; }
bool cuda_host::fp8_is_bare() { return faults.bare_fp8 > 0; }
bool cuda_host::wgmma_is_wrong() { return faults.wgmma_wrong > 0; }

long long cuda_host_calls(void) { return calls; }
int cuda_host_live_blocks(void) { return (int)blocks.size() + graphs; }
cuda_host_counts cuda_host_counted(void) { return counted; }

cudaError_t cuda_host::keep(cudaError_t e) {
    if (e != cudaSuccess) last = e;
    return e;
}

bool cuda_host::is_lost() { return faults.lost_at >= 0 && calls > faults.lost_at; }
bool cuda_host::lost() {
    calls++;
    return is_lost();
}

int cuda_host::major() { return faults.major ? (int)faults.major : 9; }

/* Of a block, on the devices x.0. */
static size_t shared_limit() {
    if (major() == 12) return 99 << 10;
    return (major() == 8 ? 163 : 227) << 10;
}

static size_t memory() { return (size_t)faults.memory; }

/* [p, p + bytes) lies in one of them */
static bool within(const ranges &r, const void *p, size_t bytes) {
    auto it = r.upper_bound((uintptr_t)p);
    if (it == r.begin()) return false;
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
    p->sharedMemPerBlockOptin = shared_limit();
    p->major = major();
    p->multiProcessorCount = 4;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    guard g(device_lock);
    *total_bytes = memory();
    *free_bytes = *total_bytes - in_use;
    return lost() ? keep(cudaErrorIllegalAddress) : cudaSuccess;
}

/* NaN in every float type, an index out of bounds as an integer. Of blocks like the library's
 * workspace the ends will do. */
static void poison(void *p, size_t bytes) {
    const size_t large = 16 << 20, end = 1 << 16;
    memset(p, 0xff, bytes > large ? end : bytes);
    if (bytes > large) memset((char *)p + bytes - end, 0xff, end);
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    guard g(device_lock);
    counted.allocations++;
    if (lost()) return keep(cudaErrorIllegalAddress);
    if (spoils_capture()) return keep(cudaErrorStreamCaptureUnsupported);
    if (attempts++ == faults.fail_alloc || bytes > memory() - in_use)
        return keep(cudaErrorMemoryAllocation);
    if (posix_memalign(p, 256, bytes ? bytes : 1)) return keep(cudaErrorMemoryAllocation);
    poison(*p, bytes);
    blocks[(uintptr_t)*p] = bytes;
    in_use += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    guard g(device_lock);
    if (!p) return cudaSuccess;
    if (spoils_capture()) return keep(cudaErrorStreamCaptureUnsupported);
    auto it = blocks.find((uintptr_t)p);
    if (it == blocks.end()) return keep(cudaErrorInvalidValue);
    drain(nullptr);
    in_use -= it->second;
    poison(p, it->second); /* as new memory: who still uses it is found */
    blocks.erase(it);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) {
    guard g(device_lock);
    if (lost()) return keep(cudaErrorIllegalAddress);
    if (spoils_capture()) return keep(cudaErrorStreamCaptureUnsupported);
    if (attempts++ == faults.fail_alloc) return keep(cudaErrorMemoryAllocation);
    if (posix_memalign(p, 4096, bytes)) return keep(cudaErrorMemoryAllocation);
    pinned[(uintptr_t)*p] = bytes;
    return cudaSuccess;
}

bool cuda_host::take_memory(size_t bytes) {
    if (attempts++ == faults.fail_alloc || bytes > memory() - in_use) return false;
    in_use += bytes;
    graphs++;
    return true;
}
void cuda_host::give_memory(size_t bytes) {
    in_use -= bytes;
    graphs--;
}
void cuda_host::count_graph_launch() { counted.graph_launches++; }

cudaError_t cudaFreeHost(void *p) {
    guard g(device_lock);
    drain(nullptr);
    pinned.erase((uintptr_t)p);
    free(p);
    return cudaSuccess;
}

/* Pinned memory is read and written when the stream comes to it. Pageable memory is read at once,
 * as the runtime's staging may do; it is written late, as the runtime may do too. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t s) {
    guard g(device_lock);
    if (lost()) return keep(cudaErrorIllegalAddress);
    bool to = kind != cudaMemcpyDeviceToHost, from = kind != cudaMemcpyHostToDevice;
    if ((to && !within(blocks, dst, bytes)) || (from && !within(blocks, src, bytes)))
        return keep(cudaErrorInvalidValue);
    if (from || within(pinned, src, bytes)) {
        enqueue(s, [=] { memmove(dst, src, bytes); });
        return cudaSuccess;
    }
    if (spoils_capture()) return keep(cudaErrorStreamCaptureUnsupported);
    const char *bytes_of = (const char *)src;
    const std::vector<char> staged(bytes_of, bytes_of + bytes);
    enqueue(s, [dst, staged] { memcpy(dst, staged.data(), staged.size()); });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s) {
    guard g(device_lock);
    if (lost()) return keep(cudaErrorIllegalAddress);
    if (!within(blocks, p, bytes)) return keep(cudaErrorInvalidValue);
    enqueue(s, [=] { memset(p, value, bytes); });
    return cudaSuccess;
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
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    case cudaErrorInvalidValue: break;
    }
    return "invalid argument";
}

/* What a launch would check; false leaves an error for cudaGetLastError. */
static bool may_launch(dim3 grid, dim3 block, size_t shared) {
    size_t threads = (size_t)block.x * block.y * block.z;
    if (lost()) return keep(cudaErrorIllegalAddress), false;
    if (threads == 0 || threads > 1024 || shared > shared_limit() || !grid.x || !grid.y ||
        !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return keep(cudaErrorInvalidConfiguration), false;
    return true;
}

void cuda_host_launch(cudaStream_t s, dim3 grid, dim3 block, size_t shared,
                      const std::function<void()> &body) {
    guard g(device_lock);
    if (!may_launch(grid, block, shared)) return;
    counted.launches += enqueue(s, [=] { run_grid(grid, block, shared, body); });
}

bool cuda_host_library_call(cudaStream_t s, const std::function<void()> &work) {
    guard g(device_lock);
    if (lost()) return keep(cudaErrorIllegalAddress), false;
    counted.launches += enqueue(s, work);
    return true;
}
