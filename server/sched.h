/* sched.h - who runs next, as functions over plain data.
 *
 * Knows no clock, no threads, no processes and no HTTP: the loop describes what it has, sched says
 * what to do, and tests drive it with invented time. The policy is first come, first served: a step
 * is filled in the order of arrival up to its limits, nobody overtakes, and a sequence that runs
 * keeps its place because it came earlier. Another policy changes the order of the array and
 * nothing else. */
#ifndef TACA_SERVER_SCHED_H
#define TACA_SERVER_SCHED_H

#include <stdbool.h>
#include <stdint.h>

enum sched_stage {
    SCHED_WAITING, /* nothing is held for it yet */
    SCHED_OPEN,    /* encoded and drawn, steps to do */
    SCHED_FINISHED /* all steps done, pixels not made yet */
};

/* One image in the making. An array of these, in the order of service, is the whole input. */
struct sched_seq {
    enum sched_stage stage;
    int tokens;     /* it adds to a forward; an estimate while it waits */
    int steps_left; /* 0 when finished */
    double pixels;  /* for the cost of decoding */
    bool preview_due;
    bool alone; /* steps only by itself: it was there when workers died */
};

struct sched_limits {
    int batch_images; /* sequences in one forward, >= 1 */
    int batch_tokens; /* 0 = no limit; one sequence always fits */
    int open_images;  /* sequences held at once, finished ones included */
    int queue;        /* jobs that may wait */
};

/* Which sequences share the next forward: indices into `seqs`, ascending, at most batch_images;
 * waiting ones among them must be opened first. Returns how many. */
int sched_pick(int *picked, const struct sched_seq *seqs, int n, const struct sched_limits *l);

/* What the worker does next. Between two steps at most one sequence is decoded and openings take
 * no longer than about a step, so that nobody who steps is held up by those who come and go. */
enum sched_act {
    SCHED_DO_NOTHING,
    SCHED_DO_OPEN,
    SCHED_DO_STEP,
    SCHED_DO_PREVIEW,
    SCHED_DO_DECODE
};
struct sched_turn { /* since the last step */
    int decodes;
    double open_ms;
};
/* On SCHED_DO_STEP picked[0..*n_picked) are the sequences to step, else picked[0] is the one.
 *   can_decode  there is room for the pixels */
enum sched_act sched_next(int *picked, int *n_picked, const struct sched_seq *seqs, int n,
                          const struct sched_limits *l, const struct sched_turn *turn,
                          double step_ms, bool can_decode);

/* What things cost, learnt from what they took. Start from sched_costs_init. */
struct sched_costs {
    double ms_per_token; /* of a step */
    double step_ms;      /* the last steps, whatever was in them */
    double open_ms;
    double ms_per_pixel;            /* of decoding */
    bool measured, opened, decoded; /* false: still a guess */
};
void sched_costs_init(struct sched_costs *c);
void sched_saw_step(struct sched_costs *c, int tokens, double ms);
void sched_saw_open(struct sched_costs *c, double ms);
void sched_saw_decode(struct sched_costs *c, double pixels, double ms);

/* When each sequence will start and be decoded, in ms from now, by walking through the policy.
 * start_ms and finish_ms have n entries. */
void sched_eta(double *start_ms, double *finish_ms, const struct sched_seq *seqs, int n,
               const struct sched_limits *l, const struct sched_costs *c);
/* Device time of everything that is still to do. */
double sched_backlog_ms(const struct sched_seq *seqs, int n, const struct sched_costs *c);

/* May one more job wait?
 *   queued       jobs that neither run nor would run in the next step
 *   random       any number: spreads the return of those who are sent away
 * True, or false with *retry_after_s in 1..60. */
bool sched_admit(int queued, const struct sched_limits *l, double backlog_ms, uint32_t random,
                 int *retry_after_s);

#endif
