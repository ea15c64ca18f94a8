/* worker.c - the child process: an engine that does what the pipe says: a step at a time, and where
 * the engine can, one opening or decoding beside it.
 *
 * It has the pipe (3), the memory for pixels (4) and the log (2), and nothing else: no sockets, no
 * keys, no queue. When the pipe closes it ends; when its device is broken for good it ends too and
 * leaves the rest to the parent, who starts another. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/request.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/pool.h"
#include "server/serve.h"
#include "server/worker_calibrate.h"
#include "server/worker_memory.h"

enum { PIPE_FD = 3, PIXELS_FD = 4, MAX_OPEN = 4 * WIRE_MAX_SEQS, EXIT_DEVICE = 3 };

/* A command that is at work; answered when it ends. */
struct at_work {
    bool on;
    int64_t start_us;
    struct wire_msg answer;
    struct taca_seq *seq; /* that is opened */
    bool close;           /* its sequence, then */
};

struct worker {
    struct taca_engine *engine;
    struct at_work step, side; /* side: OPEN or DECODE */
    struct wire_step stepping; /* whose step it is */
    bool lost;                 /* the device is broken for good */
    struct {
        uint64_t id; /* 0 = free */
        struct taca_seq *seq;
    } open[MAX_OPEN];
    uint8_t *pixels;
    size_t max_pixels;
    struct taca_buf in, out;
    struct wire_memory told;
};

/* ---- the pipe -------------------------------------------------------------------------------- */

static bool say(struct worker *w, const struct wire_msg *m) {
    taca_buf_reset(&w->out);
    wire_put(&w->out, m);
    if (w->out.failed) return false;
    for (size_t at = 0; at < w->out.len;) {
        ssize_t n = write(PIPE_FD, w->out.data + at, w->out.len - at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        at += (size_t)n;
    }
    return true;
}

/* Does the pipe speak within the time, or end? */
static bool pipe_speaks(int wait_us) {
    struct pollfd pipe = {.fd = PIPE_FD, .events = POLLIN};
    const struct timespec t = {.tv_nsec = wait_us * 1000L};
    return ppoll(&pipe, 1, &t, NULL) != 0;
}

/* The next command; its tail lies in w->in until the next call. `used` carries over. QUIET: there
 * is none yet, only while something is at work. */
enum heard { HEARD, QUIET, ENDED };
static enum heard hear(struct worker *w, struct wire_msg *m, size_t *used, bool busy) {
    enum { ASK_US = 50 }; /* how often the device is asked whether it is done */
    if (*used) memmove(w->in.data, w->in.data + *used, w->in.len - *used);
    w->in.len -= *used;
    *used = 0;
    for (;;) {
        struct taca_err err = {0};
        long n = wire_get(m, w->in.data, w->in.len, &err);
        if (n < 0) taca_log(TACA_LOG_ERROR, "worker: %s", err.text);
        if (n < 0) return ENDED;
        if (n > 0) return *used = (size_t)n, HEARD;
        if (busy && !pipe_speaks(ASK_US)) return QUIET;
        char *room = taca_buf_reserve(&w->in, 4096);
        if (!room) return ENDED;
        ssize_t got = read(PIPE_FD, room, 4096);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return ENDED;
        w->in.len += (size_t)got;
    }
}

/* ---- sequences ------------------------------------------------------------------------------- */

static int find(const struct worker *w, uint64_t id) {
    for (int i = 0; i < MAX_OPEN; i++)
        if (w->open[i].id == id) return i;
    return -1;
}

static struct taca_seq *seq_of(const struct worker *w, uint64_t id, struct taca_err *err) {
    int i = id ? find(w, id) : -1;
    if (i < 0)
        (void)taca_fail(err, TACA_EPROTO, "worker: no sequence %llu", (unsigned long long)id);
    return i < 0 ? NULL : w->open[i].seq;
}

static void close_seq(struct worker *w, uint64_t id) {
    int i = id ? find(w, id) : -1;
    if (i < 0) return; /* its opening had failed */
    taca_seq_close(w->engine, w->open[i].seq);
    w->open[i].id = 0;
    w->open[i].seq = NULL;
}

static double since_ms(int64_t start_us) { return (double)(taca_now_us() - start_us) / 1000.0; }

/* ---- parts of commands: each returns the answer's code --------------------------------------- */

/* The pixels that lie in the shared memory; the engine copies what it needs of them. */
static enum taca_code take_input(const struct worker *w, const struct wire_open *c,
                                 struct taca_gen_params *p, struct taca_err *err) {
    const uint8_t *at = w->pixels + w->max_pixels * POOL_SLOT_BPP * POOL_SLOTS;
    const size_t image = (size_t)c->image_bytes;
    p->image = p->mask = NULL;
    if (image == 0) return TACA_OK;
    if (p->width_px < 1 || p->height_px < 1 || image > 3 * w->max_pixels ||
        image != (size_t)p->width_px * (size_t)p->height_px * 3)
        return taca_fail(err, TACA_EPROTO, "worker: %zu bytes of pixels for %d x %d", image,
                         p->width_px, p->height_px);
    p->image = at;
    if (c->mask_bytes) p->mask = at + image;
    return TACA_OK;
}

static enum taca_code begin_open(struct worker *w, const struct wire_msg *m, struct at_work *k,
                                 struct taca_err *err) {
    struct taca_arena arena = {0};
    struct taca_gen_params params;
    unsigned warnings = 0;
    const uint64_t id = m->u.open.id;
    int at = find(w, 0);
    enum taca_code rc = taca_gen_params_unpack(&params, m->tail, m->tail_len, &arena, err);
    if (!rc && (at < 0 || id == 0 || find(w, id) >= 0))
        rc = taca_fail(err, TACA_EPROTO, "worker: no place for another sequence");
    if (!rc) rc = take_input(w, &m->u.open, &params, err);
    if (!rc) rc = taca_seq_open_begin(w->engine, &params, &k->seq, &warnings, err);
    if (!rc) {
        w->open[at].id = id;
        w->open[at].seq = k->seq;
        k->answer.u.opened.warnings = warnings;
        k->answer.u.opened.steps = taca_seq_steps(k->seq);
        k->answer.u.opened.tokens = taca_seq_tokens(w->engine, k->seq);
    }
    taca_arena_finish(&arena);
    return rc;
}

static enum taca_code end_open(struct worker *w, uint64_t id, struct taca_err *err) {
    enum taca_code rc = taca_seq_open_end(w->engine, err);
    if (rc) w->open[find(w, id)].id = 0; /* and the sequence is closed */
    return rc;
}

static enum taca_code begin_step(struct worker *w, const struct wire_step *c,
                                 struct wire_stepped *a, struct taca_err *err) {
    struct taca_seq *seqs[WIRE_MAX_SEQS];
    for (int64_t i = 0; i < c->n; i++) {
        seqs[i] = seq_of(w, c->ids[i], err);
        if (!seqs[i]) return TACA_EPROTO;
        a->tokens += taca_seq_tokens(w->engine, seqs[i]);
    }
    a->n = (int32_t)c->n;
    return taca_step_begin(w->engine, seqs, (int)c->n, err);
}

static enum taca_code begin_decode(struct worker *w, const struct wire_decode *c,
                                   struct wire_pixels *a, struct taca_err *err) {
    struct taca_seq *seq = seq_of(w, c->id, err);
    a->slot = (int32_t)c->slot;
    if (!seq || c->slot >= POOL_SLOTS)
        return taca_fail(err, TACA_EPROTO, "worker: slot %d", (int)c->slot);
    return taca_decode_begin(w->engine, seq, err);
}

static enum taca_code end_decode(struct worker *w, struct wire_pixels *a, struct taca_err *err) {
    struct taca_image img = {0};
    enum taca_code rc = taca_decode_end(w->engine, &img, err);
    if (rc) return rc;
    size_t bytes = (size_t)img.width_px * (size_t)img.height_px * 3;
    if (bytes > w->max_pixels * POOL_SLOT_BPP) {
        rc = taca_fail(err, TACA_EINTERNAL, "an image of %d x %d does not fit a slot of %zu pixels",
                       img.width_px, img.height_px, w->max_pixels);
    } else {
        memcpy(w->pixels + w->max_pixels * POOL_SLOT_BPP * (size_t)a->slot, img.rgb, bytes);
        a->width_px = img.width_px;
        a->height_px = img.height_px;
    }
    taca_image_finish(&img);
    return rc;
}

static enum taca_code do_preview(struct worker *w, uint64_t id, struct taca_image *img,
                                 struct wire_msg *a, struct taca_err *err) {
    struct taca_seq *seq = seq_of(w, id, err);
    enum taca_code rc = seq ? taca_seq_preview(w->engine, seq, img, err) : TACA_EPROTO;
    if (rc) return rc;
    /* a decoder's is as large as the picture, and none is told at this size */
    api_preview_shrink(img, API_MAX_PREVIEW_PX);
    a->tail = img->rgb;
    a->tail_len = (size_t)img->width_px * (size_t)img->height_px * 3;
    a->u.pixels.width_px = img->width_px;
    a->u.pixels.height_px = img->height_px;
    return TACA_OK;
}

/* Where the device's memory stands, if that is news. */
static bool tell_memory(struct worker *w) {
    struct taca_memory_use use;
    struct wire_msg m;
    taca_engine_memory(w->engine, &use);
    memset(&m, 0, sizeof m);
    m.type = WIRE_MEMORY;
    m.u.memory.device_used_bytes = (int64_t)use.device_used_bytes;
    m.u.memory.device_total_bytes = (int64_t)use.device_total_bytes;
    m.u.memory.scratch_peak_bytes = (int64_t)use.scratch_peak_bytes;
    if (memcmp(&m.u.memory, &w->told, sizeof w->told) == 0) return true;
    w->told = m.u.memory;
    return say(w, &m);
}

/* Asking a device takes some 10 us, so not after each step. */
static bool may_have_moved(enum wire_type answer, enum taca_code rc) {
    return answer == WIRE_OPENED || answer == WIRE_DECODED || rc == TACA_ENOMEM;
}

static bool answer(struct worker *w, const struct wire_msg *a, enum taca_code rc) {
    w->lost = w->lost || rc == TACA_EDEVICE;
    bool said = !may_have_moved(a->type, rc) || tell_memory(w);
    return said && say(w, a);
}

/* ---- what is at work ------------------------------------------------------------------------- */

static bool end_step(struct worker *w, enum taca_code rc, struct taca_err *err) {
    struct wire_stepped *a = &w->step.answer.u.stepped;
    if (w->step.on) rc = taca_step_end(w->engine, err);
    w->step.on = false;
    wire_err_set(&a->err, err, rc);
    a->ms = since_ms(w->step.start_us);
    return answer(w, &w->step.answer, rc);
}

static bool end_side(struct worker *w, enum taca_code rc, struct taca_err *err) {
    struct at_work *k = &w->side;
    const bool opens = k->answer.type == WIRE_OPENED;
    const uint64_t id = opens ? k->answer.u.opened.id : k->answer.u.pixels.id;
    if (k->on) rc = opens ? end_open(w, id, err) : end_decode(w, &k->answer.u.pixels, err);
    k->on = false;
    wire_err_set(opens ? &k->answer.u.opened.err : &k->answer.u.pixels.err, err, rc);
    *(opens ? &k->answer.u.opened.ms : &k->answer.u.pixels.ms) = since_ms(k->start_us);
    if (k->close) close_seq(w, id);
    return answer(w, &k->answer, rc);
}

/* Answers what has ended, or all that is at work, waiting for it. False ends the process. */
static bool settle_work(struct worker *w, bool step, bool side) {
    struct taca_err err = {0}, side_err = {0};
    if (w->step.on && step && !end_step(w, TACA_OK, &err)) return false;
    return !w->side.on || !side || end_side(w, TACA_OK, &side_err);
}

static bool look_after(struct worker *w) {
    return settle_work(w, w->step.on && taca_step_done(w->engine),
                       w->side.on && taca_side_done(w->engine));
}

static struct wire_msg *new_work(struct at_work *k, enum wire_type answer) {
    *k = (struct at_work){.start_us = taca_now_us()};
    memset(&k->answer, 0, sizeof k->answer); /* padding goes over the pipe too */
    k->answer.type = answer;
    return &k->answer;
}

/* What cannot begin is answered at once. */
static bool start_step(struct worker *w, const struct wire_msg *m) {
    struct taca_err err = {0};
    if (!settle_work(w, true, false)) return false;
    struct wire_msg *a = new_work(&w->step, WIRE_STEPPED);
    const enum taca_code rc = begin_step(w, &m->u.step, &a->u.stepped, &err);
    w->step.on = rc == TACA_OK;
    w->stepping = m->u.step;
    return w->step.on || end_step(w, rc, &err);
}

static bool start_side(struct worker *w, const struct wire_msg *m) {
    const bool opens = m->type == WIRE_OPEN;
    struct taca_err err = {0};
    enum taca_code rc;
    if (!settle_work(w, false, true)) return false;
    struct wire_msg *a = new_work(&w->side, opens ? WIRE_OPENED : WIRE_DECODED);
    if (opens) {
        a->u.opened.id = m->u.open.id;
        rc = begin_open(w, m, &w->side, &err);
    } else {
        a->u.pixels.id = m->u.decode.id;
        a->u.pixels.slot = -1;
        rc = begin_decode(w, &m->u.decode, &a->u.pixels, &err);
    }
    w->side.on = rc == TACA_OK;
    return w->side.on || end_side(w, rc, &err);
}

/* Not before what is at work with it has ended. */
static bool close_later(struct worker *w, uint64_t id) {
    const struct wire_msg *a = &w->side.answer;
    if (w->side.on && (a->type == WIRE_OPENED ? a->u.opened.id : a->u.pixels.id) == id)
        return w->side.close = true;
    bool steps = false;
    for (int64_t i = 0; w->step.on && i < w->stepping.n; i++)
        steps = steps || w->stepping.ids[i] == id;
    if (!settle_work(w, steps, false)) return false;
    close_seq(w, id);
    return true;
}

/* ---- commands -------------------------------------------------------------------------------- */

/* Those that have the engine to themselves. */
static bool do_alone(struct worker *w, const struct wire_msg *m) {
    const bool preview = m->type == WIRE_PREVIEW;
    struct taca_err err = {0};
    struct taca_image img = {0};
    struct wire_msg a;
    enum taca_code rc;
    if (!settle_work(w, true, !preview)) return false;
    int64_t start = taca_now_us();
    memset(&a, 0, sizeof a); /* padding goes over the pipe too */
    a.type = preview ? WIRE_PREVIEWED : WIRE_CALIBRATED;
    if (preview) {
        a.u.pixels.id = m->u.seq.id;
        a.u.pixels.slot = -1;
        rc = do_preview(w, m->u.seq.id, &img, &a, &err);
        wire_err_set(&a.u.pixels.err, &err, rc);
        a.u.pixels.ms = since_ms(start);
    } else {
        rc = worker_calibrate(w->engine, &m->u.calibrate, &a.u.calibrated, &err);
        wire_err_set(&a.u.calibrated.err, &err, rc);
    }
    bool said = answer(w, &a, rc);
    taca_image_finish(&img);
    return said;
}

/* Begins one command, or does and answers it. False ends the process. */
static bool serve_one(struct worker *w, const struct wire_msg *m) {
    switch (m->type) {
    case WIRE_OPEN:
    case WIRE_DECODE: return start_side(w, m);
    case WIRE_STEP: return start_step(w, m);
    case WIRE_PREVIEW:
    case WIRE_CALIBRATE: return do_alone(w, m);
    case WIRE_CLOSE: return close_later(w, m->u.seq.id);
    case WIRE_QUIT: return false;
    case WIRE_LOG:
        taca_log_level((enum taca_log_level)m->u.log.least);
        taca_log(TACA_LOG_DEBUG, "worker %d logs from debug on", (int)getpid());
        return true;
    case WIRE_MEMORY:
    case WIRE_HELLO:
    case WIRE_FAILED:
    case WIRE_OPENED:
    case WIRE_STEPPED:
    case WIRE_PREVIEWED:
    case WIRE_DECODED:
    case WIRE_CALIBRATED:
    case WIRE_TYPES_END: break;
    }
    taca_log(TACA_LOG_ERROR, "worker: command %d is none", (int)m->type);
    return false;
}

static void serve(struct worker *w) {
    struct wire_msg m;
    size_t used = 0;
    for (bool go_on = true; go_on && !w->lost;) {
        go_on = look_after(w);
        if (!go_on || w->lost) return;
        const enum heard heard = hear(w, &m, &used, w->step.on || w->side.on);
        if (heard == ENDED) return;
        if (heard == HEARD) go_on = serve_one(w, &m);
    }
}

/* ---- start and end --------------------------------------------------------------------------- */

/* When memory runs out the kernel shall take the worker, which is replaced, not the service. */
static void prefer_for_oom(void) {
    static const char score[] = "500";
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    (void)!write(fd, score, sizeof score - 1);
    close(fd);
}

/* Signals are for the parent: Ctrl-C and a service manager send them to the whole group, and a
 * drain needs the worker to the end. The parent's death is ours. */
static void settle(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "taca-worker");
    prefer_for_oom();
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    (void)close_range(PIXELS_FD + 1, ~0u, 0);
    int flags = fcntl(PIPE_FD, F_GETFL);
    if (flags >= 0) (void)fcntl(PIPE_FD, F_SETFL, flags & ~O_NONBLOCK);
}

static enum taca_code map_pixels(struct worker *w, struct taca_err *err) {
    struct stat st;
    if (fstat(PIXELS_FD, &st) < 0 || st.st_size < POOL_BPP)
        return taca_fail(err, TACA_EIO,
                         "worker: descriptor %d is no memory for pixels (this command "
                         "is started by `taca serve`)",
                         PIXELS_FD);
    void *at = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, PIXELS_FD, 0);
    if (at == MAP_FAILED) return taca_fail(err, TACA_ENOMEM, "worker: %s", strerror(errno));
    w->pixels = at;
    w->max_pixels = (size_t)st.st_size / POOL_BPP;
    return TACA_OK;
}

static bool greet(struct worker *w, const struct worker_opts *opts) {
    struct taca_model_info info;
    struct taca_err err = {0};
    struct wire_msg m;
    int64_t start = taca_now_us();
    memset(&m, 0, sizeof m);
    enum taca_code rc = opts->check_memory ? worker_memory_check(&opts->engine, &err) : TACA_OK;
    struct taca_err why = {0};
    if (taca_engine_misses_device(opts->engine.device, &why))
        taca_log(TACA_LOG_WARN, "%s; the CPU does it", why.text);
    if (!rc) rc = taca_engine_open(&w->engine, &opts->engine, &err);
    if (!rc) {
        info = *taca_engine_info(w->engine);
        rc = worker_loras_open(w->engine, &opts->loras, &info, &err);
    }
    if (rc) {
        m.type = WIRE_FAILED;
        wire_err_set(&m.u.opened.err, &err, rc);
        (void)say(w, &m);
        return false;
    }
    m.type = WIRE_HELLO;
    m.u.hello.model = info;
    m.u.hello.load_ms = since_ms(start);
    m.u.hello.overlaps = taca_overlaps(w->engine);
    taca_log(TACA_LOG_DEBUG, "worker %d, on %s, opened its model", (int)getpid(), info.device);
    return tell_memory(w) && say(w, &m);
}

int taca_worker(const struct worker_opts *opts) {
    struct taca_err err = {0};
    struct worker *w = calloc(1, sizeof *w);
    if (!w) return 1;
    settle();
    taca_buf_init(&w->in, WIRE_MAX_TAIL + 8192);
    taca_buf_init(&w->out, WIRE_MAX_TAIL + 8192);
    enum taca_code rc = map_pixels(w, &err);
    if (rc) taca_log(TACA_LOG_ERROR, "%s", err.text);
    if (rc == TACA_OK && greet(w, opts)) serve(w);
    for (int i = 0; i < MAX_OPEN; i++)
        if (w->open[i].id) close_seq(w, w->open[i].id);
    taca_engine_close(w->engine);
    if (w->pixels) munmap(w->pixels, w->max_pixels * POOL_BPP);
    taca_buf_finish(&w->in);
    taca_buf_finish(&w->out);
    const bool lost = w->lost;
    free(w);
    return lost ? EXIT_DEVICE : rc == TACA_OK ? 0 : 1;
}
