/* rewrite.h - a golden checkpoint with some tensors changed, in a file that the test removes. */
#ifndef TACA_TESTS_DIT_REWRITE_H
#define TACA_TESTS_DIT_REWRITE_H

#include <unistd.h>

#include "engine/io/safetensors.h"
#include "tests/test.h"

enum { MAX_TENSORS = 512 };

struct rewrite {
    const char *match; /* tensors whose name contains this ... */
    double factor;     /* ... are multiplied by this ... */
    bool drop;         /* ... or left out */
    int hits;
};

/* Writes `from` with the change to a new file; its path goes to `to`. */
static inline bool rewrite(char to[256], const char *from, struct rewrite *r) {
    static struct taca_tensor t[MAX_TENSORS];
    static float *copy[MAX_TENSORS];
    struct taca_safetensors *st = NULL;
    struct taca_err err = {0};
    size_t n = 0, copies = 0;
    const char *dir = getenv("TMPDIR");
    snprintf(to, 256, "%s/taca-dit-XXXXXX.safetensors", dir ? dir : "/tmp");
    int fd = mkstemps(to, 12);
    if (!CHECK(fd >= 0)) return false;
    close(fd);
    CHECK_OK(taca_safetensors_open(&st, from, &err), err);
    if (!st || !CHECK(taca_safetensors_count(st) <= MAX_TENSORS)) return false;
    for (size_t i = 0; i < taca_safetensors_count(st); i++) {
        t[n] = *taca_safetensors_at(st, i);
        if (strstr(t[n].name, r->match)) {
            r->hits++;
            if (r->drop) continue;
            size_t values = (size_t)taca_tensor_count(&t[n]);
            float *x = copy[copies++] = malloc(values * sizeof *x);
            if (!x) abort();
            taca_to_f32(x, t[n].data, t[n].dtype, values);
            for (size_t k = 0; k < values; k++) x[k] = (float)(r->factor * (double)x[k]);
            t[n].data = x;
            t[n].dtype = TACA_F32;
        }
        n++;
    }
    enum taca_code rc = taca_safetensors_write(to, t, n, &err);
    CHECK_OK(rc, err);
    CHECK(r->hits > 0);
    while (copies) free(copy[--copies]);
    taca_safetensors_close(st);
    return rc == TACA_OK;
}

#endif
