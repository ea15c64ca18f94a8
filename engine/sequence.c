/* sequence.c - one image in the making: opened from prompts or given conditioning, advanced by
 * steps together with others, decoded. Between two steps it is only data. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core.h"
#include "engine/sample/taca.h"

/* The sequence's one block of device memory, cut in a fixed order; base NULL only counts. */
struct cursor {
    char *base;
    size_t used;
};

static float *take_floats(struct cursor *c, int64_t n) {
    float *p = c->base ? (float *)(void *)(c->base + c->used) : NULL;
    c->used += ((size_t)n * sizeof(float) + 63) / 64 * 64; /* the next starts on a cache line */
    return p;
}

static struct taca_mat take_mat(struct cursor *c, int64_t rows, int64_t cols) {
    return (struct taca_mat){take_floats(c, rows * cols), TACA_F32, rows, cols, cols};
}

size_t seq_lay_out(struct taca_seq *s, const struct dit_info *d, struct taca_chw shape,
                   int64_t text_rows, int steps) {
    struct cursor c = {s->memory, 0};
    const int64_t n = shape.c * shape.h * shape.w;
    s->latent = s->velocity[0] = s->velocity[1] = s->skipped = s->walk.keep = shape;
    s->latent.data = take_floats(&c, n);
    if (sampler_keeps(s->walk.kind)) s->walk.keep.data = take_floats(&c, n);
    if (s->slg.layers) s->skipped.data = take_floats(&c, n);
    if (s->masked) {
        s->image = s->noise = s->kept = s->mask = shape;
        s->mask.c = 1;
        s->image.data = take_floats(&c, n);
        s->noise.data = take_floats(&c, n);
        s->kept.data = take_floats(&c, n);
        s->mask.data = take_floats(&c, shape.h * shape.w);
    }
    if (d->place_width)
        s->places =
            take_mat(&c, shape.h / d->patch * (shape.w / d->patch) + text_rows, d->place_width);
    for (int i = 0; i < s->n_branches; i++) {
        s->velocity[i].data = take_floats(&c, n);
        s->context[i] = take_mat(&c, text_rows, d->width);
        s->outside[i] = s->loras.two_contexts ? take_mat(&c, text_rows, d->width) : s->context[i];
        s->mod[i] = take_mat(&c, steps, d->mod_width);
    }
    return c.used;
}

static enum taca_code upload_places(struct taca_engine *e, struct taca_seq *s,
                                    struct taca_err *err) {
    const size_t n = (size_t)(s->places.rows * s->places.cols);
    if (!n) return TACA_OK;
    float *table = malloc(n * sizeof *table);
    if (!table) return taca_fail(err, TACA_ENOMEM, "places of %zu values", n);
    dit_places(e->dit, table, s->latent.h, s->latent.w, s->context[SEQ_COND].rows);
    taca_upload(e->b, s->places.data, table, n * sizeof *table);
    free(table);
    return TACA_OK;
}

/* The projected text and all modulations of one branch. An adapter that is on in some steps only
 * splits them into runs. */
static void prepare_branch(struct taca_engine *e, struct taca_seq *s, int branch,
                           const struct seq_text *text) {
    struct taca_scratch *scratch = engine_side_scratch(e);
    struct lora_set set;
    dit_context(e->dit, e->b, scratch, s->context[branch], text->context,
                seq_loras_on(&s->loras, true, &set));
    if (s->loras.two_contexts)
        dit_context(e->dit, e->b, scratch, s->outside[branch], text->context,
                    seq_loras_on(&s->loras, false, &set));
    for (int i = 0, end; i < s->schedule.steps; i = end) {
        const bool inside = seq_in_window(s, i);
        for (end = i + 1;
             end < s->schedule.steps && (!s->loras.windowed || seq_in_window(s, end) == inside);)
            end++;
        const struct dit_condition c = {.t = s->schedule.timestep + i,
                                        .guidance = s->guidance_scale,
                                        .pooled = text->pooled,
                                        .loras = *seq_loras_on(&s->loras, inside, &set)};
        dit_modulation(e->dit, e->b, scratch, taca_mat_rows(s->mod[branch], i, end - i), &c);
    }
}

/* Everything that does not change from step to step: places, projected text, all modulations. */
static enum taca_code prepare(struct taca_engine *e, struct taca_seq *s,
                              const struct seq_text *text[], struct taca_err *err) {
    for (int i = 0; i < s->n_branches; i++) prepare_branch(e, s, i, text[i]);
    return upload_places(e, s, err);
}

static enum taca_code begin(struct taca_engine *e, struct taca_seq *s,
                            const struct taca_gen_params *p, const struct seq_given *given,
                            struct taca_err *err) {
    struct seq_rest own = {0}, *rest = given->rest ? given->rest : &own;
    /* known before the image is encoded: whoever opens the sequence asks for its steps meanwhile */
    if (given->start ? given->start->image != NULL : p->image != NULL)
        s->walk.first = s->walk.step = taca_first_step(s->schedule.steps, p->strength);
    if (given->start) return seq_begin(e, s, given->start, err);
    enum taca_code rc = seq_draw(rest, e, s, p, given->rng, err);
    if (!rc && (rest == &own || !rest->encoding.under_way)) rc = seq_go_on(e, s, rest, err);
    if (rc || rest == &own) seq_rest_finish(e, rest);
    return rc;
}

/* The noise of later steps goes on where the first noise ended. */
static enum taca_code keep_generator(struct taca_seq *s, const struct taca_rng *rng,
                                     struct taca_err *err) {
    if (!sampler_draws(s->walk.kind)) return TACA_OK;
    const size_t n = (size_t)(s->latent.c * s->latent.h * s->latent.w);
    s->walk.rng = *rng;
    s->walk.draw = malloc(n * sizeof *s->walk.draw);
    return s->walk.draw ? TACA_OK : taca_fail(err, TACA_ENOMEM, "noise of %zu values", n);
}

static void keep_most(struct taca_work *most, const struct taca_work *one) {
    for (int i = 0; i < TACA_WORK_BUFFERS; i++)
        if (most->bytes[i] < one->bytes[i]) most->bytes[i] = one->bytes[i];
}

static void account(struct taca_engine *e, struct taca_seq *s, const struct memplan *plan) {
    s->step_bytes = plan->step_bytes;
    s->side_bytes = plan->side_bytes;
    e->step_bytes += plan->step_bytes;
    s->step_work = plan->step_work;
    for (int i = 0; i < TACA_WORK_BUFFERS; i++) e->step_work.bytes[i] += plan->step_work.bytes[i];
    keep_most(&e->side_work, &plan->side_work);
    keep_most(&e->preview_work, &plan->preview_work);
    if (e->preview_bytes < plan->preview_bytes) e->preview_bytes = plan->preview_bytes;
    if (e->side_bytes < plan->side_bytes) e->side_bytes = plan->side_bytes;
    e->open_seqs++;
}

/* Into its memory, all that steps want. */
static enum taca_code fill(struct taca_engine *e, struct taca_seq *s,
                           const struct taca_gen_params *p, const struct seq_given *given,
                           struct taca_err *err) {
    const struct seq_text *text[SEQ_BRANCHES] = {given->cond, given->uncond};
    enum taca_code rc = prepare(e, s, text, err);
    if (!rc) rc = begin(e, s, p, given, err);
    if (!rc) rc = keep_generator(s, given->rng, err);
    const enum taca_code queued = taca_queued(e->b, rc ? NULL : err);
    if (!rc) rc = queued;
    if (!rc) return TACA_OK;
    if (given->rest) seq_rest_finish(e, given->rest);
    (void)!taca_sync(e->b, NULL); /* some of it may be at work */
    return rc;
}

enum taca_code seq_open_with(struct taca_engine *e, const struct taca_gen_params *p,
                             const struct seq_given *given, struct taca_seq **out,
                             struct taca_err *err) {
    const struct dit_info *d = dit_get_info(e->dit);
    const int factor = e->vae ? vae_get_info(e->vae)->factor : 8;
    const struct taca_chw shape = {NULL, d->in_channels, p->height_px / factor,
                                   p->width_px / factor};
    const int64_t rows = given->cond->context.rows;
    enum taca_code rc = TACA_OK;
    struct memplan plan;
    struct taca_seq *s = calloc(1, sizeof *s);
    if (!s) return taca_fail(err, TACA_ENOMEM, "opening a sequence");
    s->width_px = p->width_px;
    s->height_px = p->height_px;
    s->window = p->taca;
    s->slg = p->slg;
    s->preview = p->preview;
    s->walk.kind = p->sampler;
    s->cfg_scale = (float)p->cfg_scale;
    s->guidance_scale = (float)p->guidance_scale;
    s->masked = given->start ? given->start->mask != NULL : p->mask != NULL;
    s->n_branches = given->uncond ? 2 : 1;
    const int64_t tokens = shape.h / d->patch * (shape.w / d->patch);
    const struct taca_schedule_want schedule = {p->schedule, p->steps, tokens, p->shift};
    rc = taca_schedule_make(&s->schedule, &e->scheduler, &schedule, err);
    if (!rc) rc = seq_loras_take(e, p, &s->loras, err);
    if (!rc) rc = seq_loras_check(&s->loras, err);
    const struct memplan_want want = {.h = shape.h,
                                      .w = shape.w,
                                      .text_rows = rows,
                                      .n_branches = s->n_branches,
                                      .steps = s->schedule.steps,
                                      .sampler = p->sampler,
                                      .skips = p->slg.layers != 0,
                                      .encodes = p->image && !given->start,
                                      .masked = s->masked,
                                      .loras = &s->loras};
    if (!rc) rc = memplan_run(e, &want, &plan, err);
    if (!rc) rc = engine_reserve(e, &plan, err);
    if (!rc) rc = engine_take(e, &plan, &s->memory, err);
    if (rc) goto out;
    seq_lay_out(s, d, shape, rows, s->schedule.steps);
    rc = fill(e, s, p, given, err);
    if (rc) goto out;
    account(e, s, &plan);
    *out = s;
    return TACA_OK;
out:
    seq_loras_drop(&s->loras);
    taca_free(e->b, s->memory);
    free(s->walk.draw);
    free(s);
    return rc;
}

void seq_free(struct taca_engine *e, struct taca_seq *s) {
    e->step_bytes -= s->step_bytes;
    for (int i = 0; i < TACA_WORK_BUFFERS; i++) e->step_work.bytes[i] -= s->step_work.bytes[i];
    if (--e->open_seqs == 0) {
        e->side_bytes = e->preview_bytes = 0;
        e->side_work = e->preview_work = (struct taca_work){0};
    }
    seq_loras_drop(&s->loras);
    taca_free(e->b, s->memory);
    free(s->walk.draw);
    free(s);
}

int taca_seq_step(const struct taca_seq *s) { return sampler_done(&s->walk, s->schedule.steps); }
int taca_seq_steps(const struct taca_seq *s) {
    return taca_sampler_forwards(s->walk.kind, s->schedule.steps - s->walk.first);
}
bool taca_seq_done(const struct taca_seq *s) { return s->walk.step == s->schedule.steps; }

/* Tokens of one branch; patches are counted by the transformer itself. */
static int64_t branch_tokens(const struct taca_engine *e, const struct taca_seq *s) {
    const int64_t p = dit_get_info(e->dit)->patch;
    return s->latent.h / p * (s->latent.w / p) + s->context[SEQ_COND].rows;
}

int taca_seq_tokens(const struct taca_engine *e, const struct taca_seq *s) {
    return (int)(branch_tokens(e, s) * s->n_branches);
}

static struct dit_item item_of(const struct taca_seq *s, int branch) {
    const int at = sampler_level(&s->walk);
    const double sigma = (double)s->schedule.sigma[at];
    return (struct dit_item){
        .latent = s->latent,
        .velocity = s->velocity[branch],
        .context = seq_in_window(s, at) ? s->context[branch] : s->outside[branch],
        .places = s->places,
        .mod = taca_mat_rows(s->mod[branch], at, 1),
        .gamma = (float)taca_gamma(&s->window, at, s->schedule.steps, sigma),
    };
}

static bool skips_now(const struct taca_seq *s) {
    return s->n_branches > 1 && taca_slg_has(&s->slg, sampler_level(&s->walk), s->schedule.steps);
}

/* A forward of its own, for blocks are left out of all items of one. Queued. */
static enum taca_code run_skipped(struct taca_engine *e, struct taca_seq *s, struct taca_err *err) {
    enum { MAX_BLOCKS = 64 };
    const int64_t depth = dit_get_info(e->dit)->depth;
    struct dit_item item = item_of(s, SEQ_COND);
    struct taca_seg seg;
    struct taca_layout layout;
    struct batch_loras loras;
    bool *all = calloc((size_t)depth, sizeof *all);
    if (!all) return taca_fail(err, TACA_ENOMEM, "skip-layer guidance");
    for (int i = 0; i < depth && i < MAX_BLOCKS; i++) all[i] = s->slg.layers >> i & 1;
    item.velocity = s->skipped;
    dit_segments(e->dit, &item, 1, &seg);
    enum taca_code rc = batch_loras_init(&loras, e, &s, 1, err);
    if (rc) goto out;
    const size_t used = e->scratch.used;
    rc = taca_scratch_layout(&e->scratch, &layout, &seg, 1, err);
    if (!rc) {
        dit_run(
            e->dit, e->b, &e->scratch,
            &(struct dit_forward){
                .items = &item, .n_items = 1, .layout = &layout, .loras = loras.all, .skip = all});
        rc = taca_queued(e->b, err);
        taca_layout_finish(&layout); /* the next who has its memory is behind in the queue */
    }
    e->scratch.used = used;
    batch_loras_finish(&loras);
out:
    free(all);
    return rc;
}

/* The velocities of all branches become one, and the latent moves along it. Queued. */
static void advance(struct taca_engine *e, struct taca_seq *s) {
    const struct taca_chw v = s->velocity[SEQ_COND];
    const bool skips = skips_now(s);
    if (skips) taca_axpby(e->b, s->skipped, v, 1, -1);
    if (s->n_branches > 1)
        taca_cfg_euler(e->b, s->latent, v, s->velocity[SEQ_UNCOND], s->cfg_scale, 0);
    if (skips) taca_axpby(e->b, v, s->skipped, (float)s->slg.scale, 1);
    sampler_move(&s->walk, e->b, s->schedule.sigma, s->latent, v);
    const int next = s->walk.step + 1;
    const bool halfway = s->walk.kind == TACA_HEUN && !s->walk.second && next < s->schedule.steps;
    if (s->masked && !halfway) seq_keep_unmasked(e, s, s->schedule.sigma[next]);
}

/* The forward over all branches of all sequences, then the sampler's part of each. Queued. */
static enum taca_code run_batch(struct taca_engine *e, struct taca_seq *const *seqs, int n,
                                struct dit_item *items, struct taca_seg *segs,
                                struct taca_err *err) {
    struct taca_layout *layout = &e->step.layout;
    struct batch_loras loras;
    int n_items = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < seqs[i]->n_branches; k++) items[n_items++] = item_of(seqs[i], k);
    dit_segments(e->dit, items, n_items, segs);
    enum taca_code rc = batch_loras_init(&loras, e, seqs, n, err);
    if (rc) return rc;
    const size_t used = e->scratch.used;
    rc = taca_scratch_layout(&e->scratch, layout, segs, n_items, err);
    if (rc) goto out;
    dit_run(e->dit, e->b, &e->scratch,
            &(struct dit_forward){
                .items = items, .n_items = n_items, .layout = layout, .loras = loras.all});
    for (int i = 0; i < n && !rc; i++)
        if (skips_now(seqs[i])) rc = run_skipped(e, seqs[i], err);
    const enum taca_code ran = taca_queued(e->b, rc ? NULL : err);
    if (!rc) rc = ran;
    /* only now: what a sampler draws is gone, and a step that failed may be made again */
    for (int i = 0; i < n && !rc; i++) advance(e, seqs[i]);
    const enum taca_code moved = taca_queued(e->b, rc ? NULL : err);
    if (!rc) rc = moved;
    if (rc) {
        (void)!taca_sync(e->b, NULL); /* some of it may be at work */
        taca_layout_finish(layout);
    }
out:
    e->scratch.used = used;
    batch_loras_finish(&loras);
    return rc;
}

enum taca_code taca_step_begin(struct taca_engine *e, struct taca_seq *const *seqs, int n,
                               struct taca_err *err) {
    enum taca_code rc = TACA_ENOMEM;
    if (n < 1) return taca_fail(err, TACA_EINVAL, "a step needs at least one sequence");
    if (e->step.n) return taca_fail(err, TACA_EBUSY, "a step of %d is at work", e->step.n);
    for (int i = 0; i < n; i++)
        if (taca_seq_done(seqs[i]))
            return taca_fail(err, TACA_EINVAL, "sequence %d is finished", i);
    struct dit_item *items = calloc((size_t)n, SEQ_BRANCHES * sizeof *items);
    struct taca_seg *segs = calloc((size_t)n, SEQ_BRANCHES * sizeof *segs);
    e->step.seqs = calloc((size_t)n, sizeof *e->step.seqs);
    if (items && segs && e->step.seqs) {
        rc = side_precedes(e, seqs, n, err);
        if (!rc) rc = run_batch(e, seqs, n, items, segs, err);
    } else {
        taca_fail(err, TACA_ENOMEM, "a step of %d sequences", n);
    }
    free(items);
    free(segs);
    if (rc) {
        free(e->step.seqs);
        e->step.seqs = NULL;
        return rc;
    }
    memcpy(e->step.seqs, seqs, (size_t)n * sizeof *seqs);
    e->step.n = n;
    taca_mark_set(e->b, &e->step.mark);
    return TACA_OK;
}

bool taca_step_done(const struct taca_engine *e) {
    return e->step.n == 0 || taca_mark_done(e->b, &e->step.mark);
}

enum taca_code taca_step_end(struct taca_engine *e, struct taca_err *err) {
    const int n = e->step.n;
    if (n == 0) return taca_fail(err, TACA_EINVAL, "no step is at work");
    const enum taca_code rc = taca_sync(e->b, err);
    taca_layout_finish(&e->step.layout);
    for (int i = 0; i < n && rc == TACA_OK; i++) {
        struct taca_seq *s = e->step.seqs[i];
        if (s) sampler_next(&s->walk, s->schedule.steps);
    }
    free(e->step.seqs);
    e->step.seqs = NULL;
    e->step.n = 0;
    return rc;
}

enum taca_code taca_step(struct taca_engine *e, struct taca_seq *const *seqs, int n,
                         struct taca_err *err) {
    enum taca_code rc = taca_step_begin(e, seqs, n, err);
    return rc ? rc : taca_step_end(e, err);
}

enum taca_code seq_latent_read(struct taca_engine *e, const struct taca_seq *s, float *out,
                               struct taca_err *err) {
    taca_download(e->b, out, s->latent.data,
                  (size_t)(s->latent.c * s->latent.h * s->latent.w) * sizeof *out);
    return taca_sync(e->b, err);
}

enum taca_code seq_latent_write(struct taca_engine *e, struct taca_seq *s, const float *latent,
                                int step, struct taca_err *err) {
    if (step < 0 || step >= s->schedule.steps)
        return taca_fail(err, TACA_EINVAL, "step %d of %d", step, s->schedule.steps);
    taca_upload(e->b, s->latent.data, latent,
                (size_t)(s->latent.c * s->latent.h * s->latent.w) * sizeof *latent);
    s->walk.first = s->walk.step = step;
    s->walk.second = false;
    return taca_sync(e->b, err);
}

void *seq_picture_queue(struct taca_engine *e, struct taca_scratch *scratch,
                        struct taca_map image) {
    const size_t bytes = taca_rgb8_bytes(image.h, image.w);
    void *pixels = taca_scratch_mat(scratch, TACA_U8, 1, (int64_t)bytes).data;
    taca_map_to_rgb8(e->b, pixels, image);
    return pixels;
}

enum taca_code seq_picture_read(struct taca_engine *e, const void *pixels, int width_px,
                                int height_px, struct taca_image *out, struct taca_err *err) {
    uint8_t *rgb = malloc((size_t)height_px * (size_t)width_px * 3);
    if (rgb) taca_rgb8_read(e->b, rgb, pixels, height_px, width_px);
    enum taca_code rc = taca_sync(e->b, err);
    if (!rc && !rgb) rc = taca_fail(err, TACA_ENOMEM, "a picture of %d x %d", width_px, height_px);
    if (rc)
        free(rgb);
    else
        *out = (struct taca_image){width_px, height_px, rgb};
    return rc;
}

/* By the tiny decoder; the guess is overwritten. */
static enum taca_code preview_taesd(struct taca_engine *e, struct taca_chw guess,
                                    struct taca_image *out, struct taca_err *err) {
    const size_t used = e->scratch.used;
    const struct taca_map image =
        taca_scratch_map(&e->scratch, TACA_F32, 1, guess.h * TAE_FACTOR, guess.w * TAE_FACTOR, 3);
    tae_decode(e->tae, e->b, &e->scratch, image, guess);
    const void *pixels = seq_picture_queue(e, &e->scratch, image);
    const enum taca_code rc = seq_picture_read(e, pixels, (int)image.w, (int)image.h, out, err);
    e->scratch.used = used;
    return rc;
}

static enum taca_code preview_rgb(const struct taca_engine *e, struct taca_chw guess,
                                  struct taca_image *out, struct taca_err *err) {
    uint8_t *rgb = malloc((size_t)(guess.h * guess.w) * 3);
    if (!rgb) return taca_fail(err, TACA_ENOMEM, "a preview");
    preview_render(&e->preview, guess.data, (int)guess.h, (int)guess.w, rgb);
    *out = (struct taca_image){(int)guess.w, (int)guess.h, rgb};
    return TACA_OK;
}

enum taca_code taca_seq_preview(struct taca_engine *e, const struct taca_seq *s,
                                struct taca_image *out, struct taca_err *err) {
    const size_t bytes = (size_t)(s->latent.c * s->latent.h * s->latent.w) * sizeof(float);
    struct taca_chw guess = s->latent;
    if (taca_seq_step(s) == 0)
        return taca_fail(err, TACA_EINVAL, "a preview needs at least one step");
    guess.data = malloc(bytes);
    if (!guess.data) return taca_fail(err, TACA_ENOMEM, "a preview");
    taca_download(e->b, guess.data, s->velocity[SEQ_COND].data, bytes);
    enum taca_code rc = taca_sync(e->b, err);
    if (!rc)
        rc = s->preview == TACA_PREVIEW_TAESD && e->tae ? preview_taesd(e, guess, out, err)
                                                        : preview_rgb(e, guess, out, err);
    free(guess.data);
    return rc;
}
