/* a1111.c - requests in the words of AUTOMATIC1111's API to ours; see fields.h. What asks for
 * something that this server cannot do is refused by name, what cannot matter (a neutral value, a
 * file that is not saved) is passed over, and the rest is told as ignored. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/a1111.h"
#include "api/picture.h"

enum what {
    SAME,    /* the field has the same name and meaning here */
    HANDLED, /* read by itself below */
    NEUTRAL, /* says nothing about the picture */
    MUST_BE, /* any other value than `value` asks for what is not there; null is fine */
    IGNORED, /* told as ignored unless it is `value` or null */
};
static const struct theirs {
    const char *name;
    enum what what;
    const char *value; /* as JSON */
} fields[] = {
    {"prompt", HANDLED, NULL},
    {"negative_prompt", SAME, NULL},
    {"steps", SAME, NULL},
    {"cfg_scale", SAME, NULL},
    {"width", SAME, NULL},
    {"height", SAME, NULL},
    {"seed", SAME, NULL},
    {"sampler_name", HANDLED, NULL},
    {"sampler_index", HANDLED, NULL},
    {"scheduler", HANDLED, NULL},
    {"batch_size", HANDLED, NULL},
    {"n_iter", HANDLED, NULL},
    {"denoising_strength", HANDLED, NULL},
    {"init_images", HANDLED, NULL},
    {"mask", HANDLED, NULL},
    {"inpainting_mask_invert", HANDLED, NULL},
    {"override_settings", HANDLED, NULL},
    {"send_images", HANDLED, NULL},
    {"distilled_cfg_scale", HANDLED, NULL},
    {"enable_hr", MUST_BE, "false"},
    {"restore_faces", MUST_BE, "false"},
    {"tiling", MUST_BE, "false"},
    {"subseed_strength", MUST_BE, "0"},
    {"seed_resize_from_h", MUST_BE, "-1 0"},
    {"seed_resize_from_w", MUST_BE, "-1 0"},
    {"styles", MUST_BE, "[]"},
    {"script_name", MUST_BE, "\"\""},
    {"alwayson_scripts", MUST_BE, "{}"},
    {"refiner_checkpoint", MUST_BE, "\"\" \"None\""},
    {"resize_mode", MUST_BE, "0"},
    {"mask_blur", IGNORED, "0"},
    {"mask_blur_x", IGNORED, "0"},
    {"mask_blur_y", IGNORED, "0"},
    {"inpainting_fill", IGNORED, "1"},
    {"inpaint_full_res", IGNORED, "false 0"},
    {"initial_noise_multiplier", IGNORED, "1"},
    {"s_churn", IGNORED, "0"},
    {"s_tmin", IGNORED, "0"},
    {"s_tmax", IGNORED, "0"},
    {"s_noise", IGNORED, "1"},
    {"s_min_uncond", IGNORED, "0"},
    {"eta", IGNORED, "0 1"},
    {"image_cfg_scale", IGNORED, "1.5"},
    {"save_images", IGNORED, "false"},
    {"force_task_id", IGNORED, NULL},
    {"stream", IGNORED, "false"},
    {"response_format", IGNORED, NULL},
    {"previews", IGNORED, NULL},
    {"subseed", NEUTRAL, NULL},
    {"inpaint_full_res_padding", NEUTRAL, NULL},
    {"hr_scale", NEUTRAL, NULL},
    {"hr_upscaler", NEUTRAL, NULL},
    {"hr_second_pass_steps", NEUTRAL, NULL},
    {"hr_resize_x", NEUTRAL, NULL},
    {"hr_resize_y", NEUTRAL, NULL},
    {"hr_checkpoint_name", NEUTRAL, NULL},
    {"hr_sampler_name", NEUTRAL, NULL},
    {"hr_scheduler", NEUTRAL, NULL},
    {"hr_prompt", NEUTRAL, NULL},
    {"hr_negative_prompt", NEUTRAL, NULL},
    {"firstphase_width", NEUTRAL, NULL},
    {"firstphase_height", NEUTRAL, NULL},
    {"script_args", NEUTRAL, NULL},
    {"refiner_switch_at", NEUTRAL, NULL},
    {"disable_extra_networks", NEUTRAL, NULL},
    {"do_not_save_samples", NEUTRAL, NULL},
    {"do_not_save_grid", NEUTRAL, NULL},
    {"override_settings_restore_afterwards", NEUTRAL, NULL},
    {"include_init_images", NEUTRAL, NULL},
    {"comments", NEUTRAL, NULL},
};

static const struct theirs *find(const char *key) {
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (strcmp(fields[i].name, key) == 0) return &fields[i];
    return NULL;
}

static bool is(const json_t *v, const char *text, size_t len) {
    if (*text == 'f') return json_is_false(v);
    if (*text == 't') return json_is_true(v);
    if (*text == '[') return json_is_array(v) && json_array_size(v) == 0;
    if (*text == '{') return json_is_object(v) && json_object_size(v) == 0;
    if (*text == '"')
        return json_is_string(v) && json_string_length(v) == len - 2 &&
               memcmp(json_string_value(v), text + 1, len - 2) == 0;
    if (!json_is_number(v)) return false;
    const double want = strtod(text, NULL), got = json_number_value(v);
    return !(got < want) && !(got > want);
}

/* Whether v is one of the JSON values in `list`, which has a space between them: plain numbers and
 * words, and [] {} "" of nothing or a word. */
static bool is_one_of(const json_t *v, const char *list) {
    while (list && *list) {
        size_t len = strcspn(list, " ");
        if (is(v, list, len)) return true;
        list += len + (list[len] == ' ');
    }
    return false;
}

/* What the reply says about how the request was understood: `what` is not here, `instead` was used.
 * Both are of our tables, but for capitals, so they stand in JSON as they are. */
static void note(struct api_draft *d, const char *kind, const char *what, const char *instead) {
    const size_t used = strlen(d->notes);
    snprintf(d->notes + used, sizeof d->notes - used, "%s\"%s %s is not here: %s was used\"",
             used ? "," : "", kind, what, instead);
}

static int set_same(struct api_draft *d, json_t *ours, const char *key, const json_t *v) {
    if (json_object_set(ours, key, (json_t *)(uintptr_t)v) == 0) return 0;
    return api_fail(d->err, 503, "gpu_oom", NULL, "out of memory reading the request");
}

/* Those of the prompt and those of the field are one list. */
static int add_loras(struct api_draft *d, json_t *ours, json_t *list) {
    json_t *there = json_object_get(ours, "loras");
    if (json_is_array(there) && json_is_array(list) && json_array_extend(there, list) == 0)
        return 0;
    return set_same(d, ours, "loras", list);
}

/* ---- samplers and schedules -------------------------------------------------------------------
 */

static const struct {
    const char *name;
    enum taca_sampler ours;
    enum taca_levels with; /* DEFAULT = the name says nothing about it */
    bool exact;
} samplers[] = {
    {"Euler", TACA_EULER, TACA_LEVELS_DEFAULT, true},
    {"Euler a", TACA_EULER_ANCESTRAL, TACA_LEVELS_DEFAULT, true},
    {"Heun", TACA_HEUN, TACA_LEVELS_DEFAULT, true},
    {"DPM++ 2M", TACA_DPMPP_2M, TACA_LEVELS_DEFAULT, true},
    {"DPM++ 2M Karras", TACA_DPMPP_2M, TACA_LEVELS_KARRAS, true},
    {"LCM", TACA_LCM, TACA_LEVELS_DEFAULT, true},
    {"k_euler", TACA_EULER, TACA_LEVELS_DEFAULT, true},
    {"k_euler_a", TACA_EULER_ANCESTRAL, TACA_LEVELS_DEFAULT, true},
    {"k_euler_ancestral", TACA_EULER_ANCESTRAL, TACA_LEVELS_DEFAULT, true},
    {"k_heun", TACA_HEUN, TACA_LEVELS_DEFAULT, true},
    {"k_dpmpp_2m", TACA_DPMPP_2M, TACA_LEVELS_DEFAULT, true},
    {"DPM++ 2M SDE", TACA_DPMPP_2M, TACA_LEVELS_DEFAULT, false},
    {"DPM++ 2M SDE Heun", TACA_DPMPP_2M, TACA_LEVELS_DEFAULT, false},
    {"DPM++ 3M SDE", TACA_DPMPP_2M, TACA_LEVELS_DEFAULT, false},
    {"DPM++ SDE", TACA_DPMPP_2M, TACA_LEVELS_DEFAULT, false},
    {"DPM++ SDE Karras", TACA_DPMPP_2M, TACA_LEVELS_KARRAS, false},
    {"DPM++ 2S a", TACA_EULER_ANCESTRAL, TACA_LEVELS_DEFAULT, false},
    {"DPM2", TACA_HEUN, TACA_LEVELS_DEFAULT, false},
    {"DPM2 a", TACA_EULER_ANCESTRAL, TACA_LEVELS_DEFAULT, false},
    {"DPM fast", TACA_EULER, TACA_LEVELS_DEFAULT, false},
    {"DPM adaptive", TACA_HEUN, TACA_LEVELS_DEFAULT, false},
    {"LMS", TACA_DPMPP_2M, TACA_LEVELS_DEFAULT, false},
    {"PLMS", TACA_DPMPP_2M, TACA_LEVELS_DEFAULT, false},
    {"UniPC", TACA_DPMPP_2M, TACA_LEVELS_DEFAULT, false},
    {"Restart", TACA_HEUN, TACA_LEVELS_DEFAULT, false},
    {"DDIM", TACA_EULER, TACA_LEVELS_DEFAULT, false},
    {"DDIM CFG++", TACA_EULER, TACA_LEVELS_DEFAULT, false},
};

static const struct {
    const char *name;
    enum taca_levels ours;
    bool exact;
} schedules[] = {
    {"Automatic", TACA_LEVELS_DEFAULT, true},
    {"Simple", TACA_LEVELS_SIMPLE, true},
    {"Normal", TACA_LEVELS_NORMAL, true},
    {"SGM Uniform", TACA_LEVELS_SGM_UNIFORM, true},
    {"Beta", TACA_LEVELS_BETA, true},
    {"Karras", TACA_LEVELS_KARRAS, true},
    {"Exponential", TACA_LEVELS_EXPONENTIAL, true},
    {"Polyexponential", TACA_LEVELS_EXPONENTIAL, false},
    {"Uniform", TACA_LEVELS_NORMAL, false},
    {"DDIM", TACA_LEVELS_NORMAL, false},
    {"KL Optimal", TACA_LEVELS_DEFAULT, false},
    {"Align Your Steps", TACA_LEVELS_DEFAULT, false},
    {"Turbo", TACA_LEVELS_SGM_UNIFORM, false},
};

static bool is_automatic(const char *s) { return !*s || strcasecmp(s, "automatic") == 0; }

static int set_sampler(struct api_draft *d, const json_t *v, struct api_name name) {
    const char *s = json_string_value(v);
    struct taca_gen_params *p = &d->r.params;
    if (!s)
        return api_refuse(d->err, name, "%s must be a string, got %s", name.param, api_type_of(v));
    if (is_automatic(s)) return 0;
    for (int i = 0; taca_sampler_names[i]; i++)
        if (strcasecmp(s, taca_sampler_names[i]) == 0) return p->sampler = (enum taca_sampler)i, 0;
    for (size_t i = 0; i < sizeof samplers / sizeof *samplers; i++) {
        if (strcasecmp(s, samplers[i].name) != 0) continue;
        p->sampler = samplers[i].ours;
        if (samplers[i].with) p->schedule = samplers[i].with;
        if (!samplers[i].exact) note(d, "sampler", s, taca_sampler_names[p->sampler]);
        return 0;
    }
    return api_refuse(d->err, name, "%s must be one of /sdapi/v1/samplers, got \"%s\"", name.param,
                      api_quote(s).text);
}

/* "SGM Uniform", "sgm_uniform" and "sgm uniform" are one. */
static bool same_schedule(const char *a, const char *b) {
    for (; *a && *b; a++, b++) {
        char x = *a == '_' ? ' ' : *a, y = *b == '_' ? ' ' : *b;
        if (strncasecmp(&x, &y, 1) != 0) return false;
    }
    return *a == *b;
}

static int set_schedule(struct api_draft *d, const json_t *v) {
    const struct api_name name = {"scheduler", "schedule"};
    const char *s = json_string_value(v);
    if (!s) return api_refuse(d->err, name, "scheduler must be a string, got %s", api_type_of(v));
    if (is_automatic(s)) return 0;
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++) {
        if (!same_schedule(s, schedules[i].name)) continue;
        d->r.params.schedule = schedules[i].ours;
        if (!schedules[i].exact) note(d, "scheduler", s, taca_levels_names[schedules[i].ours]);
        return 0;
    }
    return api_refuse(d->err, name, "scheduler must be one of /sdapi/v1/schedulers, got \"%s\"",
                      api_quote(s).text);
}

/* ---- prompts ----------------------------------------------------------------------------------
 */

struct lora {
    const char *id, *after;
    size_t id_len;
    double scale;
};

/* <lora:ID:SCALE> leaves the prompt and becomes an adapter; without :SCALE it is 1. */
static bool read_lora(struct lora *l, const char *s) {
    static const char begin[] = "<lora:";
    const char *end = strchr(s, '>');
    if (strncasecmp(s, begin, sizeof begin - 1) != 0 || !end) return false;
    *l = (struct lora){.id = s + sizeof begin - 1, .after = end + 1, .scale = 1};
    l->id_len = strcspn(l->id, ":>");
    const char *colon = l->id + l->id_len;
    if (l->id_len == 0 || colon > end) return false;
    if (*colon == '>') return true;
    char *stop;
    l->scale = strtod(colon + 1, &stop);
    return stop > colon + 1 && (*stop == '>' || *stop == ':') && isfinite(l->scale);
}

static int set_prompt(struct api_draft *d, json_t *ours, const json_t *v) {
    const char *s = json_string_value(v);
    struct taca_buf text;
    json_t *loras = json_array();
    if (!s) return json_decref(loras), set_same(d, ours, "prompt", v);
    taca_buf_init(&text, json_string_length(v) + 1);
    bool bad = false;
    while (*s && !bad) {
        struct lora l;
        if (*s != '<' || !read_lora(&l, s)) {
            taca_buf_put(&text, s++, 1);
            continue;
        }
        bad = json_array_append_new(
                  loras, json_pack("{s:s%,s:f}", "id", l.id, l.id_len, "scale", l.scale)) != 0;
        s = l.after;
    }
    while (text.len > 0 && text.data[text.len - 1] == ' ') text.len--;
    bad = bad || text.failed;
    json_t *rest = bad ? NULL : json_stringn(text.data ? text.data : "", text.len);
    int rc = set_same(d, ours, "prompt", rest); /* without one: no memory */
    if (!rc && json_array_size(loras) > 0) rc = add_loras(d, ours, loras);
    json_decref(rest);
    json_decref(loras);
    taca_buf_finish(&text);
    return rc;
}

/* ---- the rest ---------------------------------------------------------------------------------
 */

static int set_count(struct api_draft *d, int64_t *out, const json_t *v, const char *name) {
    const int64_t most = d->limits->max_n < API_MAX_N ? d->limits->max_n : API_MAX_N;
    return api_want_int(out, v, 1, most, (struct api_name){name, name}, d->err);
}

static int set_overrides(struct api_draft *d, json_t *ours, json_t *v) {
    const struct api_name name = {"override_settings", "override_settings"};
    const char *key;
    json_t *item;
    if (!json_is_object(v))
        return api_refuse(d->err, name, "override_settings must be an object, got %s",
                          api_type_of(v));
    json_object_foreach(v, key, item) {
        if (json_is_null(item)) continue;
        int rc = 0;
        if (strcmp(key, "sd_model_checkpoint") == 0)
            rc = set_same(d, ours, "model", item);
        else
            api_openai_ignore(d, key);
        if (rc) return rc;
    }
    return 0;
}

static int set_images(struct api_draft *d, const json_t *v) {
    const struct api_name name = {"init_images", "image"};
    if (!json_is_array(v) || json_array_size(v) != 1)
        return api_refuse(d->err, name, "init_images must be a list of one picture");
    return api_set_image(d, json_array_get(v, 0), name);
}

static int set_inverted(struct api_draft *d, const json_t *v) {
    if (!is_one_of(v, "0 1 true false"))
        return api_refuse(d->err, (struct api_name){"inpainting_mask_invert", "mask"},
                          "inpainting_mask_invert must be 0 or 1");
    d->r.mask_inverted = is_one_of(v, "1 true");
    return 0;
}

struct counts {
    int64_t batch, rounds;
};

static int handle(struct api_draft *d, json_t *ours, struct counts *c, const char *key, json_t *v) {
    const bool image = d->r.edit;
    if (strcmp(key, "prompt") == 0) return set_prompt(d, ours, v);
    if (strcmp(key, "sampler_name") == 0)
        return set_sampler(d, v, (struct api_name){key, "sampler"});
    if (strcmp(key, "scheduler") == 0) return set_schedule(d, v);
    if (strcmp(key, "batch_size") == 0) return set_count(d, &c->batch, v, key);
    if (strcmp(key, "n_iter") == 0) return set_count(d, &c->rounds, v, key);
    if (strcmp(key, "override_settings") == 0) return set_overrides(d, ours, v);
    if (strcmp(key, "send_images") == 0)
        return api_want_bool(&d->r.send_images, v, (struct api_name){key, key}, d->err);
    if (strcmp(key, "distilled_cfg_scale") == 0) {
        if (d->model->guidance_embeds) return set_same(d, ours, "guidance_scale", v);
        return 0;
    }
    if (!image) return 0; /* what follows is of pictures to start from */
    if (strcmp(key, "denoising_strength") == 0)
        return api_set_strength(d, v, (struct api_name){key, "strength"});
    if (strcmp(key, "init_images") == 0) return set_images(d, v);
    if (strcmp(key, "mask") == 0) return api_set_mask(d, v, (struct api_name){key, "mask"});
    if (strcmp(key, "inpainting_mask_invert") == 0) return set_inverted(d, v);
    return 0;
}

static int translate(struct api_draft *d, json_t *ours, struct counts *c, const char *key,
                     json_t *v) {
    const struct theirs *t = find(key);
    struct api_name name = {key, key};
    if (json_is_null(v)) return 0;
    if (t && t->what == HANDLED) return handle(d, ours, c, key, v);
    if (t && t->what == NEUTRAL) return 0;
    if (t && t->what != SAME && is_one_of(v, t->value)) return 0;
    if (t && t->what == MUST_BE)
        return api_refuse(d->err, name, "%s is not supported by this server: leave it out", key);
    if (strcmp(key, "loras") == 0) return add_loras(d, ours, v);
    if (t ? t->what == SAME : api_is_field(key)) return set_same(d, ours, key, v);
    api_openai_ignore(d, key);
    return 0;
}

/* What was asked, to be told back, without pictures. */
static bool keep_echo(struct api_draft *d, json_t *theirs) {
    json_t *copy = json_copy(theirs);
    if (json_object_get(copy, "mask")) json_object_set_new(copy, "mask", json_null());
    if (json_object_get(copy, "init_images")) json_object_set_new(copy, "init_images", json_null());
    char *text = copy ? json_dumps(copy, JSON_COMPACT) : NULL;
    if (text) d->r.echo = taca_arena_strndup(&d->r.arena, text, strlen(text));
    free(text);
    json_decref(copy);
    return d->r.echo != NULL;
}

int api_a1111_fields(struct api_draft *d, json_t **out, json_t *theirs) {
    struct counts c = {1, 1};
    json_t *ours = json_object(), *v;
    const char *key;
    int rc = 0;
    d->round_size = d->r.send_images = true;
    if (d->r.edit) d->r.params.strength = 0.75; /* as theirs */
    json_object_foreach(theirs, key, v) {
        rc = translate(d, ours, &c, key, v);
        if (rc) break;
    }
    v = json_object_get(theirs, "sampler_index");
    if (!rc && v && !json_object_get(theirs, "sampler_name") && !json_is_null(v))
        rc = set_sampler(d, v, (struct api_name){"sampler_index", "sampler"});
    if (!rc && d->r.edit && !d->image.bytes)
        rc = api_refuse(d->err, (struct api_name){"init_images", "image"},
                        "init_images is required");
    int64_t n = c.batch * c.rounds, most = d->limits->max_n;
    if (!rc && n > most)
        rc = api_refuse(d->err, (struct api_name){"batch_size", "n"},
                        "batch_size x n_iter must be at most %lld, got %lld", (long long)most,
                        (long long)n);
    d->r.n = (int)n;
    if (!rc && (!ours || !keep_echo(d, theirs)))
        rc = api_fail(d->err, 503, "gpu_oom", NULL, "out of memory reading the request");
    if (!rc)
        *out = ours;
    else
        json_decref(ours);
    return rc;
}
