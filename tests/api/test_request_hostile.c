/* test_request_hostile.c - bodies that are not meant well: cut, deep, wide, doubled, malformed.
 * None may crash, all must be refused with 400, and none may make the parser hold much memory. */
#include <jansson.h>
#include <malloc.h>

#include "tests/api/common.h"

static const char whole[] =
    "{\"prompt\":\"a \\\"cat\\\" \\u00e9 \xC3\xA9 \xF0\x9F\x90\xB1\",\"seed\":7,\"steps\":2.0e1,"
    "\"taca\":{\"scale\":1.2,\"steps\":[0,3],\"enabled\":true},\"cfg_scale\":4.5,"
    "\"previews\":{\"every\":5},\"user\":null,\"size\":\"128x64\",\"metadata\":false}";

static void check_invalid(const char *body, size_t len, const char *code) {
    struct api_request r;
    struct api_error e;
    int rc = parse_bytes(&r, &e, body, len);
    if (rc != 400 || strcmp(e.code, code) != 0)
        printf("    %.60s: %d %s %s\n", body, rc, e.code, e.message);
    CHECK_INT(rc, 400);
    CHECK_STR(e.code, code);
    CHECK(e.message[0] != 0);
    api_request_finish(&r);
}

static void test_a_body_cut_at_any_byte_is_refused(void) {
    struct api_request r;
    struct api_error e;
    CHECK_INT(parse(&r, &e, whole), 0);
    api_request_finish(&r);
    for (size_t len = 0; len < sizeof whole - 1; len++) {
        char *copy = malloc(len + 1); /* its own block: a sanitizer sees any read beyond */
        if (!CHECK(copy != NULL)) return;
        memcpy(copy, whole, len);
        char *exact = len ? realloc(copy, len) : copy;
        check_invalid(exact, len, "invalid_json");
        free(exact);
    }
}

static void test_any_byte_changed_is_accepted_or_refused_but_never_worse(void) {
    char body[sizeof whole];
    int accepted = 0;
    for (size_t at = 0; at < sizeof whole - 1; at++) {
        for (int byte = 0; byte < 256; byte++) {
            struct api_request r;
            struct api_error e;
            memcpy(body, whole, sizeof whole);
            body[at] = (char)byte;
            int rc = parse_bytes(&r, &e, body, sizeof whole - 1);
            accepted += rc == 0;
            if (rc != 0 && rc != 400) CHECK_INT(rc, 400);
            if (rc == 0 && (!r.json || r.params.steps < 1)) CHECK(false);
            api_request_finish(&r);
        }
    }
    CHECK(accepted > 0);
}

static void test_malformed_json_is_refused(void) {
    static const struct {
        const char *body;
        size_t len; /* 0 = strlen */
    } all[] = {{"", 0},
               {" ", 0},
               {"null", 0},
               {"1", 0},
               {"\"prompt\"", 0},
               {"[]", 0},
               {"[{\"prompt\":\"x\"}]", 0},
               {"\xEF\xBB\xBF{\"prompt\":\"x\"}", 0},
               {"{\"prompt\":\"x\"} x", 0},
               {"{\"prompt\":\"x\"}{}", 0},
               {"{\"prompt\":\"x\",}", 0},
               {"{'prompt':'x'}", 0},
               {"{prompt:\"x\"}", 0},
               {"{\"prompt\":\"x\" /* c */}", 0},
               {"{\"prompt\":\"x\",\"seed\":NaN}", 0},
               {"{\"prompt\":\"x\",\"seed\":Infinity}", 0},
               {"{\"prompt\":\"x\",\"cfg_scale\":1e999}", 0},
               {"{\"prompt\":\"x\",\"seed\":123456789012345678901234567890}", 0},
               {"{\"prompt\":\"x\",\"seed\":0x10}", 0},
               {"{\"prompt\":\"x\",\"seed\":01}", 0},
               {"{\"prompt\":\"x\",\"seed\":+1}", 0},
               {"{\"prompt\":\"x\",\"seed\":.5}", 0},
               {"{\"prompt\":\"x\",\"seed\":1.}", 0},
               {"{\"prompt\":\"x\",\"prompt\":\"y\"}", 0},
               {"{\"prompt\":\"x\",\"\\u0070rompt\":\"y\"}", 0},
               {"{\"prompt\":\"x\",\"taca\":{\"scale\":1,\"scale\":1}}", 0},
               {"{\"prompt\":\"a\\u0000b\"}", 0},
               {"{\"prompt\":\"a\0b\"}", 16},
               {"{\"prompt\":\"x\"}\0", 15},
               {"{\"prompt\":\"a\nb\"}", 0},
               {"{\"prompt\":\"\\ud800\"}", 0},
               {"{\"prompt\":\"\\udc00\\ud800\"}", 0},
               {"{\"prompt\":\"\xFF\"}", 0},
               {"{\"prompt\":\"\xC0\xAF\"}", 0},
               {"{\"prompt\":\"\xED\xA0\x80\"}", 0},
               {"{\"prompt\":\"\xF4\x90\x80\x80\"}", 0},
               {"{\"prompt\":\"\xE2\x82\"}", 0},
               {"{\"\xFF\":1}", 0}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        check_invalid(all[i].body, all[i].len ? all[i].len : strlen(all[i].body), "invalid_json");
}

static void test_the_place_of_an_error_is_told(void) {
    struct api_request r;
    struct api_error e;
    CHECK_INT(parse(&r, &e, "{\n  \"prompt\": \"x\",\n  \"seed\": 01\n}"), 400);
    CHECK_HAS(e.message, "line 3");
    CHECK_HAS(e.message, "column");
    CHECK_INT(parse(&r, &e, "{\"prompt\":\"x\",\"prompt\":\"y\"}"), 400);
    CHECK_HAS(e.message, "duplicate");
}

static void test_depth_is_bounded(void) {
    char body[256];
    for (int depth = 14; depth <= 18; depth++) {
        size_t n = (size_t)snprintf(body, sizeof body, "{\"prompt\":\"x\",\"taca\":");
        for (int i = 1; i < depth; i++) body[n++] = '[';
        for (int i = 1; i < depth; i++) body[n++] = ']';
        body[n++] = '}';
        check_invalid(body, n, depth > 16 ? "too_complex" : "invalid_taca");
    }
    /* brackets inside a string are text */
    CHECK_INT(snprintf(body, sizeof body, "{\"prompt\":\"[[[[[[[[[[[[[[[[[[[[\\\"[[[[[[[{{{,,,\"}"),
              48);
    struct api_request r;
    struct api_error e;
    CHECK_INT(parse(&r, &e, body), 0);
    api_request_finish(&r);
}

static size_t held, peak;

static void *counting_malloc(size_t n) {
    void *p = malloc(n);
    if (p) held += malloc_usable_size(p);
    if (held > peak) peak = held;
    return p;
}
static void counting_free(void *p) {
    if (p) held -= malloc_usable_size(p);
    free(p);
}

/* head, then unit as often as it fits into len bytes, then tail */
static char *repeat(const char *head, const char *unit, const char *tail, size_t len) {
    char *s = malloc(len + 1);
    size_t n = strlen(head), u = strlen(unit), t = strlen(tail);
    if (!s) return NULL;
    memcpy(s, head, n);
    for (; n + u + t <= len; n += u) memcpy(s + n, unit, u);
    memcpy(s + n, tail, t);
    s[n + t] = 0;
    return s;
}

static void test_memory_bombs_are_refused_before_they_grow(void) {
    enum { BODY = 256 << 10, MOST = 2 << 20 };
    static const struct {
        const char *head, *unit, *tail;
    } all[] = {{"{\"prompt\":[", "{},", "{}]}"},
               {"{\"prompt\":[", "[],", "[]]}"},
               {"{\"prompt\":[", "1,", "1]}"},
               {"{\"prompt\":[", "\"\",", "1]}"},
               {"{", "\"a\":1,", "\"b\":1}"},
               {"[", "{\"a\":{}},", "{}]"},
               {"", "[", ""},
               {"", "{\"a\":", ""},
               {"{\"prompt\":\"", "\\u00e9", "\"}"},
               {"", "\"", ""},
               {"", "\\", ""},
               {"", "]", ""}};
    json_set_alloc_funcs(counting_malloc, counting_free);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct api_request r;
        struct api_error e;
        char *body = repeat(all[i].head, all[i].unit, all[i].tail, BODY);
        if (!CHECK(body != NULL)) return;
        held = peak = 0;
        CHECK_INT(parse(&r, &e, body), 400);
        CHECK_INT(held, 0);
        if (!CHECK(peak <= MOST)) printf("    %zu bytes for %s\n", peak, all[i].unit);
        free(body);
    }
    json_set_alloc_funcs(malloc, free);
}

static void test_two_thousand_values_is_the_end(void) {
    struct api_request r;
    struct api_error e;
    char *body = repeat("{\"prompt\":\"x\",\"taca\":[", "1,", "1]}", 23 + 2 * 1990);
    if (!CHECK(body != NULL)) return;
    CHECK_INT(parse(&r, &e, body), 400);
    CHECK_STR(e.code, "invalid_taca");
    free(body);
    body = repeat("{\"prompt\":\"x\",\"taca\":[", "1,", "1]}", 23 + 2 * 2010);
    if (!CHECK(body != NULL)) return;
    CHECK_INT(parse(&r, &e, body), 400);
    CHECK_STR(e.code, "too_complex");
    free(body);
}

static void test_a_body_over_the_limit_is_413(void) {
    struct api_request r;
    struct api_error e;
    struct api_limits l;
    api_limits_init(&l);
    char *body = repeat("{\"prompt\":\"x\"", " ", "}", l.max_body_bytes + 1);
    if (!CHECK(body != NULL)) return;
    CHECK_INT(parse_bytes(&r, &e, body, l.max_body_bytes + 1), 413);
    CHECK_STR(e.code, "body_too_large");
    CHECK_HAS(e.message, "20971520");
    free(body);
    body = repeat("{\"prompt\":\"x\"", " ", "}", l.max_body_bytes);
    if (!CHECK(body != NULL)) return;
    CHECK_INT(parse(&r, &e, body), 0);
    api_request_finish(&r);
    free(body);
}

/* Every allocation in turn fails once: a clean 503 or, past the last one, success. */
static int left;
static void *failing_malloc(size_t n) { return left-- > 0 ? malloc(n) : NULL; }

static void test_running_out_of_memory_is_an_answer(void) {
    int rc = -1, n;
    for (n = 0; n < 1000 && rc != 0; n++) {
        struct api_request r;
        struct api_error e;
        left = n;
        json_set_alloc_funcs(failing_malloc, free);
        rc = parse(&r, &e, whole);
        json_set_alloc_funcs(malloc, free);
        if (rc != 0 && rc != 503 && rc != 400) CHECK_INT(rc, 503);
        api_request_finish(&r);
    }
    CHECK_INT(rc, 0);
    CHECK(n > 10);
}

int main(void) {
    TEST(test_a_body_cut_at_any_byte_is_refused);
    TEST(test_any_byte_changed_is_accepted_or_refused_but_never_worse);
    TEST(test_malformed_json_is_refused);
    TEST(test_the_place_of_an_error_is_told);
    TEST(test_depth_is_bounded);
    TEST(test_memory_bombs_are_refused_before_they_grow);
    TEST(test_two_thousand_values_is_the_end);
    TEST(test_a_body_over_the_limit_is_413);
    TEST(test_running_out_of_memory_is_an_answer);
    return TEST_END();
}
