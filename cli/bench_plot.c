/* bench_plot.c - see bench_plot.h. Two panels with a logarithmic axis of time each. */
#include "cli/bench_plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/file.h"

enum { WIDTH = 1000, HEIGHT = 420, TOP = 64, BOTTOM = 360, LARGEST_SVG = 256 << 20 };

static const char *const colours[PLOT_MAX_SERIES] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                     "#e69f00", "#56b4e9", "#000000", "#888888"};

/* A rectangle of the picture and what its edges mean. */
struct panel {
    double left, right;    /* px */
    double x0, x1, y0, y1; /* of left, right, bottom, top */
    bool log_x, log_y;
};

static double scale(double v, double from, double to, bool is_log) {
    return is_log ? log(v / from) / log(to / from) : (v - from) / (to - from);
}
static double px(const struct panel *p, double x) {
    return p->left + (p->right - p->left) * scale(x, p->x0, p->x1, p->log_x);
}
static double py(const struct panel *p, double y) {
    return BOTTOM - (BOTTOM - TOP) * scale(y, p->y0, p->y1, p->log_y);
}

/* ---- axes ------------------------------------------------------------------------------------ */

static void put_text(struct taca_buf *b, double x, double y, const char *anchor, const char *text) {
    taca_buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    for (const char *s = text; *s; s++) {
        if (*s == '<' || *s == '&')
            taca_buf_printf(b, "&#%d;", *s);
        else
            taca_buf_put(b, s, 1);
    }
    taca_buf_puts(b, "</text>\n");
}

static void put_line(struct taca_buf *b, double x0, double y0, double x1, double y1) {
    taca_buf_printf(b, "<path class=\"grid\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", x0, y0, x1, y1);
}

static void tick_x(struct taca_buf *b, const struct panel *p, double v, const char *label) {
    put_line(b, px(p, v), TOP, px(p, v), BOTTOM);
    put_text(b, px(p, v), BOTTOM + 18, "middle", label);
}
static void tick_y(struct taca_buf *b, const struct panel *p, double v, const char *label) {
    put_line(b, p->left, py(p, v), p->right, py(p, v));
    put_text(b, p->left - 6, py(p, v) + 4, "end", label);
}
typedef void tick_fn(struct taca_buf *b, const struct panel *p, double v, const char *label);

/* 1, 2 and 5 of every decade, or fewer where there are many decades. */
static void ticks_log(struct taca_buf *b, const struct panel *p, double from, double to,
                      tick_fn *tick) {
    static const double steps[3][3] = {{1, 2, 5}, {1, 3, 0}, {1, 0, 0}};
    const double decades = log10(to / from);
    const double *use = steps[decades <= 2 ? 0 : decades <= 4 ? 1 : 2];
    char label[32];
    for (double decade = pow(10, floor(log10(from))); decade <= to; decade *= 10) {
        for (int i = 0; i < 3 && use[i] > 0; i++) {
            const double v = decade * use[i];
            if (v < from * 0.999 || v > to * 1.001) continue;
            snprintf(label, sizeof label, v < 1000 ? "%g ms" : "%g s", v < 1000 ? v : v / 1000);
            tick(b, p, v, label);
        }
    }
}

/* About six, at 1, 2 or 5 times a power of ten. */
static void ticks_even(struct taca_buf *b, const struct panel *p, double to, const char *unit,
                       tick_fn *tick) {
    char label[32];
    const double power = pow(10, floor(log10(to / 6)));
    const double step = power * (to / 6 < 2 * power ? 2 : to / 6 < 5 * power ? 5 : 10);
    for (double v = 0; v <= to * 1.001; v += step) {
        snprintf(label, sizeof label, "%g%s", v, unit);
        tick(b, p, v, label);
    }
}

/* ---- what is shown --------------------------------------------------------------------------- */

/* The range of times, with some room, in whole fifths of a decade at least. */
static void range(const struct plot *p, double *lo, double *hi) {
    *lo = HUGE_VAL, *hi = 0;
    for (int i = 0; i < p->n_points; i++) {
        if (p->points[i].kind != PLOT_OK) continue;
        *lo = fmin(*lo, p->points[i].took_ms);
        *hi = fmax(*hi, p->points[i].took_ms);
    }
    if (*hi <= 0) *lo = 1, *hi = 1000;
    *lo = fmax(*lo / 1.3, 0.01);
    *hi = fmax(*hi * 1.3, *lo * 10);
}

/* What did not come is a mark at the foot. */
static void put_points(struct taca_buf *b, const struct plot *p, const struct panel *a) {
    for (int i = 0; i < p->n_points; i++) {
        const struct plot_point *q = &p->points[i];
        const double x = px(a, q->at_ms / 1000);
        if (q->kind == PLOT_OK)
            taca_buf_printf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.2\" fill=\"%s\"/>\n", x,
                            py(a, q->took_ms), colours[q->series]);
        else
            taca_buf_printf(b, "<path class=\"%s\" d=\"M%.1f %dv-8\"/>\n",
                            q->kind == PLOT_REFUSED ? "refused" : "failed", x, BOTTOM);
    }
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of all that were asked: what was refused or failed never comes. */
static void put_curve(struct taca_buf *b, const struct plot *p, const struct panel *a, int series,
                      double *ms) {
    int n = 0, asked = 0;
    for (int i = 0; i < p->n_points; i++) {
        if (p->points[i].series != series) continue;
        asked++;
        if (p->points[i].kind == PLOT_OK) ms[n++] = p->points[i].took_ms;
    }
    if (!n) return;
    qsort(ms, (size_t)n, sizeof *ms, by_value);
    taca_buf_printf(b, "<path class=\"curve\" stroke=\"%s\" d=\"M%.1f %d", colours[series],
                    px(a, ms[0]), BOTTOM);
    for (int i = 0; i < n; i++)
        taca_buf_printf(b, "H%.1fV%.1f", px(a, ms[i]), py(a, 100.0 * (i + 1) / asked));
    taca_buf_printf(b, "H%.1f\"/>\n", a->right);
    const double limit = p->limit_ms[series];
    if (limit > a->x0 && limit < a->x1)
        taca_buf_printf(b, "<path class=\"limit\" stroke=\"%s\" d=\"M%.1f %dV%d\"/>\n",
                        colours[series], px(a, limit), TOP, BOTTOM);
}

static void put_legend(struct taca_buf *b, const struct plot *p) {
    double x = WIDTH - 20;
    for (int s = p->n_series - 1; s >= 0; s--) {
        put_text(b, x, 28, "end", p->series[s]);
        x -= 8.0 * (double)strlen(p->series[s]) + 8;
        taca_buf_printf(b, "<circle cx=\"%.1f\" cy=\"24\" r=\"4\" fill=\"%s\"/>\n", x, colours[s]);
        x -= 16;
    }
}

static void put_plot(struct taca_buf *b, const struct plot *p, double *scratch) {
    double lo, hi, last_s = p->n_points ? p->points[p->n_points - 1].at_ms / 1000 : 1;
    range(p, &lo, &hi);
    const struct panel over_time = {64, 500, 0, fmax(last_s, 1), lo, hi, false, true};
    const struct panel shares = {590, WIDTH - 24, lo, hi, 0, 100, true, false};
    taca_buf_printf(b,
                    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
                    "font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#333\">\n"
                    "<style>.grid{stroke:#e4e4e4;fill:none}.curve{fill:none;stroke-width:2}"
                    ".limit{stroke-dasharray:4 4;fill:none}.refused{stroke:#999}"
                    ".failed{stroke:#c00;stroke-width:2}</style>\n"
                    "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
                    WIDTH, HEIGHT);
    put_text(b, 20, 28, "start", p->title);
    put_legend(b, p);
    ticks_even(b, &over_time, over_time.x1, " s", tick_x);
    ticks_log(b, &over_time, lo, hi, tick_y);
    ticks_log(b, &shares, lo, hi, tick_x);
    ticks_even(b, &shares, 100, " %", tick_y);
    put_text(b, over_time.left, TOP - 12, "start",
             "how long each took, over when it was due (marks at the foot: refused, failed)");
    put_text(b, shares.left, TOP - 12, "start",
             "share that took at most so long (dashed: in time)");
    put_points(b, p, &over_time);
    for (int s = 0; s < p->n_series; s++) put_curve(b, p, &shares, s, scratch);
    taca_buf_puts(b, "</svg>\n");
}

enum taca_code plot_write(const char *path, const struct plot *p, struct taca_err *err) {
    struct taca_buf svg;
    double *scratch = calloc((size_t)p->n_points + 1, sizeof *scratch);
    if (!scratch) return taca_fail(err, TACA_ENOMEM, "a plot");
    taca_buf_init(&svg, LARGEST_SVG);
    put_plot(&svg, p, scratch);
    enum taca_code rc =
        svg.failed ? taca_fail(err, TACA_ENOMEM, "a plot") : file_write(path, &svg, err);
    taca_buf_finish(&svg);
    free(scratch);
    return rc;
}
