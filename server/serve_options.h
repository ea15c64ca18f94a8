/* serve_options.h - what the service's options mean for its parts, and whether they make sense. */
#ifndef TACA_SERVER_SERVE_OPTIONS_H
#define TACA_SERVER_SERVE_OPTIONS_H

#include "server/jobs.h"
#include "server/serve.h"

/* As far as can be said without a socket or a model; TACA_EINVAL names the option and its range. */
enum taca_code serve_check(const struct serve_opts *o, struct taca_err *err) TACA_MUST_USE;
/* Their names; with `there`, whether this machine has them, which wakes a GPU's driver. */
enum taca_code serve_check_devices(const struct serve_opts *o, bool there,
                                   struct taca_err *err) TACA_MUST_USE;
struct jobs_opts serve_jobs_opts(const struct serve_opts *o);

#endif
