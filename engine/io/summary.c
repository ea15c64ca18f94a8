/* summary.c - see summary.h. */
#include "engine/io/summary.h"

#include <stdio.h>
#include <string.h>

#include "engine/io/io.h"

/* An integer field of a config and where it goes. */
struct int_field {
    const char *key;
    int64_t fallback, max;
    int64_t *out;
};

static enum taca_code read_ints(const json_t *config, const struct int_field *f, int n,
                                struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    for (int i = 0; i < n && !rc; i++)
        rc = taca_cfg_int(config, f[i].key, f[i].fallback, 1, f[i].max, f[i].out, err);
    return rc;
}
#define READ_INTS(config, fields, err)                                                             \
    read_ints((config), (fields), (int)(sizeof(fields) / sizeof *(fields)), (err))

/* Lookup tables stay f32 whatever the precision. */
static int64_t in_tables(const struct taca_ckpt *c) {
    static const char *const tables[] = {"pos_embed.pos_embed", "shared.weight",
                                         "text_model.embeddings.token_embedding.weight",
                                         "text_model.embeddings.position_embedding.weight"};
    int64_t n = 0;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        const struct taca_tensor *t = taca_ckpt_peek(c, tables[i]);
        if (t && t->rank >= 2) n += taca_tensor_count(t);
    }
    return n;
}

static enum taca_code read_part(struct taca_part *p, const struct taca_model_dir *d,
                                enum taca_component c, struct taca_err *err) {
    struct taca_ckpt *ckpt = NULL;
    p->name = taca_component_name(c);
    p->left_out = d->left_out[c];
    p->kind = d->kind[c];
    if (!d->has[c]) return TACA_OK;
    enum taca_code rc = taca_model_weights(d, c, &ckpt, err);
    if (rc) return rc;
    p->there = true;
    p->parameters = taca_ckpt_parameters(ckpt);
    p->bytes = taca_ckpt_bytes(ckpt);
    taca_ckpt_get_stats(ckpt, &p->stats);
    p->narrowed = p->stats.in_matrices - in_tables(ckpt);
    taca_ckpt_close(ckpt);
    return TACA_OK;
}

static enum taca_code read_sd3(struct taca_summary *s, const json_t *config, struct taca_err *err) {
    const struct int_field fields[] = {
        {"num_layers", 18, TACA_SUMMARY_LAYERS, &s->dit.layers},
        {"num_attention_heads", 18, 1024, &s->dit.heads},
        {"attention_head_dim", 64, 1024, &s->dit.head_dim},
        {"joint_attention_dim", 4096, 65536, &s->dit.joint_width},
        {"pooled_projection_dim", 2048, 65536, &s->dit.pooled_width},
        {"patch_size", 2, 16, &s->dit.patch},
        {"in_channels", 16, 1024, &s->dit.channels},
        {"pos_embed_max_size", 96, 4096, &s->dit.side},
    };
    const char *norm;
    enum taca_code rc = READ_INTS(config, fields, err);
    if (!rc) rc = taca_cfg_string(config, "qk_norm", NULL, &norm, err);
    if (!rc)
        rc = taca_cfg_ints(config, "dual_attention_layers", s->dit.dual, TACA_SUMMARY_LAYERS,
                           &s->dit.n_dual, err);
    if (rc) return rc;
    s->dit.qk_norm = norm != NULL;
    snprintf(s->family, sizeof s->family, "%s", norm ? "sd3.5" : "sd3");
    return TACA_OK;
}

static enum taca_code read_flux(struct taca_summary *s, const json_t *config,
                                struct taca_err *err) {
    const struct int_field fields[] = {
        {"num_layers", 19, TACA_SUMMARY_LAYERS, &s->dit.layers},
        {"num_single_layers", 38, TACA_SUMMARY_LAYERS, &s->dit.single_layers},
        {"num_attention_heads", 24, 1024, &s->dit.heads},
        {"attention_head_dim", 128, 1024, &s->dit.head_dim},
        {"joint_attention_dim", 4096, 65536, &s->dit.joint_width},
        {"pooled_projection_dim", 768, 65536, &s->dit.pooled_width},
        {"in_channels", 64, 4096, &s->dit.channels},
    };
    enum taca_code rc = READ_INTS(config, fields, err);
    if (!rc) rc = taca_cfg_bool(config, "guidance_embeds", false, &s->dit.guided, err);
    if (rc) return rc;
    s->dit.channels /= 4; /* tokens are 2 x 2 latents */
    s->dit.patch = 2;
    s->dit.qk_norm = true;
    snprintf(s->family, sizeof s->family, "%s", s->dit.guided ? "flux-dev" : "flux-schnell");
    return TACA_OK;
}

static enum taca_code read_dit(struct taca_summary *s, const struct taca_model_dir *d,
                               struct taca_err *err) {
    const json_t *config = d->config[TACA_TRANSFORMER];
    if (!d->has[TACA_TRANSFORMER]) return TACA_OK;
    return strcmp(d->class_name, "FluxPipeline") == 0 ? read_flux(s, config, err)
                                                      : read_sd3(s, config, err);
}

static enum taca_code read_vae(struct taca_summary *s, const struct taca_model_dir *d,
                               struct taca_err *err) {
    const json_t *config = d->config[TACA_VAE];
    struct taca_ckpt *ckpt = NULL;
    s->vae.factor = 8; /* of all published ones, for sizes when it is missing */
    if (!d->has[TACA_VAE]) return TACA_OK;
    enum taca_code rc = taca_cfg_int(config, "latent_channels", 4, 1, 4096, &s->vae.channels, err);
    if (!rc)
        rc = taca_cfg_ints(config, "block_out_channels", s->vae.widths, TACA_SUMMARY_LEVELS,
                           &s->vae.n_widths, err);
    if (!rc)
        rc = taca_cfg_number(config, "scaling_factor", 0.18215, 1e-6, 1e6, &s->vae.scaling_factor,
                             err);
    if (!rc) rc = taca_cfg_number(config, "shift_factor", 0, -1e6, 1e6, &s->vae.shift_factor, err);
    if (!rc) rc = taca_model_weights(d, TACA_VAE, &ckpt, err);
    if (rc) return rc;
    s->vae.factor = s->vae.n_widths ? 1 << (s->vae.n_widths - 1) : 1;
    s->vae.has_encoder = taca_ckpt_has(ckpt, "encoder.conv_in.weight");
    taca_ckpt_close(ckpt);
    return TACA_OK;
}

static enum taca_code read_clip(struct taca_clip_summary *c, const json_t *config,
                                struct taca_err *err) {
    const struct int_field fields[] = {
        {"num_hidden_layers", 12, 1024, &c->layers},
        {"hidden_size", 512, 65536, &c->width},
        {"num_attention_heads", 8, 1024, &c->heads},
        {"vocab_size", 49408, 1 << 24, &c->vocabulary},
        {"max_position_embeddings", 77, 65536, &c->positions},
        {"projection_dim", 512, 65536, &c->projection},
    };
    const char *act;
    enum taca_code rc = READ_INTS(config, fields, err);
    if (!rc) rc = taca_cfg_string(config, "hidden_act", "quick_gelu", &act, err);
    if (!rc) io_clean(c->activation, sizeof c->activation, act);
    return rc;
}

static enum taca_code read_t5(struct taca_summary *s, const json_t *config, struct taca_err *err) {
    const struct int_field fields[] = {
        {"num_layers", 6, 1024, &s->t5.layers},
        {"d_model", 512, 65536, &s->t5.width},
        {"num_heads", 8, 1024, &s->t5.heads},
        {"vocab_size", 32128, 1 << 24, &s->t5.vocabulary},
    };
    return READ_INTS(config, fields, err);
}

static enum taca_code read_encoders(struct taca_summary *s, const struct taca_model_dir *d,
                                    struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    for (int i = TACA_TEXT_ENCODER; i <= TACA_TEXT_ENCODER_3 && !rc; i++) {
        if (!d->has[i]) continue;
        if (d->kind[i] == TACA_T5)
            rc = read_t5(s, d->config[i], err);
        else
            rc = read_clip(&s->clip[i - TACA_TEXT_ENCODER], d->config[i], err);
    }
    return rc;
}

static enum taca_code read_defaults(struct taca_summary *s, const struct taca_model_dir *d,
                                    struct taca_err *err) {
    const int64_t unit = s->vae.factor * (s->dit.patch ? s->dit.patch : 1);
    const int64_t max = s->dit.side ? s->dit.side * unit : 1 << 16;
    const bool flux = strcmp(d->class_name, "FluxPipeline") == 0;
    const int few = flux && !s->dit.guided ? 4 : 28;
    const double guidance = !flux ? 4.5 : s->dit.guided ? 3.5 : 1;
    const char *note;
    int64_t sample;
    enum taca_code rc =
        taca_cfg_int(d->config[TACA_TRANSFORMER], "sample_size", 128, 1, 1 << 16, &sample, err);
    s->max_side_px = s->dit.side * unit;
    const int64_t side = sample * s->vae.factor;
    if (!rc) rc = taca_cfg_int(d->taca, "width", side, unit, max, &s->width_px, err);
    if (!rc) rc = taca_cfg_int(d->taca, "height", side, unit, max, &s->height_px, err);
    if (!rc) rc = taca_cfg_int(d->taca, "steps", few, 1, 200, &s->steps, err);
    if (!rc) rc = taca_cfg_number(d->taca, "guidance", guidance, 0, 100, &s->guidance, err);
    if (!rc) rc = taca_cfg_string(d->taca, "note", "", &note, err);
    if (!rc) rc = taca_cfg_number(d->scheduler, "shift", 1, 0.01, 100, &s->scheduler_shift, err);
    if (!rc) io_clean(s->note, sizeof s->note, note);
    return rc;
}

static enum taca_code read_all(struct taca_summary *s, const struct taca_model_dir *d,
                               struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    for (int i = 0; i <= TACA_TEXT_ENCODER_3 && !rc; i++)
        rc = read_part(&s->part[i], d, (enum taca_component)i, err);
    if (!rc) rc = read_dit(s, d, err);
    if (!rc) rc = read_vae(s, d, err);
    if (!rc) rc = read_encoders(s, d, err);
    if (!rc) rc = read_defaults(s, d, err);
    return rc;
}

enum taca_code taca_summary_read(struct taca_summary *out, const struct taca_model_paths *paths,
                                 struct taca_err *err) {
    struct taca_summary s = {0};
    struct taca_model_dir d = {0};
    struct taca_model_paths lenient = *paths;
    lenient.partial = true;
    enum taca_code rc = taca_model_open(&d, &lenient, err);
    if (rc) return rc;
    rc = read_all(&s, &d, err);
    taca_model_dir_id(&d, s.id, sizeof s.id);
    memcpy(s.class_name, d.class_name, sizeof s.class_name);
    taca_model_dir_finish(&d);
    if (rc) return rc;
    for (int i = 0; i <= TACA_TEXT_ENCODER_3; i++) {
        const struct taca_part *p = &s.part[i];
        s.parameters += p->parameters;
        s.bytes += p->bytes;
        s.f32_bytes += 4 * p->parameters;
        s.bf16_bytes += 4 * p->parameters - 2 * p->narrowed;
    }
    *out = s;
    return TACA_OK;
}
