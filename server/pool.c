/* pool.c - see pool.h. */
#include "server/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uv.h>

#include "base/log.h"

enum {
    MAX_ARGS = 40 + 2 * TACA_MAX_SERVED_LORAS,
    READ_BYTES = 64 << 10,
    MAX_MESSAGE = WIRE_MAX_TAIL + 4096,
    DOUBT = 3,       /* failures in a row */
    LINGER_MS = 1000 /* between closing its pipe and its end */
};

/* Answers come in the order of commands within each. */
enum lane { STEPS, SIDE, LANES };
static enum lane lane_of(enum wire_type t) {
    return t == WIRE_OPEN || t == WIRE_OPENED || t == WIRE_DECODE || t == WIRE_DECODED ? SIDE
                                                                                       : STEPS;
}

struct pool {
    struct pool_opts opts;
    struct pool_hooks hooks;
    int pixels_fd;
    uint8_t *pixels;
    bool slot_used[POOL_SLOTS];

    uv_process_t child;
    uv_pipe_t pipe;
    uv_timer_t timer; /* load time, watchdog, pause before the next child, patience at the end */
    bool child_lives, pipe_open, ready;
    struct {
        int due;        /* answers not here yet */
        uint64_t until; /* the loop's time when the last of them is overdue */
    } of[LANES];
    bool overlaps;
    bool log_level_late; /* it changed while the child was loading */
    int failures;        /* in a row, without anything useful in between */
    const char *reason;
    struct taca_buf in;
    char read_buf[READ_BYTES];

    bool closing;
    int handles; /* uv handles that are not closed yet */
    void (*done)(void *ctx);
    void *done_ctx;
};

static void spawn_or_wait(struct pool *p);

/* ---- the child's command line ---------------------------------------------------------------- */

struct args {
    char *argv[MAX_ARGS];
    char numbers[3][24];
    int n;
};

static void push(struct args *a, const char *flag, const char *value) {
    a->argv[a->n++] = (char *)flag;
    if (value) a->argv[a->n++] = (char *)value;
}

static void build_args(struct args *a, const struct pool_opts *o) {
    const struct taca_engine_opts *e = o->engine;
    const struct serve_loras *loras = &o->loras;
    *a = (struct args){.n = 0};
    push(a, "taca", "worker");
    const struct {
        const char *flag, *value;
    } paths[] = {{"--model", e->model_path}, {"--transformer", e->transformer}, {"--vae", e->vae},
                 {"--clip-l", e->clip_l},    {"--clip-g", e->clip_g},           {"--t5", e->t5},
                 {"--taesd", e->taesd},      {"--model-config", e->config}};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (paths[i].value) push(a, paths[i].flag, paths[i].value);
    if (e->model_id) push(a, "--model-id", e->model_id);
    if (e->device) push(a, "--device", e->device);
    snprintf(a->numbers[0], sizeof a->numbers[0], "%d", e->threads);
    push(a, "--threads", a->numbers[0]);
    snprintf(a->numbers[2], sizeof a->numbers[2], "%d", e->share > 1 ? e->share : 1);
    push(a, "--share", a->numbers[2]);
    if (o->check_memory) push(a, "--check-memory", NULL);
    push(a, "--precision", taca_precision_word(e->precision));
    snprintf(a->numbers[1], sizeof a->numbers[1], "%zu", e->text_cache_bytes);
    push(a, "--text-cache-bytes", a->numbers[1]);
    if (e->deterministic) push(a, "--deterministic", NULL);
    push(a, "--log-level", taca_log_level_word(taca_log_least()));
    for (int i = 0; i < loras->n; i++) push(a, "--lora", loras->list[i]);
}

/* ---- life and death -------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *h) {
    struct pool *p = h->data;
    p->handles--;
    if (p->closing && p->handles == 0 && !p->child_lives) {
        void (*done)(void *) = p->done;
        void *ctx = p->done_ctx;
        taca_buf_finish(&p->in);
        if (p->pixels) munmap(p->pixels, p->opts.max_pixels * POOL_BPP);
        close(p->pixels_fd);
        free(p);
        done(ctx);
        return;
    }
    /* a new child only when nothing of the old one is left */
    if (!p->closing && p->handles == 1 && !p->child_lives) spawn_or_wait(p);
}

static void close_pipe(struct pool *p) {
    if (!p->pipe_open) return;
    p->pipe_open = false;
    uv_close((uv_handle_t *)&p->pipe, on_handle_closed);
}

/* Whatever goes wrong ends here: the child is killed, its exit does the rest. */
void pool_condemn(struct pool *p, const char *reason) {
    if (!p->reason) p->reason = reason;
    p->ready = false;
    if (p->child_lives) uv_process_kill(&p->child, SIGKILL);
    close_pipe(p);
}

static void on_exit_of_child(uv_process_t *child, int64_t status, int signal_no) {
    struct pool *p = child->data;
    bool was_asked = p->closing;
    const char *reason = p->reason ? p->reason : signal_no ? "signal" : "exit";
    p->child_lives = false;
    p->ready = false;
    for (int i = 0; i < LANES; i++) p->of[i].due = 0;
    uv_timer_stop(&p->timer);
    close_pipe(p);
    uv_close((uv_handle_t *)child, on_handle_closed);
    if (was_asked) {
        uv_close((uv_handle_t *)&p->timer, on_handle_closed);
        return;
    }
    p->failures++;
    taca_log(TACA_LOG_WARN, "worker %d is gone: %s (status %d, signal %d)", child->pid, reason,
             (int)status, signal_no);
    p->hooks.lost(p->hooks.ctx, reason);
}

/* It should have said hello, or be gone, by now. */
static void on_overdue(uv_timer_t *t) { pool_condemn(t->data, "hang"); }

static void on_watchdog(uv_timer_t *t) {
    struct pool *p = t->data;
    taca_log(TACA_LOG_ERROR, "worker %d has not answered in time: killed", p->child.pid);
    pool_condemn(p, "hang");
}

/* ---- what the child says --------------------------------------------------------------------- */

static void watch(struct pool *p) {
    const uint64_t now = uv_now(p->opts.loop);
    uint64_t until = UINT64_MAX;
    for (int i = 0; i < LANES; i++)
        if (p->of[i].due > 0 && p->of[i].until < until) until = p->of[i].until;
    if (until == UINT64_MAX)
        uv_timer_stop(&p->timer);
    else
        uv_timer_start(&p->timer, on_watchdog, until > now ? until - now : 0, 0);
}

static void take_message(struct pool *p, const struct wire_msg *m) {
    if (m->type == WIRE_MEMORY) {
        p->hooks.memory(p->hooks.ctx, &m->u.memory);
    } else if (m->type == WIRE_FAILED && !p->ready) {
        struct taca_err err;
        wire_err_get(&err, &m->u.opened.err);
        p->hooks.refused(p->hooks.ctx, &err);
    } else if (m->type == WIRE_HELLO && !p->ready) {
        p->ready = true;
        p->overlaps = m->u.hello.overlaps;
        watch(p);
        if (p->log_level_late) pool_tell_log_level(p);
        p->hooks.ready(p->hooks.ctx, &m->u.hello);
    } else if (m->type > WIRE_FAILED && p->ready && p->of[lane_of(m->type)].due > 0) {
        p->of[lane_of(m->type)].due--;
        watch(p);
        p->hooks.answer(p->hooks.ctx, m);
    } else {
        taca_log(TACA_LOG_ERROR, "worker %d said %d out of turn", p->child.pid, (int)m->type);
        pool_condemn(p, "protocol");
    }
}

/* Works through what has come; a hook may condemn or close in between. */
static void take_bytes(struct pool *p) {
    size_t at = 0;
    while (p->pipe_open && !p->closing) {
        struct wire_msg m;
        struct taca_err err = {0};
        long used = wire_get(&m, p->in.data + at, p->in.len - at, &err);
        if (used < 0) {
            taca_log(TACA_LOG_ERROR, "worker %d: %s", p->child.pid, err.text);
            pool_condemn(p, "protocol");
        }
        if (used <= 0) break;
        at += (size_t)used;
        take_message(p, &m);
    }
    memmove(p->in.data, p->in.data + at, p->in.len - at);
    p->in.len -= at;
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf) {
    struct pool *p = h->data;
    (void)suggested;
    *buf = uv_buf_init(p->read_buf, sizeof p->read_buf);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    struct pool *p = stream->data;
    if (n == 0) return;
    if (n < 0) { /* the child's end closed: it is dying, and its exit will tell how */
        p->ready = false;
        close_pipe(p);
        if (!p->closing) uv_timer_start(&p->timer, on_overdue, LINGER_MS, 0);
        return;
    }
    taca_buf_put(&p->in, buf->base, (size_t)n);
    if (p->in.failed) {
        pool_condemn(p, "protocol");
        return;
    }
    take_bytes(p);
}

/* ---- spawning -------------------------------------------------------------------------------- */

static int spawn(struct pool *p) {
    struct args a;
    build_args(&a, &p->opts);
    taca_buf_reset(&p->in);
    p->reason = NULL;
    uv_pipe_init(p->opts.loop, &p->pipe, 0);
    p->pipe.data = p;
    p->pipe_open = true;
    p->handles++;

    uv_stdio_container_t io[5] = {
        {.flags = UV_IGNORE},
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE | UV_WRITABLE_PIPE,
         .data.stream = (uv_stream_t *)&p->pipe},
        {.flags = UV_INHERIT_FD, .data.fd = p->pixels_fd},
    };
    uv_process_options_t o = {.file = p->opts.self,
                              .args = a.argv,
                              .exit_cb = on_exit_of_child,
                              .stdio = io,
                              .stdio_count = 5};
    int rc = uv_spawn(p->opts.loop, &p->child, &o);
    p->child.data = p;
    p->handles++; /* uv_spawn makes the handle even when it fails */
    if (rc == 0) {
        p->child_lives = true;
        uv_read_start((uv_stream_t *)&p->pipe, on_alloc, on_read);
        uv_timer_start(&p->timer, on_overdue, (uint64_t)p->opts.load_timeout_ms, 0);
        taca_log(TACA_LOG_INFO, "worker %d started", p->child.pid);
        return 0;
    }
    taca_log(TACA_LOG_ERROR, "%s worker: %s", p->opts.self, uv_strerror(rc));
    p->failures++;
    close_pipe(p);
    uv_close((uv_handle_t *)&p->child, on_handle_closed);
    return rc;
}

static void on_pause_over(uv_timer_t *t) { (void)spawn(t->data); /* a failure waits again */ }

static void spawn_or_wait(struct pool *p) {
    uint64_t pause_ms = p->failures <= 1 ? 100 : 1000;
    for (int i = 2; i < p->failures && pause_ms < 60000; i++) pause_ms *= 2;
    if (pause_ms > 60000) pause_ms = 60000;
    uv_timer_start(&p->timer, on_pause_over, pause_ms, 0);
}

/* The slots. Sealed: a child that shrank the file would make us die reading it. */
static enum taca_code map_pixels(struct pool *p, struct taca_err *err) {
    size_t bytes = p->opts.max_pixels * POOL_BPP;
    p->pixels_fd = memfd_create("taca-pixels", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (p->pixels_fd < 0 || ftruncate(p->pixels_fd, (off_t)bytes) < 0 ||
        fcntl(p->pixels_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return taca_fail(err, TACA_EIO, "memory file of %zu bytes: %s", bytes, strerror(errno));
    void *at = mmap(NULL, bytes, PROT_READ, MAP_SHARED, p->pixels_fd, 0);
    if (at == MAP_FAILED)
        return taca_fail(err, TACA_ENOMEM, "mapping %zu bytes: %s", bytes, strerror(errno));
    p->pixels = at;
    return TACA_OK;
}

enum taca_code pool_open(struct pool **out, const struct pool_opts *opts,
                         const struct pool_hooks *hooks, struct taca_err *err) {
    struct pool *p = calloc(1, sizeof *p);
    if (!p) return taca_fail(err, TACA_ENOMEM, "opening the worker's side");
    p->opts = *opts;
    p->hooks = *hooks;
    p->pixels_fd = -1;
    taca_buf_init(&p->in, MAX_MESSAGE + READ_BYTES);
    enum taca_code rc = map_pixels(p, err);
    if (rc) {
        if (p->pixels_fd >= 0) close(p->pixels_fd);
        free(p);
        return rc;
    }
    uv_timer_init(opts->loop, &p->timer);
    p->timer.data = p;
    p->handles = 1;
    (void)spawn(p); /* a failure is tried again like any other */
    *out = p;
    return TACA_OK;
}

bool pool_ready(const struct pool *p) { return p->ready; }

const uint8_t *pool_slot(const struct pool *p, int slot) {
    return p->pixels + p->opts.max_pixels * POOL_SLOT_BPP * (size_t)slot;
}

static bool write_at(int fd, const uint8_t *bytes, size_t n, size_t at) {
    while (n > 0) {
        ssize_t done = pwrite(fd, bytes, n, (off_t)at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        bytes += done;
        n -= (size_t)done;
        at += (size_t)done;
    }
    return true;
}

/* Through the descriptor: our own view of the memory stays one that cannot be written. */
bool pool_put_input(struct pool *p, const uint8_t *rgb, const uint8_t *mask, size_t pixels) {
    const size_t at = p->opts.max_pixels * POOL_SLOT_BPP * POOL_SLOTS;
    return pixels <= p->opts.max_pixels && write_at(p->pixels_fd, rgb, pixels * 3, at) &&
           (!mask || write_at(p->pixels_fd, mask, pixels, at + pixels * 3));
}

void pool_praise(struct pool *p) { p->failures = 0; }

bool pool_overlaps(const struct pool *p) { return p->ready && p->overlaps; }

bool pool_doubted(const struct pool *p) { return p->failures >= DOUBT; }

int pool_pause_ms(const struct pool *p) {
    return p->child_lives ? 0 : (int)uv_timer_get_due_in(&p->timer);
}

/* ---- slots ----------------------------------------------------------------------------------- */

int pool_take_slot(struct pool *p) {
    for (int i = 0; i < POOL_SLOTS; i++) {
        if (p->slot_used[i]) continue;
        p->slot_used[i] = true;
        return i;
    }
    return -1;
}

void pool_give_slot(struct pool *p, int slot) { p->slot_used[slot] = false; }

static int slots_used(const struct pool *p) {
    int n = 0;
    for (int i = 0; i < POOL_SLOTS; i++) n += p->slot_used[i];
    return n;
}

bool pool_has_slot(const struct pool *p) { return slots_used(p) < POOL_SLOTS; }
bool pool_slots_idle(const struct pool *p) { return slots_used(p) == 0; }

/* ---- what the child hears -------------------------------------------------------------------- */

struct pending_write {
    uv_write_t req;
    struct taca_buf bytes;
};

static void on_written(uv_write_t *req, int status) {
    struct pending_write *w = (struct pending_write *)req;
    (void)status; /* a broken pipe is noticed by the reader and by the exit */
    taca_buf_finish(&w->bytes);
    free(w);
}

bool pool_send(struct pool *p, const struct wire_msg *m, int patience_ms) {
    if (!p->ready || !p->pipe_open || p->closing) return false;
    struct pending_write *w = calloc(1, sizeof *w);
    if (!w) return false;
    taca_buf_init(&w->bytes, MAX_MESSAGE);
    wire_put(&w->bytes, m);
    uv_buf_t buf = uv_buf_init(w->bytes.data, (unsigned)w->bytes.len);
    if (w->bytes.failed || uv_write(&w->req, (uv_stream_t *)&p->pipe, &buf, 1, on_written) < 0) {
        taca_buf_finish(&w->bytes);
        free(w);
        return false;
    }
    if (m->type != WIRE_CLOSE && m->type != WIRE_QUIT && m->type != WIRE_LOG) {
        uv_update_time(p->opts.loop);
        p->of[lane_of(m->type)].until = uv_now(p->opts.loop) + (uint64_t)patience_ms;
        p->of[lane_of(m->type)].due++;
        watch(p);
    }
    return true;
}

void pool_tell_log_level(struct pool *p) {
    struct wire_msg m;
    memset(&m, 0, sizeof m);
    m.type = WIRE_LOG;
    m.u.log.least = taca_log_least();
    /* one that is not there yet was told by its command line, perhaps another level */
    p->log_level_late = p->child_lives && !pool_send(p, &m, 0);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void on_patience_over(uv_timer_t *t) {
    struct pool *p = t->data;
    if (p->child_lives) uv_process_kill(&p->child, SIGKILL);
}

void pool_close(struct pool *p, int patience_ms, void (*done)(void *ctx), void *ctx) {
    p->done = done;
    p->done_ctx = ctx;
    uv_timer_stop(&p->timer);
    if (!p->child_lives) {
        p->closing = true;
        uv_close((uv_handle_t *)&p->timer, on_handle_closed);
        return;
    }
    if (patience_ms < 1 || !pool_send(p, &(struct wire_msg){.type = WIRE_QUIT}, 0))
        uv_process_kill(&p->child, SIGKILL);
    else
        uv_timer_start(&p->timer, on_patience_over, (uint64_t)patience_ms, 0);
    p->closing = true;
}
