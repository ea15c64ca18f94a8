/* pipeline.c - embedding pipelines: an entry of a *pipelines.json, its text conditioning given as
 * tensors. The entry does not name its weights; sets are called after the pipelines they serve. */
#include <stdio.h>
#include <string.h>

#include "engine/verify/case.h"

/* ---- which weights --------------------------------------------------------------------------- */

static const char transformer_suffix[] = ".transformer";

struct choice {
    const char *case_name;
    const char *family; /* as names of sets have it */
    char best[256];
    size_t best_len;
};

/* The set with the longest name that the case's name begins with. */
static void prefer_prefix(void *ctx, const char *set) {
    struct choice *ch = ctx;
    size_t len = strlen(set) - strlen(transformer_suffix), full = strlen(ch->case_name);
    bool whole = len <= full && strncmp(set, ch->case_name, len) == 0 &&
                 (ch->case_name[len] == 0 || ch->case_name[len] == '_');
    if (!whole || len < ch->best_len || strlen(set) >= sizeof ch->best) return;
    ch->best_len = len;
    snprintf(ch->best, sizeof ch->best, "%s", set);
}

/* The first autoencoder that names the family. */
static void prefer_family(void *ctx, const char *set) {
    struct choice *ch = ctx;
    if (ch->best[0] || !strstr(set, "vae") || !strstr(set, ch->family)) return;
    if (strlen(set) < sizeof ch->best) snprintf(ch->best, sizeof ch->best, "%s", set);
}

static enum taca_code open_part(struct verify_case *c, const char *name, enum set_type wanted,
                                struct taca_err *err) {
    enum set_type type;
    enum taca_code rc = set_open(c, name, &type, NULL, err);
    if (!rc && type != wanted)
        rc = taca_fail(err, TACA_EFORMAT, "%s: wanted %s", name,
                       wanted == SET_VAE    ? "an AutoencoderKL"
                       : wanted == SET_FLUX ? "a FLUX transformer"
                                            : "an SD3 transformer");
    return rc;
}

/* An entry may name "transformer" and "vae"; else their names tell. */
static enum taca_code open_parts(struct verify_case *c, bool flux, struct taca_err *err) {
    struct choice dit = {.case_name = c->name, .family = flux ? "flux" : "sd3"}, vae = dit;
    const char *named_dit = json_string_value(json_object_get(c->entry, "transformer"));
    const char *named_vae = json_string_value(json_object_get(c->entry, "vae"));
    if (!named_dit) {
        set_each(c, transformer_suffix, prefer_prefix, &dit);
        if (!dit.best[0])
            return taca_fail(err, TACA_ENOTFOUND,
                             "no weights for %s: wanted a set called after it, such as "
                             "pipe_%s%s.config.json; --weights names further folders",
                             c->name, dit.family, transformer_suffix);
        named_dit = dit.best;
    }
    if (!named_vae) {
        set_each(c, "", prefer_family, &vae);
        if (!vae.best[0])
            return taca_fail(err, TACA_ENOTFOUND,
                             "no vae for %s: wanted a set such as vae_tiny_%s.config.json; "
                             "--weights names further folders",
                             c->name, vae.family);
        named_vae = vae.best;
    }
    enum taca_code rc = open_part(c, named_dit, flux ? SET_FLUX : SET_SD3, err);
    return rc ? rc : open_part(c, named_vae, SET_VAE, err);
}

/* ---- conditioning ---------------------------------------------------------------------------- */

/* text[i] of each image from the tensors `sequence` [prompts, T, joint] and `pooled` [prompts, P];
 * prompts and T of -1 in dim accept any and are filled. */
static enum taca_code load_text(struct verify_case *c, const char *sequence, const char *pooled,
                                int64_t dim[2], struct taca_mat out[2], struct taca_err *err) {
    const struct dit_info *d = dit_get_info(c->e->dit);
    int64_t s[3] = {dim[0], dim[1], d->joint_width}, p[2] = {dim[0], d->pooled_width};
    float *host, *device;
    enum taca_code rc = case_input(c, sequence, 3, s, &host, err);
    if (!rc) rc = case_upload(c, &device, host, s[0] * s[1] * s[2], err);
    if (rc) return rc;
    out[0] = (struct taca_mat){device, TACA_F32, s[0] * s[1], s[2], s[2]};
    p[0] = s[0];
    rc = case_input(c, pooled, 2, p, &host, err);
    if (!rc) rc = case_upload(c, &device, host, p[0] * p[1], err);
    if (rc) return rc;
    out[1] = (struct taca_mat){device, TACA_F32, p[0], p[1], p[1]};
    dim[0] = s[0];
    dim[1] = s[1];
    return TACA_OK;
}

static struct seq_text text_row(const struct taca_mat all[2], int64_t i, int64_t rows) {
    return (struct seq_text){taca_mat_rows(all[0], i * rows, rows), taca_mat_rows(all[1], i, 1)};
}

static enum taca_code load_conditioning(struct verify_case *c, struct case_sampling *s,
                                        struct taca_err *err) {
    struct taca_mat cond[2], uncond[2] = {{0}};
    int64_t dim[2] = {-1, -1};
    enum taca_code rc = load_text(c, "in.prompt_embeds", "in.pooled_prompt_embeds", dim, cond, err);
    if (!rc && s->args.guidance > 1)
        rc = load_text(c, "in.negative_prompt_embeds", "in.negative_pooled_prompt_embeds", dim,
                       uncond, err);
    if (rc) return rc;
    if (dim[0] * s->args.images > CASE_MAX_IMAGES)
        return taca_fail(err, TACA_EUNSUPPORTED, "%lld images, at most %d",
                         (long long)(dim[0] * s->args.images), CASE_MAX_IMAGES);
    s->images = (int)dim[0] * s->args.images;
    for (int i = 0; i < s->images; i++) {
        s->cond[i] = text_row(cond, i / s->args.images, dim[1]);
        if (s->args.guidance > 1) s->uncond[i] = text_row(uncond, i / s->args.images, dim[1]);
    }
    return TACA_OK;
}

static enum taca_code open_lora(struct verify_case *c, const struct case_args *a,
                                struct taca_err *err) {
    char path[CASE_PATH];
    if (!a->lora) return TACA_OK;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", c->dir, a->lora) >= sizeof path)
        return taca_fail(err, TACA_EINVAL, "path of %.64s is too long", a->lora);
    return taca_lora_open(c->e, a->lora, path, NULL, NULL, err);
}

enum taca_code verify_pipeline(struct verify_case *c, struct taca_err *err) {
    struct case_sampling s = {0};
    const json_t *scheduler = json_object_get(c->entry, "scheduler");
    enum taca_code rc = case_args_read(&s.args, c, err);
    if (!rc && !json_is_object(scheduler))
        rc = taca_fail(err, TACA_EFORMAT, "the entry has no object \"scheduler\"");
    if (!rc)
        rc = taca_scheduler_load(&c->e->scheduler, scheduler,
                                 s.args.flux ? TACA_SPACING_EVEN : TACA_SPACING_TRAINED, err);
    if (!rc) rc = open_parts(c, s.args.flux, err);
    if (!rc) rc = open_lora(c, &s.args, err);
    if (!rc) rc = load_conditioning(c, &s, err);
    return rc ? rc : case_sample(c, &s, err);
}
