/* matmul.cu - y = act(x W^T + b) by cuBLASLt.
 *
 * The library is column-major: its C is our y^T = W x^T, so W [out, in] goes in transposed and x
 * as it is. Bias and tanh-GELU ride along as epilogues; other activations follow as a kernel. The
 * algorithm of a shape is chosen by timing the library's candidates at first use and kept; shapes
 * are told apart by rows in coarse steps, since batches are ragged. */
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/lt.cuh"

enum { CANDIDATES = 8, REPEATS = 3, SHAPES = 512 };
static const int64_t FIXED_ROWS = 256; /* of a product in deterministic mode */
const size_t cuda_lt_bytes = 32 << 20;

struct lt_shape {
    int64_t rows, in, out, x_ld, y_ld; /* rows as the upper end of a step */
    enum taca_dtype w_type, y_type;
    int epilogue;
    uint32_t x_on, y_on; /* bytes: what their addresses are multiples of */
};

struct lt {
    struct lt_api f;
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    cudaEvent_t from, to;
    struct lt_shape shape[SHAPES];
    cublasLtMatmulAlgo_t algo[SHAPES];
    int n_shapes, next; /* the oldest is replaced */
};

struct cuda_linear {
    struct taca_linear base; /* first: handles cast */
    cuda_weight link;
    void *weight; /* [out, in]; U8: e4m3 */
    float *scale; /* [out], of 8-bit weights */
    float *bias;  /* in both types: an epilogue takes its output's */
    bf16 *bias16;
};

/* One product, descriptors and all. */
struct product {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, y;
    const struct cuda_linear *l;
    struct taca_mat to, from;
    const float *scale; /* of from's rows when they are in 8 bits */
};

static bool lt_ok(struct cuda *c, cublasStatus_t s, const char *what) {
    if (s == CUBLAS_STATUS_SUCCESS) return true;
    c->host->backend_fail(&c->base, TACA_EDEVICE, "cuda:%d: linear: %s: cuBLASLt status %d",
                          c->device, what, (int)s);
    return false;
}

/* ---- life ------------------------------------------------------------------------------------ */

static bool prefer(struct cuda *c, cublasLtMatmulPreferenceAttributes_t a, uint32_t value) {
    return lt_ok(c,
                 c->lt->f.MatmulPreferenceSetAttribute(c->lt->preference, a, &value, sizeof value),
                 "preference");
}

enum taca_code lt_open(struct cuda *c, struct taca_err *err) {
    const char *missing;
    struct lt *t = c->lt = (struct lt *)calloc(1, sizeof *t);
    if (!t) return c->host->fail(err, TACA_ENOMEM, "cuBLASLt");
    if (!lt_load(&t->f, &missing))
        return c->host->fail(err, TACA_EUNSUPPORTED, "cuda:%d: %s was not found", c->device,
                             missing);
    const uint64_t most = cuda_lt_bytes;
    if (lt_ok(c, t->f.Create(&t->handle), "handle") &&
        lt_ok(c, t->f.MatmulPreferenceCreate(&t->preference), "preference") &&
        lt_ok(c,
              t->f.MatmulPreferenceSetAttribute(
                  t->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most),
              "preference") &&
        /* parts of a sum are not rounded to a type of 16 bits */
        prefer(c, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
               CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) &&
        cuda_ok(c, cudaEventCreateWithFlags(&t->from, 0), "event") &&
        cuda_ok(c, cudaEventCreateWithFlags(&t->to, 0), "event"))
        return TACA_OK;
    return c->host->fail(err, c->base.error.code, "%s", c->base.error.text);
}

void lt_close(struct cuda *c) {
    struct lt *t = c->lt;
    if (!t) return;
    if (t->from) (void)cudaEventDestroy(t->from);
    if (t->to) (void)cudaEventDestroy(t->to);
    if (t->preference) (void)t->f.MatmulPreferenceDestroy(t->preference);
    if (t->handle) (void)t->f.Destroy(t->handle);
    free(t);
    c->lt = NULL;
}

static void linear_free(struct cuda *c, cuda_weight *link) {
    struct cuda_linear *l =
        (struct cuda_linear *)((char *)link - offsetof(struct cuda_linear, link));
    (void)c;
    (void)cudaFree(l->weight);
    (void)cudaFree(l->scale);
    (void)cudaFree(l->bias);
    (void)cudaFree(l->bias16);
    free(l);
}

static bool alloc_parts(struct cuda *c, struct cuda_linear *l, const char *name,
                        struct taca_err *err) {
    const size_t n = (size_t)l->base.out;
    l->weight =
        cuda_weight_alloc(c, n * (size_t)l->base.in * taca_dtype_bytes(l->base.dtype), name, err);
    if (l->weight && l->base.dtype == TACA_U8) {
        l->scale = (float *)cuda_weight_alloc(c, n * sizeof *l->scale, name, err);
        if (!l->scale) return false;
    }
    if (!l->weight || !l->base.has_bias) return l->weight != NULL;
    l->bias = (float *)cuda_weight_alloc(c, n * sizeof *l->bias, name, err);
    if (l->bias) l->bias16 = (bf16 *)cuda_weight_alloc(c, n * sizeof *l->bias16, name, err);
    return l->bias16 != NULL;
}

/* True when bf16 holds every value; false without memory to look. */
static bool fits_bf16(const struct cuda *c, const struct taca_tensor *t) {
    const size_t n = (size_t)taca_tensor_count(t);
    uint32_t lost = t->dtype == TACA_BF16 ? 0 : 1, bits;
    float *f = lost ? (float *)malloc(n * sizeof *f) : NULL;
    if (f) {
        c->host->to_f32(f, t->data, t->dtype, n);
        lost = 0;
        for (size_t i = 0; i < n; i++) {
            memcpy(&bits, &f[i], sizeof bits);
            lost |= bits & 0xFFFF;
        }
    }
    free(f);
    return lost == 0;
}

static void upload_bias(struct cuda *c, struct cuda_linear *l, int64_t row,
                        const struct taca_tensor *t) {
    const size_t n = (size_t)taca_tensor_count(t);
    cuda_upload_as(c, l->bias + row, TACA_F32, t->data, t->dtype, n);
    cuda_upload_as(c, l->bias16 + row, TACA_BF16, t->data, t->dtype, n);
    l->base.short_bias = l->base.short_bias && fits_bf16(c, t);
}

/* What a map of this shape is kept as; the library wants sides of 16 for 8 bits. */
static enum taca_dtype weight_type(const struct taca_backend *b, const struct taca_linear *w) {
    const bool fits = w->in % 16 == 0 && w->out % 16 == 0;
    return b->narrow && b->narrow_type && fits ? TACA_U8 : b->precision;
}

/* Rows of the weight from `row` on; 8-bit ones by way of bf16. */
static void upload_weight(struct cuda *c, struct cuda_linear *l, int64_t row,
                          const struct taca_tensor *t) {
    const int64_t rows = t->dim[0], in = l->base.in;
    const size_t n = (size_t)(rows * in);
    char *at = (char *)l->weight + (size_t)(row * in) * taca_dtype_bytes(l->base.dtype);
    if (l->base.dtype != TACA_U8) {
        cuda_upload_as(c, at, l->base.dtype, t->data, t->dtype, n);
        return;
    }
    void *wide = cuda_buf_get(c, &c->out, n * sizeof(bf16), "weights in 8 bits");
    if (!wide) return;
    cuda_upload_as(c, wide, TACA_BF16, t->data, t->dtype, n);
    cuda_quantise(c, (uint8_t *)at, l->scale + row, {wide, TACA_BF16, rows, in, in});
}

enum taca_code cuda_linear_open(struct taca_backend *b, struct taca_linear **out,
                                const struct taca_tensor *parts, const struct taca_tensor *biases,
                                int n_parts, struct taca_err *err) {
    struct cuda *c = cuda_of(b);
    struct cuda_linear *l = (struct cuda_linear *)calloc(1, sizeof *l);
    if (!l) return c->host->fail(err, TACA_ENOMEM, "%s", parts[0].name);
    l->base.in = taca_tensor_count(&parts[0]) / parts[0].dim[0];
    for (int i = 0; i < n_parts; i++) l->base.out += parts[i].dim[0];
    l->base.dtype = weight_type(b, &l->base);
    l->base.has_bias = biases != NULL;
    l->base.short_bias = true;
    if (!alloc_parts(c, l, parts[0].name, err)) {
        linear_free(c, &l->link);
        return b->error.code ? b->error.code : TACA_ENOMEM;
    }
    l->link = {c->weights, linear_free};
    c->weights = &l->link;
    int64_t row = 0;
    for (int i = 0; i < n_parts; i++) {
        upload_weight(c, l, row, &parts[i]);
        if (biases) upload_bias(c, l, row, &biases[i]);
        row += parts[i].dim[0];
    }
    *out = &l->base;
    return TACA_OK;
}

void cuda_linear_close(struct taca_backend *b, struct taca_linear *w) {
    struct cuda *c = cuda_of(b);
    struct cuda_linear *l = (struct cuda_linear *)w;
    for (cuda_weight **p = &c->weights; *p; p = &(*p)->next) {
        if (*p != &l->link) continue;
        *p = l->link.next;
        linear_free(c, &l->link);
        return;
    }
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static cudaDataType_t lt_type(enum taca_dtype t) {
    if (t == TACA_U8) return CUDA_R_8F_E4M3;
    return t == TACA_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static bool set_int(struct cuda *c, cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a,
                    int value) {
    return lt_ok(c, c->lt->f.MatmulDescSetAttribute(d, a, &value, sizeof value), "descriptor");
}

/* By the library, as an epilogue. */
static bool fused(enum taca_act act) { return act == TACA_ACT_NONE || act == TACA_ACT_GELU_TANH; }

static int epilogue_of(const struct cuda_linear *l, enum taca_act act) {
    if (act == TACA_ACT_GELU_TANH)
        return l->base.has_bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    return l->base.has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

static bool set_pointer(struct cuda *c, cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a,
                        const void *value) {
    return lt_ok(c, c->lt->f.MatmulDescSetAttribute(d, a, &value, sizeof value), "descriptor");
}

/* A scale for each output of W and each row of x. */
static bool set_scales(struct cuda *c, const struct product *p) {
    return set_pointer(c, p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p->l->scale) &&
           set_pointer(c, p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p->scale) &&
           set_int(c, p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE,
                   CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F) &&
           set_int(c, p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE,
                   CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
}

/* p's views are set; `epilogue` as the library numbers it. product_close in any case. */
static bool product_open(struct cuda *c, struct product *p, int epilogue) {
    const struct lt_api *f = &c->lt->f;
    const struct cuda_linear *l = p->l;
    const uint64_t in = (uint64_t)l->base.in, out = (uint64_t)l->base.out;
    const uint64_t rows = (uint64_t)p->to.rows;
    const void *bias = p->to.dtype == TACA_BF16 ? (const void *)l->bias16 : (const void *)l->bias;
    if (!lt_ok(c, f->MatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor") ||
        !set_int(c, p->desc, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T) ||
        !set_int(c, p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue))
        return false;
    if (l->base.has_bias &&
        (!set_pointer(c, p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias) ||
         !set_int(c, p->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, lt_type(p->to.dtype))))
        return false;
    if (l->base.dtype == TACA_U8 && !set_scales(c, p)) return false;
    return lt_ok(c, f->MatrixLayoutCreate(&p->w, lt_type(l->base.dtype), in, out, (int64_t)in),
                 "weight") &&
           lt_ok(c, f->MatrixLayoutCreate(&p->x, lt_type(p->from.dtype), in, rows, p->from.ld),
                 "x") &&
           lt_ok(c, f->MatrixLayoutCreate(&p->y, lt_type(p->to.dtype), out, rows, p->to.ld), "y");
}

static void product_close(struct cuda *c, struct product *p) {
    const struct lt_api *f = &c->lt->f;
    if (p->desc) (void)f->MatmulDescDestroy(p->desc);
    if (p->w) (void)f->MatrixLayoutDestroy(p->w);
    if (p->x) (void)f->MatrixLayoutDestroy(p->x);
    if (p->y) (void)f->MatrixLayoutDestroy(p->y);
}

static cublasStatus_t run(struct cuda *c, const struct product *p,
                          const cublasLtMatmulAlgo_t *algo) {
    const float one = 1, zero = 0;
    return c->lt->f.Matmul(c->lt->handle, p->desc, &one, p->l->weight, p->w, p->from.data, p->x,
                           &zero, p->to.data, p->y, p->to.data, p->y, algo, c->workspace,
                           cuda_lt_bytes, c->stream);
}

/* ---- algorithms ------------------------------------------------------------------------------ */

/* Rows in steps: powers of two up to 256, then multiples of 256. */
static int64_t row_step(int64_t rows) {
    int64_t step = 1;
    while (step < rows && step < 256) step *= 2;
    return step < rows ? (rows + 255) / 256 * 256 : step;
}

static bool same_shape(const struct lt_shape *a, const struct lt_shape *b) {
    return a->rows == b->rows && a->in == b->in && a->out == b->out && a->x_ld == b->x_ld &&
           a->y_ld == b->y_ld && a->w_type == b->w_type && a->y_type == b->y_type &&
           a->epilogue == b->epilogue && a->x_on == b->x_on && a->y_on == b->y_on;
}

/* Bytes, at most 16: no algorithm wants more. */
static uint32_t alignment(const void *p) {
    uint32_t on = 16;
    while ((uintptr_t)p % on) on /= 2;
    return on;
}

/* Candidates for as many rows as the shape says: what runs with those, in the workspace that there
 * is, runs with fewer. Left to itself the library takes addresses for multiples of 256. */
static cublasStatus_t ask(struct cuda *c, const struct product *p, const struct lt_shape *s,
                          cublasLtMatmulHeuristicResult_t (&found)[CANDIDATES], int *n) {
    const struct lt_api *f = &c->lt->f;
    struct product most = *p;
    most.desc = NULL, most.w = NULL, most.x = NULL, most.y = NULL;
    most.to.rows = s->rows;
    cublasStatus_t status = CUBLAS_STATUS_INVALID_VALUE;
    if (product_open(c, &most, s->epilogue) &&
        prefer(c, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, s->x_on) &&
        prefer(c, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, s->y_on) &&
        prefer(c, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, s->y_on))
        status = f->MatmulAlgoGetHeuristic(c->lt->handle, most.desc, most.w, most.x, most.y, most.y,
                                           c->lt->preference, CANDIDATES, found, n);
    product_close(c, &most);
    return status;
}

/* Milliseconds of REPEATS runs; negative when the candidate does not run. */
static float time_candidate(struct cuda *c, const struct product *p,
                            const cublasLtMatmulAlgo_t *algo) {
    float ms = -1;
    if (run(c, p, algo) != CUBLAS_STATUS_SUCCESS) return -1;
    (void)cudaEventRecord(c->lt->from, c->stream);
    for (int i = 0; i < REPEATS; i++) (void)run(c, p, algo);
    (void)cudaEventRecord(c->lt->to, c->stream);
    if (!cuda_ok(c, cudaEventSynchronize(c->lt->to), "linear") ||
        !cuda_ok(c, cudaEventElapsedTime(&ms, c->lt->from, c->lt->to), "linear"))
        return -1;
    return ms;
}

/* The fastest candidate for p; the first one in deterministic mode, where time must not choose. */
static bool choose(struct cuda *c, const struct product *p, const struct lt_shape *s,
                   cublasLtMatmulAlgo_t *best) {
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int n = 0;
    float least = -1;
    if (!lt_ok(c, ask(c, p, s, found, &n), "no algorithm")) return false;
    for (int i = 0; i < n; i++) {
        if (found[i].state != CUBLAS_STATUS_SUCCESS) continue;
        const float ms = c->deterministic ? 0 : time_candidate(c, p, &found[i].algo);
        if (ms < 0 || (least >= 0 && ms >= least)) continue;
        least = ms;
        *best = found[i].algo;
        if (c->deterministic) break;
    }
    return least >= 0 || lt_ok(c, CUBLAS_STATUS_NOT_SUPPORTED, "no algorithm");
}

static const cublasLtMatmulAlgo_t *algorithm(struct cuda *c, const struct product *p,
                                             int epilogue) {
    struct lt *t = c->lt;
    const struct lt_shape want = {c->deterministic ? FIXED_ROWS : row_step(p->to.rows),
                                  p->l->base.in,
                                  p->l->base.out,
                                  p->from.ld,
                                  p->to.ld,
                                  p->l->base.dtype,
                                  p->to.dtype,
                                  epilogue,
                                  alignment(p->from.data),
                                  alignment(p->to.data)};
    for (int i = 0; i < t->n_shapes; i++)
        if (same_shape(&t->shape[i], &want)) return &t->algo[i];
    const int at = t->next;
    if (cuda_must_not_now(c)) return NULL;
    if (!choose(c, p, &want, &t->algo[at])) return NULL;
    t->shape[at] = want;
    t->next = (at + 1) % SHAPES;
    if (t->n_shapes < SHAPES) t->n_shapes++;
    return &t->algo[at];
}

bool lt_has_narrow(struct cuda *c) {
    const int64_t side = 256;
    static const int epilogues[] = {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS,
                                    CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS};
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    struct cuda_linear l = {};
    struct product p = {};
    l.base.in = l.base.out = side;
    l.base.dtype = TACA_U8;
    l.base.has_bias = true;          /* whoever has none says so by the epilogue */
    l.scale = (float *)c->workspace; /* no value of it is looked at */
    l.bias16 = (bf16 *)c->workspace;
    p.l = &l;
    p.to = {c->workspace, TACA_BF16, side, side, side};
    p.from = {c->workspace, TACA_U8, side, side, side};
    p.scale = l.scale;
    bool has = true;
    for (int epilogue : epilogues) {
        const struct lt_shape s = {side,    side,      side,     side, side,
                                   TACA_U8, TACA_BF16, epilogue, 16,   16};
        int n = 0;
        has = has && ask(c, &p, &s, found, &n) == CUBLAS_STATUS_SUCCESS && n > 0;
    }
    return has;
}

/* ---- the op ---------------------------------------------------------------------------------- */

/* p->to = epilogue(p->from W^T); types as the library takes them. */
static void multiply(struct cuda *c, struct product p, int epilogue) {
    const cublasLtMatmulAlgo_t *algo;
    if (product_open(c, &p, epilogue) && (algo = algorithm(c, &p, epilogue)) != NULL)
        (void)lt_ok(c, run(c, &p, algo), "product");
    product_close(c, &p);
}

/* Blocks of rows, all of one size in deterministic mode but the last. */
static void multiply_blocks(struct cuda *c, const struct product *p, int epilogue) {
    const int64_t rows = p->to.rows, block = c->deterministic ? FIXED_ROWS : rows;
    for (int64_t r = 0; r < rows; r += block) {
        const int64_t n = rows - r < block ? rows - r : block;
        struct product part = *p;
        part.to = taca_mat_rows(p->to, r, n);
        part.from = taca_mat_rows(p->from, r, n);
        if (p->scale) part.scale = p->scale + r;
        multiply(c, part, epilogue);
    }
}

/* A dense matrix of the given type in work memory; without data after an error. */
static struct taca_mat work(struct cuda *c, struct cuda_buf *buf, enum taca_dtype t, int64_t rows,
                            int64_t cols) {
    struct taca_mat m = {NULL, t, rows, cols, cols};
    m.data = cuda_buf_get(c, buf, (size_t)(rows * cols) * taca_dtype_bytes(t), "linear");
    return m;
}

/* Where the scales stand behind 8-bit rows. */
static size_t scales_at(struct taca_mat x) { return ((size_t)(x.rows * x.cols) + 255) / 256 * 256; }

/* x as the weights want it; false after an error. */
static bool bring(struct cuda *c, struct product *p, struct taca_mat x) {
    const struct taca_linear *w = &p->l->base;
    p->from = x;
    if (x.dtype == TACA_U8) {
        float *scale = (float *)cuda_buf_get(c, &c->in, (size_t)x.rows * sizeof *scale, "linear");
        if (scale) cuda_row_scales(c, scale, x);
        p->scale = scale;
        return scale != NULL;
    }
    if (x.dtype == w->dtype) return true;
    if (w->dtype != TACA_U8) {
        p->from = work(c, &c->in, w->dtype, x.rows, x.cols);
        if (p->from.data) cuda_activate(&c->base, p->from, x, TACA_ACT_NONE);
        return p->from.data != NULL;
    }
    const size_t at = scales_at(x);
    uint8_t *q = (uint8_t *)cuda_buf_get(c, &c->in, at + (size_t)x.rows * sizeof(float), "linear");
    if (!q) return false;
    p->from = {q, TACA_U8, x.rows, x.cols, x.cols};
    p->scale = (float *)(q + at);
    cuda_quantise(c, q, (float *)(q + at), x);
    return true;
}

/* What the product is written as. f32 products come out as f32, 8-bit ones as bf16; and as f32
 * what must not be rounded yet: the input of an activation of its own, a sum with a bias that bf16
 * does not hold. */
static enum taca_dtype product_type(const struct taca_linear *w, enum taca_dtype y,
                                    enum taca_act act) {
    const bool rounds = w->has_bias && !w->short_bias;
    if (w->dtype == TACA_U8) return TACA_BF16;
    return w->dtype == TACA_F32 || !fused(act) || rounds ? TACA_F32 : y;
}

void cuda_linear(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                 const struct taca_linear *w, enum taca_act act) {
    struct cuda *c = cuda_of(b);
    const struct cuda_linear *l = (const struct cuda_linear *)w;
    const enum taca_dtype type = product_type(w, y.dtype, act);
    struct product p = {NULL, NULL, NULL, NULL, l, y, x, NULL};
    if (!bring(c, &p, x)) return;
    if (type != y.dtype) p.to = work(c, &c->out, type, y.rows, y.cols);
    if (!p.to.data) return;
    multiply_blocks(c, &p, epilogue_of(l, act));
    if (p.to.data != y.data || !fused(act))
        cuda_activate(b, y, p.to, fused(act) ? TACA_ACT_NONE : act);
}

/* ---- foreseen -------------------------------------------------------------------------------- */

struct taca_weight_bytes cuda_weigh_linear(struct taca_backend *b, struct taca_linear *w) {
    struct cuda *c = cuda_of(b);
    const size_t out = (size_t)w->out, in = (size_t)w->in;
    w->dtype = weight_type(b, w);
    cuda_buf_foresee(&c->in, CUDA_STAGE_HALF);
    if (w->dtype == TACA_U8) cuda_buf_foresee(&c->out, out * in * sizeof(bf16));
    const size_t biases = w->has_bias ? sizeof(float) + sizeof(bf16) : 0;
    const size_t scale = w->dtype == TACA_U8 ? sizeof(float) : 0;
    return {out * (in * taca_dtype_bytes(w->dtype) + biases + scale), 0};
}

void cuda_foresee_linear(struct taca_backend *b, struct taca_mat y, struct taca_mat x,
                         const struct taca_linear *w, enum taca_act act) {
    struct cuda *c = cuda_of(b);
    const enum taca_dtype type = product_type(w, y.dtype, act);
    const size_t scales = w->dtype == TACA_U8 ? 256 + (size_t)x.rows * sizeof(float) : 0;
    if (x.dtype == TACA_U8)
        cuda_buf_foresee(&c->in, (size_t)x.rows * sizeof(float));
    else if (x.dtype != w->dtype)
        cuda_buf_foresee(&c->in, (size_t)(x.rows * x.cols) * taca_dtype_bytes(w->dtype) + scales);
    if (type != y.dtype)
        cuda_buf_foresee(&c->out, (size_t)(y.rows * y.cols) * taca_dtype_bytes(type));
}
