/* rope.c - rotary places: pairs of neighbouring columns turned by their row's angles, row by row,
 * head by head. Memory bound: a row's table stays in the first cache for all its heads. */
#include "kernels/cpu/cpu.h"

struct rope_job {
    const struct cpu_kernels *k;
    struct taca_mat x, table;
};

static void rope_rows(void *ctx, int64_t first, int64_t last) {
    const struct rope_job *j = ctx;
    const int64_t d = j->table.cols;
    for (int64_t r = first; r < last; r++) {
        const float *table = cpu_row(j->table, r).p;
        for (int64_t h = 0; h < j->x.cols; h += d)
            j->k->rope(cpu_row(taca_mat_cols(j->x, h, d), r), d, table);
    }
}

void cpu_rope(struct taca_backend *b, struct taca_mat x, struct taca_mat table) {
    struct cpu *c = cpu_of(b);
    struct rope_job j = {c->k, x, table};
    cpu_split(c, x.rows, x.cols, rope_rows, &j);
}
