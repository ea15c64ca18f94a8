/* compare.c - the reference tensors of one case, the tolerances, and the comparison itself. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/precision.h"
#include "engine/verify/case.h"

/* Largest absolute difference allowed in f32. `scaled` ones grow with the standard deviation of the
 * reference above 1; `fixed` ones do not depend on the precision of matrix products. */
struct tolerance {
    const char *prefix;
    double base;
    bool scaled, fixed;
};
static const struct tolerance tolerances[] = {
    {"sigmas", 5e-7, false, true},
    {"timesteps", 1e-3, false, true},
    {"gammas", 5e-7, false, true},
    {"lora_scales", 5e-7, false, true},
    {"init.noise", 5e-6, false, true},
    {"init.latents", 5e-6, false, true},
    {"init.image_latents", 5e-5, true, false},
    {"prompt_embeds", 1e-4, false, false},
    {"negative_prompt_embeds", 1e-4, false, false},
    {"pooled_prompt_embeds", 2e-5, false, false},
    {"negative_pooled_prompt_embeds", 2e-5, false, false},
    {"out.gamma_", 1e-4, true, false},
    {"out.skip_layers.gamma_", 1e-4, true, false},
    {"out.decode", 1e-4, true, false},
    {"out.moments", 1e-4, true, false},
    {"out.image", 5e-5, false, false},
    {"", 2e-4, true, false},
};
/* bf16 keeps 8 bits: 0.4 % of each product's inputs. One pass through a model shows a few times
 * that on its largest values, a guided loop of passes some more. */
static const double bf16_base = 0.08, bf16_loop_base = 0.16;
/* 8-bit integers with one scale per row keep half a step of 1 / 127 of a row's largest value, four
 * or five times its standard deviation: 1.5 % of it where bf16 keeps 0.2 %. */
static const double int8_base = 0.16, int8_loop_base = 0.32;
/* 8-bit floats (e4m3) have four significant bits: 2.6 % of each value on average, two to three
 * times the integers' share of the row. */
static const double fp8_base = 0.32, fp8_loop_base = 0.64;
/* Latents that an encoded image went into carry the error of the encoder. */
static const double encoded_latents_base = 2e-5;

static bool starts_with(const char *s, const char *prefix) {
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static double tolerance_of(const struct verify_case *c, const char *output, double std) {
    const struct tolerance *t = tolerances;
    double grow = std > 1 ? std : 1;
    if (c->opts->tol > 0) return c->opts->tol * grow;
    while (!starts_with(output, t->prefix)) t++;
    bool encoded = starts_with(output, "init.latents") && case_has(c, "init.image_latents");
    if (c->opts->dtype != TACA_F32 && (!t->fixed || encoded)) {
        bool loop = starts_with(output, "steps") || starts_with(output, "out.latent");
        if (c->opts->narrow == TACA_NARROW_FP8) return (loop ? fp8_loop_base : fp8_base) * grow;
        if (c->opts->narrow) return (loop ? int8_loop_base : int8_base) * grow;
        return (loop ? bf16_loop_base : bf16_base) * grow;
    }
    if (c->tolerance > 0) return c->tolerance;
    if (encoded) return encoded_latents_base * grow;
    return t->scaled ? t->base * grow : t->base;
}

/* ---- one case -------------------------------------------------------------------------------- */

static enum taca_code open_backend(struct taca_backend **out, const struct verify_opts *o,
                                   struct taca_err *err) {
    const struct taca_backend_opts opts = {
        .threads = o->threads, .precision = o->dtype, .narrow = o->narrow};
    enum taca_precision p = o->dtype == TACA_BF16 ? TACA_PRECISION_BF16 : TACA_PRECISION_F32;
    struct taca_backend *b;
    enum taca_code rc = taca_backend_open(&b, o->device, &opts, err);
    if (rc) return rc;
    if (o->narrow) p = o->narrow == TACA_NARROW_INT8 ? TACA_PRECISION_INT8 : TACA_PRECISION_FP8;
    rc = precision_check(b, p, err);
    if (rc)
        taca_backend_close(b);
    else
        *out = b;
    return rc;
}

enum taca_code verify_ready(const struct verify_opts *opts, struct taca_err *err) {
    struct taca_backend *b;
    enum taca_code rc = open_backend(&b, opts, err);
    if (rc == TACA_OK) taca_backend_close(b);
    return rc;
}

static enum taca_code open_engine(struct verify_case *c, struct taca_err *err) {
    c->e = calloc(1, sizeof *c->e);
    if (!c->e) return taca_fail(err, TACA_ENOMEM, "an engine");
    enum taca_code rc = open_backend(&c->e->b, c->opts, err);
    if (rc == TACA_OK) c->e->scratch.b = c->e->b;
    return rc;
}

enum taca_code case_init(struct verify_case *c, struct taca_err *err) {
    char path[CASE_PATH];
    if ((size_t)snprintf(path, sizeof path, "%s/%s.io.safetensors", c->dir, c->name) >= sizeof path)
        return taca_fail(err, TACA_EINVAL, "path of case %s is too long", c->name);
    enum taca_code rc = taca_safetensors_open(&c->io, path, err);
    if (rc) return rc;
    c->checked = calloc(taca_safetensors_count(c->io) + 1, sizeof *c->checked);
    if (!c->checked) return taca_fail(err, TACA_ENOMEM, "case %s", c->name);
    return open_engine(c, err);
}

void case_finish(struct verify_case *c) {
    for (int i = 0; i < c->n_device; i++) taca_free(c->e->b, c->device[i]);
    for (int i = 0; i < c->n_host; i++) free(c->host[i]);
    if (c->e && c->e->b)
        taca_engine_close(c->e);
    else
        free(c->e);
    free(c->checked);
    taca_safetensors_close(c->io);
}

/* Bytes of n floats; false when n is not positive or too large. */
static bool float_bytes(size_t *out, int64_t n) {
    return n > 0 && taca_mul(out, (size_t)n, sizeof(float));
}

enum taca_code case_floats(struct verify_case *c, float **out, int64_t n, struct taca_err *err) {
    size_t bytes;
    float *p = NULL;
    if (c->n_host < CASE_MAX_BLOCKS && float_bytes(&bytes, n)) p = calloc(1, bytes);
    if (!p) return taca_fail(err, TACA_ENOMEM, "%lld values", (long long)n);
    c->host[c->n_host++] = p;
    *out = p;
    return TACA_OK;
}

enum taca_code case_upload(struct verify_case *c, float **out, const float *host, int64_t n,
                           struct taca_err *err) {
    size_t bytes;
    if (c->n_device >= CASE_MAX_BLOCKS || !float_bytes(&bytes, n))
        return taca_fail(err, TACA_ENOMEM, "%lld values", (long long)n);
    float *p = taca_alloc(c->e->b, bytes, err);
    if (!p) return taca_alloc_code(c->e->b);
    c->device[c->n_device++] = p;
    if (host)
        taca_upload(c->e->b, p, host, bytes);
    else
        taca_fill_zero(c->e->b, p, bytes);
    *out = p;
    return TACA_OK;
}

/* ---- reference tensors ----------------------------------------------------------------------- */

static const struct taca_tensor *find(const struct verify_case *c, const char *name) {
    return taca_safetensors_find(c->io, name);
}

bool case_has(const struct verify_case *c, const char *name) { return find(c, name) != NULL; }

static bool is_float(enum taca_dtype t) { return t == TACA_F32 || t == TACA_F16 || t == TACA_BF16; }

/* A tensor's values as floats in `out`, which holds as many. */
static enum taca_code widen(const struct taca_tensor *t, float *out, struct taca_err *err) {
    if (!is_float(t->dtype))
        return taca_fail(err, TACA_EFORMAT, "%s: found %s, wanted floats", t->name,
                         taca_dtype_name(t->dtype));
    taca_to_f32(out, t->data, t->dtype, (size_t)taca_tensor_count(t));
    return TACA_OK;
}

enum taca_code case_input(struct verify_case *c, const char *name, int rank, int64_t *dim,
                          float **out, struct taca_err *err) {
    const struct taca_tensor *t = find(c, name);
    if (!t) return taca_fail(err, TACA_EFORMAT, "%s.io.safetensors has no %s", c->name, name);
    if (t->rank != rank)
        return taca_fail(err, TACA_EFORMAT, "%s: found %d dims, wanted %d", name, t->rank, rank);
    for (int i = 0; i < rank; i++)
        if (t->dim[i] < 1 || (dim[i] >= 0 && t->dim[i] != dim[i]))
            return taca_fail(err, TACA_EFORMAT, "%s: dim %d is %lld, wanted %lld", name, i,
                             (long long)t->dim[i], (long long)(dim[i] < 0 ? 1 : dim[i]));
    for (int i = 0; i < rank; i++) dim[i] = t->dim[i];
    enum taca_code rc = case_floats(c, out, taca_tensor_count(t), err);
    return rc ? rc : widen(t, *out, err);
}

/* ---- results --------------------------------------------------------------------------------- */

static void mark_checked(struct verify_case *c, const char *output) {
    for (size_t i = 0; i < taca_safetensors_count(c->io); i++)
        if (strcmp(taca_safetensors_at(c->io, i)->name, output) == 0) c->checked[i] = true;
}

static void measure(struct verify_result *r, const float *got, const float *want, int64_t n,
                    double *std) {
    double worst = 0, diff = 0, norm = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double w = (double)want[i], d = fabs((double)got[i] - w);
        if (!(d <= worst)) worst = isnan(d) ? HUGE_VAL : d;
        diff += d * d;
        norm += w * w;
        sum += w;
    }
    double mean = sum / (double)n;
    *std = sqrt(fmax(norm / (double)n - mean * mean, 0));
    r->max_abs = worst;
    r->rel_l2 = diff == 0 ? 0 : sqrt(diff / norm);
    if (isnan(r->rel_l2)) r->rel_l2 = HUGE_VAL;
}

static void report(struct verify_case *c, struct verify_result *r, const struct taca_tensor *want) {
    r->case_name = c->name;
    r->rank = want->rank;
    memcpy(r->dim, want->dim, sizeof r->dim);
    r->ok = r->max_abs <= r->tol;
    c->counts->outputs++;
    c->counts->failed += !r->ok;
    c->sink->result(c->sink->ctx, r);
}

/* The reference called `output`; NULL in *out when there is none. */
static enum taca_code reference(struct verify_case *c, const char *output, int64_t n,
                                const struct taca_tensor **out, struct taca_err *err) {
    const struct taca_tensor *want = find(c, output);
    if (want && taca_tensor_count(want) != n)
        return taca_fail(err, TACA_EFORMAT, "%s: the reference holds %lld values, this build %lld",
                         output, (long long)taca_tensor_count(want), (long long)n);
    if (want) mark_checked(c, output);
    *out = want;
    return TACA_OK;
}

enum taca_code case_compare(struct verify_case *c, const char *output, const float *got, int64_t n,
                            struct taca_err *err) {
    const struct taca_tensor *want;
    double std;
    struct verify_result r = {.output = output};
    enum taca_code rc = reference(c, output, n, &want, err);
    if (rc || !want) return rc;
    float *floats = calloc((size_t)n, sizeof *floats);
    if (!floats) return taca_fail(err, TACA_ENOMEM, "%lld values", (long long)n);
    rc = widen(want, floats, err);
    if (rc == TACA_OK) {
        measure(&r, got, floats, n, &std);
        r.tol = tolerance_of(c, output, std);
        report(c, &r, want);
    }
    free(floats);
    return rc;
}

enum taca_code case_compare_ids(struct verify_case *c, const char *output, const int32_t *got,
                                int64_t n, struct taca_err *err) {
    const struct taca_tensor *want;
    struct verify_result r = {.output = output}; /* ids are exact: tolerance 0 */
    enum taca_code rc = reference(c, output, n, &want, err);
    if (rc || !want) return rc;
    if (want->dtype != TACA_I32)
        return taca_fail(err, TACA_EFORMAT, "%s: found %s, wanted i32", output,
                         taca_dtype_name(want->dtype));
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t id;
        memcpy(&id, (const char *)want->data + (size_t)i * sizeof id, sizeof id);
        double d = fabs((double)got[i] - (double)id);
        r.max_abs = fmax(r.max_abs, d);
        diff += d * d;
        norm += (double)id * (double)id;
    }
    r.rel_l2 = diff == 0 ? 0 : sqrt(diff / fmax(norm, 1));
    report(c, &r, want);
    return TACA_OK;
}

void case_unwanted(struct verify_case *c, const char *head) {
    for (size_t i = 0; i < taca_safetensors_count(c->io); i++)
        if (starts_with(taca_safetensors_at(c->io, i)->name, head)) c->checked[i] = true;
}

void case_report_unchecked(struct verify_case *c) {
    for (size_t i = 0; i < taca_safetensors_count(c->io); i++) {
        const char *name = taca_safetensors_at(c->io, i)->name;
        if (c->checked[i] || starts_with(name, "in.") || starts_with(name, "mid.") ||
            starts_with(name, "gamma_"))
            continue;
        char why[256];
        snprintf(why, sizeof why, "output %.200s: not computed by this build", name);
        c->counts->skipped++;
        c->sink->skipped(c->sink->ctx, c->name, why);
    }
}
