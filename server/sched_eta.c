/* sched_eta.c - the same costs and the same order, asked when: estimates, backlog. */
#include <math.h>
#include <stddef.h>

#include "server/sched.h"

double sched_isolated_ms(const struct sched_costs *c, int tokens, int steps, double pixels) {
    return c->open_ms + steps * sched_solo_ms(c, tokens) + sched_tail_ms(c, pixels);
}

int sched_servers(const struct sched *s, int model) {
    int n = 0;
    for (int d = 0; d < s->n_devices; d++) n += (int)(s->devices[d].serves >> model & 1);
    return n;
}

double sched_wait_ms(const struct sched *s, const struct sched_seq *seqs, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        int devices = sched_servers(s, seqs[i].model);
        sum += seqs[i].left_ms / (devices > 1 ? devices : 1);
    }
    return sum;
}

/* A walk for each device. It keeps the sequences that share a forward in `in`; everyone in it steps
 * together until the shortest is done, then the next in line takes the free place. Nobody
 * overtakes: what is known now is the order of now. */
struct walk {
    int device, in[SCHED_MAX_BATCH], left[SCHED_MAX_BATCH];
    int count, next; /* next = first index that was not looked at yet */
    struct sched_load load;
    double now;
    bool full; /* for this round */
};
struct walks {
    const struct sched *s;
    const struct sched_seq *seqs;
    int n;
    double *start_ms, *finish_ms; /* start < 0: nobody has taken it yet */
    struct walk of[SCHED_DEVICES];
};

static const struct sched_costs *walk_costs(const struct walks *w, const struct walk *k, int i) {
    return &w->s->devices[k->device].costs[w->seqs[i].model];
}

static bool joins(const struct walks *w, const struct walk *k, int i) {
    const struct sched_seq *q = &w->seqs[i], *leader = &w->seqs[k->in[0]];
    const struct sched_costs *c = walk_costs(w, k, i);
    int64_t limit = w->s->limits.batch_tokens > 0 ? w->s->limits.batch_tokens : c->saturation;
    struct sched_load joint = k->load;
    if (k->count == 0) return true;
    if (q->model != leader->model || q->alone || leader->alone || joint.tokens + q->tokens > limit)
        return false;
    sched_load_add(&joint, c, q->tokens);
    return sched_load_ms(c, &joint) < sched_load_ms(c, &k->load) + sched_solo_ms(c, q->tokens);
}

/* Will it be the device's? While nobody serves the model, whoever comes back first. */
static bool awaits(const struct walks *w, const struct walk *k, const struct sched_seq *q) {
    if (q->device >= 0) return q->device == k->device;
    return (w->s->devices[k->device].serves >> q->model & 1) || sched_servers(w->s, q->model) == 0;
}

/* One more joins the walk's step, if there is one that fits. */
static void take_one(struct walks *w, struct walk *k) {
    k->full = true;
    if (k->count == w->s->limits.batch_images || k->count == SCHED_MAX_BATCH) return;
    for (; k->next < w->n; k->next++) {
        const struct sched_seq *q = &w->seqs[k->next];
        if (q->stage == SCHED_FINISHED || w->start_ms[k->next] >= 0 || !awaits(w, k, q)) continue;
        if (!joins(w, k, k->next)) return;
        const struct sched_costs *c = walk_costs(w, k, k->next);
        w->start_ms[k->next] = k->now;
        if (q->stage == SCHED_WAITING) k->now += c->open_ms;
        k->in[k->count] = k->next;
        k->left[k->count++] = q->steps_left;
        sched_load_add(&k->load, c, q->tokens);
        k->next++;
        k->full = false;
        return;
    }
}

/* Steps until the first of them is done; those who are leave. */
static void walk_on(struct walks *w, struct walk *k) {
    const struct sched_costs *c = walk_costs(w, k, k->in[0]);
    int least = k->left[0], kept = 0;
    for (int i = 1; i < k->count; i++)
        if (k->left[i] < least) least = k->left[i];
    k->now += least * sched_load_ms(c, &k->load);
    k->load = (struct sched_load){0};
    for (int i = 0; i < k->count; i++) {
        const struct sched_seq *q = &w->seqs[k->in[i]];
        if (k->left[i] > least) {
            sched_load_add(&k->load, c, q->tokens);
            k->in[kept] = k->in[i];
            k->left[kept++] = k->left[i] - least;
            continue;
        }
        k->now += q->pixels * c->ms_per_pixel;
        w->finish_ms[k->in[i]] = k->now + q->pixels * c->encode_ms_per_pixel;
    }
    k->count = kept;
}

/* The walk that is next to act: the earliest of those that may take one, or of those that step. */
static struct walk *earliest(struct walks *w, bool takes) {
    struct walk *found = NULL;
    for (int d = 0; d < w->s->n_devices; d++) {
        struct walk *k = &w->of[d];
        if (takes ? k->full : k->count == 0) continue;
        if (!found || k->now < found->now) found = k;
    }
    return found;
}

static void decode_finished(struct walks *w) {
    for (int i = 0; i < w->n; i++) {
        w->start_ms[i] = -1;
        if (w->seqs[i].stage != SCHED_FINISHED) continue;
        struct walk *k = &w->of[w->seqs[i].device > 0 ? w->seqs[i].device : 0];
        const struct sched_costs *c = walk_costs(w, k, i);
        w->start_ms[i] = 0;
        k->now += w->seqs[i].pixels * c->ms_per_pixel;
        w->finish_ms[i] = k->now + w->seqs[i].pixels * c->encode_ms_per_pixel;
    }
}

void sched_eta(const struct sched *s, double *start_ms, double *finish_ms,
               const struct sched_seq *seqs, int n) {
    struct walks w = {s, seqs, n, start_ms, finish_ms, {{0}}};
    struct walk *k;
    for (int d = 0; d < s->n_devices; d++) w.of[d].device = d;
    decode_finished(&w);
    do {
        while ((k = earliest(&w, true))) take_one(&w, k);
        k = earliest(&w, false);
        if (k) walk_on(&w, k);
        for (int d = 0; d < s->n_devices; d++) w.of[d].full = k != &w.of[d];
    } while (k);
}
