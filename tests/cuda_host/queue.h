/* queue.h - inside the stand-in: what a stream was given to do waits here until somebody waits for
 * it.
 *
 * All of the device is under one lock. The functions below are called with it held. */
#pragma once
#include <cuda_runtime.h>

#include <functional>
#include <mutex>
#include <vector>

namespace cuda_host {

extern std::mutex device_lock;

cudaError_t keep(cudaError_t e); /* for cudaGetLastError */
bool lost();                     /* counts a call; the device is lost from the N-th on */
bool is_lost();                  /* without counting */

/* Device memory for a graph, as an allocation of its own that may fail; and back. */
bool take_memory(size_t bytes);
void give_memory(size_t bytes);
void count_graph_launch();

/* While this thread captures a stream: the call that it makes is not allowed, and spoils the
 * capture. */
bool spoils_capture();

/* Work of a stream, in the order given. Some of what waits may be carried out at once. False when
 * it became part of a capture instead. */
bool enqueue(cudaStream_t s, std::function<void()> work);
/* Until the stream (nullptr: every stream) has nothing left. A lost device forgets all work. */
void drain(cudaStream_t s);

} /* namespace cuda_host */

/* What a stream was given while it was captured. */
struct cuda_host_graph {
    std::vector<std::function<void()>> nodes;
    bool spoiled;
};
