/* levels.h - noise levels by the name that people know them under. Inside sample/. */
#ifndef TACA_ENGINE_SAMPLE_LEVELS_H
#define TACA_ENGINE_SAMPLE_LEVELS_H

#include "engine/sample/schedule.h"

enum { LEVELS_FINE = 10000 };

/* A model as ComfyUI sees it: a table of `entries` levels, the k-th k / entries after the shift. */
struct levels_model {
    double shift;
    int entries;
};
/* The first r->steps levels; BETA may lower r->steps. Not for DEFAULT, KARRAS and EXPONENTIAL. */
void levels_fill(struct taca_schedule *r, enum taca_levels levels, const struct levels_model *m);
/* New levels between the first and the last that r has: KARRAS or EXPONENTIAL. */
void levels_remap(struct taca_schedule *r, enum taca_levels levels);
/* The quantile of the Beta(0.6, 0.6) distribution: x with P(X <= x) = p, p in 0..1. */
double levels_beta_quantile(double p);

#endif
