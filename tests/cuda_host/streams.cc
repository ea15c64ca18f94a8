/* streams.cc - streams and events of the stand-in: queues of work, carried out when somebody waits,
 * or captured.
 *
 * When several streams have work, chance (TACA_CUDA_HOST_SEED) says whose turn it is, so that a
 * missing wait between streams, a pinned buffer that is written again too early, or memory that
 * queued work still needs gives different results from seed to seed. */
#include "queue.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

namespace {

/* Records of an event: those asked for, and the last one that was carried out. */
struct records {
    uint64_t asked = 0, done = 0;
};

/* One entry of a queue: something to run, or a record, or a wait for one. */
struct entry {
    std::function<void()> run;
    std::shared_ptr<records> event;
    uint64_t turn = 0; /* of the event's records */
    bool waits = false;
};

enum mood { WANTED_FIRST, ANY, OTHERS_FIRST, MOODS };

std::vector<cudaStream_t> streams;
thread_local cudaStream_t captured; /* by this thread */

} /* namespace */

struct cuda_host_stream {
    std::deque<entry> queue;
    std::unique_ptr<cuda_host_graph> capture; /* everything goes there instead */
};
struct cuda_host_event {
    std::shared_ptr<records> state = std::make_shared<records>();
};

namespace cuda_host {

static bool can_go_on(const cuda_host_stream *s) {
    if (s->queue.empty()) return false;
    const entry &e = s->queue.front();
    return !e.waits || e.event->done >= e.turn;
}

static void advance(cuda_host_stream *s) {
    entry e = std::move(s->queue.front());
    s->queue.pop_front();
    if (e.run) e.run();
    if (e.event && !e.waits) e.event->done = std::max(e.event->done, e.turn);
}

/* Whose turn it is; nullptr when nobody can go on. */
static cudaStream_t pick(cudaStream_t wanted, mood m) {
    std::vector<cudaStream_t> able;
    const bool wanted_can = wanted && can_go_on(wanted);
    if (wanted_can && m == WANTED_FIRST) return wanted;
    for (cudaStream_t s : streams)
        if (can_go_on(s) && (s != wanted || m != OTHERS_FIRST)) able.push_back(s);
    if (able.empty()) return wanted_can ? wanted : nullptr;
    return able[chance() % able.size()];
}

static void forget_all() {
    for (cudaStream_t s : streams) s->queue.clear();
}

/* Until `over` says so. */
template <class F> static void work_until(cudaStream_t wanted, F over) {
    const mood m = (mood)(chance() % MOODS);
    if (is_lost()) forget_all();
    while (!is_lost() && !over()) {
        cudaStream_t s = pick(wanted, m);
        if (!s) die("deadlock: streams wait for events that nobody will record");
        advance(s);
    }
}

void drain(cudaStream_t wanted) {
    work_until(wanted, [wanted] {
        if (wanted) return wanted->queue.empty();
        for (cudaStream_t s : streams)
            if (!s->queue.empty()) return false;
        return true;
    });
}

/* As a device that has begun already. */
static void some_progress() {
    for (unsigned n = chance() % 8; n; n--) {
        cudaStream_t s = pick(nullptr, ANY);
        if (!s) return;
        advance(s);
    }
}

static void push(cudaStream_t s, entry e) {
    if (std::find(streams.begin(), streams.end(), s) == streams.end())
        die("work for a stream that is not open");
    s->queue.push_back(std::move(e));
    if (chance() % 8 == 0) some_progress();
}

bool enqueue(cudaStream_t s, std::function<void()> work) {
    if (s->capture) {
        s->capture->nodes.push_back(std::move(work));
        return false;
    }
    push(s, {std::move(work), nullptr});
    return true;
}

bool spoils_capture() {
    if (!captured) return false;
    captured->capture->spoiled = true;
    return true;
}

/* What keeps a call that waits or asks from being made; cudaSuccess: nothing. */
static cudaError_t refusal() {
    if (lost()) return keep(cudaErrorIllegalAddress);
    return spoils_capture() ? keep(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

} /* namespace cuda_host */

using namespace cuda_host;
typedef std::lock_guard<std::mutex> guard;

/* ---- streams --------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    guard g(device_lock);
    if (cudaError_t e = refusal()) return e;
    *s = new cuda_host_stream;
    streams.push_back(*s);
    return cudaSuccess;
}

/* Chance takes no notice of it. */
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) {
    if (priority > 0 || priority < -5) return keep(cudaErrorInvalidValue);
    return cudaStreamCreateWithFlags(s, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
    guard g(device_lock);
    drain(s);
    streams.erase(std::find(streams.begin(), streams.end(), s));
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    guard g(device_lock);
    if (cudaError_t e = refusal()) return e;
    drain(s);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t s) {
    guard g(device_lock);
    if (cudaError_t e = refusal()) return e;
    some_progress();
    return s->queue.empty() ? cudaSuccess : keep(cudaErrorNotReady);
}

cudaError_t cudaDeviceSynchronize() {
    guard g(device_lock);
    if (cudaError_t e = refusal()) return e;
    drain(nullptr);
    return cudaSuccess;
}

/* ---- captures -------------------------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
    guard g(device_lock);
    if (cudaError_t e = refusal()) return e;
    s->capture.reset(new cuda_host_graph{});
    captured = s;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out) {
    guard g(device_lock);
    *out = nullptr;
    if (s != captured) return keep(cudaErrorInvalidValue);
    std::unique_ptr<cuda_host_graph> graph = std::move(s->capture);
    captured = nullptr;
    if (lost()) return keep(cudaErrorIllegalAddress);
    if (graph->spoiled) return keep(cudaErrorStreamCaptureInvalidated);
    *out = graph.release();
    return cudaSuccess;
}

/* ---- events ---------------------------------------------------------------------------------- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) {
    guard g(device_lock);
    if (cudaError_t e = refusal()) return e;
    *e = new cuda_host_event;
    return cudaSuccess;
}

/* Entries that name it keep what they need. */
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    guard g(device_lock);
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    guard g(device_lock);
    if (cudaError_t e = refusal()) return e;
    push(s, {nullptr, e->state, ++e->state->asked});
    return cudaSuccess;
}

/* For the last record asked for until now; an event without any holds nobody up. */
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    guard g(device_lock);
    if (cudaError_t e = refusal()) return e;
    if (e->state->asked) push(s, {nullptr, e->state, e->state->asked, true});
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    guard g(device_lock);
    if (cudaError_t e = refusal()) return e;
    const uint64_t turn = e->state->asked;
    work_until(nullptr, [e, turn] { return e->state->done >= turn; });
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e) {
    guard g(device_lock);
    if (cudaError_t e = refusal()) return e;
    some_progress();
    return e->state->done >= e->state->asked ? cudaSuccess : keep(cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    guard g(device_lock);
    if (cudaError_t e = refusal()) return e;
    if (!from->state->asked || !to->state->asked) return keep(cudaErrorInvalidValue);
    if (from->state->done < from->state->asked || to->state->done < to->state->asked)
        return keep(cudaErrorNotReady);
    *ms = 1;
    return cudaSuccess;
}
