/* metrics_internal.h - what the three files behind metrics.h share. */
#ifndef TACA_SERVER_METRICS_INTERNAL_H
#define TACA_SERVER_METRICS_INTERNAL_H

#include <stdatomic.h>

#include "base/buf.h"

enum { HISTOGRAM_BUCKETS = 18 };
struct histogram {
    atomic_uint_fast64_t buckets[HISTOGRAM_BUCKETS]; /* not cumulative */
    _Atomic double sum;
};
extern const double metrics_seconds[]; /* ended by HUGE_VAL, as all bounds are */
extern const double metrics_step_seconds[];

void histogram_add(struct histogram *h, const double *bounds, double v);
/* `labels` is the inside of the braces, "" for none. */
void histogram_render(struct taca_buf *out, const char *name, const char *labels,
                      struct histogram *h, const double *bounds);
void metrics_head(struct taca_buf *out, const char *name, const char *help, const char *type);
/* The inside of the braces: model="..." where the family has it. False: there is no such model. */
bool metrics_model_pair(char *out, size_t size, int model, bool wanted);
void metrics_render_devices(struct taca_buf *out);
void metrics_render_keys(struct taca_buf *out);
void metrics_render_http(struct taca_buf *out);
void metrics_render_process(struct taca_buf *out);

#endif
