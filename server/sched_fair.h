/* sched_fair.h - nobody gets more of the device than others who also wait: deficit round robin in
 * device milliseconds, by key (who asks).
 *
 * A round gives every key that has work the same credit; steps are charged to those in them. Who
 * has used up its credit leads no step until all others have, too, and rides along in those of
 * others only while its debt is small. So two keys that both have work all the time never differ by
 * more than a quantum and the steps that passed its ends. Inside of that the order by deadlines is
 * free: with one key, or with work for everybody, this changes nothing. */
#ifndef TACA_SERVER_SCHED_FAIR_H
#define TACA_SERVER_SCHED_FAIR_H

#include <stdbool.h>
#include <stdint.h>

struct sched_flow {
    uint64_t key;
    double credit_ms;
    bool has_work, leads; /* leads: it has work of the class that is served now */
};
struct sched_fair {
    struct sched_flow *flows; /* by key */
    int n, cap;
    double quantum_ms; /* 0 = everybody always has credit */
};

void sched_fair_finish(struct sched_fair *f);
/* Its place, made when it is new; -1 when memory is out (it then counts as nobody). Places move
 * when others come: look up all first with sched_fair_join, then ask. */
int sched_fair_find(const struct sched_fair *f, uint64_t key);
void sched_fair_join(struct sched_fair *f, uint64_t key, bool leads);
/* Before the joins of a decision, and after them: a new round when nobody who leads has credit. */
void sched_fair_begin(struct sched_fair *f);
void sched_fair_settle(struct sched_fair *f);
bool sched_fair_may_lead(const struct sched_fair *f, int place);
bool sched_fair_may_ride(const struct sched_fair *f, int place);
void sched_fair_charge(struct sched_fair *f, uint64_t key, double ms);

#endif
