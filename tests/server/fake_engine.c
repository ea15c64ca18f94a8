/* fake_engine.c - engine.h without a model, for tests of the service.
 *
 * With TACA_FAKE_SIDE_MS it opens and decodes beside its steps, each for so long.
 *
 * Pixels are a function of prompt, seed, size, steps and what they start from, and of nothing else,
 * so two runs of a request can be compared byte for byte. TACA_FAKE_STEP_MS is the time of a step,
 * and TACA_FAKE_PIXEL_NS is added for each pixel of those who share it. Words in the prompt make
 * faults: crash, garble (what it says to the service), hang, device (in the second step), nan
 * (decoding), stuck (decoding never ends), refuse (opening), together (a step of more than one
 * fails), slow (ten times the step time). */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/engine.h"

enum { WORKER_PIPE = 3 };
static const char nonsense[] =
    "\xff\xfe this is no message that the service knows, nor as long as it says";

struct taca_engine {
    struct taca_model_info info;
    uint64_t salt; /* models of other names make other pictures */
    int open;      /* sequences */
    size_t peak_bytes;
    long step_us, pixel_ns;
    long side_us; /* < 0: nothing is done beside steps */
    int64_t step_until_us, side_until_us;
    struct taca_seq *stepping[64], *opening, *decoding;
    int n_stepping;
    struct taca_lora_info loras[TACA_MAX_SERVED_LORAS];
    int n_loras;
};

struct taca_seq {
    uint64_t state;
    int step, steps, width_px, height_px;
    bool crash, garble, hang, device, nan, together, slow, stuck;
    enum taca_preview preview;
};

/* A file KIND-DEVICE or KIND-MODEL in $TACA_FAKE_FAULTS makes a fault while it is there: load (does
 * not end), open,
 * kill, lost (of the device), hang, and with a number in it rows (of a step) and room (for
 * sequences), above which memory runs out. -1 = no such fault. */
static int fault(const struct taca_engine *e, const char *kind) {
    const char *dir = getenv("TACA_FAKE_FAULTS");
    const char *of[] = {e->info.device, e->info.id};
    for (int i = 0; i < 2 && dir; i++) {
        char path[4096], text[16] = "";
        snprintf(path, sizeof path, "%s/%s-%s", dir, kind, of[i]);
        FILE *f = fopen(path, "re");
        if (!f) continue;
        (void)!fgets(text, sizeof text, f);
        fclose(f);
        return (int)strtol(text, NULL, 10);
    }
    return -1;
}

enum taca_code taca_engine_open(struct taca_engine **out, const struct taca_engine_opts *opts,
                                struct taca_err *err) {
    if (access(opts->model_path, R_OK) != 0 || strstr(opts->model_path, "broken"))
        return taca_fail(err, TACA_ENOTFOUND, "%s: no model here", opts->model_path);
    struct taca_engine *e = calloc(1, sizeof *e);
    if (!e) return taca_fail(err, TACA_ENOMEM, "fake engine");
    const char *ms = getenv("TACA_FAKE_STEP_MS");
    const char *ns = getenv("TACA_FAKE_PIXEL_NS");
    e->step_us = (ms ? strtol(ms, NULL, 10) : 5) * 1000;
    e->pixel_ns = ns ? strtol(ns, NULL, 10) : 0;
    const char *side = getenv("TACA_FAKE_SIDE_MS");
    e->side_us = side ? strtol(side, NULL, 10) * 1000 : -1;
    e->info = (struct taca_model_info){.default_width_px = 128,
                                       .default_height_px = 128,
                                       .default_steps = 8,
                                       .default_cfg_scale = 4.5,
                                       .min_side_px = 64,
                                       .max_side_px = 2048,
                                       .side_multiple_px = 16,
                                       .takes_images = true,
                                       .has_taesd = opts->taesd != NULL,
                                       .clip_tokens = 77};
    snprintf(e->info.id, sizeof e->info.id, "%s", opts->model_id ? opts->model_id : "fake");
    snprintf(e->info.family, sizeof e->info.family, "sd3");
    snprintf(e->info.backend, sizeof e->info.backend, "fake");
    snprintf(e->info.device, sizeof e->info.device, "%s", opts->device ? opts->device : "none");
    for (const char *c = opts->model_id ? opts->model_id : ""; *c; c++)
        e->salt = (e->salt ^ (unsigned char)*c) * 0x100000001B3u;
    while (fault(e, "load") >= 0) usleep(10000);
    if (fault(e, "open") >= 0) {
        taca_engine_close(e);
        return taca_fail(err, TACA_EDEVICE, "%s is not there", opts->device);
    }
    snprintf(e->info.precision, sizeof e->info.precision, "f32");
    *out = e;
    return TACA_OK;
}

void taca_engine_close(struct taca_engine *e) { free(e); }

enum taca_code taca_engine_check_device(const char *device, bool there, struct taca_err *err) {
    (void)device, (void)there, (void)err;
    return TACA_OK; /* tests call theirs what they like */
}

bool taca_engine_misses_device(const char *device, struct taca_err *why) {
    (void)device, (void)why;
    return false;
}

enum taca_code taca_engine_plan(struct taca_engine *e, const struct taca_gen_params *p, int n,
                                struct taca_plan *out, struct taca_err *err) {
    const char *bytes = getenv("TACA_FAKE_BYTES");
    (void)e, (void)p, (void)n, (void)err;
    *out = (struct taca_plan){.peak_bytes = bytes ? strtoull(bytes, NULL, 10) : 1 << 20};
    return TACA_OK;
}

/* A device called gpu... has 8 GiB. */
void taca_engine_memory(const struct taca_engine *e, struct taca_memory_use *out) {
    bool own = strncmp(e->info.device, "gpu", 3) == 0;
    *out = (struct taca_memory_use){.scratch_peak_bytes = e->peak_bytes};
    if (!own) return;
    out->device_total_bytes = (size_t)8 << 30;
    out->device_used_bytes = ((size_t)3 << 30) + ((size_t)e->open << 20);
}

const struct taca_model_info *taca_engine_info(const struct taca_engine *e) { return &e->info; }

static void sleep_until(int64_t until_us) {
    const int64_t us = until_us - taca_now_us();
    if (us > 0) usleep((useconds_t)us);
}

bool taca_overlaps(const struct taca_engine *e) { return e->side_us >= 0; }
bool taca_step_done(const struct taca_engine *e) { return taca_now_us() >= e->step_until_us; }
bool taca_side_done(struct taca_engine *e) { return taca_now_us() >= e->side_until_us; }
static void begin_side(struct taca_engine *e) {
    e->side_until_us = taca_now_us() + (e->side_us > 0 ? e->side_us : 0);
}

enum taca_code taca_seq_open_begin(struct taca_engine *e, const struct taca_gen_params *p,
                                   struct taca_seq **out, unsigned *warnings,
                                   struct taca_err *err) {
    if (e->opening || e->decoding) return taca_fail(err, TACA_EBUSY, "one is at work");
    enum taca_code rc = taca_gen_params_check(p, &e->info, err);
    if (rc) return rc;
    if (strstr(p->prompt, "refuse"))
        return taca_fail_param(err, "prompt", "prompt must not ask to be refused");
    int room = fault(e, "room");
    if (room >= 0 && e->open >= room)
        return taca_fail(err, TACA_ENOMEM, "no memory for another one");
    struct taca_seq *s = calloc(1, sizeof *s);
    if (!s) return taca_fail(err, TACA_ENOMEM, "fake sequence");
    e->open++;
    s->state = e->salt + p->seed * 0x9E3779B97F4A7C15u + (uint64_t)p->steps;
    for (const char *c = p->prompt; *c; c++)
        s->state = (s->state ^ (unsigned char)*c) * 0x100000001B3u;
    const size_t pixels = (size_t)p->width_px * (size_t)p->height_px;
    for (size_t i = 0; p->image && i < 3 * pixels; i++)
        s->state = (s->state ^ p->image[i]) * 0x100000001B3u;
    for (size_t i = 0; p->mask && i < pixels; i++)
        s->state = (s->state ^ (p->mask[i] >= 128)) * 0x100000001B3u;
    s->steps = taca_gen_params_forwards(p);
    s->width_px = p->width_px;
    s->preview = p->preview;
    s->height_px = p->height_px;
    s->crash = strstr(p->prompt, "crash") != NULL;
    s->garble = strstr(p->prompt, "garble") != NULL;
    s->hang = strstr(p->prompt, "hang") != NULL;
    s->device = strstr(p->prompt, "device") != NULL;
    s->nan = strstr(p->prompt, "nan") != NULL;
    s->together = strstr(p->prompt, "together") != NULL;
    s->slow = strstr(p->prompt, "slow") != NULL;
    s->stuck = strstr(p->prompt, "stuck") != NULL;
    if (warnings) *warnings = strlen(p->prompt) > 300 ? TACA_WARN_PROMPT_CUT : 0;
    *out = e->opening = s;
    begin_side(e);
    return TACA_OK;
}

enum taca_code taca_seq_open_end(struct taca_engine *e, struct taca_err *err) {
    if (!e->opening) return taca_fail(err, TACA_EINVAL, "nothing is opened");
    sleep_until(e->side_until_us);
    e->opening = NULL;
    return TACA_OK;
}

enum taca_code taca_seq_open(struct taca_engine *e, const struct taca_gen_params *p,
                             struct taca_seq **out, unsigned *warnings, struct taca_err *err) {
    enum taca_code rc = taca_seq_open_begin(e, p, out, warnings, err);
    return rc ? rc : taca_seq_open_end(e, err);
}

void taca_seq_close(struct taca_engine *e, struct taca_seq *s) {
    if (s) e->open--;
    if (s && e->opening == s) e->opening = NULL;
    if (s && e->decoding == s) e->decoding = NULL;
    free(s);
}
int taca_seq_step(const struct taca_seq *s) { return s->step; }
int taca_seq_steps(const struct taca_seq *s) { return s->steps; }
bool taca_seq_done(const struct taca_seq *s) { return s->step == s->steps; }
int taca_seq_tokens(const struct taca_engine *e, const struct taca_seq *s) {
    return 2 * (s->width_px / 16 * (s->height_px / 16) + e->info.clip_tokens);
}

enum taca_code taca_step_begin(struct taca_engine *e, struct taca_seq *const *seqs, int n,
                               struct taca_err *err) {
    long us = e->step_us;
    if (e->n_stepping) return taca_fail(err, TACA_EBUSY, "a step is at work");
    int rows = fault(e, "rows");
    if (fault(e, "kill") >= 0) raise(SIGKILL);
    if (fault(e, "hang") >= 0) pause();
    if (fault(e, "lost") >= 0) return taca_fail(err, TACA_EDEVICE, "%s is lost", e->info.device);
    if (rows >= 0 && n > rows) return taca_fail(err, TACA_ENOMEM, "no memory for %d rows", n);
    for (int i = 0; i < n; i++) {
        const struct taca_seq *s = seqs[i];
        if (s->step >= s->steps) return taca_fail(err, TACA_EINVAL, "a finished sequence");
        if (s->together && n > 1) return taca_fail(err, TACA_ENOMEM, "no memory for %d", n);
        if (s->slow) us = 10 * e->step_us;
        us += (long)s->width_px * s->height_px * e->pixel_ns / 1000;
        if (s->step != 1) continue;
        if (s->crash) raise(SIGKILL);
        if (s->hang) pause();
        if (s->garble) (void)!write(WORKER_PIPE, nonsense, sizeof nonsense);
        if (s->device) return taca_fail(err, TACA_EDEVICE, "the device has fallen off");
    }
    if ((size_t)n << 20 > e->peak_bytes) e->peak_bytes = (size_t)n << 20;
    e->step_until_us = taca_now_us() + us;
    e->n_stepping = n;
    memcpy(e->stepping, seqs, (size_t)n * sizeof *seqs);
    return TACA_OK;
}

enum taca_code taca_step_end(struct taca_engine *e, struct taca_err *err) {
    if (!e->n_stepping) return taca_fail(err, TACA_EINVAL, "no step is at work");
    sleep_until(e->step_until_us);
    for (int i = 0; i < e->n_stepping; i++) e->stepping[i]->step++;
    e->n_stepping = 0;
    return TACA_OK;
}

enum taca_code taca_step(struct taca_engine *e, struct taca_seq *const *seqs, int n,
                         struct taca_err *err) {
    enum taca_code rc = taca_step_begin(e, seqs, n, err);
    return rc ? rc : taca_step_end(e, err);
}

static enum taca_code paint(const struct taca_seq *s, int shrink, struct taca_image *out,
                            struct taca_err *err) {
    struct taca_image img = {s->width_px / shrink, s->height_px / shrink, NULL};
    size_t bytes = (size_t)img.width_px * (size_t)img.height_px * 3;
    uint64_t x = s->state | 1;
    img.rgb = malloc(bytes);
    if (!img.rgb) return taca_fail(err, TACA_ENOMEM, "fake image");
    for (size_t i = 0; i < bytes; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        img.rgb[i] = (uint8_t)(x >> 32);
    }
    *out = img;
    return TACA_OK;
}

enum taca_code taca_seq_preview(struct taca_engine *e, const struct taca_seq *s,
                                struct taca_image *out, struct taca_err *err) {
    (void)e;
    return paint(s, s->preview == TACA_PREVIEW_TAESD ? 1 : 8, out, err);
}

enum taca_code taca_decode_begin(struct taca_engine *e, struct taca_seq *s, struct taca_err *err) {
    if (e->opening || e->decoding) return taca_fail(err, TACA_EBUSY, "one is at work");
    if (s->step != s->steps) return taca_fail(err, TACA_EINVAL, "decoding an unfinished one");
    e->decoding = s;
    begin_side(e);
    if (s->stuck) e->side_until_us = INT64_MAX;
    return TACA_OK;
}

enum taca_code taca_decode_end(struct taca_engine *e, struct taca_image *out,
                               struct taca_err *err) {
    struct taca_seq *s = e->decoding;
    if (!s) return taca_fail(err, TACA_EINVAL, "nothing is decoded");
    sleep_until(e->side_until_us);
    e->decoding = NULL;
    if (s->nan) return taca_fail(err, TACA_ENUMERIC, "the latent is not finite");
    return paint(s, 1, out, err);
}

enum taca_code taca_decode(struct taca_engine *e, struct taca_seq *const *seqs, int n,
                           struct taca_image *out, struct taca_err *err) {
    if (n != 1) return taca_fail(err, TACA_EINVAL, "decoding %d", n);
    enum taca_code rc = taca_decode_begin(e, seqs[0], err);
    return rc ? rc : taca_decode_end(e, out, err);
}

/* No file is read: each has one pair of rank 4. */
enum taca_code taca_lora_open(struct taca_engine *e, const char *id, const char *path,
                              void (*warn)(void *ctx, const char *text), void *ctx,
                              struct taca_err *err) {
    (void)warn, (void)ctx;
    if (strstr(path, "broken"))
        return taca_fail(err, TACA_EFORMAT, "%s: no adapter for this model", path);
    struct taca_lora_info *l = &e->loras[e->n_loras++];
    snprintf(l->id, sizeof l->id, "%s", id);
    snprintf(l->naming, sizeof l->naming, "fake");
    l->modules = 1;
    l->rank = 4;
    return TACA_OK;
}

const struct taca_lora_info *taca_lora_at(const struct taca_engine *e, int i) {
    return i < e->n_loras ? &e->loras[i] : NULL;
}
