/* err.c - see err.h. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 4, 0))) static void
record(struct taca_err *err, enum taca_code code, const char *param, const char *fmt, va_list ap) {
    if (!err || err->code != TACA_OK) return; /* the first message is nearest the cause */
    err->code = code;
    snprintf(err->param, sizeof err->param, "%s", param);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
}

enum taca_code taca_fail(struct taca_err *err, enum taca_code code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    record(err, code, "", fmt, ap);
    va_end(ap);
    return code;
}

enum taca_code taca_fail_param(struct taca_err *err, const char *param, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    record(err, TACA_EINVAL, param, fmt, ap);
    va_end(ap);
    return TACA_EINVAL;
}

static const char *const texts[] = {
#define X(name, text) text,
    TACA_CODES(X)
#undef X
};

const char *taca_code_text(enum taca_code code) {
    return (size_t)code < sizeof texts / sizeof *texts ? texts[code] : "?";
}
