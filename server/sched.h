/* sched.h - who runs next, as functions over plain data.
 *
 * Knows no clock, no threads, no processes and no HTTP: the loop describes what it has, sched says
 * what to do, and tests drive it with invented time. A sequence between two steps is only data, so
 * every step boundary may decide anew:
 *
 *   order    the sequence that has waited too long (for a small share of the time), then higher
 *            priority, keys with credit, those that can still meet their deadline, earlier deadline
 *   fill     others join the first one in that order while the joint step is cheaper than separate
 *            ones and breaks no deadline that would hold without them
 *
 * Nobody waits for companions, and one that can no longer meet its deadline stands behind those
 * that can, but not for ever. The other policy, first come first served, fills in the order of
 * arrival and nobody overtakes; it is there to be compared with. */
#ifndef TACA_SERVER_SCHED_H
#define TACA_SERVER_SCHED_H

#include "server/sched_cost.h"
#include "server/sched_fair.h"

enum sched_policy { SCHED_EDF, SCHED_FCFS };

enum sched_stage {
    SCHED_WAITING, /* nothing is held for it yet */
    SCHED_OPEN,    /* encoded and drawn, steps to do */
    SCHED_FINISHED /* all steps done, pixels not made yet */
};

/* One image in the making. An array of these is the whole input. */
struct sched_seq {
    int id; /* the caller's */
    enum sched_stage stage;
    int tokens;     /* it adds to a forward; an estimate while it waits */
    int steps_left; /* 0 when finished */
    double pixels;  /* for the cost of decoding */
    bool preview_due;
    bool alone;                     /* steps only by itself: it was there when workers died */
    double arrival_ms, deadline_ms; /* on the caller's clock */
    int priority;                   /* -10..10, more is sooner */
    uint64_t key;                   /* who asks: shares are fair between keys */

    /* sched_order's */
    double solo_ms, left_ms; /* a step by itself; all that is still to do */
    int level, flow;         /* priority after ageing; place of its key */
    bool feasible, aged, credit;
};

struct sched_limits {
    int batch_images;  /* sequences in one forward, >= 1 */
    int batch_tokens;  /* 0 = what was measured; one sequence always fits */
    int open_images;   /* sequences held at once, finished ones included */
    int queue;         /* jobs that may wait */
    double backlog_ms; /* device time that may wait, 0 = no limit */
    double level_ms; /* waiting raises the priority by one each time, up to the highest there is */
    double patience_ms; /* who is not done by then is served first for 1/aged_share of the time */
    int aged_share;
};
/* open_images from batch_images; 256 jobs, 120 s, a level each 3 s, patience 60 s, one eighth. */
void sched_limits_init(struct sched_limits *l, int batch_images);

struct sched_turn { /* since the last step */
    int decodes;
    double open_ms;
};
struct sched {
    enum sched_policy policy;
    struct sched_limits limits;
    struct sched_costs costs;
    struct sched_fair fair; /* quantum_ms is the caller's choice */
    struct sched_turn turn;
    double aged_credit_ms;
    bool aged_led; /* the step under way */
    double now_ms; /* of the last sched_order */
};
void sched_init(struct sched *s, enum sched_policy policy, const struct sched_limits *limits);
void sched_finish(struct sched *s);

/* Sorts seqs into the order of service; every other call takes them as this leaves them. */
void sched_order(struct sched *s, struct sched_seq *seqs, int n, double now_ms);

/* Which sequences share the next forward: indices into `seqs`, ascending, at most batch_images;
 * waiting ones among them must be opened first. Returns how many. */
int sched_pick(const struct sched *s, int *picked, const struct sched_seq *seqs, int n);

/* What the worker does next. Between two steps at most one sequence is decoded and openings take
 * no longer than about a step, so that nobody who steps is held up by those who come and go. */
enum sched_act {
    SCHED_DO_NOTHING,
    SCHED_DO_OPEN,
    SCHED_DO_EVICT, /* give up its steps, to be made again: one in time needs its place */
    SCHED_DO_STEP,
    SCHED_DO_PREVIEW,
    SCHED_DO_DECODE
};
/* On SCHED_DO_STEP picked[0..*n_picked) are the sequences to step, else picked[0] is the one.
 *   can_decode  there is room for the pixels */
enum sched_act sched_next(struct sched *s, int *picked, int *n_picked, const struct sched_seq *seqs,
                          int n, bool can_decode);

/* A step took so long: costs, shares and the turn. tokens[i] and keys[i] are of who was in it. */
void sched_stepped(struct sched *s, const int *tokens, const uint64_t *keys, int rows, double ms);

/* ---- sched_eta.c */

/* When each sequence will start and be an answer, in ms from now, by walking through the line.
 * start_ms and finish_ms have n entries. */
void sched_eta(const struct sched *s, double *start_ms, double *finish_ms,
               const struct sched_seq *seqs, int n);
/* Device time of everything that is still to do. */
double sched_backlog_ms(const struct sched_seq *seqs, int n);
/* What an image of a new request takes with the device to itself, from arrival to answer. */
double sched_isolated_ms(const struct sched_costs *c, int tokens, int steps, double pixels);

/* May one more job wait?
 *   queued      jobs that neither run nor would run in the next step
 *   backlog_ms  of all that are there, own_ms: of the new one
 *   random      any number: spreads the return of those who are sent away
 * True, or false with *retry_after_s in 1..60. */
bool sched_admit(const struct sched_limits *l, int queued, double backlog_ms, double own_ms,
                 uint32_t random, int *retry_after_s);

#endif
