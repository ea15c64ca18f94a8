/* test_log.c - one line per record whatever the text is, and a stuck reader costs records, not
 * time. Standard error is a pipe of the test's during each call. */
#include "base/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "tests/test.h"

static int saved_stderr, pipe_ends[2];

static void capture(void) {
    fflush(stderr);
    saved_stderr = dup(STDERR_FILENO);
    CHECK(pipe(pipe_ends) == 0);
    dup2(pipe_ends[1], STDERR_FILENO);
}

/* What arrived since capture(), NUL-terminated; the caller's stderr is back. */
static char *captured(void) {
    static char text[1 << 18];
    size_t len = 0;
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(pipe_ends[1]);
    for (;;) {
        ssize_t n = read(pipe_ends[0], text + len, sizeof text - 1 - len);
        if (n <= 0) break;
        len += (size_t)n;
    }
    close(pipe_ends[0]);
    text[len] = 0;
    return text;
}

static int lines(const char *s) {
    int n = 0;
    for (; *s; s++) n += *s == '\n';
    return n;
}

/* 2026-01-02T03:04:05.678Z */
static bool is_timestamp(const char *s) {
    static const char form[] = "dddd-dd-ddTdd:dd:dd.dddZ";
    for (size_t i = 0; form[i]; i++)
        if (form[i] == 'd' ? s[i] < '0' || s[i] > '9' : s[i] != form[i]) return false;
    return true;
}

static void test_text_records(void) {
    taca_log_setup(TACA_LOG_INFO, false);
    capture();
    taca_log(TACA_LOG_DEBUG, "not seen");
    taca_log(TACA_LOG_INFO, "started on port %d", 8080);
    taca_log_fields(TACA_LOG_WARN, "\"seed\":7", "slow");
    char *s = captured();
    CHECK_INT(lines(s), 2);
    CHECK(is_timestamp(s));
    CHECK_STR(strtok_r(s + 24, "\n", &s), " info  started on port 8080");
    CHECK(is_timestamp(s));
    CHECK_STR(s + 24, " warn  slow {\"seed\":7}\n");
}

static void test_json_records(void) {
    taca_log_setup(TACA_LOG_DEBUG, true);
    capture();
    taca_log_fields(TACA_LOG_ERROR, "\"seed\":7,\"code\":200", "%s", "a \"quote\"\nand a line");
    taca_log(TACA_LOG_DEBUG, "plain");
    char *s = captured();
    CHECK_INT(lines(s), 2);
    CHECK(strncmp(s, "{\"ts\":\"", 7) == 0 && is_timestamp(s + 7));
    char *second = strchr(s, '\n') + 1;
    CHECK_STR(second + 31, "\",\"level\":\"debug\",\"msg\":\"plain\"}\n");
    second[-1] = 0;
    CHECK_STR(s + 31, "\",\"level\":\"error\",\"msg\":\"a \\\"quote\\\"\\nand a line\",\"seed\":7,"
                      "\"code\":200}");
}

static void test_client_text_cannot_make_a_second_record(void) {
    static const char evil[] = "x\n{\"ts\":\"forged\"}\r\n\x1b[31m\xE2\x80\xA8\xC2\x85\xFF";
    taca_log_setup(TACA_LOG_INFO, true);
    capture();
    taca_log(TACA_LOG_INFO, "%s", evil);
    char *s = captured();
    CHECK_INT(lines(s), 1);
    CHECK(!strchr(s, '\x1b') && !strchr(s, '\r'));
    taca_log_setup(TACA_LOG_INFO, false);
    capture();
    taca_log(TACA_LOG_INFO, "%s", evil);
    s = captured();
    CHECK_INT(lines(s), 1); /* the text format too */
    CHECK(!strchr(s, '\x1b') && !strchr(s, '\r'));
}

static void test_long_text_is_cut_and_still_json(void) {
    static char longest[20000];
    memset(longest, 1, sizeof longest - 1); /* each byte becomes six */
    taca_log_setup(TACA_LOG_INFO, true);
    capture();
    taca_log(TACA_LOG_INFO, "%s", longest);
    char *s = captured();
    CHECK_INT(lines(s), 1);
    CHECK(strlen(s) <= 4096); /* what a pipe takes whole */
    CHECK_STR(s + strlen(s) - 3, "\"}\n");
    memset(longest, 'a', sizeof longest - 1);
    capture();
    taca_log(TACA_LOG_INFO, "%s", longest);
    s = captured();
    CHECK_INT(lines(s), 1);
    CHECK_STR(s + strlen(s) - 3, "\"}\n");
}

static void test_a_full_pipe_drops_records_and_does_not_wait(void) {
    taca_log_setup(TACA_LOG_INFO, true);
    uint64_t before = taca_log_dropped();
    int written = 5000;
    capture();
    alarm(20); /* a logger that waits dies here */
    for (int i = 0; i < written; i++) taca_log(TACA_LOG_INFO, "record %d of many", i);
    alarm(0);
    char *s = captured();
    int dropped = (int)(taca_log_dropped() - before);
    CHECK(dropped > 0);
    CHECK_INT(lines(s) + dropped, written);
    CHECK_INT(s[strlen(s) - 1], '\n'); /* no half record */
}

static void *chatter(void *arg) {
    for (int i = 0; i < 200; i++) taca_log(TACA_LOG_INFO, "thread %s says %d", (char *)arg, i);
    return NULL;
}

static void *drain(void *arg) {
    struct taca_buf *b = arg;
    char part[4096];
    ssize_t n;
    while ((n = read(pipe_ends[0], part, sizeof part)) > 0) taca_buf_put(b, part, (size_t)n);
    return NULL;
}

static void *fill(void *arg) {
    char more[2040]; /* two such records do not share a page of the pipe */
    memset(more, 'x', sizeof more - 1);
    more[sizeof more - 1] = 0;
    for (int i = 0; i < 40; i++)
        taca_log_fields(TACA_LOG_INFO, "\"why\":\"so that it is longer\"", "%s %s", (char *)arg,
                        more);
    return NULL;
}

/* Asked one by one whether there is room, all are told yes; one gets it. */
static void test_threads_that_want_the_last_room_do_not_wait(void) {
    static char names[4][2] = {"a", "b", "c", "d"};
    pthread_t threads[4];
    taca_log_setup(TACA_LOG_INFO, true);
    for (int round = 0; round < 300; round++) {
        uint64_t before = taca_log_dropped();
        capture();
        alarm(20);
        for (int i = 0; i < 4; i++) CHECK(!pthread_create(&threads[i], NULL, fill, names[i]));
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
        alarm(0);
        char *s = captured();
        CHECK_INT(lines(s) + (int)(taca_log_dropped() - before), 4 * 40);
    }
}

static void test_a_socket_that_nobody_reads_drops_records_too(void) {
    int ends[2], written = 20000;
    fflush(stderr);
    int stderr_before = dup(STDERR_FILENO);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    dup2(ends[1], STDERR_FILENO);
    uint64_t before = taca_log_dropped();
    alarm(20);
    for (int i = 0; i < written; i++) taca_log(TACA_LOG_INFO, "record %d of many", i);
    alarm(0);
    dup2(stderr_before, STDERR_FILENO);
    int dropped = (int)(taca_log_dropped() - before);
    CHECK(dropped > 0 && dropped < written);
    close(ends[0]);
    close(ends[1]);
    close(stderr_before);
}

static void test_lines_of_several_threads_do_not_mix(void) {
    static char names[4][2] = {"a", "b", "c", "d"};
    pthread_t threads[4], reader;
    struct taca_buf b;
    taca_buf_init(&b, 1 << 20);
    taca_log_setup(TACA_LOG_INFO, true);
    uint64_t before = taca_log_dropped();
    capture();
    pthread_create(&reader, NULL, drain, &b);
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, chatter, names[i]);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(pipe_ends[1]);
    pthread_join(reader, NULL);
    close(pipe_ends[0]);
    CHECK_INT(lines(b.data) + (int)(taca_log_dropped() - before), 800);
    int bad = 0;
    for (char *line = b.data, *end; (end = strchr(line, '\n')); line = end + 1)
        bad += strncmp(line, "{\"ts\":\"", 7) != 0 || strncmp(end - 2, "\"}", 2) != 0 ||
               strcspn(line + 1, "{") < (size_t)(end - line - 1);
    CHECK_INT(bad, 0);
    taca_buf_finish(&b);
}

int main(void) {
    TEST(test_text_records);
    TEST(test_json_records);
    TEST(test_client_text_cannot_make_a_second_record);
    TEST(test_long_text_is_cut_and_still_json);
    TEST(test_a_full_pipe_drops_records_and_does_not_wait);
    TEST(test_threads_that_want_the_last_room_do_not_wait);
    TEST(test_a_socket_that_nobody_reads_drops_records_too);
    TEST(test_lines_of_several_threads_do_not_mix);
    return TEST_END();
}
