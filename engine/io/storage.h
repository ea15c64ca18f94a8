/* storage.h - the forms in which files store numbers, and their values.
 *
 * Beside the plain types of enum taca_dtype there are 8-bit floats (safetensors) and blocks of
 * quantised values (GGUF): a run of `block` consecutive elements shares its scales in `bytes`
 * bytes. Knows nothing of files or tensors' names. */
#ifndef TACA_ENGINE_IO_STORAGE_H
#define TACA_ENGINE_IO_STORAGE_H

#include <stdbool.h>

#include "kernels/tensor.h"

/* id in a GGUF file (-1: not there), elements and bytes of a block, name */
#define TACA_STORAGES(X)                                                                           \
    X(F32, 0, 1, 4, "f32")                                                                         \
    X(BF16, 30, 1, 2, "bf16")                                                                      \
    X(F16, 1, 1, 2, "f16")                                                                         \
    X(I32, 26, 1, 4, "i32")                                                                        \
    X(I64, 27, 1, 8, "i64")                                                                        \
    X(U8, -1, 1, 1, "u8")                                                                          \
    X(F8_E4M3, -1, 1, 1, "f8_e4m3")                                                                \
    X(F8_E5M2, -1, 1, 1, "f8_e5m2")                                                                \
    X(Q4_0, 2, 32, 18, "q4_0")                                                                     \
    X(Q4_1, 3, 32, 20, "q4_1")                                                                     \
    X(Q5_0, 6, 32, 22, "q5_0")                                                                     \
    X(Q5_1, 7, 32, 24, "q5_1")                                                                     \
    X(Q8_0, 8, 32, 34, "q8_0")                                                                     \
    X(Q2_K, 10, 256, 84, "q2_K")                                                                   \
    X(Q3_K, 11, 256, 110, "q3_K")                                                                  \
    X(Q4_K, 12, 256, 144, "q4_K")                                                                  \
    X(Q5_K, 13, 256, 176, "q5_K")                                                                  \
    X(Q6_K, 14, 256, 210, "q6_K")                                                                  \
    X(IQ4_NL, 20, 32, 18, "iq4_nl")                                                                \
    X(IQ4_XS, 23, 256, 136, "iq4_xs")

/* The first ones are those of enum taca_dtype, with the same values. */
enum taca_storage {
#define X(name, id, block, bytes, text) TACA_STORED_##name,
    TACA_STORAGES(X)
#undef X
        TACA_STORED_OTHER, /* legal in a file, but not read here */
    TACA_STORAGE_TYPES
};

/* A tensor as it lies in a file. Dense, C order; blocks run along the last dimension. */
struct taca_stored {
    const char *name;
    const char *spelled; /* its type in the words of the file: "F8_E4M3", "Q4_K" */
    const void *data;    /* mapped, maybe unaligned */
    size_t bytes;
    enum taca_storage type;
    int rank;
    int64_t dim[TACA_MAX_RANK];
    float scale;        /* its values are to be multiplied by this (1 = plain) */
    const void *scales; /* or by these little-endian f32, one per row; NULL = none */
};

struct taca_storage_traits {
    const char *name;
    int gguf_id, block, bytes;
};
const struct taca_storage_traits *taca_storage_traits(enum taca_storage t);
const char *taca_storage_name(enum taca_storage t); /* "q4_K"; "other" */
/* Plain types: what enum taca_dtype has, given to model code as it lies. */
static inline bool taca_storage_is_plain(enum taca_storage t) { return (int)t < TACA_DTYPES; }
static inline bool taca_storage_is_float(enum taca_storage t) {
    return t < TACA_STORED_OTHER && t != TACA_STORED_I32 && t != TACA_STORED_I64 &&
           t != TACA_STORED_U8;
}

static inline int64_t taca_stored_count(const struct taca_stored *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->dim[i];
    return n;
}

/* n values of a float type (whole blocks) at src, widened; exact but for the arithmetic of scales
 * and offsets, which is float's. */
void taca_storage_to_f32(float *dst, const void *src, enum taca_storage type, size_t n);

#endif
