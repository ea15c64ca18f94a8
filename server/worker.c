/* worker.c - the child process: an engine that does what the pipe says, one command at a time.
 *
 * It has the pipe (3), the memory for pixels (4) and the log (2), and nothing else: no sockets, no
 * keys, no queue. When the pipe closes it ends; when its device is broken for good it ends too and
 * leaves the rest to the parent, who starts another. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/pool.h"
#include "server/serve.h"
#include "server/worker_calibrate.h"
#include "server/worker_memory.h"

enum { PIPE_FD = 3, PIXELS_FD = 4, MAX_OPEN = 4 * WIRE_MAX_SEQS, EXIT_DEVICE = 3 };

struct worker {
    struct taca_engine *engine;
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

/* The next command; its tail lies in w->in until the next call. `used` carries over. */
static bool hear(struct worker *w, struct wire_msg *m, size_t *used) {
    if (*used) memmove(w->in.data, w->in.data + *used, w->in.len - *used);
    w->in.len -= *used;
    *used = 0;
    for (;;) {
        struct taca_err err = {0};
        long n = wire_get(m, w->in.data, w->in.len, &err);
        if (n < 0) taca_log(TACA_LOG_ERROR, "worker: %s", err.text);
        if (n < 0) return false;
        if (n > 0) return *used = (size_t)n, true;
        char *room = taca_buf_reserve(&w->in, 4096);
        if (!room) return false;
        ssize_t got = read(PIPE_FD, room, 4096);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
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

/* ---- commands: each fills the answer and returns its code ------------------------------------ */

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

static enum taca_code do_open(struct worker *w, const struct wire_msg *m, struct wire_opened *a,
                              struct taca_err *err) {
    struct taca_arena arena = {0};
    struct taca_gen_params params;
    struct taca_seq *seq = NULL;
    unsigned warnings = 0;
    const uint64_t id = m->u.open.id;
    int at = find(w, 0);
    enum taca_code rc = taca_gen_params_unpack(&params, m->tail, m->tail_len, &arena, err);
    if (!rc && (at < 0 || id == 0 || find(w, id) >= 0))
        rc = taca_fail(err, TACA_EPROTO, "worker: no place for another sequence");
    if (!rc) rc = take_input(w, &m->u.open, &params, err);
    if (!rc) rc = taca_seq_open(w->engine, &params, &seq, &warnings, err);
    if (!rc) {
        w->open[at].id = id;
        w->open[at].seq = seq;
        a->warnings = warnings;
        a->steps = taca_seq_steps(seq);
        a->tokens = taca_seq_tokens(w->engine, seq);
    }
    taca_arena_finish(&arena);
    return rc;
}

static enum taca_code do_step(struct worker *w, const struct wire_step *c, struct wire_stepped *a,
                              struct taca_err *err) {
    struct taca_seq *seqs[WIRE_MAX_SEQS];
    for (int64_t i = 0; i < c->n; i++) {
        seqs[i] = seq_of(w, c->ids[i], err);
        if (!seqs[i]) return TACA_EPROTO;
        a->tokens += taca_seq_tokens(w->engine, seqs[i]);
    }
    a->n = (int32_t)c->n;
    return taca_step(w->engine, seqs, (int)c->n, err);
}

static enum taca_code do_decode(struct worker *w, const struct wire_decode *c,
                                struct wire_pixels *a, struct taca_err *err) {
    struct taca_image img = {0};
    struct taca_seq *seq = seq_of(w, c->id, err);
    a->slot = (int32_t)c->slot;
    if (!seq || c->slot >= POOL_SLOTS)
        return taca_fail(err, TACA_EPROTO, "worker: slot %d", (int)c->slot);
    enum taca_code rc = taca_decode(w->engine, &seq, 1, &img, err);
    if (rc) return rc;
    size_t bytes = (size_t)img.width_px * (size_t)img.height_px * 3;
    if (bytes > w->max_pixels * POOL_SLOT_BPP) {
        rc = taca_fail(err, TACA_EINTERNAL, "an image of %d x %d does not fit a slot of %zu pixels",
                       img.width_px, img.height_px, w->max_pixels);
    } else {
        memcpy(w->pixels + w->max_pixels * POOL_SLOT_BPP * (size_t)c->slot, img.rgb, bytes);
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

/* Runs one command and answers it. False ends the process. */
static bool serve_one(struct worker *w, const struct wire_msg *m, enum taca_code *rc) {
    struct taca_err err = {0};
    struct taca_image img = {0};
    struct wire_msg a;
    int64_t start = taca_now_us();
    memset(&a, 0, sizeof a); /* padding goes over the pipe too */
    switch (m->type) {
    case WIRE_OPEN:
        a.type = WIRE_OPENED;
        a.u.opened.id = m->u.open.id;
        *rc = do_open(w, m, &a.u.opened, &err);
        wire_err_set(&a.u.opened.err, &err, *rc);
        a.u.opened.ms = since_ms(start);
        break;
    case WIRE_STEP:
        a.type = WIRE_STEPPED;
        *rc = do_step(w, &m->u.step, &a.u.stepped, &err);
        wire_err_set(&a.u.stepped.err, &err, *rc);
        a.u.stepped.ms = since_ms(start);
        break;
    case WIRE_PREVIEW:
    case WIRE_DECODE:
        a.type = m->type == WIRE_DECODE ? WIRE_DECODED : WIRE_PREVIEWED;
        a.u.pixels.id = m->type == WIRE_DECODE ? m->u.decode.id : m->u.seq.id;
        a.u.pixels.slot = -1;
        *rc = m->type == WIRE_DECODE ? do_decode(w, &m->u.decode, &a.u.pixels, &err)
                                     : do_preview(w, m->u.seq.id, &img, &a, &err);
        wire_err_set(&a.u.pixels.err, &err, *rc);
        a.u.pixels.ms = since_ms(start);
        break;
    case WIRE_CALIBRATE:
        a.type = WIRE_CALIBRATED;
        *rc = worker_calibrate(w->engine, &m->u.calibrate, &a.u.calibrated, &err);
        wire_err_set(&a.u.calibrated.err, &err, *rc);
        break;
    case WIRE_CLOSE: close_seq(w, m->u.seq.id); return true;
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
    case WIRE_TYPES_END:
        taca_log(TACA_LOG_ERROR, "worker: command %d is none", (int)m->type);
        return false;
    }
    bool said = !may_have_moved(a.type, *rc) || tell_memory(w);
    said = said && say(w, &a);
    taca_image_finish(&img);
    return said;
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
    bool go_on = rc == TACA_OK && greet(w, opts);
    struct wire_msg m;
    size_t used = 0;
    while (go_on && hear(w, &m, &used)) {
        rc = TACA_OK;
        go_on = serve_one(w, &m, &rc) && rc != TACA_EDEVICE;
    }
    for (int i = 0; i < MAX_OPEN; i++)
        if (w->open[i].id) close_seq(w, w->open[i].id);
    taca_engine_close(w->engine);
    if (w->pixels) munmap(w->pixels, w->max_pixels * POOL_BPP);
    taca_buf_finish(&w->in);
    taca_buf_finish(&w->out);
    free(w);
    return rc == TACA_EDEVICE ? EXIT_DEVICE : rc == TACA_OK ? 0 : 1;
}
