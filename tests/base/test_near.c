/* test_near.c - the word that was likely meant. */
#include "base/near.h"
#include "tests/test.h"

static const char *const words[] = {"generate", "serve", "inspect", "verify"};

static void test_a_third_of_a_word_may_differ(void) {
    CHECK_STR(taca_nearest("genrate", words, 4), "generate");
    CHECK_STR(taca_nearest("servr", words, 4), "serve");
    CHECK_STR(taca_nearest("sevre", words, 4), "serve"); /* one exchange, not two changes */
    CHECK_STR(taca_nearest("serve", words, 4), "serve");
    CHECK(taca_nearest("xyz", words, 4) == NULL);
    CHECK(taca_nearest("", words, 4) == NULL);
    CHECK(taca_nearest("serve", words, 0) == NULL);
}

static void test_absurd_lengths_are_read_safely(void) {
    char word[1000];
    memset(word, 's', sizeof word - 1);
    word[sizeof word - 1] = 0;
    CHECK(taca_nearest(word, words, 4) == NULL);
}

int main(void) {
    TEST(test_a_third_of_a_word_may_differ);
    TEST(test_absurd_lengths_are_read_safely);
    return TEST_END();
}
