/* sampler.h - how a latent moves along the velocity that the model gave it. A step of most samplers
 * takes one evaluation of the model, one of Heun's two; between evaluations a walk is only data. */
#ifndef TACA_ENGINE_SAMPLE_SAMPLER_H
#define TACA_ENGINE_SAMPLE_SAMPLER_H

#include "engine/sample/noise.h"
#include "engine/sample/schedule.h"
#include "kernels/backend.h"

struct sampler {
    enum taca_sampler kind;
    int first, step; /* of the schedule: where the walk began, which step is next or under way */
    bool second;     /* the first evaluation of Heun's step is done */
    struct taca_chw keep; /* what it must remember, device memory; used if sampler_keeps */
    float *draw;          /* as many floats of host memory; used if sampler_draws */
    struct taca_rng rng;  /* that the noise of its steps is drawn from */
};

bool sampler_keeps(enum taca_sampler kind);
bool sampler_draws(enum taca_sampler kind);
/* Evaluations done, of a walk that ends before step `end`. */
int sampler_done(const struct sampler *w, int end);
/* The index of the noise level at which the next evaluation takes place. */
static inline int sampler_level(const struct sampler *w) { return w->step + (w->second ? 1 : 0); }

/* After an evaluation at that level: moves the latent x along v, and makes v the guess of the
 * finished latent. sigma are the schedule's levels. Queued; the caller syncs before the next, then
 * calls sampler_next. */
void sampler_move(struct sampler *w, struct taca_backend *b, const float *sigma, struct taca_chw x,
                  struct taca_chw v);
void sampler_next(struct sampler *w, int end);

#endif
