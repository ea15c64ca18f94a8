/* bench_plot.h - the requests of `taca bench --server` as a picture (SVG): how long each took, over
 * the moment it was due, and which share took at most so long. */
#ifndef TACA_CLI_BENCH_PLOT_H
#define TACA_CLI_BENCH_PLOT_H

#include "base/err.h"

enum { PLOT_MAX_SERIES = 8 };
enum plot_kind { PLOT_OK, PLOT_REFUSED, PLOT_FAILED };

struct plot_point {
    double at_ms, took_ms; /* from the first; from at_ms to the last byte */
    int series;            /* 0 .. n_series - 1 */
    enum plot_kind kind;
};
struct plot {
    const char *title;
    const char *series[PLOT_MAX_SERIES];
    double limit_ms[PLOT_MAX_SERIES]; /* what is still in time */
    int n_series;
    const struct plot_point *points; /* sorted by at_ms */
    int n_points;
};
enum taca_code plot_write(const char *path, const struct plot *p,
                          struct taca_err *err) TACA_MUST_USE;

#endif
