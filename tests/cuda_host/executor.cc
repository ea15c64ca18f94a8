/* executor.cc - fibers, barriers and warp collectives; see executor.h. */
#include "executor.h"

#include "wgmma.h"

#include <cstdio>
#include <cstdlib>
#include <memory>

namespace cuda_host {

fiber *cur;
dim3 grid_dim, block_dim, block_idx;
char *shared_block;

enum { MOST = 1024 / WARP }; /* warps of a block */

struct warp {
    fiber *ready[WARP]; /* lanes that may run, the next one last */
    unsigned n;
    int met; /* lanes that wait in a collective */
};

static std::vector<fiber> fibers;
static warp warps[MOST];
static warp *able[MOST]; /* those with lanes that may run, but for these two */
static unsigned n_able;
static warp *now, *slow; /* whose lanes run; who is held back in this block, if any */
static bool leave;       /* another warp than `now` may go on */
static size_t left;      /* threads of the block that have not ended */
static std::function<void()> kernel_body;
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
extern "C" __attribute__((visibility("hidden"))) void taca_host_switch(void **from, void *to);
#if defined(__x86_64__)
asm(R"(
.text
.globl taca_host_switch
.hidden taca_host_switch
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

/* ---- threads on stacks ----------------------------------------------------------------------- */

/* A stack serves one thread after the other: whoever ends makes room for one that has not begun, so
 * threads that never wait need one stack and no switch. */
static void *home;               /* the stack of run_block */
static std::vector<void *> idle; /* the pointers of stacks whose thread has ended */
static fiber *next();

static void serve();

/* A stack that returns into serve() when it is switched to. Tops lie at different distances from a
 * page's beginning, or all would want the same few lines of the cache. */
static void *new_stack() {
    static std::vector<std::unique_ptr<char[]>> stacks;
    const size_t lower = stacks.size() * 11 % 64 * 64;
    stacks.emplace_back(new char[STACK]);
    void **top = (void **)(((uintptr_t)stacks.back().get() + STACK - lower) & ~(uintptr_t)15);
    *--top = nullptr; /* serve's return address, and what keeps its frame 16-aligned */
    *--top = (void *)serve;
    for (int i = 0; i < SAVED_WORDS; i++) *--top = nullptr;
    return top;
}

static void *free_stack() {
    if (idle.empty()) return new_stack();
    void *stack = idle.back();
    idle.pop_back();
    return stack;
}

/* On with f, or home without one; this stack's pointer stays in *from. */
static void go_on(void **from, fiber *f) {
    cur = f;
    taca_host_switch(from, !f ? home : f->stack_pointer ? f->stack_pointer : free_stack());
}

static void serve() {
    for (;;) {
        kernel_body();
        left--;
        fiber *f = next();
        cur = f;
        if (f && !f->stack_pointer) continue;
        idle.push_back(nullptr);
        go_on(&idle.back(), f);
    }
}

/* ---- meeting --------------------------------------------------------------------------------- */

void yield(state s) {
    fiber *self = cur;
    self->st = s;
    fiber *f = next();
    if (f != self) go_on(&self->stack_pointer, f);
}

static void wake(fiber *f) {
    warp *w = &warps[f->warp];
    f->st = READY;
    w->ready[w->n++] = f;
    if (w->n == 1 && w != now && w != slow) able[n_able++] = w;
}

/* Those lanes of a warp that are meant, in some order of many. */
template <class F> static void wake_lanes(fiber *lanes, F meant) {
    const unsigned order = chance(), step = order / WARP | 1;
    for (unsigned i = 0; i < WARP; i++) {
        fiber &f = lanes[(order + i * step) % WARP];
        if (meant(f)) wake(&f);
    }
}
template <class F> static void wake_all(F meant) {
    for (size_t i = 0; i < fibers.size(); i += WARP) wake_lanes(&fibers[i], meant);
}

static void release_barrier() {
    size_t at_block = 0;
    for (auto &f : fibers) at_block += f.st == AT_BLOCK;
    if (at_block != left)
        die("deadlock: some threads wait at a barrier, others in a warp collective");
    wake_all([](const fiber &f) { return f.st == AT_BLOCK; });
}

/* One with lanes that may run; the slow one only when there is no other. */
static warp *next_warp() {
    if (now && now->n && now != slow) able[n_able++] = now;
    now = nullptr;
    if (!n_able && !(slow && slow->n)) release_barrier();
    if (!n_able) return slow;
    const unsigned k = chance() % n_able;
    warp *w = able[k];
    able[k] = able[--n_able];
    return w;
}

/* A thread that may run; nullptr: all have ended. */
static fiber *next() {
    if (!left) return nullptr;
    if (leave || !now->n) now = next_warp();
    leave = false;
    return now->ready[--now->n];
}

fiber *gather(const void *in, void *out) {
    fiber *self = cur;
    self->in = in;
    self->out = out;
    if (++warps[self->warp].met == WARP) return self - self->lane;
    yield(AT_WARP);
    return nullptr;
}

void part(fiber *lanes) {
    warps[cur->warp].met = 0;
    wake_lanes(lanes, [](const fiber &f) { return &f != cur; });
    leave = chance() % 4 == 0;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static void run_block() {
    const unsigned n = (unsigned)(fibers.size() / WARP);
    left = fibers.size();
    n_able = 0;
    now = nullptr;
    slow = chance() & 1 ? &warps[chance() % n] : nullptr;
    leave = true;
    for (unsigned i = 0; i < n; i++) warps[i].n = 0, warps[i].met = 0;
    for (fiber &f : fibers) {
        f.stack_pointer = nullptr;
        f.copies.clear();
        f.copy_group = 0;
        f.unseen.clear();
    }
    wake_all([](const fiber &) { return true; });
    go_on(&home, next());
}

static void set_block(dim3 block) {
    size_t n = (size_t)block.x * block.y * block.z;
    if (n == 0 || n > MOST * WARP || n % WARP)
        die("the size of a block must be a multiple of 32, at most 1024");
    fibers.resize(n);
    for (size_t i = 0; i < n; i++) {
        fiber &f = fibers[i];
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
