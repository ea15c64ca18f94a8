/* tensor.h - shapes: what the ops are told about memory.
 *
 * Three windows, none of which owns anything:
 *   taca_mat    rows of tokens         [rows, cols], row r starts at data + r * ld elements
 *   taca_map    feature maps           [n, h, w, c], channels last, dense
 *   taca_chw    one latent             [c, h, w] float, the order in which noise is drawn
 * They point into memory of one backend (host memory for the CPU). struct taca_tensor is different:
 * a named, dense tensor in host memory as a file holds it, the source of weights. */
#ifndef TACA_KERNELS_TENSOR_H
#define TACA_KERNELS_TENSOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum taca_dtype { TACA_F32, TACA_BF16, TACA_F16, TACA_I32, TACA_I64, TACA_U8, TACA_DTYPES };

static inline size_t taca_dtype_bytes(enum taca_dtype t) {
    static const unsigned char bytes[TACA_DTYPES] = {4, 2, 2, 4, 8, 1};
    return bytes[t];
}
/* "f32", "bf16", ... as messages print them */
const char *taca_dtype_name(enum taca_dtype t);

struct taca_mat {
    void *data;
    enum taca_dtype dtype; /* TACA_F32 or TACA_BF16; TACA_U8 as taca_linear_input has it */
    int64_t rows, cols, ld;
};

struct taca_map {
    void *data;
    enum taca_dtype dtype; /* TACA_F32 or TACA_BF16 */
    int64_t n, h, w, c;
};

struct taca_chw {
    float *data;
    int64_t c, h, w;
};

enum { TACA_MAX_RANK = 5 };

struct taca_tensor {
    const char *name;
    const void *data; /* host memory, C order, maybe unaligned */
    enum taca_dtype dtype;
    int rank;
    int64_t dim[TACA_MAX_RANK];
};

static inline int64_t taca_tensor_count(const struct taca_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->dim[i];
    return n;
}

/* Columns [first, first + cols) of m, and rows [first, first + rows) of m. A view without memory (a
 * dry run) stays without. */
static inline struct taca_mat taca_mat_cols(struct taca_mat m, int64_t first, int64_t cols) {
    if (m.data) m.data = (char *)m.data + (size_t)first * taca_dtype_bytes(m.dtype);
    m.cols = cols;
    return m;
}
static inline struct taca_mat taca_mat_rows(struct taca_mat m, int64_t first, int64_t rows) {
    if (m.data) m.data = (char *)m.data + (size_t)(first * m.ld) * taca_dtype_bytes(m.dtype);
    m.rows = rows;
    return m;
}

/* One value between f32 and bf16; narrowing rounds to nearest even and keeps NaN a NaN. */
static inline float taca_bf16_to_f32(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline uint16_t taca_f32_to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* n float values at src of any float dtype, widened. bf16 and f16 convert exactly. */
void taca_to_f32(float *dst, const void *src, enum taca_dtype dtype, size_t n);

#endif
