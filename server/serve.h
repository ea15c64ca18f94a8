/* serve.h - the service as one call, and its worker process. */
#ifndef TACA_SERVER_SERVE_H
#define TACA_SERVER_SERVE_H

#include "engine/engine.h"
#include "server/front.h"
#include "server/sched.h"
#include "server/worker_loras.h"

struct serve_opts;
/* How a running service reads its options again (SIGHUP). Loop thread; read may be NULL. */
struct serve_reload {
    void *ctx;
    /* *out: all options, as a start would have them now; theirs until the next call. */
    enum taca_code (*read)(void *ctx, const struct serve_opts **out, struct taca_err *err);
    void (*taken)(void *ctx); /* those that may change are in force */
};

struct serve_list {
    const char *const *list;
    int n;
};

struct serve_opts {
    struct front_opts front;
    struct serve_list models;       /* "PATH" or "NAME=PATH"; none = one, of the engine's parts */
    struct serve_list devices;      /* as the engine calls them; none = "cpu" */
    struct taca_engine_opts engine; /* what they have in common; model_path is not read */
    struct serve_loras loras;       /* "ID=FILE" of the first model, or "MODEL:ID=FILE" */
    const char *self;               /* path of this executable, for the worker process */
    int max_queue;                  /* jobs waiting */
    int max_batch_images;           /* sequences in one step */
    int max_batch_tokens;           /* tokens of one forward; 0 = no limit */
    enum sched_policy policy;
    double deadline_factor; /* times the time alone: what a request without deadline_ms is given */
    double fair_quantum_s;  /* device time one user may be ahead of others who wait; 0 = any */
    double patience_s;      /* who waits longer is served first for an eighth of the time */
    double max_backlog_s;   /* device time that may wait, 0 = no limit */
    bool calibrate;         /* a quarter of a second of measuring at the start */
    int encode_threads;
    int start_timeout_ms; /* a job not started by then fails with 504 */
    int drain_grace_ms, drain_timeout_ms;
    bool log_prompts;
    int job_ttl_ms;          /* a finished job can be asked for so long, */
    size_t max_stored_bytes; /* and only while results take no more than this */
    size_t max_input_bytes;  /* pixels that unfinished jobs start from; more get 429 */
    const char *job_store;   /* "memory" or "sqlite:FILE"; NULL = memory */
    int max_retries;         /* of a job that was running when the worker or the service died */
    const char *port_file;   /* gets the port's number as text once we listen; NULL = none */
    /* a worker that is silent for so long, and for 20 times what its work usually takes, is killed;
     * ten times as long for work that was never measured */
    int step_timeout_ms;
    const char *memory_probe; /* as in pressure.h */
    struct serve_reload reload;
    bool insecure; /* sockets that others can reach are fine without keys */
};

/* Runs until SIGTERM/SIGINT; the exit code of the process (0 clean, 1 failed, 78 configuration). */
int taca_serve(const struct serve_opts *opts);
/* Whether it would start, as far as can be said without a socket or the model. */
enum taca_code taca_serve_check(const struct serve_opts *opts, struct taca_err *err);
/* The child: engine behind a socketpair on descriptor 3, pixels into the shared memory on 4. */
struct worker_opts {
    struct taca_engine_opts engine;
    struct serve_loras loras;
    bool check_memory; /* do not load what does not fit into what is free */
};
int taca_worker(const struct worker_opts *opts);

#endif
