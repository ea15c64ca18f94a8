/* generate_here.c - `taca generate` with the engine in this process. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "api/image_write.h"
#include "api/request.h"
#include "cli/cli.h"
#include "cli/generate.h"
#include "cli/progress.h"

enum { LARGEST_FILE = 1 << 30, PREVIEWS = 8 };

struct here {
    struct gen *g;
    struct taca_engine *engine;
    const struct taca_model_info *model;
    struct api_request request;
    struct taca_seq *seqs[GEN_MAX_IMAGES];
    char lora_id[TACA_MAX_LORAS][TACA_MAX_LORA_ID + 1];
    struct progress bar;
};

static enum taca_code open_engine(struct here *h, struct taca_err *err) {
    struct taca_engine_opts opts = h->g->o->engine;
    if (!opts.model_path && !opts.transformer) opts.model_path = cli_demo_model();
    if (!opts.model_path && !opts.transformer)
        return taca_fail_param(err, "model", "the demo model was not found: give --model PATH");
    enum taca_code rc = taca_engine_open(&h->engine, &opts, err);
    if (!rc) h->model = taca_engine_info(h->engine);
    return rc;
}

/* Nobody else pays for what is asked here: the engine's limits are the limits. */
static void no_limits(struct api_limits *l) {
    *l = (struct api_limits){.max_pixels = INT64_MAX,
                             .max_side_px = INT_MAX,
                             .max_steps = TACA_MAX_STEPS,
                             .max_n = GEN_MAX_IMAGES,
                             .max_body_bytes = LARGEST_FILE,
                             .max_prompt_bytes = 1 << 20,
                             .max_start_timeout_ms = INT_MAX};
}

static enum taca_code parse(struct here *h, struct taca_err *err) {
    struct api_limits limits;
    struct api_error why = {0};
    uint64_t random;
    no_limits(&limits);
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return taca_fail(err, TACA_EIO, "no random seed: %s", strerror(errno));
    char *text = json_dumps(h->g->request, JSON_COMPACT);
    if (!text) return taca_fail(err, TACA_ENOMEM, "a request");
    int status =
        api_request_parse(&h->request, text, strlen(text), h->model, &limits, random >> 11, &why);
    free(text);
    return status ? gen_refused(&why, err) : TACA_OK;
}

/* ---- what the request in JSON does not carry here -------------------------------------------- */

static void say_warning(void *ctx, const char *text) {
    (void)ctx;
    gen_warn(text);
}

/* Opens the adapters under their files' names without folder and suffix. */
static enum taca_code open_lora(struct here *h, int i, struct taca_err *err) {
    const struct gen_opts *o = h->g->o;
    const char *item = o->lora.item[i];
    struct gen_lora use = {.id = h->lora_id[i], .window = "always", .scale = 1};
    char path[4096];
    double given = -1e9;
    int len = access(item, F_OK) == 0 ? (int)strlen(item) : gen_lora_split(item, &given);
    snprintf(path, sizeof path, "%.*s", len, item);
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    const int n = dot && dot > name ? (int)(dot - name) : (int)strlen(name);
    snprintf(h->lora_id[i], sizeof h->lora_id[i], "%.*s", n, name);
    enum taca_code rc = taca_lora_open(h->engine, use.id, path, say_warning, NULL, err);
    if (rc) return rc;
    gen_lora_from_picture(h->g, &use);
    if (given > -1e9) use.scale = given;
    const bool in_window =
        o->lora_window >= 0 ? o->lora_window == 1 : strcmp(use.window, "taca") == 0;
    struct taca_gen_params *p = &h->request.params;
    p->loras[p->n_loras++] = (struct taca_lora_use){
        use.id, use.scale, in_window ? TACA_LORA_IN_WINDOW : TACA_LORA_ALWAYS};
    return TACA_OK;
}

/* Adapters are files here; the picture of --from has names. */
static enum taca_code check_loras(const struct gen *g, struct taca_err *err) {
    const json_t *named = json_object_get(g->request, "loras");
    const char *id = json_string_value(json_object_get(json_array_get(named, 0), "id"));
    if (g->o->lora.n > TACA_MAX_LORAS)
        return taca_fail_param(err, "lora", "at most %d adapters, got %d", TACA_MAX_LORAS,
                               g->o->lora.n);
    if (json_array_size(named) == 0 || g->o->lora.n > 0) return TACA_OK;
    return taca_fail_param(err, "lora",
                           "%s was made with the adapter \"%s\": give its file by --lora",
                           g->o->from, id ? id : "");
}

static void say_other_model(const struct here *h) {
    char text[512];
    snprintf(text, sizeof text, "%.200s was made with the model %.100s, this is %s", h->g->o->from,
             h->g->model, h->model->id);
    gen_warn(text);
}

static enum taca_code prepare(struct here *h, struct taca_err *err) {
    struct gen *g = h->g;
    json_t *loras = json_incref(json_object_get(g->request, "loras"));
    enum taca_code rc = check_loras(g, err);
    if (g->model && strcmp(g->model, h->model->id) != 0) say_other_model(h);
    /* no ids of a service */
    (void)json_object_del(g->request, "model");
    (void)json_object_del(g->request, "loras");
    json_t *strength = json_incref(json_object_get(g->request, "strength"));
    (void)json_object_del(g->request, "strength");
    if (!rc) rc = parse(h, err);
    if (loras) (void)json_object_set_new(g->request, "loras", loras);
    struct taca_gen_params *p = &h->request.params;
    for (int i = 0; i < g->o->lora.n && !rc; i++) rc = open_lora(h, i, err);
    p->image = g->picture.image.rgb;
    p->mask = g->picture.mask;
    if (strength) p->strength = json_number_value(strength);
    json_decref(strength);
    return rc ? rc : taca_gen_params_check(p, h->model, err);
}

/* ---- making it ------------------------------------------------------------------------------- */

static void print_warnings(const struct here *h, unsigned warnings) {
    const struct taca_model_info *m = h->model;
    const int tokens = m->has_t5 ? h->request.params.max_sequence_length : m->clip_tokens;
    if (warnings & TACA_WARN_PROMPT_CUT)
        fprintf(stderr, "taca generate: the prompt has more than %d tokens; the rest was ignored\n",
                tokens);
    if (warnings & TACA_WARN_NEGATIVE_CUT)
        fprintf(stderr, "taca generate: the negative prompt was cut at %d tokens\n", tokens);
    if (warnings & TACA_WARN_NEGATIVE_IGNORED)
        gen_warn("the negative prompt needs --cfg above 1 and was ignored");
}

static enum taca_code open_sequences(struct here *h, struct taca_err *err) {
    struct taca_gen_params p = h->request.params;
    unsigned warnings = 0;
    for (int k = 0; k < h->request.n; k++) {
        p.seed = h->request.params.seed + (uint64_t)k;
        enum taca_code rc = taca_seq_open(h->engine, &p, &h->seqs[k], &warnings, err);
        if (rc) return rc;
    }
    print_warnings(h, warnings);
    return TACA_OK;
}

/* A look at the first picture is worth a try, not a failure. */
static void preview(struct here *h, int done) {
    struct taca_image img = {0};
    if (!progress_draws(&h->bar) || api_preview_due(&h->request, done) < 0) return;
    if (taca_seq_preview(h->engine, h->seqs[0], &img, NULL) == TACA_OK)
        progress_draw(&h->bar, &img);
    taca_image_finish(&img);
}

static enum taca_code step(struct here *h, struct taca_err *err) {
    const int steps = taca_seq_steps(h->seqs[0]);
    enum taca_code rc = TACA_OK;
    for (int i = 0; i < steps && !rc; i++) {
        if (*h->g->stop) return taca_fail(err, TACA_ECANCELLED, "cancelled after %d steps", i);
        rc = taca_step(h->engine, h->seqs, h->request.n, err);
        if (!rc) progress_steps(&h->bar, i + 1, steps, -1);
        if (!rc) preview(h, i + 1);
    }
    return rc;
}

static enum taca_code write_image(const struct here *h, const struct taca_image *img, int k,
                                  struct taca_err *err) {
    struct taca_buf file;
    struct taca_gen_params p = h->request.params;
    p.seed += (uint64_t)k;
    const struct api_origin origin = {&p, h->model};
    taca_buf_init(&file, LARGEST_FILE);
    enum taca_code rc =
        api_image_write(&file, img, &h->request.file, h->request.metadata ? &origin : NULL, err);
    if (!rc) rc = gen_deliver(h->g->o, &file, k, p.seed, err);
    taca_buf_finish(&file);
    return rc;
}

/* Every sequence open, stepped together, decoded. */
static enum taca_code make(struct here *h, struct taca_err *err) {
    const struct gen_opts *o = h->g->o;
    enum taca_code rc = open_sequences(h, err);
    h->request.previews = PREVIEWS;
    struct taca_err why = {0};
    if (!rc && !o->quiet && !o->json && taca_engine_misses_device(o->engine.device, &why))
        fprintf(stderr, "taca generate: %s; the CPU does it\n", why.text);
    progress_start(&h->bar, o->quiet || o->json, o->preview);
    if (!rc) rc = step(h, err);
    for (int k = 0; k < h->request.n && !rc; k++) {
        struct taca_image img = {0};
        if (*h->g->stop) rc = taca_fail(err, TACA_ECANCELLED, "cancelled");
        if (!rc) rc = taca_decode(h->engine, &h->seqs[k], 1, &img, err);
        if (!rc && k == 0) progress_draw(&h->bar, &img);
        if (!rc) progress_clear(&h->bar);
        if (!rc) rc = write_image(h, &img, k, err);
        taca_image_finish(&img);
    }
    progress_clear(&h->bar);
    return rc;
}

enum taca_code gen_here(struct gen *g, struct taca_err *err) {
    struct here h = {.g = g};
    enum taca_code rc = open_engine(&h, err);
    if (!rc) rc = prepare(&h, err);
    if (!rc) rc = make(&h, err);
    for (int k = 0; k < GEN_MAX_IMAGES; k++) taca_seq_close(h.engine, h.seqs[k]);
    taca_engine_close(h.engine);
    api_request_finish(&h.request);
    return rc;
}
