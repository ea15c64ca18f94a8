/* test_mutations.c - twenty thousand broken variants of good files through fuzz_safetensors.c. The
 * generator is fixed, so a failure repeats; MUTATIONS=n in the environment asks for more. */
#include "engine/io/safetensors.h"
#include "tests/test.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

enum { MAX_SIZE = 1024 };

static uint64_t state = 88172645463325252u;
static unsigned draw(unsigned n) { /* 0 .. n - 1 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

static const char *const seeds[] = {
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]}}",
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"x\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
    "\"y\":{\"dtype\":\"F8_E4M3\",\"shape\":[0,9],\"data_offsets\":[8,8]},"
    "\"z\":{\"dtype\":\"U8\",\"shape\":[8,1,1,1,3],\"data_offsets\":[8,32]}}   ",
    "{}",
};
/* what a mutation pastes: numbers at edges and pieces of the grammar */
static const char *const pieces[] = {"0",
                                     "1",
                                     "-1",
                                     "4611686018427387904",
                                     "9223372036854775807",
                                     "18446744073709551615",
                                     "1e999",
                                     "2.0",
                                     "[",
                                     "]",
                                     "{",
                                     "}",
                                     "\"",
                                     ",",
                                     ":",
                                     "null",
                                     "[0,0]",
                                     "\"a\":",
                                     "\\u0000",
                                     "\xFF",
                                     "\"F4\"",
                                     "\"F64\"",
                                     "\"shape\":[1],",
                                     "\"dtype\":\"U8\","};

static size_t mutate(char *text, size_t len) {
    size_t at = draw((unsigned)len + 1), n;
    const char *piece;
    switch (draw(5)) {
    case 0: /* one byte */
        if (at < len) text[at] = (char)draw(256);
        return len;
    case 1: /* a cut */
        n = draw(12);
        if (n > len - at) n = len - at;
        memmove(text + at, text + at + n, len - at - n);
        return len - n;
    case 2: /* a copy from elsewhere in it */
        n = draw(40);
        if (n > len - at) n = len - at;
        if (len + n > MAX_SIZE) return len;
        memmove(text + at + n, text + at, len - at);
        return len + n;
    default: /* a piece, over or between what is there */
        piece = pieces[draw(sizeof pieces / sizeof *pieces)];
        n = strlen(piece);
        if (len + n > MAX_SIZE) return len;
        if (draw(2) || n > len - at) {
            memmove(text + at + n, text + at, len - at);
            len += n;
        }
        memcpy(text + at, piece, n);
        return len;
    }
}

static void one_variant(void) {
    char text[MAX_SIZE + 64];
    unsigned char file[8 + MAX_SIZE + 64];
    const char *seed = seeds[draw(sizeof seeds / sizeof *seeds)];
    size_t len = strlen(seed), n_data = seed[1] == '}' ? 0 : 32, size;
    memcpy(text, seed, len);
    for (unsigned k = draw(4); k > 0; k--) len = mutate(text, len);
    uint64_t prefix = draw(8) ? len : len + draw(17) - 8; /* mostly right */
    if (draw(64) == 0) prefix = (uint64_t)draw(1u << 31) << draw(34);
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)(prefix >> 8 * i);
    memcpy(file + 8, text, len);
    memset(file + 8 + len, 7, n_data);
    size = 8 + len + n_data;
    if (draw(16) == 0) size = draw((unsigned)size + 1);
    LLVMFuzzerTestOneInput(file, size); /* aborts when not well */
}

static void test_broken_variants_never_break_the_reader(void) {
    const char *more = getenv("MUTATIONS");
    long n = more ? strtol(more, NULL, 10) : 20000;
    for (long i = 0; i < n; i++) one_variant();
    printf("    %ld variants\n", n);
    CHECK(n > 0);
}

int main(void) {
    TEST(test_broken_variants_never_break_the_reader);
    return TEST_END();
}
