/* inspect.c - `taca inspect`: what a model directory holds and what running it will need. Reads
 * headers and configs, no weights. A picture is asked how it was made: inspect_picture.c. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/inspect_picture.h"
#include "cli/inspect_plan.h"
#include "engine/io/summary.h"

enum { LARGEST_TEXT = 1 << 20 };

static const char *scaled(char buf[24], int64_t n, const char *unit) {
    return inspect_scaled(buf, (double)n, unit);
}

/* ---- for people ------------------------------------------------------------------------------ */

static void put_dtypes(struct taca_buf *b, const struct taca_part *p) {
    const char *comma = "";
    for (int i = 0; i < TACA_STORED_OTHER; i++) {
        if (p->stats.elements[i] == 0) continue;
        taca_buf_printf(b, "%s%s", comma, taca_storage_name((enum taca_storage)i));
        comma = ",";
    }
    if (p->stats.other[0]) taca_buf_printf(b, "%s%s (not supported)", comma, p->stats.other);
}

static void put_parts(struct taca_buf *b, const struct taca_summary *s) {
    char params[24], bytes[24];
    taca_buf_printf(b, "%-16s %12s %12s  %s\n", "component", "parameters", "bytes", "dtype");
    for (int i = 0; i <= TACA_TEXT_ENCODER_3; i++) {
        const struct taca_part *p = &s->part[i];
        if (!p->there) {
            taca_buf_printf(b, "%-16s %12s %12s  %s\n", p->name, "-", "-",
                            p->left_out ? "of the pipeline, but not there"
                                        : "not part of this model");
            continue;
        }
        taca_buf_printf(b, "%-16s %12s %12s  ", p->name, scaled(params, p->parameters, ""),
                        scaled(bytes, p->bytes, "B"));
        put_dtypes(b, p);
        if (p->stats.files > 1) taca_buf_printf(b, ", %d shards", p->stats.files);
        taca_buf_puts(b, "\n");
    }
    taca_buf_printf(b, "%-16s %12s %12s\n\n", "together", scaled(params, s->parameters, ""),
                    scaled(bytes, s->bytes, "B"));
}

/* Layers 0, 1, 2, 5 as "0-2,5". */
static void put_ranges(struct taca_buf *b, const int64_t *v, int n) {
    for (int i = 0; i < n;) {
        int k = i;
        while (k + 1 < n && v[k + 1] == v[k] + 1) k++;
        taca_buf_printf(b, "%s%lld", i ? "," : "", (long long)v[i]);
        if (k > i) taca_buf_printf(b, "-%lld", (long long)v[k]);
        i = k + 1;
    }
}

static void put_dit(struct taca_buf *b, const struct taca_summary *s) {
    if (!s->part[TACA_TRANSFORMER].there) return;
    taca_buf_printf(b, "%-16s %lld%s layers, width %lld, %lld heads of %lld, %s", "transformer",
                    (long long)s->dit.layers, s->dit.single_layers ? " double" : "",
                    (long long)(s->dit.heads * s->dit.head_dim), (long long)s->dit.heads,
                    (long long)s->dit.head_dim, s->dit.qk_norm ? "qk norm" : "no qk norm");
    if (s->dit.single_layers) {
        taca_buf_printf(b, ", %lld single layers, guidance %s", (long long)s->dit.single_layers,
                        s->dit.guided ? "as an input" : "not taken");
    } else {
        taca_buf_puts(b, s->dit.n_dual ? ", dual attention in layers " : ", no dual attention");
        put_ranges(b, s->dit.dual, s->dit.n_dual);
    }
    taca_buf_printf(b, "\n%-16s %lld latent channels, patch %lld, joint width %lld, pooled %lld\n",
                    "", (long long)s->dit.channels, (long long)s->dit.patch,
                    (long long)s->dit.joint_width, (long long)s->dit.pooled_width);
}

static void put_encoders(struct taca_buf *b, const struct taca_summary *s) {
    for (int i = TACA_TEXT_ENCODER; i <= TACA_TEXT_ENCODER_3; i++) {
        const struct taca_part *p = &s->part[i];
        const struct taca_clip_summary *c = &s->clip[(i - TACA_TEXT_ENCODER) % 2];
        if (!p->there) continue;
        if (p->kind == TACA_T5)
            taca_buf_printf(b, "%-16s T5, %lld layers, width %lld, %lld heads, vocabulary %lld\n",
                            p->name, (long long)s->t5.layers, (long long)s->t5.width,
                            (long long)s->t5.heads, (long long)s->t5.vocabulary);
        else
            taca_buf_printf(b,
                            "%-16s CLIP, %lld layers, width %lld, %lld heads, %s, vocabulary "
                            "%lld, %lld positions, projection %lld\n",
                            p->name, (long long)c->layers, (long long)c->width, (long long)c->heads,
                            c->activation, (long long)c->vocabulary, (long long)c->positions,
                            (long long)c->projection);
    }
}

static void put_structure(struct taca_buf *b, const struct taca_summary *s) {
    put_dit(b, s);
    if (s->part[TACA_VAE].there)
        taca_buf_printf(b, "%-16s factor %d, %lld latent channels, scaling %g, shift %g%s\n", "vae",
                        s->vae.factor, (long long)s->vae.channels, s->vae.scaling_factor,
                        s->vae.shift_factor, s->vae.has_encoder ? "" : ", no encoder");
    put_encoders(b, s);
}

static void put_text(struct taca_buf *b, const struct taca_summary *s, const struct inspect_plan *p,
                     const char *path) {
    char f32[24], bf16[24];
    taca_buf_printf(b, "%s  %s%s%s%s\n%s\n", s->id, s->class_name, s->family[0] ? " (" : "",
                    s->family, s->family[0] ? ")" : "", path);
    if (s->note[0]) taca_buf_printf(b, "%s\n", s->note);
    taca_buf_puts(b, "\n");
    put_parts(b, s);
    put_structure(b, s);
    if (s->part[TACA_TRANSFORMER].there) {
        taca_buf_printf(b, "%-16s flow matching, Euler, shift %g\n", "scheduler",
                        s->scheduler_shift);
        taca_buf_printf(b, "%-16s %lldx%lld, %lld steps, guidance %g", "defaults",
                        (long long)s->width_px, (long long)s->height_px, (long long)s->steps,
                        s->guidance);
        if (s->max_side_px) taca_buf_printf(b, "; sides up to %lld", (long long)s->max_side_px);
        taca_buf_puts(b, "\n");
    }
    if (!p->made)
        taca_buf_printf(b, "%-16s about %s for the weights in f32, %s in bf16\n", "memory",
                        scaled(f32, s->f32_bytes, "B"), scaled(bf16, s->bf16_bytes, "B"));
    inspect_plan_text(p, b);
}

/* ---- for programs ---------------------------------------------------------------------------- */

static void put_string(struct taca_buf *b, const char *key, const char *value) {
    taca_buf_printf(b, "\"%s\":", key);
    taca_buf_json(b, value, strlen(value));
    taca_buf_puts(b, ",");
}

static void put_int(struct taca_buf *b, const char *key, int64_t value, const char *end) {
    taca_buf_printf(b, "\"%s\":%lld%s", key, (long long)value, end);
}

static void put_json_part(struct taca_buf *b, const struct taca_part *p) {
    taca_buf_printf(b, "\"%s\":", p->name);
    if (!p->there) {
        taca_buf_puts(b, "null");
        return;
    }
    taca_buf_puts(b, "{");
    put_int(b, "parameters", p->parameters, ",");
    put_int(b, "bytes", p->bytes, ",");
    put_int(b, "files", p->stats.files, ",");
    put_int(b, "tensors", p->stats.tensors, ",\"elements\":{");
    const char *comma = "";
    for (int i = 0; i < TACA_STORED_OTHER; i++) {
        if (p->stats.elements[i] == 0) continue;
        taca_buf_puts(b, comma);
        put_int(b, taca_storage_name((enum taca_storage)i), p->stats.elements[i], "");
        comma = ",";
    }
    if (p->stats.other[0]) {
        taca_buf_puts(b, comma);
        put_int(b, "unsupported", p->stats.elements[TACA_STORED_OTHER], "");
    }
    taca_buf_puts(b, "}}");
}

static void put_json_dit(struct taca_buf *b, const struct taca_summary *s) {
    taca_buf_puts(b, "\"transformer\":{");
    put_int(b, "layers", s->dit.layers, ",");
    put_int(b, "single_layers", s->dit.single_layers, ",");
    put_int(b, "width", s->dit.heads * s->dit.head_dim, ",");
    put_int(b, "heads", s->dit.heads, ",");
    put_int(b, "latent_channels", s->dit.channels, ",");
    put_int(b, "patch", s->dit.patch, ",");
    put_int(b, "joint_width", s->dit.joint_width, ",");
    put_int(b, "pooled_width", s->dit.pooled_width, ",");
    taca_buf_printf(b, "\"qk_norm\":%s,\"dual_attention_layers\":[",
                    s->dit.qk_norm ? "true" : "false");
    for (int i = 0; i < s->dit.n_dual; i++)
        taca_buf_printf(b, "%s%lld", i ? "," : "", (long long)s->dit.dual[i]);
    taca_buf_puts(b, "]},\"vae\":{");
    put_int(b, "factor", s->vae.factor, ",");
    put_int(b, "latent_channels", s->vae.channels, ",");
    taca_buf_printf(b, "\"scaling_factor\":%.17g,\"shift_factor\":%.17g,\"has_encoder\":%s}",
                    s->vae.scaling_factor, s->vae.shift_factor,
                    s->vae.has_encoder ? "true" : "false");
}

static void put_json_clip(struct taca_buf *b, const char *name, const struct taca_clip_summary *c) {
    taca_buf_printf(b, ",\"%s\":{", name);
    put_int(b, "layers", c->layers, ",");
    put_int(b, "width", c->width, ",");
    put_int(b, "heads", c->heads, ",");
    put_string(b, "activation", c->activation);
    put_int(b, "vocabulary", c->vocabulary, ",");
    put_int(b, "positions", c->positions, ",");
    put_int(b, "projection", c->projection, "}");
}

static void put_json_t5(struct taca_buf *b, const struct taca_summary *s) {
    taca_buf_puts(b, ",\"t5\":{");
    put_int(b, "layers", s->t5.layers, ",");
    put_int(b, "width", s->t5.width, ",");
    put_int(b, "heads", s->t5.heads, ",");
    put_int(b, "vocabulary", s->t5.vocabulary, "}");
}

static void put_json(struct taca_buf *b, const struct taca_summary *s, const struct inspect_plan *p,
                     const char *path) {
    taca_buf_puts(b, "{");
    put_string(b, "id", s->id);
    put_string(b, "class", s->class_name);
    put_string(b, "family", s->family);
    put_string(b, "path", path);
    put_string(b, "note", s->note);
    taca_buf_puts(b, "\"components\":{");
    for (int i = 0; i <= TACA_TEXT_ENCODER_3; i++) {
        if (i) taca_buf_puts(b, ",");
        put_json_part(b, &s->part[i]);
    }
    taca_buf_puts(b, "},\"structure\":{");
    put_json_dit(b, s);
    for (int i = 0; i < 2; i++)
        if (s->clip[i].width) put_json_clip(b, s->part[TACA_TEXT_ENCODER + i].name, &s->clip[i]);
    if (s->t5.width) put_json_t5(b, s);
    taca_buf_printf(b, "},\"scheduler\":{\"shift\":%.17g},\"defaults\":{", s->scheduler_shift);
    put_int(b, "width", s->width_px, ",");
    put_int(b, "height", s->height_px, ",");
    put_int(b, "steps", s->steps, ",");
    taca_buf_printf(b, "\"guidance\":%.17g},", s->guidance);
    put_int(b, "max_side", s->max_side_px, ",");
    put_int(b, "parameters", s->parameters, ",");
    put_int(b, "bytes", s->bytes, ",\"weight_memory\":{");
    put_int(b, "f32", s->f32_bytes, ",");
    put_int(b, "bf16", s->bf16_bytes, "},");
    inspect_plan_json(p, b);
    taca_buf_puts(b, "}\n");
}

static enum taca_code print(const struct taca_summary *s, const struct inspect_plan *p, bool json,
                            const char *path, struct taca_err *err) {
    struct taca_buf text;
    taca_buf_init(&text, LARGEST_TEXT);
    if (json)
        put_json(&text, s, p, path);
    else
        put_text(&text, s, p, path);
    enum taca_code rc = text.failed ? taca_fail(err, TACA_ENOMEM, "a summary") : TACA_OK;
    if (!rc) cli_print(&text);
    taca_buf_finish(&text);
    return rc;
}

int cli_inspect(int argc, char **argv) {
    bool json = false;
    struct inspect_plan p = {.n = 1, .cfg = (double)NAN};
    struct taca_engine_opts *o = &p.engine;
    const struct flag flags[] = {
        CLI_PART_FLAGS(o),
        {"size", 0, FLAG_STRING, &p.size, .arg = "WxH", .help = "plan: size in pixels"},
        {"steps", 0, FLAG_INT, &p.steps, 1, TACA_MAX_STEPS, .arg = "N", .help = "plan: steps"},
        {"count", 'n', FLAG_INT, &p.n, 1, 64, .arg = "N", .help = "plan: pictures at once"},
        {"cfg", 0, FLAG_NUMBER, &p.cfg, 0, 30, .arg = "X",
         .help = "plan: classifier-free guidance; above 1 a step is two forwards"},
        {"max-sequence-length", 0, FLAG_INT, &p.t5_tokens, 1, TACA_MAX_T5_TOKENS, .arg = "N",
         .help = "plan: T5 tokens of a prompt"},
        {"image", 'i', FLAG_SWITCH, &p.image, .help = "plan: made from a picture"},
        {"mask", 0, FLAG_SWITCH, &p.mask, .help = "plan: made from a picture and a mask"},
        {"lora", 0, FLAG_LIST, &p.lora, .arg = "FILE", .help = "plan: with an adapter"},
        {"precision", 0, FLAG_CHOICE, &p.precision, .choices = CLI_PRECISIONS,
         .env = "TACA_PRECISION", .arg = "P", .help = "plan: of matrix products"},
        {"threads", 0, FLAG_INT, &o->threads, 0, 1024, .env = "TACA_THREADS", .arg = "N",
         .help = "plan: CPU threads, 0 = all"},
        {"json", 0, FLAG_SWITCH, &json, .help = "the same as one JSON object"},
    };
    struct flag_set set = {
        .usage = "inspect MODEL|PICTURE [options]",
        .about = "Tells what the directory or file MODEL holds, from configs and the headers of\n"
                 "files, and plans a picture: the memory and the time that making it will take\n"
                 "on the CPU.\n"
                 "Of a PNG or JPEG it tells how it was made, as the picture says itself.",
        .flags = flags,
        .n_flags = FLAGS_COUNT(flags),
        .min_args = 1,
        .max_args = 1,
    };
    enum flags_result parsed = flags_parse(&set, argc, argv);
    if (parsed != FLAGS_OK) return parsed == FLAGS_HELP ? EXIT_OK : EXIT_USAGE;
    const struct taca_model_paths paths = {.model = set.args[0],
                                           .part = {[TACA_DIT] = o->transformer,
                                                    [TACA_AUTOENCODER] = o->vae,
                                                    [TACA_CLIP_L] = o->clip_l,
                                                    [TACA_CLIP_G] = o->clip_g,
                                                    [TACA_T5] = o->t5},
                                           .config = o->config};
    struct taca_summary s;
    struct taca_err err = {0};
    if (inspect_is_picture(set.args[0]))
        return inspect_picture(set.args[0], json, &err) ? cli_fail("inspect", &err) : EXIT_OK;
    o->model_path = set.args[0];
    enum taca_code rc = taca_summary_read(&s, &paths, &err);
    if (rc) return cli_fail("inspect", &err), EXIT_FAILED;
    rc = inspect_plan_make(&p, &err);
    if (!rc) rc = print(&s, &p, json, set.args[0], &err);
    return rc ? cli_fail("inspect", &err) : EXIT_OK;
}
