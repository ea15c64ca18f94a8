/* fleet.h - the workers of the service: one process for each device and model.
 *
 * A process of its own for each model keeps a bad file away from the others, loads while they work,
 * and gives all its memory back when it ends. Those of one device take turns; that, and what they
 * do, is for the caller to decide. Devices that are CPUs share the machine's threads equally.
 * Everything on the loop thread. */
#ifndef TACA_SERVER_FLEET_H
#define TACA_SERVER_FLEET_H

#include "server/models.h"
#include "server/pool.h"
#include "server/status.h"

struct fleet;

struct fleet_opts {
    struct uv_loop_s *loop;
    const char *self;                      /* executable */
    const struct taca_engine_opts *engine; /* what all models have in common; threads: of all */
    int n_devices;                         /* 1..STATUS_DEVICES */
    const char *const *devices;            /* as the engine calls them */
    int load_timeout_ms;                   /* from spawn to HELLO */
    size_t max_pixels;                     /* of the largest picture */
    struct service_status *status;
};
struct fleet_hooks {
    void *ctx;
    void (*ready)(void *ctx, int device, int model, const struct wire_hello *hello);
    void (*answer)(void *ctx, int device, int model, const struct wire_msg *m);
    void (*lost)(void *ctx, int device, int model, const char *reason);
    /* No worker of the model can open it, and none could since it was sent out. */
    void (*refused)(void *ctx, int model, const struct taca_err *err);
    /* The last worker of the model is gone, as fleet_recall wanted. */
    void (*recalled)(void *ctx, int model);
};

/* Where a model comes from; copied. */
struct fleet_source {
    struct taca_engine_opts engine; /* its files; what else is common to all is not read */
    struct serve_loras loras;       /* strings are the caller's to keep, here and in `engine` */
    bool check_memory;              /* refused when it would not fit into what is free now */
};

enum taca_code fleet_open(struct fleet **out, const struct fleet_opts *opts,
                          const struct fleet_hooks *hooks, struct taca_err *err) TACA_MUST_USE;
/* A worker for the model on each device. None must be there. */
enum taca_code fleet_send_out(struct fleet *f, int model, const struct fleet_source *source,
                              struct taca_err *err) TACA_MUST_USE;
/* Ends the workers of the model; `recalled` follows, maybe at once. Nobody may have their slots. */
void fleet_recall(struct fleet *f, int model);
/* Nobody has slots of the model's workers. */
bool fleet_idle(const struct fleet *f, int model);

int fleet_devices(const struct fleet *f);
struct pool *fleet_worker(const struct fleet *f, int device, int model); /* NULL = none */
/* It is there, and trusted. */
bool fleet_serves(const struct fleet *f, int device, int model);
/* All shall log from the level on at which this process does. */
void fleet_tell_log_level(struct fleet *f);
/* Writes down for everybody how the workers stand. */
void fleet_publish(struct fleet *f);

/* Asks all to leave, kills them after `patience_ms`, frees the fleet and calls done. No hook is
 * called any more. */
void fleet_close(struct fleet *f, int patience_ms, void (*done)(void *ctx), void *ctx);

#endif
