/* test_trace.c - traceparent: the standard's own example, and what it says is none. */
#include "server/trace.h"
#include "tests/test.h"

/* W3C Trace Context, section 3.2.3 */
#define TRACE "0af7651916cd43dd8448eb211c80319c"
#define GOOD  "00-" TRACE "-b7ad6b7169203331-01"

static void test_a_trace_goes_on_with_a_span_of_our_own(void) {
    struct trace t;
    char header[TRACE_HEADER_LEN + 1];
    struct taca_buf b;
    trace_read(&t, GOOD);
    CHECK_STR(t.id, TRACE);
    CHECK_INT(strlen(t.span), 16);
    CHECK(strcmp(t.span, "b7ad6b7169203331") != 0);
    trace_header(header, &t);
    CHECK(strncmp(header, "00-" TRACE "-", 36) == 0 && strcmp(header + 52, "-01") == 0);
    CHECK(memcmp(header + 36, t.span, 16) == 0);
    taca_buf_init(&b, 1024);
    trace_fields(&b, &t);
    CHECK_HAS(b.data, ",\"trace_id\":\"" TRACE "\",\"span_id\":\"");
    taca_buf_finish(&b);
    struct trace other;
    trace_read(&other, GOOD);
    CHECK(strcmp(other.span, t.span) != 0);
}

static void test_later_versions_and_unknown_flags_are_understood(void) {
    struct trace t;
    char header[TRACE_HEADER_LEN + 1];
    static const char *const sampled[] = {"00-" TRACE "-b7ad6b7169203331-ff",
                                          "cc-" TRACE "-b7ad6b7169203331-01",
                                          "cc-" TRACE "-b7ad6b7169203331-01-what-comes.then"};
    for (int i = 0; i < 3; i++) {
        trace_read(&t, sampled[i]);
        trace_header(header, &t);
        CHECK(strncmp(header, "00-" TRACE "-", 36) == 0);
        CHECK_STR(header + 52, "-01");
    }
    trace_read(&t, "00-" TRACE "-b7ad6b7169203331-fe");
    trace_header(header, &t);
    CHECK_STR(header + 52, "-00");
}

static void test_everything_else_is_no_trace(void) {
    static const char *const bad[] = {
        "",
        "00",
        "00-" TRACE "-b7ad6b7169203331",
        "00-" TRACE "-b7ad6b7169203331-0",
        "00-" TRACE "-b7ad6b7169203331-01-x",
        "00-" TRACE "-b7ad6b7169203331-01 ",
        "cc-" TRACE "-b7ad6b7169203331-01x",
        "ff-" TRACE "-b7ad6b7169203331-01",
        "0g-" TRACE "-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-" TRACE "-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-" TRACE "-B7AD6B7169203331-01",
        "00-" TRACE "-b7ad6b7169203331-0G",
        "00_" TRACE "-b7ad6b7169203331-01",
        "00-" TRACE "_b7ad6b7169203331-01",
    };
    struct trace t;
    char header[TRACE_HEADER_LEN + 1];
    struct taca_buf b;
    taca_buf_init(&b, 64);
    for (size_t i = 0; i < sizeof bad / sizeof *bad + 1; i++) {
        trace_read(&t, i < sizeof bad / sizeof *bad ? bad[i] : NULL);
        CHECK_STR(t.id, "");
        trace_header(header, &t);
        CHECK_STR(header, "");
        trace_fields(&b, &t);
        CHECK_INT(b.len, 0);
    }
    taca_buf_finish(&b);
}

int main(void) {
    TEST(test_a_trace_goes_on_with_a_span_of_our_own);
    TEST(test_later_versions_and_unknown_flags_are_understood);
    TEST(test_everything_else_is_no_trace);
    return TEST_END();
}
