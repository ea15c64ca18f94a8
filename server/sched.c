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

bool sched_init(struct sched *s, enum sched_policy policy, const struct sched_limits *limits,
                int n_devices) {
    *s = (struct sched){.policy = policy, .limits = *limits, .n_devices = n_devices};
    s->devices = calloc((size_t)n_devices, sizeof *s->devices);
    for (int d = 0; s->devices && d < n_devices; d++) {
        s->devices[d].serves = 1;
        for (int m = 0; m < SCHED_MODELS; m++) sched_costs_init(&s->devices[d].costs[m]);
    }
    return s->devices != NULL;
}

void sched_finish(struct sched *s) {
    sched_fair_finish(&s->fair);
    free(s->devices);
    s->devices = NULL;
}

/* ---- who can do it --------------------------------------------------------------------------- */

static const struct sched_costs *costs_on(const struct sched *s, int d, const struct sched_seq *q) {
    return &s->devices[d].costs[q->model];
}

static double left_of(const struct sched_costs *c, const struct sched_seq *q, double solo_ms) {
    return (q->stage == SCHED_WAITING ? c->open_ms : 0) + q->steps_left * solo_ms +
           sched_tail_ms(c, q->pixels);
}

static double left_on(const struct sched *s, int d, const struct sched_seq *q) {
    const struct sched_costs *c = costs_on(s, d, q);
    return d == q->on ? q->left_ms : left_of(c, q, sched_solo_ms(c, q->tokens));
}

static double solo_on(const struct sched *s, int d, const struct sched_seq *q) {
    return d == q->on ? q->solo_ms : sched_solo_ms(costs_on(s, d, q), q->tokens);
}

static bool serves(const struct sched *s, int d, int model) {
    return s->devices[d].serves >> model & 1;
}

/* A device does not begin what would be late there and may still be in time elsewhere, nor what
 * another would have done earlier, though it has to finish first what it holds and ahead_ms[its
 * number] more. Returns that other device, or -1. */
static int better_elsewhere(const struct sched *s, int d, const struct sched_seq *q,
                            const double *ahead_ms) {
    const double here = left_on(s, d, q), time = q->deadline_ms - s->now_ms;
    for (int e = 0; e < s->n_devices; e++) {
        if (e == d || !serves(s, e, q->model)) continue;
        const double there = left_on(s, e, q);
        if ((here <= time) != (there <= time)) {
            if (there <= time) return e;
        } else if (s->devices[e].held_ms + ahead_ms[e] + there < s->devices[d].held_ms + here) {
            return e;
        }
    }
    return -1;
}

/* May the device work on it now? */
static bool concerns(const struct sched *s, int d, const struct sched_seq *q) {
    if (q->beside || (q->stepping && q->steps_left <= 1)) return false;
    return q->device >= 0 ? q->device == d : serves(s, d, q->model);
}

/* ---- order ----------------------------------------------------------------------------------- */

/* What it takes on the device that holds it, or on the quickest of those that serve its model; of
 * all when none does just now. */
static void find_home(const struct sched *s, struct sched_seq *q) {
    const bool held = q->device >= 0;
    const int first = held ? q->device : 0, last = held ? q->device : s->n_devices - 1;
    bool found = false, serving = false;
    for (int d = first; d <= last; d++) {
        const struct sched_costs *c = costs_on(s, d, q);
        const double solo_ms = sched_solo_ms(c, q->tokens), left_ms = left_of(c, q, solo_ms);
        const bool does = serves(s, d, q->model);
        if (found && (does == serving ? !(left_ms < q->left_ms) : serving)) continue;
        found = true;
        serving = does;
        q->on = d;
        q->solo_ms = solo_ms;
        q->left_ms = left_ms;
    }
}

void sched_judge(const struct sched *s, struct sched_seq *q, int top) {
    double waited = fmax(s->now_ms - q->arrival_ms, 0); /* it may have come a moment ago */
    find_home(s, q);
    q->feasible = s->now_ms + q->left_ms <= q->deadline_ms;
    q->aged = waited >= s->limits.patience_ms;
    double raised = s->limits.level_ms > 0 ? floor(waited / s->limits.level_ms) : 0;
    q->level = q->priority + raised < top ? q->priority + (int)raised : top;
}

static int earlier(double a, double b) { return (a > b) - (a < b); }

int sched_rank(const void *a, const void *b) {
    const struct sched_seq *x = a, *y = b;
    if (x->level != y->level) return x->level > y->level ? -1 : 1;
    if (x->credit != y->credit) return x->credit ? -1 : 1;
    if (x->feasible != y->feasible) return x->feasible ? -1 : 1;
    int c = earlier(x->deadline_ms, y->deadline_ms);
    if (c == 0) c = earlier(x->arrival_ms, y->arrival_ms);
    return c ? c : x->id - y->id;
}

/* The oldest of those who have waited too long, as the device sees it; -1 = none. */
static int oldest_aged(const struct sched *s, int d, const struct sched_seq *seqs, int n) {
    int oldest = -1;
    for (int i = 0; i < n; i++) {
        if (!seqs[i].aged || seqs[i].stage == SCHED_FINISHED || !concerns(s, d, &seqs[i])) continue;
        if (oldest < 0 || seqs[i].arrival_ms < seqs[oldest].arrival_ms) oldest = i;
    }
    return oldest;
}

/* Who has waited too long goes in front: the oldest of each device, and only for their share of its
 * time. */
static void lift_aged(struct sched *s, struct sched_seq *seqs, int n) {
    int lifted = 0; /* so many are in front, the oldest first */
    for (int d = 0; d < s->n_devices; d++) {
        int at = oldest_aged(s, d, seqs, n), to = 0;
        if (at < 0) s->devices[d].aged_credit_ms = 0;
        if (at < lifted || s->devices[d].aged_credit_ms < 0) continue;
        struct sched_seq q = seqs[at];
        while (to < lifted && seqs[to].arrival_ms <= q.arrival_ms) to++;
        for (int i = at; i > to; i--) seqs[i] = seqs[i - 1];
        seqs[to] = q;
        lifted++;
    }
}

static void sum_held(struct sched *s, const struct sched_seq *seqs, int n) {
    for (int d = 0; d < s->n_devices; d++) s->devices[d].held_ms = 0;
    for (int i = 0; i < n; i++)
        if (seqs[i].device >= 0) s->devices[seqs[i].device].held_ms += seqs[i].left_ms;
}

void sched_order(struct sched *s, struct sched_seq *seqs, int n, double now_ms) {
    int top = INT32_MIN, top_level = INT32_MIN;
    s->now_ms = now_ms;
    for (int i = 0; i < n; i++)
        if (seqs[i].priority > top) top = seqs[i].priority;
    for (int i = 0; i < n; i++) {
        sched_judge(s, &seqs[i], top);
        bool steps = seqs[i].stage != SCHED_FINISHED;
        if (steps && seqs[i].level > top_level) top_level = seqs[i].level;
    }
    sum_held(s, seqs, n);
    if (s->policy != SCHED_EDF || n < 1) return; /* as they came */
    sched_fair_begin(&s->fair);
    for (int i = 0; i < n; i++)
        if (seqs[i].stage != SCHED_FINISHED)
            sched_fair_join(&s->fair, seqs[i].key, seqs[i].level == top_level);
    sched_fair_settle(&s->fair);
    for (int i = 0; i < n; i++) {
        seqs[i].flow = sched_fair_find(&s->fair, seqs[i].key);
        seqs[i].credit = sched_fair_may_lead(&s->fair, seqs[i].flow);
    }
    if (n > 0) qsort(seqs, (size_t)n, sizeof *seqs, sched_rank); /* no array, no order */
    lift_aged(s, seqs, n);
}

/* ---- fill ------------------------------------------------------------------------------------ */

/* The step while it is put together. */
struct fill {
    const struct sched *s;
    const struct sched_seq *seqs;
    const struct sched_costs *costs; /* of the leader's model */
    int device;
    int *picked, count;
    struct sched_load load;
    double ms;       /* of the step so far */
    int tightest[2]; /* of those that could wait for the leader's step and still be in time */
};

static double slack(const struct fill *f, int i) {
    return f->seqs[i].deadline_ms - f->s->now_ms - left_on(f->s, f->device, &f->seqs[i]);
}

static void take(struct fill *f, int i) {
    if (f->count == 0) f->costs = costs_on(f->s, f->device, &f->seqs[i]);
    f->picked[f->count++] = i;
    sched_load_add_ms(&f->load, f->costs, f->seqs[i].tokens, solo_on(f->s, f->device, &f->seqs[i]));
    f->ms = sched_load_ms(f->costs, &f->load);
}

/* A sequence may become late because its turn comes late, but not because of a fill. */
static void find_tightest(struct fill *f, int n) {
    double least[2] = {HUGE_VAL, HUGE_VAL};
    f->tightest[0] = f->tightest[1] = -1;
    for (int i = 0; i < n; i++) {
        if (i == f->picked[0] || f->seqs[i].stage == SCHED_FINISHED ||
            !concerns(f->s, f->device, &f->seqs[i]))
            continue;
        double x = slack(f, i);
        if (x < f->ms || x >= least[1]) continue;
        int at = x < least[0] ? 0 : 1;
        if (at == 0) least[1] = least[0], f->tightest[1] = f->tightest[0];
        least[at] = x;
        f->tightest[at] = i;
    }
}

/* The joint step takes `ms`: is everybody in time who would be without the newcomer? Those who slow
 * down for others keep a reserve; who has none left is not slowed down. */
static bool deadlines_hold(const struct fill *f, int newcomer, double ms) {
    const struct sched *s = f->s;
    for (int k = 0; k < f->count; k++) {
        const struct sched_seq *q = &f->seqs[f->picked[k]];
        double alone = left_on(s, f->device, q);
        double left = alone + q->steps_left * (ms - solo_on(s, f->device, q));
        double until = q->deadline_ms - RESERVE * (q->deadline_ms - q->arrival_ms);
        if (s->now_ms + alone <= q->deadline_ms && s->now_ms + left > until) return false;
    }
    int watched = f->tightest[0] == newcomer ? f->tightest[1] : f->tightest[0];
    return watched < 0 || slack(f, watched) >= ms;
}

/* Does the sequence gain by joining? *ms becomes the time of the joint step. */
static bool gains(const struct fill *f, int i, double *ms) {
    struct sched_load joint = f->load;
    const double solo_ms = solo_on(f->s, f->device, &f->seqs[i]);
    sched_load_add_ms(&joint, f->costs, f->seqs[i].tokens, solo_ms);
    *ms = sched_load_ms(f->costs, &joint);
    return *ms <= LEAST_GAIN * (f->ms + solo_ms);
}

static bool fits(const struct fill *f, int i) {
    const struct sched *s = f->s;
    double ms;
    if (f->count == 0) return true;
    int64_t limit = s->limits.batch_tokens > 0 ? s->limits.batch_tokens
                    : s->policy == SCHED_FILL  ? INT64_MAX
                                               : f->costs->saturation;
    const struct sched_seq *leader = &f->seqs[f->picked[0]];
    if (f->seqs[i].alone || leader->alone || f->seqs[i].model != leader->model) return false;
    if (f->load.tokens + f->seqs[i].tokens > limit) return false;
    if (s->policy == SCHED_FILL) return true;
    if (!gains(f, i, &ms)) return false;
    if (s->policy == SCHED_FCFS) return true;
    return sched_fair_may_ride(&s->fair, f->seqs[i].flow) && deadlines_hold(f, i, ms);
}

static int images_of_step(const struct sched *s, int d) {
    int most = s->devices[d].most_images;
    return most > 0 && most < s->limits.batch_images ? most : s->limits.batch_images;
}

static int places(const struct sched *s, int d) {
    int most = s->devices[d].most_open;
    return most > 0 && most < s->limits.open_images ? most : s->limits.open_images;
}

static int held_by(const struct sched_seq *seqs, int n, int d) {
    int held = 0;
    for (int i = 0; i < n; i++)
        held += (seqs[i].stage != SCHED_WAITING || seqs[i].beside) && seqs[i].device == d;
    return held;
}

int sched_pick(const struct sched *s, int device, int *picked, const struct sched_seq *seqs,
               int n) {
    struct fill f = {.s = s, .seqs = seqs, .device = device, .picked = picked};
    int held = held_by(seqs, n, device), most = images_of_step(s, device);
    double ahead_ms[SCHED_DEVICES] = {0}; /* of those that wait in front, by who will take them */
    for (int i = 0; i < n && f.count < most; i++) {
        const struct sched_seq *q = &seqs[i];
        if (q->stage == SCHED_FINISHED || !concerns(s, device, q)) continue;
        bool waits = q->stage == SCHED_WAITING;
        int other = waits && q->device < 0 ? better_elsewhere(s, device, q, ahead_ms) : -1;
        if (other >= 0) {
            ahead_ms[other] += left_on(s, other, q);
            continue;
        }
        bool room = !waits || held < places(s, device);
        if (!room || !fits(&f, i)) {
            /* first come, first served: a small one behind must not overtake a large one */
            if (s->policy != SCHED_EDF) break;
            continue;
        }
        held += waits;
        take(&f, i);
        if (f.count == 1) find_tightest(&f, n);
    }
    return f.count;
}

/* ---- what is next ---------------------------------------------------------------------------- */

/* Those who became late after they were opened must not keep the places from those who are not:
 * the last of them starts again later. Not the oldest of those who waited too long: its turn comes
 * for sure, and then it is finished. -1 = nobody has to. */
static int to_evict(const struct sched *s, int d, const struct sched_seq *seqs, int n) {
    int first = 0, last = -1, oldest = oldest_aged(s, d, seqs, n);
    while (first < n && (seqs[first].stage == SCHED_FINISHED || !concerns(s, d, &seqs[first])))
        first++;
    if (s->policy != SCHED_EDF || first == n || seqs[first].stage != SCHED_WAITING ||
        s->now_ms + left_on(s, d, &seqs[first]) > seqs[first].deadline_ms ||
        better_elsewhere(s, d, &seqs[first], (double[SCHED_DEVICES]){0}) >= 0)
        return -1;
    for (int i = 0; i < n; i++)
        if (seqs[i].stage == SCHED_OPEN && seqs[i].device == d && !seqs[i].feasible &&
            !seqs[i].stepping && i != oldest)
            last = i;
    return held_by(seqs, n, d) < places(s, d) ? -1 : last;
}

static struct sched_plan one(enum sched_act act, int index) {
    return (struct sched_plan){.act = act, .n = 1, .picked = {index}};
}

static struct sched_plan step_of(struct sched *s, int d, const struct sched_seq *seqs,
                                 const int *picked, int count) {
    struct sched_plan plan = {.act = SCHED_DO_STEP};
    for (int i = 0; i < count; i++)
        if (seqs[picked[i]].stage == SCHED_OPEN) plan.picked[plan.n++] = picked[i];
    s->devices[d].aged_led = seqs[plan.picked[0]].aged;
    return plan;
}

struct sched_plan sched_next(struct sched *s, int device, const struct sched_seq *seqs, int n,
                             uint32_t can_decode) {
    const struct sched_turn *turn = &s->devices[device].turn;
    int picked[SCHED_MAX_BATCH];
    int count = sched_pick(s, device, picked, seqs, n), ready = 0, waiting = -1;
    int preview = -1, finished = -1;
    for (int i = n - 1; i >= 0; i--) {
        if (seqs[i].device != device) continue;
        if (seqs[i].stage == SCHED_FINISHED && can_decode >> seqs[i].model & 1) finished = i;
        if (seqs[i].stage == SCHED_OPEN && seqs[i].preview_due) preview = i;
    }
    for (int i = 0; i < count; i++) {
        if (seqs[picked[i]].stage == SCHED_OPEN)
            ready++;
        else if (waiting < 0)
            waiting = picked[i];
    }
    int evicted = to_evict(s, device, seqs, n);
    if (evicted >= 0) return one(SCHED_DO_EVICT, evicted);
    if (preview >= 0) return one(SCHED_DO_PREVIEW, preview);
    if (finished >= 0 && (ready == 0 || turn->decodes == 0)) return one(SCHED_DO_DECODE, finished);
    double usual_ms = count > 0 ? costs_on(s, device, &seqs[picked[0]])->step_ms : 0;
    if (waiting >= 0 &&
        (ready == 0 || turn->open_ms <= 0 || usual_ms <= 0 || turn->open_ms < usual_ms))
        return one(SCHED_DO_OPEN, waiting);
    if (ready == 0) return (struct sched_plan){.act = SCHED_DO_NOTHING};
    return step_of(s, device, seqs, picked, count);
}

/* ---- the same beside steps ------------------------------------------------------------------- */

/* Those among the picked that can step now. */
static int keep_open(const struct sched_seq *seqs, int *picked, int count) {
    int open = 0;
    for (int i = 0; i < count; i++)
        if (seqs[picked[i]].stage == SCHED_OPEN) picked[open++] = picked[i];
    return open;
}

/* Who leads waits to be opened, which takes less than a step. Others step meanwhile, unless that
 * would make it late. */
static int step_meanwhile(const struct sched *s, int d, int *picked, const struct sched_seq *seqs,
                          int n) {
    const struct sched_seq *leader = &seqs[picked[0]];
    const double slack = leader->deadline_ms - s->now_ms - left_on(s, d, leader);
    const int model = leader->model;
    struct fill f = {.s = s, .seqs = seqs, .device = d, .picked = picked};
    for (int i = 0; i < n && f.count < images_of_step(s, d); i++) {
        const struct sched_seq *q = &seqs[i];
        if (q->stage != SCHED_OPEN || q->model != model || !concerns(s, d, q) || !fits(&f, i))
            continue;
        take(&f, i);
        if (f.count == 1) find_tightest(&f, n);
    }
    return slack >= 0 && slack < f.ms ? 0 : f.count;
}

/* The first that can be decoded now, of any model but one (-1 = of all); -1 = nobody. */
static int to_decode(const struct sched_seq *seqs, int n, int device, uint32_t can_decode,
                     int but_model) {
    for (int i = 0; i < n; i++)
        if (seqs[i].stage == SCHED_FINISHED && !seqs[i].beside && seqs[i].device == device &&
            can_decode >> seqs[i].model & 1 && seqs[i].model != but_model)
            return i;
    return -1;
}

/* Commands that are out are of model `bound`: is it another's turn when they have ended? */
static bool turn_ends(const struct sched_seq *seqs, int first, int bound) {
    return bound >= 0 && first >= 0 && seqs[first].model != bound;
}

struct sched_plan sched_next_step(struct sched *s, int device, const struct sched_seq *seqs, int n,
                                  uint32_t can_decode, int bound) {
    const struct sched_plan nothing = {.act = SCHED_DO_NOTHING};
    int picked[SCHED_MAX_BATCH];
    int count = sched_pick(s, device, picked, seqs, n);
    for (int i = 0; i < n; i++)
        if (concerns(s, device, &seqs[i]) && seqs[i].device == device &&
            seqs[i].stage == SCHED_OPEN && seqs[i].preview_due &&
            (bound < 0 || seqs[i].model == bound))
            return one(SCHED_DO_PREVIEW, i);
    if (count == 0 || turn_ends(seqs, picked[0], bound)) return nothing;
    if (to_decode(seqs, n, device, can_decode, seqs[picked[0]].model) >= 0) return nothing;
    const int open = keep_open(seqs, picked, count);
    count = open ? open : step_meanwhile(s, device, picked, seqs, n);
    return count ? step_of(s, device, seqs, picked, count) : nothing;
}

struct sched_plan sched_next_beside(struct sched *s, int device, const struct sched_seq *seqs,
                                    int n, uint32_t can_decode, int bound) {
    const struct sched_plan nothing = {.act = SCHED_DO_NOTHING};
    int picked[SCHED_MAX_BATCH];
    const int count = sched_pick(s, device, picked, seqs, n);
    if (turn_ends(seqs, count ? picked[0] : -1, bound) ||
        (bound >= 0 && to_decode(seqs, n, device, can_decode, bound) >= 0))
        return nothing;
    const int finished = to_decode(seqs, n, device, can_decode, -1);
    if (finished >= 0) return one(SCHED_DO_DECODE, finished);
    const int evicted = to_evict(s, device, seqs, n);
    if (evicted >= 0) return one(SCHED_DO_EVICT, evicted);
    for (int i = 0; i < count; i++)
        if (seqs[picked[i]].stage == SCHED_WAITING) return one(SCHED_DO_OPEN, picked[i]);
    return nothing;
}

/* ---- what was done --------------------------------------------------------------------------- */

enum { CALM_STEPS = 100 };

/* After a time without trouble one more is tried. */
static void relax(const struct sched *s, struct sched_device *d) {
    if ((d->most_images == 0 && d->most_open == 0) || ++d->went_well < CALM_STEPS) return;
    d->went_well = 0;
    if (d->most_images > 0 && ++d->most_images >= s->limits.batch_images) d->most_images = 0;
    if (d->most_open > 0 && ++d->most_open >= s->limits.open_images) d->most_open = 0;
}

void sched_step_too_large(struct sched *s, int device, int rows) {
    s->devices[device].most_images = rows > 1 ? rows / 2 : 1;
    s->devices[device].went_well = 0;
}

void sched_no_room(struct sched *s, int device, int held) {
    s->devices[device].most_open = held > 1 ? held : 1;
    s->devices[device].went_well = 0;
}

/* Less than was thought, or more than nothing was known. */
static bool took_less(const struct sched_costs *c, const struct sched_step *step) {
    struct sched_load load = {0};
    for (int i = 0; i < step->rows; i++) sched_load_add(&load, c, step->tokens[i]);
    return !c->measured || step->ms < sched_load_ms(c, &load);
}

void sched_stepped(struct sched *s, int device, const struct sched_step *step) {
    struct sched_device *d = &s->devices[device];
    const double ms = step->ms;
    double all = 0;
    for (int i = 0; i < step->rows; i++) all += step->tokens[i];
    for (int i = 0; i < step->rows && all > 0; i++)
        sched_fair_charge(&s->fair, step->keys[i], ms * step->tokens[i] / all);
    if (!step->beside || took_less(&d->costs[step->model], step))
        sched_saw_step(&d->costs[step->model], step->tokens, step->rows, ms);
    relax(s, d);
    /* neither savings nor debts grow for ever */
    d->aged_credit_ms += ms / s->limits.aged_share - (d->aged_led ? ms : 0);
    d->aged_credit_ms = fmin(d->aged_credit_ms, ms);
    d->aged_credit_ms = fmax(d->aged_credit_ms, -ms * s->limits.aged_share);
    d->aged_led = false;
}
