/* write.c - taca_safetensors_write. Not for services: nothing of ours writes weights while serving.
 *
 * Wide dtypes first, then by name, header padded to 8 bytes: every tensor is aligned to its element
 * in the mapping, as the reference writer has it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "engine/io/io.h"
#include "engine/io/safetensors.h"

enum { MAX_HEADER = 100 * 1000 * 1000 };

static int wide_first(const void *a, const void *b) {
    const struct taca_tensor *x = *(const struct taca_tensor *const *)a;
    const struct taca_tensor *y = *(const struct taca_tensor *const *)b;
    if (x->dtype != y->dtype) {
        size_t bx = taca_dtype_bytes(x->dtype), by = taca_dtype_bytes(y->dtype);
        if (bx != by) return bx > by ? -1 : 1;
    }
    return strcmp(x->name, y->name);
}

static size_t byte_count(const struct taca_tensor *t) {
    return (size_t)taca_tensor_count(t) * taca_dtype_bytes(t->dtype);
}

static void put_header(struct taca_buf *b, const struct taca_tensor *const *list, size_t n) {
    static const char *const spelled[TACA_DTYPES] = {"F32", "BF16", "F16", "I32", "I64", "U8"};
    size_t at = 0;
    taca_buf_puts(b, "{");
    for (size_t i = 0; i < n; i++) {
        const struct taca_tensor *t = list[i];
        size_t bytes = byte_count(t);
        taca_buf_puts(b, i ? "," : "");
        taca_buf_json(b, t->name, strlen(t->name));
        taca_buf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", spelled[t->dtype]);
        for (int k = 0; k < t->rank; k++)
            taca_buf_printf(b, "%s%lld", k ? "," : "", (long long)t->dim[k]);
        taca_buf_printf(b, "],\"data_offsets\":[%zu,%zu]}", at, at + bytes);
        at += bytes;
    }
    taca_buf_puts(b, "}");
    while (!b->failed && b->len % 8 != 0) taca_buf_puts(b, " ");
}

static bool put_file(FILE *f, const struct taca_buf *header, const struct taca_tensor *const *list,
                     size_t n) {
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)((uint64_t)header->len >> 8 * i);
    if (fwrite(prefix, 1, sizeof prefix, f) != sizeof prefix) return false;
    if (fwrite(header->data, 1, header->len, f) != header->len) return false;
    for (size_t i = 0; i < n; i++) {
        size_t bytes = byte_count(list[i]);
        if (bytes && fwrite(list[i]->data, 1, bytes, f) != bytes) return false;
    }
    return true;
}

enum taca_code taca_safetensors_write(const char *path, const struct taca_tensor *tensors, size_t n,
                                      struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    struct taca_buf header;
    FILE *f = NULL;
    const struct taca_tensor **list = calloc(n + 1, sizeof *list);
    taca_buf_init(&header, MAX_HEADER);
    if (!list) {
        rc = taca_fail(err, TACA_ENOMEM, "%s: out of memory", path);
        goto out;
    }
    for (size_t i = 0; i < n; i++) list[i] = &tensors[i];
    qsort(list, n, sizeof *list, wide_first);
    put_header(&header, list, n);
    if (header.failed) {
        rc = taca_fail(err, TACA_ENOMEM, "%s: header of %zu tensors", path, n);
        goto out;
    }
    f = fopen(path, "wbe");
    if (!f) {
        rc = taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
        goto out;
    }
    bool ok = put_file(f, &header, list, n);
    if (fclose(f) != 0 || !ok) {
        rc = taca_fail(err, TACA_EIO, "%s: writing: %s", path, strerror(errno));
        unlink(path); /* half a file must not be mistaken for a whole one */
    }
out:
    taca_buf_finish(&header);
    free(list);
    return rc;
}
