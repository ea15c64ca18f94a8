/* cublaslt.cc - stand-in for cuBLASLt: column-major products on the CPU, sums in double.
 *
 * out = epilogue(alpha op(A) op(B) + beta C). Only what kernels/cuda asks for; anything else is
 * CUBLAS_STATUS_NOT_SUPPORTED, so that a new use shows here first. */
#include <cublasLt.h>

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "products.h"

#include <atomic>
#include <vector>

struct cublasLtContext {
    int unused;
};
struct cuda_host_desc {
    int trans_a = CUBLAS_OP_N, trans_b = CUBLAS_OP_N, epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    int bias_type = -1; /* the output's, as in the original */
    const void *bias = nullptr;
    const float *scale[2] = {nullptr, nullptr}; /* of A's rows and B's columns */
    int scale_mode[2] = {0, 0};
};
struct cuda_host_layout {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld;
};
struct cuda_host_preference {
    uint64_t workspace = 0;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
    uint32_t on[4] = {256, 256, 256, 256}; /* what the addresses of A, B, C, D are multiples of */
};

cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) {
    *h = new cublasLtContext{0};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) {
    delete h;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *d = new cuda_host_desc;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
    delete d;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t a, const void *value,
                                              size_t bytes) {
    const bool pointer = a == CUBLASLT_MATMUL_DESC_BIAS_POINTER ||
                         a == CUBLASLT_MATMUL_DESC_A_SCALE_POINTER ||
                         a == CUBLASLT_MATMUL_DESC_B_SCALE_POINTER;
    if (bytes != (pointer ? sizeof(void *) : sizeof(int))) return CUBLAS_STATUS_INVALID_VALUE;
    switch (a) {
    case CUBLASLT_MATMUL_DESC_TRANSA: memcpy(&d->trans_a, value, bytes); break;
    case CUBLASLT_MATMUL_DESC_TRANSB: memcpy(&d->trans_b, value, bytes); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE: memcpy(&d->epilogue, value, bytes); break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: memcpy((void *)&d->bias, value, bytes); break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER: memcpy((void *)&d->scale[0], value, bytes); break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: memcpy((void *)&d->scale[1], value, bytes); break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE: memcpy(&d->scale_mode[0], value, bytes); break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE: memcpy(&d->scale_mode[1], value, bytes); break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: memcpy(&d->bias_type, value, bytes); break;
    }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType_t type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
    if (ld < (int64_t)rows || !rows || !cols) return CUBLAS_STATUS_INVALID_VALUE;
    *l = new cuda_host_layout{type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    delete l;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) {
    *p = new cuda_host_preference;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
    delete p;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t a,
                                                    const void *value, size_t bytes) {
    void *to = &p->workspace;
    if (a == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) to = &p->reductions;
    if (a >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES)
        to = &p->on[a - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES];
    if (bytes != (to == &p->workspace ? sizeof p->workspace : sizeof p->reductions))
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

/* 8-bit products with outer vectors of scales are Hopper's alone. */
static bool type_ok(const cuda_host_desc *d, const cuda_host_layout *a) {
    const bool activates =
        d->epilogue == CUBLASLT_EPILOGUE_GELU || d->epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
    return a->type != CUDA_R_8F_E4M3 ||
           (cuda_host::major() == 9 && !(activates && cuda_host::fp8_is_bare()));
}

/* What an algorithm was chosen for: it makes the most of the alignment that it was promised, and
 * its workspace is enough for so many columns of B. coarse: the sum is of parts that were rounded
 * to the output's type. */
struct cuda_host_algo {
    uint64_t number, columns;
    uint32_t on[4], coarse;
};
static_assert(sizeof(cuda_host_algo) <= sizeof(cublasLtMatmulAlgo_t), "it must fit");

/* Three candidates. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t out,
                                              cublasLtMatmulPreference_t p, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *got) {
    *got = 0;
    if (!type_ok(d, a)) return CUBLAS_STATUS_NOT_SUPPORTED;
    *got = wanted < 3 ? wanted : 3;
    for (int i = 0; i < *got; i++) {
        results[i] = {};
        const cuda_host_algo algo = {
            1 + (uint64_t)i,
            out->cols,
            {p->on[0], p->on[1], p->on[2], p->on[3]},
            (p->reductions & ~(uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) != 0};
        memcpy(&results[i].algo, &algo, sizeof algo);
        results[i].workspaceSize = (size_t)p->workspace / (size_t)(i + 1);
        results[i].state = CUBLAS_STATUS_SUCCESS;
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- the product ----------------------------------------------------------------------------- */

static float load(const void *p, int type, size_t i) {
    return type == CUDA_R_32F ? ((const float *)p)[i]
                              : __bfloat162float(((const __nv_bfloat16 *)p)[i]);
}
static void store(void *p, int type, size_t i, float v) {
    if (type == CUDA_R_32F)
        ((float *)p)[i] = v;
    else
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(v);
}
static bool float_type(int t) { return t == CUDA_R_32F || t == CUDA_R_16BF; }

/* 8-bit inputs: A transposed and B not, sides of 16, an output of 16 bits whose columns lie 16
 * bytes apart, outer vectors of scales; others: no scales. */
static bool inputs_ok(const cuda_host_desc *d, const cuda_host_layout *a, const cuda_host_layout *b,
                      const cuda_host_layout *out) {
    if (a->type != b->type || !type_ok(d, a)) return false;
    if (a->type != CUDA_R_8F_E4M3) return float_type(a->type) && !d->scale[0] && !d->scale[1];
    return d->trans_a == CUBLAS_OP_T && d->trans_b == CUBLAS_OP_N && a->rows % 16 == 0 &&
           a->cols % 16 == 0 && a->ld % 16 == 0 && b->ld % 16 == 0 && out->ld % 8 == 0 &&
           out->type == CUDA_R_16BF && d->scale[0] && d->scale[1] &&
           d->scale_mode[0] == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F &&
           d->scale_mode[1] == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
}

/* op(M) as rows: [rows(op), inner] when `by_column`, else [cols(op), inner]; at: a value's place to
 * itself */
template <class F>
static std::vector<float> gather(const cuda_host_layout *l, bool by_column, F at) {
    const size_t outer = by_column ? l->cols : l->rows, inner = by_column ? l->rows : l->cols;
    const size_t far = by_column ? (size_t)l->ld : 1, near = by_column ? 1 : (size_t)l->ld;
    std::vector<float> out(outer * inner);
    for (size_t o = 0; o < outer; o++)
        for (size_t i = 0; i < inner; i++) out[o * inner + i] = at(o * far + i * near);
    return out;
}

static std::vector<float> gather(const void *p, const cuda_host_layout *l, bool by_column) {
    static const std::vector<float> of_byte = [] {
        std::vector<float> all(256);
        for (int i = 0; i < 256; i++) all[(size_t)i] = cuda_host_e4m3((uint8_t)i);
        return all;
    }();
    if (l->type == CUDA_R_8F_E4M3)
        return gather(l, by_column, [p](size_t i) { return of_byte[((const uint8_t *)p)[i]]; });
    if (l->type == CUDA_R_32F)
        return gather(l, by_column, [p](size_t i) { return ((const float *)p)[i]; });
    return gather(l, by_column,
                  [p](size_t i) { return __bfloat162float(((const __nv_bfloat16 *)p)[i]); });
}

static float epilogue(const cuda_host_desc *d, float v, int out_type, size_t row) {
    const bool biased =
        d->epilogue == CUBLASLT_EPILOGUE_BIAS || d->epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
    if (biased) v += load(d->bias, d->bias_type >= 0 ? d->bias_type : out_type, row);
    if (d->epilogue == CUBLASLT_EPILOGUE_GELU || d->epilogue == CUBLASLT_EPILOGUE_GELU_BIAS)
        v = 0.5f * v * (1 + tanhf(0.7978845608028654f * (v + 0.044715f * v * v * v)));
    return v;
}

/* All that a product needs, by value: descriptors and factors belong to the caller again as soon as
 * it is queued. */
struct product {
    cuda_host_desc d;
    cuda_host_layout la, lb, lc, lout;
    float alpha, beta;
    const void *a, *b, *c;
    void *out;
    size_t m, n, k;
    bool coarse;
};

/* v as the sum of two parts in this type, both larger than itself. */
static float of_parts(float v, int type) {
    return type == CUDA_R_32F ? v
                              : __bfloat162float(__float2bfloat16_rn(3 * v)) +
                                    __bfloat162float(__float2bfloat16_rn(-2 * v));
}

/* Whose the workspace is between the beginning of a product and its end. */
static void sign(void *workspace, uint64_t turn) {
    if (workspace) memcpy(workspace, &turn, sizeof turn);
}
static bool signed_by(const void *workspace, uint64_t turn) {
    return !workspace || memcmp(workspace, &turn, sizeof turn) == 0;
}

static void multiply(const product &p) {
    const cuda_host_desc *d = &p.d;
    const size_t m = p.m, n = p.n;
    const std::vector<float> w = gather(p.a, &p.la, d->trans_a == CUBLAS_OP_T);
    const std::vector<float> x = gather(p.b, &p.lb, d->trans_b != CUBLAS_OP_T);
    std::vector<float> y(m * n);
    cuda_host::multiply_rows(y.data(), w.data(), x.data(), m, n, p.k);
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < m; i++) {
            const float sum = p.coarse ? of_parts(y[j * m + i], p.lout.type) : y[j * m + i];
            float v = p.alpha * sum;
            if (d->scale[0]) v *= d->scale[0][i] * d->scale[1][j];
            if (p.beta != 0) v += p.beta * load(p.c, p.lc.type, j * (size_t)p.lc.ld + i);
            store(p.out, p.lout.type, j * (size_t)p.lout.ld + i, epilogue(d, v, p.lout.type, i));
        }
}

static bool runs(const cuda_host_algo &x, size_t columns, const void *const (&matrix)[4]) {
    bool yes = x.number >= 1 && x.number <= 3 && columns <= x.columns;
    for (int i = 0; i < 4; i++) yes = yes && (uintptr_t)matrix[i] % x.on[i] == 0;
    return yes;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t la, const void *b,
                              cublasLtMatrixLayout_t lb, const void *beta, const void *c,
                              cublasLtMatrixLayout_t lc, void *out, cublasLtMatrixLayout_t lout,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t,
                              cudaStream_t s) {
    if (!inputs_ok(d, la, lb, lout) || !float_type(lout->type) || lc->type != lout->type)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    cuda_host_algo how = {};
    if (algo) memcpy(&how, algo, sizeof how);
    if (!runs(how, lout->cols, {a, b, c, out})) return CUBLAS_STATUS_INVALID_VALUE;
    const bool ta = d->trans_a == CUBLAS_OP_T, tb = d->trans_b == CUBLAS_OP_T;
    const size_t m = ta ? la->cols : la->rows, k = ta ? la->rows : la->cols;
    const size_t n = tb ? lb->rows : lb->cols;
    if ((tb ? lb->cols : lb->rows) != k || lout->rows != m || lout->cols != n)
        return CUBLAS_STATUS_INVALID_VALUE;
    const product p = {*d, *la, *lb, *lc, *lout, *(const float *)alpha, *(const float *)beta, a, b,
                       c,  out, m,   n,   k,     how.coarse != 0};
    /* in two pieces, so that another stream's product in the same workspace is found */
    static std::atomic<uint64_t> products;
    const uint64_t turn = ++products;
    const bool queued =
        cuda_host_library_call(s, [=] { sign(workspace, turn); }) && cuda_host_library_call(s, [=] {
            if (!signed_by(workspace, turn))
                cuda_host::die("two products at once in one workspace");
            multiply(p);
        });
    return queued ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
