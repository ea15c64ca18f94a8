/* sched_fair.c - see sched_fair.h. A round gives half a quantum and debts go as far: that is the
 * quantum between the richest and the poorest. */
#include "server/sched_fair.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void sched_fair_finish(struct sched_fair *f) {
    free(f->flows);
    f->flows = NULL;
    f->n = f->cap = 0;
}

/* The first place whose key is not smaller. */
static int lower_bound(const struct sched_fair *f, uint64_t key) {
    int lo = 0, hi = f->n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (f->flows[mid].key < key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int sched_fair_find(const struct sched_fair *f, uint64_t key) {
    int at = lower_bound(f, key);
    return at < f->n && f->flows[at].key == key ? at : -1;
}

static bool insert(struct sched_fair *f, int at, uint64_t key) {
    if (f->n == f->cap) {
        int cap = f->cap ? 2 * f->cap : 16;
        struct sched_flow *p = realloc(f->flows, (size_t)cap * sizeof *p);
        if (!p) return false;
        f->flows = p;
        f->cap = cap;
    }
    memmove(f->flows + at + 1, f->flows + at, (size_t)(f->n - at) * sizeof *f->flows);
    f->flows[at] = (struct sched_flow){.key = key, .credit_ms = f->quantum_ms / 2};
    f->n++;
    return true;
}

void sched_fair_begin(struct sched_fair *f) {
    for (int i = 0; i < f->n; i++) f->flows[i].has_work = f->flows[i].leads = false;
}

void sched_fair_join(struct sched_fair *f, uint64_t key, bool leads) {
    int at = lower_bound(f, key);
    bool known = at < f->n && f->flows[at].key == key;
    if (!known && !insert(f, at, key)) return;
    f->flows[at].has_work = true;
    if (leads) f->flows[at].leads = true;
}

/* Who has nothing to do is forgotten only here: leaving and coming back within a round brings no
 * new credit. */
static void new_round(struct sched_fair *f, double most) {
    const double grant = f->quantum_ms / 2;
    double rounds = floor(-most / grant) + 1;
    int kept = 0;
    for (int i = 0; i < f->n; i++) {
        struct sched_flow *w = &f->flows[i];
        if (!w->has_work) continue;
        w->credit_ms += rounds * grant;
        if (w->credit_ms > grant) w->credit_ms = grant;
        f->flows[kept++] = *w;
    }
    f->n = kept;
}

void sched_fair_settle(struct sched_fair *f) {
    double most = -HUGE_VAL;
    if (f->quantum_ms <= 0) return;
    for (int i = 0; i < f->n; i++)
        if (f->flows[i].leads && f->flows[i].credit_ms > most) most = f->flows[i].credit_ms;
    if (most > -HUGE_VAL && most <= 0) new_round(f, most);
}

bool sched_fair_may_lead(const struct sched_fair *f, int place) {
    return place < 0 || f->quantum_ms <= 0 || f->flows[place].credit_ms > 0;
}

bool sched_fair_may_ride(const struct sched_fair *f, int place) {
    return place < 0 || f->quantum_ms <= 0 || f->flows[place].credit_ms > -f->quantum_ms / 2;
}

void sched_fair_charge(struct sched_fair *f, uint64_t key, double ms) {
    int at = sched_fair_find(f, key);
    if (at >= 0 && ms >= 0) f->flows[at].credit_ms -= ms;
}
