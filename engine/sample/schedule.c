/* schedule.c - see schedule.h. Every rounding below is the reference's: the table of training
 * levels is float, the walk through it double, its result float. */
#include "engine/sample/schedule.h"

#include <string.h>

#include "engine/io/checkpoint.h"

/* ---- config ---------------------------------------------------------------------------------- */

/* Options that bend the schedule in ways this file does not compute. */
static enum taca_code refuse_options(const json_t *config, struct taca_err *err) {
    static const char *const flags[] = {"use_dynamic_shifting",   "use_karras_sigmas",
                                        "use_exponential_sigmas", "use_beta_sigmas",
                                        "invert_sigmas",          "stochastic_sampling"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool on;
        enum taca_code rc = taca_cfg_bool(config, flags[i], false, &on, err);
        if (rc) return rc;
        if (on)
            return taca_fail(err, TACA_EUNSUPPORTED,
                             "scheduler: %s is true; only a static shift is supported", flags[i]);
    }
    const json_t *terminal = json_object_get(config, "shift_terminal");
    if (terminal && !json_is_null(terminal))
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "scheduler: shift_terminal is set; only a static shift is supported");
    return TACA_OK;
}

enum taca_code taca_scheduler_load(struct taca_scheduler *out, const json_t *config,
                                   struct taca_err *err) {
    static const char known[] = "FlowMatchEulerDiscreteScheduler";
    struct taca_scheduler s = {0};
    const char *class_name;
    int64_t train_steps;

    enum taca_code rc = taca_cfg_string(config, "_class_name", known, &class_name, err);
    if (rc) return rc;
    if (strcmp(class_name, known) != 0)
        return taca_fail(err, TACA_EUNSUPPORTED, "scheduler: class is %s, wanted %s", class_name,
                         known);
    rc = refuse_options(config, err);
    if (!rc)
        rc = taca_cfg_number(config, "shift", 1, TACA_SHIFT_MIN, TACA_SHIFT_MAX, &s.shift, err);
    if (!rc) rc = taca_cfg_int(config, "num_train_timesteps", 1000, 2, 100000, &train_steps, err);
    if (rc) return rc;
    s.train_steps = (int)train_steps;
    *out = s;
    return TACA_OK;
}

/* ---- noise levels ---------------------------------------------------------------------------- */

static double shifted(double sigma, double shift) {
    return shift * sigma / (1 + (shift - 1) * sigma);
}

/* The lowest level of training, in the float arithmetic of the reference's table. */
static double lowest_trained(double shift, int train_steps) {
    float s = 1.0f / (float)train_steps;
    return (double)((float)shift * s / (1.0f + (float)(shift - 1) * s));
}

enum taca_code taca_schedule_init(struct taca_schedule *out, const struct taca_scheduler *s,
                                  int steps, double shift, struct taca_err *err) {
    if (steps < 1 || steps > TACA_MAX_STEPS)
        return taca_fail_param(err, "steps", "steps is %d, wanted 1..%d", steps, TACA_MAX_STEPS);
    if (shift == 0) shift = s->shift;
    if (!(shift >= TACA_SHIFT_MIN && shift <= TACA_SHIFT_MAX)) /* NaN too */
        return taca_fail_param(err, "shift", "shift is %g, wanted %g..%g, or 0 for the model's own",
                               shift, TACA_SHIFT_MIN, TACA_SHIFT_MAX);

    /* The walk starts at pure noise. For some shifts the reference's float table misses 1 by one
     * ulp; a level above 1 has no meaning, and sigma 1 must lie inside a TACA window that ends
     * there. */
    const double train = s->train_steps, first = train;
    const double last = lowest_trained(shift, s->train_steps) * train;
    const double stride = steps > 1 ? (last - first) / (steps - 1) : 0;
    struct taca_schedule r = {.steps = steps};
    for (int i = 0; i < steps; i++) {
        double t = i > 0 && i == steps - 1 ? last : i * stride + first;
        /* `last` was shifted once already: the released models are sampled with it shifted twice */
        r.sigma[i] = (float)shifted(t / train, shift);
        r.timestep[i] = r.sigma[i] * (float)train;
    }
    *out = r;
    return TACA_OK;
}
