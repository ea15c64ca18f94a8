/* a1111_reply.c - results and lists in the words of AUTOMATIC1111's API; see a1111.h. Programs read
 * `info` as JSON inside a string, and look for lists that are empty here. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/a1111.h"
#include "api/image_file.h"
#include "api/picture.h"
#include "api/write.h"
#include "base/json.h"

enum { MAX_INFO = 1 << 20, MAX_VALUES = 200, MAX_DEPTH = 8 };

/* ---- results ----------------------------------------------------------------------------------
 */

/* "20261129224500" in UTC. */
static void put_time(struct taca_buf *out, int64_t at_s) {
    struct tm tm;
    time_t t = (time_t)at_s;
    char text[32] = "0";
    if (gmtime_r(&t, &tm)) strftime(text, sizeof text, "%Y%m%d%H%M%S", &tm);
    taca_buf_printf(out, "\"%s\"", text);
}

static void put_strings(struct taca_buf *out, const char *key, const char *s, int n) {
    taca_buf_printf(out, ",\"%s\":[", key);
    for (int i = 0; i < n; i++) {
        if (i) taca_buf_puts(out, ",");
        api_put_string(out, s ? s : "");
    }
    taca_buf_puts(out, "]");
}

static void put_infotexts(struct taca_buf *out, const struct api_request *r,
                          const struct taca_model_info *m) {
    taca_buf_puts(out, ",\"infotexts\":[");
    for (int i = 0; i < r->n; i++) {
        struct taca_buf text;
        struct taca_gen_params p = r->params;
        p.seed += (uint64_t)i;
        taca_buf_init(&text, MAX_INFO);
        api_image_parameters(&text, &p, m);
        if (i) taca_buf_puts(out, ",");
        taca_buf_json(out, text.data ? text.data : "", text.len);
        if (text.failed) out->failed = true;
        taca_buf_finish(&text);
    }
    taca_buf_puts(out, "]");
}

static void put_warnings(struct taca_buf *out, const struct api_request *r, unsigned warnings) {
    taca_buf_printf(out, ",\"notes\":[%s],\"warnings\":", r->notes ? r->notes : "");
    api_warnings_json(out, warnings);
}

static void put_info(struct taca_buf *out, int64_t created_s, const struct api_request *r,
                     const struct taca_model_info *m, unsigned warnings) {
    const struct taca_gen_params *p = &r->params;
    taca_buf_puts(out, "{\"prompt\":");
    api_put_string(out, p->prompt);
    put_strings(out, "all_prompts", p->prompt, r->n);
    taca_buf_puts(out, ",\"negative_prompt\":");
    api_put_string(out, p->negative_prompt ? p->negative_prompt : "");
    put_strings(out, "all_negative_prompts", p->negative_prompt, r->n);
    taca_buf_printf(out, ",\"seed\":%llu,\"all_seeds\":[", (unsigned long long)p->seed);
    for (int i = 0; i < r->n; i++)
        taca_buf_printf(out, "%s%llu", i ? "," : "", (unsigned long long)p->seed + (unsigned)i);
    taca_buf_puts(out, "],\"subseed\":-1,\"all_subseeds\":[");
    for (int i = 0; i < r->n; i++) taca_buf_puts(out, i ? ",-1" : "-1");
    taca_buf_printf(out, "],\"subseed_strength\":0,\"width\":%d,\"height\":%d,\"sampler_name\":",
                    p->width_px, p->height_px);
    api_put_string(out, api_sampler_title(p->sampler));
    taca_buf_puts(out, ",\"cfg_scale\":");
    api_put_double(out, p->cfg_scale);
    taca_buf_printf(out, ",\"steps\":%d,\"batch_size\":%d,\"restore_faces\":false,", p->steps,
                    r->n);
    taca_buf_puts(out, "\"face_restoration_model\":null,\"sd_model_name\":");
    api_put_string(out, m->id);
    taca_buf_puts(out, ",\"sd_model_hash\":null,\"sd_vae_name\":null,\"sd_vae_hash\":null,"
                       "\"seed_resize_from_w\":-1,\"seed_resize_from_h\":-1,"
                       "\"denoising_strength\":");
    if (r->edit)
        api_put_double(out, p->strength);
    else
        taca_buf_puts(out, "null");
    taca_buf_puts(out, ",\"extra_generation_params\":{},\"index_of_first_image\":0");
    put_infotexts(out, r, m);
    taca_buf_puts(out, ",\"styles\":[],\"job_timestamp\":");
    put_time(out, created_s);
    taca_buf_puts(out, ",\"clip_skip\":1,\"is_using_inpainting_conditioning\":false,"
                       "\"version\":\"taca " TACA_VERSION "\"");
    put_warnings(out, r, warnings);
    taca_buf_puts(out, "}");
}

void api_a1111_json(struct taca_buf *out, int64_t created_s, const struct api_request *r,
                    const struct taca_model_info *m, const struct api_result_image *images,
                    unsigned warnings) {
    struct taca_buf info;
    taca_buf_puts(out, "{\"images\":[");
    for (int i = 0; i < r->n && r->send_images; i++) {
        taca_buf_puts(out, i ? ",\"" : "\"");
        api_base64(out, images[i].bytes, images[i].len);
        taca_buf_puts(out, "\"");
    }
    taca_buf_printf(out, "],\"parameters\":%s,\"info\":", r->echo ? r->echo : "{}");
    taca_buf_init(&info, 64 * MAX_INFO);
    put_info(&info, created_s, r, m, warnings);
    taca_buf_json(out, info.data ? info.data : "", info.len);
    if (info.failed) out->failed = true;
    taca_buf_finish(&info);
    taca_buf_puts(out, "}");
}

void api_a1111_progress_json(struct taca_buf *out, const struct api_a1111_progress *p) {
    bool on = p->job != NULL;
    taca_buf_puts(out, "{\"progress\":");
    api_put_double(out, on ? round(p->part * 10000) / 10000 : 0);
    taca_buf_puts(out, ",\"eta_relative\":");
    api_put_double(out, on && p->eta_ms > 0 ? round(p->eta_ms) / 1000 : 0);
    taca_buf_puts(out, ",\"state\":{\"skipped\":false,\"interrupted\":false,"
                       "\"stopping_generation\":false,\"job\":");
    api_put_string(out, on ? p->job : "");
    taca_buf_printf(out, ",\"job_count\":%d,\"job_no\":%d,\"job_timestamp\":", on ? p->images : 0,
                    on ? p->images_done : 0);
    put_time(out, on ? p->created_s : 0);
    taca_buf_printf(out,
                    ",\"sampling_step\":%d,\"sampling_steps\":%d},\"current_image\":null,"
                    "\"textinfo\":null}",
                    on ? p->step : 0, on ? p->steps : 0);
}

/* ---- lists ------------------------------------------------------------------------------------
 */

/* Those that are loaded: who names another in override_settings is told where it stands. */
static void put_models(struct taca_buf *out, const struct api_offer *offer) {
    const char *between = "[{\"title\":";
    for (int k = 0; k < offer->n_models; k++) {
        const char *id = offer->models[k].id;
        if (!offer->models[k].info) continue;
        taca_buf_puts(out, between);
        api_put_string(out, id);
        taca_buf_puts(out, ",\"model_name\":");
        api_put_string(out, id);
        taca_buf_puts(out, ",\"hash\":null,\"sha256\":null,\"filename\":");
        api_put_string(out, id);
        taca_buf_puts(out, ",\"config\":null}");
        between = ",{\"title\":";
    }
    taca_buf_puts(out, *between == '[' ? "[]" : "]");
}

static void put_samplers(struct taca_buf *out) {
    taca_buf_puts(out, "[");
    for (int i = 0; taca_sampler_names[i]; i++) {
        taca_buf_puts(out, i ? ",{\"name\":" : "{\"name\":");
        api_put_string(out, api_sampler_title((enum taca_sampler)i));
        taca_buf_printf(out, ",\"aliases\":[\"%s\"],\"options\":{}}", taca_sampler_names[i]);
    }
    taca_buf_puts(out, "]");
}

static void put_schedules(struct taca_buf *out) {
    static const char *const labels[] = {"Automatic", "Simple", "Normal",     "SGM Uniform",
                                         "Beta",      "Karras", "Exponential"};
    taca_buf_puts(out, "[");
    for (int i = 0; taca_levels_names[i]; i++)
        taca_buf_printf(out,
                        "%s{\"name\":\"%s\",\"label\":\"%s\",\"aliases\":null,"
                        "\"default_rho\":%d,\"need_inner_model\":false}",
                        i ? "," : "", i ? taca_levels_names[i] : "automatic", labels[i],
                        i == TACA_LEVELS_KARRAS ? 7 : -1);
    taca_buf_puts(out, "]");
}

/* By the ids that requests name; where the files are is nobody's business. */
static const char *put_loras_of(struct taca_buf *out, const struct taca_model_info *m,
                                const char *between) {
    for (int i = 0; i < m->n_loras; i++) {
        taca_buf_puts(out, between);
        api_put_string(out, m->loras[i].id);
        taca_buf_puts(out, ",\"alias\":");
        api_put_string(out, m->loras[i].id);
        taca_buf_puts(out, ",\"path\":");
        api_put_string(out, m->loras[i].id);
        taca_buf_puts(out, ",\"metadata\":{\"model\":");
        api_put_string(out, m->id);
        taca_buf_puts(out, "}}");
        between = ",{\"name\":";
    }
    return between;
}

static void put_loras(struct taca_buf *out, const struct api_offer *offer) {
    const char *between = "[{\"name\":";
    for (int k = 0; k < offer->n_models; k++)
        if (offer->models[k].info) between = put_loras_of(out, offer->models[k].info, between);
    taca_buf_puts(out, *between == '[' ? "[]" : "]");
}

/* Meant by requests that name none; NULL when none is loaded. */
static const struct taca_model_info *usual(const struct api_offer *offer) {
    for (int k = 0; k < offer->n_models; k++)
        if (offer->models[k].info) return offer->models[k].info;
    return NULL;
}

static void put_options(struct taca_buf *out, const struct taca_model_info *m) {
    taca_buf_puts(out, "{\"sd_model_checkpoint\":");
    api_put_string(out, m ? m->id : NULL);
    taca_buf_puts(out, ",\"sd_checkpoint_hash\":null,\"sd_vae\":\"Automatic\","
                       "\"samples_format\":\"png\",\"CLIP_stop_at_last_layers\":1,"
                       "\"live_previews_enable\":false,\"return_grid\":false}");
}

bool api_a1111_list_json(struct taca_buf *out, const char *name, const struct api_offer *offer) {
    static const struct {
        const char *name, *json;
    } fixed[] = {{"upscalers", "[{\"name\":\"None\",\"model_name\":null,\"model_path\":null,"
                               "\"model_url\":null,\"scale\":1}]"},
                 {"scripts", "{\"txt2img\":[],\"img2img\":[]}"},
                 {"embeddings", "{\"loaded\":{},\"skipped\":{}}"},
                 {"cmd-flags", "{\"api\":true}"},
                 {"sd-vae", "[]"},
                 {"sd-modules", "[]"},
                 {"latent-upscale-modes", "[]"},
                 {"hypernetworks", "[]"},
                 {"face-restorers", "[]"},
                 {"prompt-styles", "[]"}};
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (strcmp(name, fixed[i].name) == 0) return taca_buf_puts(out, fixed[i].json), true;
    if (strcmp(name, "sd-models") == 0) return put_models(out, offer), true;
    if (strcmp(name, "samplers") == 0) return put_samplers(out), true;
    if (strcmp(name, "schedulers") == 0) return put_schedules(out), true;
    if (strcmp(name, "loras") == 0) return put_loras(out, offer), true;
    if (strcmp(name, "options") == 0) return put_options(out, usual(offer)), true;
    return false;
}

/* ---- small questions --------------------------------------------------------------------------
 */

static int load(json_t **out, const char *body, size_t len, struct api_error *err) {
    json_error_t why;
    bool no_memory = false;
    if (taca_json_fit(body, len, MAX_DEPTH, MAX_VALUES) != TACA_JSON_FITS)
        return api_fail(err, 400, "too_complex", NULL, "the body has too many JSON values");
    *out = taca_json_parse(body, len, &why, &no_memory);
    if (no_memory) return api_fail(err, 503, "gpu_oom", NULL, "out of memory");
    if (json_is_object(*out)) return 0;
    json_decref(*out);
    return api_fail(err, 400, "invalid_json", NULL, "the body must be a JSON object");
}

/* There it changes what everybody gets; here a request chooses for itself. */
static int keep_model(const json_t *v, const struct api_offer *offer, struct api_error *err) {
    static const char key[] = "sd_model_checkpoint";
    const struct api_name name = {key, "model"};
    const struct taca_model_info *m = usual(offer);
    const char *id = json_string_value(v);
    if (json_is_null(v) || (id && m && strcmp(id, m->id) == 0)) return 0;
    if (!id) return api_refuse(err, name, "%s must be a string, got %s", key, api_type_of(v));
    for (int k = 0; k < offer->n_models; k++)
        if (strcmp(id, offer->models[k].id) == 0)
            return api_refuse(err, name,
                              "model \"%s\" is chosen by a request, in its override_settings: the "
                              "one for requests that name none is not changed from outside",
                              id);
    return api_no_such_model(err, id, key, offer);
}

int api_a1111_set_options(const char *body, size_t len, const struct api_offer *offer,
                          char *ignored, size_t size, struct api_error *err) {
    struct api_draft d = {.err = err};
    const char *key;
    json_t *root, *v;
    int rc = load(&root, body, len, err);
    if (rc) return rc;
    json_object_foreach(root, key, v) {
        if (strcmp(key, "sd_model_checkpoint") == 0)
            rc = keep_model(v, offer, err);
        else
            api_openai_ignore(&d, key);
        if (rc) break;
    }
    json_decref(root);
    snprintf(ignored, size, "%s", d.ignored);
    return rc;
}

int api_a1111_png_info(struct taca_buf *out, const char *body, size_t len,
                       const struct api_limits *limits, struct api_error *err) {
    json_t *root;
    const struct api_name name = {"image", "image"};
    int rc = load(&root, body, len, err);
    if (rc) return rc;
    struct taca_buf text;
    struct taca_model_info m = {.takes_images = true};
    struct api_draft d;
    api_draft_init(&d, &m, limits, err);
    taca_buf_init(&text, MAX_INFO);
    const json_t *image = json_object_get(root, "image");
    if (!image) rc = api_refuse(err, name, "image is required");
    if (!rc) rc = api_set_image(&d, image, name);
    if (!rc) rc = api_pictures_open(&d, true, true);
    if (!rc) {
        struct taca_err none = {0};
        bool there =
            api_image_text(&text, "parameters", d.image.bytes, d.image.len, &none) == TACA_OK;
        taca_buf_puts(out, "{\"info\":");
        taca_buf_json(out, there && text.data ? text.data : "", there ? text.len : 0);
        taca_buf_puts(out, ",\"items\":{");
        if (there) taca_buf_puts(out, "\"parameters\":");
        if (there) taca_buf_json(out, text.data ? text.data : "", text.len);
        taca_buf_puts(out, "},\"parameters\":{}}");
    }
    if (!rc && out->failed)
        rc = api_refuse(err, name, "image: its %zu bytes of text are too many to tell", text.len);
    taca_buf_finish(&text);
    api_pictures_finish(&d);
    json_decref(root);
    return rc;
}
