/* fields.c - the table of fields and the setters that several share; see fields.h. */
#include "api/fields.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "api/picture.h"

#define AT(member) offsetof(struct api_draft, member)
#define TEXT(name_, member)                                                                        \
    { .name = name_, .kind = API_TEXT, .bound = API_BY_PROMPT, .at = AT(r.params.member) }
#define SIDE(name_, member)                                                                        \
    { .name = name_, .kind = API_INT, .bound = API_BY_SIDE, .at = AT(r.params.member) }
#define CHOICE(name_, member, yes, no)                                                             \
    { .name = name_, .kind = API_CHOICE, .at = AT(member), .choices = yes, .not_choices = no }
#define NO_ENCODER "this model's autoencoder has no encoder"
#define PICTURE(name_, type_, set_)                                                                \
    {                                                                                              \
        .name = name_, .kind = API_SPECIAL, .type = type_, .set = set_, .of_images = true,         \
        .why = NO_ENCODER                                                                          \
    }
#define REFUSED(name_, why_)                                                                       \
    { .name = name_, .kind = API_REFUSED, .why = why_ }

static const char *const later_formats[] = {"webp", NULL};
static const char *const responses[] = {"", "b64_json", "binary", "url",
                                        NULL}; /* enum api_response */
static const char *const disconnects[] = {"", "cancel", "continue",
                                          NULL}; /* enum api_on_disconnect */

static const struct api_field fields[] = {
    {.name = "prompt",
     .kind = API_TEXT,
     .bound = API_BY_PROMPT,
     .min = 1,
     .at = AT(r.params.prompt)},
    TEXT("prompt_2", prompt_2),
    TEXT("prompt_3", prompt_3),
    TEXT("negative_prompt", negative_prompt),
    TEXT("negative_prompt_2", negative_prompt_2),
    TEXT("negative_prompt_3", negative_prompt_3),
    {.name = "model", .kind = API_SPECIAL, .type = "string", .set = api_set_model},
    SIDE("width", width_px),
    SIDE("height", height_px),
    {.name = "size", .kind = API_SPECIAL, .type = "string \"WxH\"", .set = api_set_size},
    {.name = "round_size", .kind = API_BOOL, .at = AT(round_size)},
    {.name = "steps",
     .alias = "num_inference_steps",
     .kind = API_INT,
     .bound = API_BY_STEPS,
     .min = 1,
     .at = AT(r.params.steps)},
    {.name = "cfg_scale",
     .alias = "true_cfg_scale",
     .kind = API_NUMBER,
     .min = 1,
     .max = 30,
     .at = AT(r.params.cfg_scale)},
    {.name = "seed",
     .kind = API_SPECIAL,
     .min = -1,
     .max = (double)API_MAX_SEED,
     .type = "integer",
     .shown = "-1",
     .set = api_set_seed},
    {.name = "n", .kind = API_INT, .bound = API_BY_N, .min = 1, .at = AT(r.n)},
    {.name = "shift", .kind = API_NUMBER, .min = 0.01, .max = 100, .at = AT(r.params.shift)},
    CHOICE("sampler", r.params.sampler, taca_sampler_names, NULL),
    CHOICE("schedule", r.params.schedule, taca_levels_names, NULL),
    CHOICE("rng", r.params.rng, taca_noise_names, NULL),
    {.name = "taca",
     .kind = API_SPECIAL,
     .type = "boolean or object",
     .shown = "false",
     .set = api_set_taca},
    {.name = "skip_layer_guidance", .kind = API_SPECIAL, .type = "object", .set = api_set_slg},
    {.name = "loras",
     .kind = API_SPECIAL,
     .type = "array of {id, scale, window}",
     .shown = "[]",
     .set = api_set_loras},
    {.name = "clip_skip", .kind = API_INT, .max = 12, .at = AT(r.params.clip_skip)},
    {.name = "max_sequence_length",
     .kind = API_INT,
     .min = 1,
     .max = TACA_MAX_T5_TOKENS,
     .at = AT(r.params.max_sequence_length),
     .of_t5 = true,
     .why = "this model's text has no T5 part"},
    CHOICE("output_format", r.file.format, api_format_names, later_formats),
    {.name = "output_compression",
     .kind = API_INT,
     .max = 100,
     .at = AT(r.file.quality),
     .shown = "100"},
    {.name = "png_level", .kind = API_INT, .max = 9, .at = AT(r.file.png_level), .shown = "3"},
    CHOICE("response_format", r.response, responses, NULL),
    {.name = "metadata", .kind = API_BOOL, .at = AT(r.metadata)},
    {.name = "stream", .kind = API_BOOL, .at = AT(r.stream)},
    {.name = "previews",
     .alias = "partial_images",
     .kind = API_SPECIAL,
     .max = API_MAX_PREVIEWS,
     .type = "integer or object",
     .shown = "0",
     .set = api_set_previews},
    {.name = "priority", .kind = API_INT, .min = -10, .max = 10, .at = AT(r.priority)},
    {.name = "start_timeout_ms",
     .kind = API_INT,
     .bound = API_BY_TIMEOUT,
     .at = AT(r.start_timeout_ms)},
    {.name = "deadline_ms", .kind = API_INT, .bound = API_BY_TIMEOUT, .at = AT(r.deadline_ms)},
    CHOICE("on_disconnect", r.on_disconnect, disconnects, NULL),
    {.name = "user", .kind = API_TEXT, .max = 256, .at = AT(r.user)},
    {.name = "guidance_scale",
     .kind = API_NUMBER,
     .max = 100,
     .at = AT(r.params.guidance_scale),
     .embedded = true,
     .why = "this model has no embedded guidance: use cfg_scale"},
    PICTURE("image", "string, base64 or data URL", api_set_image),
    PICTURE("mask", "string, base64 or data URL", api_set_mask),
    {.name = "strength",
     .kind = API_SPECIAL,
     .max = 1,
     .type = "number",
     .shown = "0.6",
     .set = api_set_strength,
     .of_images = true,
     .why = NO_ENCODER},
    REFUSED("webhook", NULL),
};

const struct api_field *api_fields(size_t *n) {
    *n = sizeof fields / sizeof *fields;
    return fields;
}

bool api_field_refused(const struct api_field *f, const struct taca_model_info *model) {
    return f->kind == API_REFUSED || (f->embedded && !model->guidance_embeds) ||
           (f->of_t5 && model->t5_tokens == 0) || (f->of_images && !model->takes_images);
}

void api_draft_init(struct api_draft *d, const struct taca_model_info *model,
                    const struct api_limits *limits, struct api_error *err) {
    *d = (struct api_draft){.r = {.n = 1,
                                  .file = {API_FORMAT_ANY, -1, -1},
                                  .metadata = true,
                                  .preview_max_side_px = 104},
                            .model = model,
                            .limits = limits,
                            .err = err,
                            .seed = -1};
    taca_gen_params_init(&d->r.params, model);
}

void api_side_range(const struct taca_model_info *model, const struct api_limits *limits,
                    double *min, double *max) {
    *min = model->min_side_px;
    *max = limits->max_side_px < model->max_side_px ? limits->max_side_px : model->max_side_px;
}

void api_field_range(const struct api_field *f, const struct taca_model_info *model,
                     const struct api_limits *limits, double *min, double *max) {
    *min = f->min;
    *max = f->max;
    switch (f->bound) {
    case API_FIXED: break;
    case API_BY_STEPS:
        *max = limits->max_steps < TACA_MAX_STEPS ? limits->max_steps : TACA_MAX_STEPS;
        break;
    case API_BY_N: *max = limits->max_n < API_MAX_N ? limits->max_n : API_MAX_N; break;
    case API_BY_SIDE: api_side_range(model, limits, min, max); break;
    case API_BY_PROMPT: *max = (double)limits->max_prompt_bytes; break;
    case API_BY_TIMEOUT: *max = limits->max_start_timeout_ms; break;
    }
}

static int set_text(const struct api_field *f, struct api_draft *d, const json_t *v,
                    struct api_name name) {
    double min, max;
    api_field_range(f, d->model, d->limits, &min, &max);
    if (!json_is_string(v))
        return api_refuse(d->err, name, "%s must be a string, got %s", name.param, api_type_of(v));
    size_t len = json_string_length(v);
    if ((double)len < min) return api_refuse(d->err, name, "%s must not be empty", name.param);
    if ((double)len > max)
        return api_refuse(d->err, name, "%s must be at most %.0f bytes of UTF-8, got %zu",
                          name.param, max, len);
    /* empty means absent, so that equal requests have equal parameters */
    const char *copy = len ? taca_arena_strndup(&d->r.arena, json_string_value(v), len) : NULL;
    if (len && !copy)
        return api_fail(d->err, 503, "gpu_oom", NULL, "out of memory reading the request");
    memcpy((char *)d + f->at, &copy, sizeof copy);
    return 0;
}

/* Values of `list` for a message: "png" or "b64_json, binary". */
static void join(char *out, size_t size, const char *const *list) {
    size_t used = 0;
    for (out[0] = 0; *list; list++) {
        if (!**list) continue; /* the unnamed choice */
        int n = snprintf(out + used, size - used, "%s\"%s\"", used ? ", " : "", *list);
        if (n < 0 || (size_t)n >= size - used) return;
        used += (size_t)n;
    }
}

static int index_of(const char *const *list, const char *s) {
    for (int i = 0; list && list[i]; i++)
        if (s[0] && strcmp(list[i], s) == 0) return i;
    return -1;
}

static int set_choice(const struct api_field *f, struct api_draft *d, const json_t *v,
                      struct api_name name) {
    char known[128];
    join(known, sizeof known, f->choices);
    if (!json_is_string(v))
        return api_refuse(d->err, name, "%s must be a string, one of %s, got %s", name.param, known,
                          api_type_of(v));
    const char *s = json_string_value(v);
    int i = index_of(f->choices, s);
    if (i < 0 && index_of(f->not_choices, s) >= 0)
        return api_refuse(d->err, name, "%s \"%s\" is not supported by this server yet: use %s",
                          name.param, s, known);
    if (i < 0)
        return api_refuse(d->err, name, "%s must be one of %s, got \"%s\"", name.param, known,
                          api_quote(s).text);
    memcpy((char *)d + f->at, &i, sizeof i); /* enums of this table have the size of an int */
    return 0;
}

static int set_number(const struct api_field *f, struct api_draft *d, const json_t *v,
                      struct api_name name) {
    double min, max, number;
    int64_t whole;
    api_field_range(f, d->model, d->limits, &min, &max);
    if (f->kind == API_NUMBER) {
        int rc = api_want_number(&number, v, min, max, name, d->err);
        if (!rc) memcpy((char *)d + f->at, &number, sizeof number);
        return rc;
    }
    int rc = api_want_int(&whole, v, (int64_t)min, (int64_t)max, name, d->err);
    int i = (int)whole;
    if (!rc) memcpy((char *)d + f->at, &i, sizeof i);
    return rc;
}

_Static_assert(sizeof(enum api_format) == sizeof(int) && sizeof(enum api_response) == sizeof(int) &&
                   sizeof(enum api_on_disconnect) == sizeof(int),
               "set_choice stores an int");

int api_field_set(const struct api_field *f, struct api_draft *d, const json_t *v,
                  const char *param) {
    struct api_name name = {.param = param, .field = f->name};
    if (api_field_refused(f, d->model) && f->why)
        return api_refuse(d->err, name, "%s is not supported: %s", param, f->why);
    switch (f->kind) {
    case API_BOOL: return api_want_bool((bool *)(void *)((char *)d + f->at), v, name, d->err);
    case API_INT:
    case API_NUMBER: return set_number(f, d, v, name);
    case API_TEXT: return set_text(f, d, v, name);
    case API_CHOICE: return set_choice(f, d, v, name);
    case API_SPECIAL: return f->set(d, v, name);
    case API_REFUSED: break;
    }
    return api_refuse(d->err, name, "%s is not supported by this server yet", param);
}
