/* metrics_key.c - requests by API key. Names are the operator's and there may be many: a bounded
 * table behind a mutex, whose last row takes the names that come too late. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "server/access.h"
#include "server/metrics.h"
#include "server/metrics_internal.h"

enum { MAX_ROWS = 100, N_OUTCOMES = 5 };
static const char *const outcomes[N_OUTCOMES] = {"ok", "cancelled", "failed", "rejected",
                                                 "expired"};

struct row {
    char name[CLIENT_NAME_MAX + 1];
    uint64_t count[N_OUTCOMES];
    double pixel_steps;
};
static struct {
    pthread_mutex_t lock;
    struct row rows[MAX_ROWS];
    int n;
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct row *find_row(const char *name) {
    for (int i = 0; i < table.n; i++)
        if (strcmp(table.rows[i].name, name) == 0) return &table.rows[i];
    if (table.n == MAX_ROWS) return &table.rows[MAX_ROWS - 1];
    struct row *r = &table.rows[table.n++];
    snprintf(r->name, sizeof r->name, "%s", table.n == MAX_ROWS ? "other" : name);
    return r;
}

void metric_key(const char *name, const char *outcome) {
    int i = 0;
    if (!name[0]) return;
    while (i + 1 < N_OUTCOMES && strcmp(outcomes[i], outcome) != 0) i++;
    pthread_mutex_lock(&table.lock);
    find_row(name)->count[i]++;
    pthread_mutex_unlock(&table.lock);
}

void metric_key_work(const char *name, double pixel_steps) {
    if (!name[0]) return;
    pthread_mutex_lock(&table.lock);
    find_row(name)->pixel_steps += pixel_steps;
    pthread_mutex_unlock(&table.lock);
}

void metrics_render_keys(struct taca_buf *out) {
    pthread_mutex_lock(&table.lock);
    metrics_head(out, "taca_key_requests_total", "Image requests by API key and how they ended.",
                 "counter");
    for (int i = 0; i < table.n; i++)
        for (int k = 0; k < N_OUTCOMES; k++)
            taca_buf_printf(out, "taca_key_requests_total{key=\"%s\",outcome=\"%s\"} %llu\n",
                            table.rows[i].name, outcomes[k],
                            (unsigned long long)table.rows[i].count[k]);
    metrics_head(out, "taca_key_pixel_steps_total",
                 "Width times height times steps of accepted requests, by API key.", "counter");
    for (int i = 0; i < table.n; i++)
        taca_buf_printf(out, "taca_key_pixel_steps_total{key=\"%s\"} %.15g\n", table.rows[i].name,
                        table.rows[i].pixel_steps);
    pthread_mutex_unlock(&table.lock);
}
