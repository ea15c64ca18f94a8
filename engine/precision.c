/* precision.c - what a precision asks of a backend, and what it is called. */
#include "engine/precision.h"

#include <string.h>

enum taca_narrow precision_narrow(enum taca_precision p) {
    if (p == TACA_PRECISION_INT8) return TACA_NARROW_INT8;
    return p == TACA_PRECISION_FP8 ? TACA_NARROW_FP8 : TACA_NARROW_NONE;
}

enum taca_code precision_check(const struct taca_backend *b, enum taca_precision p,
                               struct taca_err *err) {
    const bool cpu = strcmp(taca_backend_name(b), "cpu") == 0;
    const enum taca_narrow wanted = precision_narrow(p);
    if (p == TACA_PRECISION_BF16 && taca_backend_precision(b) != TACA_BF16)
        return taca_fail_param(err, "precision",
                               "bf16 needs a processor with AVX512-BF16; use f32");
    if (wanted == TACA_NARROW_NONE || taca_backend_narrow_type(b) == wanted) return TACA_OK;
    if (wanted == TACA_NARROW_INT8)
        return taca_fail_param(err, "precision",
                               cpu ? "int8 needs a processor with AVX512-VNNI; use auto"
                                   : "int8 is for CPUs; use fp8 or auto");
    return taca_fail_param(err, "precision",
                           "fp8 needs a CUDA device for which cuBLASLt scales 8-bit products by "
                           "row, as for compute capability 9.0; use auto");
}

const char *precision_narrow_name(enum taca_narrow n) {
    if (n == TACA_NARROW_INT8) return "int8";
    return n == TACA_NARROW_FP8 ? "fp8" : "none";
}

const char *precision_name(const struct taca_backend *b) {
    const enum taca_narrow n = taca_backend_narrow_type(b);
    return n ? precision_narrow_name(n) : taca_dtype_name(taca_backend_precision(b));
}
