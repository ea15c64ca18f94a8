/* taca.h - the TACA policy: the factor of one step. Pure, in double, on the host. */
#ifndef TACA_ENGINE_SAMPLE_TACA_H
#define TACA_ENGINE_SAMPLE_TACA_H

#include "engine/params.h"

/* Whether step i of n at noise level sigma is inside the window. */
bool taca_window_has(const struct taca_window *w, int i, int n, double sigma);
/* gamma of step i of n at noise level sigma: w->gamma inside the window, else exactly 1. */
double taca_gamma(const struct taca_window *w, int i, int n, double sigma);

#endif
