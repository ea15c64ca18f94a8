/* test_buf.c - the growing buffer: its ceiling, its NUL, and JSON strings that stay on one line. */
#include "base/buf.h"
#include "tests/test.h"

static void test_appends_end_with_a_nul_that_does_not_count(void) {
    struct taca_buf b;
    taca_buf_init(&b, 1000);
    CHECK(b.data == NULL && b.len == 0);
    taca_buf_put(&b, "ab", 2);
    taca_buf_puts(&b, "cd");
    taca_buf_printf(&b, "%d-%s", 42, "x");
    CHECK_STR(b.data, "abcd42-x");
    CHECK_INT(b.len, 8);
    taca_buf_put(&b, NULL, 0);
    taca_buf_puts(&b, "");
    CHECK_INT(b.len, 8);
    taca_buf_finish(&b);
    CHECK(b.data == NULL && b.len == 0 && b.max == 1000);
    taca_buf_finish(&b);
}

static void test_growth_keeps_what_is_there(void) {
    struct taca_buf b;
    taca_buf_init(&b, 1 << 20);
    for (int i = 0; i < 100000; i++) taca_buf_put(&b, &(char){(char)(i % 251)}, 1);
    CHECK(!b.failed);
    CHECK_INT(b.len, 100000);
    for (int i = 0; i < 100000; i++)
        if (b.data[i] != (char)(i % 251)) CHECK_INT(b.data[i], i % 251);
    CHECK_INT(b.data[b.len], 0);
    taca_buf_finish(&b);
}

static void test_the_ceiling_is_exact_and_failure_is_sticky(void) {
    struct taca_buf b;
    taca_buf_init(&b, 5);
    taca_buf_puts(&b, "abcde"); /* exactly */
    CHECK(!b.failed);
    taca_buf_puts(&b, "f");
    CHECK(b.failed);
    CHECK_STR(b.data, "abcde");
    taca_buf_reset(&b);
    CHECK(!b.failed && b.len == 0);
    CHECK_STR(b.data, "");
    taca_buf_puts(&b, "abcd");
    taca_buf_printf(&b, "%d", 12);
    CHECK(b.failed && b.len == 4);
    taca_buf_puts(&b, "e"); /* would fit, but the text would have a hole */
    CHECK_INT(b.len, 4);
    CHECK(taca_buf_reserve(&b, 0) == NULL);
    taca_buf_finish(&b);
}

static void test_sizes_near_the_end_of_memory_fail_cleanly(void) {
    struct taca_buf b;
    taca_buf_init(&b, SIZE_MAX);
    CHECK(taca_buf_reserve(&b, SIZE_MAX) == NULL);
    CHECK(b.failed);
    taca_buf_reset(&b);
    CHECK(taca_buf_reserve(&b, SIZE_MAX / 2 + 1) == NULL);
    taca_buf_reset(&b);
    taca_buf_puts(&b, "a");
    CHECK(taca_buf_reserve(&b, SIZE_MAX - 1) == NULL);
    CHECK_STR(b.data, "a");
    taca_buf_finish(&b);
}

static void test_reserve_gives_room_that_does_not_count(void) {
    struct taca_buf b;
    taca_buf_init(&b, 1 << 16);
    char *p = taca_buf_reserve(&b, 300);
    if (!CHECK(p != NULL)) return;
    memset(p, 'x', 301); /* the NUL's place too */
    CHECK_INT(b.len, 0);
    taca_buf_puts(&b, "y");
    CHECK_STR(b.data, "y");
    taca_buf_finish(&b);
}

static const char *json(const char *s, size_t len) {
    static struct taca_buf b;
    taca_buf_finish(&b);
    taca_buf_init(&b, 4096);
    if (s) taca_buf_json(&b, s, len);
    return b.data;
}

static void test_json_strings(void) {
    static const char *const all[][2] = {
        {"", "\"\""},
        {"plain", "\"plain\""},
        {"a\"b\\c", "\"a\\\"b\\\\c\""},
        {"a/b", "\"a/b\""},
        {"\n\r\t", "\"\\n\\r\\t\""},
        {"\x01\x1F\x7F", "\"\\u0001\\u001f\\u007f\""},
        {"\xC2\x80\xC2\x85\xC2\x9F", "\"\\u0080\\u0085\\u009f\""}, /* C1 controls */
        {"\xC2\xA0", "\"\xC2\xA0\""},
        {"\xE2\x80\xA8\xE2\x80\xA9", "\"\\u2028\\u2029\""}, /* line ends for JavaScript */
        {"\xE2\x80\xA7\xE2\x80\xAA", "\"\xE2\x80\xA7\xE2\x80\xAA\""},
        {"\xC3\xA9\xE7\x8C\xAB\xF0\x9F\x90\xB1", "\"\xC3\xA9\xE7\x8C\xAB\xF0\x9F\x90\xB1\""},
        /* not UTF-8: each bad byte becomes U+FFFD */
        {"\xFF", "\"\\ufffd\""},
        {"a\xC3", "\"a\\ufffd\""},
        {"\xC3(", "\"\\ufffd(\""},
        {"\xC0\xAF", "\"\\ufffd\\ufffd\""},
        {"\xED\xA0\x80", "\"\\ufffd\\ufffd\\ufffd\""},
        {"\xF4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""},
        {"\x80", "\"\\ufffd\""}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        CHECK_STR(json(all[i][0], strlen(all[i][0])), all[i][1]);
    CHECK_STR(json("a\0b", 3), "\"a\\u0000b\"");
    CHECK_STR(json("\xE7\x8C\xAB", 2), "\"\\ufffd\\ufffd\""); /* cut in a character */
    json(NULL, 0);
}

static void test_json_of_any_bytes_is_one_printable_line(void) {
    char bytes[64];
    unsigned x = 3;
    for (int i = 0; i < 20000; i++) {
        size_t len = (size_t)(i % 64);
        for (size_t k = 0; k < len; k++) {
            x = x * 1664525u + 1013904223u;
            bytes[k] = (char)(x >> 24);
        }
        const char *s = json(bytes, len);
        bool fine = s && s[0] == '"';
        for (; fine && *s; s++) fine = (unsigned char)*s >= 0x20 && *s != 0x7F;
        if (!fine) CHECK(fine);
    }
    json(NULL, 0);
}

static void test_plain_text_does_nothing_to_a_terminal(void) {
    static const char evil[] = "a\x1b[31m\n\tb\x7f\xc2\x9b"
                               "c\xff\xe2\x80\xa8\xc3\xa9\0z";
    struct taca_buf b;
    taca_buf_init(&b, 100);
    taca_buf_plain(&b, evil, sizeof evil - 1, "");
    CHECK_STR(b.data, "a?[31m??b??c??\xc3\xa9?z");
    taca_buf_reset(&b);
    taca_buf_plain(&b, evil, sizeof evil - 1, "\n\t");
    CHECK_STR(b.data, "a?[31m\n\tb??c??\xc3\xa9?z");
    taca_buf_finish(&b);
}

int main(void) {
    TEST(test_appends_end_with_a_nul_that_does_not_count);
    TEST(test_growth_keeps_what_is_there);
    TEST(test_the_ceiling_is_exact_and_failure_is_sticky);
    TEST(test_sizes_near_the_end_of_memory_fail_cleanly);
    TEST(test_reserve_gives_room_that_does_not_count);
    TEST(test_plain_text_does_nothing_to_a_terminal);
    TEST(test_json_strings);
    TEST(test_json_of_any_bytes_is_one_printable_line);
    return TEST_END();
}
