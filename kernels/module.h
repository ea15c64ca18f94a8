/* module.h - the border between the program and a backend that it loads at run time.
 *
 * A module is a shared object beside the program (libtaca_cuda.so). It exports one function,
 * taca_backend_module, and needs nothing from the program but what struct taca_module_host hands
 * over, so that the same program runs where the module's driver does not exist. Both sides are
 * built from one source tree; the version and the sizes of what they share are compared at load. */
#ifndef TACA_KERNELS_MODULE_H
#define TACA_KERNELS_MODULE_H

#include <stdarg.h>

#include "kernels/backend_ops.h"

enum { TACA_MODULE_VERSION = 1 };
#define TACA_MODULE_SYMBOL "taca_backend_module"

/* What a module may call. */
struct taca_module_host {
    enum taca_code (*fail)(struct taca_err *err, enum taca_code code, const char *fmt, ...);
    void (*backend_fail)(struct taca_backend *b, enum taca_code code, const char *fmt, ...);
    void (*backend_finish)(struct taca_backend *b);
    void (*to_f32)(float *dst, const void *src, enum taca_dtype dtype, size_t n);
};

struct taca_module {
    int version;
    size_t ops_bytes, backend_bytes; /* sizeof of the two structs as the module knows them */
    /* Devices there are; 0 and a reason in *err where there is no driver or no device. */
    int (*devices)(const struct taca_module_host *host, struct taca_err *err);
    enum taca_code (*open)(struct taca_backend **out, int device,
                           const struct taca_backend_opts *opts,
                           const struct taca_module_host *host, struct taca_err *err);
};

typedef const struct taca_module *taca_module_fn(void);

#endif
