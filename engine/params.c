/* params.c - see params.h. */
#include "engine/params.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const taca_sampler_names[] = {"euler",           "heun", "dpmpp_2m",
                                          "euler_ancestral", "lcm",  NULL};
const char *const taca_levels_names[] = {"default", "simple", "normal",      "sgm_uniform",
                                         "beta",    "karras", "exponential", NULL};

const char *const taca_noise_names[] = {"torch", "philox", NULL};

int taca_sampler_forwards(enum taca_sampler s, int n) {
    return s == TACA_HEUN && n > 0 ? 2 * n - 1 : n; /* its last step has no second one */
}

int taca_first_step(int n, double strength) { return (int)(n - fmin(n * strength, n)); }

int taca_gen_params_forwards(const struct taca_gen_params *p) {
    const int first = p->image ? taca_first_step(p->steps, p->strength) : 0;
    return taca_sampler_forwards(p->sampler, p->steps - first);
}

struct taca_slg taca_slg_default(void) {
    return (struct taca_slg){.scale = 2.8, .start = 0.01, .stop = 0.2};
}

bool taca_slg_has(const struct taca_slg *g, int i, int n) {
    return g->layers && i > n * g->start && i < n * g->stop;
}

const char *const taca_preview_names[] = {"latent_rgb", "taesd", NULL};

struct taca_window taca_window_default(void) {
    return (struct taca_window){.rule = TACA_WINDOW_FRACTION,
                                .gamma = 1.2,
                                .fraction = 0.1,
                                .end_step = 3,
                                .sigma_min = 0.97,
                                .sigma_max = 1.0};
}

void taca_gen_params_init(struct taca_gen_params *p, const struct taca_model_info *m) {
    *p = (struct taca_gen_params){.prompt = "",
                                  .width_px = m->default_width_px,
                                  .height_px = m->default_height_px,
                                  .steps = m->default_steps,
                                  .cfg_scale = m->default_cfg_scale,
                                  .guidance_scale = m->default_guidance_scale,
                                  .max_sequence_length = m->t5_tokens,
                                  .taca = taca_window_default(),
                                  .slg = taca_slg_default(),
                                  .strength = 0.6};
    p->taca.rule = TACA_WINDOW_OFF;
}

static enum taca_code check_side(const char *name, int px, const struct taca_model_info *m,
                                 struct taca_err *err) {
    if (px < m->min_side_px || px > m->max_side_px || px % m->side_multiple_px != 0)
        return taca_fail_param(err, name, "%s must be a multiple of %d in %d..%d, got %d", name,
                               m->side_multiple_px, m->min_side_px, m->max_side_px, px);
    return TACA_OK;
}

/* Inside min..max; NaN is outside everything. */
static enum taca_code check_number(const char *name, double v, double min, double max,
                                   struct taca_err *err) {
    if (v >= min && v <= max) return TACA_OK;
    return taca_fail_param(err, name, "%s must be in %g..%g, got %g", name, min, max, v);
}

static enum taca_code check_guidance(double v, const struct taca_model_info *m,
                                     struct taca_err *err) {
    if (m->guidance_embeds) return check_number("guidance_scale", v, 0, 100, err);
    if (v == 0) return TACA_OK;
    return taca_fail_param(err, "guidance_scale",
                           "guidance_scale is not for this model (%s): use cfg_scale", m->family);
}

/* Only models whose text has T5 rows can have more or fewer of them. */
static enum taca_code check_length(int n, const struct taca_model_info *m, struct taca_err *err) {
    static const char name[] = "max_sequence_length";
    if (n == 0) return TACA_OK;
    if (m->t5_tokens == 0)
        return taca_fail_param(err, name, "%s is not for this model (%s): it has no T5 text", name,
                               m->family);
    if (n >= 1 && n <= TACA_MAX_T5_TOKENS) return TACA_OK;
    return taca_fail_param(err, name, "%s must be in 1..%d, got %d", name, TACA_MAX_T5_TOKENS, n);
}

static enum taca_code check_window(const struct taca_window *w, struct taca_err *err) {
    if ((unsigned)w->rule > TACA_WINDOW_SIGMA)
        return taca_fail_param(err, "taca", "taca window rule %d is unknown", (int)w->rule);
    enum taca_code rc = check_number("taca.scale", w->gamma, 0, 10, err);
    if (!rc) rc = check_number("taca.fraction", w->fraction, 0, 1, err);
    if (!rc && (w->first_step < 0 || w->end_step < w->first_step || w->end_step > TACA_MAX_STEPS))
        rc = taca_fail_param(err, "taca.steps",
                             "taca.steps must be first <= end in 0..%d, got %d..%d", TACA_MAX_STEPS,
                             w->first_step, w->end_step);
    if (!rc && !(w->sigma_min >= 0 && w->sigma_min <= w->sigma_max && w->sigma_max <= 1))
        rc = taca_fail_param(err, "taca.timestep_low",
                             "taca window must satisfy 0 <= low <= high <= 1000, got %g..%g",
                             w->sigma_min * 1000, w->sigma_max * 1000);
    return rc;
}

static enum taca_code check_slg(const struct taca_gen_params *p, const struct taca_model_info *m,
                                struct taca_err *err) {
    static const char layers[] = "skip_layer_guidance.layers";
    const struct taca_slg *g = &p->slg;
    enum taca_code rc = check_number("skip_layer_guidance.scale", g->scale, 0, 30, err);
    if (!rc) rc = check_number("skip_layer_guidance.start", g->start, 0, 1, err);
    if (!rc) rc = check_number("skip_layer_guidance.stop", g->stop, 0, 1, err);
    if (rc || !g->layers) return rc;
    if (m->joint_blocks < 64 && g->layers >> m->joint_blocks)
        return taca_fail_param(err, layers, "%s must be in 0..%d, the blocks of this model", layers,
                               m->joint_blocks - 1);
    if (!(p->cfg_scale > 1))
        return taca_fail_param(err, "skip_layer_guidance",
                               "skip_layer_guidance needs cfg_scale above 1, got %g", p->cfg_scale);
    return TACA_OK;
}

static enum taca_code check_preview(enum taca_preview v, const struct taca_model_info *m,
                                    struct taca_err *err) {
    static const char name[] = "previews.method";
    if ((unsigned)v > TACA_PREVIEW_TAESD)
        return taca_fail_param(err, name, "%s %d is unknown", name, (int)v);
    if (v == TACA_PREVIEW_TAESD && !m->has_taesd)
        return taca_fail_param(err, name, "%s \"taesd\" needs a decoder, which is not loaded",
                               name);
    return TACA_OK;
}

static enum taca_code check_image(const struct taca_gen_params *p, const struct taca_model_info *m,
                                  struct taca_err *err) {
    if (p->image && !m->takes_images)
        return taca_fail_param(err, "image",
                               "image is not for this model: its autoencoder has no encoder");
    if (p->mask && !p->image)
        return taca_fail_param(err, "mask", "mask needs an image that it is the mask of");
    return check_number("strength", p->strength, 0, 1, err);
}

static enum taca_code check_loras(const struct taca_gen_params *p, struct taca_err *err) {
    if (p->n_loras < 0 || p->n_loras > TACA_MAX_LORAS)
        return taca_fail_param(err, "loras", "loras must be at most %d, got %d", TACA_MAX_LORAS,
                               p->n_loras);
    for (int i = 0; i < p->n_loras; i++) {
        const struct taca_lora_use *u = &p->loras[i];
        if (!u->id || !*u->id) return taca_fail_param(err, "loras", "loras[%d] has no id", i);
        if ((unsigned)u->when > TACA_LORA_IN_WINDOW)
            return taca_fail_param(err, "loras", "loras[%d]: rule %d is unknown", i, (int)u->when);
        if (u->when == TACA_LORA_IN_WINDOW && p->taca.rule == TACA_WINDOW_OFF)
            return taca_fail_param(err, "loras", "loras[%d] follows the TACA window, which is off",
                                   i);
        enum taca_code rc = check_number("loras.scale", u->scale, -20, 20, err);
        if (rc) return rc;
        for (int k = 0; k < i; k++)
            if (strcmp(p->loras[k].id, u->id) == 0)
                return taca_fail_param(err, "loras", "adapter %.64s is named twice", u->id);
    }
    return TACA_OK;
}

enum taca_code taca_gen_params_check(const struct taca_gen_params *p,
                                     const struct taca_model_info *m, struct taca_err *err) {
    if (!p->prompt) return taca_fail_param(err, "prompt", "prompt is required");
    enum taca_code rc = check_side("width", p->width_px, m, err);
    if (!rc) rc = check_side("height", p->height_px, m, err);
    if (!rc && (p->steps < 1 || p->steps > TACA_MAX_STEPS))
        rc = taca_fail_param(err, "steps", "steps must be in 1..%d, got %d", TACA_MAX_STEPS,
                             p->steps);
    if (!rc) rc = check_number("cfg_scale", p->cfg_scale, 0, 30, err);
    if (!rc) rc = check_guidance(p->guidance_scale, m, err);
    if (!rc && (unsigned)p->sampler > TACA_LCM)
        rc = taca_fail_param(err, "sampler", "sampler %d is unknown", (int)p->sampler);
    if (!rc && (unsigned)p->schedule > TACA_LEVELS_EXPONENTIAL)
        rc = taca_fail_param(err, "schedule", "schedule %d is unknown", (int)p->schedule);
    if (!rc && p->shift != 0) rc = check_number("shift", p->shift, 0.01, 100, err);
    if (!rc && (p->clip_skip < 0 || p->clip_skip > 12))
        rc = taca_fail_param(err, "clip_skip", "clip_skip must be in 0..12, got %d", p->clip_skip);
    if (!rc) rc = check_length(p->max_sequence_length, m, err);
    if (!rc && p->seed >= UINT64_C(1) << 53)
        rc = taca_fail_param(err, "seed", "seed must be in 0..2^53-1");
    if (!rc && (unsigned)p->rng > TACA_NOISE_PHILOX)
        rc = taca_fail_param(err, "rng", "rng %d is unknown", (int)p->rng);
    if (!rc) rc = check_window(&p->taca, err);
    if (!rc) rc = check_slg(p, m, err);
    if (!rc) rc = check_image(p, m, err);
    if (!rc) rc = check_preview(p->preview, m, err);
    if (!rc) rc = check_loras(p, err);
    return rc;
}

/* The string members in a fixed order, for copy and pack. */
enum { N_PROMPTS = 6, N_STRINGS = N_PROMPTS + TACA_MAX_LORAS };
static const char **string_at(struct taca_gen_params *p, int i) {
    const char **all[N_PROMPTS] = {
        &p->prompt,          &p->prompt_2,          &p->prompt_3,
        &p->negative_prompt, &p->negative_prompt_2, &p->negative_prompt_3};
    return i < N_PROMPTS ? all[i] : &p->loras[i - N_PROMPTS].id;
}

/* The pixels of a request of checked sides. */
enum { N_BLOBS = 2 };
static const uint8_t **blob_at(struct taca_gen_params *p, int i) {
    return i == 0 ? &p->image : &p->mask;
}
static size_t blob_bytes(const struct taca_gen_params *p, int i) {
    enum { LARGEST_SIDE = 1 << 16 };
    if (p->width_px < 1 || p->height_px < 1 || p->width_px > LARGEST_SIDE ||
        p->height_px > LARGEST_SIDE)
        return 0;
    return (size_t)p->width_px * (size_t)p->height_px * (i == 0 ? 3 : 1);
}

static bool copy_blob(const uint8_t **blob, const void *from, size_t n, struct taca_arena *a) {
    uint8_t *to = taca_arena_alloc(a, n);
    if (to) memcpy(to, from, n);
    *blob = to;
    return to != NULL;
}

enum taca_code taca_gen_params_copy(struct taca_gen_params *dst, const struct taca_gen_params *src,
                                    struct taca_arena *a, struct taca_err *err) {
    struct taca_gen_params out = *src;
    for (int i = 0; i < N_STRINGS; i++) {
        const char **s = string_at(&out, i);
        if (!*s) continue;
        *s = taca_arena_strndup(a, *s, strlen(*s));
        if (!*s) return taca_fail(err, TACA_ENOMEM, "copying a request");
    }
    for (int i = 0; i < N_BLOBS; i++) {
        const uint8_t **blob = blob_at(&out, i);
        if (*blob && !copy_blob(blob, *blob, blob_bytes(&out, i), a))
            return taca_fail(err, TACA_ENOMEM, "copying the pixels of a request");
    }
    *dst = out;
    return TACA_OK;
}

/* A packed request: this head, then for each string a uint32 length (UINT32_MAX = NULL) and bytes,
 * then for image and mask a uint32 that says whether there are pixels, and the pixels. */
enum { PACK_MAGIC = 0x54475037 }; /* "TGP7": change with the struct */

/* The numbers of *p on zeroed memory: neither pointers nor what happens to lie between two members
 * belongs on the wire. */
static void flatten(struct taca_gen_params *flat, const struct taca_gen_params *p) {
    memset(flat, 0, sizeof *flat);
    flat->width_px = p->width_px;
    flat->height_px = p->height_px;
    flat->steps = p->steps;
    flat->cfg_scale = p->cfg_scale;
    flat->guidance_scale = p->guidance_scale;
    flat->sampler = p->sampler;
    flat->schedule = p->schedule;
    flat->shift = p->shift;
    flat->clip_skip = p->clip_skip;
    flat->max_sequence_length = p->max_sequence_length;
    flat->seed = p->seed;
    flat->rng = p->rng;
    flat->slg = p->slg;
    flat->strength = p->strength;
    flat->taca.rule = p->taca.rule;
    flat->taca.gamma = p->taca.gamma;
    flat->taca.fraction = p->taca.fraction;
    flat->taca.first_step = p->taca.first_step;
    flat->taca.end_step = p->taca.end_step;
    flat->taca.sigma_min = p->taca.sigma_min;
    flat->taca.sigma_max = p->taca.sigma_max;
    flat->preview = p->preview;
    flat->n_loras = p->n_loras;
    for (int i = 0; i < TACA_MAX_LORAS; i++) {
        flat->loras[i].scale = p->loras[i].scale;
        flat->loras[i].when = p->loras[i].when;
    }
}

void taca_gen_params_pack(struct taca_buf *out, const struct taca_gen_params *p) {
    struct taca_gen_params flat;
    uint32_t magic = PACK_MAGIC, head = sizeof flat;
    flatten(&flat, p);
    taca_buf_put(out, &magic, sizeof magic);
    taca_buf_put(out, &head, sizeof head);
    taca_buf_put(out, &flat, sizeof flat);
    flat = *p;
    for (int i = 0; i < N_STRINGS; i++) {
        const char *s = *string_at(&flat, i);
        uint32_t len = s ? (uint32_t)strlen(s) : UINT32_MAX;
        taca_buf_put(out, &len, sizeof len);
        if (s) taca_buf_put(out, s, len);
    }
    for (int i = 0; i < N_BLOBS; i++) {
        const uint8_t *pixels = *blob_at(&flat, i);
        const uint32_t there = pixels != NULL;
        taca_buf_put(out, &there, sizeof there);
        if (pixels) taca_buf_put(out, pixels, blob_bytes(p, i));
    }
}

static bool take(const unsigned char **p, size_t *left, void *dst, size_t n) {
    if (*left < n) return false;
    if (dst) memcpy(dst, *p, n);
    *p += n;
    *left -= n;
    return true;
}

enum taca_code taca_gen_params_unpack(struct taca_gen_params *p, const void *bytes, size_t len,
                                      struct taca_arena *a, struct taca_err *err) {
    const unsigned char *at = bytes;
    size_t left = len;
    uint32_t magic, head;
    struct taca_gen_params out;
    if (!take(&at, &left, &magic, sizeof magic) || magic != PACK_MAGIC ||
        !take(&at, &left, &head, sizeof head) || head != sizeof out ||
        !take(&at, &left, &out, sizeof out))
        return taca_fail(err, TACA_EPROTO, "packed request of %zu bytes: bad head", len);
    for (int i = 0; i < N_STRINGS; i++) {
        uint32_t n;
        if (!take(&at, &left, &n, sizeof n))
            return taca_fail(err, TACA_EPROTO, "packed request of %zu bytes: cut string", len);
        *string_at(&out, i) = NULL;
        if (n == UINT32_MAX) continue;
        const char *s = (const char *)at;
        if (!take(&at, &left, NULL, n))
            return taca_fail(err, TACA_EPROTO, "packed request of %zu bytes: cut string", len);
        if (!(*string_at(&out, i) = taca_arena_strndup(a, s, n)))
            return taca_fail(err, TACA_ENOMEM, "unpacking a request");
    }
    for (int i = 0; i < N_BLOBS; i++) {
        const size_t n = blob_bytes(&out, i);
        const unsigned char *pixels;
        uint32_t there;
        *blob_at(&out, i) = NULL;
        if (!take(&at, &left, &there, sizeof there) || there > 1)
            return taca_fail(err, TACA_EPROTO, "packed request of %zu bytes: no pixels", len);
        if (!there) continue;
        pixels = at;
        if (n == 0 || !take(&at, &left, NULL, n))
            return taca_fail(err, TACA_EPROTO, "packed request of %zu bytes: cut pixels", len);
        if (!copy_blob(blob_at(&out, i), pixels, n, a))
            return taca_fail(err, TACA_ENOMEM, "unpacking a request");
    }
    if (left) return taca_fail(err, TACA_EPROTO, "packed request: %zu bytes too many", left);
    *p = out;
    return TACA_OK;
}

void taca_image_finish(struct taca_image *img) {
    free(img->rgb);
    *img = (struct taca_image){0};
}
