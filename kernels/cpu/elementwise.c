/* elementwise.c - activations, sums and the sampler's update: memory goes by once. */
#include "kernels/cpu/cpu.h"

struct rows_job {
    const struct cpu_kernels *k;
    struct taca_mat y, a, c;
    const int32_t *seg_of_row;
    enum taca_act act;
};

static void activate_rows(void *ctx, int64_t first, int64_t last) {
    const struct rows_job *j = ctx;
    for (int64_t r = first; r < last; r++)
        j->k->activate(cpu_row(j->y, r), cpu_row(j->a, r), j->y.cols, j->act);
}

void cpu_activate(struct taca_backend *b, struct taca_mat y, struct taca_mat x, enum taca_act act) {
    struct cpu *c = cpu_of(b);
    struct rows_job j = {.k = c->k, .y = y, .a = x, .act = act};
    cpu_split(c, y.rows, y.cols * 4, activate_rows, &j);
}

static void gate_rows(void *ctx, int64_t first, int64_t last) {
    const struct rows_job *j = ctx;
    for (int64_t r = first; r < last; r++)
        j->k->gate_add(cpu_row(j->y, r).p, cpu_row(j->a, r), cpu_row(j->c, j->seg_of_row[r]).p,
                       j->y.cols);
}

void cpu_gate_add(struct taca_backend *b, struct taca_mat x, struct taca_mat y,
                  struct taca_mat gate, const int32_t *seg_of_row) {
    struct cpu *c = cpu_of(b);
    struct rows_job j = {.k = c->k, .y = x, .a = y, .c = gate, .seg_of_row = seg_of_row};
    cpu_split(c, x.rows, x.cols, gate_rows, &j);
}

static void add_rows(void *ctx, int64_t first, int64_t last) {
    const struct rows_job *j = ctx;
    for (int64_t r = first; r < last; r++)
        j->k->add(cpu_row(j->y, r), cpu_row(j->a, r), cpu_row(j->c, r), j->y.cols);
}

void cpu_add(struct taca_backend *b, struct taca_mat y, struct taca_mat a, struct taca_mat c) {
    struct rows_job j = {.k = cpu_of(b)->k, .y = y, .a = a, .c = c};
    cpu_split(cpu_of(b), y.rows, y.cols, add_rows, &j);
}

static void multiply_rows(void *ctx, int64_t first, int64_t last) {
    const struct rows_job *j = ctx;
    for (int64_t r = first; r < last; r++)
        j->k->multiply(cpu_row(j->y, r), cpu_row(j->a, r), cpu_row(j->c, r), j->y.cols);
}

void cpu_multiply(struct taca_backend *b, struct taca_mat y, struct taca_mat a, struct taca_mat c) {
    struct rows_job j = {.k = cpu_of(b)->k, .y = y, .a = a, .c = c};
    cpu_split(cpu_of(b), y.rows, y.cols, multiply_rows, &j);
}

void cpu_cfg_euler(struct taca_backend *b, struct taca_chw x, struct taca_chw c, struct taca_chw u,
                   float guidance, float dsigma) {
    cpu_of(b)->k->cfg_euler(x.data, c.data, u.data, guidance, dsigma, x.c * x.h * x.w);
}

void cpu_axpb(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float c) {
    cpu_of(b)->k->axpb(y.data, x.data, a, c, x.c * x.h * x.w);
}

/* Latents are small: these two are a thousandth of a step however they are written. */
void cpu_axpby(struct taca_backend *b, struct taca_chw y, struct taca_chw x, float a, float c) {
    (void)b;
    const float *from = x.data;
    float *to = y.data;
    const int64_t n = y.c * y.h * y.w;
    for (int64_t i = 0; i < n; i++) to[i] = a * from[i] + c * to[i];
}

void cpu_blend(struct taca_backend *b, struct taca_chw y, struct taca_chw x, struct taca_chw m) {
    (void)b;
    const float *from = x.data, *mask = m.data;
    float *to = y.data;
    const int64_t plane = y.h * y.w;
    for (int64_t i = 0; i < y.c * plane; i++) {
        const float k = mask[i % plane];
        to[i] = k * to[i] + (1 - k) * from[i];
    }
}
