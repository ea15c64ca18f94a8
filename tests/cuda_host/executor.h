/* executor.h - runs CUDA kernels on the CPU, one block after the other, each thread a fiber.
 *
 * A fiber runs until it meets a barrier or a warp collective; then another of its warp is picked at
 * random (TACA_CUDA_HOST_SEED), or, when all of these wait and after some of the collectives,
 * another warp. In every other block one warp runs only when all others wait. So code which forgets
 * a barrier gives different results from seed to seed. Device memory is host
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
enum state { READY, AT_BLOCK, AT_WARP };

/* A cp.async that was asked for and has not happened yet. */
struct late_copy {
    void *dst;
    const void *src; /* nullptr: zeros */
    unsigned group;
};

struct fiber {
    void *stack_pointer; /* of the stack that it waits on; nullptr: it has not begun */
    dim3 tid;
    int lane, warp;
    state st;
    const void *in; /* what this lane brought to a collective, and where its result goes */
    void *out;
    std::vector<late_copy> copies;    /* by group */
    unsigned copy_group;              /* that is open */
    std::vector<const void *> unseen; /* 16 bytes each that products do not see yet, see wgmma.h */
};

extern fiber *cur;
extern dim3 grid_dim, block_dim, block_idx;
extern char *shared_block;

unsigned chance();
[[noreturn]] void die(const char *why);
void yield(state s);
void run_grid(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body);

/* A warp's meeting: the last lane to come gets all 32, works for them and parts them; the others
 * wait for that and get nullptr. */
fiber *gather(const void *in, void *out);
void part(fiber *lanes);
/* The last lane runs f over all 32. */
template <class F> void meet(const void *in, void *out, F f) {
    fiber *lanes = gather(in, out);
    if (!lanes) return;
    f(lanes);
    part(lanes);
}

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
