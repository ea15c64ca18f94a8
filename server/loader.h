/* loader.h - the life of the service's models: which there are at the start, and what the operator
 * loads and unloads while it runs. With a job store the latter outlives the process: the options
 * say which models there are and where from, the store which of them stay out and what else was
 * loaded. Loop thread. */
#ifndef TACA_SERVER_LOADER_H
#define TACA_SERVER_LOADER_H

#include "server/ask.h"
#include "server/disk.h"
#include "server/fleet.h"
#include "server/jobs.h"

struct serve_opts;
struct loader;

/* Names, files, adapters and devices, as far as can be said without reading a model. */
enum taca_code loader_check(const struct serve_opts *o, struct taca_err *err) TACA_MUST_USE;

/* Sends workers out for every model of the options, which outlive it, but those that an operator
 * has unloaded, and for what else is in the store. `disk` NULL = none; not started yet. */
enum taca_code loader_open(struct loader **out, const struct serve_opts *o, struct fleet *fleet,
                           struct service_status *status, struct disk *disk,
                           struct taca_err *err) TACA_MUST_USE;
void loader_close(struct loader *l); /* NULL is fine */

/* No worker could open it. */
void loader_refused(struct loader *l, int model, const struct taca_err *err);
/* Whether it is one of the options: the service does not start without it. */
bool loader_must_have(const struct loader *l, int model);
/* The last worker of a model is gone. */
void loader_recalled(struct loader *l, struct jobs *jobs, int model);
/* Takes the question (ASK_LOAD, ASK_UNLOAD) over and answers it. */
void loader_ask(struct loader *l, const struct jobs *jobs, struct ask *a);
/* What it wanted to remember is on the disk, or could not be. Takes the write over. */
void loader_written(struct loader *l, struct disk_write *w);
/* Ends what nobody needs any more. Call after anything else happened. */
void loader_settle(struct loader *l, const struct jobs *jobs);

#endif
