/* generate_request.c - what is asked for as one JSON object; see generate.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/image_file.h"
#include "base/json.h"
#include "cli/file.h"
#include "cli/generate.h"
#include "cli/size.h"

enum { LARGEST_FILE = 256 << 20, LARGEST_SIDE_PX = 1 << 14 };

/* ---- the picture of --from ------------------------------------------------------------------- */

static enum taca_code read_from(const char *path, struct taca_buf *text, struct taca_err *err) {
    struct taca_buf bytes;
    struct taca_err why = {0};
    taca_buf_init(&bytes, LARGEST_FILE);
    enum taca_code rc = file_read(&bytes, path, err);
    if (!rc && (rc = api_image_text(text, "taca", bytes.data, bytes.len, &why))) {
        const bool other =
            api_image_text(text, "parameters", bytes.data, bytes.len, NULL) == TACA_OK;
        if (rc != TACA_ENOTFOUND)
            taca_fail(err, rc, "%s: %s", path, why.text);
        else
            taca_fail(err, rc, "%s was not made by taca, or without its parameters%s", path,
                      other ? ": another program's (\"parameters\") cannot be repeated exactly, "
                              "see taca inspect"
                            : "");
    }
    taca_buf_finish(&bytes);
    return rc;
}

static enum taca_code take_from(struct gen *g, struct taca_err *err) {
    struct taca_buf text;
    json_error_t why = {0};
    bool no_memory = false;
    taca_buf_init(&text, 1 << 20);
    enum taca_code rc = read_from(g->o->from, &text, err);
    if (!rc) {
        json_t *v = taca_json_parse(text.data ? text.data : "", text.len, &why, &no_memory);
        if (json_is_object(v)) {
            json_decref(g->request);
            g->request = v;
        } else {
            rc = taca_fail(err, TACA_EFORMAT, "%s: the parameters inside are broken: %s",
                           g->o->from, v ? "no object" : why.text);
            json_decref(v);
        }
    }
    taca_buf_finish(&text);
    if (rc) return rc;
    const json_t *model = json_object_get(g->request, "model");
    if (json_is_string(model)) g->model = strdup(json_string_value(model));
    return TACA_OK;
}

/* What a picture cannot carry must be given again. */
static enum taca_code complete_from(struct gen *g, struct taca_err *err) {
    if (!json_object_get(g->request, "strength") || g->o->image) return TACA_OK;
    return taca_fail_param(err, "image", "%s was made from another picture: give that by --image",
                           g->o->from);
}

/* ---- options --------------------------------------------------------------------------------- */

static void set(json_t *o, const char *name, json_t *v) { (void)json_object_set_new(o, name, v); }

static void set_text(json_t *o, const char *name, const char *s) {
    if (s) set(o, name, json_string(s));
}

static void set_int(json_t *o, const char *name, int v, int least) {
    if (v >= least) set(o, name, json_integer(v));
}

static void set_number(json_t *o, const char *name, double v) {
    if (!isnan(v)) set(o, name, json_real(v));
}

static void set_choice(json_t *o, const char *name, const char *const *names, int i) {
    if (i >= 0) set(o, name, json_string(names[i]));
}

/* UTF-8 or a refusal: jansson would leave the text out. */
static enum taca_code check_texts(const struct gen_opts *o, struct taca_err *err) {
    const struct {
        const char *name, *text;
    } all[] = {{"prompt", o->prompt},
               {"negative_prompt", o->negative},
               {"prompt_2", o->prompt_2},
               {"prompt_3", o->prompt_3}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        json_t *v = all[i].text ? json_string(all[i].text) : NULL;
        if (all[i].text && !v)
            return taca_fail_param(err, all[i].name, "%s must be UTF-8", all[i].name);
        json_decref(v);
    }
    return TACA_OK;
}

static enum taca_code put_size(struct gen *g, struct taca_err *err) {
    const struct gen_opts *o = g->o;
    int w = 0, h = 0;
    if (o->size) {
        if (o->width > 0 || o->height > 0)
            return taca_fail_param(err, "size", "give --size or --width and --height, not both");
        enum taca_code rc = cli_size(o->size, &w, &h, err);
        if (rc) return rc;
        set(g->request, "width", json_integer(w));
        set(g->request, "height", json_integer(h));
    }
    if (o->round_size) set(g->request, "round_size", json_true());
    set_int(g->request, "width", o->width, 1);
    set_int(g->request, "height", o->height, 1);
    return TACA_OK;
}

/* The picture to start from gives the size unless there is one, which must then be its own. */
static enum taca_code put_picture(struct gen *g, struct taca_err *err) {
    const struct gen_opts *o = g->o;
    if (!isnan(o->strength) && !o->image)
        return taca_fail_param(err, "strength", "--strength needs an --image");
    enum taca_code rc = picture_read(&g->picture, o->image, o->mask, LARGEST_SIDE_PX, err);
    const struct taca_image *img = &g->picture.image;
    if (rc || !img->rgb) return rc;
    if (!json_object_get(g->request, "width"))
        set(g->request, "width", json_integer(img->width_px));
    if (!json_object_get(g->request, "height"))
        set(g->request, "height", json_integer(img->height_px));
    const json_int_t w = json_integer_value(json_object_get(g->request, "width")),
                     h = json_integer_value(json_object_get(g->request, "height"));
    if (w != img->width_px || h != img->height_px)
        return taca_fail_param(err, "image",
                               "%s has %d x %d pixels, wanted %" JSON_INTEGER_FORMAT
                               " x %" JSON_INTEGER_FORMAT,
                               o->image, img->width_px, img->height_px, w, h);
    set_number(g->request, "strength", o->strength);
    return TACA_OK;
}

/* The scale and the window of --from stay where the options do not name others. */
static enum taca_code put_taca(struct gen *g, struct taca_err *err) {
    const struct gen_opts *o = g->o;
    const int rules = !isnan(o->taca_fraction) + !isnan(o->taca_threshold) + (o->taca_steps >= 0);
    if (rules > 1)
        return taca_fail_param(err, "taca",
                               "give one of --taca-fraction, --taca-steps and --taca-threshold");
    if (o->no_taca) set(g->request, "taca", json_false());
    if (o->no_taca || (!o->taca && rules == 0 && isnan(o->taca_scale))) return TACA_OK;
    json_t *was = json_object_get(g->request, "taca"), *taca = json_object();
    if (json_is_object(was) && rules == 0)
        json_object_update(taca, was);
    else if (json_is_object(was) && json_object_get(was, "scale"))
        json_object_set(taca, "scale", json_object_get(was, "scale"));
    set_number(taca, "scale", o->taca_scale);
    set_number(taca, "fraction", o->taca_fraction);
    set_number(taca, "threshold", o->taca_threshold);
    set_int(taca, "steps", o->taca_steps, 0);
    set(g->request, "taca", taca);
    return TACA_OK;
}

/* "7,8,9" */
static enum taca_code put_slg(struct gen *g, struct taca_err *err) {
    const struct gen_opts *o = g->o;
    if (!o->slg_layers && isnan(o->slg_scale) && isnan(o->slg_start) && isnan(o->slg_stop))
        return TACA_OK;
    json_t *was = json_object_get(g->request, "skip_layer_guidance");
    json_t *slg = json_is_object(was) ? json_copy(was) : json_object(), *layers = NULL;
    set(g->request, "skip_layer_guidance", slg);
    if (o->slg_layers) set(slg, "layers", layers = json_array());
    for (const char *s = o->slg_layers; s && *s;) {
        char *end;
        const unsigned long k = strtoul(s, &end, 10);
        if (*s < '0' || *s > '9' || k >= 64 || (*end && (*end != ',' || !end[1])))
            return taca_fail_param(err, "slg-layers",
                                   "--slg-layers must be block numbers such as 7,8,9, got '%s'",
                                   o->slg_layers);
        (void)json_array_append_new(layers, json_integer((json_int_t)k));
        s = *end ? end + 1 : end;
    }
    set_number(slg, "scale", o->slg_scale);
    set_number(slg, "start", o->slg_start);
    set_number(slg, "stop", o->slg_stop);
    return TACA_OK;
}

static enum taca_code put_options(struct gen *g, struct taca_err *err) {
    const struct gen_opts *o = g->o;
    json_t *q = g->request;
    set_text(q, "prompt", o->prompt);
    set_text(q, "negative_prompt", o->negative);
    set_text(q, "prompt_2", o->prompt_2);
    set_text(q, "prompt_3", o->prompt_3);
    set_int(q, "steps", o->steps, 1);
    set_int(q, "clip_skip", o->clip_skip, 0);
    set_int(q, "max_sequence_length", o->t5_tokens, 1);
    set_number(q, "cfg_scale", o->cfg);
    set_number(q, "guidance_scale", o->guidance);
    set_number(q, "shift", o->shift);
    set_choice(q, "sampler", taca_sampler_names, o->sampler);
    set_choice(q, "schedule", taca_levels_names, o->schedule);
    set_choice(q, "rng", taca_noise_names, o->rng);
    set(q, "n", json_integer(o->n));
    set(q, "output_format", json_string(api_format_name(gen_format(o))));
    set_int(q, "output_compression", o->jpeg_quality, 0);
    set_int(q, "png_level", o->png_level, 0);
    set(q, "metadata", json_boolean(o->metadata));
    if (!isnan(o->seed) && o->seed != floor(o->seed))
        return taca_fail_param(err, "seed", "--seed must be a whole number");
    if (!isnan(o->seed)) set(q, "seed", json_integer((json_int_t)o->seed));
    enum taca_code rc = put_size(g, err);
    if (!rc) rc = put_picture(g, err);
    if (!rc) rc = put_taca(g, err);
    return rc ? rc : put_slg(g, err);
}

enum taca_code gen_request_open(struct gen *g, const struct gen_opts *o, struct taca_err *err) {
    g->o = o;
    g->request = json_object();
    if (!g->request) return taca_fail(err, TACA_ENOMEM, "a request");
    if (!o->prompt && !o->from)
        return taca_fail_param(err, "prompt",
                               "a PROMPT is wanted, or a picture to repeat (--from)");
    enum taca_code rc = check_texts(o, err);
    if (!rc && o->from) rc = take_from(g, err);
    if (!rc && o->from) rc = complete_from(g, err);
    return rc ? rc : put_options(g, err);
}

void gen_request_close(struct gen *g) {
    json_decref(g->request);
    g->request = NULL;
    picture_finish(&g->picture);
    free(g->model);
    g->model = NULL;
}

/* ---- adapters -------------------------------------------------------------------------------- */

int gen_lora_split(const char *item, double *scale) {
    const char *colon = strrchr(item, ':');
    char *end;
    if (!colon || !colon[1]) return (int)strlen(item);
    const double v = strtod(colon + 1, &end);
    if (*end) return (int)strlen(item);
    *scale = v;
    return (int)(colon - item);
}

void gen_lora_from_picture(const struct gen *g, struct gen_lora *use) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(g->request, "loras"), i, item) {
        const char *id = json_string_value(json_object_get(item, "id"));
        const json_t *scale = json_object_get(item, "scale");
        const char *window = json_string_value(json_object_get(item, "window"));
        if (!id || strcmp(id, use->id) != 0) continue;
        if (json_is_number(scale)) use->scale = json_number_value(scale);
        if (window) use->window = window;
    }
}

/* ---- refusals -------------------------------------------------------------------------------- */

/* The option that sets a field, where its name is another. */
static const char *option_of(const char *param) {
    static const char *const names[][2] = {
        {"model", "model"},
        {"cfg_scale", "cfg"},
        {"guidance_scale", "guidance"},
        {"negative_prompt", "negative"},
        {"n", "count"},
        {"prompt_2", "prompt-2"},
        {"prompt_3", "prompt-3"},
        {"output_format", "format"},
        {"output_compression", "jpeg-quality"},
        {"png_level", "png-level"},
        {"clip_skip", "clip-skip"},
        {"max_sequence_length", "max-sequence-length"},
        {"taca.scale", "taca-scale"},
        {"taca.fraction", "taca-fraction"},
        {"taca.steps", "taca-steps"},
        {"taca.threshold", "taca-threshold"},
        {"skip_layer_guidance.layers", "slg-layers"},
        {"skip_layer_guidance.scale", "slg-scale"},
        {"skip_layer_guidance.start", "slg-start"},
        {"skip_layer_guidance.stop", "slg-stop"},
        {"loras", "lora"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i][0], param) == 0) return names[i][1];
    return strncmp(param, "loras[", 6) == 0 ? "lora" : NULL;
}

enum taca_code gen_refused(const struct api_error *e, struct taca_err *err) {
    const char *option = option_of(e->param);
    const char *before = option ? " (--" : "", *after = option ? ")" : "";
    if (e->status == 400)
        return taca_fail_param(err, e->param, "%s%s%s%s", e->message, before, option ? option : "",
                               after);
    return taca_fail(err, e->status == 404 ? TACA_ENOTFOUND : TACA_EIO, "%s%s%s%s", e->message,
                     before, option ? option : "", after);
}
