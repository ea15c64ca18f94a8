/* test_listener.c - whoever gets the number of an accepting socket after it keeps his watch. */
#include "server/listener.h"

#include <stdlib.h>
#include <unistd.h>

#include "tests/test.h"

static void hand_over(void *ctx, int fd, const struct head *head, const struct sockaddr *peer,
                      socklen_t peer_len) {
    (void)ctx, (void)head, (void)peer, (void)peer_len;
    close(fd);
}

static int no_others(void *ctx) {
    (void)ctx;
    return 0;
}

static void count(void *ctx) { ++*(int *)ctx; }

static void on_readable(uv_poll_t *poll, int status, int events) {
    char c;
    int fd;
    CHECK_INT(status, 0);
    CHECK(events & UV_READABLE);
    CHECK_INT(uv_fileno((uv_handle_t *)poll, &fd), 0);
    CHECK_INT(read(fd, &c, 1), 1);
    count(poll->data);
    uv_close((uv_handle_t *)poll, NULL);
}

/* The number of a listening socket is free after the stop, and the loop watches its next owner. */
static void test_closing_takes_no_watch_off_a_reused_descriptor(void) {
    uv_loop_t loop;
    uv_poll_t poll;
    struct listener *l = NULL;
    struct taca_err err = {0};
    int ends[2], closed = 0, read_events = 0;
    struct listener_opts opts = {.hosts = "127.0.0.1",
                                 .max_connections = 4,
                                 .head_timeout_ms = 1000,
                                 .max_body_bytes = 1000,
                                 .hand_over = hand_over,
                                 .others = no_others};
    CHECK_INT(uv_loop_init(&loop), 0);
    int lowest = dup(0);
    close(lowest);
    CHECK_INT(listener_open(&l, &loop, &opts, &err), TACA_OK);
    uv_run(&loop, UV_RUN_NOWAIT);
    listener_stop(l);
    CHECK_INT(pipe(ends), 0);
    CHECK_INT(ends[0], lowest); /* the listening socket had it */
    uv_poll_init(&loop, &poll, ends[0]);
    poll.data = &read_events;
    uv_poll_start(&poll, UV_READABLE, on_readable);
    uv_run(&loop, UV_RUN_NOWAIT);
    listener_close(l, count, &closed);
    CHECK_INT(write(ends[1], "x", 1), 1);
    for (int i = 0; i < 100 && read_events == 0; i++) {
        uv_run(&loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
    CHECK_INT(read_events, 1);
    if (read_events == 0) uv_close((uv_handle_t *)&poll, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK_INT(closed, 1);
    CHECK_INT(uv_loop_close(&loop), 0);
    close(ends[0]);
    close(ends[1]);
}

int main(void) {
    TEST(test_closing_takes_no_watch_off_a_reused_descriptor);
    return TEST_END();
}
