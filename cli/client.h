/* client.h - the program's own HTTP/1.1 client: one request per connection over TCP or a Unix
 * socket, answers whole or as they come. For healthcheck, bench and generate --server; no
 * redirects, no TLS. */
#ifndef TACA_CLI_CLIENT_H
#define TACA_CLI_CLIENT_H

#include <signal.h>

#include "base/buf.h"
#include "base/err.h"

enum { CLIENT_MAX_HOST = 254, CLIENT_MAX_PATH = 1024 };

struct client_url {
    char host[CLIENT_MAX_HOST]; /* name or address, without brackets; or "unix:/PATH" */
    int port;
    char path[CLIENT_MAX_PATH]; /* "" or "/..." */
};
/* [http://]HOST[:PORT][/PATH], without a port 80; or unix:/PATH. TACA_EINVAL names `param` and what
 * was wrong. */
enum taca_code client_url_parse(struct client_url *out, const char *url, const char *param,
                                struct taca_err *err) TACA_MUST_USE;

struct client_request {
    const char *host; /* as in struct client_url */
    int port;
    const char *method, *path;
    const char *headers;               /* "Accept: image/png\r\n", or NULL */
    const char *body;                  /* JSON, or NULL */
    int timeout_ms;                    /* of all of it; in the pieces below, of each */
    const volatile sig_atomic_t *stop; /* nonzero: TACA_ECANCELLED within a quarter second; NULL */
};
/* *status and *body (initialised by the caller) on success. */
enum taca_code client_send(const struct client_request *r, int *status, struct taca_buf *body,
                           struct taca_err *err) TACA_MUST_USE;

/* An answer in pieces. */
struct client {
    int fd; /* < 0 = closed */
    int status;
    int retry_after_s;     /* 0 = none said */
    char content_type[64]; /* as far as it fits; "" = none said */
    bool ended;            /* the body is complete */
    /* own */
    const struct client_request *request;
    struct taca_buf raw; /* read and not yet handed out */
    size_t at;           /* of it, handed out */
    size_t left;         /* of the chunk or of the body */
    enum client_body { CLIENT_TO_END, CLIENT_LENGTH, CLIENT_CHUNKS } body;
    bool after_chunk;
};
/* Sends the request and reads the head of the answer. *r must outlive c. client_close in any case.
 * TACA_EIO when there is no connection or it ends, TACA_EPROTO for what is not HTTP. */
enum taca_code client_open(struct client *c, const struct client_request *r,
                           struct taca_err *err) TACA_MUST_USE;
/* Waits for more of the body and appends it; with c->ended nothing comes any more. */
enum taca_code client_read(struct client *c, struct taca_buf *body,
                           struct taca_err *err) TACA_MUST_USE;
void client_close(struct client *c); /* twice is fine */

#endif
