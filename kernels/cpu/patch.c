/* patch.c - what enters and leaves the transformer: table rows, time features, patches. */
#include <math.h>

#include "kernels/cpu/cpu.h"

void cpu_embed(struct taca_backend *b, struct taca_mat y, struct taca_mat table,
               const int32_t *ids) {
    for (int64_t r = 0; r < y.rows; r++)
        cpu_of(b)->k->convert(cpu_row(y, r), cpu_row(table, ids[r]), y.cols);
}

void cpu_time_features(struct taca_backend *b, struct taca_mat y, const float *t) {
    (void)b;
    const int64_t half = y.cols / 2;
    const float log_period = -9.210340371976184f; /* float(-ln 10000) */
    for (int64_t r = 0; r < y.rows; r++) {
        float *row = cpu_row(y, r).p;
        for (int64_t k = 0; k < half; k++) {
            /* each step rounded to float: the reference data depend on it */
            const float exponent = log_period * (float)k / (float)half;
            const float angle = t[r] * expf(exponent);
            row[k] = cosf(angle);
            row[half + k] = sinf(angle);
        }
    }
}

/* Where value (ch, dy, dx) of a patch stands in its token. */
static int64_t patch_col(int64_t ch, int64_t dy, int64_t dx, int64_t c, int p,
                         enum taca_patch order) {
    return order == TACA_PATCH_CHANNEL_MAJOR ? (ch * p + dy) * p + dx : (dy * p + dx) * c + ch;
}

void cpu_patchify(struct taca_backend *b, struct taca_mat y, struct taca_chw x, int p,
                  enum taca_patch order) {
    (void)b;
    const int64_t across = x.w / p;
    for (int64_t ch = 0; ch < x.c; ch++)
        for (int64_t i = 0; i < x.h; i++)
            for (int64_t j = 0; j < x.w; j++) {
                struct cpu_run row = cpu_row(y, i / p * across + j / p);
                cpu_put(row.p, row.dtype, patch_col(ch, i % p, j % p, x.c, p, order),
                        x.data[(ch * x.h + i) * x.w + j]);
            }
}

void cpu_unpatchify(struct taca_backend *b, struct taca_chw y, struct taca_mat x, int p,
                    enum taca_patch order) {
    (void)b;
    const int64_t across = y.w / p;
    for (int64_t ch = 0; ch < y.c; ch++)
        for (int64_t i = 0; i < y.h; i++)
            for (int64_t j = 0; j < y.w; j++) {
                struct cpu_run row = cpu_row(x, i / p * across + j / p);
                y.data[(ch * y.h + i) * y.w + j] =
                    cpu_get(row.p, row.dtype, patch_col(ch, i % p, j % p, y.c, p, order));
            }
}

void cpu_add_position(struct taca_backend *b, struct taca_mat x, struct taca_mat table,
                      int64_t side, int64_t h, int64_t w) {
    const int64_t top = (side - h) / 2, left = (side - w) / 2;
    for (int64_t r = 0; r < h; r++)
        for (int64_t c = 0; c < w; c++) {
            struct cpu_run row = cpu_row(x, r * w + c);
            cpu_of(b)->k->add(row, row, cpu_row(table, (top + r) * side + left + c), x.cols);
        }
}
