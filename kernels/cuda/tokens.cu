/* tokens.cu - what enters and leaves the transformer: table rows, time features, patches. */
#include <cmath>
#include <cstdlib>

#include "kernels/cuda/cuda.cuh"

enum { THREADS = 256 };

template <class Y, class X>
static __global__ void embed_kernel(struct taca_mat y, struct taca_mat table, const int32_t *ids) {
    const int64_t k = my_value(), r = k / y.cols, i = k % y.cols;
    if (r < y.rows) *at<Y>(y, r, i) = from_float<Y>(to_float(*at<X>(table, ids[r], i)));
}

void cuda_embed(struct taca_backend *b, struct taca_mat y, struct taca_mat table,
                const int32_t *host_ids) {
    struct cuda *c = cuda_of(b);
    const size_t bytes = (size_t)y.rows * sizeof *host_ids;
    int32_t *ids = (int32_t *)cuda_buf_get(c, &c->in, bytes, "embed");
    if (!ids) return;
    cuda_stage_upload(c, ids, host_ids, bytes);
    by_dtypes(y.dtype, table.dtype, [&](auto *p, auto *q) {
        launch(embed_kernel<element<decltype(p)>, element<decltype(q)>>,
               blocks_for(y.rows * y.cols, THREADS), THREADS, 0, c->stream, y, table, ids);
    });
    (void)cuda_launched(c, "embed");
}

/* A few rows at admission, each step rounded to float as the reference data want it: the host's
 * arithmetic does that without a doubt. */
void cuda_time_features(struct taca_backend *b, struct taca_mat y, const float *host_t) {
    struct cuda *c = cuda_of(b);
    const int64_t half = y.cols / 2;
    const float log_period = -9.210340371976184f; /* float(-ln 10000) */
    float *row = (float *)malloc((size_t)y.cols * sizeof *row);
    if (!row) {
        c->host->backend_fail(b, TACA_ENOMEM, "time_features: %lld columns", (long long)y.cols);
        return;
    }
    for (int64_t r = 0; r < y.rows; r++) {
        for (int64_t k = 0; k < half; k++) {
            const float exponent = log_period * (float)k / (float)half;
            const float angle = host_t[r] * expf(exponent);
            row[k] = cosf(angle);
            row[half + k] = sinf(angle);
        }
        cuda_stage_upload(c, (float *)y.data + r * y.ld, row, (size_t)(2 * half) * sizeof *row);
    }
    free(row);
}

/* Where value k = (ch, i, j) of a latent stands among the tokens. */
struct place {
    int64_t row, col;
};
static __device__ place place_of(struct taca_chw x, int64_t k, int p, enum taca_patch order) {
    const int64_t ch = k / (x.h * x.w), i = k / x.w % x.h, j = k % x.w;
    const int64_t dy = i % p, dx = j % p;
    return {i / p * (x.w / p) + j / p,
            order == TACA_PATCH_CHANNEL_MAJOR ? (ch * p + dy) * p + dx : (dy * p + dx) * x.c + ch};
}

template <class Y>
static __global__ void patchify_kernel(struct taca_mat y, struct taca_chw x, int p,
                                       enum taca_patch order) {
    const int64_t k = my_value();
    if (k >= x.c * x.h * x.w) return;
    const place to = place_of(x, k, p, order);
    *at<Y>(y, to.row, to.col) = from_float<Y>(x.data[k]);
}

template <class X>
static __global__ void unpatchify_kernel(struct taca_chw y, struct taca_mat x, int p,
                                         enum taca_patch order) {
    const int64_t k = my_value();
    if (k >= y.c * y.h * y.w) return;
    const place from = place_of(y, k, p, order);
    y.data[k] = to_float(*at<X>(x, from.row, from.col));
}

void cuda_patchify(struct taca_backend *b, struct taca_mat y, struct taca_chw x, int p,
                   enum taca_patch order) {
    struct cuda *c = cuda_of(b);
    by_dtype(y.dtype, [&](auto *q) {
        launch(patchify_kernel<element<decltype(q)>>, blocks_for(x.c * x.h * x.w, THREADS), THREADS,
               0, c->stream, y, x, p, order);
    });
    (void)cuda_launched(c, "patchify");
}

void cuda_unpatchify(struct taca_backend *b, struct taca_chw y, struct taca_mat x, int p,
                     enum taca_patch order) {
    struct cuda *c = cuda_of(b);
    by_dtype(x.dtype, [&](auto *q) {
        launch(unpatchify_kernel<element<decltype(q)>>, blocks_for(y.c * y.h * y.w, THREADS),
               THREADS, 0, c->stream, y, x, p, order);
    });
    (void)cuda_launched(c, "unpatchify");
}

/* first: the window's first row of the table; side: the table's rows a line */
template <class X, class T>
static __global__ void add_position_kernel(struct taca_mat x, struct taca_mat table, int64_t first,
                                           int64_t side, int64_t w) {
    const int64_t k = my_value(), r = k / x.cols, i = k % x.cols;
    if (r >= x.rows) return;
    X *value = at<X>(x, r, i);
    const T *place = at<T>(table, first + r / w * side + r % w, i);
    *value = from_float<X>(to_float(*value) + to_float(*place));
}

void cuda_add_position(struct taca_backend *b, struct taca_mat x, struct taca_mat table,
                       int64_t side, int64_t h, int64_t w) {
    struct cuda *c = cuda_of(b);
    const int64_t first = (side - h) / 2 * side + (side - w) / 2;
    by_dtypes(x.dtype, table.dtype, [&](auto *p, auto *q) {
        launch(add_position_kernel<element<decltype(p)>, element<decltype(q)>>,
               blocks_for(x.rows * x.cols, THREADS), THREADS, 0, c->stream, x, table, first, side,
               w);
    });
    (void)cuda_launched(c, "add_position");
}
