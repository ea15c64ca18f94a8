/* schedule.c - see schedule.h. Every rounding below is the reference's: the table of training
 * levels is float and the walk through it double; even levels are float before they are shifted. */
#include "engine/sample/schedule.h"

#include <math.h>
#include <string.h>

#include "engine/io/checkpoint.h"
#include "engine/sample/levels.h"

/* ---- config ---------------------------------------------------------------------------------- */

/* Options that bend the schedule in ways this file does not compute. */
static enum taca_code refuse_options(const json_t *config, struct taca_err *err) {
    static const char *const flags[] = {"use_karras_sigmas", "use_exponential_sigmas",
                                        "use_beta_sigmas", "invert_sigmas", "stochastic_sampling"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool on;
        enum taca_code rc = taca_cfg_bool(config, flags[i], false, &on, err);
        if (rc) return rc;
        if (on)
            return taca_fail(err, TACA_EUNSUPPORTED,
                             "scheduler: %s is true; only a static or dynamic shift is supported",
                             flags[i]);
    }
    const json_t *terminal = json_object_get(config, "shift_terminal");
    if (terminal && !json_is_null(terminal))
        return taca_fail(
            err, TACA_EUNSUPPORTED,
            "scheduler: shift_terminal is set; only a static or dynamic shift is supported");
    return TACA_OK;
}

static enum taca_code read_dynamic(struct taca_scheduler *s, const json_t *config,
                                   struct taca_err *err) {
    enum { MAX_TOKENS = 1 << 24, MAX_MU = 1000 };
    const char *type;
    bool on;
    enum taca_code rc = taca_cfg_bool(config, "use_dynamic_shifting", false, &on, err);
    if (rc || !on) return rc;
    rc = taca_cfg_string(config, "time_shift_type", "exponential", &type, err);
    if (!rc) rc = taca_cfg_number(config, "base_shift", 0.5, -MAX_MU, MAX_MU, &s->base_shift, err);
    if (!rc) rc = taca_cfg_number(config, "max_shift", 1.15, -MAX_MU, MAX_MU, &s->max_shift, err);
    if (!rc)
        rc =
            taca_cfg_number(config, "base_image_seq_len", 256, 0, MAX_TOKENS, &s->base_tokens, err);
    if (!rc)
        rc = taca_cfg_number(config, "max_image_seq_len", 4096, 0, MAX_TOKENS, &s->max_tokens, err);
    if (rc) return rc;
    if (!(s->max_tokens > s->base_tokens))
        return taca_fail(err, TACA_EFORMAT,
                         "scheduler: max_image_seq_len is %g, wanted more than base_image_seq_len "
                         "= %g",
                         s->max_tokens, s->base_tokens);
    if (strcmp(type, "exponential") == 0)
        s->dynamic = TACA_DYNAMIC_EXPONENTIAL;
    else if (strcmp(type, "linear") == 0)
        s->dynamic = TACA_DYNAMIC_LINEAR;
    else
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "scheduler: time_shift_type is %.32s, wanted exponential or linear", type);
    return TACA_OK;
}

enum taca_code taca_scheduler_load(struct taca_scheduler *out, const json_t *config,
                                   enum taca_spacing spacing, struct taca_err *err) {
    static const char known[] = "FlowMatchEulerDiscreteScheduler";
    struct taca_scheduler s = {.spacing = spacing};
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
    if (!rc) rc = read_dynamic(&s, config, err);
    if (rc) return rc;
    s.train_steps = (int)train_steps;
    *out = s;
    return TACA_OK;
}

/* ---- noise levels ---------------------------------------------------------------------------- */

static double shifted(double sigma, double shift) {
    return shift * sigma / (1 + (shift - 1) * sigma);
}

/* The shift of a picture: what the caller asks for, else the scheduler's own. */
static enum taca_code choose_shift(double *out, const struct taca_scheduler *s, int64_t tokens,
                                   double asked, struct taca_err *err) {
    const double slope = (s->max_shift - s->base_shift) / (s->max_tokens - s->base_tokens);
    const double mu = (double)tokens * slope + (s->base_shift - slope * s->base_tokens);
    double shift = asked;
    if (asked == 0 && s->dynamic == TACA_DYNAMIC_OFF)
        shift = s->shift;
    else if (asked == 0)
        shift = s->dynamic == TACA_DYNAMIC_LINEAR ? mu : exp(mu);
    if (shift >= TACA_SHIFT_MIN && shift <= TACA_SHIFT_MAX) { /* NaN is not */
        *out = shift;
        return TACA_OK;
    }
    if (asked == 0)
        return taca_fail_param(err, "shift",
                               "a picture of %lld tokens gives shift %g, outside %g..%g: ask for a "
                               "smaller one, or for a shift",
                               (long long)tokens, shift, TACA_SHIFT_MIN, TACA_SHIFT_MAX);
    return taca_fail_param(err, "shift", "shift is %g, wanted %g..%g, or 0 for the model's own",
                           shift, TACA_SHIFT_MIN, TACA_SHIFT_MAX);
}

/* The lowest level of training, in the float arithmetic of the reference's table, which a dynamic
 * shift leaves alone. */
static double lowest_trained(const struct taca_scheduler *s, double shift) {
    const float level = 1.0f / (float)s->train_steps;
    if (s->dynamic != TACA_DYNAMIC_OFF) return (double)level;
    return (double)((float)shift * level / (1.0f + (float)(shift - 1) * level));
}

/* The walk starts at pure noise. For some shifts the reference's float table misses 1 by one ulp; a
 * level above 1 has no meaning, and sigma 1 must lie inside a TACA window that ends there. */
static void trained_levels(struct taca_schedule *r, const struct taca_scheduler *s, double shift) {
    const double train = s->train_steps, first = train;
    const double last = lowest_trained(s, shift) * train;
    const double stride = r->steps > 1 ? (last - first) / (r->steps - 1) : 0;
    for (int i = 0; i < r->steps; i++) {
        double t = i > 0 && i == r->steps - 1 ? last : i * stride + first;
        /* a static shift is in `last` already: the released models are sampled with it twice */
        r->sigma[i] = (float)shifted(t / train, shift);
    }
}

/* Float from the start. The static and the dynamic formula are one in numbers, not in bits. */
static void even_levels(struct taca_schedule *r, bool dynamic, double shift) {
    const double last = 1.0 / r->steps;
    const double stride = r->steps > 1 ? (last - 1) / (r->steps - 1) : 0;
    const float by = (float)shift, less = (float)(shift - 1);
    for (int i = 0; i < r->steps; i++) {
        const float s = (float)(i > 0 && i == r->steps - 1 ? last : i * stride + 1);
        r->sigma[i] = dynamic ? by / (by + (1.0f / s - 1.0f)) : by * s / (1.0f + less * s);
    }
}

enum taca_code taca_schedule_make(struct taca_schedule *out, const struct taca_scheduler *s,
                                  const struct taca_schedule_want *want, struct taca_err *err) {
    struct taca_schedule r = {.steps = want->steps};
    double shift = 0;
    if (want->steps < 1 || want->steps > TACA_MAX_STEPS)
        return taca_fail_param(err, "steps", "steps is %d, wanted 1..%d", want->steps,
                               TACA_MAX_STEPS);
    const bool dynamic = s->dynamic != TACA_DYNAMIC_OFF && want->shift == 0;
    enum taca_code rc = choose_shift(&shift, s, want->tokens, want->shift, err);
    if (rc) return rc;
    const bool own = want->levels == TACA_LEVELS_DEFAULT || want->levels == TACA_LEVELS_KARRAS ||
                     want->levels == TACA_LEVELS_EXPONENTIAL;
    /* ComfyUI tabulates models of a static shift by their training steps, dynamic ones finer */
    const struct levels_model m = {shift,
                                   s->dynamic == TACA_DYNAMIC_OFF ? s->train_steps : LEVELS_FINE};
    if (!own)
        levels_fill(&r, want->levels, &m);
    else if (s->spacing == TACA_SPACING_EVEN)
        even_levels(&r, dynamic, shift);
    else
        trained_levels(&r, s, shift);
    if (own && want->levels != TACA_LEVELS_DEFAULT) levels_remap(&r, want->levels);
    for (int i = 0; i < r.steps; i++) r.timestep[i] = r.sigma[i] * (float)s->train_steps;
    *out = r;
    return TACA_OK;
}

enum taca_code taca_schedule_init(struct taca_schedule *out, const struct taca_scheduler *s,
                                  int steps, int64_t tokens, double shift, struct taca_err *err) {
    const struct taca_schedule_want want = {.steps = steps, .tokens = tokens, .shift = shift};
    return taca_schedule_make(out, s, &want, err);
}
