/* norm.c - layer norm, plain and modulated, and RMS norm: one row at a time. */
#include "kernels/cpu/cpu.h"

struct norm_job {
    const struct cpu_kernels *k;
    struct taca_mat y, x, gain, bias; /* gain and bias: one row, or a row per segment */
    const int32_t *seg_of_row;        /* NULL: row 0 for all */
    float plus, eps;
};

static void norm_rows(void *ctx, int64_t first, int64_t last) {
    const struct norm_job *j = ctx;
    for (int64_t r = first; r < last; r++) {
        int64_t s = j->seg_of_row ? j->seg_of_row[r] : 0;
        const float *gain = j->gain.data ? cpu_row(j->gain, s).p : NULL;
        const float *bias = j->bias.data ? cpu_row(j->bias, s).p : NULL;
        j->k->norm(cpu_row(j->y, r), cpu_row(j->x, r), j->x.cols, gain, bias, j->plus, j->eps);
    }
}

void cpu_layer_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x, const float *gain,
                    const float *bias, float eps) {
    struct cpu *c = cpu_of(b);
    struct norm_job j = {.k = c->k, .y = y, .x = x, .plus = gain ? 0.0f : 1.0f, .eps = eps};
    j.gain.data = (void *)gain;
    j.bias.data = (void *)bias;
    cpu_split(c, y.rows, y.cols * 3, norm_rows, &j);
}

void cpu_norm_modulate(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                       struct taca_mat shift, struct taca_mat scale, const int32_t *seg_of_row,
                       float eps) {
    struct cpu *c = cpu_of(b);
    struct norm_job j = {.k = c->k,
                         .y = y,
                         .x = x,
                         .gain = scale,
                         .bias = shift,
                         .seg_of_row = seg_of_row,
                         .plus = 1.0f,
                         .eps = eps};
    cpu_split(c, y.rows, y.cols * 3, norm_rows, &j);
}

struct gate_norm_job {
    const struct cpu_kernels *k;
    struct taca_mat h, x, y;
    const struct taca_gate_norm *m;
};

/* The sum is in the first cache when it is normed. */
static void gate_norm_rows(void *ctx, int64_t first, int64_t last) {
    const struct gate_norm_job *j = ctx;
    const struct taca_gate_norm *m = j->m;
    for (int64_t r = first; r < last; r++) {
        const int64_t s = m->seg_of_row[r];
        const struct cpu_run x = cpu_row(j->x, r);
        j->k->gate_add(x.p, cpu_row(j->y, r), cpu_row(m->gate, s).p, j->x.cols);
        j->k->norm(cpu_row(j->h, r), x, j->x.cols, cpu_row(m->scale, s).p, cpu_row(m->shift, s).p,
                   1.0f, m->eps);
    }
}

void cpu_gate_norm(struct taca_backend *b, struct taca_mat h, struct taca_mat x, struct taca_mat y,
                   const struct taca_gate_norm *m) {
    struct cpu *c = cpu_of(b);
    struct gate_norm_job j = {c->k, h, x, y, m};
    cpu_split(c, x.rows, x.cols * 4, gate_norm_rows, &j);
}

static void rms_rows(void *ctx, int64_t first, int64_t last) {
    const struct norm_job *j = ctx;
    for (int64_t r = first; r < last; r++)
        j->k->rms(cpu_row(j->y, r), cpu_row(j->x, r), j->x.cols, j->gain.data, j->eps);
}

void cpu_rms_norm(struct taca_backend *b, struct taca_mat y, struct taca_mat x, const float *gain,
                  float eps) {
    struct cpu *c = cpu_of(b);
    struct norm_job j = {.k = c->k, .y = y, .x = x, .eps = eps};
    j.gain.data = (void *)gain;
    cpu_split(c, x.rows, x.cols * 2, rms_rows, &j);
}
