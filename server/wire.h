/* wire.h - what the service and its worker process say to each other over a socket pair.
 *
 * A message is a head, a flat struct and, for a few types, a tail of bytes. Both ends are the same
 * binary on the same machine, so structs travel as they lie in memory; magic, version, length and
 * every count are checked all the same, because a worker may die in the middle of a word or write
 * nonsense before it does. Pure: no descriptors, no clock. */
#ifndef TACA_SERVER_WIRE_H
#define TACA_SERVER_WIRE_H

#include <stdint.h>

#include "base/buf.h"
#include "engine/params.h"

/* TAIL: six prompts of the most --max-prompt-bytes, or a preview. */
enum { WIRE_MAX_SEQS = 64, WIRE_MAX_TAIL = 8 << 20 };

enum wire_type {
    WIRE_OPEN = 1,   /* to the worker: wire_open, tail = packed taca_gen_params, no pixels */
    WIRE_STEP,       /* wire_step */
    WIRE_PREVIEW,    /* wire_seq */
    WIRE_DECODE,     /* wire_decode */
    WIRE_CLOSE,      /* wire_seq; has no answer */
    WIRE_QUIT,       /* wire_seq (unused); has no answer but the end of the stream */
    WIRE_CALIBRATE,  /* wire_calibrate */
    WIRE_LOG,        /* wire_log; has no answer */
    WIRE_MEMORY,     /* from the worker, ahead of what it says next: wire_memory */
    WIRE_HELLO,      /* from the worker, once: wire_hello */
    WIRE_FAILED,     /* instead of HELLO: the model cannot be opened; wire_opened.err says why */
    WIRE_OPENED,     /* wire_opened */
    WIRE_STEPPED,    /* wire_stepped */
    WIRE_PREVIEWED,  /* wire_pixels, tail = rgb */
    WIRE_DECODED,    /* wire_pixels; the pixels are in the slot */
    WIRE_CALIBRATED, /* wire_calibrated */
    WIRE_TYPES_END
};

struct wire_err {
    int32_t code; /* enum taca_code */
    char param[64];
    char text[448];
};
struct wire_seq {
    uint64_t id;
};
/* Pixels to start from lie in the memory that both sides share, the mask behind the image. */
struct wire_open {
    uint64_t id;
    int64_t image_bytes, mask_bytes; /* 0 = none */
};
struct wire_step {
    uint64_t ids[WIRE_MAX_SEQS];
    int64_t n; /* 1.. */
};
struct wire_decode {
    uint64_t id;
    int64_t slot;
};
struct wire_hello {
    struct taca_model_info model;
    double load_ms;
    int64_t overlaps; /* 1: OPEN and DECODE are done beside STEP, one of both at a time; else 0 */
};
struct wire_opened {
    uint64_t id;
    double ms;
    int32_t steps, tokens;
    uint32_t warnings;
    struct wire_err err;
};
struct wire_stepped {
    double ms;
    int32_t n, tokens;
    int32_t pad;
    struct wire_err err;
};
struct wire_pixels {
    uint64_t id;
    double ms;
    int32_t width_px, height_px; /* 0 on failure */
    int32_t slot;                /* of DECODED, else -1 */
    struct wire_err err;
};

struct wire_calibrate {
    int64_t budget_ms; /* no new measurement that would pass it */
};
/* What steps took: by themselves and joint, all rows of a step alike. */
enum { WIRE_MAX_SIGHTS = 16 };
struct wire_calibrated {
    double open_ms, decode_ms, decode_pixels; /* 0 = not measured */
    int64_t n;
    struct wire_sight {
        int32_t rows, tokens; /* tokens of one row */
        double ms;
    } steps[WIRE_MAX_SIGHTS];
    struct wire_err err;
};

struct wire_log {
    int64_t least; /* enum taca_log_level */
};
/* As in engine.h's taca_memory_use. */
struct wire_memory {
    int64_t device_used_bytes, device_total_bytes, scratch_peak_bytes;
};

struct wire_msg {
    enum wire_type type;
    union {
        struct wire_seq seq;
        struct wire_open open;
        struct wire_step step;
        struct wire_decode decode;
        struct wire_hello hello;
        struct wire_opened opened;
        struct wire_stepped stepped;
        struct wire_pixels pixels;
        struct wire_calibrate calibrate;
        struct wire_calibrated calibrated;
        struct wire_log log;
        struct wire_memory memory;
    } u;
    const void *tail; /* of wire_get: borrowed from its input */
    size_t tail_len;
};

/* Appends one message; a tail that is too long or misplaced sets out->failed. */
void wire_put(struct taca_buf *out, const struct wire_msg *m);

/* The first message in bytes[0..len). Returns the bytes it takes, 0 when more are needed, -1 with
 * *err when this can never become a message. */
long wire_get(struct wire_msg *m, const void *bytes, size_t len,
              struct taca_err *err) TACA_MUST_USE;

void wire_err_set(struct wire_err *w, const struct taca_err *err, enum taca_code rc);
void wire_err_get(struct taca_err *err, const struct wire_err *w);

#endif
