/* test_noise.c - the generator against torch 2.15.0 on an x86 CPU: single values, and hashes of
 * whole draws, which hold only if every bit does. */
#include "engine/sample/noise.h"
#include "tests/sample/hash.h"
#include "tests/test.h"

static float draw[262144];

static void test_twister_gives_the_published_sequence(void) {
    /* init_genrand(5489): the default seed of the original program; C++ fixes the 10000th value */
    struct taca_rng r;
    taca_rng_seed(&r, 5489);
    CHECK_INT(taca_rng_u32(&r), 3499211612u);
    CHECK_INT(taca_rng_u32(&r), 581869302u);
    uint32_t v = 0;
    for (int i = 2; i < 10000; i++) v = taca_rng_u32(&r);
    CHECK_INT(v, 4123659995u);
}

static void test_large_draws_are_torchs_to_the_bit(void) {
    static const struct {
        uint64_t seed;
        size_t n;
        uint64_t hash;
    } want[] = {
        {42, 16, 0x0BA2178F6E02A950},
        {42, 262144, 0x147926AA13FAEF3C},
        {0, 16, 0xF1048BDEBEDEBEFF},
        {0, 20, 0xD447DB80528D1C9D}, /* incomplete last groups */
        {1, 1000, 0xCD8639DF97F857B1},
        {7, 31, 0x673B3CB194D876EA},
        {123456789, 4096, 0xF18E63DB4CC44581},
        {4294967295, 65549, 0x0DC95FB0A54D574A},
        {31337, 61440, 0xB850DE602C66C8DE},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct taca_rng r;
        taca_rng_seed(&r, want[i].seed);
        taca_rng_randn(&r, draw, want[i].n);
        uint64_t hash = fnv_floats(FNV_START, draw, want[i].n);
        if (!CHECK(hash == want[i].hash))
            printf("        seed %" PRIu64 " n %zu: %016" PRIx64 "\n", want[i].seed, want[i].n,
                   hash);
    }
}

static void test_seeds_keep_their_low_32_bits(void) {
    static const struct {
        uint64_t seed;
        size_t n;
        uint64_t hash;
    } want[] = {
        {4294967338, 16, 0x0BA2178F6E02A950}, /* 2^32 + 42 */
        {9007199254740991, 3072, 0x0604C7FCF1FB0C53},
        {1099511627781, 65536, 0xB32D3D90F79DD7B5},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct taca_rng r;
        taca_rng_seed(&r, want[i].seed);
        taca_rng_randn(&r, draw, want[i].n);
        CHECK(fnv_floats(FNV_START, draw, want[i].n) == want[i].hash);
    }
}

static void test_known_values_of_a_latent(void) {
    static const float first[] = {1.92691529f,  1.48728406f,  0.900717199f,   -2.10552096f,
                                  0.678418458f, -1.23454487f, -0.0430674776f, -1.60466695f};
    struct taca_rng r;
    double sum = 0;
    taca_rng_seed(&r, 42);
    taca_rng_randn(&r, draw, 262144);
    for (int i = 0; i < 8; i++) CHECK(draw[i] == first[i]);
    CHECK(draw[15] == 0.76244539f);
    CHECK(draw[262143] == -2.32941723f);
    for (int i = 0; i < 262144; i++) sum += (double)draw[i];
    CHECK_NEAR(sum, -62.913283, 1e-4);
}

static void test_tail_is_redrawn(void) {
    static const float from4[] = {0.59883946f, -1.55509508f, -0.34136039f, 1.85300612f};
    struct taca_rng r;
    taca_rng_seed(&r, 0);
    taca_rng_randn(&r, draw, 20);
    CHECK(draw[0] == -1.12583983f);
    for (int i = 0; i < 4; i++) CHECK_NEAR(draw[4 + i], from4[i], 5e-9);
}

static void test_small_draws_keep_the_spare(void) {
    static const float five[] = {0.33669037f, 0.12880941f, 0.23446237f, 0.23033303f, -1.12285638f};
    static const float six[] = {-0.14679509f, 0.78614128f, 0.94682163f,
                                -1.114344f,   1.69079018f, -0.8948279f};
    struct taca_rng r;
    taca_rng_seed(&r, 42);
    taca_rng_randn(&r, draw, 5);
    for (int i = 0; i < 5; i++) CHECK_NEAR(draw[i], five[i], 1e-8);
    taca_rng_seed(&r, 7);
    taca_rng_randn(&r, draw, 3);
    taca_rng_randn(&r, draw + 3, 3);
    for (int i = 0; i < 6; i++) CHECK_NEAR(draw[i], six[i], 6e-8);
    taca_rng_seed(&r, 7); /* a spare is there: seeding must drop it */
    taca_rng_randn(&r, draw, 1);
    CHECK_NEAR(draw[0], six[0], 6e-8);
}

static void test_mixed_draws_share_one_stream(void) {
    static const size_t n[] = {3, 16, 5, 1, 40, 15, 1000}; /* the spare outlives large draws */
    struct taca_rng r;
    size_t at = 0;
    taca_rng_seed(&r, 11);
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        taca_rng_randn(&r, draw + at, n[i]);
        at += n[i];
    }
    CHECK(fnv_floats(FNV_START, draw, at) == UINT64_C(0xA029898B2F1E582C));
}

static void test_nothing_drawn_leaves_the_stream(void) {
    struct taca_rng a, b;
    taca_rng_seed(&a, 5);
    taca_rng_seed(&b, 5);
    taca_rng_randn(&a, draw, 0);
    CHECK(memcmp(&a, &b, sizeof a) == 0);
}

static void test_philox_gives_the_published_block(void) {
    uint32_t c[4] = {0, 0, 0, 0};
    philox_block(c, 0);
    CHECK(c[0] == 0x6627e8d5 && c[1] == 0xe169c58d && c[2] == 0xbc57ac4c && c[3] == 0x9b00dbd8);
}

static void test_philox_noise_is_that_of_other_programs(void) {
    static const float want[2][5] = {{-0.924662f, -0.425344f, -2.643846f, 0.145184f, 0},
                                     {0.194019f, 2.161374f, -0.172051f, 0.84906f, -1.924399f}};
    struct taca_rng r;
    float x[5], y[2], whole[4096];
    for (int k = 0; k < 2; k++) {
        taca_rng_seed_philox(&r, k ? 42 : 0);
        taca_rng_randn(&r, x, 5);
        test_floats("philox", x, want[k], k ? 5 : 4, 1e-6, __FILE__, __LINE__);
    }
    taca_rng_randn(&r, y, 2); /* the second draw has other counters */
    CHECK(y[0] != x[0] && y[0] != x[2]);
    taca_rng_seed_philox(&r, (UINT64_C(1) << 40) + 42); /* all of a seed counts */
    taca_rng_randn(&r, y, 2);
    CHECK(y[0] != x[0]);
    double sum = 0, squares = 0;
    taca_rng_randn(&r, whole, 4096);
    for (int i = 0; i < 4096; i++) {
        sum += (double)whole[i];
        squares += (double)whole[i] * (double)whole[i];
    }
    CHECK_NEAR(sum / 4096, 0, 0.05);
    CHECK_NEAR(squares / 4096, 1, 0.08);
}

int main(void) {
    TEST(test_twister_gives_the_published_sequence);
    TEST(test_large_draws_are_torchs_to_the_bit);
    TEST(test_seeds_keep_their_low_32_bits);
    TEST(test_known_values_of_a_latent);
    TEST(test_tail_is_redrawn);
    TEST(test_small_draws_keep_the_spare);
    TEST(test_mixed_draws_share_one_stream);
    TEST(test_nothing_drawn_leaves_the_stream);
    TEST(test_philox_gives_the_published_block);
    TEST(test_philox_noise_is_that_of_other_programs);
    return TEST_END();
}
