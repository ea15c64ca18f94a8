/* trace.h - which trace a request belongs to: W3C Trace Context, level 1, header traceparent.
 *
 * A client's trace goes on through us with a span of our own, into the log and back in the answer.
 * A request without a good header has no trace, and none is begun. */
#ifndef TACA_SERVER_TRACE_H
#define TACA_SERVER_TRACE_H

#include <stdbool.h>

#include "base/buf.h"

enum { TRACE_ID_LEN = 32, TRACE_SPAN_LEN = 16, TRACE_HEADER_LEN = 55 };

struct trace {
    char id[TRACE_ID_LEN + 1]; /* "" = none */
    char span[TRACE_SPAN_LEN + 1];
    char flags[3];
};

/* From the header's value or NULL, with a new span; *out has no trace when it is not a good one. */
void trace_read(struct trace *out, const char *traceparent);
/* The header's value for an answer; "" without a trace. */
void trace_header(char out[TRACE_HEADER_LEN + 1], const struct trace *t);
/* ,"trace_id":"...","span_id":"..." for a record of the log; nothing without a trace. */
void trace_fields(struct taca_buf *out, const struct trace *t);

#endif
