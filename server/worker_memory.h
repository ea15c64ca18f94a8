/* worker_memory.h - whether a model fits into the memory that is free, asked before loading. */
#ifndef TACA_SERVER_WORKER_MEMORY_H
#define TACA_SERVER_WORKER_MEMORY_H

#include "engine/engine.h"

/* TACA_ENOMEM, with both figures, when the plan of one picture of the model's own size is above
 * what the machine has left, or the group of processes may still take; of a GPU's memory nothing is
 * said. Reads headers only. */
enum taca_code worker_memory_check(const struct taca_engine_opts *opts,
                                   struct taca_err *err) TACA_MUST_USE;

#endif
