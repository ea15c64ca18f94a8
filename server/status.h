/* status.h - how the service stands: the loop writes, any thread reads. */
#ifndef TACA_SERVER_STATUS_H
#define TACA_SERVER_STATUS_H

#include <stdatomic.h>

#include "server/models.h"

enum service_state { SERVICE_LOADING, SERVICE_READY, SERVICE_DRAINING, SERVICE_FAILED };

enum worker_state {
    WORKER_NONE,    /* the device is not meant to have the model */
    WORKER_LOADING, /* for the first time, or again after it was lost */
    WORKER_READY,
    WORKER_BROKEN /* died again and again; tried anew after growing pauses */
};

enum { STATUS_DEVICES = 8 };
struct service_device {
    char name[32];
    atomic_int workers[MODELS_MAX]; /* enum worker_state */
};

struct service_status {
    atomic_int state;            /* enum service_state */
    atomic_int workers;          /* that are ready; /readyz is 503 without one */
    atomic_int waiting, running; /* jobs */
    atomic_int pressure;         /* enum pressure_level */
    atomic_int retry_s;          /* when a broken worker is tried again */
    atomic_llong last_beat_us;   /* the loop's heartbeat, for /livez */
    struct models models;
    int n_devices; /* set before anybody reads */
    struct service_device devices[STATUS_DEVICES];
};

#endif
