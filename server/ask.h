/* ask.h - a question about jobs, or an operator's wish about models, on its way from an http thread
 * to the loop, which answers at the reader's stream. Like a job it is a message: whoever holds the
 * pointer owns it. */
#ifndef TACA_SERVER_ASK_H
#define TACA_SERVER_ASK_H

#include <stdlib.h>

#include "base/mailbox.h"
#include "server/access.h"
#include "server/reader.h"

/* PROGRESS and INTERRUPT are of AUTOMATIC1111's API and name no job; LOAD and UNLOAD a model. */
enum ask_kind {
    ASK_STATUS,
    ASK_EVENTS,
    ASK_IMAGE,
    ASK_CANCEL,
    ASK_QUEUE,
    ASK_PROGRESS,
    ASK_INTERRUPT,
    ASK_LOAD,
    ASK_UNLOAD
};

struct ask {
    struct taca_mail mail; /* first: the mailbox links it */
    enum ask_kind kind;
    char id[API_ID_MAX + 1];
    struct access_client client; /* who asks */
    int index;                   /* of the image */
    char known[64];              /* If-None-Match */
    bool head;                   /* only whether there are events */
    char model[64];              /* of LOAD and UNLOAD */
    char *path;                  /* of LOAD: owned; NULL = as before */
    bool only_idle;              /* of UNLOAD: not while requests want it */
    struct reader *reader;       /* owned */
};

static inline void ask_close(struct ask *a) {
    if (!a) return;
    reader_close(a->reader);
    free(a->path);
    free(a);
}

#endif
