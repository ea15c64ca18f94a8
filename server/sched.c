/* sched.c - see sched.h. Order, fill, and what the worker does next. */
#include "server/sched.h"

#include <math.h>
#include <stdlib.h>

#define LEAST_GAIN 0.97 /* of the time apart: a joint step that saves less is not worth it */
#define RESERVE    0.1  /* of the time from arrival to deadline: estimates are estimates */

void sched_limits_init(struct sched_limits *l, int batch_images) {
    *l = (struct sched_limits){.batch_images = batch_images,
                               .open_images = 2 * batch_images,
                               .queue = 256,
                               .backlog_ms = 120e3,
                               .level_ms = 3e3,
                               .patience_ms = 60e3,
                               .aged_share = 8};
}

void sched_init(struct sched *s, enum sched_policy policy, const struct sched_limits *limits) {
    *s = (struct sched){.policy = policy, .limits = *limits};
    sched_costs_init(&s->costs);
}

void sched_finish(struct sched *s) { sched_fair_finish(&s->fair); }

/* ---- order ----------------------------------------------------------------------------------- */

static void judge(const struct sched *s, struct sched_seq *q, int top) {
    double waited = s->now_ms - q->arrival_ms;
    q->solo_ms = sched_solo_ms(&s->costs, q->tokens);
    q->left_ms = (q->stage == SCHED_WAITING ? s->costs.open_ms : 0) + q->steps_left * q->solo_ms +
                 sched_tail_ms(&s->costs, q->pixels);
    q->feasible = s->now_ms + q->left_ms <= q->deadline_ms;
    q->aged = waited >= s->limits.patience_ms;
    double raised = s->limits.level_ms > 0 ? floor(waited / s->limits.level_ms) : 0;
    q->level = q->priority + raised < top ? q->priority + (int)raised : top;
}

static int earlier(double a, double b) { return (a > b) - (a < b); }

static int by_rank(const void *a, const void *b) {
    const struct sched_seq *x = a, *y = b;
    if (x->level != y->level) return x->level > y->level ? -1 : 1;
    if (x->credit != y->credit) return x->credit ? -1 : 1;
    if (x->feasible != y->feasible) return x->feasible ? -1 : 1;
    int c = earlier(x->deadline_ms, y->deadline_ms);
    if (c == 0) c = earlier(x->arrival_ms, y->arrival_ms);
    return c ? c : x->id - y->id;
}

/* Who has waited too long goes in front: the oldest, and only for their share of the time. */
static void lift_aged(struct sched *s, struct sched_seq *seqs, int n) {
    int oldest = -1;
    for (int i = 0; i < n; i++) {
        if (!seqs[i].aged || seqs[i].stage == SCHED_FINISHED) continue;
        if (oldest < 0 || seqs[i].arrival_ms < seqs[oldest].arrival_ms) oldest = i;
    }
    if (oldest < 0) s->aged_credit_ms = 0;
    if (oldest < 0 || s->aged_credit_ms < 0) return;
    struct sched_seq q = seqs[oldest];
    for (int i = oldest; i > 0; i--) seqs[i] = seqs[i - 1];
    seqs[0] = q;
}

void sched_order(struct sched *s, struct sched_seq *seqs, int n, double now_ms) {
    int top = INT32_MIN, top_level = INT32_MIN;
    s->now_ms = now_ms;
    for (int i = 0; i < n; i++)
        if (seqs[i].priority > top) top = seqs[i].priority;
    for (int i = 0; i < n; i++) {
        judge(s, &seqs[i], top);
        bool steps = seqs[i].stage != SCHED_FINISHED;
        if (steps && seqs[i].level > top_level) top_level = seqs[i].level;
    }
    if (s->policy == SCHED_FCFS || n < 1) return; /* as they came */
    sched_fair_begin(&s->fair);
    for (int i = 0; i < n; i++)
        if (seqs[i].stage != SCHED_FINISHED)
            sched_fair_join(&s->fair, seqs[i].key, seqs[i].level == top_level);
    sched_fair_settle(&s->fair);
    for (int i = 0; i < n; i++) {
        seqs[i].flow = sched_fair_find(&s->fair, seqs[i].key);
        seqs[i].credit = sched_fair_may_lead(&s->fair, seqs[i].flow);
    }
    if (n > 0) qsort(seqs, (size_t)n, sizeof *seqs, by_rank); /* no array, no order */
    lift_aged(s, seqs, n);
}

/* ---- fill ------------------------------------------------------------------------------------ */

/* The step while it is put together. */
struct fill {
    const struct sched *s;
    const struct sched_seq *seqs;
    int *picked, count;
    struct sched_load load;
    double ms;       /* of the step so far */
    int tightest[2]; /* of those that could wait for the leader's step and still be in time */
};

static double slack(const struct fill *f, int i) {
    return f->seqs[i].deadline_ms - f->s->now_ms - f->seqs[i].left_ms;
}

static void take(struct fill *f, int i) {
    f->picked[f->count++] = i;
    sched_load_add(&f->load, &f->s->costs, f->seqs[i].tokens);
    f->ms = sched_load_ms(&f->s->costs, &f->load);
}

/* A sequence may become late because its turn comes late, but not because of a fill. */
static void find_tightest(struct fill *f, int n) {
    double least[2] = {HUGE_VAL, HUGE_VAL};
    f->tightest[0] = f->tightest[1] = -1;
    for (int i = 0; i < n; i++) {
        double x = slack(f, i);
        if (i == f->picked[0] || f->seqs[i].stage == SCHED_FINISHED || x < f->ms || x >= least[1])
            continue;
        int at = x < least[0] ? 0 : 1;
        if (at == 0) least[1] = least[0], f->tightest[1] = f->tightest[0];
        least[at] = x;
        f->tightest[at] = i;
    }
}

/* The joint step takes `ms`: is everybody in time who would be without the newcomer? Those who slow
 * down for others keep a reserve; who has none left is not slowed down. */
static bool deadlines_hold(const struct fill *f, int newcomer, double ms) {
    for (int k = 0; k < f->count; k++) {
        const struct sched_seq *q = &f->seqs[f->picked[k]];
        double left = q->left_ms + q->steps_left * (ms - q->solo_ms);
        double until = q->deadline_ms - RESERVE * (q->deadline_ms - q->arrival_ms);
        if (q->feasible && f->s->now_ms + left > until) return false;
    }
    int watched = f->tightest[0] == newcomer ? f->tightest[1] : f->tightest[0];
    return watched < 0 || slack(f, watched) >= ms;
}

/* Does the sequence gain by joining? *ms becomes the time of the joint step. */
static bool gains(const struct fill *f, int i, double *ms) {
    struct sched_load joint = f->load;
    sched_load_add(&joint, &f->s->costs, f->seqs[i].tokens);
    *ms = sched_load_ms(&f->s->costs, &joint);
    return *ms <= LEAST_GAIN * (f->ms + f->seqs[i].solo_ms);
}

static bool fits(const struct fill *f, int i) {
    const struct sched *s = f->s;
    int64_t limit = s->limits.batch_tokens > 0 ? s->limits.batch_tokens : s->costs.saturation;
    double ms;
    if (f->count == 0) return true;
    if (f->seqs[i].alone || f->seqs[f->picked[0]].alone) return false;
    if (f->load.tokens + f->seqs[i].tokens > limit || !gains(f, i, &ms)) return false;
    if (s->policy == SCHED_FCFS) return true;
    return sched_fair_may_ride(&s->fair, f->seqs[i].flow) && deadlines_hold(f, i, ms);
}

int sched_pick(const struct sched *s, int *picked, const struct sched_seq *seqs, int n) {
    struct fill f = {.s = s, .seqs = seqs, .picked = picked};
    int held = 0;
    for (int i = 0; i < n; i++) held += seqs[i].stage != SCHED_WAITING;
    for (int i = 0; i < n && f.count < s->limits.batch_images; i++) {
        if (seqs[i].stage == SCHED_FINISHED) continue;
        bool room = seqs[i].stage != SCHED_WAITING || held < s->limits.open_images;
        if (!room || !fits(&f, i)) {
            /* first come, first served: a small one behind must not overtake a large one */
            if (s->policy == SCHED_FCFS) break;
            continue;
        }
        held += seqs[i].stage == SCHED_WAITING;
        take(&f, i);
        if (f.count == 1) find_tightest(&f, n);
    }
    return f.count;
}

/* ---- what is next ---------------------------------------------------------------------------- */

/* Those who became late after they were opened must not keep the places from those who are not:
 * the last of them starts again later. Not the oldest of those who waited too long: its turn comes
 * for sure, and then it is finished. -1 = nobody has to. */
static int to_evict(const struct sched *s, const struct sched_seq *seqs, int n) {
    int first = 0, held = 0, last = -1, oldest = -1;
    while (first < n && seqs[first].stage == SCHED_FINISHED) first++;
    if (s->policy == SCHED_FCFS || first == n || seqs[first].stage != SCHED_WAITING ||
        !seqs[first].feasible)
        return -1;
    for (int i = first; i < n; i++)
        if (seqs[i].aged && (oldest < 0 || seqs[i].arrival_ms < seqs[oldest].arrival_ms))
            oldest = i;
    for (int i = 0; i < n; i++) {
        held += seqs[i].stage != SCHED_WAITING;
        if (seqs[i].stage == SCHED_OPEN && !seqs[i].feasible && i != oldest) last = i;
    }
    return held < s->limits.open_images ? -1 : last;
}

static enum sched_act one(int *picked, int *n_picked, int index, enum sched_act act) {
    picked[0] = index;
    *n_picked = 1;
    return act;
}

enum sched_act sched_next(struct sched *s, int *picked, int *n_picked, const struct sched_seq *seqs,
                          int n, bool can_decode) {
    const struct sched_turn *turn = &s->turn;
    int count = sched_pick(s, picked, seqs, n), ready = 0, waiting = -1;
    int preview = -1, finished = -1;
    for (int i = n - 1; i >= 0; i--) {
        if (seqs[i].stage == SCHED_FINISHED) finished = i;
        if (seqs[i].stage == SCHED_OPEN && seqs[i].preview_due) preview = i;
    }
    for (int i = 0; i < count; i++) {
        if (seqs[picked[i]].stage == SCHED_OPEN)
            ready++;
        else if (waiting < 0)
            waiting = picked[i];
    }
    int evicted = to_evict(s, seqs, n);
    if (evicted >= 0) return one(picked, n_picked, evicted, SCHED_DO_EVICT);
    if (preview >= 0) return one(picked, n_picked, preview, SCHED_DO_PREVIEW);
    if (finished >= 0 && can_decode && (ready == 0 || turn->decodes == 0))
        return one(picked, n_picked, finished, SCHED_DO_DECODE);
    if (waiting >= 0 && (ready == 0 || turn->open_ms <= 0 || s->costs.step_ms <= 0 ||
                         turn->open_ms < s->costs.step_ms))
        return one(picked, n_picked, waiting, SCHED_DO_OPEN);
    *n_picked = 0;
    if (ready == 0) return SCHED_DO_NOTHING;
    for (int i = 0; i < count; i++)
        if (seqs[picked[i]].stage == SCHED_OPEN) picked[(*n_picked)++] = picked[i];
    s->aged_led = seqs[picked[0]].aged;
    return SCHED_DO_STEP;
}

void sched_stepped(struct sched *s, const int *tokens, const uint64_t *keys, int rows, double ms) {
    double all = 0;
    for (int i = 0; i < rows; i++) all += tokens[i];
    for (int i = 0; i < rows && all > 0; i++)
        sched_fair_charge(&s->fair, keys[i], ms * tokens[i] / all);
    sched_saw_step(&s->costs, tokens, rows, ms);
    /* neither savings nor debts grow for ever */
    s->aged_credit_ms += ms / s->limits.aged_share - (s->aged_led ? ms : 0);
    s->aged_credit_ms = fmin(s->aged_credit_ms, ms);
    s->aged_credit_ms = fmax(s->aged_credit_ms, -ms * s->limits.aged_share);
    s->aged_led = false;
}
