/* heads.c - queries and keys before attention: norm and rotary place of each head. Memory bound: a
 * head is read and written once, and a row's table stays in the first cache for all its heads. */
#include "kernels/cpu/cpu.h"

struct heads_job {
    const struct cpu_kernels *k;
    struct taca_mat q, key;
    const struct taca_qk *w;
    int64_t d;
};

static void heads_of(const struct heads_job *j, struct taca_mat x, const struct taca_vec *gain,
                     int64_t r) {
    const float *table = j->w->table.cols ? cpu_row(j->w->table, r).p : NULL;
    for (int64_t h = 0; h < x.cols; h += j->d)
        j->k->head(cpu_row(taca_mat_cols(x, h, j->d), r), j->d, gain ? gain->data : NULL, j->w->eps,
                   table);
}

static void heads_rows(void *ctx, int64_t first, int64_t last) {
    const struct heads_job *j = ctx;
    for (int64_t r = first; r < last; r++) {
        heads_of(j, j->q, j->w->gain_q, r);
        heads_of(j, j->key, j->w->gain_k, r);
    }
}

void cpu_qk_norm_rope(struct taca_backend *b, struct taca_mat q, struct taca_mat k,
                      const struct taca_qk *w, int64_t d) {
    struct cpu *c = cpu_of(b);
    struct heads_job j = {c->k, q, k, w, d};
    cpu_split(c, q.rows, q.cols * 4, heads_rows, &j);
}
