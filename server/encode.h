/* encode.h - a few threads that turn pixels into what clients receive: files with their parameters,
 * base64, event frames, the JSON of a finished request. And the pictures of new requests into
 * pixels, when there is nothing else to do: one thread is always left for those who wait.
 *
 * A task is a message: the loop fills it and hands it over, a thread works on it alone, and it
 * comes back through the mailbox. It borrows the job (of which only the parts that never change are
 * read) and, for an image, its slot; the loop frees neither before the task is back. */
#ifndef TACA_SERVER_ENCODE_H
#define TACA_SERVER_ENCODE_H

#include "api/reply.h"
#include "base/mailbox.h"
#include "server/disk_files.h"
#include "server/job.h"

struct pool;

enum encode_kind {
    ENCODE_IMAGE,   /* pixels -> file */
    ENCODE_PREVIEW, /* pixels (owned) -> frame */
    ENCODE_UNPACK,  /* the pictures of a request -> pixels; the job is the task's */
    ENCODE_RENDER   /* encoded images -> frame: a JSON body, their events, or the file of one */
};

struct encode_task {
    struct taca_mail mail; /* first */
    enum encode_kind kind;
    struct job *job;                     /* borrowed */
    const struct taca_model_info *model; /* borrowed */
    int index;                           /* of the image in its request */
    struct pool *worker;                 /* IMAGE: whose slot `pixels` points into, */
    int slot;                            /* and which; for the loop */
    struct taca_image pixels;
    int step, partial_index; /* PREVIEW */
    struct {
        enum api_reply form; /* of IMAGE there is one, as it is */
        bool openai, urls;
        char base[API_BASE_MAX];
        uint64_t mask;                         /* of the images */
        const struct disk_files *files;        /* where those lie that have no bytes; borrowed */
        const struct api_result_image *images; /* [job->request.n], borrowed */
        struct api_timings timings;
        unsigned warnings;
    } render;

    struct taca_buf file, frame; /* results */
    struct api_error error;      /* UNPACK: of the request; status 0 = fine */
    double ms;
    enum taca_code rc;
    struct taca_err err;
};

struct encode;
enum taca_code encode_open(struct encode **out, int threads, struct taca_mailbox *results,
                           struct taca_err *err) TACA_MUST_USE;
/* False for a preview that would have to wait too long: the caller still owns it. */
bool encode_submit(struct encode *e, struct encode_task *t);
/* Any thread. The job comes back in a task of its own. False: no memory, or too much is waiting;
 * the caller still owns it. */
bool encode_unpack(struct encode *e, struct job *job);
/* Finishes what was submitted (results are posted) and joins the threads. NULL is fine. */
void encode_close(struct encode *e);

void encode_task_free(struct encode_task *t); /* NULL is fine */
/* The frame with its event id, which is known only when it is sent. Points into t->frame. */
const char *encode_frame(struct encode_task *t, uint64_t event_id, size_t *len);

#endif
