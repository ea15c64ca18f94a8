/* test_json.c - bounds judged by punctuation, and what the parser refuses. Failed allocations are
 * swept in tests/io and tests/api, where the texts come from. */
#include "base/json.h"

#include "tests/test.h"

static void test_bounds_count_what_stands_outside_strings(void) {
    const struct {
        const char *text;
        int max_depth;
        size_t max_values;
        enum taca_json_fit fit;
    } cases[] = {
        {"{}", 1, 1, TACA_JSON_FITS},
        {"{}", 0, 9, TACA_JSON_TOO_DEEP},
        {"[[[]]]", 3, 9, TACA_JSON_FITS},
        {"[[[]]]", 2, 9, TACA_JSON_TOO_DEEP},
        {"[1,2,3]", 1, 3, TACA_JSON_FITS},
        {"[1,2,3]", 1, 2, TACA_JSON_TOO_MANY},
        {"[\"[[[,,,\"]", 1, 1, TACA_JSON_FITS},
        {"[\"\\\"[[[,,,\"]", 1, 1, TACA_JSON_FITS}, /* an escaped quote does not end the string */
        {"]]]][", 1, 1, TACA_JSON_FITS},            /* malformed: the parser's business */
        {"\"open", 1, 0, TACA_JSON_FITS},
        {"", 0, 0, TACA_JSON_FITS},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum taca_json_fit fit = taca_json_fit(cases[i].text, strlen(cases[i].text),
                                               cases[i].max_depth, cases[i].max_values);
        if (!CHECK(fit == cases[i].fit)) printf("        %s: %d\n", cases[i].text, (int)fit);
    }
}

static void test_the_parser_refuses_what_readers_disagree_on(void) {
    static const char *const bad[] = {"{\"a\":1,\"a\":2}",
                                      "{\"a\":NaN}",
                                      "{\"a\":1e999}",
                                      "{\"a\":\"\xff\"}",
                                      "{\"a\":1}x",
                                      "\xEF\xBB\xBF{}",
                                      "{\"a\":\"\\u0000\"}",
                                      "{'a':1}",
                                      "3",
                                      ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bool no_memory = true;
        json_error_t why;
        if (!CHECK(taca_json_parse(bad[i], strlen(bad[i]), &why, &no_memory) == NULL))
            printf("        %s\n", bad[i]);
        CHECK(!no_memory);
        CHECK(why.text[0] != 0);
    }
}

static void test_a_refusal_names_no_flag_of_the_parser(void) {
    static const char bad[] = "{\"a\":\"b\\u0000\"}";
    bool no_memory = true;
    json_error_t why;
    CHECK(taca_json_parse(bad, sizeof bad - 1, &why, &no_memory) == NULL);
    CHECK_STR(why.text, "\\u0000 is not allowed in a string");
}

static void test_a_good_text_is_parsed(void) {
    bool no_memory = true;
    json_error_t why;
    json_t *root = taca_json_parse("{\"a\":[1,2]}", 11, &why, &no_memory);
    CHECK(root && !no_memory);
    CHECK_INT(json_array_size(json_object_get(root, "a")), 2);
    json_decref(root);
}

int main(void) {
    TEST(test_bounds_count_what_stands_outside_strings);
    TEST(test_the_parser_refuses_what_readers_disagree_on);
    TEST(test_a_refusal_names_no_flag_of_the_parser);
    TEST(test_a_good_text_is_parsed);
    return TEST_END();
}
