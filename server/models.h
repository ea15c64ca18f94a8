/* models.h - the models that this service has, and how each stands.
 *
 * The loop writes, any thread reads. A place is never given up: a model that was unloaded keeps its
 * own and may come back to it, with the same number. What was told about a model stays readable to
 * the end of the service, because requests in flight point to it. */
#ifndef TACA_SERVER_MODELS_H
#define TACA_SERVER_MODELS_H

#include <stdatomic.h>

#include "api/reply.h"
#include "api/request.h"
#include "engine/params.h"

enum { MODELS_MAX = API_MAX_MODELS };

enum model_state {
    MODEL_LOADING,
    MODEL_READY,
    MODEL_UNLOADING, /* makes what was accepted, takes nothing new */
    MODEL_UNLOADED,
    MODEL_FAILED /* could not be loaded; `error` says why */
};

struct model {
    char id[64]; /* "" = what its checkpoint is called: info->id */
    atomic_int state;
    atomic_int workers; /* that could take its work now */
    atomic_bool broken; /* none, and those that were died again and again */
    atomic_llong loaded_s;
    _Atomic(const struct taca_model_info *) info; /* the last that was loaded; NULL = none was */
    _Atomic(const char *) error;                  /* of the last load that failed, or NULL */
};

struct models {
    atomic_int n;
    struct model at[MODELS_MAX]; /* the first is meant by requests that name none */
    struct models_kept *kept;    /* what is freed at the end */
};

void models_init(struct models *ms);
void models_finish(struct models *ms);

/* Loop thread. A new place, MODEL_LOADING; -1 when all are taken. id "" = its checkpoint's own. */
int models_add(struct models *ms, const char *id);
/* The model is there. False when out of memory: it is then as before. */
bool models_loaded(struct models *ms, int k, const struct taca_model_info *info, int64_t now_s);
void models_failed(struct models *ms, int k, const char *why);

/* Any thread. */
int models_find(const struct models *ms, const char *id); /* -1 = there is none */
enum model_state models_state(const struct models *ms, int k);
const char *models_id(const struct models *ms, int k); /* "" while only its checkpoint knows */
const char *models_state_name(enum model_state s);
const struct taca_model_info *models_info(const struct models *ms, int k); /* NULL: never loaded */
/* The one that is meant by who names none, or else the first that is ready; NULL when none is. */
const struct taca_model_info *models_usual(const struct models *ms);
/* What requests may ask for now. */
void models_offer(const struct models *ms, struct api_offer *out);
/* Why one failed may name files: that is for operators. */
void models_json(const struct models *ms, bool operators, struct taca_buf *out);

#endif
