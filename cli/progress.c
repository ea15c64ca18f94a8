/* progress.c - see progress.h. */
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

enum { WIDTH = 32, REDRAW_MS = 50, PICTURE_COLUMNS = 48, LEAST_COLUMNS = 8, LINES_BELOW = 3 };

void progress_start(struct progress *p, bool silent, bool draws) {
    *p = (struct progress){.silent = silent || !isatty(STDERR_FILENO)};
    p->draws = draws && !p->silent;
    p->started_ms = taca_now_ms();
}

void progress_steps(struct progress *p, int done, int total, double left_ms) {
    double now = taca_now_ms();
    if (p->silent || total < 1 || (done < total && now - p->shown_ms < REDRAW_MS)) return;
    p->shown_ms = now;
    char bar[WIDTH + 1];
    for (int i = 0; i < WIDTH; i++) bar[i] = i < done * WIDTH / total ? '#' : '.';
    bar[WIDTH] = 0;
    if (left_ms < 0) left_ms = done ? (now - p->started_ms) / done * (total - done) : 0;
    fprintf(stderr, "\r[%s] step %d/%d, %.1f s left \x1b[K", bar, done, total, left_ms / 1000);
    fflush(stderr);
    p->line = true;
}

void progress_say(struct progress *p, const char *text) {
    if (p->silent) return;
    struct taca_buf plain; /* a server's words, maybe */
    taca_buf_init(&plain, 1 << 12);
    taca_buf_plain(&plain, text, strlen(text), "");
    fprintf(stderr, "\r%s \x1b[K", plain.data ? plain.data : "");
    taca_buf_finish(&plain);
    fflush(stderr);
    p->line = true;
}

void progress_clear(struct progress *p) {
    if (p->line) fprintf(stderr, "\r\x1b[K");
    p->line = false;
}

bool progress_draws(const struct progress *p) { return p->draws; }

/* ---- pictures in a terminal ------------------------------------------------------------------ */

/* The mean of the part of the picture that is pixel (x, y) of `wide` x `high`. */
static void mean(uint8_t out[3], const struct taca_image *img, int x, int y, int wide, int high) {
    const int left = x * img->width_px / wide, top = y * img->height_px / high;
    int right = (x + 1) * img->width_px / wide, end = (y + 1) * img->height_px / high;
    int sum[3] = {0};
    if (right <= left) right = left + 1;
    if (end <= top) end = top + 1;
    for (int j = top; j < end; j++)
        for (int i = left; i < right; i++)
            for (int c = 0; c < 3; c++)
                sum[c] += img->rgb[3 * ((size_t)j * (size_t)img->width_px + (size_t)i) + (size_t)c];
    for (int c = 0; c < 3; c++) out[c] = (uint8_t)(sum[c] / ((right - left) * (end - top)));
}

/* Columns and, two pixels each, rows that fit into the terminal in the picture's shape. */
static void choose_size(const struct taca_image *img, int *columns, int *rows) {
    struct winsize term = {0};
    int most = PICTURE_COLUMNS, most_rows = PICTURE_COLUMNS / 2;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &term) == 0 && term.ws_col > 0) {
        if (term.ws_col < most) most = term.ws_col;
        if (term.ws_row - LINES_BELOW < most_rows) most_rows = term.ws_row - LINES_BELOW;
    }
    if (most < LEAST_COLUMNS) most = LEAST_COLUMNS;
    if (most_rows < LEAST_COLUMNS / 2) most_rows = LEAST_COLUMNS / 2;
    *columns = most;
    *rows = most * img->height_px / img->width_px / 2;
    if (*rows > most_rows) {
        *rows = most_rows;
        *columns = 2 * most_rows * img->width_px / img->height_px;
    }
    if (*rows < 1) *rows = 1;
    if (*columns < 1) *columns = 1;
}

void progress_draw(struct progress *p, const struct taca_image *img) {
    int columns, rows;
    if (!p->draws || img->width_px < 1 || img->height_px < 1) return;
    progress_clear(p);
    choose_size(img, &columns, &rows);
    if (p->rows) fprintf(stderr, "\x1b[%dA\x1b[J", p->rows);
    for (int y = 0; y < rows; y++) {
        for (int x = 0; x < columns; x++) {
            uint8_t a[3], b[3]; /* the half above and the half below */
            mean(a, img, x, 2 * y, columns, 2 * rows);
            mean(b, img, x, 2 * y + 1, columns, 2 * rows);
            fprintf(stderr, "\x1b[38;2;%d;%d;%dm\x1b[48;2;%d;%d;%dm\u2580", a[0], a[1], a[2], b[0],
                    b[1], b[2]);
        }
        fprintf(stderr, "\x1b[0m\n");
    }
    p->rows = rows;
    fflush(stderr);
}
