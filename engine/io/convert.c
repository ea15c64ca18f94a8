/* convert.c - a view that does not lie in the file as wanted: quantised, scaled, with its halves
 * the other way round or turned. See ckpt.h. */
#include <stdlib.h>
#include <string.h>

#include "engine/io/ckpt.h"

enum { CHUNK = 4096 }; /* elements; a multiple of every block */

static uint16_t narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(bits >> 16 | 0x40); /* NaN */
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);                 /* to even */
}

/* x[i] is element first + i of the tensor. */
static void multiply(float *x, const struct taca_stored *t, int64_t first, size_t n) {
    if (t->scales) {
        const int64_t row = taca_stored_count(t) / t->dim[0];
        for (size_t i = 0; i < n; i++) {
            float s;
            memcpy(&s,
                   (const unsigned char *)t->scales +
                       (size_t)((first + (int64_t)i) / row) * sizeof s,
                   sizeof s);
            x[i] *= s;
        }
    } else if (t->scale != 1) {
        for (size_t i = 0; i < n; i++) x[i] *= t->scale;
    }
}

/* Elements [first, first + n) of a stored tensor into dst, of a dtype; whole blocks. */
static void decode(void *dst, enum taca_dtype dtype, const struct taca_stored *t, int64_t first,
                   size_t n) {
    const struct taca_storage_traits *s = taca_storage_traits(t->type);
    const unsigned char *src = t->data;
    src += (size_t)first / (size_t)s->block * (size_t)s->bytes;
    if ((int)t->type == (int)dtype && t->scale == 1 && !t->scales) {
        memcpy(dst, src, n * (size_t)s->bytes);
        return;
    }
    float buf[CHUNK];
    for (size_t at = 0; at < n; at += CHUNK) {
        const size_t len = n - at < CHUNK ? n - at : CHUNK;
        float *x = dtype == TACA_F32 ? (float *)dst + at : buf;
        taca_storage_to_f32(x, src + at / (size_t)s->block * (size_t)s->bytes, t->type, len);
        multiply(x, t, first + (int64_t)at, len);
        for (size_t i = 0; dtype == TACA_BF16 && i < len; i++)
            ((uint16_t *)dst)[at + i] = narrow(x[i]);
    }
}

void taca_stored_read(float *dst, const struct taca_stored *t, int64_t first, size_t n) {
    decode(dst, TACA_F32, t, first, n);
}

/* dst [cols, rows] is src [rows, cols] turned. */
static void turn(unsigned char *dst, const unsigned char *src, int64_t rows, int64_t cols,
                 size_t bytes) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            memcpy(dst + (size_t)(c * rows + r) * bytes, src + (size_t)(r * cols + c) * bytes,
                   bytes);
}

static enum taca_code transposed(const struct taca_ckpt *c, const struct ckpt_view *v, void *dst,
                                 size_t size, struct taca_err *err) {
    if (v->t.rank != 2)
        return taca_fail(err, TACA_EFORMAT, "%s: tensor %s is no matrix", c->path, v->t.name);
    unsigned char *lies = malloc(size + 1);
    if (!lies) return taca_fail(err, TACA_ENOMEM, "%s: %s: %zu bytes", c->path, v->t.name, size);
    decode(lies, v->t.dtype, &v->raw->t, v->first, (size_t)taca_tensor_count(&v->t));
    turn(dst, lies, v->t.dim[1], v->t.dim[0], taca_dtype_bytes(v->t.dtype));
    free(lies);
    return TACA_OK;
}

enum taca_code ckpt_convert(struct taca_ckpt *c, struct ckpt_view *v, struct taca_err *err) {
    const struct taca_stored *raw = &v->raw->t;
    const bool floats = raw->scale != 1 || raw->scales || !taca_storage_is_plain(raw->type);
    const int64_t n = taca_tensor_count(&v->t), block = taca_storage_traits(raw->type)->block;
    const int64_t run = v->how & IO_SWAP ? n / 2 : n;
    char shown[IO_SHOWN];
    size_t size;
    if (v->owned) return TACA_OK;
    if (floats) v->t.dtype = c->floats;
    if (v->first % block || run % block || ((v->how & IO_SWAP) && n % 2))
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "%s: tensor %s: its part %s does not begin or end with a block of %s",
                         c->path, io_shown(shown, raw->name), v->t.name, raw->spelled);
    if (!taca_mul(&size, (size_t)n, taca_dtype_bytes(v->t.dtype)))
        return taca_fail(err, TACA_EFORMAT, "%s: tensor %s: shape overflows", c->path, v->t.name);
    unsigned char *dst = c->hollow ? calloc(1, size + 1) : taca_block_alloc(size + 1);
    if (!dst)
        return taca_fail(err, TACA_ENOMEM, "%s: converting %s: %zu bytes", c->path, v->t.name,
                         size);
    enum taca_code rc = TACA_OK;
    if (c->hollow) {
        /* zeros */
    } else if (v->how & IO_TRANSPOSE) {
        rc = transposed(c, v, dst, size, err);
    } else if (v->how & IO_SWAP) {
        decode(dst, v->t.dtype, raw, v->first + run, (size_t)run);
        decode(dst + size / 2, v->t.dtype, raw, v->first, (size_t)run);
    } else {
        decode(dst, v->t.dtype, raw, v->first, (size_t)n);
    }
    if (rc) {
        free(dst);
        return rc;
    }
    v->owned = dst;
    return TACA_OK;
}
