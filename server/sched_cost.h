/* sched_cost.h - what steps, openings and pixels take on this device: measured once at the start,
 * corrected by everything that is seen afterwards.
 *
 * A step by itself is a curve over tokens. A joint step is that of its parts with the shared time
 * (launches, reading weights) paid once, times a factor that is learnt for its bucket of tokens and
 * rows. Everything that has to do with time asks this one table: who may join a step, deadlines,
 * estimates, admission. Pure: it is told durations and has no clock. */
#ifndef TACA_SERVER_SCHED_COST_H
#define TACA_SERVER_SCHED_COST_H

#include <stdbool.h>
#include <stdint.h>

enum { COST_SIZES = 64, COST_ROWS = 6 };

struct sched_costs {
    struct cost_size { /* a quarter of an octave of tokens, from 32 on */
        double tokens, ms;
        int seen; /* 0 = never */
    } solo[COST_SIZES];
    uint64_t sizes; /* bit i: solo[i] was seen */
    struct cost_joint {
        double factor;
        int seen;
    } joint[COST_SIZES][COST_ROWS];
    double shared_ms;    /* of every step, whatever is in it */
    bool shared_known;   /* false: a guess */
    int relaxed;         /* the bucket that forgets a little next */
    int64_t saturation;  /* tokens from which on sharing a step gains nothing */
    double step_ms;      /* the last steps, whatever was in them */
    double open_ms;      /* text, noise */
    double ms_per_pixel; /* of decoding */
    double encode_ms_per_pixel;
    bool measured, opened, decoded, encoded; /* false: still a guess */
};

/* Those who share a step. Zeroed = nobody. */
struct sched_load {
    int rows;
    int64_t tokens;
    double own_ms; /* without the shared time */
};

void sched_costs_init(struct sched_costs *c);
/* A step of one sequence. */
double sched_solo_ms(const struct sched_costs *c, int tokens);
void sched_load_add(struct sched_load *load, const struct sched_costs *c, int tokens);
/* The same for who knows sched_solo_ms of it. */
void sched_load_add_ms(struct sched_load *load, const struct sched_costs *c, int tokens,
                       double solo_ms);
double sched_load_ms(const struct sched_costs *c, const struct sched_load *load);
/* From the last step to the answer. */
double sched_tail_ms(const struct sched_costs *c, double pixels);

/* What was seen. Senseless figures are not learnt. */
void sched_saw_step(struct sched_costs *c, const int *tokens, int rows, double ms);
void sched_saw_open(struct sched_costs *c, double ms);
void sched_saw_decode(struct sched_costs *c, double pixels, double ms);
void sched_saw_encode(struct sched_costs *c, double pixels, double ms);

#endif
