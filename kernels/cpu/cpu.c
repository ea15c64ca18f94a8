/* cpu.c - the CPU backend: opening, memory, threads, and the table of its ops.
 *
 * Work is done when an op returns: there is no queue, so `wait` has nothing to do. */
#include "kernels/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "kernels/cpu/dnn.h"
#include "kernels/cpu/int8.h"

void *cpu_buf_get(struct cpu *c, struct cpu_buf *b, size_t bytes, const char *op) {
    if (b->p && b->size >= bytes) return b->p;
    void *p = taca_block_alloc(bytes ? bytes : 1);
    if (!p) {
        taca_backend_fail(&c->base, TACA_ENOMEM, "%s: %zu bytes of work memory", op, bytes);
        return NULL;
    }
    free(b->p); /* nothing in it outlives an op */
    b->p = p;
    b->size = bytes;
    return p;
}

/* ---- rows over threads ---------------------------------------------------------------------- */

/* Below this many element steps (a few us of one core) sharing costs more than it saves. */
enum { FORK_COST = 1 << 14, PIECES_PER_THREAD = 2 };

struct split {
    int64_t rows, pieces;
    void (*fn)(void *ctx, int64_t first, int64_t last);
    void *ctx;
};
static void run_piece(void *ctx, int64_t i, int worker) {
    (void)worker;
    const struct split *s = ctx;
    s->fn(s->ctx, s->rows * i / s->pieces, s->rows * (i + 1) / s->pieces);
}

void cpu_split(struct cpu *c, int64_t rows, int64_t cost,
               void (*fn)(void *ctx, int64_t first, int64_t last), void *ctx) {
    struct split s = {rows, (int64_t)c->threads * PIECES_PER_THREAD, fn, ctx};
    if (s.pieces > rows) s.pieces = rows;
    if (c->threads == 1 || (double)rows * (double)cost < FORK_COST || s.pieces <= 1)
        fn(ctx, 0, rows);
    else
        cpu_parallel(c->pool, s.pieces, run_piece, &s);
}

struct copy {
    const struct cpu_kernels *k;
    struct taca_mat y, x;
};
static void run_copy(void *ctx, int64_t first, int64_t last) {
    const struct copy *j = ctx;
    for (int64_t r = first; r < last; r++)
        j->k->convert(cpu_row(j->y, r), cpu_row(j->x, r), j->x.cols);
}
void cpu_copy_rows(struct cpu *c, struct taca_mat y, struct taca_mat x) {
    struct copy j = {c->k, y, x};
    cpu_split(c, x.rows, x.cols, run_copy, &j);
}

/* ---- memory --------------------------------------------------------------------------------- */

static void *cpu_alloc(struct taca_backend *b, size_t bytes) {
    (void)b;
    return taca_block_alloc(bytes);
}
static void cpu_free(struct taca_backend *b, void *p) {
    (void)b;
    free(p);
}
static void cpu_copy_in(struct taca_backend *b, void *dst, const void *host, size_t bytes) {
    (void)b;
    memcpy(dst, host, bytes);
}
static void cpu_copy_out(struct taca_backend *b, void *host, const void *src, size_t bytes) {
    (void)b;
    memcpy(host, src, bytes);
}
static void cpu_fill_zero(struct taca_backend *b, void *dst, size_t bytes) {
    (void)b;
    memset(dst, 0, bytes);
}
static void cpu_wait(struct taca_backend *b) { (void)b; }

/* ---- life ----------------------------------------------------------------------------------- */

static void cpu_close(struct taca_backend *b) {
    struct cpu *c = cpu_of(b);
    taca_backend_finish(b);
    while (c->weights) {
        struct cpu_weight *w = c->weights;
        c->weights = w->next;
        w->close(w);
    }
    cpu_pool_close(c->pool);
    cpu_dnn_close(c->dnn);
    cpu_code_forget(c);
    struct cpu_buf *bufs[] = {&c->in, &c->out, &c->tail_in, &c->tail_out, &c->pad, &c->own};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) free(bufs[i]->p);
    free(c);
}

static size_t cpu_foreseen(const struct taca_backend *b) {
    const struct cpu *c = (const struct cpu *)b;
    const struct cpu_buf *bufs[] = {&c->in, &c->out, &c->tail_in, &c->tail_out, &c->pad, &c->own};
    size_t bytes = cpu_code_foreseen(c);
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) bytes += bufs[i]->foreseen;
    return bytes;
}

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static bool has_bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

static const struct cpu_kernels *best_kernels(bool scalar) {
    if (scalar) return &cpu_kernels_scalar;
    if (has_avx512()) return &cpu_kernels_avx512;
    return has_avx2() ? &cpu_kernels_avx2 : &cpu_kernels_scalar;
}

static void describe(struct cpu *c) {
    snprintf(c->base.detail, sizeof c->base.detail, "%s%s%s, %d thread%s%s", c->k->name,
             c->base.precision == TACA_BF16 ? "-bf16" : "", c->base.narrow_type ? "-int8" : "",
             c->threads, c->threads == 1 ? "" : "s", c->deterministic ? ", deterministic" : "");
}

enum taca_code taca_cpu_open(struct taca_backend **out, const struct taca_backend_opts *opts,
                             struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    struct cpu *c = calloc(1, sizeof *c);
    if (!c) return taca_fail(err, TACA_ENOMEM, "cpu backend");
    c->base.ops = &cpu_ops;
    c->base.precision = opts->precision == TACA_BF16 && has_bf16() ? TACA_BF16 : TACA_F32;
    c->deterministic = opts->deterministic;
    if (opts->narrow == TACA_NARROW_INT8 && !opts->scalar && cpu_int8_supported())
        c->base.narrow_type = TACA_NARROW_INT8;
    c->k = best_kernels(opts->scalar);
    if (!opts->scalar) rc = cpu_dnn_open(&c->dnn, err);
    if (rc != TACA_OK) goto out;
    c->pool = cpu_pool_open(opts->threads > 0 ? opts->threads : cpu_threads_available(),
                            cpu_dnn_bind, c->dnn);
    if (!c->pool) {
        rc = taca_fail(err, TACA_ENOMEM, "threads of the cpu backend");
        goto out;
    }
    c->threads = cpu_pool_threads(c->pool);
    describe(c);
    *out = &c->base;
    c = NULL; /* the caller owns it now */
out:
    if (c) cpu_close(&c->base);
    return rc;
}

const struct taca_backend_ops cpu_ops = {
    .name = "cpu",
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_copy_in,
    .download = cpu_copy_out,
    .fill_zero = cpu_fill_zero,
    .wait = cpu_wait,
    .linear_open = cpu_linear_open,
    .linear_close = cpu_linear_close,
    .conv_open = cpu_conv_open,
    .linear = cpu_linear,
    .activate = cpu_activate,
    .layer_norm = cpu_layer_norm,
    .norm_modulate = cpu_norm_modulate,
    .gate_add = cpu_gate_add,
    .gate_norm = cpu_gate_norm,
    .add = cpu_add,
    .multiply = cpu_multiply,
    .rms_norm = cpu_rms_norm,
    .qk_norm_rope = cpu_qk_norm_rope,
    .attention = cpu_attention,
    .embed = cpu_embed,
    .time_features = cpu_time_features,
    .patchify = cpu_patchify,
    .unpatchify = cpu_unpatchify,
    .add_position = cpu_add_position,
    .cfg_euler = cpu_cfg_euler,
    .axpb = cpu_axpb,
    .axpby = cpu_axpby,
    .blend = cpu_blend,
    .chw_to_map = cpu_chw_to_map,
    .map_to_chw = cpu_map_to_chw,
    .conv2d = cpu_conv2d,
    .group_norm = cpu_group_norm,
    .upsample2 = cpu_upsample2,
    .map_to_rgb8 = cpu_map_to_rgb8,
    .weigh_linear = cpu_weigh_linear,
    .weigh_conv = cpu_weigh_conv,
    .foresee_linear = cpu_foresee_linear,
    .foresee_conv2d = cpu_foresee_conv2d,
    .foresee_attention = cpu_foresee_attention,
    .foreseen = cpu_foreseen,
};
