/* lanes.cu - two streams: one for steps, and one of lower priority for what is done beside them.
 *
 * Each has its own pinned ring and work memory, so nothing of one is written while the other reads
 * it. The fields of struct cuda are those of the lane of now: choosing a lane exchanges them, and
 * the ops know of one stream only. */
#include <utility>

#include "kernels/cuda/cuda.cuh"

static void exchange(struct cuda *c) {
    std::swap(c->stream, c->away.stream);
    std::swap(c->stage, c->away.stage);
    std::swap(c->in, c->away.in);
    std::swap(c->out, c->away.out);
    std::swap(c->workspace, c->away.workspace);
}

/* Of the lane of now. */
static bool open_lane(struct cuda *c, int priority) {
    return cuda_ok(c, cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, priority),
                   "stream") &&
           cuda_stage_open(c, &c->stage) &&
           cuda_ok(c, cudaMalloc(&c->workspace, cuda_lt_bytes), "workspace");
}

bool cuda_lanes_open(struct cuda *c) {
    int least, greatest;
    if (!cuda_ok(c, cudaDeviceGetStreamPriorityRange(&least, &greatest), "stream")) return false;
    exchange(c);
    const bool side = open_lane(c, least);
    exchange(c);
    return side && open_lane(c, greatest);
}

void cuda_lanes_close(struct cuda *c) {
    for (int i = 0; i < TACA_LANES; i++) {
        cuda_stage_close(&c->stage);
        (void)cudaFree(c->in.p);
        (void)cudaFree(c->out.p);
        (void)cudaFree(c->workspace);
        if (c->stream) (void)cudaStreamDestroy(c->stream);
        exchange(c);
    }
}

/* Not done yet is no error, but the runtime notes it like one. */
static bool is_done(struct cuda *c, cudaError_t e) {
    if (e != cudaErrorNotReady) return cuda_ok(c, e, "wait");
    (void)cudaGetLastError();
    return false;
}

bool cuda_lane_idle(struct cuda *c, enum taca_lane lane) {
    return is_done(c, cudaStreamQuery(cuda_stream_of(c, lane)));
}

void cuda_lane(struct taca_backend *b, enum taca_lane lane) {
    (void)lane; /* there are two, and it is the other */
    exchange(cuda_of(b));
}

void *cuda_mark_open(struct taca_backend *b) {
    cudaEvent_t e = NULL;
    return cuda_ok(cuda_of(b), cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "event")
               ? (void *)e
               : NULL;
}

void cuda_mark_close(struct taca_backend *b, void *event) {
    (void)b;
    (void)cudaEventDestroy((cudaEvent_t)event);
}

void cuda_mark_set(struct taca_backend *b, void *event) {
    struct cuda *c = cuda_of(b);
    (void)cuda_ok(c, cudaEventRecord((cudaEvent_t)event, c->stream), "event");
}

bool cuda_mark_done(struct taca_backend *b, void *event) {
    return is_done(cuda_of(b), cudaEventQuery((cudaEvent_t)event)) || b->error.code != TACA_OK;
}

void cuda_mark_follow(struct taca_backend *b, void *event) {
    struct cuda *c = cuda_of(b);
    (void)cuda_ok(c, cudaStreamWaitEvent(c->stream, (cudaEvent_t)event, 0), "event");
}
