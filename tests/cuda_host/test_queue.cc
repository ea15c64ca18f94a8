/* test_queue.cc - the stand-in's streams: what a program may rely on, and that what it may not rely
 * on goes wrong for some seed of chance. */
#include <cuda_runtime.h>

#include "tests/test.h"

enum { N = 64, TRIES = 64 };

static cudaStream_t stream() {
    cudaStream_t s = nullptr;
    CHECK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) == cudaSuccess);
    return s;
}
static cudaEvent_t event() {
    cudaEvent_t e = nullptr;
    CHECK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming) == cudaSuccess);
    return e;
}

static void set(int *p, int value, cudaStream_t s) {
    cuda_host_launch(s, 1, 32, 0, [=] { p[threadIdx.x] = value; });
}
static void copy(int *to, const int *from, cudaStream_t s) {
    cuda_host_launch(s, 1, 32, 0, [=] { to[threadIdx.x] = from[threadIdx.x]; });
}

/* One stream writes two numbers, the other reads once the first has gone so far, by an event or
 * not; how often something else than the second number was read. */
static int stale_reads(bool waits) {
    cudaStream_t a = stream(), b = stream();
    cudaEvent_t e = event();
    int *p, stale = 0, got[32];
    CHECK(cudaMalloc((void **)&p, 2 * N * sizeof *p) == cudaSuccess);
    for (int i = 0; i < TRIES; i++) {
        const int wanted = 2 * i + 2;
        set(p, wanted - 1, a);
        set(p, wanted, a);
        CHECK(cudaEventRecord(e, a) == cudaSuccess);
        set(p, wanted, a); /* after the record: nobody waits for it */
        if (waits) CHECK(cudaStreamWaitEvent(b, e, 0) == cudaSuccess);
        copy(p + N, p, b);
        CHECK(cudaMemcpyAsync(got, p + N, sizeof got, cudaMemcpyDeviceToHost, b) == cudaSuccess);
        CHECK(cudaStreamSynchronize(b) == cudaSuccess);
        stale += got[0] != wanted || got[31] != wanted;
        CHECK(cudaDeviceSynchronize() == cudaSuccess);
    }
    CHECK(cudaFree(p) == cudaSuccess);
    (void)cudaEventDestroy(e);
    (void)cudaStreamDestroy(a);
    (void)cudaStreamDestroy(b);
    return stale;
}

static void test_a_stream_that_waits_reads_what_was_written() { CHECK_INT(stale_reads(true), 0); }
static void test_a_missing_wait_is_found() { CHECK(stale_reads(false) > TRIES / 8); }

static void test_pinned_memory_is_read_when_the_stream_comes_to_it() {
    cudaStream_t s = stream();
    int *p, *pinned, own, got = 0, late = 0;
    CHECK(cudaMalloc((void **)&p, sizeof *p) == cudaSuccess);
    CHECK(cudaHostAlloc((void **)&pinned, sizeof *pinned, cudaHostAllocDefault) == cudaSuccess);
    for (int i = 0; i < TRIES; i++) {
        *pinned = 1;
        (void)cudaMemcpyAsync(p, pinned, sizeof *p, cudaMemcpyHostToDevice, s);
        *pinned = 2; /* a mistake */
        (void)cudaMemcpyAsync(&got, p, sizeof *p, cudaMemcpyDeviceToHost, s);
        (void)cudaStreamSynchronize(s);
        late += got == 2;
        own = 3; /* pageable: none */
        (void)cudaMemcpyAsync(p, &own, sizeof *p, cudaMemcpyHostToDevice, s);
        own = 4;
        (void)cudaMemcpyAsync(&got, p, sizeof *p, cudaMemcpyDeviceToHost, s);
        (void)cudaStreamSynchronize(s);
        CHECK_INT(got, 3);
    }
    CHECK(late > TRIES / 2);
    CHECK(cudaFree(p) == cudaSuccess);
    CHECK(cudaFreeHost(pinned) == cudaSuccess);
    (void)cudaStreamDestroy(s);
}

static void test_events_say_how_far_a_stream_is() {
    cudaStream_t s = stream();
    cudaEvent_t e = event();
    int *p, waited = 0;
    float ms;
    CHECK(cudaMalloc((void **)&p, N * sizeof *p) == cudaSuccess);
    CHECK(cudaEventQuery(e) == cudaSuccess); /* never recorded: nothing to wait for */
    CHECK(cudaEventSynchronize(e) == cudaSuccess);
    CHECK(cudaEventElapsedTime(&ms, e, e) == cudaErrorInvalidValue);
    for (int i = 0; i < TRIES; i++) {
        set(p, i, s);
        CHECK(cudaEventRecord(e, s) == cudaSuccess);
        while (cudaEventQuery(e) == cudaErrorNotReady) waited++;
        CHECK_INT(p[0], i); /* device memory is the host's, here */
    }
    CHECK(waited > 0);
    CHECK(cudaEventElapsedTime(&ms, e, e) == cudaSuccess);
    set(p, -1, s);
    CHECK(cudaEventRecord(e, s) == cudaSuccess);
    CHECK(cudaEventSynchronize(e) == cudaSuccess);
    CHECK_INT(p[0], -1);
    set(p, -2, s);
    while (cudaStreamQuery(s) == cudaErrorNotReady) waited++;
    CHECK_INT(p[0], -2);
    (void)cudaGetLastError();
    CHECK(cudaFree(p) == cudaSuccess);
    (void)cudaEventDestroy(e);
    (void)cudaStreamDestroy(s);
}

int main() {
    TEST(test_a_stream_that_waits_reads_what_was_written);
    TEST(test_a_missing_wait_is_found);
    TEST(test_pinned_memory_is_read_when_the_stream_comes_to_it);
    TEST(test_events_say_how_far_a_stream_is);
    return TEST_END();
}
