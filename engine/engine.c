/* engine.c - opens a model directory into an engine. Each component's files are closed as soon as
 * its weights are prepared, so the peak is one component's files beside the prepared weights. */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/core.h"
#include "engine/precision.h"
#include "kernels/probe.h"

enum { TEXT_CACHE_BYTES = 64 << 20 };

struct opening {
    struct taca_engine *e;
    struct taca_model_dir dir;
    int64_t parameters, bytes;
    size_t foreseen; /* of the parts that are open; only in plans */
};

/* A part has been opened, *kept by it alone; `held` = what its files and conversions took at most.
 */
static void note_part(struct opening *o, size_t *kept, size_t held) {
    const struct taca_foreseen f = taca_count_foreseen(o->e->b);
    *kept = f.kept_bytes - o->foreseen;
    o->foreseen = f.kept_bytes;
    if (o->e->kept.opening < f.opening_bytes + held) o->e->kept.opening = f.opening_bytes + held;
}

static enum taca_code open_transformer(struct opening *o, struct taca_err *err) {
    struct taca_ckpt *ckpt = NULL;
    enum taca_code rc = taca_model_weights(&o->dir, TACA_TRANSFORMER, &ckpt, err);
    /* weights of linears are rounded to it anyway: this only halves what a conversion takes */
    if (!rc) taca_ckpt_set_floats(ckpt, taca_backend_precision(o->e->b));
    if (!rc) rc = dit_open(&o->e->dit, o->e->b, o->dir.config[TACA_TRANSFORMER], ckpt, err);
    if (!rc) {
        o->parameters += taca_ckpt_parameters(ckpt);
        o->bytes += taca_ckpt_bytes(ckpt);
        note_part(o, &o->e->kept.transformer, taca_ckpt_most_held(ckpt));
    }
    taca_ckpt_close(ckpt);
    return rc;
}

static enum taca_code open_vae(struct opening *o, struct taca_err *err) {
    struct taca_ckpt *ckpt = NULL;
    enum taca_code rc = taca_model_weights(&o->dir, TACA_VAE, &ckpt, err);
    if (!rc) rc = vae_open(&o->e->vae, o->e->b, o->dir.config[TACA_VAE], ckpt, err);
    if (!rc) {
        o->parameters += taca_ckpt_parameters(ckpt);
        o->bytes += taca_ckpt_bytes(ckpt);
        note_part(o, &o->e->kept.vae, taca_ckpt_most_held(ckpt));
        const int64_t made = dit_get_info(o->e->dit)->in_channels;
        const int64_t taken = vae_get_info(o->e->vae)->latent_channels;
        if (made != taken)
            rc = taca_fail(err, TACA_EFORMAT,
                           "transformer has %lld latent channels, vae has %lld: not of one model",
                           (long long)made, (long long)taken);
    }
    taca_ckpt_close(ckpt);
    return rc;
}

static enum taca_code open_preview(struct opening *o, const char *taesd, struct taca_err *err) {
    const struct dit_info *d = dit_get_info(o->e->dit);
    const enum preview_family family = d->kind == DIT_FLUX ? PREVIEW_FLUX : PREVIEW_SD3;
    struct taca_ckpt *ckpt = NULL;
    enum taca_code rc =
        preview_factors_load(&o->e->preview, o->dir.taca, family, (int)d->in_channels, err);
    if (rc || !taesd) return rc;
    rc = taca_ckpt_open(&ckpt, taesd, err);
    if (!rc) rc = tae_open(&o->e->tae, o->e->b, ckpt, d->in_channels, err);
    if (!rc) {
        o->parameters += taca_ckpt_parameters(ckpt);
        o->bytes += taca_ckpt_bytes(ckpt);
        note_part(o, &o->e->kept.taesd, taca_ckpt_most_held(ckpt));
    }
    taca_ckpt_close(ckpt);
    o->e->info.has_taesd = !rc;
    return rc;
}

static enum taca_code open_text(struct opening *o, const struct taca_engine_opts *opts,
                                struct taca_err *err) {
    const struct dit_info *d = dit_get_info(o->e->dit);
    int64_t t5_tokens;
    /* SD3's reference pipeline keeps its 256 T5 rows as zeros when the encoder is absent */
    const int usual = d->guidance_embeds ? 512 : 256;
    enum taca_code rc = taca_cfg_int(o->dir.taca, "t5_tokens", usual, d->kind == DIT_FLUX,
                                     TACA_MAX_T5_TOKENS, &t5_tokens, err);
    if (rc) return rc;
    const struct text_opts t = {
        .family = d->kind == DIT_FLUX ? TEXT_FLUX : TEXT_SD3,
        .joint_width = d->joint_width,
        .pooled_width = d->pooled_width,
        .t5_tokens = (int)t5_tokens,
        .cache_bytes = opts->text_cache_bytes ? opts->text_cache_bytes : TEXT_CACHE_BYTES,
    };
    rc = text_open(&o->e->text, o->e->b, &o->dir, &t, err);
    if (rc) return rc;
    o->parameters += text_parameters(o->e->text);
    o->bytes += text_weight_bytes(o->e->text);
    note_part(o, &o->e->kept.text, text_most_held(o->e->text));
    o->e->info.t5_tokens = (int)t5_tokens;
    o->e->info.clip_tokens = text_clip_tokens(o->e->text);
    o->e->info.has_t5 = text_has_t5(o->e->text);
    return TACA_OK;
}

/* What people get who ask for nothing. The "guidance" of taca.json is the one that the model is
 * made for: FLUX dev takes it as an input, FLUX schnell has none. */
static enum taca_code fill_sampling(struct taca_model_info *m, const struct dit_info *d,
                                    const json_t *ours, struct taca_err *err) {
    const bool flux = d->kind == DIT_FLUX, distilled = flux && !d->guidance_embeds;
    int64_t steps;
    enum taca_code rc =
        taca_cfg_int(ours, "steps", distilled ? 4 : 28, 1, TACA_MAX_STEPS, &steps, err);
    if (rc) return rc;
    m->default_steps = (int)steps;
    m->guidance_embeds = d->guidance_embeds;
    if (d->guidance_embeds)
        rc = taca_cfg_number(ours, "guidance", 3.5, 0, 100, &m->default_guidance_scale, err);
    m->default_cfg_scale = 1;
    if (!flux) rc = taca_cfg_number(ours, "guidance", 4.5, 0, 30, &m->default_cfg_scale, err);
    return rc;
}

/* Largest picture the position table covers, and what taca.json or the config suggest. */
static enum taca_code fill_sizes(struct opening *o, struct taca_err *err) {
    struct taca_model_info *m = &o->e->info;
    const struct dit_info *d = dit_get_info(o->e->dit);
    const int factor = vae_get_info(o->e->vae)->factor, unit = factor * d->patch;
    const json_t *ours = o->dir.taca, *cfg = o->dir.config[TACA_TRANSFORMER];
    int64_t sample, w = 0, h = 0;
    enum taca_code rc = taca_cfg_int(cfg, "sample_size", 128, 1, 1 << 16, &sample, err);
    m->side_multiple_px = unit;
    m->max_side_px = (int)(d->max_patches * unit);
    m->joint_blocks = (int)d->depth;
    m->takes_images = vae_get_info(o->e->vae)->has_encoder;
    if (!rc) rc = taca_cfg_int(ours, "width", sample * factor, unit, m->max_side_px, &w, err);
    if (!rc) rc = taca_cfg_int(ours, "height", sample * factor, unit, m->max_side_px, &h, err);
    if (!rc) rc = fill_sampling(m, d, ours, err);
    if (rc) return rc;
    m->default_width_px = (int)w / unit * unit;
    m->default_height_px = (int)h / unit * unit;
    /* models trained at 1024 fall apart below a quarter of that; small ones may go lower */
    const int small = m->default_width_px >= 1024 ? 256 : 64;
    m->min_side_px = small / unit * unit >= unit ? small / unit * unit : unit;
    if (m->min_side_px > m->default_width_px) m->min_side_px = unit;
    return TACA_OK;
}

void taca_engine_memory(const struct taca_engine *e, struct taca_memory_use *out) {
    struct taca_device_memory m = {0};
    if (!taca_backend_memory(e->b, &m)) m = (struct taca_device_memory){0};
    *out = (struct taca_memory_use){m.used_bytes, m.total_bytes, taca_backend_scratch_peak(e->b)};
}

static enum taca_code fill_info(struct opening *o, const struct taca_engine_opts *opts,
                                struct taca_err *err) {
    struct taca_model_info *m = &o->e->info;
    struct taca_backend *real = taca_count_real(o->e->b); /* a plan names what it is made for */
    const struct taca_backend *b = real ? real : o->e->b;
    if (opts->model_id)
        snprintf(m->id, sizeof m->id, "%s", opts->model_id);
    else
        taca_model_dir_id(&o->dir, m->id, sizeof m->id);
    snprintf(m->family, sizeof m->family, "%s", dit_get_info(o->e->dit)->family);
    snprintf(m->backend, sizeof m->backend, "%s", taca_backend_name(b));
    snprintf(m->device, sizeof m->device, "%s", taca_backend_detail(b));
    snprintf(m->precision, sizeof m->precision, "%s", precision_name(b));
    m->parameters = o->parameters;
    m->weight_bytes = o->bytes;
    return fill_sizes(o, err);
}

static int threads_of(const struct taca_engine_opts *opts) {
    if (opts->share <= 1) return opts->threads;
    int all = opts->threads > 0 ? opts->threads : taca_probe_threads();
    return all > opts->share ? all / opts->share : 1;
}

static enum taca_code open_parts(struct opening *o, const struct taca_engine_opts *opts,
                                 struct taca_err *err) {
    const struct taca_backend_opts b = {
        .threads = threads_of(opts),
        .precision = precision_dtype(opts->precision),
        .narrow = precision_narrow(opts->precision),
        .deterministic = opts->deterministic,
    };
    const struct taca_model_paths paths = {.model = opts->model_path,
                                           .part = {[TACA_DIT] = opts->transformer,
                                                    [TACA_AUTOENCODER] = opts->vae,
                                                    [TACA_CLIP_L] = opts->clip_l,
                                                    [TACA_CLIP_G] = opts->clip_g,
                                                    [TACA_T5] = opts->t5},
                                           .config = opts->config,
                                           .hollow = opts->plan};
    enum taca_code rc = taca_model_open(&o->dir, &paths, err);
    if (!rc) rc = taca_backend_open(&o->e->b, opts->device, &b, err);
    if (!rc && opts->plan) {
        struct taca_backend *real = o->e->b;
        o->e->b = NULL;
        rc = taca_count_open_for(&o->e->b, real, err);
    }
    if (rc) return rc;
    o->e->scratch.b = o->e->b;
    rc = precision_check(o->e->b, opts->precision, err);
    if (rc) return rc;
    rc = taca_scheduler_load(&o->e->scheduler, o->dir.scheduler, seq_spacing(o->dir.class_name),
                             err);
    if (!rc) rc = open_transformer(o, err);
    if (!rc) rc = open_vae(o, err);
    if (!rc) rc = open_text(o, opts, err);
    if (!rc) rc = open_preview(o, opts->taesd, err);
    if (!rc) rc = fill_info(o, opts, err);
    if (!rc) rc = taca_mark_open(o->e->b, &o->e->step.mark, err);
    if (!rc) rc = taca_mark_open(o->e->b, &o->e->side.mark, err);
    if (!rc) rc = taca_sync(o->e->b, err); /* the weights are there, for both lanes */
    return rc;
}

enum taca_code taca_engine_check_device(const char *device, bool there, struct taca_err *err) {
    return taca_device_check(device, there, err);
}

bool taca_engine_misses_device(const char *device, struct taca_err *why) {
    return device && strcmp(device, "auto") == 0 && taca_cuda_devices(why) == 0 &&
           why->code != TACA_ENOTFOUND;
}

enum taca_code taca_engine_open(struct taca_engine **out, const struct taca_engine_opts *opts,
                                struct taca_err *err) {
    struct opening o = {.e = calloc(1, sizeof *o.e)};
    if (!o.e) return taca_fail(err, TACA_ENOMEM, "opening an engine");
    enum taca_code rc = open_parts(&o, opts, err);
    taca_model_dir_finish(&o.dir);
    if (rc) {
        taca_engine_close(o.e);
        return rc;
    }
    *out = o.e;
    return TACA_OK;
}

void taca_engine_close(struct taca_engine *e) {
    if (!e) return;
    side_abandon(e);
    if (e->step.n) (void)!taca_step_end(e, NULL);
    taca_scratch_finish(&e->scratch);
    taca_scratch_finish(&e->side_scratch);
    taca_mark_close(e->b, &e->step.mark);
    taca_mark_close(e->b, &e->side.mark);
    text_close(e->text);
    vae_close(e->vae);
    tae_close(e->tae);
    engine_loras_close(e);
    dit_close(e->dit);
    taca_backend_close(e->b); /* and all weights */
    free(e);
}

const struct taca_model_info *taca_engine_info(const struct taca_engine *e) { return &e->info; }

enum taca_code taca_engine_cost(const struct taca_engine *e, const struct taca_gen_params *p,
                                struct taca_cost *out, struct taca_err *err) {
    enum taca_code rc = taca_gen_params_check(p, &e->info, err);
    if (rc) return rc;
    const struct dit_info *d = dit_get_info(e->dit);
    const int factor = vae_get_info(e->vae)->factor, branches = p->cfg_scale > 1 ? 2 : 1;
    const int64_t h = p->height_px / factor, w = p->width_px / factor;
    const int64_t text = text_rows(e->text, p->max_sequence_length);
    struct seq_loras loras;
    struct memplan plan;
    rc = seq_loras_take(e, p, &loras, err);
    if (rc) return rc;
    rc = memplan_run(e,
                     &(struct memplan_want){.h = h,
                                            .w = w,
                                            .text_rows = text,
                                            .n_branches = branches,
                                            .steps = p->steps,
                                            .sampler = p->sampler,
                                            .skips = p->slg.layers != 0,
                                            .encodes = p->image != NULL,
                                            .masked = p->mask != NULL,
                                            .loras = &loras},
                     &plan, err);
    seq_loras_drop(&loras);
    if (rc) return rc;
    int skipped = 0;
    const int first = p->image ? taca_first_step(p->steps, p->strength) : 0;
    for (int i = first; i < p->steps; i++) skipped += taca_slg_has(&p->slg, i, p->steps);
    const double forwards = taca_gen_params_forwards(p) +
                            (double)(skipped * (p->sampler == TACA_HEUN ? 2 : 1)) / branches;
    *out = (struct taca_cost){
        .tokens = (int)((h / d->patch * (w / d->patch) + text) * branches),
        .step_flops = plan.step.flops,
        .total_flops = plan.step.flops * forwards + plan.decode.flops + plan.encode.flops,
        .seq_bytes = plan.seq_bytes,
        .scratch_bytes = engine_scratch_bytes(
            e, plan.step_bytes > plan.preview_bytes ? plan.step_bytes : plan.preview_bytes,
            plan.side_bytes),
    };
    return TACA_OK;
}
