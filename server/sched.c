/* sched.c - see sched.h. */
#include "server/sched.h"

#include <math.h>

int sched_pick(int *picked, const struct sched_seq *seqs, int n, const struct sched_limits *l) {
    int count = 0, held = 0;
    int64_t tokens = 0;
    for (int i = 0; i < n; i++) held += seqs[i].stage != SCHED_WAITING;
    for (int i = 0; i < n && count < l->batch_images; i++) {
        const struct sched_seq *s = &seqs[i];
        if (s->stage == SCHED_FINISHED) continue;
        if (count > 0 && s->alone) break;
        if (count > 0 && l->batch_tokens > 0 && tokens + s->tokens > l->batch_tokens) break;
        /* strictly in order: a small one behind must not starve a large one in front */
        if (s->stage == SCHED_WAITING && held++ >= l->open_images) break;
        picked[count++] = i;
        tokens += s->tokens;
        if (s->alone) break;
    }
    return count;
}

static int first_finished(const struct sched_seq *seqs, int n) {
    for (int i = 0; i < n; i++)
        if (seqs[i].stage == SCHED_FINISHED) return i;
    return -1;
}

static int first_preview(const struct sched_seq *seqs, int n) {
    for (int i = 0; i < n; i++)
        if (seqs[i].stage == SCHED_OPEN && seqs[i].preview_due) return i;
    return -1;
}

static enum sched_act one(int *picked, int *n_picked, int index, enum sched_act act) {
    picked[0] = index;
    *n_picked = 1;
    return act;
}

enum sched_act sched_next(int *picked, int *n_picked, const struct sched_seq *seqs, int n,
                          const struct sched_limits *l, const struct sched_turn *turn,
                          double step_ms, bool can_decode) {
    int count = sched_pick(picked, seqs, n, l), ready = 0, waiting = -1;
    for (int i = 0; i < count; i++) {
        if (seqs[picked[i]].stage == SCHED_OPEN)
            ready++;
        else if (waiting < 0)
            waiting = picked[i];
    }
    int preview = first_preview(seqs, n), finished = first_finished(seqs, n);
    if (preview >= 0) return one(picked, n_picked, preview, SCHED_DO_PREVIEW);
    if (finished >= 0 && can_decode && (ready == 0 || turn->decodes == 0))
        return one(picked, n_picked, finished, SCHED_DO_DECODE);
    if (waiting >= 0 &&
        (ready == 0 || turn->open_ms <= 0 || step_ms <= 0 || turn->open_ms < step_ms))
        return one(picked, n_picked, waiting, SCHED_DO_OPEN);
    if (ready == 0) return *n_picked = 0, SCHED_DO_NOTHING;
    *n_picked = 0;
    for (int i = 0; i < count; i++)
        if (seqs[picked[i]].stage == SCHED_OPEN) picked[(*n_picked)++] = picked[i];
    return SCHED_DO_STEP;
}

/* ---- costs ----------------------------------------------------------------------------------- */

void sched_costs_init(struct sched_costs *c) {
    /* Guesses until the first step: what a small model takes on two cores. */
    *c = (struct sched_costs){
        .ms_per_token = 0.1, .step_ms = 0, .open_ms = 10, .ms_per_pixel = 0.005};
}

/* Moves a fifth of the way: follows a change within a few steps, does not jump at one. */
static void learn(double *mean, double seen, bool first) {
    *mean = first ? seen : *mean + 0.2 * (seen - *mean);
}

void sched_saw_step(struct sched_costs *c, int tokens, double ms) {
    if (tokens < 1 || !(ms >= 0)) return;
    learn(&c->ms_per_token, ms / tokens, !c->measured);
    learn(&c->step_ms, ms, !c->measured);
    c->measured = true;
}

void sched_saw_open(struct sched_costs *c, double ms) { learn(&c->open_ms, ms, false); }

void sched_saw_decode(struct sched_costs *c, double pixels, double ms) {
    if (pixels < 1) return;
    learn(&c->ms_per_pixel, ms / pixels, !c->decoded);
    c->decoded = true;
}

static double own_ms(const struct sched_seq *s, const struct sched_costs *c) {
    return (s->stage == SCHED_WAITING ? c->open_ms : 0) +
           (double)s->steps_left * s->tokens * c->ms_per_token + s->pixels * c->ms_per_pixel;
}

double sched_backlog_ms(const struct sched_seq *seqs, int n, const struct sched_costs *c) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += own_ms(&seqs[i], c);
    return sum;
}

/* The walk keeps the sequences that share a forward in `in`; everyone in it steps together until
 * the shortest is done, then the next in line takes the free place. */
enum { WALK_MAX = 64 };
struct walk {
    int in[WALK_MAX], left[WALK_MAX];
    int count, next; /* next = first index that has not been in yet */
    int64_t tokens;
    double now;
};

static void walk_fill(struct walk *w, double *start_ms, const struct sched_seq *seqs, int n,
                      const struct sched_limits *l, const struct sched_costs *c) {
    for (; w->next < n && w->count < l->batch_images && w->count < WALK_MAX; w->next++) {
        const struct sched_seq *s = &seqs[w->next];
        if (s->stage == SCHED_FINISHED) continue;
        start_ms[w->next] = w->now;
        if (w->count > 0 && (s->alone || seqs[w->in[0]].alone)) break;
        if (w->count > 0 && l->batch_tokens > 0 && w->tokens + s->tokens > l->batch_tokens) break;
        if (s->stage == SCHED_WAITING) w->now += c->open_ms;
        w->in[w->count] = w->next;
        w->left[w->count++] = s->steps_left;
        w->tokens += s->tokens;
    }
}

void sched_eta(double *start_ms, double *finish_ms, const struct sched_seq *seqs, int n,
               const struct sched_limits *l, const struct sched_costs *c) {
    struct walk w = {.count = 0};
    for (int i = 0; i < n; i++) {
        if (seqs[i].stage != SCHED_FINISHED) continue;
        start_ms[i] = 0;
        finish_ms[i] = w.now += seqs[i].pixels * c->ms_per_pixel;
    }
    for (walk_fill(&w, start_ms, seqs, n, l, c); w.count > 0;
         walk_fill(&w, start_ms, seqs, n, l, c)) {
        int least = w.left[0], kept = 0;
        for (int i = 1; i < w.count; i++)
            if (w.left[i] < least) least = w.left[i];
        w.now += (double)least * (double)w.tokens * c->ms_per_token;
        for (int i = 0; i < w.count; i++) {
            const struct sched_seq *s = &seqs[w.in[i]];
            if (w.left[i] > least) {
                w.in[kept] = w.in[i];
                w.left[kept++] = w.left[i] - least;
                continue;
            }
            w.tokens -= s->tokens;
            finish_ms[w.in[i]] = w.now += s->pixels * c->ms_per_pixel;
        }
        w.count = kept;
    }
}

bool sched_admit(int queued, const struct sched_limits *l, double backlog_ms, uint32_t random,
                 int *retry_after_s) {
    if (queued < l->queue) return true;
    double jitter = 1 + 0.2 * (2 * (double)random / (double)UINT32_MAX - 1);
    double s = ceil(backlog_ms / 1000 * jitter);
    *retry_after_s = s < 1 ? 1 : s <= 60 ? (int)s : 60; /* NaN becomes 60: never in a hurry */
    return false;
}
