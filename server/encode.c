/* encode.c - see encode.h. */
#include "server/encode.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/a1111.h"
#include "base/clock.h"
#include "server/metrics.h"

enum {
    MAX_THREADS = 64,
    MAX_WAITING = 64,           /* tasks in line before previews are dropped */
    MAX_FILE_BYTES = 256 << 20, /* far above any image; a bound for the buffer */
    MAX_REPLY_BYTES = 1 << 30,
    MAX_PREVIEW_FRAME = 48 << 10, /* some readers give up on longer lines */
    MOST_FILE_BYTES = 160 << 20,  /* of pictures that wait to be unpacked, */
    MOST_FILE_PIXELS = 512 << 20, /* some seconds' worth: few bytes may be many pixels */
    PREVIEW_PNG_LEVEL = 6,
    PREVIEW_QUALITY = 85
};

struct line {
    struct taca_mail *first, **last;
};

struct encode {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct line line, files; /* the latter: ENCODE_UNPACK */
    int waiting, unpacking, most_unpacking;
    size_t file_bytes, file_pixels; /* of those in line */
    bool closing;
    struct taca_mailbox *results;
    pthread_t threads[MAX_THREADS];
    int n_threads;
};

/* ---- the work -------------------------------------------------------------------------------- */

static enum taca_code write_image(struct encode_task *t) {
    const struct api_request *r = &t->job->request;
    struct taca_gen_params p = r->params;
    p.seed += (uint64_t)t->index;
    const struct api_origin origin = {&p, t->model};
    return api_image_write(&t->file, &t->pixels, &r->file, r->metadata ? &origin : NULL, &t->err);
}

static struct api_result_image result_of(const struct encode_task *t) {
    return (struct api_result_image){.index = t->index,
                                     .seed = t->job->request.params.seed + (uint64_t)t->index,
                                     .width_px = t->pixels.width_px,
                                     .height_px = t->pixels.height_px,
                                     .bytes = t->file.data,
                                     .len = t->file.len,
                                     .format = t->job->request.file.format};
}

/* Halves the picture until its frame is short enough for every reader. */
static enum taca_code do_preview(struct encode_task *t) {
    int side = t->job->request.preview_max_side_px;
    const struct api_encoding how = {t->job->request.file.format, PREVIEW_PNG_LEVEL,
                                     PREVIEW_QUALITY};
    for (;;) {
        if (side > 0) api_preview_shrink(&t->pixels, side);
        taca_buf_reset(&t->file);
        taca_buf_reset(&t->frame);
        enum taca_code rc = api_image_write(&t->file, &t->pixels, &how, NULL, &t->err);
        if (rc) return rc;
        struct api_result_image img = result_of(t);
        if (t->job->request.openai)
            api_openai_partial(&t->frame, t->job->created_s, &t->job->request, t->partial_index,
                               &img);
        else
            api_event_preview(&t->frame, UINT64_MAX, t->job->id, t->step, t->partial_index, &img);
        if (t->frame.failed) return taca_fail(&t->err, TACA_ENOMEM, "a preview event");
        side = t->pixels.width_px > t->pixels.height_px ? t->pixels.width_px / 2
                                                        : t->pixels.height_px / 2;
        if (t->frame.len < MAX_PREVIEW_FRAME || side < 16) return TACA_OK;
    }
}

/* The images' events in the order of their ids. */
static void put_events(struct encode_task *t, const struct api_result_image *images) {
    const struct job *j = t->job;
    for (uint64_t left = t->render.mask; left;) {
        int next = -1;
        for (int i = 0; i < j->request.n; i++)
            if ((left >> i & 1) && (next < 0 || images[i].event_id < images[next].event_id))
                next = i;
        if (next < 0) return;
        left &= ~(UINT64_C(1) << next);
        if (t->render.openai)
            api_openai_completed(&t->frame, j->created_s, &j->request, t->model, &images[next]);
        else
            api_event_image(&t->frame, images[next].event_id, j->id, &images[next]);
    }
}

/* From the disk, unless the loop lends the bytes or nobody wants them. */
static enum taca_code load(struct encode_task *t, struct api_result_image *image,
                           struct taca_buf *bytes) {
    if (image->bytes || t->render.urls) return TACA_OK;
    const struct disk_name name = {t->job->tag, image->index, api_format_ending(image->format)};
    taca_buf_init(bytes, MAX_FILE_BYTES);
    enum taca_code rc = t->render.files
                            ? disk_files_read(t->render.files, &name, image->len, bytes, &t->err)
                            : taca_fail(&t->err, TACA_EINTERNAL, "a picture without bytes");
    image->bytes = bytes->data;
    if (rc) metric_add(METRIC_STORE_ERRORS, "read", 1);
    return rc;
}

static enum taca_code render_images(struct encode_task *t, struct api_result_image *images,
                                    struct taca_buf *loaded) {
    const struct job *j = t->job;
    char prefix[API_BASE_MAX + API_ID_MAX + 32];
    snprintf(prefix, sizeof prefix, "%s/v1/jobs/%s/images/", t->render.base, j->id);
    for (int i = 0; i < j->request.n; i++) {
        if (!(t->render.mask >> i & 1)) continue; /* the loop may be writing it now */
        images[i] = t->render.images[i];
        images[i].url_prefix = t->render.urls ? prefix : NULL;
        enum taca_code rc = load(t, &images[i], &loaded[i]);
        if (rc) return rc;
        if (t->render.form == API_REPLY_IMAGE)
            taca_buf_put(&t->frame, images[i].bytes, images[i].len);
    }
    if (t->render.form == API_REPLY_IMAGE)
        return t->frame.failed ? taca_fail(&t->err, TACA_ENOMEM, "the reply") : TACA_OK;
    if (t->render.form == API_REPLY_EVENTS)
        put_events(t, images);
    else if (t->render.openai)
        api_openai_json(&t->frame, j->created_s, &j->request, t->model, images);
    else if (j->request.a1111)
        api_a1111_json(&t->frame, j->created_s, &j->request, t->model, images, t->render.warnings);
    else
        api_reply_json(&t->frame, j->id, j->created_s, &j->request, t->model, images, j->request.n,
                       &t->render.timings, t->render.warnings);
    return t->frame.failed ? taca_fail(&t->err, TACA_ENOMEM, "the reply") : TACA_OK;
}

static enum taca_code do_render(struct encode_task *t) {
    struct api_result_image images[API_MAX_N];
    struct taca_buf loaded[API_MAX_N] = {{0}};
    enum taca_code rc = render_images(t, images, loaded);
    for (int i = 0; i < API_MAX_N; i++) taca_buf_finish(&loaded[i]);
    return rc;
}

static void do_unpack(struct encode_task *t) {
    if (api_request_unpack(&t->job->request, &t->error))
        t->rc = taca_fail(&t->err, TACA_EINVAL, "%s", t->error.message);
}

static void work(struct encode_task *t) {
    int64_t start = taca_now_us();
    taca_buf_init(&t->file, MAX_FILE_BYTES);
    taca_buf_init(&t->frame, MAX_REPLY_BYTES);
    switch (t->kind) {
    case ENCODE_IMAGE: t->rc = write_image(t); break;
    case ENCODE_PREVIEW: t->rc = do_preview(t); break;
    case ENCODE_UNPACK: do_unpack(t); break;
    case ENCODE_RENDER: t->rc = do_render(t); break;
    }
    t->ms = (double)(taca_now_us() - start) / 1000.0;
}

/* ---- the threads ----------------------------------------------------------------------------- */

static void append(struct line *l, struct encode_task *t) {
    t->mail.next = NULL;
    *l->last = &t->mail;
    l->last = &t->mail.next;
}

static struct encode_task *take(struct line *l) {
    struct encode_task *t = (struct encode_task *)l->first;
    if (!t) return NULL;
    l->first = t->mail.next;
    if (!l->first) l->last = &l->first;
    return t;
}

/* As their heads say. */
static size_t pixels_of(const struct job *job) {
    const struct api_packed *image = &job->request.image, *mask = &job->request.mask;
    return (size_t)image->width_px * (size_t)image->height_px +
           (size_t)mask->width_px * (size_t)mask->height_px;
}

static struct encode_task *next(struct encode *e) {
    struct encode_task *t = take(&e->line);
    if (t) {
        e->waiting--;
        return t;
    }
    t = e->unpacking < e->most_unpacking ? take(&e->files) : NULL;
    if (!t) return NULL;
    e->unpacking++;
    e->file_bytes -= t->job->request.files.total_bytes;
    e->file_pixels -= pixels_of(t->job);
    return t;
}

static void hand_back(struct encode *e, struct encode_task *t) {
    if (taca_mailbox_post(e->results, &t->mail)) return;
    if (t->kind == ENCODE_UNPACK) job_close(t->job);
    encode_task_free(t);
}

static void *run(void *arg) {
    struct encode *e = arg;
    pthread_mutex_lock(&e->lock);
    for (;;) {
        struct encode_task *t = next(e);
        if (!t && e->closing && !e->files.first) break;
        if (!t) {
            pthread_cond_wait(&e->more, &e->lock);
            continue;
        }
        const bool unpacked = t->kind == ENCODE_UNPACK;
        pthread_mutex_unlock(&e->lock);
        work(t);
        hand_back(e, t);
        pthread_mutex_lock(&e->lock);
        if (!unpacked) continue;
        e->unpacking--;
        pthread_cond_broadcast(&e->more); /* others may now */
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

enum taca_code encode_open(struct encode **out, int threads, struct taca_mailbox *results,
                           struct taca_err *err) {
    if (threads < 1 || threads > MAX_THREADS)
        return taca_fail_param(err, "encode-threads", "encode threads must be in 1..%d, got %d",
                               MAX_THREADS, threads);
    struct encode *e = calloc(1, sizeof *e);
    if (!e) return taca_fail(err, TACA_ENOMEM, "opening the encoder");
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->more, NULL);
    e->line.last = &e->line.first;
    e->files.last = &e->files.first;
    e->most_unpacking = threads > 1 ? threads - 1 : 1;
    e->results = results;
    /* signals belong to the loop's thread */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int rc = 0;
    for (; e->n_threads < threads && rc == 0; e->n_threads += rc == 0)
        rc = pthread_create(&e->threads[e->n_threads], NULL, run, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        encode_close(e);
        return taca_fail(err, TACA_EIO, "encoder thread: %s", strerror(rc));
    }
    *out = e;
    return TACA_OK;
}

bool encode_submit(struct encode *e, struct encode_task *t) {
    pthread_mutex_lock(&e->lock);
    bool taken = t->kind != ENCODE_PREVIEW || e->waiting < MAX_WAITING;
    if (taken) {
        append(&e->line, t);
        e->waiting++;
        pthread_cond_signal(&e->more);
    }
    pthread_mutex_unlock(&e->lock);
    return taken;
}

bool encode_unpack(struct encode *e, struct job *job) {
    struct encode_task *t = calloc(1, sizeof *t);
    const size_t bytes = job->request.files.total_bytes, pixels = pixels_of(job);
    if (!t) return false;
    *t = (struct encode_task){.kind = ENCODE_UNPACK, .job = job, .slot = -1};
    pthread_mutex_lock(&e->lock);
    const bool room = !e->files.first || (e->file_bytes + bytes <= MOST_FILE_BYTES &&
                                          e->file_pixels + pixels <= MOST_FILE_PIXELS);
    if (room) {
        append(&e->files, t);
        e->file_bytes += bytes;
        e->file_pixels += pixels;
        pthread_cond_signal(&e->more);
    }
    pthread_mutex_unlock(&e->lock);
    if (!room) free(t);
    return room;
}

void encode_close(struct encode *e) {
    if (!e) return;
    pthread_mutex_lock(&e->lock);
    e->closing = true;
    pthread_cond_broadcast(&e->more);
    pthread_mutex_unlock(&e->lock);
    for (int i = 0; i < e->n_threads; i++) pthread_join(e->threads[i], NULL);
    pthread_cond_destroy(&e->more);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

void encode_task_free(struct encode_task *t) {
    if (!t) return;
    if (t->kind == ENCODE_PREVIEW) taca_image_finish(&t->pixels);
    taca_buf_finish(&t->file);
    taca_buf_finish(&t->frame);
    free(t);
}

/* The frame was made with the longest possible id, so a shorter one fits in front of the same
 * newline. */
const char *encode_frame(struct encode_task *t, uint64_t event_id, size_t *len) {
    char head[32];
    *len = t->frame.len;
    if (t->job->request.openai) return t->frame.data; /* has none */
    int n = snprintf(head, sizeof head, "id: %" PRIu64, event_id);
    char *newline = memchr(t->frame.data, '\n', t->frame.len);
    if (!newline || newline - t->frame.data < n) {
        *len = 0;
        return t->frame.data;
    }
    char *start = newline - n;
    memcpy(start, head, (size_t)n);
    *len = t->frame.len - (size_t)(start - t->frame.data);
    return start;
}
