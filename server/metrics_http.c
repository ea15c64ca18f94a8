/* metrics_http.c - requests by route, method and status: the one family whose label values are not
 * known beforehand. A bounded table behind a mutex; of what no longer fits the status is told. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "server/metrics.h"
#include "server/metrics_internal.h"

/* FOR_STATUSES: so many of them are kept for rows of other routes, one for each status. */
enum { MAX_ROWS = 256, FOR_STATUSES = 32 };

struct row {
    const char *route, *method; /* constants */
    int code;
    uint64_t count;
    struct histogram seconds;
};
static struct {
    pthread_mutex_t lock;
    struct row rows[MAX_ROWS];
    int n;
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* A method is the client's word until here. */
static const char *known_method(const char *method) {
    static const char *const known[] = {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (method && strcmp(known[i], method) == 0) return known[i];
    return "other";
}

/* NULL: it is not there, and `most` are. */
static struct row *find_row(const char *route, const char *method, int code, int most) {
    for (int i = 0; i < table.n; i++) {
        struct row *r = &table.rows[i];
        if (r->code == code && strcmp(r->route, route) == 0 && strcmp(r->method, method) == 0)
            return r;
    }
    if (table.n >= most) return NULL;
    struct row *r = &table.rows[table.n++];
    r->route = route;
    r->method = method;
    r->code = code;
    return r;
}

void metric_http(const char *route, const char *method, int code, double seconds) {
    method = known_method(method);
    pthread_mutex_lock(&table.lock);
    struct row *r = find_row(route ? route : "other", method, code, MAX_ROWS - FOR_STATUSES);
    if (!r) r = find_row("other", "other", code, MAX_ROWS);
    if (!r) r = &table.rows[MAX_ROWS - 1]; /* never: there are not so many */
    r->count++;
    histogram_add(&r->seconds, metrics_seconds, seconds);
    pthread_mutex_unlock(&table.lock);
}

static int labels_of(char *out, size_t size, const struct row *r) {
    return snprintf(out, size, "route=\"%s\",method=\"%s\",code=\"%d\"", r->route, r->method,
                    r->code);
}

void metrics_render_http(struct taca_buf *out) {
    char labels[256];
    pthread_mutex_lock(&table.lock);
    metrics_head(out, "taca_http_requests_total", "Requests answered.", "counter");
    for (int i = 0; i < table.n; i++) {
        labels_of(labels, sizeof labels, &table.rows[i]);
        taca_buf_printf(out, "taca_http_requests_total{%s} %llu\n", labels,
                        (unsigned long long)table.rows[i].count);
    }
    metrics_head(out, "taca_http_request_duration_seconds", "From the head to the last byte.",
                 "histogram");
    for (int i = 0; i < table.n; i++) {
        labels_of(labels, sizeof labels, &table.rows[i]);
        histogram_render(out, "taca_http_request_duration_seconds", labels, &table.rows[i].seconds,
                         metrics_seconds);
    }
    pthread_mutex_unlock(&table.lock);
}
