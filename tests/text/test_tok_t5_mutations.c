/* test_tok_t5_mutations.c - thousands of broken variants of the small tokenizer in both forms
 * through fuzz_tok_t5.c. The generator is fixed, so a failure repeats; MUTATIONS=n in the
 * environment asks for more. */
#include "tests/test.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

enum { MAX_SIZE = 8192, N_SEEDS = 2 };

static uint64_t state = 88172645463325252u;
static unsigned draw(unsigned n) { /* 0 .. n - 1 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

/* The first byte says which file it is. */
static unsigned char seed[N_SEEDS][MAX_SIZE];
static size_t seed_len[N_SEEDS];

static bool load_seeds(void) {
    static const char *const path[N_SEEDS] = {TACA_SOURCE_DIR "/tests/text/t5_small/spiece.model",
                                              TACA_SOURCE_DIR
                                              "/tests/text/t5_small/tokenizer.json"};
    for (int i = 0; i < N_SEEDS; i++) {
        FILE *f = fopen(path[i], "rb");
        if (!CHECK(f != NULL)) return false;
        seed[i][0] = (unsigned char)i;
        seed_len[i] = 1 + fread(seed[i] + 1, 1, MAX_SIZE / 2, f);
        fclose(f);
    }
    return CHECK(seed_len[0] > 1000 && seed_len[1] > 1000);
}

/* what a mutation pastes: numbers at edges and pieces of both grammars */
static const char *const pieces[] = {"0",
                                     "-1",
                                     "16777216",
                                     "1e999",
                                     "null",
                                     "\"\"",
                                     "[]",
                                     "{}",
                                     "\xFF",
                                     "\x7F",
                                     "////",
                                     "AAAA",
                                     "\x80\x80",
                                     "\x0A\x01",
                                     "\x15",
                                     "true",
                                     "\"a\"",
                                     "[\"a\",0]",
                                     "\xFF\xFF\xFF\xFF\x0F"};

static size_t mutate(unsigned char *text, size_t len) {
    size_t at = 1 + draw((unsigned)len), n;
    const char *piece;
    if (at > len) at = len;
    switch (draw(5)) {
    case 0: /* one byte */
        if (at < len) text[at] = (unsigned char)draw(256);
        return len;
    case 1: /* a cut */
        n = draw(40);
        if (n > len - at) n = len - at;
        memmove(text + at, text + at + n, len - at - n);
        return len - n;
    case 2: /* a copy from elsewhere in it */
        n = draw(60);
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

static void test_broken_variants_never_break_the_reader(void) {
    const char *more = getenv("MUTATIONS");
    const long n = more ? strtol(more, NULL, 10) : 6000;
    if (!load_seeds()) return;
    for (long i = 0; i < n; i++) {
        unsigned char text[MAX_SIZE];
        const unsigned which = draw(N_SEEDS);
        size_t len = seed_len[which];
        memcpy(text, seed[which], len);
        for (unsigned k = draw(4); k > 0; k--) len = mutate(text, len);
        if (draw(16) == 0) len = 1 + draw((unsigned)len);
        LLVMFuzzerTestOneInput(text, len); /* aborts when not well */
    }
    printf("    %ld variants\n", n);
    CHECK(n > 0);
}

int main(void) {
    TEST(test_broken_variants_never_break_the_reader);
    return TEST_END();
}
