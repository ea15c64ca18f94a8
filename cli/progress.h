/* progress.h - a one-line progress bar with the time left, on stderr, only on a terminal. */
#ifndef TACA_CLI_PROGRESS_H
#define TACA_CLI_PROGRESS_H

#include <stdbool.h>

struct progress {
    int total;
    bool silent;
    double started_ms, shown_ms;
};
void progress_start(struct progress *p, int total, bool silent);
void progress_show(struct progress *p, int done); /* redraws at most 20 times a second */
void progress_end(struct progress *p);            /* clears the line */

#endif
