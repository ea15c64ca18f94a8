/* openai.c - the fields of POST /v1/images/generations that are not ours or mean something else
 * there; see fields.h. */
#include <stdio.h>
#include <string.h>

#include "api/picture.h"

enum quality {
    QUALITY_AUTO,
    QUALITY_LOW,
    QUALITY_MEDIUM,
    QUALITY_HIGH,
    QUALITY_STANDARD,
    QUALITY_HD
};
static const char *const qualities[] = {"auto", "low", "medium", "high", "standard", "hd", NULL};

static bool is(const json_t *v, const char *text) {
    return json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

static int set_quality(struct api_draft *d, const json_t *v, struct api_name name) {
    for (int i = 0; qualities[i]; i++)
        if (is(v, qualities[i])) {
            d->quality = i;
            return 0;
        }
    return api_refuse(d->err, name,
                      "quality must be one of \"auto\", \"low\", \"medium\", \"high\", "
                      "\"standard\", \"hd\"");
}

static int check_background(struct api_draft *d, const json_t *v, struct api_name name) {
    if (is(v, "auto") || is(v, "opaque")) return 0;
    return api_refuse(d->err, name,
                      "background must be \"auto\" or \"opaque\": pictures are opaque");
}

/* The string of a picture: itself, or the image_url of an object. */
static const json_t *picture_text(const json_t *v) {
    const json_t *url = json_object_get(v, "image_url");
    return json_is_object(v) && url ? url : v;
}

bool api_openai_picture(struct api_draft *d, const char *key, const json_t *v, int *rc) {
    bool list = strcmp(key, "images") == 0 || strcmp(key, "image[]") == 0;
    struct api_name image = {key, "image"}, mask = {key, "mask"};
    if (strcmp(key, "mask") == 0) return *rc = api_set_mask(d, picture_text(v), mask), true;
    if (!list && strcmp(key, "image") != 0) return false;
    if (list && !json_is_array(v))
        return *rc = api_refuse(d->err, image, "%s must be a list", key), true;
    if (json_is_array(v) && json_array_size(v) != 1)
        *rc = api_refuse(d->err, image, "%s must hold one picture, which is edited; got %zu", key,
                         json_array_size(v));
    else if (d->image.bytes)
        *rc = api_refuse(d->err, image, "there is more than one image, and one is edited");
    else
        *rc = api_set_image(d, picture_text(json_is_array(v) ? json_array_get(v, 0) : v), image);
    return true;
}

int api_openai_field(struct api_draft *d, const char *key, const json_t *v, bool *ours) {
    struct api_name name = {key, key};
    int64_t count;
    int rc;
    *ours = false;
    if (d->r.edit && api_openai_picture(d, key, v, &rc)) return rc;
    if (strcmp(key, "quality") == 0) return set_quality(d, v, name);
    if (strcmp(key, "background") == 0) return check_background(d, v, name);
    if (strcmp(key, "progress_events") == 0)
        return api_want_bool(&d->r.progress_events, v, name, d->err);
    if (strcmp(key, "size") == 0 && is(v, "auto")) return 0;
    if (strcmp(key, "response_format") == 0 && is(v, "binary"))
        return api_refuse(d->err, name, "response_format must be \"b64_json\" or \"url\"");
    *ours = true;
    if (strcmp(key, "partial_images") == 0) return api_want_int(&count, v, 0, 3, name, d->err);
    return 0;
}

/* Into a header one day, so only what may stand there; the list is cut where it gets long. */
void api_openai_ignore(struct api_draft *d, const char *key) {
    size_t used = strlen(d->ignored), len = strlen(key);
    static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    if (len == 0 || strspn(key, ok) != len || used + len + 3 > sizeof d->ignored) return;
    snprintf(d->ignored + used, sizeof d->ignored - used, "%s%s", used ? ", " : "", key);
}

void api_openai_finish(struct api_draft *d, bool steps_given) {
    int usual = d->model->default_steps, *steps = &d->r.params.steps;
    double min, max = TACA_MAX_STEPS;
    size_t n;
    const struct api_field *f = api_fields(&n);
    d->r.quality = qualities[d->quality];
    /* accepted for every format there, and PNG has nothing to compress away */
    if (d->r.file.quality >= 0 && d->r.file.format != API_JPEG) {
        api_openai_ignore(d, "output_compression");
        d->r.file.quality = -1;
    }
    if (steps_given) return;
    for (size_t i = 0; i < n; i++)
        if (strcmp(f[i].name, "steps") == 0)
            api_field_range(&f[i], d->model, d->limits, &min, &max);
    switch ((enum quality)d->quality) {
    case QUALITY_AUTO:
    case QUALITY_MEDIUM:
    case QUALITY_STANDARD: break;
    case QUALITY_LOW: *steps = (usual + 1) / 2; break;
    case QUALITY_HIGH:
    case QUALITY_HD: *steps = usual + (usual + 1) / 2; break;
    }
    if (*steps > (int)max) *steps = (int)max;
}
