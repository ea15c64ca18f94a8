/* philox.c - the counter-based generator of CUDA devices: each element of a draw has a counter of
 * its own, so the noise does not depend on the order of work. A device repeats it exactly for draws
 * up to its number of resident threads; above, real devices differ from each other and from this.
 */
#include <math.h>

#include "engine/sample/noise.h"

void philox_block(uint32_t c[4], uint64_t key) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)c[0] * 0xD2511F53u, b = (uint64_t)c[2] * 0xCD9E8D57u;
        c[0] = (uint32_t)(b >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

void philox_randn(uint64_t key, uint32_t draw, float *out, size_t n) {
    const float two_pi = 6.28318530717958647692f;
    for (size_t i = 0; i < n; i++) {
        uint32_t c[4] = {draw, 0, (uint32_t)i, (uint32_t)((uint64_t)i >> 32)};
        philox_block(c, key);
        const float u = (float)c[0] * 0x1p-32f + 0x1p-33f;
        const float angle = (float)c[1] * (0x1p-32f * two_pi) + 0x1p-33f * two_pi;
        out[i] = sqrtf(-2.0f * logf(u)) * sinf(angle);
    }
}
