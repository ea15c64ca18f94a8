/* load.c - see load.h. What a checkpoint converted for a matrix goes as soon as that is prepared.
 */
#include "engine/dit/load.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

void dit_load_prefix(struct dit_loader *l, const char *kind, int64_t i) {
    l->prefix[0] = '\0';
    /* in 8 bits, if at all, only what every token meets in every block */
    taca_backend_narrow(l->b, kind != NULL);
    if (kind) snprintf(l->prefix, sizeof l->prefix, "%s.%" PRId64 ".", kind, i);
}

void dit_load_tensor(struct dit_loader *l, struct taca_tensor *t, int rank, const int64_t *dim,
                     const char *fmt, ...) {
    char name[160];
    va_list ap;
    int n = snprintf(name, sizeof name, "%s", l->prefix);
    va_start(ap, fmt);
    vsnprintf(name + n, sizeof name - (size_t)n, fmt, ap);
    va_end(ap);
    if (!l->rc) l->rc = taca_ckpt_get(l->ckpt, t, name, rank, dim, l->err);
}

struct taca_linear *dit_load_stacked(struct dit_loader *l, const char *const *names, int n,
                                     const int64_t *out, int64_t in) {
    struct taca_tensor weight[DIT_MAX_PARTS], bias[DIT_MAX_PARTS];
    struct taca_linear *w = NULL;
    for (int i = 0; i < n; i++) {
        dit_load_tensor(l, &weight[i], 2, (int64_t[]){out[i], in}, "%s.weight", names[i]);
        dit_load_tensor(l, &bias[i], 1, (int64_t[]){out[i]}, "%s.bias", names[i]);
    }
    if (!l->rc) l->rc = taca_linear_open(l->b, &w, weight, bias, n, l->err);
    taca_ckpt_drop(l->ckpt);
    return w;
}

struct taca_linear *dit_load_linear(struct dit_loader *l, const char *name, int64_t out,
                                    int64_t in) {
    return dit_load_stacked(l, &name, 1, &out, in);
}

struct taca_linear *dit_load_mod(struct dit_loader *l, const char *const *names, int n,
                                 const int64_t *out) {
    taca_backend_narrow(l->b, false);
    return dit_load_stacked(l, names, n, out, l->width);
}

struct taca_linear *dit_load_qkv(struct dit_loader *l, const char *const names[3]) {
    const int64_t out[3] = {l->width, l->width, l->width};
    return dit_load_stacked(l, names, 3, out, l->width);
}

struct taca_vec dit_load_gain(struct dit_loader *l, const char *name) {
    struct taca_vec v = {0};
    struct taca_tensor t;
    dit_load_tensor(l, &t, 1, (int64_t[]){l->head_dim}, "%s.weight", name);
    if (!l->rc) l->rc = taca_vec_open(l->b, &v, &t, l->err);
    return v;
}

void dit_load_mlp(struct dit_loader *l, struct dit_mlp *w, const char *up, const char *down) {
    w->up = dit_load_linear(l, up, 4 * l->width, l->width);
    w->down = dit_load_linear(l, down, l->width, 4 * l->width);
}

void dit_load_refuse(struct dit_loader *l, const char *name, const char *why, ...) {
    char text[128];
    va_list ap;
    if (l->rc || !taca_ckpt_has(l->ckpt, "%s%s", l->prefix, name)) return;
    va_start(ap, why);
    vsnprintf(text, sizeof text, why, ap);
    va_end(ap);
    l->rc = taca_fail(l->err, TACA_EFORMAT, "tensor %s%s is there, but %s", l->prefix, name, text);
}

void dit_load_embedder(struct dit_loader *l, struct dit_embedder *e, const char *name, int64_t in) {
    char part[96];
    snprintf(part, sizeof part, "%s.linear_1", name);
    e->in = dit_load_linear(l, part, l->width, in);
    snprintf(part, sizeof part, "%s.linear_2", name);
    e->out = dit_load_linear(l, part, l->width, l->width);
}

void dit_load_final(struct dit_loader *l, struct dit *d, int64_t at) {
    const int64_t width = l->width;
    d->final_mod.at = at;
    d->final_scale = at; /* here scale comes first */
    d->final_shift = at + width;
    d->final_mod.w = dit_load_linear(l, "norm_out.linear", 2 * width, width);
    d->info.mod_width = at + 2 * width;
}

void dit_load_end(struct dit_loader *l, const char *kind, const char *field, int64_t n) {
    dit_load_prefix(l, kind, n);
    dit_load_refuse(l, "attn.to_q.weight", "%s is %" PRId64, field, n);
    dit_load_prefix(l, NULL, 0);
}
