/* graphs.cc - captured work of the stand-in, made ready and launched. It takes memory of the
 * device, as the real one does. */
#include "queue.h"

using namespace cuda_host;
typedef std::lock_guard<std::mutex> guard;

static const size_t GRAPH_BYTES = 4096, NODE_BYTES = 512;

struct cuda_host_exec {
    std::vector<std::function<void()>> nodes;
    size_t bytes;
};

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
    guard g(device_lock);
    const size_t bytes = GRAPH_BYTES + NODE_BYTES * graph->nodes.size();
    if (lost()) return keep(cudaErrorIllegalAddress);
    if (spoils_capture()) return keep(cudaErrorStreamCaptureUnsupported);
    if (!take_memory(bytes)) return keep(cudaErrorMemoryAllocation);
    *out = new cuda_host_exec{graph->nodes, bytes};
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
    guard g(device_lock);
    return lost() ? keep(cudaErrorIllegalAddress) : cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s) {
    guard g(device_lock);
    if (lost()) return keep(cudaErrorIllegalAddress);
    if (spoils_capture()) return keep(cudaErrorStreamCaptureUnsupported);
    for (const auto &node : e->nodes) enqueue(s, node);
    count_graph_launch();
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) {
    guard g(device_lock);
    give_memory(e->bytes);
    delete e;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    guard g(device_lock);
    delete graph;
    return cudaSuccess;
}
