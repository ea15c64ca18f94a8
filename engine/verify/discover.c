/* discover.c - from a path on the command line to cases, and each to the code that runs it. A
 * folder's *pipelines.json and text_cases.json list cases; other files are one each. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/verify/case.h"

enum kind { KIND_MODEL, KIND_TACA, KIND_PIPELINE, KIND_TEXT, KIND_LORA };

struct found {
    char *name;
    enum kind kind;
    json_t *entry; /* borrowed from the folder, or the set's own */
};

/* What a folder holds. */
struct folder {
    const char *dir;
    struct found *list;
    size_t n, cap;
    struct taca_arena names;
    json_t *files; /* array keeping the parsed JSON alive */
};

/* A run over one folder. */
struct run {
    const struct verify_opts *opts;
    const struct verify_sink *sink;
    struct verify_counts *counts;
    struct folder folder;
    bool named; /* one case was asked for: what it lacks is a failure */
};

/* ---- what is there --------------------------------------------------------------------------- */

static bool ends_with(const char *s, const char *tail) {
    size_t len = strlen(s), cut = strlen(tail);
    return len >= cut && strcmp(s + len - cut, tail) == 0;
}

static bool exists(const char *dir, const char *name, size_t len, const char *suffix) {
    char path[CASE_PATH];
    int n = snprintf(path, sizeof path, "%s/%.*s%s", dir, (int)len, name, suffix);
    return n > 0 && (size_t)n < sizeof path && access(path, R_OK) == 0;
}

static enum taca_code add(struct folder *f, const char *name, size_t len, enum kind kind,
                          json_t *entry) {
    if (f->n == f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 64;
        struct found *list = realloc(f->list, cap * sizeof *list);
        if (!list) return TACA_ENOMEM;
        f->list = list;
        f->cap = cap;
    }
    char *copy = taca_arena_strndup(&f->names, name, len);
    if (!copy) return TACA_ENOMEM;
    f->list[f->n++] = (struct found){copy, kind, entry};
    return TACA_OK;
}

static void report_failed(struct run *r, const char *name, const char *why) {
    r->counts->failed++;
    r->sink->failed(r->sink->ctx, name, why);
}

/* The object in dir/name, kept by the folder; NULL after reporting why not. */
static json_t *load(struct run *r, const char *name) {
    char path[CASE_PATH];
    struct taca_err err = {0};
    json_t *json = NULL;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", r->folder.dir, name) >= sizeof path)
        taca_fail(&err, TACA_EINVAL, "the path is too long");
    else if (taca_json_load(&json, path, &err) == TACA_OK) {
        json_array_append_new(r->folder.files, json);
        return json;
    }
    report_failed(r, name, err.text);
    return NULL;
}

static enum taca_code add_entries(struct run *r, const char *file, enum kind kind) {
    enum taca_code rc = TACA_OK;
    const char *key;
    json_t *all = load(r, file), *entry;
    json_object_foreach(all, key, entry) {
        if (rc == TACA_OK) rc = add(&r->folder, key, strlen(key), kind, entry);
    }
    return rc;
}

static bool is_listed(const struct folder *f, const char *name) {
    for (size_t i = 0; i < f->n; i++)
        if (f->list[i].kind == KIND_LORA && strcmp(f->list[i].name, name) == 0) return true;
    return false;
}

/* One case for each model that a list of adapters has; good and bad ones are listed apart. */
static enum taca_code add_adapters(struct run *r, const char *file) {
    enum taca_code rc = TACA_OK;
    const char *model;
    json_t *all = load(r, file), *entry;
    json_object_foreach(all, model, entry) {
        char name[256];
        snprintf(name, sizeof name, "lora_%s", model);
        if (rc == TACA_OK && !is_listed(&r->folder, name))
            rc = add(&r->folder, name, strlen(name), KIND_LORA, entry);
    }
    return rc;
}

/* Adds what the file `name` stands for. */
static enum taca_code classify(struct run *r, const char *name) {
    struct folder *f = &r->folder;
    size_t base = strlen(name) - strlen(".json");
    if (strcmp(name, "text_cases.json") == 0) return add_entries(r, name, KIND_TEXT);
    if (ends_with(name, "pipelines.json")) return add_entries(r, name, KIND_PIPELINE);
    if (ends_with(name, ".config.json")) {
        base = strlen(name) - strlen(".config.json");
        return exists(f->dir, name, base, ".io.safetensors") ? add(f, name, base, KIND_MODEL, NULL)
                                                             : TACA_OK; /* weights only */
    }
    if (strcmp(name, "lora.json") == 0 || strcmp(name, "lora_bad.json") == 0)
        return add_adapters(r, name);
    if (!exists(f->dir, name, base, ".io.safetensors")) return TACA_OK; /* not a case's */
    json_t *entry = load(r, name);
    return entry ? add(f, name, base, KIND_TACA, entry) : TACA_OK;
}

static enum taca_code read_folder(struct run *r, struct taca_err *err) {
    struct dirent **entry;
    int n = scandir(r->folder.dir, &entry, NULL, alphasort);
    if (n < 0) return taca_fail(err, TACA_ENOTFOUND, "%s: %s", r->folder.dir, strerror(errno));
    enum taca_code rc = TACA_OK;
    r->folder.files = json_array();
    if (!r->folder.files) rc = TACA_ENOMEM;
    for (int i = 0; i < n; i++) {
        if (rc == TACA_OK && ends_with(entry[i]->d_name, ".json"))
            rc = classify(r, entry[i]->d_name);
        free(entry[i]);
    }
    free(entry);
    return rc ? taca_fail(err, rc, "reading %s", r->folder.dir) : TACA_OK;
}

/* ---- running --------------------------------------------------------------------------------- */

static enum taca_code run_kind(struct verify_case *c, enum kind kind, struct taca_err *err) {
    switch (kind) {
    case KIND_MODEL: return verify_model_set(c, err);
    case KIND_TACA: return verify_taca_set(c, err);
    case KIND_PIPELINE: return verify_pipeline(c, err);
    case KIND_TEXT: return verify_text_case(c, err);
    case KIND_LORA: return verify_lora_set(c, err);
    }
    return taca_fail(err, TACA_EINTERNAL, "a case of kind %d", (int)kind);
}

static void run_case(struct run *r, const struct found *found) {
    struct taca_err err = {0};
    const char *dir = r->folder.dir;
    bool has_io = exists(dir, found->name, strlen(found->name), ".io.safetensors");
    enum taca_code rc = TACA_OK;
    struct verify_case *c = calloc(1, sizeof *c);
    int before = r->counts->outputs;
    r->counts->cases++;
    if (!c) {
        rc = taca_fail(&err, TACA_ENOMEM, "out of memory");
    } else if (!has_io) {
        rc = taca_fail(&err, TACA_EUNSUPPORTED, "no reference tensors (%s.io.safetensors)",
                       found->name);
    } else {
        *c = (struct verify_case){.opts = r->opts,
                                  .sink = r->sink,
                                  .counts = r->counts,
                                  .dir = dir,
                                  .name = found->name,
                                  .entry = found->entry};
        rc = case_init(c, &err);
        if (!rc) rc = run_kind(c, found->kind, &err);
        if (!rc && r->counts->outputs == before)
            rc = taca_fail(&err, TACA_EFORMAT, "it has no output to compare");
        if (!rc) case_report_unchecked(c);
        case_finish(c);
    }
    if (rc == TACA_EUNSUPPORTED && !r->named) {
        r->counts->skipped++;
        r->sink->skipped(r->sink->ctx, found->name, err.text);
    } else if (rc) {
        report_failed(r, found->name, err.text);
    }
    free(c);
}

/* Suffixes of files that people complete a path to. */
static void strip_suffix(char *name) {
    static const char *const suffixes[] = {".io.safetensors", ".config.json",
                                           ".diffusers.safetensors", ".json"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (ends_with(name, suffixes[i]) && strlen(name) > strlen(suffixes[i])) {
            name[strlen(name) - strlen(suffixes[i])] = 0;
            return;
        }
}

static enum taca_code run_found(struct run *r, const char *name, struct taca_err *err) {
    enum taca_code rc = read_folder(r, err);
    size_t ran = 0;
    for (size_t i = 0; !rc && i < r->folder.n; i++) {
        if (name && strcmp(r->folder.list[i].name, name) != 0) continue;
        run_case(r, &r->folder.list[i]);
        ran++;
        if (name) break;
    }
    if (!rc && ran == 0 && name)
        rc = taca_fail(err, TACA_ENOTFOUND,
                       "no case %s in %s: wanted %s.config.json or %s.json with %s.io.safetensors, "
                       "or an entry of a *pipelines.json or text_cases.json",
                       name, r->folder.dir, name, name, name);
    if (!rc && ran == 0) rc = taca_fail(err, TACA_ENOTFOUND, "no cases in %s", r->folder.dir);
    free(r->folder.list);
    taca_arena_finish(&r->folder.names);
    json_decref(r->folder.files);
    return rc;
}

enum taca_code verify_path(const struct verify_opts *opts, const struct verify_sink *sink,
                           const char *path, struct verify_counts *counts, struct taca_err *err) {
    struct run r = {.opts = opts, .sink = sink, .counts = counts};
    struct stat st;
    char *copy = strdup(path);
    if (!copy) return taca_fail(err, TACA_ENOMEM, "case %s", path);
    char *name = NULL;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        r.folder.dir = copy;
    } else {
        char *slash = strrchr(copy, '/');
        name = slash ? slash + 1 : copy;
        if (slash) *slash = 0;
        r.folder.dir = !slash ? "." : slash == copy ? "/" : copy;
        r.named = true;
        strip_suffix(name);
    }
    enum taca_code rc = run_found(&r, name, err);
    free(copy);
    return rc;
}
