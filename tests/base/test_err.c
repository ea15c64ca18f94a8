/* test_err.c - failures travel: the first message stays, NULL is fine, long text is cut. */
#include "base/err.h"
#include "tests/test.h"

static void test_the_first_message_stays(void) {
    struct taca_err err = {0};
    CHECK_INT(taca_fail(&err, TACA_EIO, "%s: %d", "disk", 5), TACA_EIO);
    CHECK_INT(taca_fail(&err, TACA_ENOMEM, "later"), TACA_ENOMEM); /* its own code goes up */
    CHECK_INT(taca_fail_param(&err, "width", "later still"), TACA_EINVAL);
    CHECK_INT(err.code, TACA_EIO);
    CHECK_STR(err.text, "disk: 5");
    CHECK_STR(err.param, "");
}

static void test_a_clients_mistake_names_the_field(void) {
    struct taca_err err = {0};
    CHECK_INT(taca_fail_param(&err, "width", "width must be in %d..%d", 64, 2048), TACA_EINVAL);
    CHECK_INT(err.code, TACA_EINVAL);
    CHECK_STR(err.param, "width");
    CHECK_STR(err.text, "width must be in 64..2048");
}

static void test_nobody_need_listen(void) {
    CHECK_INT(taca_fail(NULL, TACA_EBUSY, "x"), TACA_EBUSY);
    CHECK_INT(taca_fail_param(NULL, "p", "x"), TACA_EINVAL);
}

static void test_long_text_is_cut_and_ends(void) {
    struct taca_err err = {0};
    char text[2000];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    taca_fail_param(&err, text, "%s", text);
    CHECK_INT(strlen(err.text), sizeof err.text - 1);
    CHECK_INT(strlen(err.param), sizeof err.param - 1);
}

static void test_every_code_has_a_text(void) {
    CHECK_STR(taca_code_text(TACA_EINTERNAL), "internal error");
    for (int c = TACA_OK; c <= TACA_EINTERNAL; c++)
        CHECK(strlen(taca_code_text((enum taca_code)c)) > 1);
    CHECK_STR(taca_code_text((enum taca_code)99), "?");
}

int main(void) {
    TEST(test_the_first_message_stays);
    TEST(test_a_clients_mistake_names_the_field);
    TEST(test_nobody_need_listen);
    TEST(test_long_text_is_cut_and_ends);
    TEST(test_every_code_has_a_text);
    return TEST_END();
}
