/* probe.c - see probe.h. The loops are written out in assembler: what they measure is the
 * instruction, and a compiler might find a shorter way. */
#include "kernels/probe.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/par.h"

enum { PASS = 16 << 20, BURSTS = 200, ROUNDS = 960000, MAX_THREADS = 256 };

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

#define CLOBBERED                                                                                  \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory"

/* `op` into n registers, as many chains, from the registers in which `ones` are. Zeros would be
 * kind to the power budget. */
#define STEP(op, to, from) op " " from ", " from ", %%" to "\n"
#define FOUR(op, r, a, b, c, d, from)                                                              \
    STEP(op, r a, from) STEP(op, r b, from) STEP(op, r c, from) STEP(op, r d, from)
#define CHAINS_8(op, r, from)                                                                      \
    FOUR(op, r, "0", "1", "2", "3", from) FOUR(op, r, "4", "5", "6", "7", from)
#define CHAINS_12(op, r, from) CHAINS_8(op, r, from) FOUR(op, r, "8", "9", "10", "11", from)
/* Registers above 15 are the AVX-512 ones, which this file's compiler does not know of. */
#define CHAINS_24(op, r, from)                                                                     \
    CHAINS_12(op, r, from)                                                                         \
    FOUR(op, r, "12", "13", "14", "15", from)                                                      \
    FOUR(op, r, "16", "17", "18", "19", from) FOUR(op, r, "20", "21", "22", "23", from)

#define BURST(name, op, chains, r, from)                                                           \
    static void name(const void *ones) {                                                           \
        long n = ROUNDS / chains;                                                                  \
        __asm__ volatile("vmovups (%1), " from "\n"                                                \
                         "1:\n" CHAINS_##chains(op, r, from) "dec %0\njnz 1b\nvzeroupper\n"        \
                         : "+r"(n)                                                                 \
                         : "r"(ones)                                                               \
                         : CLOBBERED);                                                             \
    }
BURST(fma_256, "vfmadd231ps", 12, "ymm", "%%ymm15")
BURST(fma_512, "vfmadd231ps", 24, "zmm", "%%zmm31")
BURST(dot_bf16, "vdpbf16ps", 24, "zmm", "%%zmm31")
BURST(dot_int8, "vpdpbusd", 24, "zmm", "%%zmm31")

int taca_probe_threads(void) { return cpu_threads_available(); }

struct burst {
    void (*fn)(const void *ones);
    uint32_t ones;            /* a pattern that is 1 in its type */
    double ops;               /* of one instruction */
    double rate[MAX_THREADS]; /* the best, GFLOP/s, per thread */
};

static void run_burst(void *ctx, int64_t i, int worker) {
    struct burst *b = ctx;
    uint32_t ones[16];
    (void)worker;
    for (int k = 0; k < 16; k++) ones[k] = b->ones;
    for (int k = 0; k < BURSTS; k++) {
        const double t = cpu_seconds();
        b->fn(ones);
        const double rate = ROUNDS * b->ops / (cpu_seconds() - t) * 1e-9;
        if (rate > b->rate[i]) b->rate[i] = rate;
    }
}

static void no_init(void *ctx) { (void)ctx; }

static double sum_of_rates(struct cpu_pool *pool, struct burst b) {
    double sum = 0;
    const int n = cpu_pool_threads(pool);
    cpu_parallel(pool, n, run_burst, &b);
    for (int i = 0; i < n; i++) sum += b.rate[i];
    return sum;
}

struct taca_ceilings taca_probe_arithmetic(int threads) {
    struct taca_ceilings c = {0};
    struct cpu_pool *pool = cpu_pool_open(threads, no_init, NULL);
    if (!pool) return c;
    if (__builtin_cpu_supports("avx512f"))
        c.f32 = sum_of_rates(pool, (struct burst){.fn = fma_512, .ones = 0x3F800000, .ops = 32});
    else if (__builtin_cpu_supports("fma"))
        c.f32 = sum_of_rates(pool, (struct burst){.fn = fma_256, .ones = 0x3F800000, .ops = 16});
    if (__builtin_cpu_supports("avx512bf16"))
        c.bf16 = sum_of_rates(pool, (struct burst){.fn = dot_bf16, .ones = 0x3F803F80, .ops = 64});
    if (__builtin_cpu_supports("avx512vnni"))
        c.int8 = sum_of_rates(pool, (struct burst){.fn = dot_int8, .ones = 0x01010101, .ops = 128});
    cpu_pool_close(pool);
    return c;
}

struct reading {
    const char *p;
    size_t share; /* of each thread, a multiple of 512 */
    int passes;
    double rate[MAX_THREADS];
};

static void read_once(const char *p, size_t bytes, bool wide) {
    const char *end = p + bytes;
    if (wide)
        __asm__ volatile("1:\nvmovups (%0), %%zmm0\nvmovups 64(%0), %%zmm1\n"
                         "vmovups 128(%0), %%zmm2\nvmovups 192(%0), %%zmm3\n"
                         "vmovups 256(%0), %%zmm4\nvmovups 320(%0), %%zmm5\n"
                         "vmovups 384(%0), %%zmm6\nvmovups 448(%0), %%zmm7\n"
                         "add $512, %0\ncmp %1, %0\njb 1b\nvzeroupper\n"
                         : "+r"(p)
                         : "r"(end)
                         : CLOBBERED);
    else
        __asm__ volatile("1:\nmovups (%0), %%xmm0\nmovups 16(%0), %%xmm1\n"
                         "movups 32(%0), %%xmm2\nmovups 48(%0), %%xmm3\n"
                         "add $64, %0\ncmp %1, %0\njb 1b\n"
                         : "+r"(p)
                         : "r"(end)
                         : CLOBBERED);
}

static void run_reading(void *ctx, int64_t i, int worker) {
    struct reading *r = ctx;
    const bool wide = __builtin_cpu_supports("avx512f");
    const char *p = r->p + (size_t)i * r->share;
    (void)worker;
    for (int k = 0; k < BURSTS / 8; k++) {
        const double t = cpu_seconds();
        for (int pass = 0; pass < r->passes; pass++) read_once(p, r->share, wide);
        const double rate = (double)r->share * r->passes / (cpu_seconds() - t) * 1e-9;
        if (rate > r->rate[i]) r->rate[i] = rate;
    }
}

double taca_probe_read(size_t bytes, int threads) {
    struct cpu_pool *pool = cpu_pool_open(threads, no_init, NULL);
    if (!pool) return 0;
    const int n = cpu_pool_threads(pool);
    struct reading r = {.share = bytes / (size_t)n / 512 * 512};
    double sum = 0;
    char *p = r.share ? aligned_alloc(512, r.share * (size_t)n) : NULL;
    if (p) {
        memset(p, 1, r.share * (size_t)n);
        r.p = p;
        r.passes =
            r.share > PASS ? 1 : (int)(PASS / r.share); /* a clock is read in a microsecond */
        cpu_parallel(pool, n, run_reading, &r);
        for (int i = 0; i < n; i++) sum += r.rate[i];
    }
    free(p);
    cpu_pool_close(pool);
    return sum;
}
