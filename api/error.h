/* error.h - what a client reads when we say no.
 *
 *   {"error":{"message":"...","type":"invalid_request_error","param":"width","code":"invalid_width"}}
 * All four keys are always there; param and code may be null. */
#ifndef TACA_API_ERROR_H
#define TACA_API_ERROR_H

#include "base/buf.h"
#include "base/err.h"

struct api_error {
    int status;     /* 400, 404, 429 ...; 0 = no error */
    char code[48];  /* "invalid_width", "queue_full" */
    char param[64]; /* "" = null */
    char message[448];
    int retry_after_s; /* 0 = no Retry-After header */
};

/* Fills *e (the first error wins) and returns e->status. */
int api_fail(struct api_error *e, int status, const char *code, const char *param, const char *fmt,
             ...) __attribute__((format(printf, 5, 6)));
/* An engine failure in HTTP terms: EINVAL with a param -> 400 invalid_<param>, ENOMEM -> 503
 * gpu_oom, ENUMERIC -> 500 numerical_error, EDEVICE -> 500 cuda_error, others 500 internal. */
void api_error_from(struct api_error *e, const struct taca_err *err);
/* "invalid_request_error", "rate_limit_error", "authentication_error" or "server_error". */
const char *api_error_type(int status);
void api_error_json(struct taca_buf *out, const struct api_error *e);

#endif
