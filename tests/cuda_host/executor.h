/* executor.h - runs CUDA kernels on the CPU, one block after the other, each thread a fiber.
 *
 * A fiber runs until it meets a barrier or a warp collective; the next one is picked at random
 * (TACA_CUDA_HOST_SEED), and in every other block one warp runs only when all others wait, so that
 * code which forgets a barrier gives different results from seed to seed. Device memory is host
 * memory: under AddressSanitizer every stray access of a kernel is an error with a line number.
 * Shared memory starts as NaN in every block. Not thread-safe: the runtime's lock is around it. */
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace cuda_host {

constexpr int WARP = 32;
constexpr size_t STACK = 64 << 10;
enum state { READY, AT_BLOCK, AT_WARP, DONE };

struct fiber {
    void *stack_pointer; /* while it does not run */
    char *stack;
    dim3 tid;
    int lane, warp;
    state st;
    const void *in; /* what this lane brought to a collective, and where its result goes */
    void *out;
    /* cp.async groups not yet waited for; the last one is open */
    std::vector<std::vector<std::function<void()>>> copies;
    std::vector<const void *> unseen; /* 16 bytes each that products do not see yet, see wgmma.h */
};

extern fiber *cur;
extern dim3 grid_dim, block_dim, block_idx;
extern char *shared_block;

unsigned chance();
[[noreturn]] void die(const char *why);
void yield(state s);
/* The last lane of a warp to come runs f over all 32 and wakes them. */
void meet(const void *in, void *out, const std::function<void(fiber *)> &f);
void run_grid(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body);

/* All lanes of the warp bring `in`; f(in[32], out[32]) runs once when the last has come. */
template <class In, class Out, class F> Out collective(In in, F f) {
    Out out{};
    meet(&in, &out, [&f](fiber *w) {
        In ins[WARP];
        Out outs[WARP];
        for (int l = 0; l < WARP; l++) ins[l] = *(const In *)w[l].in;
        f(ins, outs);
        for (int l = 0; l < WARP; l++) *(Out *)w[l].out = outs[l];
    });
    return out;
}

} /* namespace cuda_host */
