/* fuzz_gguf.c - any bytes as a .gguf file: opening ends in an error with words, or every tensor it
 * offers lies inside the file; and as a checkpoint, each tensor either converts or says why not.
 * For libFuzzer (preset fuzz) and for test_gguf_mutations.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/io/checkpoint.h"
#include "engine/io/gguf.h"
#include "tests/fuzz/fuzz.h"

/* Reads every byte of every tensor, so that a sanitizer or the MMU sees a wrong one. */
static void walk(const struct taca_gguf *g, size_t size) {
    size_t total = 0;
    unsigned sum = 0;
    for (size_t i = 0; i < taca_gguf_count(g); i++) {
        const struct taca_stored *t = taca_gguf_at(g, i);
        demand(t->rank >= 0 && t->rank <= TACA_MAX_RANK, "rank in range", t->name);
        demand(t->bytes <= size, "no larger than the file", t->name);
        demand(t->name[0] && t->spelled[0], "named", "");
        total += t->bytes;
        for (size_t k = 0; k < t->bytes; k++) sum += ((const unsigned char *)t->data)[k];
    }
    volatile unsigned sink = sum; /* so that the reads are not optimised away */
    (void)sink;
    demand(total <= size, "all tensors fit the file", "");
}

struct asker {
    struct taca_ckpt *c;
    size_t left; /* elements that may still be converted: blocks of 2 bits grow sixteenfold */
};

static void ask(void *ctx, const char *name) {
    struct asker *a = ctx;
    const struct taca_tensor *shape = taca_ckpt_peek(a->c, name);
    struct taca_tensor t;
    struct taca_err err = {0};
    if (!shape || (size_t)taca_tensor_count(shape) > a->left) return;
    a->left -= (size_t)taca_tensor_count(shape);
    enum taca_code rc = taca_ckpt_get(a->c, &t, name, shape->rank, shape->dim, &err);
    demand(rc == TACA_OK || err.text[0], "an error has words", name);
    if (rc) return;
    unsigned sum = 0;
    const size_t bytes = (size_t)taca_tensor_count(&t) * taca_dtype_bytes(t.dtype);
    for (size_t k = 0; k < bytes; k++) sum += ((const unsigned char *)t.data)[k];
    volatile unsigned sink = sum;
    (void)sink;
    taca_ckpt_drop(a->c);
}

static void as_checkpoint(const char *path, int kind) {
    struct asker a = {.left = 1 << 20};
    struct taca_err err = {0};
    enum taca_code rc = kind < 0 ? taca_ckpt_open(&a.c, path, &err)
                                 : taca_ckpt_open_kind(&a.c, path, (enum taca_kind)kind, &err);
    demand((rc == TACA_OK) == (a.c != NULL), "a checkpoint or an error", err.text);
    demand(rc == TACA_OK || err.text[0], "an error has words", err.text);
    if (a.c) taca_ckpt_unused(a.c, ask, &a);
    taca_ckpt_close(a.c);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct taca_gguf *g = NULL;
    struct taca_err err = {0};
    char path[40];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size)) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    enum taca_code rc = taca_gguf_open(&g, path, &err);
    demand((rc == TACA_OK) == (g != NULL), "a file or an error", err.text);
    demand(rc == TACA_OK || (err.code == rc && err.text[0]), "an error has words", err.text);
    if (g) walk(g, size);
    taca_gguf_close(g);
    if (rc == TACA_OK)
        for (int kind = -1; kind < TACA_KINDS; kind++) as_checkpoint(path, kind);
    close(fd);
    return 0;
}
