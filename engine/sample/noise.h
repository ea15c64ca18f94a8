/* noise.h - torch's CPU generator: MT19937 and its randn, bit for bit as x86 AVX2 builds compute
 * it. */
#ifndef TACA_ENGINE_SAMPLE_NOISE_H
#define TACA_ENGINE_SAMPLE_NOISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct taca_rng {
    uint32_t state[624];
    int next;
    bool has_spare; /* the second normal of the small path, kept across calls */
    double spare;
};
void taca_rng_seed(struct taca_rng *r, uint64_t seed); /* uses seed & 0xffffffff */
uint32_t taca_rng_u32(struct taca_rng *r);
/* n normals as torch.randn(n, generator=r, dtype=float32) draws them; any split into calls differs.
 */
void taca_rng_randn(struct taca_rng *r, float *out, size_t n);

#endif
