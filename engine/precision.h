/* precision.h - what a precision asks of a backend, and what it is called. */
#ifndef TACA_ENGINE_PRECISION_H
#define TACA_ENGINE_PRECISION_H

#include "engine/engine.h"
#include "kernels/backend.h"

static inline enum taca_dtype precision_dtype(enum taca_precision p) {
    return p == TACA_PRECISION_F32 ? TACA_F32 : TACA_BF16;
}
enum taca_narrow precision_narrow(enum taca_precision p);

/* TACA_EINVAL, naming `precision`, when b cannot do what p insists on; AUTO insists on nothing. */
enum taca_code precision_check(const struct taca_backend *b, enum taca_precision p,
                               struct taca_err *err) TACA_MUST_USE;

/* "f32", "bf16", "int8" or "fp8": what b computes with. */
const char *precision_name(const struct taca_backend *b);
const char *precision_narrow_name(enum taca_narrow n);

#endif
