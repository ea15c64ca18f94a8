/* adapter.c - see adapter.h: from the changes of a file to weights on the backend, found by the
 * matrix that they belong to. */
#include "engine/dit/adapter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dit/adapted.h"
#include "engine/dit/model.h"
#include "engine/dit/modules.h"

static int by_matrix(const void *a, const void *b) {
    const struct dit_change *x = a, *y = b;
    if (x->on != y->on) return (uintptr_t)x->on < (uintptr_t)y->on ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

const struct dit_change *dit_adapter_changes(const struct dit_adapter *a,
                                             const struct taca_linear *w, int *n) {
    int low = 0, high = a->n, end;
    while (low < high) {
        const int mid = low + (high - low) / 2;
        if ((uintptr_t)a->changes[mid].on < (uintptr_t)w)
            low = mid + 1;
        else
            high = mid;
    }
    for (end = low; end < a->n && a->changes[end].on == w;) end++;
    *n = end - low;
    return a->changes + low;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Parts of a fused matrix that are beside each other here too: one change. */
static bool continues(const struct taca_lora_delta *a, const struct dit_module *ma,
                      const struct taca_lora_delta *b, const struct dit_module *mb) {
    return a->down == b->down && a->scale == b->scale && ma->w == mb->w &&
           ma->first + ma->out == mb->first && a->up + ma->out * a->rank == b->up &&
           (a->bias ? a->bias + ma->out == b->bias : !b->bias);
}

static enum taca_code open_change(struct dit_change *c, struct taca_backend *b,
                                  const struct taca_lora_delta *d, const struct dit_module *m,
                                  int64_t out, struct taca_err *err) {
    struct taca_tensor bias = {m->name, d->bias, TACA_F32, 1, {out}};
    const struct taca_low_rank_parts parts = {
        .down = {m->name, d->down, TACA_F32, 2, {d->rank, d->in}},
        .up = {m->name, d->up, TACA_F32, 2, {out, d->rank}},
        .bias = d->bias ? &bias : NULL,
        .scale = d->scale};
    c->on = m->w;
    c->first = m->first;
    c->out = out;
    return taca_low_rank_open(b, &c->w, &parts, err);
}

static enum taca_code open_changes(struct dit_adapter *a, struct taca_backend *b,
                                   const struct taca_lora_file *file, const struct dit_module *m,
                                   struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    a->changes = calloc((size_t)file->n_deltas, sizeof *a->changes);
    if (!a->changes) return taca_fail(err, TACA_ENOMEM, "an adapter");
    for (int i = 0, end; i < file->n_deltas && !rc; i = end) {
        const struct taca_lora_delta *d = file->deltas;
        int64_t out = m[d[i].module].out;
        for (end = i + 1; end < file->n_deltas &&
                          continues(&d[end - 1], &m[d[end - 1].module], &d[end], &m[d[end].module]);
             end++)
            out += m[d[end].module].out;
        rc = open_change(&a->changes[a->n], b, &d[i], &m[d[i].module], out, err);
        if (!rc) a->n++;
    }
    return rc;
}

static enum taca_code open_gains(struct dit_adapter *a, struct taca_backend *b,
                                 const struct taca_lora_file *file, const struct dit_module *m,
                                 struct taca_err *err) {
    a->gains = calloc((size_t)file->n_gains + 1, sizeof *a->gains);
    if (!a->gains) return taca_fail(err, TACA_ENOMEM, "an adapter");
    for (int i = 0; i < file->n_gains; i++) {
        const struct taca_vec *on = m[file->gains[i].module].gain;
        const size_t bytes = (size_t)on->n * sizeof(float);
        float *gain = taca_alloc(b, bytes, err);
        if (!gain) return taca_alloc_code(b);
        taca_upload(b, gain, file->gains[i].gain, bytes);
        a->gains[a->n_gains++] = (struct dit_gain){on, {gain, on->n}};
    }
    return taca_sync(b, err); /* before the file's memory goes */
}

static void fill_info(struct dit_adapter *a, struct taca_backend *b, const struct dit *d,
                      const struct taca_lora_file *file) {
    int n;
    snprintf(a->info.naming, sizeof a->info.naming, "%s", file->naming);
    a->info.modules = file->n_deltas;
    for (int i = 0; i < file->n_deltas; i++)
        if (file->deltas[i].rank > a->info.rank) a->info.rank = (int)file->deltas[i].rank;
    a->info.parameters = file->parameters;
    a->info.bytes = file->parameters * (int64_t)taca_dtype_bytes(taca_backend_precision(b));
    dit_adapter_changes(a, d->context, &n);
    a->info.context = n > 0;
    const struct dit_change *patch = dit_adapter_changes(a, d->patch, &n);
    a->info.control = n > 0 && patch->w.down->in > d->patch->in;
}

/* The model's modules as the reader wants them. */
static enum taca_code list_modules(const struct dit *d, struct dit_module **modules,
                                   struct taca_lora_model *model, struct taca_err *err) {
    const int n = dit_modules(d, NULL, 0);
    struct dit_module *m = calloc((size_t)n, sizeof *m);
    struct taca_lora_module *names = calloc((size_t)n, sizeof *names);
    if (!m || !names) {
        free(m);
        free(names);
        return taca_fail(err, TACA_ENOMEM, "the names of %d modules", n);
    }
    dit_modules(d, m, n);
    for (int i = 0; i < n; i++)
        names[i] = (struct taca_lora_module){m[i].name, m[i].w ? m[i].w->in : 0, m[i].out,
                                             m[i].w == d->patch};
    *modules = m;
    *model = (struct taca_lora_model){names, n};
    return TACA_OK;
}

enum taca_code dit_adapter_open(struct dit_adapter **out, const struct dit *d,
                                struct taca_backend *b, const char *path,
                                const struct taca_lora_warn *warn, struct taca_err *err) {
    struct dit_module *modules = NULL;
    struct taca_lora_model model = {0};
    struct taca_lora_file file = {0};
    struct dit_adapter *a = calloc(1, sizeof *a);
    enum taca_code rc = TACA_ENOMEM;
    if (!a) {
        taca_fail(err, rc, "an adapter");
        goto out;
    }
    rc = list_modules(d, &modules, &model, err);
    if (!rc) rc = taca_lora_read(&file, path, &model, warn, err);
    if (!rc) rc = open_changes(a, b, &file, modules, err);
    if (!rc) rc = open_gains(a, b, &file, modules, err);
    if (rc) goto out;
    qsort(a->changes, (size_t)a->n, sizeof *a->changes, by_matrix);
    fill_info(a, b, d, &file);
    *out = a;
    a = NULL; /* the caller owns it now */
out:
    dit_adapter_close(a, b);
    taca_lora_file_finish(&file);
    free((void *)(uintptr_t)model.modules);
    free(modules);
    return rc;
}

void dit_adapter_close(struct dit_adapter *a, struct taca_backend *b) {
    if (!a) return;
    taca_replay_forget(b);
    for (int i = 0; i < a->n; i++) taca_low_rank_close(b, &a->changes[i].w);
    for (int i = 0; i < a->n_gains; i++) taca_free(b, (void *)(uintptr_t)a->gains[i].gain.data);
    free(a->gains);
    free(a->changes);
    free(a);
}

const struct dit_adapter_info *dit_adapter_get_info(const struct dit_adapter *a) {
    return &a->info;
}
