/* schedule.h - the noise levels a generation walks through.
 *
 * Flow matching integrates from sigma = 1 (pure noise) to sigma = 0 (image). This file turns "28
 * steps, shift 3" into sigmas exactly as the reference scheduler does; it knows nothing of models
 * or devices. */
#ifndef TACA_ENGINE_SAMPLE_SCHEDULE_H
#define TACA_ENGINE_SAMPLE_SCHEDULE_H

#include <jansson.h>

#include "engine/params.h"

/* Outside this range two levels can round to the same float. */
#define TACA_SHIFT_MIN 0.01
#define TACA_SHIFT_MAX 100.0

/* The levels before they are shifted, n of them from 1 down. */
enum taca_spacing {
    TACA_SPACING_TRAINED, /* to the lowest level of training (SD3) */
    TACA_SPACING_EVEN,    /* to 1/n (FLUX) */
};
/* How a picture of N tokens sets the shift, with mu on a line through the two points
 * (base_tokens, base_shift) and (max_tokens, max_shift). */
enum taca_dynamic {
    TACA_DYNAMIC_OFF,
    TACA_DYNAMIC_EXPONENTIAL, /* shift = e^mu */
    TACA_DYNAMIC_LINEAR,      /* shift = mu */
};

struct taca_scheduler {
    enum taca_spacing spacing;
    double shift; /* 1 = linear; unused with a dynamic one */
    enum taca_dynamic dynamic;
    double base_shift, max_shift;
    double base_tokens, max_tokens;
    int train_steps; /* 1000 */
};
/* From a scheduler_config.json; the spacing is not in it. Options not listed above (Karras levels
 * and so on) are TACA_EUNSUPPORTED, naming the option. */
enum taca_code taca_scheduler_load(struct taca_scheduler *out, const json_t *config,
                                   enum taca_spacing spacing, struct taca_err *err) TACA_MUST_USE;

struct taca_schedule {
    int steps;
    float sigma[TACA_MAX_STEPS + 1]; /* strictly falling; [0] = 1, [steps] = 0 */
    float timestep[TACA_MAX_STEPS];  /* train_steps * sigma as the model is told it */
};
struct taca_schedule_want {
    enum taca_levels levels;
    int steps;      /* 1..TACA_MAX_STEPS */
    int64_t tokens; /* image tokens of the picture */
    double shift;   /* replaces the scheduler's, dynamic or not; 0 keeps it */
};
/* Of many steps TACA_LEVELS_BETA gives some less than wanted: levels that meet are one. *out
 * untouched on error. */
enum taca_code taca_schedule_make(struct taca_schedule *out, const struct taca_scheduler *s,
                                  const struct taca_schedule_want *want,
                                  struct taca_err *err) TACA_MUST_USE;
/* That of TACA_LEVELS_DEFAULT. `steps` 1..TACA_MAX_STEPS; tokens = image tokens of the picture;
 * shift > 0 replaces the scheduler's, dynamic or not, 0 keeps it. *out untouched on error. */
enum taca_code taca_schedule_init(struct taca_schedule *out, const struct taca_scheduler *s,
                                  int steps, int64_t tokens, double shift,
                                  struct taca_err *err) TACA_MUST_USE;

#endif
