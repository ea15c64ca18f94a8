/* modules.h - the linear modules and head norms of a transformer by name. Inside engine/dit only.
 */
#ifndef TACA_ENGINE_DIT_MODULES_H
#define TACA_ENGINE_DIT_MODULES_H

#include "engine/dit/dit.h"

/* The module `name` is rows [first, first + out) of w, which may stack several; or a norm with a
 * gain of `out` values, and w is NULL. */
struct dit_module {
    char name[96];
    struct taca_linear *w;
    const struct taca_vec *gain;
    int64_t first, out;
};

/* How many there are; fills at most cap of them. */
int dit_modules(const struct dit *d, struct dit_module *out, int cap);

#endif
