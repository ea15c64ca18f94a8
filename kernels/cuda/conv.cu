/* conv.cu - convolution over channels-last maps: the weights, and the kernel of the f32 mode.
 *
 * Weights are kept as [c_out, kh, kw, c_in] in the backend's precision: for one output the taps of
 * a pixel lie as its input channels do. Rows are filled up with zeros to eights, which tensor-core
 * kernels copy at once. */
#include <cstddef>
#include <cstdlib>

#include "kernels/cuda/conv.cuh"

static constexpr int THREADS = 256;

struct cuda_conv {
    struct taca_conv base; /* first: handles cast */
    cuda_weight link;
    void *weight; /* [c_out, row_of()] */
    float *bias;
};

static int64_t depth_of(const struct taca_conv *w) { return w->kh * w->kw * w->c_in; }
static int64_t row_of(const struct taca_conv *w) { return (depth_of(w) + 7) / 8 * 8; }

static void conv_close(struct cuda *c, cuda_weight *link) {
    struct cuda_conv *w = (struct cuda_conv *)((char *)link - offsetof(struct cuda_conv, link));
    (void)c;
    (void)cudaFree(w->weight);
    (void)cudaFree(w->bias);
    free(w);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* The file's [c_out, c_in, taps] as [c_out, row_of()] f32 on the host; NULL without memory. */
static float *channels_last(const struct cuda *c, const struct taca_tensor *t,
                            const struct taca_conv *w) {
    const int64_t n = taca_tensor_count(t), c_in = w->c_in, taps = w->kh * w->kw, row = row_of(w);
    float *in = (float *)malloc((size_t)n * sizeof *in);
    float *out = (float *)calloc((size_t)(w->c_out * row), sizeof *out);
    if (in && out) {
        c->host->to_f32(in, t->data, t->dtype, (size_t)n);
        for (int64_t k = 0; k < n; k++) {
            const int64_t o = k / (c_in * taps), i = k / taps % c_in, tap = k % taps;
            out[o * row + tap * c_in + i] = in[k];
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
    const size_t n = (size_t)(shape->c_out * row_of(shape));
    struct cuda_conv *w = (struct cuda_conv *)calloc(1, sizeof *w);
    float *host = channels_last(c, weight, shape);
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

/* ---- f32: the precise mode ------------------------------------------------------------------- */

static constexpr int TM = 64, TN = 64, TK = 16, SIDE = 4; /* a thread's outputs: SIDE x SIDE */
static_assert(TM * TN == SIDE * SIDE * THREADS && TM == TN, "each output has its thread");

/* k first: the values that one step needs are neighbours */
struct alignas(16) tile_shared {
    float a[TK][TM + 4], b[TK][TN + 4];
};

/* One chunk of both sides: TM rows, a thread takes every (THREADS / TK)-th of one k. */
template <class X>
static __device__ void load_chunk(const conv_call &a, int64_t p, int64_t o, int64_t k,
                                  tile_shared *s) {
    const int at = (int)threadIdx.x % TK;
    const bool is = k + at < a.k;
    for (int i = (int)threadIdx.x / TK; i < TM; i += THREADS / TK) {
        s->a[at][i] = is ? input<X>(a, pixel_at(a, p + i), k + at) : 0;
        s->b[at][i] =
            is && o + i < a.g.c_out ? ((const float *)a.weight)[(o + i) * a.k_ld + k + at] : 0;
    }
}

/* blockIdx.x: tile of pixels, blockIdx.y: tile of channels */
template <class Y, class X> static __global__ void conv_f32_kernel(conv_call a) {
    tile_shared *s = dynamic_shared<tile_shared>();
    const int64_t p = (int64_t)blockIdx.x * TM, o = (int64_t)blockIdx.y * TN;
    const int row = (int)threadIdx.x / (TN / SIDE), col = (int)threadIdx.x % (TN / SIDE) * SIDE;
    float sum[SIDE][SIDE] = {};
    for (int64_t k = 0; k < a.k; k += TK) {
        __syncthreads(); /* the last chunk has been read */
        load_chunk<X>(a, p, o, k, s);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TK; i++)
#pragma unroll
            for (int m = 0; m < SIDE; m++)
#pragma unroll
                for (int n = 0; n < SIDE; n++)
                    sum[m][n] += s->a[i][row * SIDE + m] * s->b[i][col + n];
    }
    for (int m = 0; m < SIDE; m++)
        for (int n = 0; n < SIDE; n++) {
            const int64_t at = p + row * SIDE + m, to = o + col + n;
            if (at < a.y.n * a.y.h * a.y.w && to < a.y.c)
                put_output<Y>(a, at * a.y.c + to, sum[m][n] + a.bias[to]);
        }
}

static void conv_f32(struct cuda *c, const conv_call &a) {
    const dim3 grid(blocks_for(a.y.n * a.y.h * a.y.w, TM), blocks_for(a.y.c, TN));
    by_dtypes(a.y.dtype, a.x.dtype, [&](auto *p, auto *q) {
        launch(conv_f32_kernel<element<decltype(p)>, element<decltype(q)>>, grid, THREADS,
               sizeof(tile_shared), c->stream, a);
    });
}

/* ---- op -------------------------------------------------------------------------------------- */

void cuda_conv2d(struct taca_backend *b, struct taca_map y, struct taca_map x,
                 const struct taca_conv *conv, bool add) {
    struct cuda *c = cuda_of(b);
    const struct cuda_conv *w = (const struct cuda_conv *)conv;
    const conv_call a = {y, x, w->weight, w->bias, w->base, depth_of(conv), row_of(conv), add};
    if (conv->dtype == TACA_BF16)
        conv_mma(c, a);
    else
        conv_f32(c, a);
    (void)cuda_launched(c, "conv2d");
}

/* ---- foreseen -------------------------------------------------------------------------------- */

struct taca_weight_bytes cuda_weigh_conv(struct taca_backend *b, struct taca_conv *w) {
    struct cuda *c = cuda_of(b);
    w->dtype = b->precision;
    cuda_buf_foresee(&c->in, CUDA_STAGE_HALF);
    const size_t n = (size_t)(w->c_out * row_of(w));
    return {n * taca_dtype_bytes(w->dtype) + (size_t)w->c_out * sizeof(float), 0};
}

/* Nets with convolutions have group norms. */
void cuda_foresee_conv2d(struct taca_backend *b, struct taca_map, struct taca_map,
                         const struct taca_conv *, bool) {
    cuda_buf_foresee(&cuda_of(b)->out, CUDA_GROUP_BYTES);
}
