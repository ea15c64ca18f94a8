/* request.h - the body of POST /v1/generate, parsed once into plain data.
 *
 * Unknown fields, fields that this build cannot honour and values out of range are refused by name;
 * no field is ever ignored. Pure: no sockets, no threads, no clock. */
#ifndef TACA_API_REQUEST_H
#define TACA_API_REQUEST_H

#include "api/error.h"
#include "api/limits.h"
#include "engine/params.h"

enum api_format { API_PNG };
enum api_on_disconnect { API_DISCONNECT_CANCEL, API_DISCONNECT_CONTINUE };
enum { API_MAX_N = 64 };

struct api_request {
    struct taca_arena arena;       /* owns every string below */
    struct taca_gen_params params; /* seed is that of image 0; image k uses seed + k */
    int n;
    enum api_format format;
    int png_level;        /* 0..9, default 3 */
    bool metadata;        /* parameters in the PNG */
    bool stream;          /* body asked for events */
    int previews;         /* how many previews at most over the run, 0 = none */
    int priority;         /* -10..10 */
    int start_timeout_ms; /* 0 = the server's own */
    int deadline_ms;      /* 0 = none */
    enum api_on_disconnect on_disconnect;
    const char *user; /* NULL = none */
    char *json;       /* the request as it will be repeated: normalised, seed fixed */
};

/* Parses and checks `len` bytes of JSON (RFC 8259, duplicates refused, depth and size limited).
 *   random_seed  used when seed is -1 or absent, below 2^53
 * Returns 0, or an HTTP status with *err filled; *out then needs no finish. */
int api_request_parse(struct api_request *out, const char *body, size_t len,
                      const struct taca_model_info *model, const struct api_limits *limits,
                      uint64_t random_seed, struct api_error *err);
void api_request_finish(struct api_request *r); /* zeroed is fine */

/* How the client wants its answer. `accept` is the header's value or NULL. */
enum api_reply { API_REPLY_JSON, API_REPLY_IMAGE, API_REPLY_EVENTS };
/* Section order: stream:true, then Accept by q-value, then JSON. 0, or 406 with *err filled (n > 1
 * with only image types acceptable, or nothing that we make). */
int api_negotiate(enum api_reply *out, const char *accept, const struct api_request *r,
                  struct api_error *err);

#endif
