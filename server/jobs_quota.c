/* jobs_quota.c - what a client's key allows beyond a single request: how many at once, how much in
 * a minute. A request that is another one again, and one that is refused, cost nothing. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "server/jobs_internal.h"
#include "server/metrics.h"

static double pixel_steps(const struct job *job) {
    return jobs_pixels(job) * job->request.params.steps * job->request.n;
}

static struct quota_rates rates_of(const struct job *job) {
    return (struct quota_rates){job->client.requests_per_minute,
                                job->client.pixel_steps_per_minute};
}

static int unfinished(const struct jobs *js, const char *name) {
    int n = 0;
    for (const struct job *j = js->first; j; j = j->next) n += strcmp(j->client.name, name) == 0;
    return n;
}

/* False, with *e filled. */
static bool may_ask(struct jobs *js, const struct job *job, struct api_error *e) {
    const struct access_client *c = &job->client;
    const struct quota_rates rates = rates_of(job);
    int open = c->concurrency ? unfinished(js, c->name) : 0;
    bool by_steps;
    if (c->concurrency && open >= c->concurrency) {
        api_fail(e, 429, "key_concurrency", "",
                 "%d requests of this API key are not finished; it may have %d", open,
                 c->concurrency);
        e->retry_after_s = 1;
        return false;
    }
    double ms = quota_wait_ms(js->quota, c->name, &rates, taca_now_ms(), &by_steps);
    if (ms <= 0) return true;
    e->retry_after_s = (int)fmin(60, ceil(ms / 1000));
    if (by_steps)
        api_fail(
            e, 429, "rate_limited", "",
            "this API key may ask for %.15g pixel steps (width x height x steps x n) a minute; "
            "try again in %.0f s",
            rates.pixel_steps, ceil(ms / 1000));
    else
        api_fail(e, 429, "rate_limited", "",
                 "this API key may make %.0f requests a minute; try again in %.0f s",
                 rates.requests, ceil(ms / 1000));
    return false;
}

bool jobs_refuse_client(struct jobs *js, struct job *job) {
    struct api_error e = {0};
    if (!job->client.name[0] || may_ask(js, job, &e)) return false;
    tell_busy(js, job, &e, js->queued);
    return true;
}

void jobs_charge(struct jobs *js, const struct job *job) {
    const struct quota_rates rates = rates_of(job);
    if (!job->client.name[0]) return;
    quota_charge(js->quota, job->client.name, &rates, taca_now_ms(), pixel_steps(job));
    metric_key_work(job->client.name, pixel_steps(job));
}

void jobs_count(const struct job *job, const char *outcome) {
    metric_add_of(METRIC_REQUESTS, job->request.model, outcome, 1);
    metric_key(job->client.name, outcome);
}
