/* test_negotiate.c - which reply a client gets for what it says, and which files in it. */
#include "tests/api/common.h"

enum { REFUSED = -1 };
static const char any[] = "\"seed\":1";

/* And which files come in it. */
static void check_both(const char *members, const char *accept, int want, enum api_format format) {
    struct api_request r;
    struct api_error e;
    enum api_reply got = API_REPLY_JSON;
    CHECK_INT(parse_with(&r, &e, members), 0);
    int rc = api_negotiate(&got, accept, &r, &e);
    int is = rc ? REFUSED : (int)got;
    if (is != want || (!rc && r.file.format != format))
        printf("    for %s, Accept: %s\n", members, accept ? accept : "(none)");
    CHECK_INT(is, want);
    if (rc) {
        CHECK_INT(rc, 406);
        CHECK_STR(e.code, "not_acceptable");
    } else {
        CHECK_INT(r.file.format, format);
    }
    api_request_finish(&r);
}

static void check_reply(const char *members, const char *accept, int want) {
    check_both(members, accept, want, API_PNG);
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
    {"text/event-stream", API_REPLY_EVENTS},
    {"text/*", API_REPLY_EVENTS},
    {"application/json;charset=utf-8", API_REPLY_JSON},
    {"application/json ; charset=\"utf-8, \\\" x\"", API_REPLY_JSON},
    /* the higher q wins, wherever it stands */
    {"application/json;q=0.5, image/png", API_REPLY_IMAGE},
    {"application/json;q=0.501, image/png;q=0.5", API_REPLY_JSON},
    {"image/png;q=0.2, text/event-stream;q=0.3", API_REPLY_EVENTS},
    {"image/png ; Q=0.2 , text/event-stream ; q=0.3", API_REPLY_EVENTS},
    /* the more specific range decides for a type */
    {"*/*;q=0.9, application/json;q=0.1", API_REPLY_IMAGE},
    {"image/*, image/jpeg;q=0", API_REPLY_IMAGE},
    {"image/*, image/jpeg;q=0, image/png;q=0", REFUSED},
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

static void test_the_better_liked_image_is_made(void) {
    static const struct {
        const char *accept;
        int want;
        enum api_format format;
    } all[] = {
        {"image/jpeg", API_REPLY_IMAGE, API_JPEG},
        {"Image/JPEG ; q=0.1", API_REPLY_IMAGE, API_JPEG},
        {"image/jpg, image/png", API_REPLY_IMAGE, API_PNG}, /* there is no such type */
        {"image/jpeg, image/png", API_REPLY_IMAGE, API_JPEG},
        {"image/png, image/jpeg", API_REPLY_IMAGE, API_PNG},
        {"image/png;q=0.5, image/jpeg", API_REPLY_IMAGE, API_JPEG},
        {"image/png, image/jpeg;q=0.5", API_REPLY_IMAGE, API_PNG},
        {"image/*", API_REPLY_IMAGE, API_PNG},
        {"image/*, image/png;q=0", API_REPLY_IMAGE, API_JPEG},
        {"image/*;q=0.5, image/jpeg;q=0.6", API_REPLY_IMAGE, API_JPEG},
        {"image/jpeg, */*;q=0.1", API_REPLY_IMAGE, API_JPEG},
        {"*/*, image/png;q=0.9, application/json;q=0", API_REPLY_IMAGE, API_JPEG},
        {"image/webp, image/jpeg;q=0.8, image/png;q=0.7", API_REPLY_IMAGE, API_JPEG},
        /* also where it travels in something else */
        {"application/json, image/jpeg;q=0.1", API_REPLY_JSON, API_JPEG},
        {"text/event-stream, image/jpeg;q=0.1", API_REPLY_EVENTS, API_JPEG},
        {"application/json, image/jpeg;q=0", API_REPLY_JSON, API_PNG},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        check_both(any, all[i].accept, all[i].want, all[i].format);
    check_both("\"stream\":true", "image/jpeg", API_REPLY_EVENTS, API_JPEG);
    check_both("\"n\":2", "image/jpeg, application/json;q=0.1", API_REPLY_JSON, API_JPEG);
    check_both("\"response_format\":\"b64_json\"", "image/jpeg", API_REPLY_JSON, API_JPEG);
    check_both("\"response_format\":\"binary\"", "image/jpeg", API_REPLY_IMAGE, API_JPEG);
}

static void test_a_format_in_the_body_is_the_one(void) {
    static const char jpeg[] = "\"output_format\":\"jpeg\"", png[] = "\"output_format\":\"png\"";
    check_both(jpeg, NULL, API_REPLY_JSON, API_JPEG);
    check_both(jpeg, "application/json", API_REPLY_JSON, API_JPEG);
    check_both(jpeg, "image/jpeg", API_REPLY_IMAGE, API_JPEG);
    check_both(jpeg, "image/*", API_REPLY_IMAGE, API_JPEG);
    check_both(jpeg, "image/png, image/jpeg;q=0.1", API_REPLY_IMAGE, API_JPEG);
    check_both(jpeg, "image/png, */*;q=0.1", API_REPLY_JSON, API_JPEG);
    check_both(jpeg, "image/png", REFUSED, API_JPEG);
    check_both(png, "image/jpeg", REFUSED, API_PNG);
    check_both(png, "image/jpeg, text/event-stream;q=0.1", API_REPLY_EVENTS, API_PNG);
    check_both("\"output_format\":\"png\",\"stream\":true", "image/jpeg", API_REPLY_EVENTS,
               API_PNG);
    check_both("\"output_format\":\"jpeg\",\"response_format\":\"binary\"", "image/png",
               API_REPLY_IMAGE, API_JPEG);
}

static void test_each_format_has_its_own_way_to_be_packed(void) {
    struct api_request r;
    struct api_error e;
    check_accepted("\"output_format\":\"png\",\"png_level\":0");
    CHECK_INT(parse_with(&r, &e, "\"output_compression\":80,\"output_format\":\"jpeg\""), 0);
    CHECK(r.file.format == API_JPEG && r.file.quality == 80 && r.file.png_level == -1);
    api_request_finish(&r);
    check_refused("\"output_format\":\"png\",\"output_compression\":100", 400,
                  "invalid_output_compression", "output_compression");
    check_refused("\"png_level\":3,\"output_format\":\"jpeg\"", 400, "invalid_png_level",
                  "png_level");
    parse_with(&r, &e, "\"output_format\":\"png\",\"output_compression\":50");
    CHECK_STR(e.message, "output_compression is for JPEG, and the picture is a PNG, which loses "
                         "nothing: use png_level (0..9), or output_format \"jpeg\"");
    parse_with(&r, &e, "\"output_format\":\"jpeg\",\"png_level\":9");
    CHECK_HAS(e.message, "use output_compression (0..100)");
    /* which it will be is not known yet: api_negotiate says */
    check_accepted("\"output_compression\":80");
    check_accepted("\"output_compression\":80,\"png_level\":3");
}

static void test_how_to_pack_goes_with_what_comes_out(void) {
    static const struct {
        const char *members, *accept, *code; /* NULL: fine */
    } all[] = {{"\"output_compression\":80", "image/jpeg", NULL},
               {"\"output_compression\":80", "image/*", "invalid_output_compression"},
               {"\"output_compression\":80", NULL, "invalid_output_compression"},
               {"\"output_compression\":100", "*/*", "invalid_output_compression"},
               {"\"output_compression\":80,\"stream\":true", NULL, "invalid_output_compression"},
               {"\"png_level\":9", NULL, NULL},
               {"\"png_level\":9", "image/jpeg", "invalid_png_level"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct api_request r;
        struct api_error e;
        enum api_reply got;
        CHECK_INT(parse_with(&r, &e, all[i].members), 0);
        CHECK_INT(api_negotiate(&got, all[i].accept, &r, &e), all[i].code ? 400 : 0);
        if (all[i].code) CHECK_STR(e.code, all[i].code);
        api_request_finish(&r);
    }
}

static void test_the_body_wins_over_accept(void) {
    check_reply("\"stream\":true", "application/json", API_REPLY_EVENTS); /* as OpenAI's clients */
    check_reply("\"stream\":true", "image/png", API_REPLY_EVENTS);
    check_reply("\"stream\":true,\"n\":3", "image/webp", API_REPLY_EVENTS);
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
    struct api_request r = {.n = 1, .file = {API_FORMAT_ANY, -1, -1}};
    struct api_error e = {0};
    enum api_reply got = API_REPLY_EVENTS;
    CHECK_INT(api_negotiate(&got, "image/webp", &r, &e), 406);
    CHECK_INT(got, API_REPLY_EVENTS); /* untouched */
    CHECK_STR(e.message, "nothing in Accept that this server makes; it makes application/json, "
                         "image/png, image/jpeg and text/event-stream");
    r.file.format = API_PNG;
    e = (struct api_error){0};
    CHECK_INT(api_negotiate(&got, "image/jpeg", &r, &e), 406);
    CHECK_STR(e.param, "output_format");
    CHECK_HAS(e.message, "output_format is \"png\" and Accept wants image/jpeg");
    r.n = 4;
    e = (struct api_error){0};
    CHECK_INT(api_negotiate(&got, "image/png", &r, &e), 406);
    CHECK_STR(e.param, "n");
    CHECK_HAS(e.message, "n is 4");
}

static void test_any_header_is_read_without_harm(void) {
    static const char letters[] = "*/;,q=01.\"\\ aimgepnxj\t";
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
        r.file = (struct api_encoding){API_FORMAT_ANY, -1, -1};
        int rc = api_negotiate(&got, accept, &r, &e);
        if (rc != 0 && rc != 406) CHECK_INT(rc, 406);
        free(accept);
    }
}

int main(void) {
    TEST(test_accept_decides);
    TEST(test_the_better_liked_image_is_made);
    TEST(test_a_format_in_the_body_is_the_one);
    TEST(test_each_format_has_its_own_way_to_be_packed);
    TEST(test_how_to_pack_goes_with_what_comes_out);
    TEST(test_the_body_wins_over_accept);
    TEST(test_several_images_do_not_fit_one_png);
    TEST(test_refusals_say_what_there_is);
    TEST(test_any_header_is_read_without_harm);
    return TEST_END();
}
