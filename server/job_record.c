/* job_record.c - see job_record.h. Numbers of eight bytes in the host's order, strings with their
 * length in front; one list of members serves both directions. */
#include "server/job_record.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_SIDE = 1 << 16 };
enum { REQUEST_MAGIC = 0x54524A03, OUTCOME_MAGIC = 0x544F4A01 }; /* change with the members */

/* Writes to `out`, or reads from `at` when there is none. */
struct record {
    struct taca_buf *out;
    struct taca_arena *arena; /* of strings that are read */
    const unsigned char *at;
    size_t left;
    bool bad;
};

/* ---- members --------------------------------------------------------------------------------- */

static void move(struct record *r, void *bytes, size_t len) {
    if (r->out) {
        taca_buf_put(r->out, bytes, len);
        return;
    }
    if (r->bad || r->left < len) {
        r->bad = true;
        memset(bytes, 0, len);
        return;
    }
    memcpy(bytes, r->at, len);
    r->at += len;
    r->left -= len;
}

static void move_i64(struct record *r, int64_t *v) { move(r, v, sizeof *v); }
static void move_u64(struct record *r, uint64_t *v) { move(r, v, sizeof *v); }
static void move_double(struct record *r, double *v) { move(r, v, sizeof *v); }

static void move_int(struct record *r, int *v, int min, int max) {
    int64_t wide = *v;
    move_i64(r, &wide);
    if (wide < min || wide > max) r->bad = true;
    *v = r->bad ? min : (int)wide;
}

static void move_bool(struct record *r, bool *v) {
    int i = *v;
    move_int(r, &i, 0, 1);
    *v = i;
}

static void move_string(struct record *r, const char **s) {
    int64_t len = *s ? (int64_t)strlen(*s) : -1;
    move_i64(r, &len);
    if (r->out) {
        if (*s) taca_buf_put(r->out, *s, (size_t)len);
        return;
    }
    *s = NULL;
    if (len < -1 || (len > 0 && (uint64_t)len > r->left)) r->bad = true;
    if (r->bad || len < 0) return;
    *s = taca_arena_strndup(r->arena, (const char *)r->at, (size_t)len);
    r->at += len;
    r->left -= (size_t)len;
    if (!*s) r->bad = true;
}

/* Into an array with a NUL at its end. */
static void move_text(struct record *r, char *text, size_t size) {
    struct taca_arena arena = {0};
    struct record *in = r;
    const char *s = text;
    struct taca_arena *before = r->arena;
    in->arena = &arena;
    move_string(in, &s);
    in->arena = before;
    if (!r->out) {
        if (!s || strlen(s) >= size) r->bad = true;
        memset(text, 0, size);
        if (!r->bad) memcpy(text, s, strlen(s));
    }
    taca_arena_finish(&arena);
}

static void move_magic(struct record *r, int64_t magic) {
    int64_t found = magic;
    move_i64(r, &found);
    if (found != magic) r->bad = true;
}

/* ---- the request ----------------------------------------------------------------------------- */

/* Constants of the parser's. */
static void move_quality(struct record *r, const char **quality) {
    static const char *const known[] = {"auto", "low", "medium", "high", "standard", "hd"};
    int at = -1;
    for (int i = 0; *quality && i < (int)(sizeof known / sizeof *known); i++)
        if (strcmp(*quality, known[i]) == 0) at = i;
    move_int(r, &at, -1, (int)(sizeof known / sizeof *known) - 1);
    if (!r->out) *quality = at < 0 ? NULL : known[at];
}

/* Whatever is left of the record at most. */
static void move_pixels(struct record *r, struct taca_arena *arena, const uint8_t **pixels,
                        size_t bytes) {
    bool there = *pixels != NULL;
    move_bool(r, &there);
    if (!there) return;
    if (r->out) {
        taca_buf_put(r->out, *pixels, bytes);
        return;
    }
    uint8_t *copy = bytes <= r->left ? taca_arena_alloc(arena, bytes) : NULL;
    if (!copy) r->bad = true;
    if (copy) move(r, copy, bytes);
    *pixels = copy;
}

/* The pixels stand apart, so that they can go before the rest. */
static void move_params(struct record *r, struct taca_gen_params *p) {
    struct taca_buf packed;
    struct taca_gen_params plain = *p;
    int64_t len = 0;
    if (r->out) {
        plain.image = plain.mask = NULL;
        taca_buf_init(&packed, r->out->max);
        taca_gen_params_pack(&packed, &plain);
        len = (int64_t)packed.len;
        move_i64(r, &len);
        taca_buf_put(r->out, packed.data, packed.len);
        if (packed.failed) r->out->failed = true;
        taca_buf_finish(&packed);
        return;
    }
    move_i64(r, &len);
    if (len < 0 || (uint64_t)len > r->left) r->bad = true;
    if (r->bad) return;
    if (taca_gen_params_unpack(p, r->at, (size_t)len, r->arena, NULL)) r->bad = true;
    r->at += len;
    r->left -= (size_t)len;
}

static void move_request(struct record *r, struct job *job, bool pixels) {
    struct api_request *q = &job->request;
    int response = q->response, disconnect = q->on_disconnect, format = q->file.format;
    uint64_t warnings = q->warnings;
    move_magic(r, REQUEST_MAGIC);
    move_text(r, job->request_id, sizeof job->request_id);
    move_text(r, job->trace.id, sizeof job->trace.id);
    move_text(r, job->trace.span, sizeof job->trace.span);
    move_text(r, job->trace.flags, sizeof job->trace.flags);
    move_bool(r, &job->named);
    move_bool(r, &job->comes_back);
    move_text(r, job->client.name, sizeof job->client.name);
    move(r, job->body_hash, sizeof job->body_hash);
    move_int(r, &q->n, 1, API_MAX_N);
    move_int(r, &format, API_FORMAT_ANY, API_JPEG);
    move_int(r, &q->file.png_level, -1, 9);
    move_int(r, &q->file.quality, -1, 100);
    q->file.format = (enum api_format)format;
    move_bool(r, &q->metadata);
    move_bool(r, &q->stream);
    move_int(r, &response, API_RESPONSE_ANY, API_RESPONSE_URL);
    move_int(r, &q->previews, 0, INT32_MAX);
    move_int(r, &q->preview_every, 0, INT32_MAX);
    move_int(r, &q->preview_max_side_px, 0, INT32_MAX);
    move_int(r, &q->priority, -10, 10);
    move_int(r, &q->start_timeout_ms, 0, INT32_MAX);
    move_int(r, &q->deadline_ms, 0, INT32_MAX);
    move_int(r, &disconnect, API_DISCONNECT_DEFAULT, API_DISCONNECT_CONTINUE);
    move_bool(r, &q->edit);
    move_bool(r, &q->openai);
    move_bool(r, &q->a1111);
    move_bool(r, &q->send_images);
    move_string(r, &q->echo);
    move_string(r, &q->notes);
    move_bool(r, &q->progress_events);
    move_quality(r, &q->quality);
    move_string(r, &q->user);
    move_string(r, &q->ignored);
    move_u64(r, &warnings);
    q->warnings = (unsigned)warnings;
    move_params(r, &q->params);
    if (!r->out && (q->params.width_px < 1 || q->params.width_px > MAX_SIDE ||
                    q->params.height_px < 1 || q->params.height_px > MAX_SIDE)) {
        r->bad = true; /* whatever stands there now is not asked for */
        return;
    }
    const uint8_t *image = pixels ? q->params.image : NULL, *mask = pixels ? q->params.mask : NULL;
    size_t area = (size_t)q->params.width_px * (size_t)q->params.height_px;
    move_pixels(r, &q->pixels, &image, 3 * area);
    move_pixels(r, &q->pixels, &mask, area);
    q->params.image = image;
    q->params.mask = mask;
    q->response = (enum api_response)response;
    q->on_disconnect = (enum api_on_disconnect)disconnect;
}

static enum taca_code verdict(const struct record *r, const char *what, struct taca_err *err) {
    if (!r->bad && r->left == 0) return TACA_OK;
    return taca_fail(err, TACA_EPROTO, "%s in a form that this version does not know", what);
}

void job_record_request(struct taca_buf *out, const struct job *job, bool pixels) {
    struct job plain = *job; /* only read; the members are taken one by one in both directions */
    move_request(&(struct record){.out = out}, &plain, pixels);
}

enum taca_code job_record_read_request(struct job *job, const void *bytes, size_t len,
                                       struct taca_err *err) {
    struct record r = {.arena = &job->request.arena, .at = bytes, .left = len};
    move_request(&r, job, true);
    return verdict(&r, "a request", err);
}

/* ---- the outcome ----------------------------------------------------------------------------- */

static void move_reason(struct record *r, const char **reason) {
    static const char *const known[] = {"disconnect", "deadline", "client"};
    int at = -1;
    for (int i = 0; *reason && i < 3; i++)
        if (strcmp(*reason, known[i]) == 0) at = i;
    move_int(r, &at, -1, 2);
    if (!r->out) *reason = at < 0 ? NULL : known[at];
}

static void move_error(struct record *r, struct api_error *e) {
    move_int(r, &e->status, 0, 599);
    move_text(r, e->code, sizeof e->code);
    move_text(r, e->param, sizeof e->param);
    move_text(r, e->message, sizeof e->message);
    move_int(r, &e->retry_after_s, 0, INT32_MAX);
}

static void move_timings(struct record *r, struct api_timings *t) {
    double *const all[] = {&t->queue_ms, &t->text_ms,   &t->denoise_ms,
                           &t->vae_ms,   &t->encode_ms, &t->total_ms};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) move_double(r, all[i]);
}

static void move_progress(struct record *r, struct api_progress *p) {
    int *const all[] = {&p->index, &p->step, &p->steps, &p->batch, &p->batch_tokens};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) move_int(r, all[i], 0, INT32_MAX);
    move_double(r, &p->elapsed_ms);
    move_double(r, &p->eta_ms);
}

static void move_image(struct record *r, struct api_result_image *image) {
    uint64_t len = image->len;
    move_u64(r, &image->seed);
    move_int(r, &image->width_px, 1, INT32_MAX);
    move_int(r, &image->height_px, 1, INT32_MAX);
    move_u64(r, &len);
    move_u64(r, &image->event_id);
    image->len = len;
}

static void move_outcome(struct record *r, struct job *job) {
    int end = job->end;
    uint64_t warnings = job->warnings;
    move_magic(r, OUTCOME_MAGIC);
    move_int(r, &end, JOB_COMPLETED, JOB_CANCELLED);
    move_reason(r, &job->cancel_reason);
    move_error(r, &job->error);
    move_i64(r, &job->started_s);
    move_i64(r, &job->completed_s);
    move_timings(r, &job->timings);
    move_u64(r, &warnings);
    move_u64(r, &job->last_event);
    move_u64(r, &job->started_event);
    move_u64(r, &job->progress_event);
    move_u64(r, &job->final_event);
    move_progress(r, &job->progress);
    move_u64(r, &job->made);
    job->end = (enum job_end)end;
    job->warnings = (unsigned)warnings;
}

static void move_images(struct record *r, struct job *job) {
    for (int i = 0; i < job->request.n; i++) {
        if (!(job->made >> i & 1)) continue;
        move_image(r, &job->results[i]);
        job->results[i].index = i;
        job->results[i].format = job->request.file.format;
    }
}

void job_record_outcome(struct taca_buf *out, const struct job *job) {
    struct job plain = *job;
    struct record r = {.out = out};
    struct api_result_image results[API_MAX_N] = {{0}};
    move_outcome(&r, &plain);
    if (job->results) memcpy(results, job->results, (size_t)job->request.n * sizeof *results);
    plain.results = results;
    move_images(&r, &plain);
}

enum taca_code job_record_read_outcome(struct job *job, const void *bytes, size_t len,
                                       struct taca_err *err) {
    struct record r = {.arena = &job->request.arena, .at = bytes, .left = len};
    move_outcome(&r, job);
    if (job->request.n < 64 && job->made >> job->request.n) r.bad = true;
    job->results = calloc((size_t)job->request.n, sizeof *job->results);
    if (!job->results) {
        job->made = 0;
        return taca_fail(err, TACA_ENOMEM, "reading a job");
    }
    if (!r.bad) move_images(&r, job);
    enum taca_code rc = verdict(&r, "a result", err);
    if (rc) job->made = 0;
    return rc;
}
