/* jobs_internal.h - what the files behind jobs.h share: the table itself (jobs.c), the
 * line of what waits for the worker (jobs_line.c), the worker's answers (jobs_steps.c) and what
 * clients are told (jobs_reply.c). */
#ifndef TACA_SERVER_JOBS_INTERNAL_H
#define TACA_SERVER_JOBS_INTERNAL_H

#include "server/jobs.h"

enum image_stage { IMAGE_WAITING, IMAGE_OPEN, IMAGE_FINISHED, IMAGE_ENCODING, IMAGE_DONE };

struct job_image {
    uint64_t seq; /* its name at the worker; 0 = the worker does not have it */
    enum image_stage stage;
    int step, steps, tokens;
    int preview_due; /* number of the preview to make now, -1 = none */
    struct taca_buf png;
};

/* One image of one job; job = NULL once that job is over. */
struct image_ref {
    struct job *job;
    int index;
};

/* The command that the worker has, and for whom. */
struct op {
    bool active;
    enum wire_type type; /* of the answer */
    int n, slot;
    struct image_ref refs[WIRE_MAX_SEQS];
    int tokens[WIRE_MAX_SEQS]; /* these two stay when a job leaves */
    uint64_t keys[WIRE_MAX_SEQS];
};

enum { MAX_ATTEMPTS = 3 };

struct jobs {
    struct jobs_opts opts;
    struct jobs_ports ports;
    struct job *first, *last; /* unanswered, in order of arrival */
    int count;
    struct op op;
    bool sick; /* the worker is condemned: `lost` will come, nothing is sent before */
    uint64_t last_seq;
    bool slot_used[POOL_SLOTS];
    struct sched sched;
    int64_t steps; /* so far */

    /* every image that still needs the worker, in the order of service: seqs[i] describes
     * refs[seqs[i].id] */
    struct sched_seq *seqs;
    struct image_ref *refs;
    double *start_ms, *finish_ms;
    int n_line, line_cap;
};

/* ---- jobs_line.c */
bool jobs_line_up(struct jobs *js); /* fills seqs and refs; false when out of memory */
const struct image_ref *jobs_ref(const struct jobs *js, int place);
void jobs_estimate(struct jobs *js); /* finish_ms of every job, from the line */
int jobs_position(const struct jobs *js, const struct job *job); /* among those who wait, from 1 */
/* Jobs that wait and would not be in the next step either; -1 when a newcomer would not wait. */
int jobs_queued_behind(const struct jobs *js);
double jobs_isolated_ms(const struct jobs *js, const struct job *job);
double jobs_pixels(const struct job *job); /* of one image */
uint64_t jobs_key(const char *user);       /* NULL = nobody in particular */
void jobs_publish(const struct jobs *js);

/* ---- jobs.c */
/* Takes the job out of everything and frees it as soon as nobody reads it. `outcome` as in
 * METRIC_REQUESTS, `status` for the log. */
void jobs_finish(struct jobs *js, struct job *job, const char *outcome, int status,
                 const char *error_code);
void jobs_free_job(struct job *job); /* over, and nobody reads it any more */
void jobs_fail(struct jobs *js, struct job *job, const char *outcome, const struct api_error *e);

/* ---- jobs_reply.c */
double jobs_since_ms(int64_t from_us);
void tell_queued(struct job *job, int position, double eta_ms);
void tell_started(struct jobs *js, struct job *job);
void tell_progress(struct job *job, int index, const struct wire_stepped *step, double eta_ms);
void tell_frame(struct job *job, struct encode_task *t, enum stream_class cls);
void tell_completed(struct job *job);
void tell_image(const struct jobs *js, struct job *job);
void tell_json(struct job *job, struct encode_task *t);
void tell_retrying(struct job *job, const char *reason);
void tell_cancelled(struct job *job);
void tell_full(struct job *job, int retry_after_s, int queued);
void tell_log(const struct jobs *js, const struct job *job, int status, const char *error_code);

#endif
