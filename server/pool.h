/* pool.h - the service's side of one worker: a child process that holds one model on one device.
 *
 * Properties: one child at a time, spawned again with growing pauses (0.1, 1, 2, 4 .. 60 s) when it
 * dies; one socket pair, and a sealed memory file for finished pixels that outlives the children.
 * One that died three times with nothing useful in between is doubted: it gets a trial, and work
 * again when it has passed (pool_praise).
 * Operation: commands are sent in order and every one but CLOSE and LOG has one answer; those of
 * OPEN and DECODE may come later than that of a STEP behind them (pool_overlaps). Each answer that
 * is due has a watchdog: a child that takes too long with one is killed. Everything happens on the
 * loop thread. It decides nothing about jobs: hooks report what the child said or that it is gone,
 * and with it all sequences. */
#ifndef TACA_SERVER_POOL_H
#define TACA_SERVER_POOL_H

#include "base/err.h"
#include "engine/engine.h"
#include "server/wire.h"
#include "server/worker_loras.h"

struct uv_loop_s;
struct pool;

/* The shared memory: slots for finished pictures, and behind them room for what one starts from,
 * its pixels and its mask. Counted in bytes for each pixel of the largest picture. */
enum { POOL_SLOTS = 8, POOL_SLOT_BPP = 3, POOL_INPUT_BPP = 4 };
enum { POOL_BPP = POOL_SLOTS * POOL_SLOT_BPP + POOL_INPUT_BPP };

struct pool_opts {
    struct uv_loop_s *loop;
    const char *self; /* executable */
    const struct taca_engine_opts *engine;
    struct serve_loras loras;
    bool check_memory;   /* the child shall not load what does not fit into what is free */
    int load_timeout_ms; /* from spawn to HELLO */
    size_t max_pixels;   /* of the largest picture */
};

struct pool_hooks {
    void *ctx;
    void (*ready)(void *ctx, const struct wire_hello *hello);
    void (*answer)(void *ctx, const struct wire_msg *m);    /* OPENED STEPPED PREVIEWED DECODED */
    void (*memory)(void *ctx, const struct wire_memory *m); /* ahead of what it says next */
    /* The child is gone: "signal", "exit", "hang", "protocol" or what it was condemned for. A new
     * one is on its way. */
    void (*lost)(void *ctx, const char *reason);
    /* The child says that this model cannot be opened. A new try is on its way. */
    void (*refused)(void *ctx, const struct taca_err *err);
};

enum taca_code pool_open(struct pool **out, const struct pool_opts *opts,
                         const struct pool_hooks *hooks, struct taca_err *err) TACA_MUST_USE;
bool pool_ready(const struct pool *p);
bool pool_doubted(const struct pool *p);
bool pool_overlaps(const struct pool *p); /* this child does OPEN and DECODE beside STEP */
int pool_pause_ms(const struct pool *p);  /* until the next try, about; 0 = a child is there */
/* False when no worker is ready (or the pipe just broke: `lost` follows).
 *   patience_ms  a worker that has not answered by then is killed; of no meaning for CLOSE */
bool pool_send(struct pool *p, const struct wire_msg *m, int patience_ms);
/* The child shall log from the level on at which this process does; later ones do so from their
 * start. */
void pool_tell_log_level(struct pool *p);
/* What the next OPEN starts from. The worker reads it while it works on that command, so only with
 * no other OPEN at work. mask may be NULL. False when it does not fit or cannot be written. */
bool pool_put_input(struct pool *p, const uint8_t *rgb, const uint8_t *mask, size_t pixels);
/* Places for finished pixels; a slot is whoever's took it, until it is given back. -1 = none. */
int pool_take_slot(struct pool *p);
void pool_give_slot(struct pool *p, int slot);
bool pool_has_slot(const struct pool *p);
bool pool_slots_idle(const struct pool *p); /* nobody has one */
const uint8_t *pool_slot(const struct pool *p, int slot);
/* The worker has said something senseless, or that its device is broken: kills it; `lost` follows
 * with this reason, a constant. */
void pool_condemn(struct pool *p, const char *reason);
/* A worker that did something useful: the next restart is quick again. */
void pool_praise(struct pool *p);
/* Asks the child to leave, kills it after `patience_ms`, closes everything, frees the pool and
 * calls done on the loop. No hook is called any more. */
void pool_close(struct pool *p, int patience_ms, void (*done)(void *ctx), void *ctx);

#endif
