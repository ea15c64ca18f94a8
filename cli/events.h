/* events.h - the frames of a text/event-stream (server-sent events), as bytes come in. */
#ifndef TACA_CLI_EVENTS_H
#define TACA_CLI_EVENTS_H

#include <jansson.h>
#include <stdint.h>

#include "base/buf.h"

struct events {
    struct taca_buf in; /* append what was received */
    size_t at;          /* of it, looked at */
    uint64_t last_id;   /* of the last frame that had one, 0 = none */
};
void events_init(struct events *e);
void events_finish(struct events *e);
void events_cut(struct events *e); /* the connection broke: half a frame is no frame */
/* The data of the next complete frame, an object that the caller owns; NULL: more bytes are
 * needed. Comments and what is no JSON object are passed over. */
json_t *events_next(struct events *e);

#endif
