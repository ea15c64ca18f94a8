/* models.c - what this server has and what it takes: /v1/models, /v1/loras and /v1/capabilities.
 * The parameters come from the parser's own table, so the two cannot disagree. */
#include <string.h>

#include "api/fields.h"
#include "api/reply.h"
#include "api/write.h"

static void put_listed(struct taca_buf *out, const struct api_model *m) {
    taca_buf_puts(out, "{\"id\":");
    api_put_string(out, m->id);
    taca_buf_printf(out,
                    ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"taca\","
                    "\"state\":\"%s\",\"workers\":%d",
                    (long long)m->created_s, m->state, m->workers);
    if (m->error) {
        taca_buf_puts(out, ",\"error\":");
        api_put_string(out, m->error);
    }
    if (m->info) {
        taca_buf_puts(out, ",\"family\":");
        api_put_string(out, m->info->family);
        taca_buf_puts(out, ",\"backend\":");
        api_put_string(out, m->info->backend);
        taca_buf_puts(out, ",\"precision\":");
        api_put_string(out, m->info->precision);
        taca_buf_printf(out, ",\"parameters\":%lld", (long long)m->info->parameters);
    }
    taca_buf_puts(out, "}");
}

void api_models_json(struct taca_buf *out, const struct api_model *list, int n) {
    taca_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < n; i++) {
        if (i) taca_buf_puts(out, ",");
        put_listed(out, &list[i]);
    }
    taca_buf_puts(out, "]}");
}

static const char *type_name(const struct api_field *f) {
    switch (f->kind) {
    case API_BOOL: return "boolean";
    case API_INT: return "integer";
    case API_NUMBER: return "number";
    case API_TEXT:
    case API_CHOICE: return "string";
    case API_SPECIAL: return f->type;
    case API_REFUSED: break;
    }
    return "";
}

static void put_choices(struct taca_buf *out, const struct api_field *f) {
    const char *comma = "";
    taca_buf_puts(out, "[");
    for (const char *const *s = f->choices; *s; s++) {
        if (!**s) continue;
        taca_buf_puts(out, comma);
        api_put_string(out, *s);
        comma = ",";
    }
    taca_buf_puts(out, "]");
}

static void put_default(struct taca_buf *out, const struct api_field *f,
                        const struct api_draft *defaults) {
    const void *at = (const char *)defaults + f->at;
    int i;
    double v;
    switch (f->kind) {
    case API_BOOL: taca_buf_puts(out, *(const bool *)at ? "true" : "false"); return;
    case API_INT:
        memcpy(&i, at, sizeof i);
        if (i < f->min) break; /* stands for a value that is chosen later */
        taca_buf_printf(out, "%d", i);
        return;
    case API_NUMBER:
        memcpy(&v, at, sizeof v);
        /* below its own range: "the checkpoint decides" */
        if (v >= f->min)
            api_put_double(out, v);
        else
            taca_buf_puts(out, "null");
        return;
    case API_CHOICE:
        memcpy(&i, at, sizeof i);
        api_put_string(out, f->choices[i][0] ? f->choices[i] : NULL);
        return;
    case API_TEXT:
    case API_SPECIAL:
    case API_REFUSED: break;
    }
    taca_buf_puts(out, f->shown ? f->shown : "null");
}

static void put_parameter(struct taca_buf *out, const struct api_field *f,
                          const struct api_draft *defaults) {
    double min, max;
    api_field_range(f, defaults->model, defaults->limits, &min, &max);
    taca_buf_printf(out, "\"%s\":{\"type\":", f->name);
    api_put_string(out, type_name(f));
    if (f->alias) taca_buf_printf(out, ",\"alias\":\"%s\"", f->alias);
    const bool ranged = max > min || f->bound != API_FIXED; /* a bound may leave one value */
    if (f->kind != API_BOOL && f->kind != API_CHOICE && ranged) {
        taca_buf_puts(out, f->kind == API_TEXT ? ",\"min_bytes\":" : ",\"min\":");
        api_put_double(out, min);
        taca_buf_puts(out, f->kind == API_TEXT ? ",\"max_bytes\":" : ",\"max\":");
        api_put_double(out, max);
    }
    if (f->kind == API_CHOICE) {
        taca_buf_puts(out, ",\"values\":");
        put_choices(out, f);
    }
    taca_buf_puts(out, ",\"default\":");
    put_default(out, f, defaults);
    taca_buf_puts(out, "}");
}

static void put_limits(struct taca_buf *out, const struct api_limits *l) {
    taca_buf_printf(
        out,
        "\"limits\":{\"max_pixels\":%lld,\"max_side_px\":%d,\"max_steps\":%d,"
        "\"max_n\":%d,\"max_image_pixels\":%lld,\"max_body_bytes\":%zu,\"max_prompt_bytes\":%zu,"
        "\"max_start_timeout_ms\":%d}",
        (long long)l->max_pixels, l->max_side_px, l->max_steps, l->max_n,
        (long long)l->max_image_pixels, l->max_body_bytes, l->max_prompt_bytes,
        l->max_start_timeout_ms);
}

static void put_model(struct taca_buf *out, const struct taca_model_info *m) {
    taca_buf_puts(out, "\"model\":{\"id\":");
    api_put_string(out, m->id);
    taca_buf_puts(out, ",\"family\":");
    api_put_string(out, m->family);
    taca_buf_puts(out, ",\"backend\":");
    api_put_string(out, m->backend);
    taca_buf_puts(out, ",\"device\":");
    api_put_string(out, m->device);
    taca_buf_puts(out, ",\"precision\":");
    api_put_string(out, m->precision);
    taca_buf_printf(out,
                    ",\"min_side_px\":%d,\"max_side_px\":%d,\"side_multiple_px\":%d,"
                    "\"clip_tokens\":%d,\"t5_tokens\":%d,\"parameters\":%lld,"
                    "\"weight_bytes\":%lld}",
                    m->min_side_px, m->max_side_px, m->side_multiple_px, m->clip_tokens,
                    m->t5_tokens, (long long)m->parameters, (long long)m->weight_bytes);
}

/* `comma` goes before the first; returns what goes before the next. */
static const char *put_loras(struct taca_buf *out, const struct taca_model_info *m,
                             const char *comma) {
    for (int i = 0; i < m->n_loras; i++) {
        const struct taca_lora_info *l = &m->loras[i];
        taca_buf_printf(out, "%s{\"id\":", comma);
        comma = ",";
        api_put_string(out, l->id);
        taca_buf_puts(out, ",\"object\":\"lora\",\"model\":");
        api_put_string(out, m->id);
        taca_buf_puts(out, ",\"family\":");
        api_put_string(out, m->family);
        taca_buf_puts(out, ",\"naming\":");
        api_put_string(out, l->naming);
        taca_buf_printf(out, ",\"rank\":%d,\"modules\":%d,\"parameters\":%lld}", l->rank,
                        l->modules, (long long)l->parameters);
    }
    return comma;
}

void api_loras_json(struct taca_buf *out, const struct taca_model_info *const *models, int n) {
    const char *comma = "";
    taca_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < n; i++) comma = put_loras(out, models[i], comma);
    taca_buf_puts(out, "]}");
}

static void put_features(struct taca_buf *out, const struct taca_model_info *m) {
    struct taca_window w = taca_window_default();
    taca_buf_puts(out, "\"replies\":[\"application/json\",\"image/png\",\"image/jpeg\","
                       "\"text/event-stream\"],"
                       "\"taca\":{\"default\":");
    api_put_taca(out, &w);
    taca_buf_puts(out, ",\"scale\":{\"min\":0,\"max\":10},\"windows\":[\"fraction\",\"steps\","
                       "\"threshold\",\"timestep_low\",\"timestep_high\"]},");
    taca_buf_printf(out,
                    "\"loras\":{\"max\":%d,\"scale\":{\"min\":-2,\"max\":2},"
                    "\"windows\":[\"always\",\"taca\"],\"available\":[",
                    API_MAX_LORAS);
    (void)put_loras(out, m, "");
    taca_buf_puts(out, "]},");
    taca_buf_printf(out, "\"images\":{\"image_to_image\":%s,\"inpaint\":%s,\"formats\":[%s]},",
                    m->takes_images ? "true" : "false", m->takes_images ? "true" : "false",
                    m->takes_images ? "\"image/png\",\"image/jpeg\"" : "");
    taca_buf_printf(out, "\"previews\":{\"max\":%d,\"methods\":[\"latent_rgb\"%s]}",
                    API_MAX_PREVIEWS, m->has_taesd ? ",\"taesd\"" : "");
}

/* Members of an object: what the model is and what a request to it may say. */
static void put_offered(struct taca_buf *out, const struct taca_model_info *m,
                        const struct api_limits *l) {
    size_t n;
    const struct api_field *f = api_fields(&n);
    struct api_error unused = {0};
    struct api_draft defaults;
    const char *comma = "";
    api_draft_init(&defaults, m, l, &unused);
    put_model(out, m);
    taca_buf_puts(out, ",");
    put_features(out, m);
    taca_buf_puts(out, ",\"parameters\":{");
    for (size_t i = 0; i < n; i++) {
        if (api_field_refused(&f[i], m)) continue;
        taca_buf_puts(out, comma);
        put_parameter(out, &f[i], &defaults);
        comma = ",";
    }
    taca_buf_puts(out, "}");
}

void api_capabilities_json(struct taca_buf *out, const struct api_limits *l,
                           const struct taca_model_info *usual,
                           const struct taca_model_info *const *models, int n) {
    taca_buf_puts(out, "{\"object\":\"capabilities\",\"version\":\"" TACA_VERSION "\",");
    put_limits(out, l);
    taca_buf_puts(out, ",");
    put_offered(out, usual, l);
    taca_buf_puts(out, ",\"models\":[");
    for (int i = 0; i < n; i++) {
        taca_buf_puts(out, i ? ",{" : "{");
        put_offered(out, models[i], l);
        taca_buf_puts(out, "}");
    }
    taca_buf_puts(out, "]}");
}
