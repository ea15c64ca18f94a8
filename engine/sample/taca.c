/* taca.c - see taca.h. The rules are those of the published code (a window of step indices) and of
 * the paper (a threshold on the shifted noise level, inclusive). */
#include "engine/sample/taca.h"

/* Levels are floats: one that is a bound but for that rounding is on the bound. */
static bool on(double sigma, double bound) { return sigma == (double)(float)bound; }

bool taca_window_has(const struct taca_window *w, int i, int n, double sigma) {
    switch (w->rule) {
    case TACA_WINDOW_OFF: return false;
    case TACA_WINDOW_STEPS: return i >= w->first_step && i < w->end_step;
    case TACA_WINDOW_SIGMA:
        return (sigma >= w->sigma_min || on(sigma, w->sigma_min)) &&
               (sigma <= w->sigma_max || on(sigma, w->sigma_max));
    case TACA_WINDOW_FRACTION:
        /* i / n < fraction; the slack keeps 0.1 * 30 = 3.0000000000000004 from adding a step */
        return (double)i < w->fraction * n - 1e-9;
    }
    return false;
}

double taca_gamma(const struct taca_window *w, int i, int n, double sigma) {
    return taca_window_has(w, i, n, sigma) ? w->gamma : 1.0;
}
