/* bench_ops.c - times the ops in the order an MM-DiT block uses them, with random normal weights.
 *
 *     bench_ops [layers d heads image_tokens text_tokens segments steps threads]
 *
 * Prints, for f32 and bf16 and for both deterministic settings, milliseconds per forward (the first
 * decile, wall clock and CPU) and GFLOP/s by the counting backend's own count. Not a test: figures
 * depend on the machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"

struct shape {
    int layers, d, heads, img, txt, segs, steps, threads;
};

/* One stream of one layer. */
struct stream {
    struct taca_linear *mod, *qkv, *out, *up, *down;
    struct taca_vec qnorm, knorm;
};
struct model {
    struct stream layer[64][2];
};

static unsigned long long rng = 88172645463325252ull;
static float uniform(void) {
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return (float)(rng >> 40) * 0x1p-24f;
}
static float normal(void) { /* twelve uniforms: near enough for timing */
    float s = -6;
    for (int i = 0; i < 12; i++) s += uniform();
    return s;
}

static void check(enum taca_code rc, const struct taca_err *err) {
    if (rc == TACA_OK) return;
    fprintf(stderr, "%s\n", err->text);
    exit(1);
}

static struct taca_linear *linear(struct taca_backend *b, int64_t out, int64_t in) {
    struct taca_err err = {0};
    struct taca_linear *l = NULL;
    float *w = malloc((size_t)(out * in) * sizeof *w), *bias = malloc((size_t)out * sizeof *bias);
    for (int64_t i = 0; i < out * in; i++) w[i] = 0.05f * normal();
    for (int64_t i = 0; i < out; i++) bias[i] = 0.05f * normal();
    struct taca_tensor tw = {"w", w, TACA_F32, 2, {out, in}}, tb = {"b", bias, TACA_F32, 1, {out}};
    check(taca_linear_open(b, &l, &tw, &tb, 1, &err), &err);
    free(w), free(bias);
    return l;
}

static void load(struct taca_backend *b, struct model *m, const struct shape *s) {
    struct taca_err err = {0};
    float gain[512];
    for (int i = 0; i < 512; i++) gain[i] = 1 + 0.1f * normal();
    struct taca_tensor g = {"gain", gain, TACA_F32, 1, {s->d / s->heads}};
    for (int i = 0; i < s->layers; i++)
        for (int k = 0; k < 2; k++) {
            struct stream *t = &m->layer[i][k];
            t->mod = linear(b, 6 * s->d, s->d);
            t->qkv = linear(b, 3 * s->d, s->d);
            t->out = linear(b, s->d, s->d);
            t->up = linear(b, 4 * s->d, s->d);
            t->down = linear(b, s->d, 4 * s->d);
            check(taca_vec_open(b, &t->qnorm, &g, &err), &err);
            check(taca_vec_open(b, &t->knorm, &g, &err), &err);
        }
}

struct run {
    const struct shape *s;
    struct taca_backend *b;
    struct taca_layout l;
    struct taca_scratch scratch;
    struct taca_mat x[2], c;
};

static struct taca_mat mlp(struct run *r, const struct stream *t, int k, struct taca_mat mod) {
    const int64_t d = r->s->d, rows = r->x[k].rows;
    const enum taca_dtype p = taca_backend_precision(r->b);
    struct taca_mat h = taca_scratch_mat(&r->scratch, p, rows, d);
    struct taca_mat up = taca_scratch_mat(&r->scratch, p, rows, 4 * d);
    struct taca_mat y = taca_scratch_mat(&r->scratch, TACA_F32, rows, d);
    taca_norm_modulate(r->b, h, r->x[k], mod, 3 * d, 4 * d, &r->l, (enum taca_stream)k, 1e-6f);
    taca_linear(r->b, up, h, t->up, TACA_ACT_GELU_TANH);
    taca_linear(r->b, y, up, t->down, TACA_ACT_NONE);
    return y;
}

static void block(struct run *r, const struct stream layer[2]) {
    const int64_t d = r->s->d;
    const enum taca_dtype p = taca_backend_precision(r->b);
    const size_t mark = r->scratch.used;
    struct taca_mat mod[2], o[2];
    struct taca_qkv qkv[2];
    for (int k = 0; k < 2; k++) {
        const int64_t rows = r->x[k].rows;
        mod[k] = taca_scratch_mat(&r->scratch, TACA_F32, r->s->segs, 6 * d);
        struct taca_mat h = taca_scratch_mat(&r->scratch, p, rows, d);
        struct taca_mat all = taca_scratch_mat(&r->scratch, TACA_F32, rows, 3 * d);
        o[k] = taca_scratch_mat(&r->scratch, p, rows, d);
        taca_linear(r->b, mod[k], r->c, layer[k].mod, TACA_ACT_NONE);
        taca_norm_modulate(r->b, h, r->x[k], mod[k], 0, d, &r->l, (enum taca_stream)k, 1e-6f);
        taca_linear(r->b, all, h, layer[k].qkv, TACA_ACT_NONE);
        qkv[k] = (struct taca_qkv){taca_mat_cols(all, 0, d), taca_mat_cols(all, d, d),
                                   taca_mat_cols(all, 2 * d, d)};
        const struct taca_qk qk = {
            .gain_q = &layer[k].qnorm, .gain_k = &layer[k].knorm, .eps = 1e-6f};
        taca_qk_norm_rope(r->b, qkv[k].q, qkv[k].k, &qk);
    }
    const struct taca_attn a = {.heads = r->s->heads, .scale = 0.125f};
    taca_attention(r->b, o[0], o[1], qkv[0], qkv[1], &r->l, &a);
    for (int k = 0; k < 2; k++) {
        struct taca_mat y = taca_scratch_mat(&r->scratch, TACA_F32, r->x[k].rows, d);
        taca_linear(r->b, y, o[k], layer[k].out, TACA_ACT_NONE);
        taca_gate_add(r->b, r->x[k], y, mod[k], 2 * d, &r->l, (enum taca_stream)k);
        y = mlp(r, &layer[k], k, mod[k]);
        taca_gate_add(r->b, r->x[k], y, mod[k], 5 * d, &r->l, (enum taca_stream)k);
    }
    r->scratch.used = mark;
}

static double now_ms(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The fast end of a sample: a tenth of it is below. Other work on the machine only adds. */
struct times {
    double wall_ms, cpu_ms;
};

/* Fills x with normal values and runs `steps` forwards. */
static struct times time_forward(struct run *r, const struct model *m) {
    struct taca_err err = {0};
    double wall[256], cpu[256];
    const int n = r->s->steps < 256 ? r->s->steps : 256;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < 2; k++)
            for (int64_t j = 0; j < r->x[k].rows * r->x[k].cols; j++)
                ((float *)r->x[k].data)[j] = normal(); /* CPU memory */
        const double w = now_ms(CLOCK_MONOTONIC), c = now_ms(CLOCK_PROCESS_CPUTIME_ID);
        for (int l = 0; l < r->s->layers; l++) block(r, m->layer[l]);
        check(taca_sync(r->b, &err), &err);
        wall[i] = now_ms(CLOCK_MONOTONIC) - w;
        cpu[i] = now_ms(CLOCK_PROCESS_CPUTIME_ID) - c;
    }
    qsort(wall, (size_t)n, sizeof *wall, by_value);
    qsort(cpu, (size_t)n, sizeof *cpu, by_value);
    return (struct times){wall[n / 10], cpu[n / 10]};
}

static void set_up(struct run *r, struct model *m, size_t scratch_bytes) {
    struct taca_err err = {0};
    const struct shape *s = r->s;
    struct taca_seg segs[64];
    for (int i = 0; i < s->segs; i++)
        segs[i] = (struct taca_seg){(int64_t)i * s->img, s->img, (int64_t)i * s->txt, s->txt, 1.2f};
    check(taca_layout_init(&r->l, r->b, segs, s->segs, &err), &err);
    r->scratch = (struct taca_scratch){.b = r->b};
    check(taca_scratch_reserve(&r->scratch, scratch_bytes, &err), &err);
    r->x[0] = taca_scratch_mat(&r->scratch, TACA_F32, r->l.img_rows, s->d);
    r->x[1] = taca_scratch_mat(&r->scratch, TACA_F32, r->l.txt_rows, s->d);
    r->c = taca_scratch_mat(&r->scratch, TACA_F32, s->segs, s->d);
    taca_fill_zero(r->b, r->c.data, (size_t)(s->segs * s->d) * sizeof(float));
    load(r->b, m, s);
}

static void tear_down(struct run *r) {
    taca_layout_finish(&r->l);
    taca_scratch_finish(&r->scratch);
    taca_backend_close(r->b);
}

static struct taca_counts count(const struct shape *s, enum taca_dtype p) {
    static struct model m;
    struct taca_err err = {0};
    struct run r = {.s = s};
    check(taca_count_open(&r.b, p, &err), &err);
    set_up(&r, &m, 0);
    for (int l = 0; l < s->layers; l++) block(&r, m.layer[l]);
    struct taca_counts c = taca_count_read(r.b);
    tear_down(&r);
    return c;
}

int main(int argc, char **argv) {
    static struct model m;
    struct shape s = {8, 192, 3, 64, 32, 2, 28, 0};
    int *field[] = {&s.layers, &s.d, &s.heads, &s.img, &s.txt, &s.segs, &s.steps, &s.threads};
    for (int i = 1; i < argc && i <= 8; i++) *field[i - 1] = (int)strtol(argv[i], NULL, 10);
    if (s.layers > 64 || s.segs > 64 || s.heads < 1 || s.d / s.heads > 512) return 1;
    for (int i = 0; i < 4; i++) {
        struct taca_err err = {0};
        struct run r = {.s = &s};
        const struct taca_backend_opts o = {.threads = s.threads,
                                            .precision = i & 1 ? TACA_BF16 : TACA_F32,
                                            .deterministic = i > 1};
        check(taca_cpu_open(&r.b, &o, &err), &err);
        const struct taca_counts c = count(&s, taca_backend_precision(r.b));
        set_up(&r, &m, c.scratch_bytes);
        time_forward(&r, &m); /* primitives are made, caches warm */
        const struct times t = time_forward(&r, &m);
        printf("%-38s %8.3f ms wall %8.3f ms cpu %7.1f GFLOP/s  (%.3f GFLOP, weights %.1f MB)\n",
               taca_backend_detail(r.b), t.wall_ms, t.cpu_ms, c.flops / t.wall_ms * 1e-6,
               c.flops * 1e-9, c.weight_bytes * 1e-6);
        tear_down(&r);
    }
    return 0;
}
