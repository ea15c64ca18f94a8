/* reader.h - one client that waits for something of a job: its events, its JSON or its picture.
 *
 * A job has any number of readers; each has a stream of its own and leaves by itself. An http
 * thread makes a reader, from then on only the loop touches it. */
#ifndef TACA_SERVER_READER_H
#define TACA_SERVER_READER_H

#include "api/reply.h"
#include "api/request.h"
#include "server/stream.h"

struct encode_task;

struct reader {
    struct reader *next;
    uint64_t key;          /* what the http side names when its client leaves; never 0 */
    struct stream *stream; /* one reference */
    enum api_reply form;
    bool openai;   /* bodies and frames in OpenAI's words */
    bool progress; /* of those: queued and progress events too */
    bool urls;     /* pictures by address instead of base64 */
    bool ticket;   /* wants the job object at once, not the result */
    bool confirm;  /* the same, and 202: what it asked for is done */
    bool fetch;    /* wants picture `index` of a job as a file */
    int index;
    bool fresh;               /* came while the disk was written to: not welcomed yet */
    bool holds;               /* the job is for it: cancelled when the last of these leaves */
    bool replayed;            /* came to a job that was there already */
    int wait_ms;              /* > 0: the job object when the result is not there by then */
    int64_t give_up_us;       /* from wait_ms; 0 = waits as long as it takes */
    uint64_t after;           /* events with lower or equal ids are known */
    uint64_t sent;            /* bit k: image k was sent */
    struct encode_task *task; /* at work for it */
    char base[API_BASE_MAX];  /* "http://host:port" of its urls, "" = relative */
};

struct reader *reader_open(enum api_reply form); /* NULL when out of memory or entropy */
void reader_close(struct reader *r);             /* NULL is fine */
/* Whether one rendering does for both. */
bool reader_alike(const struct reader *a, const struct reader *b);

#endif
