/* loras.c - the adapters of an engine, who uses them, and how strongly in which step.
 *
 * Adapters are opened once under an id and shared; a sequence holds those that it names until it is
 * closed. What is on in a step is worked out anew for each, so a window that ends leaves nothing
 * behind, and the next request begins with the adapter again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core.h"
#include "engine/sample/taca.h"

static struct engine_lora *find(const struct taca_engine *e, const char *id) {
    for (struct engine_lora *l = e->loras; l; l = l->next)
        if (strcmp(l->info.id, id) == 0) return l;
    return NULL;
}

static enum taca_code check_id(const struct taca_engine *e, const char *id, struct taca_err *err) {
    struct taca_lora_info info;
    if (!*id || strlen(id) >= sizeof info.id)
        return taca_fail_param(err, "loras", "an adapter's id has 1..%zu bytes, got %zu",
                               sizeof info.id - 1, strlen(id));
    if (find(e, id)) return taca_fail_param(err, "loras", "adapter %s is there already", id);
    return TACA_OK;
}

enum taca_code taca_lora_open(struct taca_engine *e, const char *id, const char *path,
                              void (*warn)(void *ctx, const char *text), void *ctx,
                              struct taca_err *err) {
    const struct taca_lora_warn to = {warn, ctx};
    const size_t before = taca_count_foreseen(e->b).kept_bytes;
    struct engine_lora **end = &e->loras;
    enum taca_code rc = check_id(e, id, err);
    if (rc) return rc;
    struct engine_lora *l = calloc(1, sizeof *l);
    if (!l) return taca_fail(err, TACA_ENOMEM, "adapter %s", id);
    rc = dit_adapter_open(&l->adapter, e->dit, e->b, path, warn ? &to : NULL, err);
    if (rc) {
        free(l);
        return rc;
    }
    const struct dit_adapter_info *a = dit_adapter_get_info(l->adapter);
    snprintf(l->info.id, sizeof l->info.id, "%s", id);
    snprintf(l->info.naming, sizeof l->info.naming, "%s", a->naming);
    l->info.modules = a->modules;
    l->info.rank = a->rank;
    l->info.parameters = a->parameters;
    l->info.bytes = a->bytes;
    e->kept.adapters += taca_count_foreseen(e->b).kept_bytes - before;
    while (*end) end = &(*end)->next;
    *end = l;
    return TACA_OK;
}

static void close_at(struct taca_engine *e, struct engine_lora **at) {
    struct engine_lora *l = *at;
    *at = l->next;
    dit_adapter_close(l->adapter, e->b);
    free(l);
}

enum taca_code taca_lora_close(struct taca_engine *e, const char *id, struct taca_err *err) {
    struct engine_lora **at = &e->loras;
    while (*at && strcmp((*at)->info.id, id) != 0) at = &(*at)->next;
    if (!*at) return taca_fail_param(err, "loras", "there is no adapter %.64s", id);
    if ((*at)->users)
        return taca_fail(err, TACA_EBUSY, "adapter %s is used by %d sequences", id, (*at)->users);
    close_at(e, at);
    return TACA_OK;
}

void engine_loras_close(struct taca_engine *e) {
    while (e->loras) close_at(e, &e->loras);
}

const struct taca_lora_info *taca_lora_at(const struct taca_engine *e, int i) {
    const struct engine_lora *l = e->loras;
    while (l && i-- > 0) l = l->next;
    return l ? &l->info : NULL;
}

/* ---- of a sequence --------------------------------------------------------------------------- */

static const struct taca_lora_use *use_of(const struct taca_gen_params *p, const char *id) {
    for (int i = 0; i < p->n_loras; i++)
        if (strcmp(p->loras[i].id, id) == 0) return &p->loras[i];
    return NULL;
}

enum taca_code seq_loras_check(const struct seq_loras *s, struct taca_err *err) {
    for (int i = 0; i < s->n; i++)
        if (dit_adapter_get_info(s->list[i].lora->adapter)->control)
            return taca_fail_param(err, "loras",
                                   "adapter %s wants a control image, which requests cannot give",
                                   s->list[i].lora->info.id);
    return TACA_OK;
}

enum taca_code seq_loras_take(const struct taca_engine *e, const struct taca_gen_params *p,
                              struct seq_loras *out, struct taca_err *err) {
    struct seq_loras s = {0};
    for (int i = 0; i < p->n_loras; i++)
        if (!find(e, p->loras[i].id))
            return taca_fail_param(err, "loras", "there is no adapter %.64s", p->loras[i].id);
    /* in the engine's order, not the request's: sums depend on it */
    for (struct engine_lora *l = e->loras; l; l = l->next) {
        const struct taca_lora_use *u = use_of(p, l->info.id);
        if (!u || u->scale == 0) continue;
        const bool windowed = u->when == TACA_LORA_IN_WINDOW;
        s.list[s.n++] = (struct seq_lora){l, (float)u->scale, windowed};
        s.windowed = s.windowed || windowed;
        s.two_contexts = s.two_contexts || (windowed && dit_adapter_get_info(l->adapter)->context);
        l->users++;
    }
    *out = s;
    return TACA_OK;
}

void seq_loras_drop(struct seq_loras *s) {
    for (int i = 0; i < s->n; i++) s->list[i].lora->users--;
    *s = (struct seq_loras){0};
}

bool seq_in_window(const struct taca_seq *s, int step) {
    return taca_window_has(&s->window, step, s->schedule.steps, (double)s->schedule.sigma[step]);
}

const struct dit_loras *seq_loras_on(const struct seq_loras *s, bool inside, struct lora_set *set) {
    *set = (struct lora_set){.all = {.list = set->list}};
    for (int i = 0; i < s->n; i++) {
        if (s->list[i].windowed && !inside) continue;
        const int k = set->all.n++;
        set->gate[k] = s->list[i].scale;
        set->list[k] = (struct dit_lora){s->list[i].lora->adapter, &set->gate[k]};
    }
    return &set->all;
}

/* ---- of a batch ------------------------------------------------------------------------------ */

static float scale_in_step(const struct taca_seq *s, const struct engine_lora *l) {
    for (int i = 0; i < s->loras.n; i++) {
        const struct seq_lora *u = &s->loras.list[i];
        if (u->lora == l)
            return !u->windowed || seq_in_window(s, sampler_level(&s->walk)) ? u->scale : 0;
    }
    return 0;
}

enum taca_code batch_loras_init(struct batch_loras *out, const struct taca_engine *e,
                                struct taca_seq *const *seqs, int n, struct taca_err *err) {
    int used = 0, items = 0;
    *out = (struct batch_loras){0};
    for (const struct engine_lora *l = e->loras; l; l = l->next) used += l->users > 0;
    for (int i = 0; i < n; i++) items += seqs[i]->n_branches;
    if (!used) return TACA_OK;
    out->list = calloc((size_t)used, sizeof *out->list);
    out->gate = calloc((size_t)used, (size_t)items * sizeof *out->gate);
    if (!out->list || !out->gate) {
        batch_loras_finish(out);
        return taca_fail(err, TACA_ENOMEM, "adapters of %d sequences", n);
    }
    for (const struct engine_lora *l = e->loras; l; l = l->next) {
        float *gate = out->gate + (size_t)out->all.n * (size_t)items;
        bool on = false;
        if (!l->users) continue;
        for (int i = 0, item = 0; i < n; i++) {
            const float scale = scale_in_step(seqs[i], l);
            for (int k = 0; k < seqs[i]->n_branches; k++) gate[item++] = scale;
            on = on || scale != 0;
        }
        if (on) out->list[out->all.n++] = (struct dit_lora){l->adapter, gate};
    }
    out->all.list = out->list;
    return TACA_OK;
}

void batch_loras_finish(struct batch_loras *b) {
    free(b->list);
    free(b->gate);
    *b = (struct batch_loras){0};
}
