/* test_mem.c - sizes that would overflow are refused; arenas hand out zeroed, aligned, separate
 * memory and give all of it back (the leak check of the sanitizer build is the other half). */
#include "base/mem.h"
#include "tests/test.h"

static void test_products_and_sums_that_overflow_are_refused(void) {
    size_t out = 7;
    CHECK(taca_mul(&out, 6, 7) && out == 42);
    CHECK(taca_mul(&out, SIZE_MAX, 1) && out == SIZE_MAX);
    CHECK(taca_mul(&out, SIZE_MAX, 0) && out == 0);
    out = 7;
    CHECK(!taca_mul(&out, SIZE_MAX, 2) && out == 7);
    CHECK(!taca_mul(&out, SIZE_MAX / 2 + 1, 2) && out == 7);
    CHECK(!taca_mul(&out, (size_t)1 << 32, (size_t)1 << 32) && out == 7);
    CHECK(taca_add_size(&out, SIZE_MAX - 1, 1) && out == SIZE_MAX);
    out = 7;
    CHECK(!taca_add_size(&out, SIZE_MAX, 1) && out == 7);
}

static void test_blocks_begin_where_vectors_and_pages_do(void) {
    static const size_t sizes[] = {0, 1, 64, 100, (4 << 20) - 1, 4 << 20, (4 << 20) + 12345};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *p = taca_block_alloc(sizes[i]);
        CHECK(p != NULL);
        if (!p) continue;
        CHECK_INT((uintptr_t)p % (sizes[i] >= 4 << 20 ? 2 << 20 : 64), 0);
        memset(p, 1, sizes[i]);
        free(p);
    }
    CHECK(taca_block_alloc(SIZE_MAX) == NULL);
    CHECK(taca_block_alloc(SIZE_MAX / 2) == NULL);
}

static void test_an_arena_hands_out_separate_zeroed_aligned_memory(void) {
    struct taca_arena a = {0};
    enum { N = 2000 };
    unsigned char *p[N];
    size_t total = 0;
    for (int i = 0; i < N; i++) {
        size_t n = (size_t)i * 37 % 5000; /* across block borders, zero included */
        p[i] = taca_arena_alloc(&a, n);
        if (!CHECK(p[i] != NULL)) return;
        CHECK((uintptr_t)p[i] % 16 == 0);
        for (size_t k = 0; k < n; k++)
            if (p[i][k] != 0) CHECK_INT(p[i][k], 0);
        memset(p[i], i & 0xFF, n);
        total += n;
    }
    for (int i = 0; i < N; i++)
        for (size_t k = 0; k < (size_t)i * 37 % 5000; k++)
            if (p[i][k] != (i & 0xFF)) CHECK_INT(p[i][k], i & 0xFF);
    CHECK(a.total_bytes >= total);
    taca_arena_finish(&a);
    CHECK(a.blocks == NULL && a.total_bytes == 0);
    CHECK(taca_arena_alloc(&a, 1) != NULL); /* usable again */
    taca_arena_finish(&a);
    taca_arena_finish(&a);
}

static void test_large_blocks_are_their_own(void) {
    struct taca_arena a = {0};
    char *small = taca_arena_alloc(&a, 10);
    char *large = taca_arena_alloc(&a, 5 << 20);
    char *after = taca_arena_alloc(&a, 10);
    if (CHECK(small && large && after)) {
        memset(large, 1, 5 << 20);
        CHECK(small[9] == 0 && after[0] == 0);
    }
    taca_arena_finish(&a);
}

static void test_absurd_sizes_are_refused(void) {
    struct taca_arena a = {0};
    CHECK(taca_arena_alloc(&a, SIZE_MAX) == NULL);
    CHECK(taca_arena_alloc(&a, SIZE_MAX - 15) == NULL);
    CHECK(taca_arena_alloc(&a, SIZE_MAX / 2) == NULL);
    CHECK(taca_arena_strndup(&a, "x", SIZE_MAX) == NULL);
    CHECK(a.blocks == NULL && a.total_bytes == 0);
    taca_arena_finish(&a);
}

static void test_strndup_copies_and_ends(void) {
    struct taca_arena a = {0};
    CHECK_STR(taca_arena_strndup(&a, "hello", 5), "hello");
    CHECK_STR(taca_arena_strndup(&a, "hello", 2), "he");
    CHECK_STR(taca_arena_strndup(&a, "", 0), "");
    taca_arena_finish(&a);
}

int main(void) {
    TEST(test_products_and_sums_that_overflow_are_refused);
    TEST(test_blocks_begin_where_vectors_and_pages_do);
    TEST(test_an_arena_hands_out_separate_zeroed_aligned_memory);
    TEST(test_large_blocks_are_their_own);
    TEST(test_absurd_sizes_are_refused);
    TEST(test_strndup_copies_and_ends);
    return TEST_END();
}
