/* sched_admit.c - who may wait; see sched.h. */
#include <math.h>
#include <stddef.h>

#include "server/sched.h"

#define LATE_SHARE 0.75 /* of places and backlog: so much those may take who will be late */
#define CALM_MS    10e3 /* since somebody was sent away: too much is not asked any more */
#define RESERVE    0.95 /* of the time to a deadline: estimates are estimates */
#define MEMORY_MS  10e3 /* demand fades to 1/e */

/* ---- time ------------------------------------------------------------------------------------ */

static int among(const struct sched *s, int model) {
    int devices = sched_servers(s, model);
    return devices > 1 ? devices : 1;
}

/* Of what is left of it the part that it adds to steps which are full of its like: where sharing
 * pays, a line is done sooner than one by one. */
static double crowded_ms(const struct sched *s, const struct sched_seq *q) {
    const struct sched_costs *c = &s->devices[q->on].costs[q->model];
    int64_t limit = s->limits.batch_tokens > 0 ? s->limits.batch_tokens : c->saturation;
    int64_t rows = q->tokens > 0 ? limit / q->tokens : 1;
    if (rows > s->limits.batch_images) rows = s->limits.batch_images;
    if (rows < 2 || q->alone || q->steps_left == 0) return q->left_ms;
    double own_ms = fmax(q->solo_ms - c->shared_ms, 0);
    const struct sched_load full = {(int)rows, rows * q->tokens, (double)rows * own_ms};
    double each_ms = sched_load_ms(c, &full) / (double)rows;
    return q->left_ms - q->steps_left * fmax(q->solo_ms - each_ms, 0);
}

/* The work that is served before it by the order of now; *waiting: by so many who wait. */
static double ahead_ms(const struct sched *s, const struct sched_seq *q,
                       const struct sched_seq *seqs, int n, int *waiting) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        bool first = seqs[i].stage == SCHED_FINISHED || s->policy != SCHED_EDF ||
                     sched_rank(&seqs[i], q) < 0;
        if (!first) continue;
        sum += crowded_ms(s, &seqs[i]) / among(s, seqs[i].model);
        *waiting += seqs[i].stage == SCHED_WAITING;
    }
    return sum;
}

/* ---- demand ---------------------------------------------------------------------------------- */

static int class_of(double alone_ms) {
    double c = floor(2 * log2(fmax(alone_ms, 1)));
    return c < SCHED_CLASSES - 1 ? (int)c : SCHED_CLASSES - 1;
}

static void count_demand(struct sched *s, double alone_ms, double work_ms) {
    struct sched_demand *d = &s->demand;
    double passed = fmax(s->now_ms - d->at_ms, 0);
    const double left = exp(-passed / MEMORY_MS);
    for (int i = 0; i < SCHED_CLASSES; i++) d->share[i] *= left;
    d->at_ms = s->now_ms;
    d->share[class_of(alone_ms)] += work_ms / MEMORY_MS;
}

/* Deadlines grow with the time alone, so who takes less and comes while this one waits is mostly
 * due before it: so much of the device is left for it. */
static double share_left(const struct sched *s, double alone_ms) {
    double taken = 0;
    for (int i = 0; i < class_of(alone_ms); i++) taken += s->demand.share[i];
    return fmax(1 - taken, 0);
}

/* Between keys that share fairly, who has nothing in the line is not held up by what others ask. */
static bool is_new(const struct sched *s, const struct sched_seq *q, const struct sched_seq *seqs,
                   int n) {
    if (s->fair.quantum_ms <= 0) return false;
    for (int i = 0; i < n; i++)
        if (seqs[i].key == q->key) return false;
    return true;
}

/* ---- the answer ------------------------------------------------------------------------------ */

struct admission {
    struct sched *s;
    const struct sched_newcomer *c;
    const struct sched_seq *seqs;
    int n;
    struct sched_seq q; /* the newcomer with its rank */
    double alone_ms;    /* all its images */
    double backlog_ms;  /* of the line */
    double finish_ms;   /* from now, when nobody comes in between */
    int ahead;          /* of those who wait */
};

static void look(struct admission *a) {
    struct sched *s = a->s;
    int top = a->c->seq.priority;
    for (int i = 0; i < a->n; i++)
        if (a->seqs[i].priority > top) top = a->seqs[i].priority;
    a->q = a->c->seq;
    sched_judge(s, &a->q, top);
    a->q.credit = sched_fair_may_lead(&s->fair, sched_fair_find(&s->fair, a->q.key));
    a->alone_ms = a->c->images * a->q.left_ms;
    a->backlog_ms = sched_wait_ms(s, a->seqs, a->n);
    a->finish_ms = ahead_ms(s, &a->q, a->seqs, a->n, &a->ahead) + a->alone_ms;
    count_demand(s, a->alone_ms, a->c->images * crowded_ms(s, &a->q) / among(s, a->q.model));
}

/* Is there room within that share of the limits? What is asked of an idle service may take as long
 * as it takes. */
static bool has_room(const struct admission *a, double share) {
    const struct sched_limits *l = &a->s->limits;
    if (l->backlog_ms > 0 && a->backlog_ms > 0 &&
        a->backlog_ms + a->alone_ms > share * l->backlog_ms)
        return false;
    return a->c->queued < l->queue - (int)((1 - share) * l->queue);
}

static bool is_calm(const struct sched *s) {
    return !s->demand.refused || s->now_ms - s->demand.refused_ms >= CALM_MS;
}

/* How long it takes with those who are likely to come in between, and with those who have waited
 * too long and have their share of the time. */
static double expected_ms(const struct admission *a) {
    bool aged = false;
    for (int i = 0; i < a->n && !aged; i++) aged = a->seqs[i].aged;
    double share = aged ? 1 - 1.0 / a->s->limits.aged_share : 1;
    if (!is_new(a->s, &a->q, a->seqs, a->n)) share *= share_left(a->s, a->alone_ms);
    return a->finish_ms / share;
}

static bool will_be_in_time(const struct admission *a) {
    bool only_late = true; /* then the device takes it now, whatever may still come */
    for (int i = 0; i < a->n && only_late; i++) only_late = !a->seqs[i].feasible;
    if (only_late) return a->q.feasible;
    return expected_ms(a) <= RESERVE * (a->q.deadline_ms - a->s->now_ms);
}

static struct sched_answer refuse(const struct admission *a, enum sched_verdict verdict,
                                  double wait_ms) {
    double jitter = 1 + 0.2 * (2 * (double)a->c->random / (double)UINT32_MAX - 1);
    double s = ceil(wait_ms / 1000 * jitter);
    /* NaN becomes 60: never in a hurry */
    int retry_after_s = s < 1 ? 1 : s <= 60 ? (int)s : 60;
    return (struct sched_answer){verdict, retry_after_s, a->finish_ms, a->ahead + 1};
}

/* The service is asked for too much, and remembers it. */
static struct sched_answer send_away(const struct admission *a) {
    struct sched *s = a->s;
    double over_ms = a->backlog_ms + a->alone_ms - s->limits.backlog_ms;
    s->demand.refused_ms = s->now_ms;
    s->demand.refused = true;
    if (has_room(a, 1)) {
        double late_ms = expected_ms(a) - (a->q.deadline_ms - s->now_ms);
        return refuse(a, SCHED_CROWDED, fmin(late_ms, a->backlog_ms));
    }
    bool places = a->c->queued < s->limits.queue;
    return refuse(a, SCHED_FULL, places ? fmin(a->backlog_ms, over_ms) : a->backlog_ms);
}

struct sched_answer sched_admit(struct sched *s, const struct sched_newcomer *c,
                                const struct sched_seq *seqs, int n) {
    struct admission a = {.s = s, .c = c, .seqs = seqs, .n = n};
    look(&a);
    const struct sched_answer take = {SCHED_TAKE, 0, a.finish_ms, a.ahead + 1};
    if (s->now_ms + a.finish_ms > c->due_ms && s->devices[a.q.on].costs[a.q.model].measured)
        return refuse(&a, SCHED_LATE, s->now_ms + a.finish_ms - c->due_ms);
    if (!has_room(&a, 1)) return send_away(&a);
    if (s->policy != SCHED_EDF || c->queued < 0) return take;
    if (is_calm(s) && has_room(&a, LATE_SHARE)) return take;
    return will_be_in_time(&a) ? take : send_away(&a);
}
