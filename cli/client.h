/* client.h - one blocking HTTP/1.1 request with a deadline, for healthcheck and bench. Not a
 * general client: plain TCP, one request per connection, the answer is read until the server
 * closes. */
#ifndef TACA_CLI_CLIENT_H
#define TACA_CLI_CLIENT_H

#include "base/buf.h"
#include "base/err.h"

struct client_request {
    const char *host; /* name or address */
    int port;
    const char *method, *path;
    const char *headers; /* "Accept: image/png\r\n", or NULL */
    const char *body;    /* JSON, or NULL */
    int timeout_ms;      /* of the whole exchange */
};
/* *status and *body (initialised by the caller) on success. */
enum taca_code client_send(const struct client_request *r, int *status, struct taca_buf *body,
                           struct taca_err *err) TACA_MUST_USE;

#endif
