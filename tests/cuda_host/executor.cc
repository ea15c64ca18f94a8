/* executor.cc - fibers, barriers and warp collectives; see executor.h. */
#include "executor.h"

#include "wgmma.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_host {

fiber *cur;
dim3 grid_dim, block_dim, block_idx;
char *shared_block;

static std::vector<fiber> fibers;
static std::vector<int> met;   /* lanes of each warp that wait in a collective */
static std::vector<int> ready; /* indices of fibers that may run, in no order */
static std::vector<int> late;  /* those of the warp that is held back in this block */
static int slow_warp;          /* -1: none */
static std::function<void()> kernel_body;
static void *scheduler_pointer;
static uint64_t rng = [] {
    const char *seed = getenv("TACA_CUDA_HOST_SEED");
    return seed ? strtoull(seed, nullptr, 10) * 2 + 1 : 1;
}();

unsigned chance() {
    rng = rng * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(rng >> 33);
}

void die(const char *why) {
    fprintf(stderr, "cuda_host: block (%u,%u,%u): %s\n", block_idx.x, block_idx.y, block_idx.z,
            why);
    abort();
}

/* ---- switching stacks ------------------------------------------------------------------------ */

/* Saves what a call must keep, leaves this stack's pointer in *from and goes on where the stack
 * `to` was left. */
extern "C" void taca_host_switch(void **from, void *to);
#if defined(__x86_64__)
asm(R"(
.text
.globl taca_host_switch
.type taca_host_switch, @function
taca_host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size taca_host_switch, .-taca_host_switch
)");
enum { SAVED_WORDS = 6 };
#else
#error "the executor's stack switch is written for x86-64"
#endif

static void to_scheduler() {
    fiber *f = cur;
    taca_host_switch(&f->stack_pointer, scheduler_pointer);
}

static void entry() {
    kernel_body();
    cur->st = DONE;
    to_scheduler();
    die("a finished thread was woken");
}

/* A stack that returns into entry() when it is switched to. */
static void prepare(fiber &f) {
    void **top = (void **)(f.stack + STACK);
    *--top = nullptr; /* entry's return address, and what keeps its frame 16-aligned */
    *--top = (void *)entry;
    for (int i = 0; i < SAVED_WORDS; i++) *--top = nullptr;
    f.stack_pointer = top;
    f.st = READY;
    f.copies.clear();
    f.copies.resize(1);
    f.unseen.clear();
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(f.stack, STACK);
#endif
}

/* ---- meeting --------------------------------------------------------------------------------- */

void yield(state s) {
    cur->st = s;
    to_scheduler();
}

static void wake(fiber &f) {
    f.st = READY;
    (f.warp == slow_warp ? late : ready).push_back((int)(&f - fibers.data()));
}

/* One that may run; of the slow warp only when nobody else can. */
static fiber *next() {
    std::vector<int> &from = ready.empty() ? late : ready;
    size_t k = chance() % from.size();
    fiber *f = &fibers[(size_t)from[k]];
    from[k] = from.back();
    from.pop_back();
    return f;
}

void meet(const void *in, void *out, const std::function<void(fiber *)> &f) {
    fiber *self = cur, *w = &fibers[(size_t)self->warp * WARP];
    self->in = in;
    self->out = out;
    if (++met[(size_t)self->warp] < WARP) {
        yield(AT_WARP);
        return;
    }
    met[(size_t)self->warp] = 0;
    f(w);
    for (int l = 0; l < WARP; l++)
        if (&w[l] != self) wake(w[l]);
}

static void release_barrier(size_t left) {
    size_t at_block = 0;
    for (auto &f : fibers) at_block += f.st == AT_BLOCK;
    if (at_block != left)
        die("deadlock: some threads wait at a barrier, others in a warp collective");
    for (auto &f : fibers)
        if (f.st == AT_BLOCK) wake(f);
}

static void run_block() {
    size_t left = fibers.size();
    ready.clear();
    late.clear();
    slow_warp = chance() & 1 ? (int)(chance() % (left / WARP)) : -1;
    met.assign(left / WARP, 0);
    for (auto &f : fibers) {
        prepare(f);
        wake(f);
    }
    while (left) {
        if (ready.empty() && late.empty()) release_barrier(left);
        cur = next();
        taca_host_switch(&scheduler_pointer, cur->stack_pointer);
        if (cur->st == DONE) left--;
    }
}

/* Stacks are kept from launch to launch. */
static void set_block(dim3 block) {
    static std::vector<std::unique_ptr<char[]>> stacks;
    size_t n = (size_t)block.x * block.y * block.z;
    if (n == 0 || n > 1024 || n % WARP)
        die("the size of a block must be a multiple of 32, at most 1024");
    while (stacks.size() < n) stacks.emplace_back(new char[STACK]);
    fibers.resize(n);
    for (size_t i = 0; i < n; i++) {
        fiber &f = fibers[i];
        f.stack = (char *)(((uintptr_t)stacks[i].get()) & ~(uintptr_t)15);
        f.tid = dim3((unsigned)(i % block.x), (unsigned)(i / block.x % block.y),
                     (unsigned)(i / block.x / block.y));
        f.lane = (int)(i % WARP);
        f.warp = (int)(i / WARP);
    }
}

void run_grid(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body) {
    set_block(block);
    grid_dim = grid;
    block_dim = block;
    kernel_body = body;
    std::unique_ptr<char[]> memory(new char[shared + 16]);
    shared_block = (char *)(((uintptr_t)memory.get() + 15) & ~(uintptr_t)15);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                block_idx = dim3(x, y, z);
                memset(shared_block, 0xff, shared); /* NaN: reading what was never written shows */
                wgmma_begin_block(fibers.size(), shared);
                run_block();
                wgmma_end_block();
            }
}

} /* namespace cuda_host */
