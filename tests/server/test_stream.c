/* test_stream.c - the stream between producers and an HTTP thread: what a slow reader loses and
 * what it never loses, who wakes whom, and two threads at it for a while. */
#include "server/stream.h"

#include <pthread.h>
#include <stdatomic.h>

#include "tests/test.h"

struct waiter {
    int waits, resumes;
};
static void on_wait(void *ctx) { ((struct waiter *)ctx)->waits++; }
static void on_resume(void *ctx) { ((struct waiter *)ctx)->resumes++; }

static void push(struct stream *s, enum stream_class cls, int index, const char *text) {
    stream_push(s, cls, index, text, strlen(text));
}

/* Everything that is there, as a string. */
static const char *read_all(struct stream *s) {
    static char text[4096];
    struct waiter w = {0};
    size_t n = 0;
    long got;
    while ((got = stream_read(s, text + n, sizeof text - 1 - n, on_wait, &w)) > 0) n += (size_t)got;
    text[n] = 0;
    return text;
}

static void test_frames_come_out_in_order_and_in_pieces(void) {
    struct stream *s = stream_open(STREAM_EVENTS);
    struct waiter w = {0};
    char out[8] = "";
    push(s, STREAM_KEEP, 0, "abcdef");
    push(s, STREAM_KEEP, 0, "ghi");
    CHECK_INT(stream_read(s, out, 4, on_wait, &w), 4);
    CHECK(memcmp(out, "abcd", 4) == 0);
    CHECK_INT(stream_read(s, out, 4, on_wait, &w), 4);
    CHECK(memcmp(out, "efgh", 4) == 0);
    stream_end(s);
    CHECK_INT(stream_read(s, out, 4, on_wait, &w), 1);
    CHECK_INT(stream_read(s, out, 4, on_wait, &w), STREAM_ENDED);
    CHECK_INT(w.waits, 0);
    stream_unref(s);
}

static void test_progress_is_merged_by_index_and_keeps_its_order(void) {
    struct stream *s = stream_open(STREAM_EVENTS);
    push(s, STREAM_MERGE, 0, "a1 ");
    push(s, STREAM_MERGE, 1, "b1 ");
    push(s, STREAM_KEEP, 0, "image ");
    push(s, STREAM_MERGE, 0, "a2 ");
    CHECK_STR(read_all(s), "b1 image a2 ");
    push(s, STREAM_MERGE, 0, "a3 ");
    CHECK_STR(read_all(s), "a3 ");
    stream_unref(s);
}

static void test_a_frame_that_was_begun_is_not_replaced(void) {
    struct stream *s = stream_open(STREAM_EVENTS);
    struct waiter w = {0};
    char out[2];
    push(s, STREAM_MERGE, 0, "first ");
    CHECK_INT(stream_read(s, out, 2, on_wait, &w), 2);
    push(s, STREAM_MERGE, 0, "second ");
    CHECK_STR(read_all(s), "rst second ");
    stream_unref(s);
}

static void test_a_slow_reader_loses_previews_and_progress_but_no_final(void) {
    enum { BIG = 1 << 20, FINALS = 12 };
    struct stream *s = stream_open(STREAM_EVENTS);
    char *big = calloc(1, BIG), *out = malloc(BIG);
    struct waiter w = {0};
    size_t previews = 0, finals = 0, progress = 0;
    if (!big || !out) return;
    for (int i = 0; i < 100; i++) {
        big[0] = 'p';
        stream_push(s, STREAM_DROP, i, big, BIG);
    }
    for (int i = 0; i < FINALS; i++) {
        big[0] = 'f';
        stream_push(s, STREAM_KEEP, i, big, BIG);
        push(s, STREAM_MERGE, 0, "m");
    }
    stream_end(s);
    long got;
    while ((got = stream_read(s, out, BIG, on_wait, &w)) > 0)
        for (long i = 0; i < got; i++) {
            previews += out[i] == 'p';
            finals += out[i] == 'f';
            progress += out[i] == 'm';
        }
    CHECK_INT(got, STREAM_ENDED);
    CHECK_INT(finals, FINALS); /* though they pass the ceiling */
    CHECK_INT(previews, 0);    /* made room */
    CHECK(progress <= 1);
    free(big);
    free(out);
    stream_unref(s);
}

static void test_previews_alone_stop_at_the_ceiling(void) {
    enum { BIG = 1 << 20 };
    struct stream *s = stream_open(STREAM_EVENTS);
    char *big = calloc(1, BIG);
    struct waiter w = {0};
    size_t total = 0;
    long got;
    if (!big) return;
    for (int i = 0; i < 100; i++) stream_push(s, STREAM_DROP, i, big, BIG);
    while ((got = stream_read(s, big, BIG, on_wait, &w)) > 0) total += (size_t)got;
    CHECK(total > 0 && total <= STREAM_MAX_BYTES);
    free(big);
    stream_unref(s);
}

static void test_a_wait_is_resumed_once_and_only_a_wait(void) {
    struct stream *s = stream_open(STREAM_EVENTS);
    struct waiter w = {0};
    char out[8];
    stream_set_resume(s, on_resume, &w);
    push(s, STREAM_KEEP, 0, "a");
    CHECK_INT(w.resumes, 0); /* nobody waited */
    CHECK_INT(stream_read(s, out, 8, on_wait, &w), 1);
    CHECK_INT(stream_read(s, out, 8, on_wait, &w), 0);
    CHECK_INT(w.waits, 1);
    push(s, STREAM_KEEP, 0, "b");
    push(s, STREAM_KEEP, 0, "c");
    CHECK_INT(w.resumes, 1);
    CHECK_INT(stream_read(s, out, 8, on_wait, &w), 2);
    CHECK_INT(stream_read(s, out, 8, on_wait, &w), 0);
    stream_gone(s); /* a last time */
    CHECK_INT(w.resumes, 2);
    push(s, STREAM_KEEP, 0, "d");
    stream_end(s);
    stream_gone(s);
    CHECK_INT(w.resumes, 2);
    CHECK_INT(stream_read(s, out, 8, on_wait, &w), STREAM_CUT);
    CHECK(stream_is_gone(s));
    stream_unref(s);
}

static void reply(struct stream *s, int status, const char *text) {
    static const char *const headers[] = {"X-Seed", "7", "X-Model", "demo", NULL};
    struct taca_buf body;
    taca_buf_init(&body, 100);
    taca_buf_puts(&body, text);
    stream_reply(s, status, "text/plain", headers, &body);
    CHECK(body.data == NULL && body.len == 0); /* moved */
}

static void free_answer(struct stream_answer *a) {
    free(a->headers);
    free(a->body);
}

static void test_only_the_first_answer_counts(void) {
    struct stream *s = stream_open(STREAM_REPLY);
    struct stream_answer a = {0};
    struct waiter w = {0};
    stream_set_resume(s, on_resume, &w);
    CHECK(!stream_take(s, &a, on_wait, &w));
    CHECK_INT(w.waits, 1);
    reply(s, 200, "one");
    reply(s, 500, "two");
    CHECK_INT(w.resumes, 1);
    CHECK(stream_take(s, &a, on_wait, &w));
    CHECK_INT(a.status, 200);
    CHECK_INT(a.len, 3);
    CHECK_STR(a.body, "one");
    CHECK_STR(a.headers, "X-Seed: 7\nX-Model: demo\n");
    CHECK_STR(a.content_type, "text/plain");
    free_answer(&a);
    stream_unref(s);
}

static void test_a_client_that_left_gets_no_answer(void) {
    struct stream *s = stream_open(STREAM_REPLY);
    struct stream_answer a = {0};
    struct waiter w = {0};
    stream_gone(s);
    reply(s, 200, "late");
    CHECK(stream_take(s, &a, on_wait, &w));
    CHECK_INT(a.status, 0);
    CHECK_INT(w.waits, 0);
    stream_unref(s);
}

static void test_an_early_failure_of_events_has_a_status(void) {
    struct stream *s = stream_open(STREAM_EVENTS);
    struct api_error e = {.retry_after_s = 3};
    struct stream_answer a = {0};
    struct waiter w = {0};
    api_fail(&e, 429, "queue_full", NULL, "full");
    stream_fail(s, "id", &e);
    push(s, STREAM_KEEP, 0, "late");
    CHECK(stream_take(s, &a, on_wait, &w));
    CHECK_INT(a.status, 429);
    CHECK_HAS(a.body, "\"queue_full\"");
    CHECK_HAS(a.headers, "Retry-After: 3\n");
    CHECK_HAS(a.headers, "retry-after-ms: 3000\n");
    free_answer(&a);
    stream_unref(s);
}

static void test_a_late_failure_of_events_is_a_frame_and_the_end(void) {
    struct stream *s = stream_open(STREAM_EVENTS);
    struct api_error e = {0};
    struct stream_answer a = {0};
    struct waiter w = {0};
    char out[4];
    push(s, STREAM_KEEP, 0, "event: queued\n\n");
    api_fail(&e, 500, "worker_lost", NULL, "gone");
    stream_fail(s, "0123", &e);
    CHECK(stream_take(s, &a, on_wait, &w));
    CHECK_INT(a.status, 0);
    const char *text = read_all(s);
    CHECK_HAS(text, "event: error\n");
    CHECK_HAS(text, "\"worker_lost\"");
    CHECK_INT(stream_read(s, out, 4, on_wait, &w), STREAM_ENDED);
    stream_unref(s);
}

static void test_ids_count_from_one(void) {
    struct stream *s = stream_open(STREAM_EVENTS);
    CHECK_INT(stream_next_id(s), 1);
    CHECK_INT(stream_next_id(s), 2);
    stream_unref(s);
}

/* ---- two threads ----------------------------------------------------------------------------- */

/* A semaphore in the place of a suspended connection: it must never be resumed before it waits. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool waiting;
    int wrong;
};
static void gate_wait(void *ctx) {
    struct gate *g = ctx;
    pthread_mutex_lock(&g->lock);
    g->wrong += g->waiting;
    g->waiting = true;
    pthread_mutex_unlock(&g->lock);
}
static void gate_resume(void *ctx) {
    struct gate *g = ctx;
    pthread_mutex_lock(&g->lock);
    g->wrong += !g->waiting;
    g->waiting = false;
    pthread_cond_signal(&g->opened);
    pthread_mutex_unlock(&g->lock);
}

enum { STRESS_FRAMES = 20000 };

static void *produce(void *ctx) {
    struct stream *s = ctx;
    for (int i = 0; i < STRESS_FRAMES; i++) {
        push(s, STREAM_MERGE, i % 4, "m");
        push(s, STREAM_DROP, 0, "d");
        push(s, STREAM_KEEP, 0, "k");
    }
    stream_end(s);
    stream_unref(s);
    return NULL;
}

static void test_two_threads_lose_no_final_and_no_wake_up(void) {
    struct stream *s = stream_open(STREAM_EVENTS);
    struct gate g = {.lock = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER};
    pthread_t t;
    char out[64];
    long kept = 0, n;
    stream_set_resume(s, gate_resume, &g);
    CHECK(pthread_create(&t, NULL, produce, stream_ref(s)) == 0);
    while ((n = stream_read(s, out, sizeof out, gate_wait, &g)) >= 0) {
        for (long i = 0; i < n; i++) kept += out[i] == 'k';
        if (n > 0) continue;
        pthread_mutex_lock(&g.lock);
        while (g.waiting) pthread_cond_wait(&g.opened, &g.lock);
        pthread_mutex_unlock(&g.lock);
    }
    pthread_join(t, NULL);
    CHECK_INT(n, STREAM_ENDED);
    CHECK_INT(kept, STRESS_FRAMES);
    CHECK_INT(g.wrong, 0);
    stream_unref(s);
}

static void test_a_client_may_leave_while_frames_are_pushed(void) {
    for (int round = 0; round < 20; round++) {
        struct stream *s = stream_open(STREAM_EVENTS);
        struct gate g = {.lock = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER};
        pthread_t t;
        char out[64];
        stream_set_resume(s, gate_resume, &g);
        CHECK(pthread_create(&t, NULL, produce, stream_ref(s)) == 0);
        for (int i = 0; i < round * 10; i++) {
            if (stream_read(s, out, sizeof out, gate_wait, &g) != 0) continue;
            pthread_mutex_lock(&g.lock);
            while (g.waiting) pthread_cond_wait(&g.opened, &g.lock);
            pthread_mutex_unlock(&g.lock);
        }
        stream_gone(s);
        CHECK_INT(stream_read(s, out, sizeof out, gate_wait, &g), STREAM_CUT);
        stream_unref(s);
        pthread_join(t, NULL);
        CHECK_INT(g.wrong, 0);
    }
}

int main(void) {
    TEST(test_frames_come_out_in_order_and_in_pieces);
    TEST(test_progress_is_merged_by_index_and_keeps_its_order);
    TEST(test_a_frame_that_was_begun_is_not_replaced);
    TEST(test_a_slow_reader_loses_previews_and_progress_but_no_final);
    TEST(test_previews_alone_stop_at_the_ceiling);
    TEST(test_a_wait_is_resumed_once_and_only_a_wait);
    TEST(test_only_the_first_answer_counts);
    TEST(test_a_client_that_left_gets_no_answer);
    TEST(test_an_early_failure_of_events_has_a_status);
    TEST(test_a_late_failure_of_events_is_a_frame_and_the_end);
    TEST(test_ids_count_from_one);
    TEST(test_two_threads_lose_no_final_and_no_wake_up);
    TEST(test_a_client_may_leave_while_frames_are_pushed);
    return TEST_END();
}
