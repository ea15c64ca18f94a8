/* field_taca.c - the "taca" field: false, true, or an object with a scale and one window rule.
 *
 *   {"scale":1.2, "fraction":0.1}            i / steps < 0.1
 *   {"scale":1.2, "steps":[0,3]} or 3        0 <= i < 3
 *   {"scale":1.2, "threshold":970}           970 <= timestep <= 1000, after the schedule's shift
 *   {"scale":1.2, "timestep_low":800, "timestep_high":970}
 *
 * and "lora", an adapter that acts in the steps of the window: field_loras.c. */
#include <stdio.h>
#include <string.h>

#include "api/fields.h"

enum { TIMESTEPS = 1000 };

/* Which members were given. */
struct seen {
    bool fraction, steps, threshold, low, high, off;
};

static struct api_name member(const char *param) {
    return (struct api_name){.param = param, .field = "taca"};
}

static int read_steps(struct taca_window *w, json_t *v, struct api_error *err) {
    struct api_name name = member("taca.steps");
    int64_t first = 0, end;
    int rc;
    if (json_is_array(v)) {
        if (json_array_size(v) != 2)
            return api_refuse(err, name,
                              "taca.steps must be [first, end) or a count, got %zu values",
                              json_array_size(v));
        rc = api_want_int(&first, json_array_get(v, 0), 0, TACA_MAX_STEPS, name, err);
        if (!rc) rc = api_want_int(&end, json_array_get(v, 1), 0, TACA_MAX_STEPS, name, err);
        if (rc) return rc;
        if (end < first)
            return api_refuse(err, name,
                              "taca.steps must be [first, end) with first <= end, "
                              "got [%d, %d]",
                              (int)first, (int)end);
    } else if (json_is_number(v)) {
        rc = api_want_int(&end, v, 0, TACA_MAX_STEPS, name, err);
        if (rc) return rc;
    } else {
        return api_refuse(err, name,
                          "taca.steps must be an array [first, end) or an integer, got %s",
                          api_type_of(v));
    }
    w->first_step = (int)first;
    w->end_step = (int)end;
    return 0;
}

static int read_timestep(double *sigma, json_t *v, const char *param, struct api_error *err) {
    double t;
    int rc = api_want_number(&t, v, 0, TIMESTEPS, member(param), err);
    if (!rc) *sigma = t / TIMESTEPS;
    return rc;
}

static int read_member(struct taca_window *w, struct seen *seen, const char *key, json_t *v,
                       struct api_error *err) {
    char name[64];
    bool enabled;
    int rc;
    if (strcmp(key, "scale") == 0)
        return api_want_number(&w->gamma, v, 0, 10, member("taca.scale"), err);
    if (strcmp(key, "fraction") == 0) {
        seen->fraction = true;
        return api_want_number(&w->fraction, v, 0, 1, member("taca.fraction"), err);
    }
    if (strcmp(key, "steps") == 0) return seen->steps = true, read_steps(w, v, err);
    if (strcmp(key, "threshold") == 0) {
        seen->threshold = true;
        return read_timestep(&w->sigma_min, v, "taca.threshold", err);
    }
    if (strcmp(key, "timestep_low") == 0) {
        seen->low = true;
        return read_timestep(&w->sigma_min, v, "taca.timestep_low", err);
    }
    if (strcmp(key, "timestep_high") == 0) {
        seen->high = true;
        return read_timestep(&w->sigma_max, v, "taca.timestep_high", err);
    }
    if (strcmp(key, "enabled") == 0) {
        rc = api_want_bool(&enabled, v, member("taca.enabled"), err);
        seen->off = !rc && !enabled;
        return rc;
    }
    snprintf(name, sizeof name, "taca.%s", key);
    return api_fail(err, 400, "unknown_parameter", name,
                    "taca has no member \"%s\": it takes scale, fraction, steps, threshold, "
                    "timestep_low, timestep_high, lora and enabled",
                    api_quote(key).text);
}

static int choose_rule(struct taca_window *w, const struct seen *seen, struct api_error *err) {
    bool range = seen->low || seen->high;
    if (seen->fraction + seen->steps + seen->threshold + range > 1)
        return api_refuse(err, member("taca"),
                          "taca takes one window: fraction, or steps, or threshold, or "
                          "timestep_low with timestep_high");
    if (w->sigma_min > w->sigma_max)
        return api_refuse(err, member("taca.timestep_low"),
                          "taca.timestep_low must not exceed timestep_high, got %g above %g",
                          w->sigma_min * TIMESTEPS, w->sigma_max * TIMESTEPS);
    w->rule = seen->off                  ? TACA_WINDOW_OFF
              : seen->steps              ? TACA_WINDOW_STEPS
              : seen->threshold || range ? TACA_WINDOW_SIGMA
                                         : TACA_WINDOW_FRACTION;
    return 0;
}

int api_set_taca(struct api_draft *d, const json_t *v, struct api_name name) {
    struct taca_window w = taca_window_default();
    struct seen seen = {0};
    const char *key;
    json_t *item;
    if (json_is_boolean(v)) {
        d->r.params.taca = w;
        if (!json_is_true(v)) d->r.params.taca.rule = TACA_WINDOW_OFF;
        return 0;
    }
    if (!json_is_object(v))
        return api_refuse(d->err, name, "taca must be true, false or an object, got %s",
                          api_type_of(v));
    json_t *o = (json_t *)(uintptr_t)v; /* iteration takes it without const, and changes nothing */
    /* a range that names one end goes to the other's extreme */
    if (json_object_get(o, "timestep_high") && !json_is_null(json_object_get(o, "timestep_high")))
        w.sigma_min = 0;
    json_object_foreach(o, key, item) {
        if (json_is_null(item)) continue;
        int rc = strcmp(key, "lora") == 0 ? api_set_taca_lora(d, item)
                                          : read_member(&w, &seen, key, item, d->err);
        if (rc) return rc;
    }
    int rc = choose_rule(&w, &seen, d->err);
    if (rc) return rc;
    if (w.rule == TACA_WINDOW_OFF) { /* however it was said, off is one state */
        w = taca_window_default();
        w.rule = TACA_WINDOW_OFF;
    }
    d->r.params.taca = w;
    return 0;
}
