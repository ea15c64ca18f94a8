/* jobs_disk.c - jobs that outlive the process; see jobs.h and disk.h.
 *
 * Durable is what goes on without its client. Its row is posted as it is accepted, and nobody hears
 * of the job before the row is on the disk; it may well be at work by then. At its end pictures and
 * outcome are posted, and again nobody hears of the end before they are there: what a client was
 * told stays true whenever the process dies. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/job_record.h"
#include "server/jobs_internal.h"
#include "server/metrics.h"

enum { STORE_RETRY_S = 5 };

static int64_t wall_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

_Static_assert(sizeof((struct disk_write *)0)->id > API_ID_MAX, "an id fits");
_Static_assert(sizeof((struct disk_write *)0)->client > CLIENT_NAME_MAX, "a client fits");
_Static_assert(sizeof((struct disk_write *)0)->key >= sizeof((struct job *)0)->idempotency_key,
               "a key fits");
_Static_assert(sizeof((struct disk_write *)0)->model >= sizeof((struct job *)0)->model,
               "a model fits");

/* ---- posting --------------------------------------------------------------------------------- */

static struct disk_write *open_write(enum disk_kind kind, const struct job *job) {
    struct disk_write *w = disk_write_open(kind);
    if (!w) return NULL;
    snprintf(w->id, sizeof w->id, "%s", job->id);
    w->row.id = w->id;
    w->row.tag = job->tag;
    w->row.attempts = job->attempts;
    return w;
}

/* Its readers wait for the result. */
static void post_awaited(struct jobs *js, struct job *job, struct disk_write *w) {
    w->ctx = job;
    job->borrowed++;
    job->writes++;
    js->writes++;
    disk_post(js->ports.disk, w);
}

/* When it was received, but in the very second that clients were told. */
static int64_t created_us(const struct job *job) {
    int64_t us = wall_us() - (taca_now_us() - job->received_us), first = job->created_s * 1000000;
    if (us < first) return first;
    return us > first + 999999 ? first + 999999 : us;
}

bool jobs_disk_accept(struct jobs *js, struct job *job) {
    bool alone = job->comes_back || job->request.on_disconnect == API_DISCONNECT_CONTINUE;
    if (!js->ports.disk || !alone) return true;
    struct disk_write *w = open_write(DISK_INSERT, job);
    if (!w) return false;
    job_record_request(&w->request, job, true);
    if (w->request.failed) {
        disk_write_close(w);
        return false;
    }
    snprintf(w->client, sizeof w->client, "%s", job->client.name);
    snprintf(w->key, sizeof w->key, "%s", job->idempotency_key);
    snprintf(w->model, sizeof w->model, "%s", jobs_model(js, job)->id);
    w->row.client = w->client;
    w->row.key = w->key;
    w->row.model = w->model;
    w->row.request = w->request.data;
    w->row.request_len = w->request.len;
    w->row.created_us = created_us(job);
    job->durable = true;
    post_awaited(js, job, w);
    return true;
}

/* The count of attempts is only as good as its way to the disk is fast: who kills the process
 * within a few milliseconds of its start is not counted. */
void jobs_disk_stands(struct jobs *js, struct job *job) {
    struct disk_write *w = job->durable ? open_write(DISK_STATE, job) : NULL;
    if (!w) return;
    w->row.state = job->state == JOB_QUEUED ? DB_QUEUED : DB_RUNNING;
    disk_post(js->ports.disk, w);
}

static bool add_pictures(struct disk_write *w, const struct job *job) {
    w->pictures = calloc((size_t)job->request.n, sizeof *w->pictures);
    if (!w->pictures) return false;
    const char *ending = api_format_ending(job->request.file.format);
    for (int i = 0; i < job->request.n; i++)
        if (job->made >> i & 1)
            w->pictures[w->n++] = (struct disk_picture){
                {job->tag, i, ending}, job->results[i].bytes, job->results[i].len};
    return true;
}

/* The pictures that a request starts from are not needed any more. */
static bool describe_end(struct disk_write *w, const struct job *job) {
    const struct taca_gen_params *p = &job->request.params;
    job_record_outcome(&w->outcome, job);
    if (p->image || p->mask) {
        job_record_request(&w->request, job, false);
        w->row.request = w->request.data;
        w->row.request_len = w->request.len;
    }
    /* who comes again with the key of a failed request wants another try */
    if (job->end == JOB_COMPLETED) snprintf(w->key, sizeof w->key, "%s", job->idempotency_key);
    w->row.key = w->key;
    w->row.outcome = w->outcome.data;
    w->row.outcome_len = w->outcome.len;
    w->row.completed_us = wall_us();
    return !w->outcome.failed && !w->request.failed;
}

bool jobs_disk_end(struct jobs *js, struct job *job) {
    if (!job->durable) return false;
    struct disk_write *w = open_write(DISK_END, job);
    if (!w || !add_pictures(w, job) || !describe_end(w, job)) {
        disk_write_close(w);
        return false;
    }
    js->ending[job->request.model]++;
    job->next = js->ends;
    if (job->next) job->next->prev = job;
    js->ends = job;
    post_awaited(js, job, w);
    return true;
}

void jobs_disk_remove(struct jobs *js, struct job *job) {
    struct disk_write *w = job->durable ? open_write(DISK_REMOVE, job) : NULL;
    if (!w) return; /* the next process removes it */
    if (add_pictures(w, job))
        disk_post(js->ports.disk, w);
    else
        disk_write_close(w);
}

/* ---- what came of it ------------------------------------------------------------------------- */

static void discard(struct jobs *js, struct job *job) {
    store_discard(js->store, job);
    job->dropped = true;
}

/* Not accepted after all. A second try of its client finds nothing of the first. */
static void refused(struct jobs *js, struct job *job) {
    struct api_error e = {.retry_after_s = STORE_RETRY_S};
    api_fail(&e, 503, "storage_unavailable", "",
             "the service keeps such jobs on its disk, and the disk does not take this one now");
    job->refused = true;
    job->durable = false;
    readers_refuse(job, &e);
    metric_add(METRIC_REJECTED, e.code, 1);
    if (!job->listed) return; /* its end is on the way, too, and will come back */
    jobs_fail(js, job, "rejected", &e);
    discard(js, job);
}

static void inserted(struct jobs *js, struct job *job, const struct disk_write *w) {
    if (w->rc) {
        taca_log(TACA_LOG_ERROR, "job %s is refused: %s", job->id, w->err.text);
        refused(js, job);
    } else if (job->writes == 0) {
        readers_welcome(js, job);
        readers_serve(js, job);
        if (js->closing && job->listed) jobs_sleep(js, job);
    }
}

static void ended(struct jobs *js, struct job *job, const struct disk_write *w) {
    js->ending[job->request.model]--;
    *(job->prev ? &job->prev->next : &js->ends) = job->next;
    if (job->next) job->next->prev = job->prev;
    job->next = job->prev = NULL;
    if (job->refused) {
        job->state = JOB_DONE;
        jobs_count(job, "rejected");
        jobs_free_input(job);
        discard(js, job);
        return;
    }
    /* kept in memory then; after a restart it is made once more */
    if (w->rc)
        taca_log(TACA_LOG_ERROR, "the end of job %s is not stored: %s", job->id, w->err.text);
    job->on_disk = !w->rc;
    jobs_settle(js, job);
}

void jobs_spill(struct job *job) {
    if (!job->on_disk || job->borrowed > 0 || !job->images) return;
    for (int i = 0; i < job->request.n; i++) {
        if (job->made >> i & 1) job->results[i].bytes = NULL;
        taca_buf_finish(&job->images[i].file);
    }
    free(job->images);
    job->images = NULL;
}

void jobs_written(struct jobs *js, struct disk_write *w) {
    struct job *job = w->ctx;
    if (!job) {
        if (w->rc) taca_log(TACA_LOG_WARN, "job %s: %s", w->row.id, w->err.text);
        disk_write_close(w);
        return;
    }
    job->borrowed--;
    job->writes--;
    js->writes--;
    if (w->kind == DISK_INSERT)
        inserted(js, job, w);
    else
        ended(js, job, w);
    disk_write_close(w);
    jobs_spill(job);
    jobs_free_dropped(job);
}

/* ---- the end of the service ------------------------------------------------------------------ */

void jobs_sleep(struct jobs *js, struct job *job) {
    struct api_error e = {.retry_after_s = STORE_RETRY_S};
    api_fail(&e, 503, "draining", "", "the service is shutting down; the job is kept");
    jobs_take_out(js, job);
    if (job->state == JOB_RUNNING) {
        job->state = JOB_QUEUED;
        jobs_disk_stands(js, job);
    }
    job->asleep = true;
    job->next = js->asleep;
    js->asleep = job;
    readers_refuse(job, &e);
}

void jobs_wake_up(struct jobs *js, struct job *job) {
    if (!job->asleep) return;
    struct job **at = &js->asleep;
    while (*at != job) at = &(*at)->next;
    *at = job->next;
    job->next = NULL;
    job->asleep = false;
}

/* ---- the start of the service ---------------------------------------------------------------- */

struct restoring {
    struct jobs *js;
    int64_t wall_us, now_us;
    int waiting, kept;
    enum taca_code rc;
    struct { /* of pictures */
        uint64_t tag, made;
    } * known;
    size_t n_known, room;
};

static bool remember(struct restoring *r, const struct job *job) {
    if (r->n_known == r->room) {
        size_t room = r->room ? 2 * r->room : 64;
        void *p = realloc(r->known, room * sizeof *r->known);
        if (!p) return false;
        r->known = p;
        r->room = room;
    }
    r->known[r->n_known].tag = job->tag;
    r->known[r->n_known++].made = job->made;
    return true;
}

static void restore_open(struct restoring *r, struct job *job, bool readable) {
    struct jobs *js = r->js;
    struct api_error e = {0};
    jobs_append(js, job);
    store_add(js->store, job);
    r->waiting++;
    /* a client that comes back with an id of the last process's events has missed those of this */
    job->last_event = (uint64_t)db_starts(disk_db(js->ports.disk)) << 20;
    job->images = calloc((size_t)job->request.n, sizeof *job->images);
    if (!readable)
        api_fail(&e, 500, "job_unreadable", "",
                 "the job was accepted by another version of the service: send it again");
    else if (!job->images)
        api_fail(&e, 503, "out_of_memory", "", "the service is out of memory");
    else if (job->attempts > js->opts.max_retries)
        api_fail(&e, 500, "poison", "", "the service ended %d times while it made this job",
                 job->attempts);
    for (int i = 0; job->images && i < job->request.n; i++) job->images[i].preview_due = -1;
    if (e.status) jobs_fail(js, job, "failed", &e);
}

static void restore_over(struct restoring *r, struct job *job, const struct db_job *row) {
    struct jobs *js = r->js;
    struct taca_err err = {0};
    job->on_disk = true;
    job->state = JOB_DONE;
    if (job_record_read_outcome(job, row->outcome, row->outcome_len, &err) || !remember(r, job)) {
        jobs_disk_remove(js, job);
        job_close(job);
        return;
    }
    int64_t age_us = r->wall_us - row->completed_us;
    store_add(js->store, job);
    store_keep(js->store, job, jobs_result_bytes(job), r->now_us - (age_us > 0 ? age_us : 0));
    if (job->end != JOB_COMPLETED) store_forget_key(js->store, job);
    r->kept++;
}

static void restore_row(void *ctx, const struct db_job *row) {
    struct restoring *r = ctx;
    struct taca_err err = {0};
    struct job *job = job_open();
    if (!job) {
        r->rc = TACA_ENOMEM;
        return;
    }
    bool readable = job_record_read_request(job, row->request, row->request_len, &err) == TACA_OK;
    int64_t age_us = r->wall_us - row->created_us;
    if (job->request.n < 1) job->request.n = 1;
    snprintf(job->id, sizeof job->id, "%s", row->id);
    snprintf(job->idempotency_key, sizeof job->idempotency_key, "%s", row->key);
    snprintf(job->client.name, sizeof job->client.name, "%s", row->client);
    snprintf(job->model, sizeof job->model, "%s", row->model);
    int model = models_find(&r->js->ports.status->models, row->model);
    job->request.model = model < 0 ? 0 : model; /* jobs_models_known knows better */
    job->unplaced = row->state != DB_OVER;
    job->tag = row->tag;
    job->durable = true;
    job->warnings = job->request.warnings;
    job->attempts = row->attempts;
    job->received_us = r->now_us - (age_us > 0 ? age_us : 0);
    job->waits_since_us = r->now_us;
    job->created_s = row->created_us / 1000000;
    job->flow = jobs_key(job->client.name[0] ? job->client.name : job->request.user);
    if (row->state != DB_OVER)
        restore_open(r, job, readable);
    else if (readable)
        restore_over(r, job, row);
    else {
        jobs_disk_remove(r->js, job);
        job_close(job);
    }
}

static void restore_gone(void *ctx, const char *id) {
    struct restoring *r = ctx;
    store_remember(r->js->store, id);
}

static int by_tag(const void *a, const void *b) {
    uint64_t x, y; /* the first members */
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

static bool is_kept(void *ctx, uint64_t tag, int index) {
    const struct restoring *r = ctx;
    if (!r->n_known || index < 0 || index >= API_MAX_N) return false;
    const uint64_t *found = bsearch(&tag, r->known, r->n_known, sizeof *r->known, by_tag);
    return found && (found[1] >> index & 1);
}

enum taca_code jobs_restore(struct jobs *js, struct taca_err *err) {
    struct restoring r = {.js = js, .wall_us = wall_us(), .now_us = taca_now_us()};
    if (!js->ports.disk) return TACA_OK;
    struct db *db = disk_db(js->ports.disk);
    enum taca_code rc = db_load_gone(db, restore_gone, &r, err);
    if (!rc) rc = db_load(db, restore_row, &r, err);
    if (!rc && r.rc) rc = taca_fail(err, r.rc, "reading the job store");
    if (!rc) {
        if (r.n_known) qsort(r.known, r.n_known, sizeof *r.known, by_tag);
        int swept = disk_files_sweep(disk_files(js->ports.disk), is_kept, &r);
        metric_add(METRIC_JOBS_RESUMED, NULL, (uint64_t)r.waiting);
        taca_log(TACA_LOG_INFO, "job store: %d jobs go on, %d results are kept, %d files removed",
                 r.waiting, r.kept, swept);
    }
    free(r.known);
    return rc;
}

void jobs_models_known(struct jobs *js) {
    const struct taca_model_info *usual = models_usual(&js->ports.status->models);
    for (struct job *job = js->first, *next; job; job = next) {
        struct api_error e = {0};
        int k = models_find(&js->ports.status->models, job->model);
        next = job->next;
        jobs_tally(js, job, -1);
        if (job->model[0] && k >= 0) job->request.model = k;
        jobs_tally(js, job, 1);
        job->unplaced = false;
        if (!job->model[0] || (k >= 0 && models_info(&js->ports.status->models, k))) continue;
        api_fail(&e, 404, "model_not_found", "model",
                 "the job was accepted for model %s, and the service has %s now", job->model,
                 usual ? usual->id : "none");
        jobs_fail(js, job, "failed", &e);
    }
}
