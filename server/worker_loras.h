/* worker_loras.h - the adapters of `taca serve --lora ID=FILE`. */
#ifndef TACA_SERVER_WORKER_LORAS_H
#define TACA_SERVER_WORKER_LORAS_H

#include "engine/engine.h"

/* Items of the form "ID=FILE", in the order in which they are opened. */
struct serve_loras {
    const char *const *list;
    int n;
};

/* Every item has the form, an id once and a file that can be read; TACA_EINVAL. */
enum taca_code serve_loras_check(const struct serve_loras *l, struct taca_err *err) TACA_MUST_USE;
/* Opens all and names them in *info. What is left out of a file is a warning in the log. */
enum taca_code worker_loras_open(struct taca_engine *e, const struct serve_loras *l,
                                 struct taca_model_info *info, struct taca_err *err) TACA_MUST_USE;

#endif
