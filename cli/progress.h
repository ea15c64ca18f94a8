/* progress.h - one line on stderr that says how far a picture is, and above it the picture as far
 * as it is, in coloured half blocks. Only on a terminal: elsewhere nothing is written. */
#ifndef TACA_CLI_PROGRESS_H
#define TACA_CLI_PROGRESS_H

#include <stdbool.h>

#include "engine/params.h"

struct progress {
    bool silent, draws;
    bool line;         /* something stands in the line */
    int rows;          /* of the picture above it, 0 = none yet */
    double started_ms; /* of the first step */
    double shown_ms;
};
void progress_start(struct progress *p, bool silent, bool draws);
/* A bar; at most 20 times a second. left_ms < 0: guessed from the time so far. */
void progress_steps(struct progress *p, int done, int total, double left_ms);
void progress_say(struct progress *p, const char *text); /* other words in the line */
bool progress_draws(const struct progress *p);
/* Draws over the one before. */
void progress_draw(struct progress *p, const struct taca_image *img);
void progress_clear(struct progress *p); /* empties the line; a picture stays */

#endif
