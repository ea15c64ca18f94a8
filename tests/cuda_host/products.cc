/* products.cc - see products.h. Written for vectors of 32 bytes; processors without them do the
 * same in pieces. What is multiplied is exact in the type that sums, so a fused multiply-add gives
 * the bits of the two. */
#include "products.h"

#include <cstring>
#include <vector>

#include <cuda_bf16.h>

#define EITHER static inline __attribute__((always_inline))
#define WIDE   __attribute__((target("avx2,fma")))

typedef double double4 __attribute__((vector_size(32)));
typedef float float8 __attribute__((vector_size(32)));

static const bool wide = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}();

/* s[r] += a[r * a_ld + t] b[t * b_ld..] for t in [0, k): R rows of C vectors */
template <int R, int C, class V, class T>
EITHER void accumulate(V (&s)[R][C], const T *a, size_t a_ld, const T *b, size_t b_ld, size_t k) {
    constexpr size_t N = sizeof(V) / sizeof(T);
    for (size_t t = 0; t < k; t++) {
        V at[C];
#pragma GCC unroll 4
        for (int i = 0; i < C; i++) memcpy(&at[i], b + t * b_ld + (size_t)i * N, sizeof(V));
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int i = 0; i < C; i++) s[r][i] += a[(size_t)r * a_ld + t] * at[i];
    }
}

namespace cuda_host {

/* ---- mma.m16n8k16 ---------------------------------------------------------------------------- */

EITHER double half_of(uint32_t two, int half) {
    return (double)__bfloat162float({(uint16_t)(two >> 16 * half)});
}

EITHER void mma(const mma_op *const (&lane)[32]) {
    double a[16][16], b[16][8], c[16][8];
    for (int l = 0; l < 32; l++) {
        const int g = l / 4, t = l % 4 * 2;
        for (int j = 0; j < 2; j++) {
            for (int q = 0; q < 4; q++) {
                a[g + q % 2 * 8][t + q / 2 * 8 + j] = half_of(lane[l]->a[q], j);
                c[g + q / 2 * 8][t + q % 2] = (double)lane[l]->c[q];
            }
            for (int q = 0; q < 2; q++) b[t + q * 8 + j][g] = half_of(lane[l]->b[q], j);
        }
    }
    for (int r = 0; r < 16; r += 4) {
        double4 s[4][2];
        memcpy(s, c[r], sizeof s);
        accumulate<4, 2>(s, a[r], 16, b[0], 8, 16);
        memcpy(c[r], s, sizeof s);
    }
    for (int l = 0; l < 32; l++)
        for (int q = 0; q < 4; q++) lane[l]->c[q] = (float)c[l / 4 + q / 2 * 8][l % 4 * 2 + q % 2];
}
WIDE static void mma_wide(const mma_op *const (&lane)[32]) { mma(lane); }
static void mma_plain(const mma_op *const (&lane)[32]) { mma(lane); }
void mma_warp(const mma_op *const (&lane)[32]) { wide ? mma_wide(lane) : mma_plain(lane); }

/* ---- wgmma ----------------------------------------------------------------------------------- */

EITHER void tile(float *c, const float *a, const float *b, int n) {
    for (int r = 0; r < 16; r += 4)
        for (int j = 0; j < n; j += 16) {
            float8 s[4][2] = {};
            accumulate<4, 2>(s, a + r * 16, 16, b + j, (size_t)n, 16);
            for (int i = 0; i < 4; i++) memcpy(c + (r + i) * n + j, s[i], sizeof s[i]);
        }
}
WIDE static void tile_wide(float *c, const float *a, const float *b, int n) { tile(c, a, b, n); }
static void tile_plain(float *c, const float *a, const float *b, int n) { tile(c, a, b, n); }
void multiply_tile(float *c, const float *a, const float *b, int n) {
    wide ? tile_wide(c, a, b, n) : tile_plain(c, a, b, n);
}

/* ---- matrices -------------------------------------------------------------------------------- */

/* Outputs and rows that are worked out at a time. */
static constexpr size_t OUTS = 8, ROWS = 4;

/* to [k][OUTS]: rows [first, ..) of w side by side, zeros past the last */
EITHER void side_by_side(double *to, const float *w, size_t first, size_t m, size_t k) {
    for (size_t i = 0; i < OUTS; i++)
        for (size_t t = 0; t < k; t++)
            to[t * OUTS + i] = first + i < m ? (double)w[(first + i) * k + t] : 0;
}

template <int R>
EITHER void outputs(float *y, const double *w, const double *x, size_t m, size_t n, size_t k) {
    double4 s[R][2] = {};
    double out[R][OUTS];
    accumulate<R, 2>(s, x, k, w, OUTS, k);
    memcpy(out, s, sizeof s);
    for (int r = 0; r < R; r++)
        for (size_t i = 0; i < n; i++) y[(size_t)r * m + i] = (float)out[r][i];
}

EITHER void rows(float *y, const float *w, const float *x_rows, size_t m, size_t n, size_t k) {
    std::vector<double> beside(k * OUTS), x(x_rows, x_rows + n * k);
    for (size_t i = 0; i < m; i += OUTS) {
        const size_t outs = m - i < OUTS ? m - i : OUTS;
        side_by_side(beside.data(), w, i, m, k);
        size_t j = 0;
        for (; j + ROWS <= n; j += ROWS)
            outputs<ROWS>(y + j * m + i, beside.data(), x.data() + j * k, m, outs, k);
        for (; j < n; j++) outputs<1>(y + j * m + i, beside.data(), x.data() + j * k, m, outs, k);
    }
}
WIDE static void rows_wide(float *y, const float *w, const float *x, size_t m, size_t n, size_t k) {
    rows(y, w, x, m, n, k);
}
static void rows_plain(float *y, const float *w, const float *x, size_t m, size_t n, size_t k) {
    rows(y, w, x, m, n, k);
}
void multiply_rows(float *y, const float *w, const float *x, size_t m, size_t n, size_t k) {
    wide ? rows_wide(y, w, x, m, n, k) : rows_plain(y, w, x, m, n, k);
}

} /* namespace cuda_host */
