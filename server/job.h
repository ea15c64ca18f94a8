/* job.h - one accepted request on its way through the service.
 *
 * A job is a message: whoever holds the pointer owns it. An http thread makes it, posts it to the
 * loop and forgets it; from then on only the loop touches it. What the http side keeps is a
 * reference to the stream and the id. */
#ifndef TACA_SERVER_JOB_H
#define TACA_SERVER_JOB_H

#include "api/reply.h"
#include "api/request.h"
#include "base/mailbox.h"
#include "server/stream.h"

enum job_state { JOB_QUEUED, JOB_RUNNING, JOB_DONE };

struct job_image; /* the loop's book-keeping of one image: server/jobs_internal.h */

struct job {
    struct taca_mail mail;      /* first: the mailbox links it */
    char id[API_ID_LEN + 1];    /* [0-9a-f]{32} from getrandom */
    uint64_t key;               /* the same as a number, for watch and wire: never 0 */
    char request_id[129];       /* X-Request-Id, ours or the client's */
    struct api_request request; /* owned */
    enum api_reply reply;
    struct stream *stream; /* one reference */
    int64_t received_us, started_us;
    int64_t created_s; /* wall clock, for the client */

    /* the loop's own */
    enum job_state state;
    struct job *next, *prev;
    struct job_image *images;         /* [request.n] */
    struct api_result_image *results; /* [request.n], for the JSON reply */
    uint64_t flow;                    /* who asks, as a number: sched's key */
    int64_t deadline_us;              /* where the client has none; 0 = costs are not known yet */
    int64_t eta_us;                   /* what was promised first; 0 = nothing */
    double finish_ms;                 /* the last estimate, from then */
    int64_t counted;                  /* the last step that it was counted in */
    int images_done, attempts;
    int borrowed; /* encode tasks that still read it: it is freed when they are back */
    bool alone;   /* steps only by itself: a joint step with it has failed */
    int64_t steps_run, sequences_seen; /* their quotient is the mean batch */
    size_t bytes_out;
    unsigned warnings;
    struct api_timings timings;
    const char *cancel_reason; /* NULL, "disconnect", "deadline", "client" */
};

struct job *job_open(void);    /* zeroed, with an id; NULL when out of memory or entropy */
void job_close(struct job *j); /* frees everything it owns; NULL is fine */

#endif
