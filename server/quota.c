/* quota.c - see quota.h. */
#include "server/quota.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/access.h"

#define MINUTE_MS 60000.0

struct bucket {
    char name[CLIENT_NAME_MAX + 1];
    double requests, pixel_steps; /* left */
    double filled_ms;             /* when that was so */
};

struct quota {
    struct bucket buckets[ACCESS_MAX_KEYS];
    int n;
};

struct quota *quota_open(void) {
    return calloc(1, sizeof(struct quota));
}

void quota_close(struct quota *q) { free(q); }

/* The one that was asked for longest ago gives way when there are more names than keys: those that
 * came and went with the key file. */
static struct bucket *oldest(struct quota *q) {
    struct bucket *b = &q->buckets[0];
    for (int i = 1; i < q->n; i++)
        if (q->buckets[i].filled_ms < b->filled_ms) b = &q->buckets[i];
    return b;
}

static void fill(struct bucket *b, const struct quota_rates *r, double now_ms) {
    double minutes = fmax(0, now_ms - b->filled_ms) / MINUTE_MS;
    b->requests = fmin(r->requests, b->requests + minutes * r->requests);
    b->pixel_steps = fmin(r->pixel_steps, b->pixel_steps + minutes * r->pixel_steps);
    b->filled_ms = now_ms;
}

static struct bucket *bucket_of(struct quota *q, const char *name, const struct quota_rates *r,
                                double now_ms) {
    struct bucket *b = NULL;
    for (int i = 0; i < q->n && !b; i++)
        if (strcmp(q->buckets[i].name, name) == 0) b = &q->buckets[i];
    if (b) {
        fill(b, r, now_ms);
        return b;
    }
    b = q->n < ACCESS_MAX_KEYS ? &q->buckets[q->n++] : oldest(q);
    *b = (struct bucket){
        .requests = r->requests, .pixel_steps = r->pixel_steps, .filled_ms = now_ms};
    snprintf(b->name, sizeof b->name, "%s", name);
    return b;
}

double quota_wait_ms(struct quota *q, const char *name, const struct quota_rates *r, double now_ms,
                     bool *by_steps) {
    *by_steps = false;
    if (r->requests <= 0 && r->pixel_steps <= 0) return 0;
    const struct bucket *b = bucket_of(q, name, r, now_ms);
    double requests = 0, steps = 0;
    if (r->requests > 0 && b->requests < 1) requests = (1 - b->requests) / r->requests * MINUTE_MS;
    if (r->pixel_steps > 0 && b->pixel_steps <= 0) /* until there is one */
        steps = (1 - b->pixel_steps) / r->pixel_steps * MINUTE_MS;
    *by_steps = steps > requests;
    return fmax(requests, steps);
}

void quota_charge(struct quota *q, const char *name, const struct quota_rates *r, double now_ms,
                  double pixel_steps) {
    if (r->requests <= 0 && r->pixel_steps <= 0) return;
    struct bucket *b = bucket_of(q, name, r, now_ms);
    if (r->requests > 0) b->requests -= 1;
    if (r->pixel_steps > 0) b->pixel_steps -= pixel_steps;
}
