/* worker_calibrate.h - the worker measures its own engine: a few steps of pictures that nobody
 * asked for, from small to large, as many as the time given allows. */
#ifndef TACA_SERVER_WORKER_CALIBRATE_H
#define TACA_SERVER_WORKER_CALIBRATE_H

#include "engine/engine.h"
#include "server/wire.h"

/* At least one step of the smallest size is measured, however long it takes. */
enum taca_code worker_calibrate(struct taca_engine *e, const struct wire_calibrate *c,
                                struct wire_calibrated *out, struct taca_err *err) TACA_MUST_USE;

#endif
