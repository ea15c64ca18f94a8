/* wgmma.h - Hopper's asynchronous products, as the executor plays them.
 *
 * Each warp works for itself on its 16 rows: the four of a warpgroup need not be in step, but must
 * have issued the same when the block ends. An operand is read from shared memory, or from the
 * registers of its threads, when the product is issued or when its group is waited for, as chance
 * has it; accumulators are NaN in between. So a forgotten wait, fence or barrier gives wrong
 * numbers under some seeds or all. Products see a copy of shared memory into which
 * fence.proxy.async brings what the calling thread's cp.async wrote; other stores never get there,
 * since no kernel needs that yet. */
#pragma once
#include "executor.h"

namespace cuda_host {

/* What one lane brings to m64nNk16, bf16 operands and float sums. */
struct wgmma_op {
    uint64_t a_desc;        /* a in shared memory, [64, 16], the 16 side by side */
    const uint32_t *a_regs; /* or four registers of this lane, as in mma.m16n8k16 */
    uint64_t b_desc;        /* [N, 16], the 16 side by side; b_trans: [16, N] */
    bool b_trans;
    int n;
    bool add; /* to what is in d, else d is not read */
    float *d; /* n / 2 of this lane */
};
void wgmma(const wgmma_op &op);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(size_t left); /* until at most so many groups run */

/* Offset in shared memory of element (line, k) of an operand: line is its row or column, k its
 * place in the inner dimension of 16; across: the lines are side by side in memory, else the k.
 * Base and strides by the PTX manual's canonical layouts; the swizzle works on the address. */
uint32_t wgmma_address(uint64_t desc, int line, int k, bool across);

uint32_t shared_offset(const void *p); /* of a pointer into shared memory, as its address */
void fence_async();                    /* fence.proxy.async */
bool has_wgmma();                      /* devices of compute capability 9 do */
bool wgmma_is_wrong();                 /* a fault, see faults.h */
void wgmma_begin_block(size_t threads, size_t shared_bytes);
void wgmma_end_block();

} /* namespace cuda_host */
