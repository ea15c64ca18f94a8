/* noise.h - torch's generators: MT19937 and its randn, bit for bit as x86 AVX2 builds compute it on
 * the CPU; Philox as CUDA devices compute it. */
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
    bool philox; /* then only these count */
    uint64_t key;
    uint32_t draws; /* made so far */
};
void taca_rng_seed(struct taca_rng *r, uint64_t seed); /* uses seed & 0xffffffff */
void taca_rng_seed_philox(struct taca_rng *r, uint64_t seed);
uint32_t taca_rng_u32(struct taca_rng *r);
/* n normals as torch.randn(n, generator=r, dtype=float32) draws them; any split into calls differs.
 */
void taca_rng_randn(struct taca_rng *r, float *out, size_t n);

/* philox.c: the block of 4 words that a counter has under a key (Philox 4x32, 10 rounds). */
void philox_block(uint32_t c[4], uint64_t key);
/* The normals of draw number `draw`. */
void philox_randn(uint64_t key, uint32_t draw, float *out, size_t n);

#endif
