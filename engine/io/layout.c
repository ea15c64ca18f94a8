/* layout.c - see layout.h: matching of patterns and recognition. The tables are in
 * layout_tables.c. */
#include "engine/io/layout.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- patterns -------------------------------------------------------------------------------- */

enum { MAX_NUMBERS = 2 };

struct match {
    long number[MAX_NUMBERS];
    int n;
    const char *rest;
};

static bool match(const char *pattern, const char *name, struct match *m) {
    *m = (struct match){.rest = ""};
    for (; *pattern; pattern++) {
        if (*pattern == '*') {
            m->rest = name;
            return *name != 0;
        }
        if (*pattern != '#') {
            if (*name++ != *pattern) return false;
            continue;
        }
        long v = 0;
        const char *from = name;
        while (isdigit((unsigned char)*name) && name - from < 6) v = 10 * v + (*name++ - '0');
        if (name == from || m->n == MAX_NUMBERS) return false;
        m->number[m->n++] = v;
    }
    return *name == 0;
}

bool io_rule_apply(const struct io_rule *r, const char *name, long last, char want[IO_NAME],
                   long *first_number) {
    struct match m;
    if (!match(r->have, name, &m)) return false;
    *first_number = m.n ? m.number[0] : -1;
    if ((r->how & IO_FROM_TOP) && m.n) m.number[0] = last - m.number[0];
    size_t at = 0;
    int k = 0;
    for (const char *p = r->want; *p && at < IO_NAME - 1; p++) {
        int n = 1;
        if (*p == '#')
            n = snprintf(want + at, IO_NAME - at, "%ld", m.number[k++ % MAX_NUMBERS]);
        else if (*p == '*')
            n = snprintf(want + at, IO_NAME - at, "%s", m.rest);
        else
            want[at] = *p;
        at += (size_t)n;
    }
    if (at >= IO_NAME) at = IO_NAME - 1;
    want[at] = 0;
    return true;
}

/* ---- looking through a file's names ---------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
    return strcmp((*(const struct taca_stored *const *)a)->name,
                  (*(const struct taca_stored *const *)b)->name);
}

const struct taca_stored *io_names_find(const struct io_names *n, const char *name) {
    struct taca_stored key = {.name = name};
    const struct taca_stored *pkey = &key;
    const struct taca_stored **hit = bsearch(&pkey, n->t, n->n, sizeof *n->t, by_name);
    return hit ? *hit : NULL;
}

static bool has(const struct io_names *n, const char *prefix, const char *name) {
    char full[256];
    int len = snprintf(full, sizeof full, "%s%s", prefix, name);
    return len > 0 && (size_t)len < sizeof full && io_names_find(n, full) != NULL;
}

struct io_found io_layout_find(const struct io_names *n, enum taca_kind kind) {
    for (const char *const *prefix = io_prefixes(kind); *prefix; prefix++)
        for (size_t i = 0; i < io_n_layouts; i++) {
            const struct io_layout *l = &io_layouts[i];
            bool fits = l->kind == kind || (l->kind == TACA_CLIP_L && kind == TACA_CLIP_G);
            if (fits && has(n, *prefix, l->probe)) return (struct io_found){l, *prefix};
        }
    return (struct io_found){0};
}

static bool starts(const char *s, const char *head) { return strncmp(s, head, strlen(head)) == 0; }

bool io_under_prefix(const char *name, const char *prefix) {
    if (*prefix) return starts(name, prefix);
    for (int k = 0; k < TACA_KINDS; k++) /* without a prefix: not what is under another's */
        for (const char *const *p = io_prefixes((enum taca_kind)k); **p; p++)
            if (starts(name, *p)) return false;
    return true;
}

long io_layout_last(const struct io_names *n, struct io_found f) {
    long last = -1;
    const size_t len = strlen(f.prefix);
    struct match m;
    for (size_t i = 0; f.layout->counted && i < n->n; i++)
        if (starts(n->t[i]->name, f.prefix) && match(f.layout->counted, n->t[i]->name + len, &m) &&
            m.n && m.number[0] > last)
            last = m.number[0];
    return last;
}

/* Adapters name the two factors of a change beside the layer that they change. */
static bool is_adapter(const struct io_names *n) {
    static const char *const marks[] = {".lora_A.", ".lora_B.",  ".lora_down.", ".lora_up.",
                                        ".lokr_w",  ".hada_w",   ".lora.down.", ".lora.up.",
                                        "_lora.",   ".lora_mid."};
    for (size_t i = 0; i < n->n; i++)
        for (size_t k = 0; k < sizeof marks / sizeof *marks; k++)
            if (strstr(n->t[i]->name, marks[k])) return true;
    return false;
}

const char *io_names_look_like(const struct io_names *n) {
    if (is_adapter(n)) return "a LoRA adapter, which is no model; give it with --lora";
    for (int k = 0; k <= TACA_KINDS; k++) {
        struct io_found f = io_layout_find(n, (enum taca_kind)k);
        if (f.layout) return f.layout->what;
    }
    return NULL;
}
