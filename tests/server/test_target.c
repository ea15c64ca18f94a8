/* test_target.c - the paths that routes see. The pairs of dot segments are RFC 3986's own (5.2.4,
 * 5.4.2) and the shapes in which they have been used to leave a folder. */
#include "server/target.h"
#include "tests/test.h"

static const struct {
    const char *text, *path, *host;
} rows[] = {
    {"/", "/", NULL},
    {"*", "*", NULL},
    {"/v1/jobs/a", "/v1/jobs/a", NULL},
    {"/a/b/c/./../../g", "/a/g", NULL},
    {"/b/c/.", "/b/c/", NULL},
    {"/b/c/./", "/b/c/", NULL},
    {"/b/c/..", "/b/", NULL},
    {"/b/c/../", "/b/", NULL},
    {"/b/c/../g", "/b/g", NULL},
    {"/b/c/../..", "/", NULL},
    {"/b/c/../../../g", "/g", NULL},
    {"/../../etc/passwd", "/etc/passwd", NULL},
    {"/..", "/", NULL},
    {"/.", "/", NULL},
    {"/./g", "/g", NULL},
    {"/g.", "/g.", NULL},
    {"/.g", "/.g", NULL},
    {"/g..", "/g..", NULL},
    {"/..g", "/..g", NULL},
    {"/...", "/...", NULL},
    {"//", "//", NULL},
    {"//a/..", "//", NULL},
    {"/a//../b", "/a/b", NULL},
    {"/v1/../health", "/health", NULL},
    {"http://h/x", "/x", "h"},
    {"HTTPS://h:8443/a/../x", "/x", "h:8443"},
    {"http://h", "/", "h"},
    {"http://[::1]:80/", "/", "[::1]:80"},
    {"http://h/..", "/", "h"},
    {"http://h/a://b", "/a://b", "h"},
};

static void test_dot_segments_lead_nowhere_else_and_hosts_are_told(void) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct target t;
        CHECK(target_read(&t, rows[i].text));
        CHECK_STR(t.path, rows[i].path);
        CHECK((t.host != NULL) == (rows[i].host != NULL));
        if (t.host && rows[i].host) CHECK_STR(t.host, rows[i].host);
        target_finish(&t);
        CHECK(!t.copy);
    }
}

int main(void) {
    TEST(test_dot_segments_lead_nowhere_else_and_hosts_are_told);
    return TEST_END();
}
