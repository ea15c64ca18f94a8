/* jobs_internal.h - what the files behind jobs.h share: the table itself (jobs.c), the line of what
 * waits for the worker (jobs_line.c), what it does next (jobs_next.c), its answers (jobs_steps.c),
 * who reads what (jobs_readers.c), what clients are told (jobs_reply.c), what they ask
 * (jobs_ask.c), what their keys allow (jobs_quota.c) and what is on the disk (jobs_disk.c). */
#ifndef TACA_SERVER_JOBS_INTERNAL_H
#define TACA_SERVER_JOBS_INTERNAL_H

#include "server/jobs.h"
#include "server/quota.h"
#include "server/store.h"

/* A job that was cancelled before it was here: its pictures are being unpacked, maybe. */
enum { GIVEN_UP = 64 };
struct given_up {
    char id[API_ID_MAX + 1], client[CLIENT_NAME_MAX + 1];
    int64_t at_us;
};

enum image_stage { IMAGE_WAITING, IMAGE_OPEN, IMAGE_FINISHED, IMAGE_ENCODING, IMAGE_DONE };

struct job_image {
    uint64_t seq; /* its name at the worker; 0 = no worker has it */
    int device;   /* of that worker, or of the last */
    enum image_stage stage;
    int step, steps, tokens;
    int preview_due; /* number of the preview to make now, -1 = none */
    struct taca_buf file;
};

/* One image of one job; job = NULL once that job is over. */
struct image_ref {
    struct job *job;
    int index;
};

/* A device has a command of each kind at a time, and both together only if it overlaps. */
enum { OP_STEP, OP_BESIDE, OP_KINDS }; /* BESIDE: OPEN, DECODE */
/* A command, and for whom. */
struct op {
    bool active;
    int device, model;
    enum wire_type type; /* of the answer */
    uint64_t id;         /* of what is opened or decoded */
    bool shared;         /* there was one of the other kind at the same time, */
    double steps_ms;     /* and steps among them took so long */
    int n, slot;
    struct image_ref refs[WIRE_MAX_SEQS];
    int tokens[WIRE_MAX_SEQS]; /* these two stay when a job leaves */
    uint64_t keys[WIRE_MAX_SEQS];
};

struct jobs {
    struct jobs_opts opts;
    struct jobs_ports ports;
    struct job *first, *last; /* unanswered, in order of arrival */
    int count, queued;        /* of them, not begun */
    struct store *store;      /* these and the finished ones */
    int renders;              /* tasks at work for readers */
    int writes;               /* on the way to the disk that readers wait for */
    struct job *asleep;       /* durable ones that the next process makes */
    struct job *ends;         /* ENDING ones, on their way to the disk */
    bool closing;             /* no durable job is begun any more */
    int ending[MODELS_MAX];   /* of each model: jobs that are over but for their way to the disk */
    int of_model[MODELS_MAX]; /* count and queued, of each */
    int queued_of_model[MODELS_MAX];
    bool stopped; /* the encoder is gone */
    struct op ops[SCHED_DEVICES][OP_KINDS];
    bool overlaps[SCHED_DEVICES];
    bool measured[SCHED_DEVICES][SCHED_MODELS]; /* or not wanted */
    int64_t expiry_us;                          /* nothing expires before */
    int64_t published_us;
    bool unpublished;
    bool starved; /* there was something to send, and no memory for it: try again soon */
    uint64_t last_seq;
    struct sched sched;
    int64_t steps; /* so far */
    struct quota *quota;
    struct given_up given_up[GIVEN_UP]; /* a ring */
    unsigned given_up_at;

    /* every image that still needs the worker, in the order of service: seqs[i] describes
     * refs[seqs[i].id] */
    struct sched_seq *seqs;
    struct image_ref *refs;
    double *start_ms, *finish_ms;
    bool *next; /* jobs_queued_behind's: it is in the next step of some device */
    int n_line, line_cap;
    int behind; /* jobs that came or went, or were worked on, since it was lined up */
    /* when it was estimated last, and what that took; it is not done again for a few times that */
    int64_t estimated_us, estimate_took_us;
};

static inline int op_kind(enum wire_type answer) {
    return answer == WIRE_OPENED || answer == WIRE_DECODED ? OP_BESIDE : OP_STEP;
}

/* ---- jobs_line.c */
bool jobs_line_up(struct jobs *js); /* fills seqs and refs; false when out of memory */
/* The same, but a long line may be a little out of date: its refs are not to be used. */
bool jobs_line_about(struct jobs *js);
const struct image_ref *jobs_ref(const struct jobs *js, int place);
/* finish_ms and position (among those who wait, from 1) of every job; false when out of memory.
 * With many they are not newer than a few times what it takes to work them out. */
bool jobs_estimate(struct jobs *js);
/* Jobs that wait and would not be in the next step either; -1 when a newcomer would not wait. */
int jobs_queued_behind(struct jobs *js);
void jobs_describe_newcomer(struct jobs *js, struct job *job, struct sched_newcomer *out);
double jobs_isolated_ms(const struct jobs *js, const struct job *job);
double jobs_pixels(const struct job *job); /* of one image */
const struct taca_model_info *jobs_model(const struct jobs *js, const struct job *job);
struct sched_costs *jobs_costs(struct jobs *js, const struct op *op);
uint64_t jobs_key(const char *user); /* NULL = nobody in particular */
void jobs_publish(struct jobs *js);

/* ---- jobs.c */
/* Something of a job may expire then. */
void jobs_expires(struct jobs *js, int64_t at_us);
void jobs_expire(struct jobs *js); /* ends what is late */
/* An image that a worker has, or had: it is closed there. */
void jobs_give_up(struct jobs *js, const struct job *job, struct job_image *im);
/* The job is over: its readers are served, and what they can ask for is kept. job->end says how;
 * `outcome` as in METRIC_REQUESTS, `status` for the log. */
void jobs_finish(struct jobs *js, struct job *job, const char *outcome, int status,
                 const char *error_code);
size_t jobs_result_bytes(const struct job *job);
void jobs_settle(struct jobs *js, struct job *job); /* its end is on the disk, or is not meant to */
void jobs_append(struct jobs *js, struct job *job);
/* A job of its model and state is there, or (-1) is not any more. */
void jobs_tally(struct jobs *js, const struct job *job, int by);
/* Out of the table, and the worker forgets it; twice is fine. */
void jobs_take_out(struct jobs *js, struct job *job);
/* Reason as in METRIC_CANCELLED. */
void jobs_cancel(struct jobs *js, struct job *job, const char *reason, int status);
void jobs_free_input(struct job *job);   /* once it is over: the pixels it started from */
void jobs_free_dropped(struct job *job); /* when nobody reads it any more */
void jobs_fail(struct jobs *js, struct job *job, const char *outcome, const struct api_error *e);

/* ---- jobs_disk.c */
/* A durable job's row is on its way: its readers wait. True for jobs that need none; false: no
 * memory. */
bool jobs_disk_accept(struct jobs *js, struct job *job);
void jobs_disk_stands(struct jobs *js, struct job *job); /* it began, or began again */
bool jobs_disk_end(struct jobs *js, struct job *job);    /* false: nothing is to be waited for */
void jobs_disk_remove(struct jobs *js, struct job *job);
void jobs_sleep(struct jobs *js, struct job *job); /* until the next process */
void jobs_wake_up(struct jobs *js, struct job *job);
void jobs_spill(struct job *job); /* pictures that are on the disk leave the memory */

/* ---- jobs_steps.c */
struct pool *jobs_worker(const struct jobs *js, const struct op *op); /* NULL: it is gone */
struct encode_task *jobs_task(struct jobs *js, const struct image_ref *r, enum encode_kind kind);
/* False: it was not taken and is freed. */
bool jobs_hand_over(struct jobs *js, struct encode_task *t);

/* ---- jobs_readers.c */
/* Takes the reader over: a ticket, what has happened so far, or a place among the others. */
void readers_come(struct jobs *js, struct job *job, struct reader *r);
void readers_serve(struct jobs *js, struct job *job);   /* what they can have now */
void readers_welcome(struct jobs *js, struct job *job); /* who came while the disk was written to */
void readers_refuse(struct job *job, const struct api_error *e); /* all of them */
void readers_rendered(struct jobs *js, struct job *job, struct encode_task *t);
int64_t readers_next_us(const struct job *job); /* when the next gives up waiting */
void readers_give_up(struct jobs *js, struct job *job, int64_t now_us);
bool readers_watch(const struct job *job); /* somebody follows the events */

/* ---- jobs_a1111.c */
void jobs_answer_a1111(struct jobs *js, const struct ask *a);

/* ---- jobs_ask.c */
/* True when the request is one that is known, or contradicts one: the job is then used up. */
bool jobs_join(struct jobs *js, struct job *job);
/* True when it was cancelled on its way here: the job is then used up. */
bool jobs_refuse_given_up(struct jobs *js, struct job *job);

/* ---- jobs_quota.c */
/* True when its client has as many as it may have, or asks too fast: the job is then used up. */
bool jobs_refuse_client(struct jobs *js, struct job *job);
void jobs_charge(struct jobs *js, const struct job *job); /* it was taken */
/* How it ended, as in METRIC_REQUESTS. */
void jobs_count(const struct job *job, const char *outcome);

/* ---- jobs_steps.c */
void jobs_rewind(struct job_image *im); /* back to step 0, when the worker has nothing of it */

/* ---- jobs_reply.c */
double jobs_since_ms(int64_t from_us);
const char *job_status(const struct job *job);   /* as clients know it */
const char *job_end_name(const struct job *job); /* as it is */
uint64_t job_next_event(struct job *job);
/* To all who follow the events. */
void tell_started(struct jobs *js, struct job *job);
void tell_progress(struct job *job, int index, const struct wire_stepped *step, double eta_ms);
void tell_preview(struct job *job, struct encode_task *t);
void tell_retrying(struct job *job, const char *reason);
void job_completed(struct job *job); /* its stages are known */
/* To one. */
void tell_so_far(struct jobs *js, struct job *job, struct reader *r);
void tell_final(struct job *job, struct reader *r);
void tell_ticket(struct jobs *js, struct job *job, struct reader *r);
void tell_status(struct jobs *js, struct job *job, struct reader *r, int status);
void tell_image(const struct jobs *js, struct job *job, struct reader *r, struct taca_buf *file);
void tell_picture(struct job *job, struct reader *r, struct taca_buf *file);
void tell_json(struct job *job, struct reader *r, struct taca_buf *body); /* moved */
/* 429, with e->retry_after_s; `queued` jobs wait. The job is used up. */
void tell_busy(struct jobs *js, struct job *job, const struct api_error *e, int queued);
/* A request that is `there` already. */
void tell_joined(const struct job *job, const struct job *there);
void tell_log(const struct jobs *js, const struct job *job, int status, const char *error_code);

#endif
