/* memplan.c - bytes and cost before anything runs: the model itself is run on a backend that only
 * counts, so the plan cannot drift from the code. */
#include "engine/core.h"

/* What was counted since `before`. */
static struct taca_counts since(const struct taca_backend *count,
                                const struct taca_counts *before) {
    struct taca_counts c = taca_count_read(count);
    c.flops -= before->flops;
    c.narrow_flops -= before->narrow_flops;
    c.conv_flops -= before->conv_flops;
    c.attention_flops -= before->attention_flops;
    c.weight_bytes -= before->weight_bytes;
    return c;
}

static enum taca_code plan_step(const struct taca_engine *e, struct taca_backend *count,
                                const struct memplan_want *want, struct memplan *out,
                                struct taca_err *err) {
    const struct dit_info *d = dit_get_info(e->dit);
    const int64_t h = want->h, w = want->w, text = want->text_rows;
    const int64_t rows = h / d->patch * (w / d->patch) + text;
    const float on[SEQ_BRANCHES] = {1, 1};
    struct dit_lora loras[TACA_MAX_LORAS];
    struct dit_item items[SEQ_BRANCHES];
    struct taca_seg segs[SEQ_BRANCHES];
    struct taca_scratch s = {.b = count};
    struct taca_layout layout;
    const int n_loras = want->loras ? want->loras->n : 0;
    for (int i = 0; i < n_loras; i++)
        loras[i] = (struct dit_lora){want->loras->list[i].lora->adapter, on};
    const struct taca_chw control = {NULL, want->control ? d->in_channels : 0, h, w};
    for (int i = 0; i < want->n_branches; i++)
        items[i] =
            (struct dit_item){.latent = {NULL, d->in_channels, h, w},
                              .velocity = {NULL, d->in_channels, h, w},
                              .control = control,
                              .context = {NULL, TACA_F32, text, d->width, d->width},
                              .places = {NULL, TACA_F32, rows, d->place_width, d->place_width},
                              .mod = {NULL, TACA_F32, 1, d->mod_width, d->mod_width},
                              .gamma = 1};
    dit_segments(e->dit, items, want->n_branches, segs);
    enum taca_code rc = taca_scratch_layout(&s, &layout, segs, want->n_branches, err);
    if (rc) return rc;
    dit_run(e->dit, count, &s,
            &(struct dit_forward){.items = items,
                                  .n_items = want->n_branches,
                                  .layout = &layout,
                                  .loras = {loras, n_loras}});
    rc = taca_sync(count, err);
    taca_layout_finish(&layout);
    out->step = taca_count_read(count);
    out->step_bytes = s.peak;
    return rc;
}

/* dit_modulation and dit_context. */
static enum taca_code plan_admission(const struct taca_engine *e, struct taca_backend *count,
                                     const struct memplan_want *want, struct memplan *out,
                                     struct taca_err *err) {
    const struct dit_info *d = dit_get_info(e->dit);
    const int64_t text = want->text_rows, joint = d->joint_width;
    const struct seq_loras none = {0};
    struct taca_scratch s = {.b = count};
    struct lora_set set;
    const struct dit_loras *loras = seq_loras_on(want->loras ? want->loras : &none, true, &set);
    const struct taca_counts before = taca_count_read(count);
    const float t[TACA_MAX_STEPS] = {0};
    const struct dit_condition c = {
        .t = t, .pooled = {NULL, TACA_F32, 1, d->pooled_width, d->pooled_width}, .loras = *loras};
    dit_context(e->dit, count, &s, (struct taca_mat){NULL, TACA_F32, text, d->width, d->width},
                (struct taca_mat){NULL, TACA_F32, text, joint, joint}, loras);
    dit_modulation(e->dit, count, &s,
                   (struct taca_mat){NULL, TACA_F32, want->steps, d->mod_width, d->mod_width}, &c);
    if (out->side_bytes < s.peak) out->side_bytes = s.peak;
    out->admission = since(count, &before);
    return taca_sync(count, err);
}

static enum taca_code plan_decode(const struct taca_engine *e, struct taca_backend *count,
                                  int64_t h, int64_t w, struct memplan *out, struct taca_err *err) {
    struct taca_scratch s = {.b = count};
    const int64_t f = vae_get_info(e->vae)->factor;
    const struct taca_counts before = taca_count_read(count);
    struct taca_map image = taca_scratch_map(&s, TACA_F32, 1, h * f, w * f, 3);
    vae_decode(e->vae, count, &s, image,
               (struct taca_chw){NULL, vae_get_info(e->vae)->latent_channels, h, w}, false);
    taca_scratch_mat(&s, TACA_U8, 1, (int64_t)taca_rgb8_bytes(h * f, w * f));
    out->decode = since(count, &before);
    if (out->side_bytes < s.peak) out->side_bytes = s.peak;
    return taca_sync(count, err);
}

/* Previews of all sequences are made one at a time, in the scratch of steps. */
static enum taca_code plan_preview(const struct taca_engine *e, struct taca_backend *count,
                                   int64_t h, int64_t w, struct memplan *out,
                                   struct taca_err *err) {
    struct taca_scratch s = {.b = count};
    struct taca_map image = taca_scratch_map(&s, TACA_F32, 1, h * TAE_FACTOR, w * TAE_FACTOR, 3);
    tae_decode(e->tae, count, &s, image,
               (struct taca_chw){NULL, dit_get_info(e->dit)->in_channels, h, w});
    taca_scratch_mat(&s, TACA_U8, 1, (int64_t)taca_rgb8_bytes(image.h, image.w));
    out->preview_bytes = s.peak;
    return taca_sync(count, err);
}

/* seq_encode of start.c. */
static enum taca_code plan_encode(const struct taca_engine *e, struct taca_backend *count,
                                  int64_t h, int64_t w, struct memplan *out, struct taca_err *err) {
    struct taca_scratch s = {.b = count};
    const int64_t f = vae_get_info(e->vae)->factor, c = vae_get_info(e->vae)->latent_channels;
    const struct taca_counts before = taca_count_read(count);
    taca_scratch_mat(&s, TACA_F32, 2, c * h * w);
    const struct taca_map pixels = taca_scratch_map(&s, TACA_F32, 1, h * f, w * f, 3);
    vae_encode(e->vae, count, &s, (struct taca_chw){NULL, 2 * c, h, w}, pixels);
    out->encode = since(count, &before);
    if (out->side_bytes < s.peak) out->side_bytes = s.peak;
    return taca_sync(count, err);
}

enum taca_code memplan_encode(const struct taca_engine *e, int64_t h, int64_t w,
                              struct memplan *out, struct taca_err *err) {
    struct taca_backend *count;
    enum taca_code rc = taca_count_open_beside(&count, e->b, err);
    if (rc) return rc;
    const enum taca_lane last = taca_lane(count, TACA_LANE_SIDE);
    rc = plan_encode(e, count, h, w, out, err);
    (void)taca_lane(count, last);
    taca_backend_close(count);
    return rc;
}

enum taca_code memplan_run(const struct taca_engine *e, const struct memplan_want *want,
                           struct memplan *out, struct taca_err *err) {
    const struct dit_info *d = dit_get_info(e->dit);
    struct taca_backend *count;
    struct memplan plan = {0};
    enum taca_code rc = taca_count_open_beside(&count, e->b, err);
    if (rc) return rc;
    const enum taca_lane last = taca_lane(count, TACA_LANE_STEP);
    (void)taca_count_work(count);
    rc = plan_step(e, count, want, &plan, err);
    plan.step_work = taca_count_work(count);
    if (!rc && e->tae) rc = plan_preview(e, count, want->h, want->w, &plan, err);
    plan.preview_work = taca_count_work(count);
    (void)taca_lane(count, TACA_LANE_SIDE);
    (void)taca_count_work(count);
    if (!rc) rc = plan_admission(e, count, want, &plan, err);
    if (!rc && e->vae) rc = plan_decode(e, count, want->h, want->w, &plan, err);
    if (!rc && e->vae && want->encodes) rc = plan_encode(e, count, want->h, want->w, &plan, err);
    plan.side_work = taca_count_work(count);
    (void)taca_lane(count, last);
    struct taca_seq s = {.n_branches = want->n_branches,
                         .walk = {.kind = want->sampler},
                         .slg = {.layers = want->skips},
                         .masked = want->masked};
    if (want->loras) s.loras = *want->loras;
    plan.seq_bytes = seq_lay_out(&s, d, (struct taca_chw){NULL, d->in_channels, want->h, want->w},
                                 want->text_rows, want->steps);
    taca_backend_close(count);
    if (!rc) *out = plan;
    return rc;
}

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

size_t engine_scratch_bytes(const struct taca_engine *e, size_t steps, size_t side) {
    return taca_has_lanes(e->b) ? steps + side : max_size(steps, side);
}

enum taca_code engine_reserve_side(struct taca_engine *e, size_t bytes, struct taca_err *err) {
    struct taca_scratch *scratch = engine_side_scratch(e);
    scratch->b = e->b;
    return taca_scratch_reserve(scratch, bytes, err);
}

/* What all that is open and `extra` take together. */
struct need {
    size_t steps, side; /* scratch */
    struct taca_work step_work, side_work;
};

static struct need need_with(const struct taca_engine *e, const struct memplan *extra) {
    /* every buffer of a step is proportional to its rows, so a joint step needs at most the sum */
    struct need n = {.steps = e->step_bytes + extra->step_bytes,
                     .side = max_size(e->side_bytes, extra->side_bytes)};
    n.steps = max_size(n.steps, max_size(e->preview_bytes, extra->preview_bytes));
    for (int i = 0; i < TACA_WORK_BUFFERS; i++) {
        const size_t step = e->step_work.bytes[i] + extra->step_work.bytes[i];
        const size_t preview = max_size(e->preview_work.bytes[i], extra->preview_work.bytes[i]);
        n.step_work.bytes[i] = max_size(step, preview);
        n.side_work.bytes[i] = max_size(e->side_work.bytes[i], extra->side_work.bytes[i]);
    }
    return n;
}

/* `why` to *err; want of memory with all that the new sequence takes, and what there is. */
static enum taca_code refuse(struct taca_engine *e, const struct memplan *extra,
                             const struct taca_err *why, struct taca_err *err) {
    struct taca_device_memory m;
    const struct need n = need_with(e, extra);
    size_t work = 0;
    if (why->code != TACA_ENOMEM || !taca_backend_memory(e->b, &m))
        return taca_fail(err, why->code, "%s", why->text);
    for (int i = 0; i < TACA_WORK_BUFFERS; i++) work += n.step_work.bytes[i] + n.side_work.bytes[i];
    return taca_fail(err, TACA_ENOMEM,
                     "no memory for one more picture: %zu bytes of its own; with the %d that are "
                     "open %zu of scratch (%zu are there) and %zu of work memory; %zu of the "
                     "device's %zu bytes are free",
                     extra->seq_bytes, e->open_seqs, engine_scratch_bytes(e, n.steps, n.side),
                     e->scratch.size + e->side_scratch.size, work, m.total_bytes - m.used_bytes,
                     m.total_bytes);
}

enum taca_code engine_reserve(struct taca_engine *e, const struct memplan *extra,
                              struct taca_err *err) {
    const struct need n = need_with(e, extra);
    struct taca_err why = {0};
    const enum taca_lane last = taca_lane(e->b, TACA_LANE_STEP);
    enum taca_code rc = taca_scratch_reserve(
        &e->scratch, taca_has_lanes(e->b) ? n.steps : max_size(n.steps, n.side), &why);
    if (!rc) rc = taca_work_reserve(e->b, &n.step_work, &why);
    (void)taca_lane(e->b, TACA_LANE_SIDE);
    if (!rc && taca_has_lanes(e->b)) rc = engine_reserve_side(e, n.side, &why);
    if (!rc && taca_has_lanes(e->b)) rc = taca_work_reserve(e->b, &n.side_work, &why);
    (void)taca_lane(e->b, last);
    return rc ? refuse(e, extra, &why, err) : TACA_OK;
}

enum taca_code engine_take(struct taca_engine *e, const struct memplan *plan, void **out,
                           struct taca_err *err) {
    struct taca_err why = {0};
    *out = taca_alloc(e->b, plan->seq_bytes, &why);
    return *out ? TACA_OK : refuse(e, plan, &why, err);
}
