/* request.c - from the bytes of a body to a checked request; see request.h. */
#include "api/request.h"

#include <stdlib.h>
#include <string.h>

#include "api/fields.h"
#include "api/form.h"
#include "api/picture.h"
#include "api/write.h"
#include "base/json.h"

/* A request has some forty fields, none nested deeper than two. The bounds keep the parser's memory
 * within a few hundred bytes a value whatever the body is: {},{},... would take 73 times its size.
 */
enum { MAX_DEPTH = 16, MAX_VALUES = 2000 };

static int check_complexity(const char *body, size_t len, struct api_error *err) {
    switch (taca_json_fit(body, len, MAX_DEPTH, MAX_VALUES)) {
    case TACA_JSON_FITS: return 0;
    case TACA_JSON_TOO_DEEP:
        return api_fail(err, 400, "too_complex", NULL, "the body is nested deeper than %d levels",
                        MAX_DEPTH);
    case TACA_JSON_TOO_MANY: break;
    }
    return api_fail(err, 400, "too_complex", NULL, "the body has more than %d JSON values",
                    MAX_VALUES);
}

static int check_length(size_t len, const struct api_limits *limits, struct api_error *err) {
    if (len <= limits->max_body_bytes) return 0;
    return api_fail(err, 413, "body_too_large", NULL, "the body must be at most %zu bytes, got %zu",
                    limits->max_body_bytes, len);
}

static int load(json_t **out, const char *body, size_t len, const struct api_limits *limits,
                struct api_error *err) {
    json_error_t why;
    int rc = check_length(len, limits, err);
    if (rc) return rc;
    if (len == 0)
        return api_fail(err, 400, "invalid_json", NULL,
                        "the body is empty: a JSON object with at least \"prompt\" is wanted");
    if (len >= 3 && memcmp(body, "\xEF\xBB\xBF", 3) == 0)
        return api_fail(err, 400, "invalid_json", NULL,
                        "the body begins with a byte order mark: send JSON without it");
    rc = check_complexity(body, len, err);
    if (rc) return rc;
    bool no_memory;
    json_t *root = taca_json_parse(body, len, &why, &no_memory);
    if (no_memory) return api_fail(err, 503, "gpu_oom", NULL, "out of memory reading the request");
    if (!root)
        return api_fail(err, 400, "invalid_json", NULL,
                        "the body is not valid JSON: %s (line %d, column %d)", why.text, why.line,
                        why.column);
    if (!json_is_object(root)) {
        rc = api_fail(err, 400, "invalid_json", NULL, "the body must be a JSON object, got %s",
                      api_type_of(root));
        json_decref(root);
        return rc;
    }
    *out = root;
    return 0;
}

static bool given(const json_t *root, const char *name) {
    const json_t *v = name ? json_object_get(root, name) : NULL;
    return v && !json_is_null(v); /* an explicit null means absent */
}

static const struct api_field *find(const char *name) {
    size_t n;
    const struct api_field *f = api_fields(&n);
    for (size_t i = 0; i < n; i++)
        if (strcmp(f[i].name, name) == 0 || (f[i].alias && strcmp(f[i].alias, name) == 0))
            return &f[i];
    return NULL;
}

bool api_is_field(const char *name) { return find(name) != NULL; }

static int unknown(const char *key, struct api_error *err) {
    const char *meant = api_suggest(key);
    return api_fail(err, 400, "unknown_parameter", key, "there is no parameter \"%s\"%s%s%s",
                    api_quote(key).text, meant ? ": did you mean \"" : "", meant ? meant : "",
                    meant ? "\"?" : "");
}

static int read_fields(struct api_draft *d, json_t *root) {
    const char *key;
    json_t *v;
    json_object_foreach(root, key, v) {
        const struct api_field *f = find(key);
        bool ours = true;
        if (d->openai && !json_is_null(v)) {
            int rc = api_openai_field(d, key, v, &ours);
            if (rc) return rc;
        }
        if (!ours) continue;
        if (!f && d->openai) {
            api_openai_ignore(d, key);
            continue;
        }
        if (!f) return unknown(key, d->err);
        if (json_is_null(v)) continue;
        if (strcmp(key, f->name) != 0 && given(root, f->name))
            return api_refuse(d->err, (struct api_name){key, f->name},
                              "%s and %s mean the same: give one of them", f->name, key);
        int rc = api_field_set(f, d, v, key);
        if (rc) return rc;
    }
    if (!given(root, "prompt"))
        return api_refuse(d->err, (struct api_name){"prompt", "prompt"}, "prompt is required");
    if (d->size_param && (given(root, "width") || given(root, "height")))
        return api_refuse(d->err, (struct api_name){"size", "size"},
                          "size stands for width and height: give one or the other");
    return 0;
}

/* One side in range and a multiple, rounded to one when the client allows it. */
static int check_side(struct api_draft *d, int *px, const char *side) {
    struct api_name name = {side, side};
    if (d->size_param) name = (struct api_name){d->size_param, d->size_param};
    double min, max;
    int multiple = d->model->side_multiple_px;
    api_field_range(find("width"), d->model, d->limits, &min, &max);
    if (*px < min || *px > max)
        return api_refuse(d->err, name, "%s must be in %.0f..%.0f, got %d", side, min, max, *px);
    int rest = *px % multiple, down = *px - rest, up = down + multiple;
    if (rest == 0) return 0;
    if (!d->round_size)
        return api_fail(d->err, 400, "size_not_multiple", name.param,
                        "%s must be a multiple of %d, got %d: %d and %d are, or set round_size",
                        side, multiple, *px, down, up);
    bool goes_up = down < min || (2 * rest >= multiple && up <= max);
    *px = goes_up ? up : down;
    return 0;
}

static int check_size(struct api_draft *d) {
    struct taca_gen_params *p = &d->r.params;
    int rc = check_side(d, &p->width_px, "width");
    if (!rc) rc = check_side(d, &p->height_px, "height");
    if (rc) return rc;
    int64_t pixels = (int64_t)p->width_px * p->height_px;
    if (pixels <= d->limits->max_pixels) return 0;
    return api_fail(d->err, 400, "invalid_size", d->size_param ? d->size_param : "width",
                    "width x height must be at most %lld pixels, got %d x %d = %lld",
                    (long long)d->limits->max_pixels, p->width_px, p->height_px, (long long)pixels);
}

/* Image k takes seed + k: the last one must still be a seed. */
static int choose_seed(struct api_draft *d, uint64_t random_seed) {
    uint64_t last = (uint64_t)API_MAX_SEED + 1 - (uint64_t)d->r.n;
    if (d->seed < 0) {
        random_seed &= (uint64_t)API_MAX_SEED; /* below 2^53 */
        d->r.params.seed = random_seed <= last ? random_seed : last;
        return 0;
    }
    d->r.params.seed = (uint64_t)d->seed;
    if (d->r.params.seed <= last) return 0;
    return api_refuse(d->err, (struct api_name){"seed", "seed"},
                      "image k uses seed + k, and seed + n - 1 must be below 2^53: with n %d seed "
                      "must be at most %llu, got %lld",
                      d->r.n, (unsigned long long)last, (long long)d->seed);
}

static int check_together(struct api_draft *d, uint64_t random_seed) {
    struct taca_err why = {0};
    int rc = check_size(d);
    if (!rc) rc = choose_seed(d, random_seed);
    if (!rc) rc = api_finish_loras(d);
    if (rc) return rc;
    if (d->r.response == API_RESPONSE_BINARY && d->r.n > 1 && !d->r.stream)
        return api_refuse(d->err, (struct api_name){"response_format", "response_format"},
                          "response_format \"binary\" holds one image and n is %d: use b64_json",
                          d->r.n);
    if (taca_gen_params_check(&d->r.params, d->model, &why)) {
        api_error_from(d->err, &why);
        return d->err->status;
    }
    return d->r.file.format == API_FORMAT_ANY ? 0 : api_settle_format(&d->r, API_PNG, d->err);
}

static void put_file(struct taca_buf *out, const struct api_encoding *file) {
    if (file->format != API_FORMAT_ANY)
        taca_buf_printf(out, ",\"output_format\":\"%s\"", api_format_name(file->format));
    if (file->png_level >= 0) taca_buf_printf(out, ",\"png_level\":%d", file->png_level);
    if (file->quality >= 0) taca_buf_printf(out, ",\"output_compression\":%d", file->quality);
}

/* What a client would send to get the very same images. */
static int normalise(struct api_draft *d, size_t body_len) {
    struct taca_buf b;
    struct taca_gen_params p = d->r.params;
    p.image = (const uint8_t *)d->image.bytes; /* told is only that there is one */
    taca_buf_init(&b, 4096 + 8 * body_len);    /* a byte takes at most six, as \u00XX */
    taca_buf_puts(&b, "{");
    api_put_params(&b, &p, d->model);
    taca_buf_printf(&b, ",\"n\":%d,\"metadata\":%s", d->r.n, d->r.metadata ? "true" : "false");
    put_file(&b, &d->r.file);
    taca_buf_puts(&b, "}");
    if (!b.failed) d->r.json = taca_arena_strndup(&d->r.arena, b.data, b.len);
    taca_buf_finish(&b);
    if (d->r.json) return 0;
    return api_fail(d->err, 503, "gpu_oom", NULL, "out of memory reading the request");
}

/* The body as an object of fields; the files of a form stay in it. */
static int load_fields(struct api_draft *d, json_t **root, const struct api_source *from) {
    struct api_form *form;
    if (d->r.a1111) {
        json_t *theirs;
        int rc = load(&theirs, from->body, from->len, d->limits, d->err);
        if (rc) return rc;
        d->root = theirs; /* pictures stay in it */
        return api_a1111_fields(d, root, theirs);
    }
    if (from->dialect != API_OPENAI_EDIT || !api_is_form(from->content_type))
        return load(root, from->body, from->len, d->limits, d->err);
    int rc = check_length(from->len, d->limits, d->err);
    if (rc) return rc;
    form = malloc(sizeof *form);
    if (!form) return api_fail(d->err, 503, "gpu_oom", NULL, "out of memory reading the request");
    rc = api_form_read(form, from->content_type, from->body, from->len, d->err);
    if (!rc) rc = api_openai_form(d, root, form);
    free(form);
    return rc;
}

static bool keep_text(struct api_draft *d, const char **out, const char *text) {
    if (!*text) return true;
    *out = taca_arena_strndup(&d->r.arena, text, strlen(text));
    return *out != NULL;
}

/* The model that the request is for: all other fields depend on it. */
static int choose_model(int *chosen, const json_t *root, const struct api_offer *offer,
                        struct api_error *err) {
    const json_t *v = json_object_get(root, "model");
    const char *id = json_is_string(v) ? json_string_value(v) : NULL;
    int k = 0;
    while (id && k < offer->n_models && strcmp(offer->models[k].id, id) != 0) k++;
    if (k == offer->n_models) return api_no_such_model(err, id, "model", offer);
    *chosen = k;
    if (offer->models[k].info) return 0;
    if (offer->models[k].loading) {
        err->retry_after_s = 5;
        return api_fail(err, 503, "loading", "model", "model \"%s\" is still being loaded",
                        offer->models[k].id);
    }
    return api_fail(err, 404, "model_not_found", "model", "model \"%s\" is not loaded",
                    offer->models[k].id);
}

/* What only the dialects of others have. */
static int finish_dialect(struct api_draft *d, const json_t *root) {
    if (d->openai) api_openai_finish(d, given(root, "steps") || given(root, "num_inference_steps"));
    if (d->openai && d->r.edit && !d->image.bytes)
        return api_refuse(d->err, (struct api_name){"image", "image"}, "image is required");
    if (keep_text(d, &d->r.ignored, d->ignored) && keep_text(d, &d->r.notes, d->notes)) return 0;
    return api_fail(d->err, 503, "gpu_oom", NULL, "out of memory reading the request");
}

static int read_root(struct api_draft *d, json_t *root, size_t len, uint64_t random_seed) {
    int rc = read_fields(d, root);
    if (!rc) rc = finish_dialect(d, root);
    bool sized = d->size_param != NULL;
    if (!rc)
        rc = api_pictures_open(d, sized || given(root, "width"), sized || given(root, "height"));
    if (!rc) rc = check_together(d, random_seed);
    if (!rc) rc = normalise(d, len);
    if (!rc) rc = api_pictures_keep(d);
    api_pictures_finish(d);
    if (rc) api_request_finish(&d->r);
    return rc;
}

/* What is read before the model is known is read as for this one. */
static int first_loaded(const struct api_offer *offer) {
    int k = 0;
    while (k < offer->n_models && !offer->models[k].info) k++;
    return k < offer->n_models ? k : 0;
}

static void begin(struct api_draft *d, const struct api_offer *offer, int model,
                  enum api_dialect dialect, struct api_error *err) {
    static const struct taca_model_info none = {.id = ""};
    const struct taca_model_info *info = offer->models[model].info;
    api_draft_init(d, info ? info : &none, offer->limits, err);
    d->openai = dialect == API_OPENAI || dialect == API_OPENAI_EDIT;
    d->r.openai = d->r.mask_is_holes = d->openai;
    d->r.edit = dialect == API_OPENAI_EDIT || dialect == API_A1111_IMAGE;
    d->r.a1111 = dialect == API_A1111 || dialect == API_A1111_IMAGE;
    d->r.model = model;
}

/* The request is for another than was thought: AUTOMATIC1111's fields are read anew, of others only
 * files were taken so far. */
static int change_model(struct api_draft *d, json_t **root, const struct api_offer *offer,
                        int model, const struct api_source *from) {
    const struct api_file image = d->image, mask = d->mask;
    struct api_error *err = d->err;
    bool anew = d->r.a1111;
    if (anew) {
        json_decref(*root);
        json_decref(d->root);
        *root = NULL;
        api_request_finish(&d->r);
    }
    begin(d, offer, model, from->dialect, err);
    if (anew) return load_fields(d, root, from);
    d->image = image;
    d->mask = mask;
    return 0;
}

int api_request_read(struct api_request *out, const struct api_source *from,
                     const struct api_offer *offer, uint64_t random_seed, struct api_error *err) {
    struct api_draft d;
    json_t *root = NULL;
    int model = first_loaded(offer), named = model;
    begin(&d, offer, model, from->dialect, err);
    int rc = load_fields(&d, &root, from);
    if (!rc) rc = choose_model(&named, root, offer, err);
    if (!rc && named != model) rc = change_model(&d, &root, offer, named, from);
    if (rc)
        api_request_finish(&d.r);
    else
        rc = read_root(&d, root, from->len, random_seed);
    json_decref(root);
    json_decref(d.root);
    if (!rc && !from->packed && (rc = api_request_unpack(&d.r, err))) api_request_finish(&d.r);
    if (!rc) *out = d.r;
    return rc;
}

static int read_for_one(struct api_request *out, const struct api_source *from,
                        const struct taca_model_info *model, const struct api_limits *limits,
                        uint64_t random_seed, struct api_error *err) {
    const struct api_offer offer = {
        .limits = limits, .n_models = 1, .models = {{model->id, model, false}}};
    return api_request_read(out, from, &offer, random_seed, err);
}

int api_request_parse(struct api_request *out, const char *body, size_t len,
                      const struct taca_model_info *model, const struct api_limits *limits,
                      uint64_t random_seed, struct api_error *err) {
    const struct api_source from = {.dialect = API_NATIVE, .body = body, .len = len};
    return read_for_one(out, &from, model, limits, random_seed, err);
}

int api_request_parse_openai(struct api_request *out, const char *body, size_t len,
                             const struct taca_model_info *model, const struct api_limits *limits,
                             uint64_t random_seed, struct api_error *err) {
    const struct api_source from = {.dialect = API_OPENAI, .body = body, .len = len};
    return read_for_one(out, &from, model, limits, random_seed, err);
}

void api_request_finish(struct api_request *r) {
    taca_arena_finish(&r->arena);
    taca_arena_finish(&r->pixels);
    taca_arena_finish(&r->files);
    *r = (struct api_request){0};
}

void api_request_drop_pixels(struct api_request *r) {
    taca_arena_finish(&r->pixels);
    r->params.image = r->params.mask = NULL;
}
