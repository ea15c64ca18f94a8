/* map.c - feature maps: group norm, upsampling, and the ways in and out of the VAE. */
#include <math.h>

#include "kernels/cpu/cpu.h"

void cpu_chw_to_map(struct taca_backend *b, struct taca_map y, struct taca_chw x) {
    (void)b;
    const int64_t n = x.h * x.w;
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < x.c; c++) cpu_put(y.data, y.dtype, i * x.c + c, x.data[c * n + i]);
}

void cpu_map_to_chw(struct taca_backend *b, struct taca_chw y, struct taca_map x) {
    (void)b;
    const int64_t n = x.h * x.w;
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < x.c; c++) y.data[c * n + i] = cpu_get(x.data, x.dtype, i * x.c + c);
}

/* Pixels are summed in blocks of this many, blocks in double: float sums stay short whatever the
 * size of the image, and the split does not depend on the number of threads. */
enum { NORM_BLOCK = 256 };

struct gn_job {
    struct cpu *c;
    struct taca_map y, x;
    const float *gain, *bias;
    int groups;
    float eps;
    bool silu;
    float *part;         /* [blocks, c] sums of one pass */
    float *mean;         /* [c], the group's mean at every channel */
    float *mul, *add;    /* [c] */
    struct cpu_run from; /* pixels of the image at work */
    struct cpu_run to;
};

static struct cpu_run pixels(struct taca_map m, int64_t image, int64_t pixel) {
    size_t at = (size_t)((image * m.h * m.w + pixel) * m.c);
    return (struct cpu_run){(char *)m.data + at * taca_dtype_bytes(m.dtype), m.dtype};
}

static struct cpu_run skip(struct cpu_run r, int64_t n) {
    r.p = (char *)r.p + (size_t)n * taca_dtype_bytes(r.dtype);
    return r;
}

static int64_t block_pixels(const struct gn_job *j, int64_t block) {
    int64_t left = j->x.h * j->x.w - block * NORM_BLOCK;
    return left < NORM_BLOCK ? left : NORM_BLOCK;
}

static void sum_blocks(void *ctx, int64_t first, int64_t last) {
    const struct gn_job *j = ctx;
    const int64_t c = j->x.c;
    for (int64_t k = first; k < last; k++) {
        float *part = j->part + k * c;
        memset(part, 0, (size_t)c * sizeof *part);
        j->c->k->channel_sums(part, skip(j->from, k * NORM_BLOCK * c), block_pixels(j, k), c);
    }
}

static void square_blocks(void *ctx, int64_t first, int64_t last) {
    const struct gn_job *j = ctx;
    const int64_t c = j->x.c;
    for (int64_t k = first; k < last; k++) {
        float *part = j->part + k * c;
        memset(part, 0, (size_t)c * sizeof *part);
        j->c->k->channel_squares(part, skip(j->from, k * NORM_BLOCK * c), j->mean,
                                 block_pixels(j, k), c);
    }
}

static void affine_blocks(void *ctx, int64_t first, int64_t last) {
    const struct gn_job *j = ctx;
    const int64_t c = j->x.c;
    for (int64_t k = first; k < last; k++)
        j->c->k->channel_affine(skip(j->to, k * NORM_BLOCK * c), skip(j->from, k * NORM_BLOCK * c),
                                j->mul, j->add, block_pixels(j, k), c, j->silu);
}

/* The mean of part over blocks, pixels and the channels of group g. */
static double group_mean(const struct gn_job *j, int64_t blocks, int g) {
    const int64_t c = j->x.c, width = c / j->groups;
    double sum = 0;
    for (int64_t k = 0; k < blocks; k++)
        for (int64_t i = g * width; i < (g + 1) * width; i++) sum += (double)j->part[k * c + i];
    return sum / ((double)width * (double)(j->x.h * j->x.w));
}

static void group_norm_image(struct gn_job *j, int64_t image) {
    const int64_t c = j->x.c, width = c / j->groups, n = j->x.h * j->x.w;
    const int64_t blocks = (n + NORM_BLOCK - 1) / NORM_BLOCK;
    j->from = pixels(j->x, image, 0);
    j->to = pixels(j->y, image, 0);
    cpu_split(j->c, blocks, c * NORM_BLOCK, sum_blocks, j);
    for (int64_t i = 0; i < c; i++)
        if (i % width == 0) {
            float mean = (float)group_mean(j, blocks, (int)(i / width));
            for (int64_t k = i; k < i + width; k++) j->mean[k] = mean;
        }
    cpu_split(j->c, blocks, c * NORM_BLOCK, square_blocks, j);
    for (int g = 0; g < j->groups; g++) {
        float rstd = (float)(1.0 / sqrt(group_mean(j, blocks, g) + (double)j->eps));
        for (int64_t i = g * width; i < (g + 1) * width; i++) {
            j->mul[i] = rstd * (j->gain ? j->gain[i] : 1.0f);
            j->add[i] = (j->bias ? j->bias[i] : 0.0f) - j->mean[i] * j->mul[i];
        }
    }
    cpu_split(j->c, blocks, c * NORM_BLOCK * 2, affine_blocks, j);
}

void cpu_group_norm(struct taca_backend *b, struct taca_map y, struct taca_map x, const float *gain,
                    const float *bias, int groups, float eps, enum taca_act act) {
    struct cpu *c = cpu_of(b);
    const int64_t blocks = (x.h * x.w + NORM_BLOCK - 1) / NORM_BLOCK;
    float *buf =
        cpu_buf_get(c, &c->own, (size_t)((blocks + 3) * x.c) * sizeof(float), "group_norm");
    if (!buf) return;
    struct gn_job j = {.c = c,
                       .y = y,
                       .x = x,
                       .gain = gain,
                       .bias = bias,
                       .groups = groups,
                       .eps = eps,
                       .silu = act == TACA_ACT_SILU};
    j.mean = buf;
    j.mul = buf + x.c;
    j.add = buf + 2 * x.c;
    j.part = buf + 3 * x.c;
    for (int64_t i = 0; i < x.n; i++) group_norm_image(&j, i);
}

struct up_job {
    const struct cpu_kernels *k;
    struct taca_map y, x;
};

/* Rows of the output, over all images. */
static void upsample_rows(void *ctx, int64_t first, int64_t last) {
    const struct up_job *j = ctx;
    for (int64_t r = first; r < last; r++) {
        int64_t image = r / j->y.h, i = r % j->y.h;
        for (int64_t w = 0; w < j->x.w; w++) {
            struct cpu_run from = pixels(j->x, image, i / 2 * j->x.w + w);
            struct cpu_run to = pixels(j->y, image, i * j->y.w + 2 * w);
            j->k->convert(to, from, j->x.c);
            j->k->convert(skip(to, j->x.c), from, j->x.c);
        }
    }
}

void cpu_upsample2(struct taca_backend *b, struct taca_map y, struct taca_map x) {
    struct up_job j = {cpu_of(b)->k, y, x};
    cpu_split(cpu_of(b), y.n * y.h, y.w * y.c, upsample_rows, &j);
}

void cpu_map_to_rgb8(struct taca_backend *b, uint8_t *pixels, struct taca_map x) {
    (void)b;
    int32_t wrong = 0;
    const int64_t n = x.h * x.w * 3;
    for (int64_t i = 0; i < n; i++) {
        float v = cpu_get(x.data, x.dtype, i);
        bool ok = isfinite(v);
        v = ok ? fminf(fmaxf(v * 0.5f + 0.5f, 0.0f), 1.0f) : 0.0f;
        pixels[i] = (uint8_t)lrintf(255.0f * v); /* the default rounding: half to even */
        wrong |= !ok;
    }
    memcpy(pixels + taca_rgb8_flag(x.h, x.w), &wrong, sizeof wrong);
}
