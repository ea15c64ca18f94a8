/* err.h - how a failure travels: a code goes up, the first message stays.
 *
 * Every fallible function returns enum taca_code and takes a struct taca_err that the caller owns.
 * taca_fail() keeps the first message (the one nearest the cause) and returns the code, so a
 * failing line reads `return taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));`. NULL is
 * allowed. */
#ifndef TACA_BASE_ERR_H
#define TACA_BASE_ERR_H

/* code, what a reader of a log should understand by it */
#define TACA_CODES(X)                                                                              \
    X(OK, "ok")                                                                                    \
    X(EINVAL, "invalid argument")                                                                  \
    X(ENOMEM, "out of memory")                                                                     \
    X(EIO, "input/output error")                                                                   \
    X(EFORMAT, "malformed file")                                                                   \
    X(ENOTFOUND, "not found")                                                                      \
    X(EUNSUPPORTED, "not supported")                                                               \
    X(EDEVICE, "device error")                                                                     \
    X(ENUMERIC, "numerical error")                                                                 \
    X(ECANCELLED, "cancelled")                                                                     \
    X(EBUSY, "busy")                                                                               \
    X(EPROTO, "protocol error")                                                                    \
    X(EINTERNAL, "internal error")

enum taca_code {
#define X(name, text) TACA_##name,
    TACA_CODES(X)
#undef X
};

struct taca_err {
    enum taca_code code; /* TACA_OK while nothing has failed */
    char param[64];      /* the request field or flag at fault, "" when none */
    char text[448];      /* one line, no trailing newline */
};

#define TACA_MUST_USE __attribute__((warn_unused_result))

/* Records code and text unless *err already holds a failure; returns code. err may be NULL. */
enum taca_code taca_fail(struct taca_err *err, enum taca_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Same, for a client's mistake: code is TACA_EINVAL and `param` names the field. */
enum taca_code taca_fail_param(struct taca_err *err, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* "invalid argument"; never NULL. */
const char *taca_code_text(enum taca_code code);

#endif
