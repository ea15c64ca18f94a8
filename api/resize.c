/* resize.c - see resize.h. A row of the result at a time: the rows it needs are added up, then
 * taken apart along the row; so the memory between is one row whatever the sizes. */
#include "api/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define LOBES 3.0

/* Of one side: what place i of the result takes from. */
struct taps {
    int *first, *n;
    float *weight; /* [size][most] */
    int most;
};

static double lanczos(double x) {
    const double a = fabs(x) * M_PI;
    if (a < 1e-12) return 1;
    return a < LOBES * M_PI ? LOBES * sin(a) * sin(a / LOBES) / (a * a) : 0;
}

static void fill(struct taps *t, int i, int from, double ratio, double stretch) {
    const double middle = (i + 0.5) * ratio, reach = LOBES * stretch;
    int first = (int)floor(middle - reach), end = (int)ceil(middle + reach);
    if (first < 0) first = 0;
    if (end > from) end = from;
    if (end - first > t->most) end = first + t->most;
    float *w = t->weight + (size_t)i * (size_t)t->most;
    double sum = 0;
    for (int k = first; k < end; k++) sum += lanczos((k + 0.5 - middle) / stretch);
    for (int k = first; k < end; k++)
        w[k - first] = (float)(lanczos((k + 0.5 - middle) / stretch) / sum);
    t->first[i] = first;
    t->n[i] = end - first;
}

static void taps_finish(struct taps *t) {
    free(t->first);
    free(t->n);
    free(t->weight);
}

static bool taps_init(struct taps *t, int from, int to) {
    const double ratio = (double)from / to, stretch = ratio > 1 ? ratio : 1;
    size_t n = (size_t)to, weights;
    *t = (struct taps){.most = 2 * (int)ceil(LOBES * stretch) + 2};
    if (!taca_mul(&weights, n, (size_t)t->most)) return false;
    t->first = calloc(n, sizeof *t->first);
    t->n = calloc(n, sizeof *t->n);
    t->weight = calloc(weights, sizeof *t->weight);
    if (!t->first || !t->n || !t->weight) return false;
    for (int i = 0; i < to; i++) fill(t, i, from, ratio, stretch);
    return true;
}

static uint8_t to_byte(float v) { return (uint8_t)(v <= 0 ? 0 : v >= 255 ? 255 : v + 0.5f); }

static void add_rows(float *row, const uint8_t *in, size_t n, const struct taps *t, int y) {
    const float *w = t->weight + (size_t)y * (size_t)t->most;
    memset(row, 0, n * sizeof *row);
    for (int k = 0; k < t->n[y]; k++) {
        const uint8_t *from = in + (size_t)(t->first[y] + k) * n;
        for (size_t i = 0; i < n; i++) row[i] += w[k] * (float)from[i];
    }
}

static void spread(uint8_t *out, const float *row, int channels, const struct taps *t, int width) {
    for (int x = 0; x < width; x++) {
        const float *w = t->weight + (size_t)x * (size_t)t->most;
        const float *from = row + (size_t)t->first[x] * (size_t)channels;
        for (int c = 0; c < channels; c++) {
            float sum = 0;
            for (int k = 0; k < t->n[x]; k++) sum += w[k] * from[(size_t)k * (size_t)channels + c];
            *out++ = to_byte(sum);
        }
    }
}

uint8_t *api_resize(const uint8_t *in, int channels, struct api_size from, struct api_size to) {
    const size_t in_row = (size_t)from.w * (size_t)channels,
                 out_row = (size_t)to.w * (size_t)channels;
    struct taps across = {0}, down = {0};
    float *row = calloc(in_row, sizeof *row);
    uint8_t *out = calloc((size_t)to.h, out_row);
    bool ok = row && out && taps_init(&across, from.w, to.w) && taps_init(&down, from.h, to.h);
    for (int y = 0; ok && y < to.h; y++) {
        add_rows(row, in, in_row, &down, y);
        spread(out + (size_t)y * out_row, row, channels, &across, to.w);
    }
    taps_finish(&across);
    taps_finish(&down);
    free(row);
    if (ok) return out;
    free(out);
    return NULL;
}
