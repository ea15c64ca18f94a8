/* storage.c - see storage.h. */
#include "engine/io/storage.h"

#include <math.h>

#include "engine/io/blocks.h"

static const struct taca_storage_traits traits[TACA_STORAGE_TYPES] = {
#define X(name, id, block, bytes, text) {text, id, block, bytes},
    TACA_STORAGES(X)
#undef X
        {"other", -1, 1, 0},
};

/* the plain types come first in both lists and in the same order */
_Static_assert((int)TACA_STORED_F32 == (int)TACA_F32 && (int)TACA_STORED_BF16 == (int)TACA_BF16 &&
                   (int)TACA_STORED_F16 == (int)TACA_F16 && (int)TACA_STORED_I32 == (int)TACA_I32 &&
                   (int)TACA_STORED_I64 == (int)TACA_I64 && (int)TACA_STORED_U8 == (int)TACA_U8 &&
                   (int)TACA_STORED_F8_E4M3 == (int)TACA_DTYPES,
               "enum taca_storage begins with enum taca_dtype");

const struct taca_storage_traits *taca_storage_traits(enum taca_storage t) {
    return &traits[(unsigned)t < TACA_STORAGE_TYPES ? t : TACA_STORED_OTHER];
}

const char *taca_storage_name(enum taca_storage t) { return taca_storage_traits(t)->name; }

/* s eeee mmm, bias 7; no infinities, 0x7F and 0xFF are NaN. */
static float e4m3(unsigned char b) {
    const int e = b >> 3 & 15, m = b & 7;
    if (e == 15 && m == 7) return NAN;
    const float x = e ? ldexpf((float)(8 + m), e - 10) : ldexpf((float)m, -9);
    return b & 0x80 ? -x : x;
}

static void e4m3_to_f32(float *dst, const unsigned char *src, size_t n) {
    float table[256];
    for (int b = 0; b < 256; b++) table[b] = e4m3((unsigned char)b);
    for (size_t i = 0; i < n; i++) dst[i] = table[src[i]];
}

/* The upper byte of a half. */
static void e5m2_to_f32(float *dst, const unsigned char *src, size_t n) {
    float table[256];
    for (int b = 0; b < 256; b++) table[b] = io_half((unsigned char[]){0, (unsigned char)b});
    for (size_t i = 0; i < n; i++) dst[i] = table[src[i]];
}

void taca_storage_to_f32(float *dst, const void *src, enum taca_storage type, size_t n) {
    static io_blocks_fn *const fn[TACA_STORAGE_TYPES] = {
        [TACA_STORED_F8_E4M3] = e4m3_to_f32, [TACA_STORED_F8_E5M2] = e5m2_to_f32,
        [TACA_STORED_Q4_0] = io_q4_0,        [TACA_STORED_Q4_1] = io_q4_1,
        [TACA_STORED_Q5_0] = io_q5_0,        [TACA_STORED_Q5_1] = io_q5_1,
        [TACA_STORED_Q8_0] = io_q8_0,        [TACA_STORED_Q2_K] = io_q2_k,
        [TACA_STORED_Q3_K] = io_q3_k,        [TACA_STORED_Q4_K] = io_q4_k,
        [TACA_STORED_Q5_K] = io_q5_k,        [TACA_STORED_Q6_K] = io_q6_k,
        [TACA_STORED_IQ4_NL] = io_iq4_nl,    [TACA_STORED_IQ4_XS] = io_iq4_xs,
    };
    if (taca_storage_is_plain(type))
        taca_to_f32(dst, src, (enum taca_dtype)type, n);
    else if (fn[type])
        fn[type](dst, src, n / (size_t)traits[type].block);
}
