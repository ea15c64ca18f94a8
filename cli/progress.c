/* progress.c - see progress.h. */
#include "cli/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

enum { WIDTH = 32, REDRAW_MS = 50 };

void progress_start(struct progress *p, int total, bool silent) {
    *p = (struct progress){.total = total, .silent = silent || !isatty(STDERR_FILENO)};
    p->started_ms = taca_now_ms();
}

void progress_show(struct progress *p, int done) {
    double now = taca_now_ms();
    if (p->silent || (done < p->total && now - p->shown_ms < REDRAW_MS)) return;
    p->shown_ms = now;
    char bar[WIDTH + 1];
    for (int i = 0; i < WIDTH; i++) bar[i] = i < done * WIDTH / p->total ? '#' : '.';
    bar[WIDTH] = 0;
    double left_s = (now - p->started_ms) / done * (p->total - done) / 1000;
    fprintf(stderr, "\r[%s] step %d/%d, %.1f s left \x1b[K", bar, done, p->total, left_s);
    fflush(stderr);
}

void progress_end(struct progress *p) {
    if (!p->silent) fprintf(stderr, "\r\x1b[K");
}
