/* job.h - one accepted request on its way through the service, and what is kept of it afterwards.
 *
 * A job is a message: whoever holds the pointer owns it. An http thread makes it, with the one
 * reader that asked for it, posts it to the loop and forgets it; from then on only the loop touches
 * it. What the http side keeps is a reference to the reader's stream and the reader's key. */
#ifndef TACA_SERVER_JOB_H
#define TACA_SERVER_JOB_H

#include "api/reply.h"
#include "api/request.h"
#include "base/mailbox.h"
#include "server/access.h"
#include "server/reader.h"
#include "server/sched.h"
#include "server/sha256.h"
#include "server/trace.h"

/* ENDING: nothing is left to do, but how it ended is not on the disk yet and so nobody knows. */
enum job_state { JOB_QUEUED, JOB_RUNNING, JOB_ENDING, JOB_DONE };
enum job_end { JOB_OPEN, JOB_COMPLETED, JOB_FAILED, JOB_CANCELLED };
enum { IDEMPOTENCY_KEY_MAX = 128 };

struct job_image; /* the loop's book-keeping of one image: server/jobs_internal.h */

struct job {
    struct taca_mail mail;   /* first: the mailbox links it */
    char id[API_ID_MAX + 1]; /* [0-9a-f]{32} from getrandom, or the client's choice */
    uint64_t tag;            /* random: tells two jobs of one id apart */
    char request_id[129];    /* X-Request-Id, ours or the client's */
    struct trace trace;
    struct api_request request;  /* owned */
    struct reader *readers;      /* owned */
    bool named;                  /* the id is the client's: PUT */
    bool comes_back;             /* goes on without its client, unless the request says otherwise */
    struct access_client client; /* whose key asked for it */
    /* with a letter for the route and the client's name in front; "" = none */
    char idempotency_key[IDEMPOTENCY_KEY_MAX + CLIENT_NAME_MAX + 3];
    uint8_t body_hash[SHA256_BYTES];
    int64_t received_us, started_us;
    int64_t created_s, started_s, completed_s; /* wall clock, for the client */

    /* the loop's own */
    enum job_state state;
    struct job *next, *prev;
    /* how it stands in the line until it begins, while its model is this one: jobs_line.c */
    const struct taca_model_info *lined_for; /* NULL = that may still change */
    struct sched_seq lined;
    bool listed;              /* in the table of those that are not over */
    bool asleep;              /* given back to the disk: the next process makes it */
    int64_t waits_since_us;   /* when it was received, or the restart after which it waits again */
    struct job_image *images; /* [request.n] */
    struct api_result_image *results; /* [request.n]; valid where `made` says so */
    uint64_t made;                    /* bit k: image k is encoded */
    uint64_t flow;                    /* who asks, as a number: sched's key */
    int64_t deadline_us;              /* where the client has none; 0 = costs are not known yet */
    int64_t eta_us;                   /* what was promised first; 0 = nothing */
    double finish_ms;                 /* the last estimate, from then */
    int position;                     /* in the line, then */
    int64_t counted;                  /* the last step that it was counted in */
    int images_done, attempts;
    int borrowed; /* tasks and writes that still read it: it is freed when they are back */
    bool alone;   /* steps only by itself: a joint step with it has failed */
    int64_t steps_run, sequences_seen; /* their quotient is the mean batch */
    size_t bytes_out;
    unsigned warnings;
    struct api_timings timings;
    const char *cancel_reason;      /* NULL, "disconnect", "deadline", "client" */
    enum job_end end;               /* meant for clients once the state is DONE */
    struct api_error error;         /* of a failed one */
    const char *outcome, *log_code; /* of an end: for the metrics and the log */
    int log_status;

    /* what of it is on the disk: server/jobs_disk.c */
    bool durable;   /* its row is there, or on the way there */
    bool refused;   /* its row could not be written */
    bool on_disk;   /* its pictures are */
    int writes;     /* on the way that its readers wait for */
    char model[64]; /* of a restored one: what it was accepted for */
    bool unplaced;  /* whether the service has that is not known yet */

    /* ids of its events, shared by all readers */
    bool previewed; /* its first preview was counted */
    uint64_t last_event, started_event, progress_event, final_event;
    struct api_progress progress; /* the latest */

    /* the store's own */
    struct job *same_id, *same_key, *younger;
    bool stored, by_key;
    bool dropped; /* left the store: freed when nobody reads it */
    size_t stored_bytes;
    int64_t expires_us;
};
_Static_assert(API_MAX_N <= 64, "`made` has a bit for each image");

struct job *job_open(void);    /* zeroed, with an id; NULL when out of memory or entropy */
void job_close(struct job *j); /* frees everything it owns; NULL is fine */

#endif
