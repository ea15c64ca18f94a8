/* queue.h - inside the stand-in: what a stream was given to do waits here until somebody waits for
 * it.
 *
 * All of the device is under one lock. The functions below are called with it held. */
#pragma once
#include <cuda_runtime.h>

#include <functional>
#include <mutex>

namespace cuda_host {

extern std::mutex device_lock;

cudaError_t keep(cudaError_t e); /* for cudaGetLastError */
bool lost();                     /* counts a call; the device is lost from the N-th on */
bool is_lost();                  /* without counting */

/* Work of a stream, in the order given. Some of what waits may be carried out at once. */
void enqueue(cudaStream_t s, std::function<void()> work);
/* Until the stream (nullptr: every stream) has nothing left. A lost device forgets all work. */
void drain(cudaStream_t s);

} /* namespace cuda_host */
