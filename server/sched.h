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
 * arrival and nobody overtakes; it is there to be compared with.
 *
 * Several devices serve one line: whichever is free takes the first in it that it can serve, unless
 * another would have it done earlier all the same. A sequence stays with the device that opened it.
 * A device may hold several models; those who share a step are of one. */
#ifndef TACA_SERVER_SCHED_H
#define TACA_SERVER_SCHED_H

#include "base/err.h"
#include "server/sched_cost.h"
#include "server/sched_fair.h"

/* By deadlines; as they came, joined while that pays; as they came, and every step as full as the
 * limits let it be, whatever it costs (a baseline, and the same choice on every machine). */
enum sched_policy { SCHED_EDF, SCHED_FCFS, SCHED_FILL };

enum sched_stage {
    SCHED_WAITING, /* nothing is held for it yet */
    SCHED_OPEN,    /* encoded and drawn, steps to do */
    SCHED_FINISHED /* all steps done, pixels not made yet */
};

enum { SCHED_DEVICES = 8, SCHED_MODELS = 8, SCHED_MAX_BATCH = 64 };

/* One image in the making. An array of these is the whole input. */
struct sched_seq {
    int id; /* the caller's */
    enum sched_stage stage;
    int model;
    int device;     /* that holds it or is opening it; -1 = nobody does */
    int tokens;     /* it adds to a forward; an estimate while it waits */
    int steps_left; /* 0 when finished */
    double pixels;  /* for the cost of decoding */
    bool preview_due;
    bool alone;            /* steps only by itself: it was there when workers died */
    bool stepping, beside; /* on a device that overlaps: it is in a step that is out; it is opened
                              or decoded now */
    double arrival_ms, deadline_ms; /* on the caller's clock */
    int priority;                   /* -10..10, more is sooner */
    uint64_t key;                   /* who asks: shares are fair between keys */

    /* sched_order's */
    int on;                  /* its device, or the one that would be quickest */
    double solo_ms, left_ms; /* there: a step by itself; all that is still to do */
    int level, flow;         /* priority after ageing; place of its key */
    bool feasible, aged, credit;
};

struct sched_limits {
    int batch_images;  /* sequences in one forward, >= 1 */
    int batch_tokens;  /* 0 = what was measured; one sequence always fits */
    int open_images;   /* sequences that a device holds at once, finished ones included */
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
struct sched_device {
    uint32_t serves; /* bit m: model m, now; the caller's */
    struct sched_costs costs[SCHED_MODELS];
    struct sched_turn turn;
    double aged_credit_ms;
    bool aged_led; /* the step under way */
    /* 0 = as the limits say; less after memory ran out, until some time went well */
    int most_images, most_open;
    int went_well;  /* steps since */
    double held_ms; /* sched_order's: what those that it holds still take */
};
/* What was asked for lately: a class for each half octave of an answer's time, whether it was taken
 * or not. */
enum { SCHED_CLASSES = 48 };
struct sched_demand {
    double share[SCHED_CLASSES]; /* of all device time */
    double at_ms;
    double refused_ms; /* somebody was sent away */
    bool refused;
};
struct sched {
    enum sched_policy policy;
    struct sched_limits limits;
    struct sched_fair fair; /* quantum_ms is the caller's choice */
    int n_devices;
    struct sched_device *devices;
    double now_ms; /* of the last sched_order */
    struct sched_demand demand;
};
/* n_devices 1..SCHED_DEVICES; they serve model 0. False when out of memory. */
bool sched_init(struct sched *s, enum sched_policy policy, const struct sched_limits *limits,
                int n_devices) TACA_MUST_USE;
void sched_finish(struct sched *s);

/* Sorts seqs into the order of service; every other call takes them as this leaves them. */
void sched_order(struct sched *s, struct sched_seq *seqs, int n, double now_ms);

/* Fills in what sched_order would for one that is not in the line yet; `top` is the highest
 * priority there. < 0: x is served before y. */
void sched_judge(const struct sched *s, struct sched_seq *q, int top);
int sched_rank(const void *x, const void *y);

/* Which sequences share the device's next forward: indices into `seqs`, ascending, at most
 * batch_images; waiting ones among them must be opened first. Returns how many. */
int sched_pick(const struct sched *s, int device, int *picked, const struct sched_seq *seqs, int n);

/* What the device does next. Between two steps at most one sequence is decoded and openings take
 * no longer than about a step, so that nobody who steps is held up by those who come and go. */
enum sched_act {
    SCHED_DO_NOTHING,
    SCHED_DO_OPEN,
    SCHED_DO_EVICT, /* give up its steps, to be made again: one in time needs its place */
    SCHED_DO_STEP,
    SCHED_DO_PREVIEW,
    SCHED_DO_DECODE
};
struct sched_plan {
    enum sched_act act;
    int n; /* on STEP picked[0..n) are the sequences to step, else picked[0] is the one */
    int picked[SCHED_MAX_BATCH];
};
/*   can_decode  bit m: there is room for pixels of model m */
struct sched_plan sched_next(struct sched *s, int device, const struct sched_seq *seqs, int n,
                             uint32_t can_decode);

/* The same for a device that opens and decodes beside its steps: what it steps next, and what it
 * does beside, each asked when it has no command of that kind.
 *   bound  model of the command that is out, with which the other must share the device; -1 = none
 */
struct sched_plan sched_next_step(struct sched *s, int device, const struct sched_seq *seqs, int n,
                                  uint32_t can_decode, int bound);
struct sched_plan sched_next_beside(struct sched *s, int device, const struct sched_seq *seqs,
                                    int n, uint32_t can_decode, int bound);

/* A step of the device took so long: costs, shares. */
struct sched_step {
    int model, rows;
    const int *tokens;    /* of each row, */
    const uint64_t *keys; /* and who asked for it */
    double ms;
    bool beside; /* something was opened or decoded meanwhile: it took at most so long */
};
void sched_stepped(struct sched *s, int device, const struct sched_step *step);
/* The device had no memory for a step of so many rows, or for one more beside `held` sequences. */
void sched_step_too_large(struct sched *s, int device, int rows);
void sched_no_room(struct sched *s, int device, int held);

/* ---- sched_eta.c */

/* When each sequence will start and be an answer, in ms from now, by walking through the line with
 * all devices. start_ms and finish_ms have n entries. */
void sched_eta(const struct sched *s, double *start_ms, double *finish_ms,
               const struct sched_seq *seqs, int n);
int sched_servers(const struct sched *s, int model); /* devices that serve it now */
/* How long the device time of everything that is still to do will take, shared among the devices
 * that serve now. */
double sched_wait_ms(const struct sched *s, const struct sched_seq *seqs, int n);
/* What an image of a new request takes with a device to itself, from arrival to answer. */
double sched_isolated_ms(const struct sched_costs *c, int tokens, int steps, double pixels);

/* ---- sched_admit.c
 *
 * While there is room anybody may wait, however long that takes. When three quarters of the places
 * (or of the backlog) are taken, and for a while after somebody was sent away, only those are taken
 * who will be in time, counting on what is in front of them and on what will still come and be due
 * before them: a promise that is kept is worth more than a place in a line. So the last quarter is
 * for who can use it, and who cannot knows it at once. */

struct sched_newcomer {
    struct sched_seq seq; /* its last image, as it would stand in the line */
    int images;
    double due_ms; /* the client's own deadline; HUGE_VAL = it has none */
    int queued;    /* jobs that neither run nor would run in the next step; -1: nor would it wait */
    uint32_t random; /* any number: spreads the return of those who are sent away */
};
enum sched_verdict {
    SCHED_TAKE,
    SCHED_FULL,
    SCHED_CROWDED, /* there are places, but it would be late in any */
    SCHED_LATE     /* its own deadline cannot be met */
};
struct sched_answer {
    enum sched_verdict verdict;
    int retry_after_s; /* 1..60, but for TAKE */
    double finish_ms;  /* from now, when nobody comes in between */
    int position;      /* among those who wait, from 1; images, not jobs */
};
/* Counts the newcomer as demand, whatever the answer. */
struct sched_answer sched_admit(struct sched *s, const struct sched_newcomer *c,
                                const struct sched_seq *seqs, int n);

#endif
