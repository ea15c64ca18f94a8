/* job.c - see job.h. */
#include "server/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct job *job_open(void) {
    unsigned char raw[API_ID_LEN / 2];
    struct job *j = calloc(1, sizeof *j);
    if (!j || getrandom(raw, sizeof raw, 0) != (ssize_t)sizeof raw) {
        free(j);
        return NULL;
    }
    for (size_t i = 0; i < sizeof raw; i++) snprintf(j->id + 2 * i, 3, "%02x", raw[i]);
    memcpy(&j->tag, raw, sizeof j->tag);
    return j;
}

void job_close(struct job *j) {
    if (!j) return;
    for (struct reader *r = j->readers, *next; r; r = next) {
        next = r->next;
        reader_close(r);
    }
    api_request_finish(&j->request);
    free(j->images);
    free(j->results);
    free(j);
}
