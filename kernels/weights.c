/* weights.c - opening weights: shapes checked here, once for all backends.
 *
 * Vectors and tables are plain f32 arrays in device memory and need no help from a backend; linear
 * and convolution weights are laid out by it. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/backend_ops.h"

static bool is_float(enum taca_dtype t) { return t == TACA_F32 || t == TACA_BF16 || t == TACA_F16; }

static enum taca_code tensor_ok(const struct taca_tensor *t, struct taca_err *err) {
    if (!is_float(t->dtype))
        return taca_fail(err, TACA_EFORMAT, "%s: dtype %s, wanted a float type", t->name,
                         taca_dtype_name(t->dtype));
    for (int i = 0; i < t->rank; i++)
        if (t->dim[i] <= 0)
            return taca_fail(err, TACA_EFORMAT, "%s: dimension %d is %" PRId64, t->name, i,
                             t->dim[i]);
    return TACA_OK;
}

enum taca_code taca_linear_open(struct taca_backend *b, struct taca_linear **out,
                                const struct taca_tensor *parts, const struct taca_tensor *biases,
                                int n_parts, struct taca_err *err) {
    enum taca_code rc;
    if (n_parts <= 0) return taca_fail(err, TACA_EINTERNAL, "linear of %d parts", n_parts);
    int64_t in = 0;
    for (int i = 0; i < n_parts; i++) {
        const struct taca_tensor *t = &parts[i];
        if ((rc = tensor_ok(t, err)) != TACA_OK) return rc;
        if (t->rank < 2)
            return taca_fail(err, TACA_EFORMAT, "%s: rank %d, wanted a matrix", t->name, t->rank);
        int64_t k = taca_tensor_count(t) / t->dim[0];
        if (i == 0) in = k;
        if (k != in)
            return taca_fail(err, TACA_EFORMAT, "%s: %" PRId64 " inputs, %s has %" PRId64, t->name,
                             k, parts[0].name, in);
        if (!biases) continue;
        if ((rc = tensor_ok(&biases[i], err)) != TACA_OK) return rc;
        if (taca_tensor_count(&biases[i]) != t->dim[0])
            return taca_fail(err, TACA_EFORMAT, "%s: %" PRId64 " values, %s has %" PRId64 " rows",
                             biases[i].name, taca_tensor_count(&biases[i]), t->name, t->dim[0]);
    }
    return b->ops->linear_open(b, out, parts, biases, n_parts, err);
}

void taca_linear_close(struct taca_backend *b, struct taca_linear *w) {
    if (w && b->ops->linear_close) b->ops->linear_close(b, w);
}

enum taca_code taca_conv_open(struct taca_backend *b, struct taca_conv **out,
                              const struct taca_tensor *weight, const struct taca_tensor *bias,
                              const struct taca_conv *shape, struct taca_err *err) {
    enum taca_code rc;
    if ((rc = tensor_ok(weight, err)) != TACA_OK || (rc = tensor_ok(bias, err)) != TACA_OK)
        return rc;
    if (weight->rank != 4)
        return taca_fail(err, TACA_EFORMAT, "%s: rank %d, wanted 4", weight->name, weight->rank);
    if (taca_tensor_count(bias) != weight->dim[0])
        return taca_fail(err, TACA_EFORMAT, "%s: %" PRId64 " values, %s has %" PRId64 " channels",
                         bias->name, taca_tensor_count(bias), weight->name, weight->dim[0]);
    if (shape->stride <= 0 || shape->pad_top < 0 || shape->pad_left < 0 || shape->pad_bottom < 0 ||
        shape->pad_right < 0)
        return taca_fail(err, TACA_EINTERNAL, "%s: stride %d, pads %d %d %d %d", weight->name,
                         shape->stride, shape->pad_top, shape->pad_left, shape->pad_bottom,
                         shape->pad_right);
    struct taca_conv full = *shape;
    full.c_out = weight->dim[0];
    full.c_in = weight->dim[1];
    full.kh = weight->dim[2];
    full.kw = weight->dim[3];
    return b->ops->conv_open(b, out, weight, bias, &full, err);
}

/* A slot in b->owned, so that remembering a block cannot fail after it was made. */
static bool reserve_owned(struct taca_backend *b) {
    if (b->n_owned < b->cap_owned) return true;
    int cap = b->cap_owned ? 2 * b->cap_owned : 64;
    void **p = realloc(b->owned, (size_t)cap * sizeof *p);
    if (!p) return false;
    b->owned = p;
    b->cap_owned = cap;
    return true;
}

/* The tensor's values as f32 in device memory that b owns; NULL on a counting backend. */
static enum taca_code open_f32(struct taca_backend *b, void **out, const struct taca_tensor *t,
                               struct taca_err *err) {
    enum taca_code rc = tensor_ok(t, err);
    if (rc != TACA_OK) return rc;
    *out = NULL;
    size_t n = (size_t)taca_tensor_count(t), bytes;
    if (!taca_mul(&bytes, n, sizeof(float))) return taca_fail(err, TACA_ENOMEM, "%s", t->name);
    if (b->ops->counting) {
        taca_count_keep(b, (struct taca_weight_bytes){bytes, bytes});
        return TACA_OK;
    }
    if (!reserve_owned(b)) return taca_fail(err, TACA_ENOMEM, "%s", t->name);
    float *host = taca_block_alloc(bytes);
    void *device = host ? taca_alloc(b, bytes, err) : NULL;
    if (!device) {
        rc = host ? taca_alloc_code(b) : TACA_ENOMEM;
        free(host);
        return taca_fail(err, rc, "%s", t->name);
    }
    taca_to_f32(host, t->data, t->dtype, n);
    b->ops->upload(b, device, host, bytes);
    free(host);
    b->owned[b->n_owned++] = device;
    *out = device;
    return TACA_OK;
}

enum taca_code taca_vec_open(struct taca_backend *b, struct taca_vec *out,
                             const struct taca_tensor *t, struct taca_err *err) {
    void *device;
    enum taca_code rc = open_f32(b, &device, t, err);
    if (rc == TACA_OK) *out = (struct taca_vec){device, taca_tensor_count(t)};
    return rc;
}

enum taca_code taca_table_open(struct taca_backend *b, struct taca_mat *out,
                               const struct taca_tensor *t, struct taca_err *err) {
    void *device;
    bool lead = t->rank == 3 && t->dim[0] == 1;
    if (t->rank != 2 && !lead)
        return taca_fail(err, TACA_EFORMAT, "%s: rank %d, wanted 2, or 3 with a leading 1", t->name,
                         t->rank);
    enum taca_code rc = open_f32(b, &device, t, err);
    if (rc != TACA_OK) return rc;
    const int64_t *dim = t->dim + lead;
    *out = (struct taca_mat){device, TACA_F32, dim[0], dim[1], dim[1]};
    return rc;
}
