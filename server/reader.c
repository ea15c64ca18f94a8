/* reader.c - see reader.h. */
#include "server/reader.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct reader *reader_open(enum api_reply form) {
    uint64_t key;
    struct reader *r = calloc(1, sizeof *r);
    if (!r || getrandom(&key, sizeof key, 0) != (ssize_t)sizeof key) {
        free(r);
        return NULL;
    }
    r->form = form;
    r->key = key | 1; /* never 0 */
    r->stream = stream_open(form == API_REPLY_EVENTS ? STREAM_EVENTS : STREAM_REPLY);
    if (r->stream) return r;
    free(r);
    return NULL;
}

void reader_close(struct reader *r) {
    if (!r) return;
    stream_unref(r->stream);
    free(r);
}

bool reader_alike(const struct reader *a, const struct reader *b) {
    return a->form == b->form && a->openai == b->openai && a->urls == b->urls &&
           (!a->urls || strcmp(a->base, b->base) == 0);
}
