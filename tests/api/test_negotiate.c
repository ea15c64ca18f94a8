/* test_negotiate.c - which reply a client gets for what it says. */
#include "tests/api/common.h"

enum { REFUSED = -1 };
static const char any[] = "\"seed\":1";

static void check_reply(const char *members, const char *accept, int want) {
    struct api_request r;
    struct api_error e;
    enum api_reply got = API_REPLY_JSON;
    CHECK_INT(parse_with(&r, &e, members), 0);
    int rc = api_negotiate(&got, accept, &r, &e);
    int is = rc ? REFUSED : (int)got;
    if (is != want) printf("    for %s, Accept: %s\n", members, accept ? accept : "(none)");
    CHECK_INT(is, want);
    if (rc) {
        CHECK_INT(rc, 406);
        CHECK_STR(e.code, "not_acceptable");
    }
    api_request_finish(&r);
}

static const struct {
    const char *accept;
    int want;
} headers[] = {
    {NULL, API_REPLY_JSON},
    {"", API_REPLY_JSON},
    {"*/*", API_REPLY_JSON}, /* curl */
    {"application/json", API_REPLY_JSON},
    {"Application/JSON", API_REPLY_JSON},
    {"application/*", API_REPLY_JSON},
    {"image/png", API_REPLY_IMAGE},
    {"IMAGE/PNG", API_REPLY_IMAGE},
    {"image/*", API_REPLY_IMAGE},
    {"image/jpeg, image/png", API_REPLY_IMAGE},
    {"text/event-stream", API_REPLY_EVENTS},
    {"text/*", API_REPLY_EVENTS},
    {"application/json;charset=utf-8", API_REPLY_JSON},
    {"application/json ; charset=\"utf-8, \\\" x\"", API_REPLY_JSON},
    {"image/jpeg, */*;q=0.1", API_REPLY_JSON},
    /* the higher q wins, wherever it stands */
    {"application/json;q=0.5, image/png", API_REPLY_IMAGE},
    {"application/json;q=0.501, image/png;q=0.5", API_REPLY_JSON},
    {"image/png;q=0.2, text/event-stream;q=0.3", API_REPLY_EVENTS},
    {"image/png ; Q=0.2 , text/event-stream ; q=0.3", API_REPLY_EVENTS},
    /* the more specific range decides for a type */
    {"*/*;q=0.9, application/json;q=0.1", API_REPLY_IMAGE},
    {"image/*, image/png;q=0", REFUSED},
    {"*/*, application/json;q=0", API_REPLY_IMAGE},
    {"*/*, application/json;q=0, image/*;q=0", API_REPLY_EVENTS},
    /* equal q: by name before by wildcard, then by position */
    {"image/png, */*", API_REPLY_IMAGE},
    {"*/*, image/png", API_REPLY_IMAGE},
    {"image/png, application/json", API_REPLY_IMAGE},
    {"application/json, image/png", API_REPLY_JSON},
    {"application/json, text/event-stream", API_REPLY_JSON},
    /* a browser's page and a browser's <img> */
    {"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
     API_REPLY_JSON},
    {"image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", API_REPLY_IMAGE},
    /* nothing that we make */
    {"image/jpeg", REFUSED},
    {"image/webp, text/html", REFUSED},
    {"application/xml", REFUSED},
    {"text/event-streams", REFUSED},
    {"application/jso", REFUSED},
    {"*/*;q=0", REFUSED},
    {"application/json;q=0.000", REFUSED},
    /* empty elements are allowed */
    {", ,image/png,,", API_REPLY_IMAGE},
    {"image/png;;q=1;", API_REPLY_IMAGE},
    /* malformed: as if absent */
    {"image", API_REPLY_JSON},
    {"image/", API_REPLY_JSON},
    {"/png", API_REPLY_JSON},
    {"image/png;q=2", API_REPLY_JSON},
    {"image/png;q=1.001", API_REPLY_JSON},
    {"image/png;q=-1", API_REPLY_JSON},
    {"image/png;q=0.1234", API_REPLY_JSON},
    {"image/png;q=", API_REPLY_JSON},
    {"image/png;q", API_REPLY_JSON},
    {"image/png q=1", API_REPLY_JSON},
    {"image/png, ;", API_REPLY_JSON},
    {"image/png;a=\"open", API_REPLY_JSON},
    {"image/png;a=\"open\\", API_REPLY_JSON},
    {"\x01\xFF", API_REPLY_JSON},
    {", ,", API_REPLY_JSON},
};

static void test_accept_decides(void) {
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        check_reply(any, headers[i].accept, headers[i].want);
}

static void test_the_body_wins_over_accept(void) {
    check_reply("\"stream\":true", "application/json", API_REPLY_EVENTS); /* as OpenAI's clients */
    check_reply("\"stream\":true", "image/png", API_REPLY_EVENTS);
    check_reply("\"stream\":true,\"n\":3", "image/jpeg", API_REPLY_EVENTS);
    check_reply("\"stream\":false", "text/event-stream", API_REPLY_EVENTS);
    check_reply("\"response_format\":\"binary\"", NULL, API_REPLY_IMAGE);
    check_reply("\"response_format\":\"binary\"", "application/json", API_REPLY_IMAGE);
    check_reply("\"response_format\":\"binary\",\"stream\":true", NULL, API_REPLY_EVENTS);
    check_reply("\"response_format\":\"b64_json\"", NULL, API_REPLY_JSON);
    check_reply("\"response_format\":\"b64_json\"", "image/png", API_REPLY_JSON);
    check_reply("\"response_format\":\"b64_json\"", "image/*, text/event-stream", API_REPLY_EVENTS);
    check_reply("\"response_format\":\"b64_json\"", "text/html", API_REPLY_JSON);
    check_reply("\"response_format\":\"url\"", "image/png", API_REPLY_JSON);
    check_reply("\"response_format\":\"url\"", "image/*, text/event-stream", API_REPLY_EVENTS);
    check_reply("\"response_format\":\"url\"", "text/html", API_REPLY_JSON);
}

static void test_several_images_do_not_fit_one_png(void) {
    check_reply("\"n\":2", "*/*", API_REPLY_JSON);
    check_reply("\"n\":2", "image/png", REFUSED);
    check_reply("\"n\":2", "image/*", REFUSED);
    check_reply("\"n\":2", "image/png, application/json;q=0.1", API_REPLY_JSON);
    check_reply("\"n\":2", "image/png, text/event-stream;q=0.1", API_REPLY_EVENTS);
    check_reply("\"n\":2", "image/png, */*;q=0.1", API_REPLY_JSON);
}

static void test_refusals_say_what_there_is(void) {
    struct api_request r = {.n = 1};
    struct api_error e = {0};
    enum api_reply got = API_REPLY_EVENTS;
    CHECK_INT(api_negotiate(&got, "image/jpeg", &r, &e), 406);
    CHECK_INT(got, API_REPLY_EVENTS); /* untouched */
    CHECK_HAS(e.message, "application/json");
    CHECK_HAS(e.message, "image/png");
    CHECK_HAS(e.message, "text/event-stream");
    r.n = 4;
    e = (struct api_error){0};
    CHECK_INT(api_negotiate(&got, "image/png", &r, &e), 406);
    CHECK_STR(e.param, "n");
    CHECK_HAS(e.message, "n is 4");
}

static void test_any_header_is_read_without_harm(void) {
    static const char letters[] = "*/;,q=01.\"\\ aimgepnx\t";
    struct api_request r = {.n = 1};
    unsigned x = 1;
    for (int i = 0; i < 200000; i++) {
        char *accept = malloc(24);
        if (!CHECK(accept != NULL)) return;
        size_t len = (x >> 8) % 23;
        for (size_t k = 0; k < len; k++) {
            x = x * 1664525u + 1013904223u;
            accept[k] = letters[(x >> 16) % (sizeof letters - 1)];
        }
        accept[len] = 0;
        x = x * 1664525u + 1013904223u;
        struct api_error e = {0};
        enum api_reply got;
        int rc = api_negotiate(&got, accept, &r, &e);
        if (rc != 0 && rc != 406) CHECK_INT(rc, 406);
        free(accept);
    }
}

int main(void) {
    TEST(test_accept_decides);
    TEST(test_the_body_wins_over_accept);
    TEST(test_several_images_do_not_fit_one_png);
    TEST(test_refusals_say_what_there_is);
    TEST(test_any_header_is_read_without_harm);
    return TEST_END();
}
