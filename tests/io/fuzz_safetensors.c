/* fuzz_safetensors.c - any bytes as a .safetensors file: opening ends in an error with words, or
 * every tensor it offers lies inside the file and is found under its name. For libFuzzer
 * (preset fuzz) and for test_mutations.c, which mutates on its own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/io/safetensors.h"
#include "tests/fuzz/fuzz.h"

/* Reads every byte of every tensor, so that a sanitizer or the MMU sees a wrong one. */
static void walk(const struct taca_safetensors *st, size_t size) {
    size_t total = 0;
    unsigned sum = 0;
    for (size_t i = 0; i < taca_safetensors_count(st); i++) {
        const struct taca_tensor *t = taca_safetensors_at(st, i);
        size_t bytes = (size_t)taca_tensor_count(t) * taca_dtype_bytes(t->dtype);
        demand(taca_safetensors_find(st, t->name) == t, "found under its name", t->name);
        demand(t->rank >= 0 && t->rank <= TACA_MAX_RANK, "rank in range", t->name);
        demand(bytes <= size, "no larger than the file", t->name);
        for (size_t k = 0; k < bytes; k++) sum += ((const unsigned char *)t->data)[k];
    }
    for (size_t i = 0; i < taca_safetensors_stored_count(st); i++) {
        const struct taca_stored *t = taca_safetensors_stored_at(st, i);
        for (size_t k = 0; k < t->bytes; k++) sum += ((const unsigned char *)t->data)[k];
        total += t->bytes;
    }
    volatile unsigned sink = sum; /* so that the reads are not optimised away */
    (void)sink;
    demand(total <= size, "all tensors fit the file", "");
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct taca_safetensors *st = NULL;
    struct taca_err err = {0};
    char path[40];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size)) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    enum taca_code rc = taca_safetensors_open(&st, path, &err);
    demand((rc == TACA_OK) == (st != NULL), "a file or an error", err.text);
    demand(rc == TACA_OK || (err.code == rc && err.text[0]), "an error has words", err.text);
    if (st) walk(st, size);
    taca_safetensors_close(st);
    close(fd);
    return 0;
}
