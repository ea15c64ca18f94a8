/* test_utf8.c - every boundary of RFC 3629, and every code point there and back. */
#include "base/utf8.h"
#include "tests/test.h"

/* An encoder of the test's own, straight from the RFC's table; surrogates encode too. */
static int encode(char out[4], uint32_t cp) {
    if (cp < 0x80) return out[0] = (char)cp, 1;
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 63));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 63));
        out[2] = (char)(0x80 | (cp & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 63));
    out[2] = (char)(0x80 | (cp >> 6 & 63));
    out[3] = (char)(0x80 | (cp & 63));
    return 4;
}

static void test_every_code_point_reads_back(void) {
    char s[4];
    int wrong = 0;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        uint32_t got = 0xFFFFFFFF;
        bool surrogate = cp >= 0xD800 && cp <= 0xDFFF;
        int n = encode(s, cp), read = taca_utf8_next(s, (size_t)n, &got);
        wrong += surrogate ? read != 0 : read != n || got != cp;
        /* one byte less is not enough, one more changes nothing */
        if (n > 1) wrong += taca_utf8_next(s, (size_t)n - 1, &got) != 0;
    }
    CHECK_INT(wrong, 0);
}

static void test_every_pair_of_bytes_is_judged_by_the_table(void) {
    int wrong = 0;
    for (int a = 0; a < 256; a++) {
        for (int b = 0; b < 256; b++) {
            char s[2] = {(char)a, (char)b};
            uint32_t cp;
            int want = a < 0x80 ? 1 : a >= 0xC2 && a <= 0xDF && b >= 0x80 && b <= 0xBF ? 2 : 0;
            wrong += taca_utf8_next(s, 2, &cp) != want;
        }
    }
    CHECK_INT(wrong, 0);
}

/* RFC 3629 section 4: which second bytes a leading byte of 3 or 4 allows. */
static bool second_allowed(int a, int b) {
    int low = a == 0xE0 ? 0xA0 : a == 0xF0 ? 0x90 : 0x80;
    int high = a == 0xED ? 0x9F : a == 0xF4 ? 0x8F : 0xBF;
    return b >= low && b <= high;
}

static void test_second_bytes_follow_the_grammar(void) {
    int wrong = 0;
    for (int a = 0xE0; a <= 0xFF; a++) {
        for (int b = 0; b < 256; b++) {
            char s[4] = {(char)a, (char)b, (char)0x80, (char)0xBF};
            uint32_t cp;
            int want = a <= 0xEF ? 3 : a <= 0xF4 ? 4 : 0;
            if (!second_allowed(a, b)) want = 0;
            wrong += taca_utf8_next(s, 4, &cp) != want;
        }
    }
    CHECK_INT(wrong, 0);
    uint32_t cp;
    CHECK_INT(taca_utf8_next("\xE2\x82\x7F", 3, &cp), 0);
    CHECK_INT(taca_utf8_next("\xF0\x9F\x90\xC0", 4, &cp), 0);
}

static void test_whole_texts(void) {
    CHECK(taca_utf8_valid("", 0));
    CHECK(taca_utf8_valid("a\0b", 3));
    CHECK(taca_utf8_valid("\xC3\xA9\xE7\x8C\xAB\xF0\x9F\x90\xB1z", 10));
    CHECK(!taca_utf8_valid("ab\xFF", 3));
    CHECK(!taca_utf8_valid("ab\xF0\x9F\x90", 5));
    CHECK(!taca_utf8_valid("\xBF", 1));
}

int main(void) {
    TEST(test_every_code_point_reads_back);
    TEST(test_every_pair_of_bytes_is_judged_by_the_table);
    TEST(test_second_bytes_follow_the_grammar);
    TEST(test_whole_texts);
    return TEST_END();
}
