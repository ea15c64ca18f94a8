/* conv.cu - convolution over channels-last maps.
 *
 * Weights are kept as [c_out, kh, kw, c_in] in the backend's precision: for one output the taps of
 * a pixel lie as its input channels do. */
#include <cstddef>
#include <cstdlib>

#include "kernels/cuda/cuda.cuh"

enum { THREADS = 128 };

struct cuda_conv {
    struct taca_conv base; /* first: handles cast */
    cuda_weight link;
    void *weight; /* [c_out, kh, kw, c_in] */
    float *bias;
};

static void conv_close(struct cuda *c, cuda_weight *link) {
    struct cuda_conv *w = (struct cuda_conv *)((char *)link - offsetof(struct cuda_conv, link));
    (void)c;
    (void)cudaFree(w->weight);
    (void)cudaFree(w->bias);
    free(w);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* The file's [c_out, c_in, taps] as [c_out, taps, c_in] f32 on the host; NULL without memory. */
static float *channels_last(const struct cuda *c, const struct taca_tensor *t) {
    const int64_t n = taca_tensor_count(t), c_in = t->dim[1], taps = t->dim[2] * t->dim[3];
    float *in = (float *)malloc((size_t)n * sizeof *in);
    float *out = (float *)malloc((size_t)n * sizeof *out);
    if (in && out) {
        c->host->to_f32(in, t->data, t->dtype, (size_t)n);
        for (int64_t k = 0; k < n; k++) {
            const int64_t o = k / (c_in * taps), i = k / taps % c_in, tap = k % taps;
            out[(o * taps + tap) * c_in + i] = in[k];
        }
    } else {
        free(out);
        out = NULL;
    }
    free(in);
    return out;
}

enum taca_code cuda_conv_open(struct taca_backend *b, struct taca_conv **out,
                              const struct taca_tensor *weight, const struct taca_tensor *bias,
                              const struct taca_conv *shape, struct taca_err *err) {
    struct cuda *c = cuda_of(b);
    const size_t n = (size_t)taca_tensor_count(weight);
    struct cuda_conv *w = (struct cuda_conv *)calloc(1, sizeof *w);
    float *host = channels_last(c, weight);
    if (!w || !host) {
        free(w);
        free(host);
        return c->host->fail(err, TACA_ENOMEM, "%s", weight->name);
    }
    w->base = *shape;
    w->base.dtype = b->precision;
    w->link = {c->weights, conv_close};
    c->weights = &w->link;
    w->weight = cuda_weight_alloc(c, n * taca_dtype_bytes(b->precision), weight->name, err);
    if (w->weight)
        w->bias =
            (float *)cuda_weight_alloc(c, (size_t)shape->c_out * sizeof(float), bias->name, err);
    if (w->bias) {
        cuda_upload_as(c, w->weight, b->precision, host, TACA_F32, n);
        cuda_upload_as(c, w->bias, TACA_F32, bias->data, bias->dtype, (size_t)shape->c_out);
        *out = &w->base;
    }
    free(host);
    if (w->bias) return TACA_OK;
    return b->error.code ? b->error.code : TACA_ENOMEM; /* the list frees what there is */
}

/* ---- plain kernel: one thread per output value ----------------------------------------------- */

/* The inputs are rounded to the weights' type first, as a matrix unit takes them. */
template <class Y, class X, class W>
static __global__ void conv_plain_kernel(struct taca_map y, struct taca_map x, const W *weight,
                                         const float *bias, struct taca_conv g) {
    const int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int64_t o = k % y.c, j = k / y.c % y.w, i = k / (y.c * y.w) % y.h,
                  n = k / (y.c * y.w * y.h);
    if (n >= y.n) return;
    float sum = bias[o];
    for (int64_t dy = 0; dy < g.kh; dy++)
        for (int64_t dx = 0; dx < g.kw; dx++) {
            const int64_t r = i * g.stride + dy - g.pad_top, s = j * g.stride + dx - g.pad_left;
            if (r < 0 || r >= x.h || s < 0 || s >= x.w) continue;
            const X *in = (const X *)x.data + ((n * x.h + r) * x.w + s) * x.c;
            const W *w = weight + ((o * g.kh + dy) * g.kw + dx) * x.c;
            for (int64_t ch = 0; ch < x.c; ch++)
                sum += to_float(from_float<W>(to_float(in[ch]))) * to_float(w[ch]);
        }
    ((Y *)y.data)[k] = from_float<Y>(sum);
}

void cuda_conv2d(struct taca_backend *b, struct taca_map y, struct taca_map x,
                 const struct taca_conv *conv) {
    struct cuda *c = cuda_of(b);
    const struct cuda_conv *w = (const struct cuda_conv *)conv;
    by_dtypes(y.dtype, x.dtype, [&](auto *p, auto *q) {
        by_dtype(conv->dtype, [&](auto *t) {
            launch(
                conv_plain_kernel<element<decltype(p)>, element<decltype(q)>, element<decltype(t)>>,
                blocks_for(y.n * y.h * y.w * y.c, THREADS), THREADS, 0, c->stream, y, x,
                (decltype(t))w->weight, w->bias, w->base);
        });
    });
    (void)cuda_launched(c, "conv2d");
}

/* ---- foreseen -------------------------------------------------------------------------------- */

struct taca_weight_bytes cuda_weigh_conv(struct taca_backend *b, struct taca_conv *w) {
    struct cuda *c = cuda_of(b);
    w->dtype = b->precision;
    cuda_buf_foresee(&c->in, CUDA_STAGE_HALF);
    const size_t n = (size_t)(w->c_out * w->c_in * w->kh * w->kw);
    return {n * taca_dtype_bytes(w->dtype) + (size_t)w->c_out * sizeof(float), 0};
}
