/* front_main.c - the front door with a make-believe service behind it, for front.py.
 *
 * The prompt says what becomes of a job: "now", "slow", "hang", "fail", "big", "flood" or "park";
 * but for the last every job has a thread of its own, so that answers come from where the HTTP side
 * does not expect them.
 * Prints "ports N M" when it listens and "gone ID" when told that a client left. Reads commands
 * from standard input: "loading", "ready", "draining", "failed", "stop" and "close" (or its end).
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/front.h"
#include "server/metrics.h"

struct work {
    struct job *job;
    struct service *service;
    bool gone;
    struct work *next;
};

struct service {
    struct service_status status;
    struct front *front;
    uv_loop_t loop;
    uv_poll_t commands;
    uv_timer_t beat;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct work *first;
    bool closing;
    char line[256];
    size_t line_len;
};

/* ---- the jobs -------------------------------------------------------------------------------- */

static void pause_ms(int ms) { usleep((useconds_t)ms * 1000); }

static void reply_with(struct stream *s, size_t len) {
    static const char *const headers[] = {"X-Seed", "7", NULL};
    struct taca_buf b;
    taca_buf_init(&b, len + 64);
    taca_buf_puts(&b, "{\"pad\":\"");
    for (size_t i = 0; i < len; i++) taca_buf_put(&b, "x", 1);
    taca_buf_puts(&b, "\"}");
    stream_reply(s, 200, "application/json", headers, &b);
}

static void push_and_finish(struct stream *s, enum stream_class cls, int index,
                            struct taca_buf *b) {
    stream_push(s, cls, index, b->data, b->len);
    taca_buf_finish(b);
}

static void run_events(struct job *j, int pause) {
    struct stream *s = j->readers->stream;
    struct taca_buf b;
    const struct api_timings t = {.total_ms = 1};
    const struct api_result_image img = {
        .seed = 7, .width_px = 8, .height_px = 8, .bytes = "PNG", .len = 3};
    taca_buf_init(&b, 1 << 20);
    api_event_queued(&b, stream_next_id(s), j->id, j->created_s, 0, 0);
    push_and_finish(s, STREAM_KEEP, 0, &b);
    for (int step = 1; step <= 4; step++) {
        const struct api_progress p = {.step = step, .steps = 4};
        pause_ms(pause);
        api_event_progress(&b, stream_next_id(s), j->id, &p);
        push_and_finish(s, STREAM_MERGE, 0, &b);
    }
    api_event_image(&b, stream_next_id(s), j->id, &img);
    push_and_finish(s, STREAM_KEEP, 0, &b);
    api_event_completed(&b, stream_next_id(s), j->id, j->created_s, &t, 0, 1);
    push_and_finish(s, STREAM_KEEP, 0, &b);
    stream_end(s);
}

/* Far more previews than a reader that sleeps can take, then the last word. */
static void run_flood(struct job *j) {
    enum { LEN = 65536 };
    char *preview = malloc(LEN);
    if (!preview) return;
    memcpy(preview, ": preview", 9);
    memset(preview + 9, 'p', LEN - 11);
    memcpy(preview + LEN - 2, "\n\n", 2);
    for (int i = 0; i < 2000; i++) stream_push(j->readers->stream, STREAM_DROP, i, preview, LEN);
    free(preview);
    run_events(j, 0);
}

static void begin_events(const struct job *j) {
    const char *const headers[] = {"X-Job-Id", j->id, NULL};
    stream_headers(j->readers->stream, headers);
    stream_comment(j->readers->stream);
}

static bool is_events(const struct job *j) { return j->readers->form == API_REPLY_EVENTS; }

static void hang(struct work *w) {
    struct api_error e = {.retry_after_s = 1};
    pthread_mutex_lock(&w->service->lock);
    while (!w->gone && !w->service->closing)
        pthread_cond_wait(&w->service->changed, &w->service->lock);
    pthread_mutex_unlock(&w->service->lock);
    api_fail(&e, 503, "draining", NULL, "the service is shutting down");
    stream_fail(w->job->readers->stream, w->job->id, &e);
}

static void act(struct work *w) {
    struct job *j = w->job;
    const char *prompt = j->request.params.prompt;
    struct api_error e = {.retry_after_s = 2};
    if (strcmp(prompt, "slow") == 0) pause_ms(200);
    if (strcmp(prompt, "fail") == 0) {
        api_fail(&e, 429, "queue_full", NULL, "the queue is full");
        stream_fail(j->readers->stream, j->id, &e);
    } else if (strcmp(prompt, "hang") == 0) {
        hang(w);
    } else if (strcmp(prompt, "flood") == 0) {
        run_flood(j);
    } else if (is_events(j)) {
        run_events(j, 20);
    } else {
        reply_with(j->readers->stream, strcmp(prompt, "big") == 0 ? 8 << 20 : 4);
    }
}

static void *run_job(void *ctx) {
    struct work *w = ctx;
    struct service *s = w->service;
    act(w);
    pthread_mutex_lock(&s->lock);
    struct work **at = &s->first;
    while (*at != w) at = &(*at)->next;
    *at = w->next;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    job_close(w->job);
    free(w);
    return NULL;
}

/* ---- the hooks ------------------------------------------------------------------------------- */

static bool submit(void *ctx, struct job *j) {
    struct service *s = ctx;
    struct work *w = calloc(1, sizeof *w);
    pthread_t t;
    if (!w) return false;
    *w = (struct work){.job = j, .service = s};
    pthread_mutex_lock(&s->lock);
    bool closing = s->closing || atomic_load(&s->status.state) == SERVICE_DRAINING;
    const char *prompt = j->request.params.prompt;
    if (!closing && is_events(j) && strcmp(prompt, "fail") != 0) begin_events(j);
    if (!closing) {
        w->next = s->first;
        s->first = w;
    }
    pthread_mutex_unlock(&s->lock);
    /* thousands may wait without a thread; close_service frees them */
    if (!closing && strcmp(prompt, "park") == 0) return true;
    if (closing || pthread_create(&t, NULL, run_job, w) != 0) {
        free(w); /* a thread that cannot be had ends the test anyway */
        return false;
    }
    pthread_detach(t);
    return true;
}

/* There are no jobs to ask about: every question gets the same answer. */
static bool ask(void *ctx, struct ask *a) {
    struct taca_buf b;
    (void)ctx;
    taca_buf_init(&b, 64);
    taca_buf_puts(&b, "{\"waiting\":0,\"running\":0,\"jobs\":[]}");
    stream_reply(a->reader->stream, 200, "application/json", NULL, &b);
    ask_close(a);
    return true;
}

static void client_gone(void *ctx, uint64_t key) {
    struct service *s = ctx;
    pthread_mutex_lock(&s->lock);
    for (struct work *w = s->first; w; w = w->next)
        if (w->job->readers->key == key) {
            w->gone = true;
            printf("gone %s\n", w->job->id);
            fflush(stdout);
        }
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void metrics(void *ctx, struct taca_buf *out) {
    (void)ctx;
    metrics_render(out);
}

/* ---- the program ----------------------------------------------------------------------------- */

static void on_front_closed(void *ctx) {
    struct service *s = ctx;
    (void)s;
    printf("closed\n");
    fflush(stdout);
}

static void free_parked(struct service *s) {
    for (struct work **at = &s->first; *at;) {
        struct work *w = *at;
        if (strcmp(w->job->request.params.prompt, "park") != 0) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        stream_end(w->job->readers->stream);
        job_close(w->job);
        free(w);
    }
}

static void close_service(struct service *s) {
    if (s->closing) return;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    free_parked(s);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    uv_close((uv_handle_t *)&s->commands, NULL);
    uv_close((uv_handle_t *)&s->beat, NULL);
    front_close(s->front, on_front_closed, s);
}

static void obey(struct service *s, const char *command) {
    static const char *const states[] = {"loading", "ready", "draining", "failed"};
    for (int i = 0; i < 4; i++)
        if (strcmp(command, states[i]) == 0) atomic_store(&s->status.state, i);
    if (strcmp(command, "stuck") == 0) {
        uv_timer_stop(&s->beat);
        atomic_store(&s->status.last_beat_us, taca_now_us() - 20 * 1000000);
    }
    if (strcmp(command, "stop") == 0) front_stop_accepting(s->front);
    if (strcmp(command, "close") == 0) {
        close_service(s);
        return;
    }
    printf("did %s\n", command);
    fflush(stdout);
}

static void on_command(uv_poll_t *poll, int status, int events) {
    struct service *s = poll->data;
    char c;
    (void)status, (void)events;
    if (read(STDIN_FILENO, &c, 1) != 1) {
        close_service(s);
    } else if (c != '\n') {
        if (s->line_len < sizeof s->line - 1) s->line[s->line_len++] = c;
    } else {
        s->line[s->line_len] = 0;
        s->line_len = 0;
        obey(s, s->line);
    }
}

static void on_beat(uv_timer_t *t) {
    struct service *s = t->data;
    atomic_store(&s->status.last_beat_us, taca_now_us());
}

static void describe_model(struct taca_model_info *m) {
    *m = (struct taca_model_info){.id = "demo",
                                  .family = "sd3",
                                  .backend = "cpu",
                                  .precision = "f32",
                                  .default_width_px = 128,
                                  .default_height_px = 128,
                                  .default_steps = 4,
                                  .default_cfg_scale = 4.5,
                                  .min_side_px = 64,
                                  .max_side_px = 2048,
                                  .side_multiple_px = 16,
                                  .clip_tokens = 77};
}

static int number(char **argv, int argc, int i, int otherwise) {
    return i < argc ? (int)strtol(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv) {
    struct service s = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct taca_err err = {0};
    signal(SIGPIPE, SIG_IGN);
    struct taca_model_info model;
    describe_model(&model);
    if (models_add(&s.status.models, "") != 0 || !models_loaded(&s.status.models, 0, &model, 1))
        return 1;
    atomic_store(&s.status.state, SERVICE_READY);
    atomic_store(&s.status.workers, 1);
    metrics_set_model(0, "demo");
    uv_loop_init(&s.loop);
    struct front_opts o = {.host = "localhost",
                           .admin_listen = "127.0.0.1:0",
                           .max_connections = number(argv, argc, 1, 2000),
                           .head_timeout_ms = number(argv, argc, 2, 5000),
                           .body_timeout_ms = number(argv, argc, 3, 5000),
                           .sse_ping_ms = number(argv, argc, 4, 15000),
                           .max_per_ip = number(argv, argc, 5, 0),
                           .stall_s = number(argv, argc, 7, 0),
                           .cors_origin = argc > 6 ? argv[6] : NULL};
    api_limits_init(&o.limits);
    o.limits.max_body_bytes = 262144; /* small, so that tests can pass it */
    struct front_hooks h = {.ctx = &s,
                            .status = &s.status,
                            .submit = submit,
                            .ask = ask,
                            .client_gone = client_gone,
                            .metrics = metrics};
    if (front_open(&s.front, &s.loop, &o, &h, &err) != TACA_OK) {
        fprintf(stderr, "%s\n", err.text);
        uv_run(&s.loop, UV_RUN_DEFAULT);
        uv_loop_close(&s.loop);
        return 1;
    }
    uv_poll_init(&s.loop, &s.commands, STDIN_FILENO);
    uv_timer_init(&s.loop, &s.beat);
    s.commands.data = s.beat.data = &s;
    uv_timer_start(&s.beat, on_beat, 0, 100);
    uv_poll_start(&s.commands, UV_READABLE, on_command);
    printf("ports %d %d\n", front_port(s.front), front_admin_port(s.front));
    fflush(stdout);
    uv_run(&s.loop, UV_RUN_DEFAULT);
    int open = uv_loop_close(&s.loop);
    pthread_mutex_lock(&s.lock);
    while (s.first) pthread_cond_wait(&s.changed, &s.lock);
    pthread_mutex_unlock(&s.lock);
    pause_ms(50); /* the last job's thread is past its lock */
    models_finish(&s.status.models);
    if (open) printf("handles are left on the loop\n");
    return open ? 1 : 0;
}
