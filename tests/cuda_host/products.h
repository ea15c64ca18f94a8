/* products.h - the arithmetic of products, whole tiles at a time: of mma.sync, wgmma and cuBLASLt's
 * stand-in. Knows nothing of fibers and of memory's layouts. Sums go over the inner dimension in
 * its order, so that a result does not depend on the processor or on the other rows. */
#pragma once
#include <cstddef>
#include <cstdint>

namespace cuda_host {

/* What one lane brings to mma.m16n8k16, bf16 operands: c += a b. */
struct mma_op {
    const uint32_t *a; /* 4 registers */
    uint32_t b[2];
    float *c; /* 4 */
};
/* A warp's. Products are exact in double; the sum is rounded once. */
void mma_warp(const mma_op *const (&lane)[32]);

/* c = a b in float: a [16][16], b [16][n], c [16][n]; n a multiple of 16 */
void multiply_tile(float *c, const float *a, const float *b, int n);

/* y[j][i] = sum over t of w[i][t] x[j][t] in double, rounded once.   w [m][k], x [n][k], y [n][m]
 */
void multiply_rows(float *y, const float *w, const float *x, size_t m, size_t n, size_t k);

} /* namespace cuda_host */
