/* models.c - see models.h. */
#include "server/models.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct models_kept {
    struct models_kept *next;
    max_align_t bytes[];
};

void models_init(struct models *ms) { memset(ms, 0, sizeof *ms); }

void models_finish(struct models *ms) {
    for (struct models_kept *k = ms->kept, *next; k; k = next) {
        next = k->next;
        free(k);
    }
    models_init(ms);
}

int models_add(struct models *ms, const char *id) {
    int k = atomic_load(&ms->n);
    if (k == MODELS_MAX) return -1;
    struct model *m = &ms->at[k];
    snprintf(m->id, sizeof m->id, "%s", id);
    atomic_store(&m->state, MODEL_LOADING);
    atomic_store(&ms->n, k + 1);
    return k;
}

/* A copy that lives as long as the service. */
static void *keep(struct models *ms, const void *bytes, size_t len) {
    struct models_kept *k = malloc(sizeof *k + len);
    if (!k) return NULL;
    k->next = ms->kept;
    ms->kept = k;
    return memcpy(k->bytes, bytes, len);
}

bool models_loaded(struct models *ms, int k, const struct taca_model_info *info, int64_t now_s) {
    struct model *m = &ms->at[k];
    const struct taca_model_info *old = atomic_load(&m->info);
    if (!old || memcmp(old, info, sizeof *info) != 0) { /* the usual reload brings nothing new */
        const struct taca_model_info *copy = keep(ms, info, sizeof *info);
        if (!copy) return false;
        atomic_store(&m->info, copy);
    }
    atomic_store(&m->error, NULL);
    atomic_store(&m->loaded_s, now_s);
    atomic_store(&m->state, MODEL_READY);
    return true;
}

void models_failed(struct models *ms, int k, const char *why) {
    const char *old = atomic_load(&ms->at[k].error);
    if (!old || strcmp(old, why) != 0)
        atomic_store(&ms->at[k].error, (const char *)keep(ms, why, strlen(why) + 1));
    atomic_store(&ms->at[k].state, MODEL_FAILED);
}

/* ---- any thread ------------------------------------------------------------------------------ */

enum model_state models_state(const struct models *ms, int k) {
    return (enum model_state)atomic_load(&ms->at[k].state);
}

const char *models_state_name(enum model_state s) {
    static const char *const names[] = {"loading", "ready", "unloading", "unloaded", "failed"};
    return names[s];
}

const struct taca_model_info *models_info(const struct models *ms, int k) {
    return atomic_load(&ms->at[k].info);
}

const char *models_id(const struct models *ms, int k) {
    const struct taca_model_info *info = models_info(ms, k);
    return info ? info->id : ms->at[k].id;
}

int models_find(const struct models *ms, const char *id) {
    for (int k = 0; k < atomic_load(&ms->n); k++)
        if (strcmp(models_id(ms, k), id) == 0) return k;
    return -1;
}

const struct taca_model_info *models_usual(const struct models *ms) {
    for (int k = 0; k < atomic_load(&ms->n); k++)
        if (models_state(ms, k) == MODEL_READY) return models_info(ms, k);
    return NULL;
}

void models_offer(const struct models *ms, struct api_offer *out) {
    out->n_models = atomic_load(&ms->n);
    for (int k = 0; k < out->n_models; k++) {
        enum model_state state = models_state(ms, k);
        out->models[k].id = models_id(ms, k);
        out->models[k].info = state == MODEL_READY ? models_info(ms, k) : NULL;
        out->models[k].loading = state == MODEL_LOADING;
    }
}

void models_json(const struct models *ms, bool operators, struct taca_buf *out) {
    struct api_model list[MODELS_MAX];
    int n = atomic_load(&ms->n);
    for (int k = 0; k < n; k++) {
        enum model_state state = models_state(ms, k);
        const bool says_why = operators && state == MODEL_FAILED;
        list[k] = (struct api_model){.id = models_id(ms, k),
                                     .info = models_info(ms, k),
                                     .state = models_state_name(state),
                                     .error = says_why ? atomic_load(&ms->at[k].error) : NULL,
                                     .workers = atomic_load(&ms->at[k].workers),
                                     .created_s = atomic_load(&ms->at[k].loaded_s)};
    }
    api_models_json(out, list, n);
}
