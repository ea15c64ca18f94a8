/* loader.c - see loader.h. */
#include "server/loader.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "server/serve.h"

/* What a place's model is made of. */
struct recipe {
    char name[sizeof((struct model *)0)->id]; /* "" = the checkpoint's own */
    char path[PATH_MAX];                      /* "" = only parts */
    struct fleet_source source;
    const char *loras[TACA_MAX_SERVED_LORAS];
};

struct loader {
    const struct serve_opts *opts;
    struct fleet *fleet;
    struct service_status *status;
    struct disk *disk; /* NULL: nothing is remembered */
    struct recipe recipes[MODELS_MAX];
    int n_options, n;           /* recipes of the options, then those of the store */
    bool stays_out[MODELS_MAX]; /* of the options, and unloaded before */
    enum { HOME, OUT, RECALLED } workers[MODELS_MAX];
};

static const char id_bytes[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

/* ---- what the options say -------------------------------------------------------------------- */

/* The name in "NAME=PATH"; 0 = it is a path alone. */
static size_t name_len(const char *item) {
    size_t n = strspn(item, id_bytes);
    return n > 0 && item[n] == '=' && item[n + 1] ? n : 0;
}

static enum taca_code set_path(struct recipe *r, const char *path, struct taca_err *err) {
    if (strlen(path) >= sizeof r->path)
        return taca_fail_param(err, "model", "--model: the path is longer than %zu bytes",
                               sizeof r->path - 1);
    snprintf(r->path, sizeof r->path, "%s", path);
    if (access(path, R_OK) != 0)
        return taca_fail_param(err, "model", "--model %s: no such file or no permission", path);
    return TACA_OK;
}

static enum taca_code set_name(struct recipe *r, const char *name, size_t len,
                               struct taca_err *err) {
    if (len < 1 || len >= sizeof r->name || strspn(name, id_bytes) < len)
        return taca_fail_param(err, "model",
                               "--model: a name has 1..%zu letters, digits, '.', '_' or '-', got "
                               "'%.*s'; give NAME=PATH",
                               sizeof r->name - 1, (int)len, name);
    snprintf(r->name, sizeof r->name, "%.*s", (int)len, name);
    return TACA_OK;
}

/* models/demo/ is called demo. */
static enum taca_code name_after_path(struct recipe *r, struct taca_err *err) {
    size_t end = strlen(r->path);
    while (end > 1 && r->path[end - 1] == '/') end--;
    size_t at = end;
    while (at > 0 && r->path[at - 1] != '/') at--;
    return set_name(r, r->path + at, end - at, err);
}

static enum taca_code read_item(struct recipe *r, const struct serve_opts *o, int k,
                                struct taca_err *err) {
    const char *item = o->models.list[k];
    size_t named = name_len(item);
    enum taca_code rc = set_path(r, named ? item + named + 1 : item, err);
    if (!rc && named) rc = set_name(r, item, named, err);
    if (!rc && !named && k == 0 && o->engine.model_id)
        rc = set_name(r, o->engine.model_id, strlen(o->engine.model_id), err);
    else if (!rc && !named && o->models.n > 1) /* each needs one before it is loaded */
        rc = name_after_path(r, err);
    return rc;
}

/* "MODEL:ID=FILE": the length of MODEL, 0 = the first one's. */
static size_t lora_model_len(const char *item) {
    size_t n = strspn(item, id_bytes);
    return item[n] == ':' ? n : 0;
}

static enum taca_code give_loras(struct recipe *recipes, int n, const struct serve_opts *o,
                                 struct taca_err *err) {
    for (int i = 0; i < o->loras.n; i++) {
        const char *item = o->loras.list[i];
        size_t len = lora_model_len(item);
        int k = 0;
        while (len && k < n &&
               (strlen(recipes[k].name) != len || memcmp(recipes[k].name, item, len)))
            k++;
        if (k == n)
            return taca_fail_param(err, "lora", "--lora %s: there is no model of this name", item);
        struct serve_loras *l = &recipes[k].source.loras;
        if (l->n == TACA_MAX_SERVED_LORAS)
            return taca_fail_param(err, "lora", "--lora: at most %d adapters of a model",
                                   TACA_MAX_SERVED_LORAS);
        recipes[k].loras[l->n++] = item + (len ? len + 1 : 0);
        l->list = recipes[k].loras;
    }
    enum taca_code rc = TACA_OK;
    for (int k = 0; k < n && !rc; k++) rc = serve_loras_check(&recipes[k].source.loras, err);
    return rc;
}

static bool has_parts(const struct taca_engine_opts *e) {
    return e->transformer || e->vae || e->clip_l || e->clip_g || e->t5 || e->taesd || e->config;
}

/* *n = how many. `recipes` has MODELS_MAX zeroed entries. */
static enum taca_code read_options(struct recipe *recipes, int *n, const struct serve_opts *o,
                                   struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    *n = o->models.n > 0 ? o->models.n : 1;
    if (*n > MODELS_MAX)
        return taca_fail_param(err, "model", "--model: at most %d models, got %d", MODELS_MAX, *n);
    if (*n > 1 && has_parts(&o->engine))
        return taca_fail_param(err, "model",
                               "parts of a model (--transformer, --vae ..) go with one --model "
                               "alone; several come as directories");
    for (int k = 0; k < *n && !rc; k++) {
        recipes[k].source.engine = o->engine;
        if (o->models.n > 0) rc = read_item(&recipes[k], o, k, err);
    }
    if (!rc && o->models.n == 0 && access(o->engine.transformer, R_OK) != 0)
        rc = taca_fail_param(err, "transformer", "--transformer %s: no such file or no permission",
                             o->engine.transformer);
    for (int k = 0; k < *n && !rc; k++) {
        struct recipe *r = &recipes[k];
        if (r->path[0]) r->source.engine.model_path = r->path;
        if (r->name[0]) r->source.engine.model_id = r->name;
        for (int i = 0; i < k; i++)
            if (strcmp(recipes[i].name, r->name) == 0)
                return taca_fail_param(err, "model", "--model: the name %s is given twice",
                                       r->name);
    }
    return rc ? rc : give_loras(recipes, *n, o, err);
}

enum taca_code loader_check(const struct serve_opts *o, struct taca_err *err) {
    int n;
    if (o->models.n == 0 && (!o->engine.transformer || !o->engine.transformer[0]))
        return taca_fail_param(err, "model", "--model names nothing");
    if (o->devices.n > STATUS_DEVICES)
        return taca_fail_param(err, "device", "--device: at most %d devices, got %d",
                               STATUS_DEVICES, o->devices.n);
    struct recipe *recipes = calloc(MODELS_MAX, sizeof *recipes);
    if (!recipes) return taca_fail(err, TACA_ENOMEM, "reading the options");
    enum taca_code rc = read_options(recipes, &n, o, err);
    free(recipes);
    return rc;
}

/* ---- the start ------------------------------------------------------------------------------- */

/* A model of the options has its name in the store, also where only its checkpoint knows it yet. */
static int option_of(struct loader *l, const struct db_model *m) {
    for (int k = 0; k < l->n_options; k++) {
        const struct recipe *r = &l->recipes[k];
        if (strcmp(r->name, m->name) == 0 || (!r->name[0] && strcmp(r->path, m->path) == 0))
            return k;
    }
    return -1;
}

static void on_remembered(void *ctx, const struct db_model *m) {
    struct loader *l = ctx;
    struct taca_err err = {0};
    int k = option_of(l, m);
    if (k >= 0 ? m->loaded : !m->loaded) return; /* options have changed since */
    if (k < 0 && l->n == MODELS_MAX) {
        taca_log(TACA_LOG_ERROR, "model %s was loaded before, and there is no place for it",
                 m->name);
        return;
    }
    if (k >= 0) l->stays_out[k] = true;
    struct recipe *r = &l->recipes[k >= 0 ? k : l->n++];
    snprintf(r->name, sizeof r->name, "%s", m->name);
    r->source.engine.model_id = r->name;
    if (k >= 0) return;
    (void)set_path(r, m->path, &err); /* what is not there is found below */
    r->source.engine.model_path = r->path;
    r->source.check_memory = true;
}

static enum taca_code send_out(struct loader *l, int k, struct taca_err *err) {
    struct taca_err why = {0};
    struct models *ms = &l->status->models;
    struct recipe *r = &l->recipes[k];
    (void)models_add(ms, r->name);
    if (l->stays_out[k]) {
        atomic_store(&ms->at[k].state, MODEL_UNLOADED);
        return TACA_OK;
    }
    if (k >= l->n_options && access(r->path, R_OK) != 0) {
        taca_fail(&why, TACA_EIO, "%s: no such file or no permission", r->path);
        taca_log(TACA_LOG_ERROR, "model %s: %s", r->name, why.text);
        models_failed(ms, k, why.text);
        return TACA_OK;
    }
    l->workers[k] = OUT;
    return fleet_send_out(l->fleet, k, &r->source, err);
}

enum taca_code loader_open(struct loader **out, const struct serve_opts *o, struct fleet *fleet,
                           struct service_status *status, struct disk *disk, struct taca_err *err) {
    struct loader *l = calloc(1, sizeof *l);
    if (!l) return taca_fail(err, TACA_ENOMEM, "opening the models");
    *out = l; /* the caller closes it, whatever happens */
    l->opts = o;
    l->fleet = fleet;
    l->status = status;
    l->disk = disk;
    enum taca_code rc = read_options(l->recipes, &l->n_options, o, err);
    l->n = l->n_options;
    if (!rc && disk) rc = db_load_models(disk_db(disk), on_remembered, l, err);
    for (int k = 0; k < l->n && !rc; k++) rc = send_out(l, k, err);
    return rc;
}

void loader_close(struct loader *l) { free(l); }

/* ---- while it runs --------------------------------------------------------------------------- */

void loader_refused(struct loader *l, int model, const struct taca_err *err) {
    models_failed(&l->status->models, model, err->text);
}

bool loader_must_have(const struct loader *l, int model) { return model < l->n_options; }

void loader_recalled(struct loader *l, struct jobs *jobs, int model) {
    struct model *m = &l->status->models.at[model];
    l->workers[model] = HOME;
    jobs_forget_model(jobs, model);
    if (atomic_load(&m->state) == MODEL_UNLOADING) atomic_store(&m->state, MODEL_UNLOADED);
    taca_log(TACA_LOG_INFO, "model %s: its workers are gone", l->recipes[model].name);
}

void loader_settle(struct loader *l, const struct jobs *jobs) {
    const struct models *ms = &l->status->models;
    for (int k = 0; k < atomic_load(&ms->n); k++) {
        enum model_state state = models_state(ms, k);
        if (l->workers[k] != OUT || (state != MODEL_UNLOADING && state != MODEL_FAILED)) continue;
        if (jobs_of_model(jobs, k) > 0 || jobs_command(jobs, k) || !fleet_idle(l->fleet, k))
            continue;
        l->workers[k] = RECALLED;
        fleet_recall(l->fleet, k);
    }
}

/* ---- the operator ---------------------------------------------------------------------------- */

static void answer(struct loader *l, struct ask *a, int status, int k) {
    struct taca_buf body;
    taca_buf_init(&body, 1024);
    taca_buf_puts(&body, "{\"model\":");
    taca_buf_json(&body, a->model, strlen(a->model));
    taca_buf_printf(&body, ",\"state\":\"%s\"}",
                    models_state_name(models_state(&l->status->models, k)));
    stream_reply(a->reader->stream, status, "application/json", NULL, &body);
    taca_buf_finish(&body);
}

static int new_place(struct loader *l, const struct ask *a, struct api_error *e) {
    struct taca_err err = {0};
    struct recipe r = {0};
    if (!a->path)
        return api_fail(e, 404, "model_not_found", "model",
                        "no model \"%s\" here; to add it give its path", a->model),
               -1;
    if (set_name(&r, a->model, strlen(a->model), &err))
        return api_fail(e, 400, "invalid_model", "model", "%s", err.text + strlen("--")), -1;
    int k = models_add(&l->status->models, a->model);
    if (k < 0)
        return api_fail(e, 409, "too_many_models", "model",
                        "this service has %d models already; each keeps its place", MODELS_MAX),
               -1;
    l->recipes[k] = r;
    atomic_store(&l->status->models.at[k].state, MODEL_UNLOADED);
    return k;
}

static int load(struct loader *l, const struct ask *a, struct api_error *e) {
    struct models *ms = &l->status->models;
    struct taca_err err = {0};
    if (a->path && access(a->path, R_OK) != 0)
        return api_fail(e, 400, "invalid_path", "path", "%s: no such file or no permission",
                        a->path),
               -1;
    int k = models_find(ms, a->model);
    if (k < 0) k = new_place(l, a, e);
    if (k < 0) return -1;
    enum model_state state = models_state(ms, k);
    if (state == MODEL_READY || state == MODEL_LOADING) return k; /* as wanted */
    if (l->workers[k] != HOME)
        return api_fail(e, 409, "model_busy", "model", "model \"%s\" is just being unloaded",
                        a->model),
               -1;
    struct recipe *r = &l->recipes[k];
    r->source.check_memory = true;
    if (a->path) {
        r->source.engine = (struct taca_engine_opts){.model_path = r->path};
        r->source.loras.n = 0;
        (void)set_path(r, a->path, &err);
    }
    snprintf(r->name, sizeof r->name, "%s", a->model);
    r->source.engine.model_id = r->name;
    atomic_store(&ms->at[k].state, MODEL_LOADING);
    l->workers[k] = OUT;
    if (fleet_send_out(l->fleet, k, &r->source, &err) != TACA_OK) models_failed(ms, k, err.text);
    taca_log(TACA_LOG_INFO, "model %s: loading", r->name);
    return k;
}

static int unload(struct loader *l, const struct jobs *jobs, const struct ask *a,
                  struct api_error *e) {
    struct models *ms = &l->status->models;
    int k = models_find(ms, a->model), busy;
    if (k < 0)
        return api_fail(e, 404, "model_not_found", "model", "no model \"%s\" here", a->model), -1;
    if (models_state(ms, k) == MODEL_FAILED && l->workers[k] == HOME) return k;
    if (models_state(ms, k) == MODEL_UNLOADING || models_state(ms, k) == MODEL_UNLOADED) return k;
    busy = jobs_of_model(jobs, k);
    if (busy > 0 && a->only_idle)
        return api_fail(e, 409, "model_busy", "model",
                        "%d requests for model \"%s\" are not finished", busy, a->model),
               -1;
    taca_log(TACA_LOG_INFO, "model %s: unloading, after %d requests", a->model, busy);
    atomic_store(&ms->at[k].state, MODEL_UNLOADING);
    return k;
}

/* True: it is on its way to the disk, and the answer waits for that. What the options say anyhow
 * need not be remembered. */
static bool remember(struct loader *l, struct ask *a, int k) {
    const bool load = a->kind == ASK_LOAD;
    struct disk_write *w = l->disk ? disk_write_open(DISK_MODEL) : NULL;
    if (!w) return false;
    snprintf(w->model, sizeof w->model, "%s", a->model);
    taca_buf_puts(&w->request, l->recipes[k].path);
    if (w->request.failed) {
        disk_write_close(w);
        return false;
    }
    w->said = (struct db_model){.name = w->model, .loaded = load};
    if (load != loader_must_have(l, k)) w->said.path = w->request.data ? w->request.data : "";
    w->ctx = a;
    disk_post(l->disk, w);
    return true;
}

void loader_written(struct loader *l, struct disk_write *w) {
    struct ask *a = w->ctx;
    struct api_error e = {.retry_after_s = 1};
    if (w->rc) {
        taca_log(TACA_LOG_WARN, "model %s: %s", a->model, w->err.text);
        api_fail(&e, 503, "storage_unavailable", NULL,
                 "it is being done, but the job store could not take it: a restart would not know");
        stream_fail(a->reader->stream, "", &e);
    } else {
        answer(l, a, 202, models_find(&l->status->models, a->model));
    }
    ask_close(a);
    disk_write_close(w);
}

void loader_ask(struct loader *l, const struct jobs *jobs, struct ask *a) {
    struct api_error e = {0};
    int k = a->kind == ASK_LOAD ? load(l, a, &e) : unload(l, jobs, a, &e);
    if (k >= 0) loader_settle(l, jobs);
    if (k >= 0 && remember(l, a, k)) return;
    if (k >= 0)
        answer(l, a, 202, k);
    else
        stream_fail(a->reader->stream, "", &e);
    ask_close(a);
}
