/* sched_eta.c - the same costs and the same order, asked when: estimates, backlog, admission. */
#include <math.h>

#include "server/sched.h"

double sched_isolated_ms(const struct sched_costs *c, int tokens, int steps, double pixels) {
    return c->open_ms + steps * sched_solo_ms(c, tokens) + sched_tail_ms(c, pixels);
}

double sched_backlog_ms(const struct sched_seq *seqs, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += seqs[i].left_ms;
    return sum;
}

/* The walk keeps the sequences that share a forward in `in`; everyone in it steps together until
 * the shortest is done, then the next in line takes the free place. Nobody overtakes: what is known
 * now is the order of now. */
enum { WALK_MAX = 64 };
struct walk {
    int in[WALK_MAX], left[WALK_MAX];
    int count, next; /* next = first index that has not been in yet */
    struct sched_load load;
    double now;
};

static bool joins(const struct walk *w, const struct sched *s, const struct sched_seq *seqs,
                  const struct sched_seq *q) {
    int64_t limit = s->limits.batch_tokens > 0 ? s->limits.batch_tokens : s->costs.saturation;
    struct sched_load joint = w->load;
    if (w->count == 0) return true;
    if (q->alone || seqs[w->in[0]].alone || w->load.tokens + q->tokens > limit) return false;
    sched_load_add(&joint, &s->costs, q->tokens);
    return sched_load_ms(&s->costs, &joint) < sched_load_ms(&s->costs, &w->load) + q->solo_ms;
}

static void walk_fill(struct walk *w, double *start_ms, const struct sched *s,
                      const struct sched_seq *seqs, int n) {
    for (; w->next < n && w->count < s->limits.batch_images && w->count < WALK_MAX; w->next++) {
        const struct sched_seq *q = &seqs[w->next];
        if (q->stage == SCHED_FINISHED) continue;
        start_ms[w->next] = w->now;
        if (!joins(w, s, seqs, q)) break;
        if (q->stage == SCHED_WAITING) w->now += s->costs.open_ms;
        w->in[w->count] = w->next;
        w->left[w->count++] = q->steps_left;
        sched_load_add(&w->load, &s->costs, q->tokens);
    }
}

/* Steps until the first of them is done; those who are leave. */
static void walk_on(struct walk *w, double *finish_ms, const struct sched *s,
                    const struct sched_seq *seqs) {
    const struct sched_costs *c = &s->costs;
    int least = w->left[0], kept = 0;
    for (int i = 1; i < w->count; i++)
        if (w->left[i] < least) least = w->left[i];
    w->now += least * sched_load_ms(c, &w->load);
    w->load = (struct sched_load){0};
    for (int i = 0; i < w->count; i++) {
        const struct sched_seq *q = &seqs[w->in[i]];
        if (w->left[i] > least) {
            sched_load_add(&w->load, c, q->tokens);
            w->in[kept] = w->in[i];
            w->left[kept++] = w->left[i] - least;
            continue;
        }
        w->now += q->pixels * c->ms_per_pixel;
        finish_ms[w->in[i]] = w->now + q->pixels * c->encode_ms_per_pixel;
    }
    w->count = kept;
}

void sched_eta(const struct sched *s, double *start_ms, double *finish_ms,
               const struct sched_seq *seqs, int n) {
    struct walk w = {.count = 0};
    for (int i = 0; i < n; i++) {
        if (seqs[i].stage != SCHED_FINISHED) continue;
        start_ms[i] = 0;
        w.now += seqs[i].pixels * s->costs.ms_per_pixel;
        finish_ms[i] = w.now + seqs[i].pixels * s->costs.encode_ms_per_pixel;
    }
    for (walk_fill(&w, start_ms, s, seqs, n); w.count > 0; walk_fill(&w, start_ms, s, seqs, n))
        walk_on(&w, finish_ms, s, seqs);
}

bool sched_admit(const struct sched_limits *l, int queued, double backlog_ms, double own_ms,
                 uint32_t random, int *retry_after_s) {
    /* what is asked of an idle service may take as long as it takes */
    bool too_much = l->backlog_ms > 0 && backlog_ms > 0 && backlog_ms + own_ms > l->backlog_ms;
    double wait_ms = backlog_ms;
    if (queued < l->queue && !too_much) return true;
    if (queued < l->queue) wait_ms = fmin(backlog_ms, backlog_ms + own_ms - l->backlog_ms);
    double jitter = 1 + 0.2 * (2 * (double)random / (double)UINT32_MAX - 1);
    double s = ceil(wait_ms / 1000 * jitter);
    *retry_after_s = s < 1 ? 1 : s <= 60 ? (int)s : 60; /* NaN becomes 60: never in a hurry */
    return false;
}
