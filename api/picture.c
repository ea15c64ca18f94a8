/* picture.c - see picture.h, and request.h for api_request_unpack. Cheap checks first: a picture is
 * decoded only when nothing else of the request is wrong, and never beyond what its head said and
 * the limits allow. */
#include "api/picture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/image_file.h"
#include "api/reply.h"
#include "api/resize.h"

enum { FILE_MAX_SIDE = 1 << 15 };

static struct api_name name_of(const struct api_file *f, const char *field) {
    return (struct api_name){f->param ? f->param : field, field};
}

static int no_memory(struct api_error *err) {
    return api_fail(err, 503, "gpu_oom", NULL, "out of memory reading a picture");
}

/* ---- text ------------------------------------------------------------------------------------ */

static bool begins(const char *s, const char *with) {
    return strncasecmp(s, with, strlen(with)) == 0;
}

/* What follows the comma of data:image/png;base64,... ; NULL when it is no such address. */
static const char *after_data_url(const char *s) {
    const char *comma = strchr(s, ',');
    size_t len = comma ? (size_t)(comma - s) : 0;
    static const char end[] = ";base64";
    if (len < sizeof end - 1 || len > 128) return NULL;
    return strncasecmp(comma - (sizeof end - 1), end, sizeof end - 1) == 0 ? comma + 1 : NULL;
}

static int set_text(struct api_file *f, struct api_draft *d, const json_t *v,
                    struct api_name name) {
    if (!json_is_string(v))
        return api_refuse(d->err, name, "%s must be a string, base64 or a data URL, got %s",
                          name.param, api_type_of(v));
    const char *s = json_string_value(v);
    size_t len = json_string_length(v);
    if (begins(s, "http:") || begins(s, "https:") || begins(s, "file:") || begins(s, "ftp:"))
        return api_fail(d->err, 400, "url_not_allowed", name.param,
                        "%s is an address, and this server fetches nothing: send the picture "
                        "itself, as base64",
                        name.param);
    if (begins(s, "data:")) {
        const char *data = after_data_url(s);
        if (!data)
            return api_refuse(d->err, name,
                              "%s must be a data URL such as data:image/png;base64,...",
                              name.param);
        len -= (size_t)(data - s);
        s = data;
    }
    if (len == 0) return api_refuse(d->err, name, "%s must not be empty", name.param);
    *f = (struct api_file){.bytes = s, .len = len, .base64 = true, .param = name.param};
    return 0;
}

int api_set_image(struct api_draft *d, const json_t *v, struct api_name name) {
    return set_text(&d->image, d, v, name);
}

int api_set_mask(struct api_draft *d, const json_t *v, struct api_name name) {
    return set_text(&d->mask, d, v, name);
}

/* ---- files ----------------------------------------------------------------------------------- */

static int take_out(struct api_file *f, const char *field, struct api_draft *d) {
    if (!f->base64) return 0;
    size_t len = 0;
    f->own = malloc(f->len / 4 * 3 + 3);
    if (!f->own) return no_memory(d->err);
    if (!api_base64_read(f->own, &len, f->bytes, f->len))
        return api_refuse(d->err, name_of(f, field), "%s is not base64", name_of(f, field).param);
    f->bytes = (const char *)f->own;
    f->len = len;
    f->base64 = false;
    return 0;
}

static int refuse_file(struct api_error *err, struct api_name name, const struct taca_err *why) {
    if (why->code == TACA_ENOMEM) return no_memory(err);
    return api_refuse(err, name, "%s: %s", name.param, why->text);
}

static int look(struct api_file *f, const char *field, struct api_draft *d) {
    struct api_name name = name_of(f, field);
    const int64_t most = d->limits->max_image_pixels;
    struct taca_err why = {0};
    int rc = take_out(f, field, d);
    if (rc) return rc;
    enum taca_code bad = api_image_size(&f->width_px, &f->height_px, f->bytes, f->len, &why);
    if (bad == TACA_ENOTFOUND)
        return api_refuse(d->err, name,
                          "%s must be a PNG or JPEG file, and these %zu bytes are %s file",
                          name.param, f->len, api_image_kind(f->bytes, f->len));
    if (bad) return refuse_file(d->err, name, &why);
    const int w = f->width_px, h = f->height_px;
    if (w < 1 || h < 1) return api_refuse(d->err, name, "%s has %d x %d pixels", name.param, w, h);
    if (w > FILE_MAX_SIDE || h > FILE_MAX_SIDE || (int64_t)w * h > most)
        return api_fail(d->err, 413, "image_too_large", name.param,
                        "%s has %d x %d pixels, and width x height must be at most %lld",
                        name.param, w, h, (long long)most);
    return 0;
}

/* ---- the size -------------------------------------------------------------------------------- */

static int nearest_side(double px, double min, double max, int multiple) {
    int64_t side = llround(px / multiple) * multiple;
    if (side > (int64_t)max) side = (int64_t)max / multiple * multiple;
    while ((double)side < min) side += multiple;
    return (int)side;
}

/* The picture's own size, or the nearest of its shape that may be. */
static void size_from(struct api_draft *d, bool has_width, bool has_height) {
    struct taca_gen_params *p = &d->r.params;
    const double w = d->image.width_px, h = d->image.height_px, area = w * h;
    double min, max, factor = 1;
    api_side_range(d->model, d->limits, &min, &max);
    if (area > (double)d->limits->max_pixels) factor = sqrt((double)d->limits->max_pixels / area);
    if (factor * fmax(w, h) > max) factor = max / fmax(w, h);
    const int multiple = d->model->side_multiple_px;
    int to_w = nearest_side(factor * w, min, max, multiple);
    int to_h = nearest_side(factor * h, min, max, multiple);
    /* rounding up twice may pass the limit */
    while ((int64_t)to_w * to_h > d->limits->max_pixels && (to_w > min || to_h > min))
        *(to_w > to_h ? &to_w : &to_h) -= multiple;
    if (!has_width) p->width_px = to_w;
    if (!has_height) p->height_px = to_h;
}

int api_pictures_open(struct api_draft *d, bool has_width, bool has_height) {
    int rc = 0;
    if (!d->image.bytes && d->mask.bytes)
        return api_refuse(d->err, name_of(&d->mask, "mask"),
                          "mask needs an image that it is the mask of");
    if (!d->image.bytes && d->strength_param)
        return api_refuse(d->err, (struct api_name){d->strength_param, "strength"},
                          "%s needs an image to start from", d->strength_param);
    if (!d->image.bytes) return 0;
    rc = look(&d->image, "image", d);
    if (!rc && d->mask.bytes) rc = look(&d->mask, "mask", d);
    if (rc) return rc;
    if (d->mask.bytes &&
        (d->mask.width_px != d->image.width_px || d->mask.height_px != d->image.height_px))
        return api_refuse(d->err, name_of(&d->mask, "mask"),
                          "mask has %d x %d pixels, its image %d x %d: they must be alike",
                          d->mask.width_px, d->mask.height_px, d->image.width_px,
                          d->image.height_px);
    if (!has_width || !has_height) size_from(d, has_width, has_height);
    return 0;
}

/* ---- pixels ---------------------------------------------------------------------------------- */

static int keep_file(struct api_packed *to, struct api_draft *d, const struct api_file *f,
                     const char *field) {
    const char *param = name_of(f, field).param;
    if (!f->bytes) return 0;
    char *bytes = taca_arena_alloc(&d->r.files, f->len);
    *to = (struct api_packed){bytes, f->len, taca_arena_strndup(&d->r.files, param, strlen(param)),
                              f->width_px, f->height_px};
    if (!bytes || !to->param) return no_memory(d->err);
    memcpy(bytes, f->bytes, f->len);
    return 0;
}

int api_pictures_keep(struct api_draft *d) {
    int rc = keep_file(&d->r.image, d, &d->image, "image");
    return rc ? rc : keep_file(&d->r.mask, d, &d->mask, "mask");
}

/* Into the request, scaled when it must be; frees `pixels`. */
static const uint8_t *keep_pixels(struct api_request *r, uint8_t *pixels, int channels,
                                  const struct api_packed *f) {
    const struct api_size from = {f->width_px, f->height_px},
                          to = {r->params.width_px, r->params.height_px};
    const size_t n = (size_t)to.w * (size_t)to.h * (size_t)channels;
    uint8_t *kept = NULL;
    if (from.w != to.w || from.h != to.h) {
        uint8_t *scaled = api_resize(pixels, channels, from, to);
        free(pixels);
        pixels = scaled;
        r->warnings |= TACA_WARN_IMAGE_SCALED;
    }
    if (pixels) kept = taca_arena_alloc(&r->pixels, n);
    if (kept) memcpy(kept, pixels, n);
    free(pixels);
    return kept;
}

static int unpack_image(struct api_request *r, struct api_error *err) {
    const struct api_packed *f = &r->image;
    struct taca_err why = {0};
    struct taca_image img;
    if (api_image_read(&img, f->bytes, f->len, FILE_MAX_SIDE, &why))
        return refuse_file(err, (struct api_name){f->param, "image"}, &why);
    r->params.image = keep_pixels(r, img.rgb, 3, f);
    return r->params.image ? 0 : no_memory(err);
}

static int unpack_mask(struct api_request *r, struct api_error *err) {
    const struct api_packed *f = &r->mask;
    const struct api_mask_rule rule = {r->mask_is_holes, FILE_MAX_SIDE};
    struct taca_err why = {0};
    uint8_t *mask;
    int w, h;
    if (api_image_read_mask(&mask, &w, &h, f->bytes, f->len, &rule, &why))
        return refuse_file(err, (struct api_name){f->param, "mask"}, &why);
    const size_t n = (size_t)w * (size_t)h;
    for (size_t i = 0; r->mask_inverted && i < n; i++) mask[i] = (uint8_t)(255 - mask[i]);
    r->params.mask = keep_pixels(r, mask, 1, f);
    return r->params.mask ? 0 : no_memory(err);
}

int api_request_unpack(struct api_request *r, struct api_error *err) {
    int rc = r->image.bytes ? unpack_image(r, err) : 0;
    if (!rc && r->mask.bytes) rc = unpack_mask(r, err);
    taca_arena_finish(&r->files);
    r->image = r->mask = (struct api_packed){0};
    return rc;
}

void api_pictures_finish(struct api_draft *d) {
    free(d->image.own);
    free(d->mask.own);
    d->image = d->mask = (struct api_file){0};
}
