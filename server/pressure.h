/* pressure.h - how short memory is, and what is given up for it.
 *
 *   level 1  from 92 %: no new jobs that nobody waits for
 *   level 2  from 95 %: no new jobs
 *   level 3  from 98 %: no new connections
 * A level ends two percent below where it begins. The measure is the limit of the control group
 * (version 2 or 1) that the process lives in, where the kernel's out-of-memory killer would act;
 * file pages count as free, they can be read again. Knows no loop, no clock and no HTTP. */
#ifndef TACA_SERVER_PRESSURE_H
#define TACA_SERVER_PRESSURE_H

#include <stdbool.h>

#include "base/err.h"

enum pressure_level { PRESSURE_NONE, PRESSURE_NO_ASYNC, PRESSURE_NO_JOBS, PRESSURE_SHUT };

struct pressure {
    enum pressure_kind { PRESSURE_OFF, PRESSURE_FILE, PRESSURE_V2, PRESSURE_V1 } kind;
    char path[1024]; /* of the file, or of the group's folder */
    enum pressure_level level;
};

/* what: "auto", "none", or the path of a file that holds the share in use as a number, 0 to 1.
 * `root` is "" but in tests: a folder with proc/ and sys/ of its own. Without a limit auto is none.
 */
enum taca_code pressure_open(struct pressure *p, const char *what, const char *root,
                             struct taca_err *err) TACA_MUST_USE;
/* The share in use, or a negative number when it is not known. */
double pressure_read(const struct pressure *p);
/* Reads it; true when the level is another now, which log and metric have been told. */
bool pressure_look(struct pressure *p);
enum pressure_level pressure_level(enum pressure_level before, double share);

#endif
