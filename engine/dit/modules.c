/* modules.c - the linear modules and norms of a transformer by the names that checkpoints and
 * adapters give them, and where each one's rows are among the stacked matrices of struct dit. */
#include "engine/dit/modules.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "engine/dit/model.h"

/* Room that may be missing: the first pass only counts. */
struct list {
    struct dit_module *out;
    int n, cap;
    char prefix[48];
};

static void add(struct list *l, const char *name, struct taca_linear *w, int64_t first,
                int64_t out) {
    if (l->n < l->cap) {
        struct dit_module *m = &l->out[l->n];
        snprintf(m->name, sizeof m->name, "%s%s", l->prefix, name);
        m->w = w;
        m->gain = NULL;
        m->first = first;
        m->out = out;
    }
    l->n++;
}

static void whole(struct list *l, const char *name, struct taca_linear *w) {
    if (w) add(l, name, w, 0, w->out);
}

static void thirds(struct list *l, struct taca_linear *w, const char *const names[3]) {
    for (int i = 0; w && i < 3; i++) add(l, names[i], w, i * (w->out / 3), w->out / 3);
}

static void norm(struct list *l, const char *name, const struct taca_vec *gain) {
    if (!gain->n) return;
    add(l, name, NULL, 0, gain->n);
    if (l->n <= l->cap) l->out[l->n - 1].gain = gain;
}

static void add_block(struct list *l, const struct dit_block *w, int64_t width) {
    static const char *const img[] = {"attn.to_q", "attn.to_k", "attn.to_v"};
    static const char *const txt[] = {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"};
    static const char *const dual[] = {"attn2.to_q", "attn2.to_k", "attn2.to_v"};
    const int64_t mod = (w->dual.qkv ? 9 : 6) * width;
    norm(l, "attn.norm_q", &w->img.norm_q);
    norm(l, "attn.norm_k", &w->img.norm_k);
    norm(l, "attn.norm_added_q", &w->txt.norm_q);
    norm(l, "attn.norm_added_k", &w->txt.norm_k);
    norm(l, "attn2.norm_q", &w->dual.norm_q);
    norm(l, "attn2.norm_k", &w->dual.norm_k);
    add(l, "norm1.linear", w->mod.w, 0, mod);
    add(l, "norm1_context.linear", w->mod.w, mod, w->mod.w->out - mod);
    thirds(l, w->img.qkv, img);
    thirds(l, w->txt.qkv, txt);
    thirds(l, w->dual.qkv, dual);
    whole(l, "attn.to_out.0", w->img.out);
    whole(l, "attn.to_add_out", w->txt.out);
    whole(l, "attn2.to_out.0", w->dual.out);
    whole(l, "ff.net.0.proj", w->img_mlp.up);
    whole(l, "ff.net.2", w->img_mlp.down);
    whole(l, "ff_context.net.0.proj", w->txt_mlp.up);
    whole(l, "ff_context.net.2", w->txt_mlp.down);
}

static void add_single(struct list *l, const struct dit_single *w) {
    static const char *const qkv[] = {"attn.to_q", "attn.to_k", "attn.to_v"};
    norm(l, "attn.norm_q", &w->attn.norm_q);
    norm(l, "attn.norm_k", &w->attn.norm_k);
    whole(l, "norm.linear", w->mod.w);
    thirds(l, w->attn.qkv, qkv);
    whole(l, "proj_mlp", w->up);
    whole(l, "proj_out", w->down);
}

static void add_embedder(struct list *l, const char *name, const struct dit_embedder *e) {
    snprintf(l->prefix, sizeof l->prefix, "time_text_embed.%s.", name);
    whole(l, "linear_1", e->in);
    whole(l, "linear_2", e->out);
    l->prefix[0] = 0;
}

int dit_modules(const struct dit *d, struct dit_module *out, int cap) {
    struct list l = {.out = out, .cap = cap};
    whole(&l, d->info.kind == DIT_FLUX ? "x_embedder" : "pos_embed.proj", d->patch);
    whole(&l, "context_embedder", d->context);
    add_embedder(&l, "timestep_embedder", &d->time);
    add_embedder(&l, "guidance_embedder", &d->guidance);
    add_embedder(&l, "text_embedder", &d->pooled);
    for (int64_t i = 0; i < d->info.depth; i++) {
        snprintf(l.prefix, sizeof l.prefix, "transformer_blocks.%" PRId64 ".", i);
        add_block(&l, &d->blocks[i], d->info.width);
    }
    for (int64_t i = 0; i < d->info.singles; i++) {
        snprintf(l.prefix, sizeof l.prefix, "single_transformer_blocks.%" PRId64 ".", i);
        add_single(&l, &d->singles[i]);
    }
    l.prefix[0] = 0;
    whole(&l, "norm_out.linear", d->final_mod.w);
    whole(&l, "proj_out", d->proj);
    return l.n;
}
