/* places.c - rotary places: the angles of a row's coordinates, per pair of a head's columns. Each
 * coordinate turns its own range of columns, from fast to slow. */
#include <math.h>

#include "engine/dit/model.h"

enum { THETA = 10000 };

/* Angles in double, as the reference computes them; only sines and cosines are rounded. */
static void place_row(const struct dit *d, float *row, const float *at) {
    const int64_t pairs = d->info.place_width / 2;
    int64_t p = 0;
    for (int a = 0; a < DIT_AXES; a++)
        for (int64_t j = 0; j < d->axis[a] / 2; j++, p++) {
            const double omega = 1 / pow(THETA, (double)(2 * j) / (double)d->axis[a]);
            const double angle = (double)at[a] * omega;
            row[p] = (float)cos(angle);
            row[pairs + p] = (float)sin(angle);
        }
}

void dit_places_at(const struct dit *d, float *table, const float *at, int64_t rows) {
    const int64_t width = d->info.place_width;
    for (int64_t r = 0; r < rows; r++) place_row(d, table + r * width, at + r * DIT_AXES);
}

void dit_places(const struct dit *d, float *table, int64_t h, int64_t w, int64_t text_rows) {
    const int64_t width = d->info.place_width, rows = h / d->info.patch, cols = w / d->info.patch;
    const float origin[DIT_AXES] = {0};
    if (!width) return;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++, table += width)
            place_row(d, table, (float[DIT_AXES]){0, (float)r, (float)c});
    for (int64_t i = 0; i < text_rows; i++, table += width) place_row(d, table, origin);
}
