/* args.c - the arguments of a reference pipeline's call as a pipelines.json or text_cases.json
 * gives them. An argument that would change the result and is not known here is refused. */
#include <string.h>

#include "engine/verify/case.h"

static enum taca_code read_task(struct case_args *a, const json_t *entry, struct taca_err *err) {
    static const struct {
        const char *name;
        enum case_task task;
        bool flux;
    } known[] = {{"StableDiffusion3Pipeline", CASE_TEXT_TO_IMAGE, false},
                 {"StableDiffusion3Img2ImgPipeline", CASE_IMAGE_TO_IMAGE, false},
                 {"StableDiffusion3InpaintPipeline", CASE_INPAINT, false},
                 {"FluxPipeline", CASE_TEXT_TO_IMAGE, true},
                 {"FluxImg2ImgPipeline", CASE_IMAGE_TO_IMAGE, true},
                 {"FluxInpaintPipeline", CASE_INPAINT, true}};
    const char *name = json_string_value(json_object_get(entry, "pipeline"));
    if (!name) return taca_fail(err, TACA_EFORMAT, "the entry names no \"pipeline\"");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            a->task = known[i].task;
            a->flux = known[i].flux;
            return TACA_OK;
        }
    return taca_fail(err, TACA_EUNSUPPORTED, "%.64s is not part of this build", name);
}

static enum taca_code check_known(const json_t *args, struct taca_err *err) {
    static const char *const known[] = {"prompt",
                                        "prompt_2",
                                        "prompt_3",
                                        "negative_prompt",
                                        "negative_prompt_2",
                                        "negative_prompt_3",
                                        "prompt_embeds",
                                        "pooled_prompt_embeds",
                                        "negative_prompt_embeds",
                                        "negative_pooled_prompt_embeds",
                                        "height",
                                        "width",
                                        "num_inference_steps",
                                        "guidance_scale",
                                        "true_cfg_scale",
                                        "num_images_per_prompt",
                                        "image",
                                        "mask_image",
                                        "strength",
                                        "clip_skip",
                                        "max_sequence_length",
                                        "taca",
                                        "lora",
                                        "output_type"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)args, key, value) {
        bool found = json_is_null(value);
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found = found || strcmp(key, known[i]) == 0;
        if (!found)
            return taca_fail(err, TACA_EUNSUPPORTED, "argument %.64s is not part of this build",
                             key);
    }
    return TACA_OK;
}

static enum taca_code read_int(const json_t *args, const char *key, int fallback, int max, int *out,
                               struct taca_err *err) {
    int64_t v;
    enum taca_code rc = taca_cfg_int(args, key, fallback, fallback == 0 ? 0 : 1, max, &v, err);
    if (!rc) *out = (int)v;
    return rc;
}

/* SD3's guidance_scale is the classifier-free one. FLUX has that as true_cfg_scale, which needs a
 * negative prompt; its guidance_scale is an input of the transformer. */
static enum taca_code read_guidance(struct case_args *a, const json_t *args, struct taca_err *err) {
    const double fallback = a->task == CASE_TEXT_TO_IMAGE ? 3.5 : 7;
    if (!a->flux) return taca_cfg_number(args, "guidance_scale", 7, -1e3, 1e3, &a->guidance, err);
    enum taca_code rc =
        taca_cfg_number(args, "guidance_scale", fallback, -1e3, 1e3, &a->embedded, err);
    if (!rc) rc = taca_cfg_number(args, "true_cfg_scale", 1, -1e3, 1e3, &a->guidance, err);
    const json_t *negative = json_object_get(args, "negative_prompt");
    if (!negative || json_is_null(negative))
        negative = json_object_get(args, "negative_prompt_embeds");
    if (!negative || json_is_null(negative)) a->guidance = 1;
    return rc;
}

/* {"gamma": g, "steps": [first, end]} or {"gamma": g, "sigma_ge": s}. */
static enum taca_code read_window(struct taca_window *w, const json_t *taca, struct taca_err *err) {
    int64_t steps[2];
    int n;
    *w = (struct taca_window){.rule = TACA_WINDOW_OFF, .gamma = 1};
    if (!taca || json_is_null(taca)) return TACA_OK;
    enum taca_code rc = taca_cfg_number(taca, "gamma", 1, 0, 1000, &w->gamma, err);
    if (rc) return rc;
    if (json_object_get(taca, "sigma_ge")) {
        w->rule = TACA_WINDOW_SIGMA;
        w->sigma_max = 1e9;
        return taca_cfg_number(taca, "sigma_ge", 0, -1e9, 1e9, &w->sigma_min, err);
    }
    rc = taca_cfg_ints(taca, "steps", steps, 2, &n, err);
    if (rc) return rc;
    if (n != 2 || steps[0] < 0 || steps[1] < steps[0] || steps[1] > TACA_MAX_STEPS)
        return taca_fail(err, TACA_EFORMAT,
                         "taca: wanted \"sigma_ge\", or \"steps\" as [first, end] in 0..%d",
                         TACA_MAX_STEPS);
    w->rule = TACA_WINDOW_STEPS;
    w->first_step = (int)steps[0];
    w->end_step = (int)steps[1];
    return TACA_OK;
}

/* {"file": name beside the list, "scale": s}: on where TACA is, or in every step without it. */
static enum taca_code read_lora(struct case_args *a, const json_t *lora, struct taca_err *err) {
    if (!lora || json_is_null(lora)) return TACA_OK;
    enum taca_code rc = taca_cfg_string(lora, "file", NULL, &a->lora, err);
    if (!rc) rc = taca_cfg_number(lora, "scale", 1, -20, 20, &a->lora_scale, err);
    if (!rc && (!a->lora || strchr(a->lora, '/')))
        rc = taca_fail(err, TACA_EFORMAT, "lora: wanted a \"file\" beside the list");
    return rc;
}

/* One integer, or a list with one per image. */
static enum taca_code read_seeds(struct case_args *a, const json_t *seed, struct taca_err *err) {
    size_t n = json_is_array(seed) ? json_array_size(seed) : 1;
    if (n < 1 || n > CASE_MAX_IMAGES)
        return taca_fail(err, TACA_EFORMAT, "seed: %zu of them, wanted 1..%d", n, CASE_MAX_IMAGES);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(seed) ? json_array_get(seed, i) : seed;
        if (!json_is_integer(s)) return taca_fail(err, TACA_EFORMAT, "seed: wanted an integer");
        a->seed[i] = (uint64_t)json_integer_value(s);
    }
    /* A list of one generator draws as the generator itself does. */
    a->n_seeds = (int)n;
    return TACA_OK;
}

enum taca_code case_args_read(struct case_args *out, const struct verify_case *c,
                              struct taca_err *err) {
    enum { MAX_SIDE = 16384 };
    const json_t *args = json_object_get(c->entry, "args");
    struct case_args a = {0};
    enum taca_code rc = read_task(&a, c->entry, err);
    if (!rc && !json_is_object(args))
        rc = taca_fail(err, TACA_EFORMAT, "the entry has no object \"args\"");
    if (!rc) rc = check_known(args, err);
    const bool few = a.task == CASE_TEXT_TO_IMAGE || a.flux;
    if (!rc) rc = read_int(args, "height", 0, MAX_SIDE, &a.height_px, err);
    if (!rc) rc = read_int(args, "width", 0, MAX_SIDE, &a.width_px, err);
    if (!rc)
        rc = read_int(args, "num_inference_steps", few ? 28 : 50, TACA_MAX_STEPS, &a.steps, err);
    if (!rc) rc = read_int(args, "num_images_per_prompt", 1, CASE_MAX_IMAGES, &a.images, err);
    if (!rc) rc = read_int(args, "clip_skip", 0, 64, &a.clip_skip, err);
    if (!rc) rc = read_int(args, "max_sequence_length", a.flux ? 512 : 256, 512, &a.t5_tokens, err);
    if (!rc) rc = read_guidance(&a, args, err);
    if (!rc) rc = taca_cfg_number(args, "strength", 0.6, 0, 1, &a.strength, err);
    if (!rc) rc = read_window(&a.window, json_object_get(args, "taca"), err);
    if (!rc) rc = read_lora(&a, json_object_get(args, "lora"), err);
    if (!rc) rc = read_seeds(&a, json_object_get(c->entry, "seed"), err);
    if (!rc) *out = a;
    return rc;
}
