/* lora_set.c - adapters against their reference: every form of lora.json at the strengths that it
 * was run with, and the files of lora_bad.json, which are refused or named. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/verify/case.h"

static const char prefix[] = "lora_"; /* of the case's name, before that of its model */

/* What the reader said about a file. */
struct words {
    char text[16384];
};
static void note(void *ctx, const char *text) {
    struct words *w = ctx;
    const size_t len = strlen(w->text);
    snprintf(w->text + len, sizeof w->text - len, "%s\n", text);
}

static enum taca_code open_file(struct verify_case *c, const char *id, const json_t *form,
                                struct words *words, struct taca_err *err) {
    char path[CASE_PATH];
    const char *file = json_string_value(json_object_get(form, "file"));
    if (!file || strchr(file, '/'))
        return taca_fail(err, TACA_EFORMAT, "%s: wanted a \"file\" beside the list", id);
    if ((size_t)snprintf(path, sizeof path, "%s/%s", c->dir, file) >= sizeof path)
        return taca_fail(err, TACA_EINVAL, "path of %s is too long", file);
    return taca_lora_open(c->e, id, path, words ? note : NULL, words, err);
}

/* What no output shows: a file that was taken or left as it should be; why NULL: it was. */
static void report(struct verify_case *c, const char *name, const char *why) {
    char output[128], text[1024];
    snprintf(output, sizeof output, "%.100s", name);
    if (why) {
        snprintf(text, sizeof text, "%s: %s", output, why);
        c->counts->failed++;
        c->sink->failed(c->sink->ctx, c->name, text);
        return;
    }
    c->counts->outputs++;
    c->sink->result(c->sink->ctx,
                    &(struct verify_result){.case_name = c->name, .output = output, .ok = true});
}

/* The forward under adapters that are open, compared with `output`. */
static enum taca_code compare_under(struct verify_case *c, struct case_batch *in,
                                    const struct taca_lora_use *use, int n, const char *output,
                                    struct taca_err *err) {
    struct taca_gen_params p = {.n_loras = n};
    struct case_batch own = *in;
    bool control = false;
    memcpy(p.loras, use, (size_t)n * sizeof *use);
    enum taca_code rc = seq_loras_take(c->e, &p, &own.loras, err);
    for (int i = 0; i < own.loras.n; i++)
        control = control || dit_adapter_get_info(own.loras.list[i].lora->adapter)->control;
    if (!rc && control) rc = case_batch_control(c, &own, err);
    if (!rc) rc = case_batch_prepare(c, &own, err);
    if (!rc) rc = case_batch_run(c, &own, 1, NULL, output, err);
    seq_loras_drop(&own.loras);
    return rc;
}

/* ---- lora.json ------------------------------------------------------------------------------- */

/* Every output "out.NAME.scale_S" that there is. */
static enum taca_code compare_scales(struct verify_case *c, struct case_batch *in, const char *name,
                                     struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    char head[256];
    const int len = snprintf(head, sizeof head, "out.%s.scale_", name);
    if (len < 0 || (size_t)len >= sizeof head)
        return taca_fail(err, TACA_EFORMAT, "the name %.64s is too long", name);
    for (size_t i = 0; i < taca_safetensors_count(c->io) && !rc; i++) {
        const char *output = taca_safetensors_at(c->io, i)->name;
        char *end;
        if (strncmp(output, head, (size_t)len) != 0) continue;
        const double scale = strtod(output + len, &end);
        if (*end || !isfinite(scale))
            return taca_fail(err, TACA_EFORMAT, "%s: wanted a number at its end", output);
        const struct taca_lora_use use = {name, scale, TACA_LORA_ALWAYS};
        rc = compare_under(c, in, &use, 1, output, err);
    }
    return rc;
}

static enum taca_code compare_form(struct verify_case *c, struct case_batch *in, const char *name,
                                   const json_t *form, struct taca_err *err) {
    enum taca_code rc = open_file(c, name, form, NULL, err);
    if (!rc) rc = compare_scales(c, in, name, err);
    if (!rc) rc = taca_lora_close(c->e, name, err);
    return rc;
}

/* Several at once: {"adapters": [{"form": NAME, "scale": S}]}, compared with out.NAME. */
static enum taca_code compare_several(struct verify_case *c, struct case_batch *in,
                                      const json_t *forms, const char *name, const json_t *list,
                                      struct taca_err *err) {
    struct taca_lora_use use[TACA_MAX_LORAS];
    const json_t *one;
    size_t i;
    char output[256];
    enum taca_code rc = TACA_OK;
    int n = 0;
    if (json_array_size(list) > TACA_MAX_LORAS)
        return taca_fail(err, TACA_EUNSUPPORTED, "%s: %zu adapters, at most %d", name,
                         json_array_size(list), TACA_MAX_LORAS);
    json_array_foreach(list, i, one) {
        const char *form = json_string_value(json_object_get(one, "form"));
        const json_t *scale = json_object_get(one, "scale");
        if (!rc && (!form || !json_is_number(scale)))
            rc = taca_fail(err, TACA_EFORMAT, "%s: wanted a form and a scale for each", name);
        if (rc) continue;
        rc = open_file(c, form, json_object_get(forms, form), NULL, err);
        if (!rc) use[n++] = (struct taca_lora_use){form, json_number_value(scale), 0};
    }
    snprintf(output, sizeof output, "out.%s", name);
    if (!rc) rc = compare_under(c, in, use, n, output, err);
    for (i = 0; i < (size_t)n && !rc; i++) rc = taca_lora_close(c->e, use[i].id, err);
    return rc;
}

static enum taca_code compare_forms(struct verify_case *c, struct case_batch *in,
                                    const json_t *forms, struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    const char *name;
    json_t *form;
    json_object_foreach((json_t *)(uintptr_t)forms, name, form) {
        const json_t *several = json_object_get(form, "adapters");
        struct taca_err own = {0};
        rc = several ? compare_several(c, in, forms, name, several, &own)
                     : compare_form(c, in, name, form, &own);
        if (rc == TACA_ENOMEM) return taca_fail(err, rc, "%s", own.text);
        if (rc) report(c, name, own.text); /* and the others go on */
    }
    return TACA_OK;
}

/* ---- lora_bad.json --------------------------------------------------------------------------- */

/* All of the list's words are in the text; the first that is not goes to *missing. */
static bool all_named(const json_t *list, const char *text, const char **missing) {
    const json_t *one;
    size_t i;
    json_array_foreach(list, i, one) {
        *missing = json_string_value(one);
        if (!*missing || !strstr(text, *missing)) return false;
    }
    return true;
}

/* A file that must not pass in silence. Where it may be used without its faulty keys, what is left
 * is compared too. */
static enum taca_code check_bad(struct verify_case *c, struct case_batch *in, const char *name,
                                const json_t *bad, struct taca_err *err) {
    const char *must = json_string_value(json_object_get(bad, "must")), *missing = NULL;
    char why[512];
    struct taca_err found = {0};
    enum taca_code rc = TACA_OK;
    struct words *w = calloc(1, sizeof *w);
    if (!w) return taca_fail(err, TACA_ENOMEM, "%s", name);
    const enum taca_code opened = open_file(c, name, bad, w, &found);
    const bool may = must && strcmp(must, "refuse") != 0;
    note(w, found.text);
    if (!opened && !may) {
        report(c, name, "it was not refused");
    } else if (!all_named(json_object_get(bad, "name"), w->text, &missing)) {
        snprintf(why, sizeof why, "%.128s is not named in: %.300s", missing ? missing : "?",
                 w->text);
        report(c, name, why);
    } else {
        report(c, name, NULL);
    }
    snprintf(why, sizeof why, "out.%.200s.scale_", name);
    if (opened) case_unwanted(c, why);
    if (!opened) rc = compare_scales(c, in, name, err);
    if (!opened && !rc) rc = taca_lora_close(c->e, name, err);
    free(w);
    return rc;
}

static enum taca_code check_all_bad(struct verify_case *c, struct case_batch *in,
                                    const json_t *list, struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    const char *name;
    json_t *bad;
    json_object_foreach((json_t *)(uintptr_t)list, name, bad) {
        if (!rc) rc = check_bad(c, in, name, bad, err);
    }
    return rc;
}

/* ---- both ------------------------------------------------------------------------------------ */

/* The model's part of a list beside the case; *out stays NULL when there is no such list. */
static enum taca_code load_list(const struct verify_case *c, const char *file, json_t **out,
                                struct taca_err *err) {
    char path[CASE_PATH];
    struct taca_err ignored = {0};
    *out = NULL;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", c->dir, file) >= sizeof path)
        return taca_fail(err, TACA_EINVAL, "path of %s is too long", file);
    enum taca_code rc = taca_json_load(out, path, &ignored);
    /* one of the two lists may be missing: that there is one, the case itself shows */
    return rc == TACA_EFORMAT ? taca_fail(err, rc, "%s", ignored.text) : TACA_OK;
}

enum taca_code verify_lora_set(struct verify_case *c, struct taca_err *err) {
    const char *model = c->name + strlen(prefix);
    struct case_batch in = {0};
    enum set_type type;
    json_t *forms = NULL, *bad = NULL;
    enum taca_code rc = set_open(c, model, &type, NULL, err);
    c->tolerance = 1e-4;
    if (!rc && type == SET_VAE) rc = taca_fail(err, TACA_EFORMAT, "%s is no transformer", model);
    if (!rc) rc = load_list(c, "lora.json", &forms, err);
    if (!rc) rc = load_list(c, "lora_bad.json", &bad, err);
    if (!rc) rc = case_batch_load(c, &in, err);
    if (!rc) rc = case_batch_run(c, &in, 1, NULL, "out.base", err);
    if (!rc) rc = compare_forms(c, &in, json_object_get(forms, model), err);
    if (!rc) rc = check_all_bad(c, &in, json_object_get(bad, model), err);
    json_decref(forms);
    json_decref(bad);
    return rc;
}
