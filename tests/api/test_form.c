/* test_form.c - multipart/form-data: what clients send is read, everything else is refused, however
 * it is cut. */
#include "api/form.h"
#include "tests/test.h"

#define TYPE "multipart/form-data; boundary=b"
/* As the body of RFC 7578 section 4.2's clients: curl, browsers, httpx. */
#define TEXT(name, value)                                                                          \
    "--b\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n" value "\r\n"
#define FILE_(name, value)                                                                         \
    "--b\r\nContent-Disposition: form-data; name=\"" name "\"; filename=\"a.png\"\r\n"             \
    "Content-Type: image/png\r\n\r\n" value "\r\n"
#define END "--b--\r\n"

/* From memory of exactly its size, so that a sanitizer sees every step too far. */
static int read_bytes(struct api_form *f, const char *type, const char *body, size_t len) {
    struct api_error e = {0};
    char *exact = malloc(len ? len : 1);
    if (!exact) return -1;
    memcpy(exact, body, len);
    int rc = api_form_read(f, type, exact, len, &e);
    for (int i = 0; !rc && i < f->n; i++) /* back to where the caller can look */
        f->parts[i].bytes = body + (f->parts[i].bytes - exact);
    if (rc && (rc != 400 || strcmp(e.code, "invalid_form") != 0 || !e.message[0])) rc = -2;
    free(exact);
    return rc;
}
static int read_text(struct api_form *f, const char *body) {
    return read_bytes(f, TYPE, body, strlen(body));
}

static void check_part(const struct api_form *f, int i, const char *name, bool file,
                       const char *bytes, size_t len) {
    if (!CHECK(i < f->n)) return;
    CHECK_STR(f->parts[i].name, name);
    CHECK(f->parts[i].file == file);
    CHECK_INT(f->parts[i].len, len);
    CHECK(f->parts[i].len == len && memcmp(f->parts[i].bytes, bytes, len) == 0);
}

static void test_parts_come_in_their_order(void) {
    struct api_form f;
    CHECK_INT(read_text(&f, TEXT("prompt", "a cat") FILE_("image", "PNG\r\n--\r\n-b") TEXT("n", "")
                                TEXT("n", "2") END),
              0);
    CHECK_INT(f.n, 4);
    check_part(&f, 0, "prompt", false, "a cat", 5);
    check_part(&f, 1, "image", true, "PNG\r\n--\r\n-b", 11);
    check_part(&f, 2, "n", false, "", 0);
    check_part(&f, 3, "n", false, "2", 1);
    CHECK(read_text(&f, END) == 0 && f.n == 0);
    CHECK(read_text(&f, TEXT("a", "1") "--b--") == 0 && f.n == 1); /* without the last line's end */
}

static void test_any_bytes_travel(void) {
    static char body[2048] = FILE_("image", ""), data[256];
    struct api_form f;
    size_t at = strlen(body) - 2;
    for (int i = 0; i < 256; i++) data[i] = (char)i;
    memcpy(body + at, data, 256);
    memcpy(body + at + 256, "\r\n" END, 2 + strlen(END));
    CHECK_INT(read_bytes(&f, TYPE, body, at + 256 + 2 + strlen(END)), 0);
    check_part(&f, 0, "image", true, data, 256);
}

static void test_boundaries_and_heads_are_read_as_they_may_be_written(void) {
    static const struct {
        const char *type, *body;
        int rc;
    } all[] = {
        {"Multipart/Form-Data; charset=utf-8; Boundary=\"b\"", TEXT("a", "1") END, 0},
        {"multipart/form-data;boundary=b", TEXT("a", "1") END, 0},
        {TYPE, "--b\r\ncontent-disposition:form-data;name=a\r\n\r\n1\r\n" END, 0},
        {TYPE,
         "--b\r\nX-Y: z\r\nContent-Disposition: form-data; name=\"a\"\r\n"
         "Content-Transfer-Encoding: binary\r\n\r\n1\r\n" END,
         0},
        {TYPE,
         "--b\r\nContent-Disposition: form-data; name=\"a\"; filename=\"\\\"\"\r\n\r\n1\r\n" END,
         0},
        {"multipart/form-data; boundary=\"b c\"",
         "--b c\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b c--", 0},
        {"multipart/form-data", TEXT("a", "1") END, 400},
        {"multipart/form-data; boundary=", TEXT("a", "1") END, 400},
        {"multipart/form-data; boundary=b; boundary=c", TEXT("a", "1") END, 400},
        {"multipart/form-data; boundary=\"b ", TEXT("a", "1") END, 400},
        {"multipart/form-data; boundary=\"b\\\"\"", TEXT("a", "1") END, 400},
        {"multipart/form-data; boundary="
         "1234567890123456789012345678901234567890123456789012345678901234567890x",
         END, 400},
        {"multipart/mixed; boundary=b", TEXT("a", "1") END, 400},
        {"application/json", TEXT("a", "1") END, 400},
        {NULL, TEXT("a", "1") END, 400},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct api_form f;
        int rc = read_bytes(&f, all[i].type, all[i].body, strlen(all[i].body));
        if (!CHECK(rc == all[i].rc)) printf("    %zu: %s\n", i, all[i].type ? all[i].type : "none");
        if (!rc) check_part(&f, 0, "a", strstr(all[i].body, "filename") != NULL, "1", 1);
    }
}

static void test_what_two_readers_could_read_differently_is_refused(void) {
    static const char *const bad[] = {
        "",
        "preamble\r\n" TEXT("a", "1") END,
        "\r\n" TEXT("a", "1") END,
        TEXT("a", "1") END "epilogue",
        TEXT("a", "1") "--b --\r\n",
        TEXT("a", "1") "--b-\r\n",
        TEXT("a", "1"),
        "--b",
        "--b \r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n" END,
        "--bb\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n" END,
        TEXT("a", "1\r\n--bx") END,
        "--b\nContent-Disposition: form-data; name=a\n\n1\n--b--\n",
        "--b\r\nContent-Disposition: form-data; name=a\n\n1\r\n" END,
        "--b\r\n\r\n1\r\n" END,
        "--b\r\nContent-Type: text/plain\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: attachment; name=a\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data; name=\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data; name=\"\"\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data; name=\"a\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data; name=a; name=b\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data; name=\"a\\\"b\"\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data; name=\"\xC3\xA9\"\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data; name=a junk\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b"
        "\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data;\r\n name=a\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        "MQ==\r\n" END,
        "--b\r\nContent-Disposition: form-data; name=a\r\nbroken\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data; name=a\r\nA B: c\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition : form-data; name=a\r\n\r\n1\r\n" END,
        "--b\r\nContent-Disposition: form-data; name=a\r\n\r\n--b--\r\n",
        "--b\r\nContent-Disposition: form-data; "
        "name=12345678901234567890123456789012345678901234567890123456789012345\r\n\r\n1\r\n" END,
        "--b\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\n"
        "Content-Disposition: form-data; name=a\r\n\r\n1\r\n" END,
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct api_form f;
        if (!CHECK(read_text(&f, bad[i]) == 400)) printf("    %zu: %s\n", i, bad[i]);
    }
}

static void test_sixty_four_parts_are_the_end(void) {
    char body[65 * 80] = "";
    struct api_form f;
    for (int i = 0; i < 64; i++) memcpy(body + strlen(body), TEXT("a", "1"), sizeof TEXT("a", "1"));
    size_t len = strlen(body);
    memcpy(body + len, END, sizeof END);
    CHECK(read_text(&f, body) == 0 && f.n == 64);
    memcpy(body + len, TEXT("a", "1"), sizeof TEXT("a", "1"));
    memcpy(body + strlen(body), END, sizeof END);
    CHECK_INT(read_text(&f, body), 400);
}

static void test_a_form_cut_at_any_byte_is_refused(void) {
    static const char whole[] = TEXT("prompt", "a cat") FILE_("image", "\r\n--") "--b--";
    for (size_t len = 0; len < sizeof whole - 1; len++) {
        struct api_form f;
        CHECK_INT(read_bytes(&f, TYPE, whole, len), 400);
    }
}

int main(void) {
    TEST(test_parts_come_in_their_order);
    TEST(test_any_bytes_travel);
    TEST(test_boundaries_and_heads_are_read_as_they_may_be_written);
    TEST(test_what_two_readers_could_read_differently_is_refused);
    TEST(test_sixty_four_parts_are_the_end);
    TEST(test_a_form_cut_at_any_byte_is_refused);
    return TEST_END();
}
