/* answer.h - what every answer of the service has in common, whoever writes it: the request id, the
 * fixed headers, and for refusals the JSON error and the retry hints.
 *
 * Pure text; knows nothing of sockets or of the HTTP library. Header lines travel as
 * "Name: value\n" until somebody puts them on the wire. */
#ifndef TACA_SERVER_ANSWER_H
#define TACA_SERVER_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

#include "api/error.h"

enum { REQUEST_ID_MAX = 128 };

/* [A-Za-z0-9._-]{1,128} */
bool request_id_ok(const char *s, size_t len);
void request_id_make(char out[REQUEST_ID_MAX + 1]); /* 32 hex digits; a counter without entropy */

/* Name, value, name, value, ..., NULL: the headers of every answer besides id and content type. */
extern const char *const answer_headers[];
const char *answer_reason_phrase(int status);

/* Retry-After, retry-after-ms or x-should-retry, as the status asks. */
void answer_retry_headers(struct taca_buf *out, const struct api_error *e);
/* A complete HTTP/1.1 response, for sockets that no library owns yet. `more` holds further header
 * lines or is NULL. */
void answer_error_bytes(struct taca_buf *out, const struct api_error *e, const char *request_id,
                        const char *more);

#endif
