/* test_config.c - JSON files and the fields of configs. */
#include "engine/io/checkpoint.h"
#include "tests/io/tmp.h"
#include "tests/test.h"

static void refuse(const char *path, enum taca_code code, const char *words) {
    json_t *j = NULL;
    struct taca_err err = {0};
    CHECK_INT(taca_json_load(&j, path, &err), code);
    CHECK(j == NULL);
    CHECK_HAS(err.text, words);
    json_decref(j);
}

static void test_malformed_files_are_refused(void) {
    refuse(tmp_text("bad", "{\"a\":1,\"a\":2}"), TACA_EFORMAT, "duplicate");
    refuse(tmp_text("bad", "{\"a\":\n\n  tru}"), TACA_EFORMAT, "line 3");
    refuse(tmp_text("bad", "[1]"), TACA_EFORMAT, "array where an object was wanted");
    refuse(tmp_text("bad", ""), TACA_EFORMAT, "an empty file");
    refuse(tmp_text("bad", "version https://git-lfs.github.com/spec/v1\n"), TACA_EFORMAT,
           "Git LFS pointer");
    refuse(tmp_text("bad", "<!doctype html>"), TACA_EFORMAT, "HTML page");
    refuse(tmp_path("nowhere"), TACA_ENOTFOUND, "No such file");
    refuse(tmp_root, TACA_EFORMAT, "a directory");
}

static void test_deep_and_large_files_are_refused(void) {
    enum { DEEP = 65, LARGE = (16 << 20) + 1 };
    char deep[DEEP * 6 + 2] = "";
    for (int i = 0; i < DEEP; i++) memcpy(deep + i * 5, "{\"a\":", 6);
    refuse(tmp_text("bad", deep), TACA_EFORMAT, "nested deeper than 64");
    char *large = malloc(LARGE);
    if (!large) return;
    memset(large, ' ', LARGE);
    large[0] = '{', large[1] = '}';
    refuse(tmp_write("bad", large, LARGE), TACA_EFORMAT, "at most 16777216");
    free(large);
}

static json_t *parse(const char *text) {
    json_t *j = NULL;
    struct taca_err err = {0};
    CHECK_OK(taca_json_load(&j, tmp_text("config.json", text), &err), err);
    return j;
}

/* Tokenizers write "no limit" as an integer that no machine word holds. */
static void test_integers_beyond_64_bits_are_real_numbers(void) {
    json_t *c = parse("{\"model_max_length\": 1000000000000000019884624838656, \"n\": "
                      "123456789012345678, \"list\": [-9999999999999999999,0.12345678901234567890,"
                      "1e0000000000000000000001], \"a\\\"1000000000000000019884624838656\": "
                      "\"1000000000000000019884624838656\"}");
    struct taca_err err = {0};
    double x = 0;
    int64_t n = 0;
    CHECK_OK(taca_cfg_number(c, "model_max_length", 0, 0, 1e300, &x, &err), err);
    CHECK_NEAR(x, 1e30, 1e15);
    CHECK_OK(taca_cfg_int(c, "n", 0, 0, INT64_MAX, &n, &err), err);
    CHECK_INT(n, 123456789012345678);
    const json_t *list = json_object_get(c, "list");
    CHECK_NEAR(json_real_value(json_array_get(list, 0)), -1e19, 1e4);
    CHECK_NEAR(json_real_value(json_array_get(list, 1)), 0.1234567890123456789, 0);
    CHECK_NEAR(json_real_value(json_array_get(list, 2)), 10, 0);
    CHECK_STR(json_string_value(json_object_get(c, "a\"1000000000000000019884624838656")),
              "1000000000000000019884624838656");
    CHECK_INT(taca_cfg_int(c, "model_max_length", 1, 1, INT64_MAX, &n, &err), TACA_EFORMAT);
    CHECK_HAS(err.text, "model_max_length: found 1e30, wanted an integer in 1..");
    json_decref(c);
    refuse(tmp_text("bad", "{\"a\":1000000000000000019884624838656x}"), TACA_EFORMAT, "line 1");
}

static const char config[] =
    "{\"layers\": 24, \"shift\": 3.0, \"one\": 1, \"name\": \"gelu\", \"on\": true, "
    "\"list\": [0, 1, 12], \"nothing\": null, \"mixed\": [1, \"a\"], \"huge\": 1e300}";

static void test_fields_are_read_or_fall_back(void) {
    json_t *c = parse(config);
    struct taca_err err = {0};
    int64_t n = 0, list[4] = {0};
    double x = 0;
    bool b = false;
    const char *s = NULL;
    int count = -1;
    CHECK_OK(taca_cfg_int(c, "layers", 1, 1, 64, &n, &err), err);
    CHECK_INT(n, 24);
    CHECK_OK(taca_cfg_int(c, "nothing", 7, 1, 64, &n, &err), err);
    CHECK_INT(n, 7);
    CHECK_OK(taca_cfg_int(c, "absent", -1, 1, 64, &n, &err), err);
    CHECK_INT(n, -1); /* a fallback need not be in range */
    CHECK_OK(taca_cfg_number(c, "shift", 1, 0, 10, &x, &err), err);
    CHECK_NEAR(x, 3, 0);
    CHECK_OK(taca_cfg_number(c, "one", 0, 0, 10, &x, &err), err); /* an integer is a number */
    CHECK_NEAR(x, 1, 0);
    CHECK_OK(taca_cfg_bool(c, "on", false, &b, &err), err);
    CHECK(b);
    CHECK_OK(taca_cfg_bool(c, "absent", true, &b, &err), err);
    CHECK(b);
    CHECK_OK(taca_cfg_string(c, "name", NULL, &s, &err), err);
    CHECK_STR(s, "gelu");
    CHECK_OK(taca_cfg_string(c, "absent", "silu", &s, &err), err);
    CHECK_STR(s, "silu");
    CHECK_OK(taca_cfg_ints(c, "list", list, 4, &count, &err), err);
    CHECK(count == 3 && list[0] == 0 && list[1] == 1 && list[2] == 12);
    CHECK_OK(taca_cfg_ints(c, "absent", list, 4, &count, &err), err);
    CHECK_INT(count, 0);
    json_decref(c);
}

static void test_wrong_fields_say_found_and_wanted(void) {
    json_t *c = parse(config);
    struct taca_err err = {0};
    int64_t n = -7, list[4] = {-7};
    double x = -7;
    bool b = true;
    const char *s = "-7";
    int count = -7;
#define REFUSED(call, words)                                                                       \
    do {                                                                                           \
        err = (struct taca_err){0};                                                                \
        CHECK_INT(call, TACA_EFORMAT);                                                             \
        CHECK_HAS(err.text, words);                                                                \
    } while (0)
    REFUSED(taca_cfg_int(c, "layers", 1, 1, 16, &n, &err),
            "layers: found 24, wanted an integer in 1..16");
    REFUSED(taca_cfg_int(c, "shift", 1, 1, 16, &n, &err), "shift: found 3.0, wanted an integer");
    REFUSED(taca_cfg_int(c, "on", 1, 0, 16, &n, &err), "on: found true");
    REFUSED(taca_cfg_number(c, "huge", 1, 0, 10, &x, &err), "wanted a number in 0..10");
    REFUSED(taca_cfg_number(c, "name", 1, 0, 10, &x, &err), "name: found \"gelu\"");
    REFUSED(taca_cfg_bool(c, "one", true, &b, &err), "one: found 1, wanted true or false");
    REFUSED(taca_cfg_string(c, "list", "", &s, &err), "list: found [0,1,12], wanted a string");
    REFUSED(taca_cfg_ints(c, "list", list, 2, &count, &err), "an array of at most 2 integers");
    REFUSED(taca_cfg_ints(c, "mixed", list, 4, &count, &err), "mixed: found [1,\"a\"]");
    REFUSED(taca_cfg_ints(c, "one", list, 4, &count, &err), "one: found 1");
#undef REFUSED
    CHECK(n == -7 && x <= -7 && b && strcmp(s, "-7") == 0 && count == -7 && list[0] == -7);
    json_decref(c);
}

int main(void) {
    tmp_begin();
    TEST(test_malformed_files_are_refused);
    TEST(test_deep_and_large_files_are_refused);
    TEST(test_integers_beyond_64_bits_are_real_numbers);
    TEST(test_fields_are_read_or_fall_back);
    TEST(test_wrong_fields_say_found_and_wanted);
    tmp_end();
    return TEST_END();
}
