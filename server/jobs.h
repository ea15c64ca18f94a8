/* jobs.h - the table of accepted requests and what happens to them between queue and answer.
 *
 * Lives on the loop thread. One command at a time is with each device, whichever of its workers has
 * it; whenever its answer is there (or a job came, left or expired) jobs_pump drops what is over,
 * asks sched what comes next and sends it. Knows clients only as streams and workers only as pools:
 * no sockets, no uv. */
#ifndef TACA_SERVER_JOBS_H
#define TACA_SERVER_JOBS_H

#include "server/ask.h"
#include "server/disk.h"
#include "server/encode.h"
#include "server/fleet.h"
#include "server/front.h"
#include "server/job.h"
#include "server/sched.h"

struct jobs;

struct jobs_opts {
    struct sched_limits limits;
    enum sched_policy policy;
    double
        deadline_factor; /* times what a request takes alone, when the client names no deadline */
    double fair_quantum_ms; /* 0 = whoever asks */
    bool calibrate;         /* measure before the first request */
    int start_timeout_ms;
    int step_timeout_ms; /* least patience with a silent worker */
    bool log_prompts;
    int job_ttl_ms;      /* finished jobs are kept for so long */
    size_t stored_bytes; /* and their results within so many bytes */
    size_t input_bytes;  /* pixels that unfinished jobs start from */
    int max_retries;     /* a job that was running when the worker or the service died, so often */
};
/* Who the table talks to; all outlive it. */
struct jobs_ports {
    struct fleet *fleet;
    struct encode *encode;
    struct service_status *status;
    struct disk *disk; /* NULL: jobs live in memory only */
};

enum taca_code jobs_open(struct jobs **out, const struct jobs_opts *opts,
                         const struct jobs_ports *ports, struct taca_err *err) TACA_MUST_USE;
void jobs_close(struct jobs *js); /* every task must be back; NULL is fine */

/* Takes over what may change on the way: all but policy, batch sizes, calibrate and the store's. */
void jobs_reload(struct jobs *js, const struct jobs_opts *opts);

/* What another process has left on the disk. Once, before anything is added and before the disk's
 * thread runs. */
enum taca_code jobs_restore(struct jobs *js, struct taca_err *err) TACA_MUST_USE;
/* All models are there: restored jobs that were accepted for another one end. */
void jobs_models_known(struct jobs *js);
void jobs_written(struct jobs *js, struct disk_write *w); /* takes it over */

/* Takes the job over: a place in line, or an answer that says no. */
void jobs_add(struct jobs *js, struct job *job);
/* Takes the job over and refuses it. */
void jobs_refuse(struct jobs *js, struct job *job, const struct api_error *e);
/* Takes the question over and answers it. */
void jobs_ask(struct jobs *js, struct ask *ask);
void jobs_client_gone(struct jobs *js, uint64_t key);
/* Does what can be done now. Call after anything else has been called. */
void jobs_pump(struct jobs *js);
/* When the next job expires (taca_now_us); INT64_MAX = none does. */
int64_t jobs_next_expiry_us(const struct jobs *js);

void jobs_answer(struct jobs *js, int device, int model, const struct wire_msg *m);
void jobs_worker_lost(struct jobs *js, int device, int model, const char *reason);
/* Jobs of the model that are not over. */
int jobs_of_model(const struct jobs *js, int model);
/* Is a worker of the model busy with a command? */
bool jobs_command(const struct jobs *js, int model);
/* What was learnt of it holds no longer: other weights may come in its place. */
void jobs_forget_model(struct jobs *js, int model);
void jobs_encoded(struct jobs *js, struct encode_task *t); /* takes the task over */
void jobs_stop_encoding(struct jobs *js);                  /* from now on nobody is there to */

/* Jobs that are not over, answers and results that are being written. */
int jobs_unanswered(const struct jobs *js);
/* Ends those that have not been started and would not be finished in time; durable ones go back to
 * the disk. */
void jobs_shed(struct jobs *js, double budget_ms);
/* Ends all, in the same way: the service stops. */
void jobs_end_all(struct jobs *js);

#endif
