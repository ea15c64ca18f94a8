/* lora_names.c - every spelling of a model's module names: its own and that of the original
 * release, which fuses matrices and swaps halves. The spellings are those of layout_tables.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io/layout.h"
#include "engine/io/lora_parts.h"

static int by_name_and_row(const void *a, const void *b) {
    const struct lora_place *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    if (order) return order;
    return x->row < y->row ? -1 : x->row > y->row;
}

static void flatten(char *s) {
    for (; *s; s++)
        if (*s == '.') *s = '_';
}

static enum taca_code add(struct lora_names *n, const char *name, struct lora_place place,
                          struct taca_arena *a, struct taca_err *err) {
    char *copy = taca_arena_strndup(a, name, strlen(name));
    if (!copy) return taca_fail(err, TACA_ENOMEM, "module names");
    flatten(copy);
    place.name = copy;
    n->places[n->n++] = place;
    return TACA_OK;
}

/* The original name of a module (without ".weight") under one rule, read from right to left. */
static bool original(const struct io_rule *r, const char *module, char out[IO_NAME], long *number) {
    static const char tail[] = ".weight";
    const struct io_rule back = {.have = r->want, .want = r->have};
    char full[LORA_NAME + sizeof tail];
    snprintf(full, sizeof full, "%s%s", module, tail);
    if (!io_rule_apply(&back, full, 0, out, number)) return false;
    const size_t len = strlen(out), cut = strlen(tail);
    if (len && out[len - 1] == '.') { /* the rule leaves the ending open */
        out[len - 1] = 0;
        return true;
    }
    if (len <= cut || strcmp(out + len - cut, tail) != 0) return false;
    out[len - cut] = 0;
    return true;
}

static const struct io_rule *rule_of(const struct io_layout *l, const char *module,
                                     char out[IO_NAME], long *number) {
    for (const struct io_rule *r = l->rules; r->have; r++)
        if (original(r, module, out, number)) return r;
    return NULL;
}

/* The original layout that knows most of the modules; NULL when none knows any. */
static const struct io_layout *layout_of(const struct taca_lora_model *m) {
    const struct io_layout *best = NULL;
    char name[IO_NAME];
    long number;
    int most = 0;
    for (size_t i = 0; i < io_n_layouts; i++) {
        const struct io_layout *l = &io_layouts[i];
        int known = 0;
        if (l->kind != TACA_DIT || !l->rules) continue;
        for (int k = 0; k < m->n_modules; k++)
            known += rule_of(l, m->modules[k].name, name, &number) != NULL;
        if (known > most) most = known, best = l;
    }
    return best;
}

/* The highest block number of those whose halves are swapped in the last block only. */
static long last_of(const struct io_layout *l, const struct taca_lora_model *m) {
    char name[IO_NAME];
    long number, last = -1;
    for (int k = 0; k < m->n_modules; k++) {
        const struct io_rule *r = rule_of(l, m->modules[k].name, name, &number);
        if (r && (r->how & IO_SWAP_IN_LAST) && number > last) last = number;
    }
    return last;
}

static enum taca_code add_originals(struct lora_names *n, const struct taca_lora_model *m,
                                    struct taca_arena *a, struct taca_err *err) {
    const struct io_layout *l = layout_of(m);
    char name[IO_NAME];
    long number;
    if (!l) return TACA_OK;
    const long last = last_of(l, m);
    for (int k = 0; k < m->n_modules; k++) {
        const struct io_rule *r = rule_of(l, m->modules[k].name, name, &number);
        if (!r) continue;
        struct lora_place p = {.module = k};
        if (r->of) p.row = m->modules[k].out / r->count * r->first;
        p.swapped = (r->how & IO_SWAP) || ((r->how & IO_SWAP_IN_LAST) && number == last);
        enum taca_code rc = add(n, name, p, a, err);
        if (rc) return rc;
    }
    return TACA_OK;
}

enum taca_code lora_names_open(struct lora_names *out, const struct taca_lora_model *m,
                               struct taca_arena *a, struct taca_err *err) {
    struct lora_names n = {0};
    n.places = taca_arena_alloc(a, ((size_t)m->n_modules * 2 + 1) * sizeof *n.places);
    if (!n.places) return taca_fail(err, TACA_ENOMEM, "module names");
    enum taca_code rc = TACA_OK;
    for (int k = 0; k < m->n_modules && !rc; k++)
        rc = add(&n, m->modules[k].name, (struct lora_place){.module = k}, a, err);
    if (!rc) rc = add_originals(&n, m, a, err);
    if (rc) return rc;
    qsort(n.places, n.n, sizeof *n.places, by_name_and_row);
    *out = n;
    return TACA_OK;
}

size_t lora_names_find(const struct lora_names *n, const struct lora_core *core,
                       const struct lora_place **first) {
    char flat[LORA_NAME];
    size_t low = 0, high = n->n, end;
    snprintf(flat, sizeof flat, "%s", core->name);
    flatten(flat);
    while (low < high) { /* the first place that is not before it */
        const size_t mid = low + (high - low) / 2;
        if (strcmp(n->places[mid].name, flat) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    for (end = low; end < n->n && strcmp(n->places[end].name, flat) == 0;) end++;
    *first = n->places + low;
    return end - low;
}
