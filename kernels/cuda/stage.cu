/* stage.cu - host data on its way to the device: a pinned ring of two halves.
 *
 * While the device reads one half the host fills the other. A small upload costs a copy into the
 * ring and an asynchronous transfer; it never waits unless a half is still being read. */
#include <cstring>

#include "kernels/cuda/cuda.cuh"

static const size_t LINE = 64;

bool cuda_stage_open(struct cuda *c, struct cuda_stage *s) {
    return cuda_ok(c, cudaHostAlloc((void **)&s->p, 2 * CUDA_STAGE_HALF, cudaHostAllocDefault),
                   "pinned memory") &&
           cuda_ok(c, cudaEventCreateWithFlags(&s->read[0], cudaEventDisableTiming), "event") &&
           cuda_ok(c, cudaEventCreateWithFlags(&s->read[1], cudaEventDisableTiming), "event");
}

void cuda_stage_close(struct cuda_stage *s) {
    for (int i = 0; i < 2; i++)
        if (s->read[i]) (void)cudaEventDestroy(s->read[i]);
    (void)cudaFreeHost(s->p);
    *s = {};
}

/* The other half from now on, when the device has read what was in it. */
static bool next_half(struct cuda *c) {
    struct cuda_stage *s = &c->stage;
    if (!cuda_ok(c, cudaEventRecord(s->read[s->half], c->stream), "upload")) return false;
    s->pending[s->half] = true;
    s->half ^= 1;
    s->used = 0;
    if (s->pending[s->half] && !cuda_ok(c, cudaEventSynchronize(s->read[s->half]), "upload"))
        return false;
    s->pending[s->half] = false;
    return true;
}

/* Room for up to `bytes` in the ring; *got is how many there are. NULL after an error. */
static char *stage_room(struct cuda *c, size_t bytes, size_t *got) {
    struct cuda_stage *s = &c->stage;
    if (s->used == CUDA_STAGE_HALF && !next_half(c)) return NULL;
    *got = CUDA_STAGE_HALF - s->used < bytes ? CUDA_STAGE_HALF - s->used : bytes;
    char *p = s->p + (size_t)s->half * CUDA_STAGE_HALF + s->used;
    size_t padded = (*got + LINE - 1) / LINE * LINE;
    s->used = s->used + padded > CUDA_STAGE_HALF ? CUDA_STAGE_HALF : s->used + padded;
    return p;
}

void cuda_stage_upload(struct cuda *c, void *dst, const void *host, size_t bytes) {
    if (cuda_must_not_now(c)) return;
    for (size_t done = 0, n; done < bytes; done += n) {
        char *p = stage_room(c, bytes - done, &n);
        if (!p) return;
        memcpy(p, (const char *)host + done, n);
        if (!cuda_ok(c,
                     cudaMemcpyAsync((char *)dst + done, p, n, cudaMemcpyHostToDevice, c->stream),
                     "upload"))
            return;
    }
}

/* ---- conversion ------------------------------------------------------------------------------ */

/* Bits of any float type as a float. */
static __device__ float widen(const void *p, int64_t i, enum taca_dtype t) {
    if (t == TACA_F32) return ((const float *)p)[i];
    const uint32_t h = ((const uint16_t *)p)[i];
    float f;
    uint32_t u = h << 16;
    if (t == TACA_F16) {
        const uint32_t sign = (h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
        if (e == 0) { /* zero and the subnormals: m * 2^-24 is exact */
            f = (float)m * 5.9604644775390625e-8f;
            return sign ? -f : f;
        }
        u = sign | (e == 31 ? 0x7F800000u : (e + 112) << 23) | m << 13;
    }
    memcpy(&f, &u, sizeof f);
    return f;
}

/* dst[i] = src[i] */
template <class T>
static __global__ void convert_kernel(T *dst, const void *src, enum taca_dtype from, int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) dst[i] = from_float<T>(widen(src, i, from));
}

void cuda_upload_as(struct cuda *c, void *dst, enum taca_dtype to, const void *host,
                    enum taca_dtype from, size_t n) {
    const size_t wide = taca_dtype_bytes(from), chunk = CUDA_STAGE_HALF / wide;
    if (to == from) {
        cuda_stage_upload(c, dst, host, n * wide);
        return;
    }
    for (size_t done = 0; done < n; done += chunk) {
        const size_t k = n - done < chunk ? n - done : chunk;
        void *raw = cuda_buf_get(c, &c->in, k * wide, "upload");
        if (!raw) return;
        cuda_stage_upload(c, raw, (const char *)host + done * wide, k * wide);
        by_dtype(to, [&](auto *t) {
            launch(convert_kernel<element<decltype(t)>>, blocks_for((int64_t)k, 256), 256, 0,
                   c->stream, (decltype(t))dst + done, raw, from, (int64_t)k);
        });
        if (!cuda_launched(c, "upload")) return;
    }
}
