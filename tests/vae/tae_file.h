/* tae_file.h - a file of a tiny decoder whose weights follow from their names: the fill of
 * tests/golden/README.md, the same values under every spelling of the names. */
#ifndef TACA_TESTS_VAE_TAE_FILE_H
#define TACA_TESTS_VAE_TAE_FILE_H

#include "tests/test.h"

enum { TAE_WIDTH = 12, TAE_LATENT = 16, TAE_NAME = 64 };

static uint32_t tae_fnv1a(const char *s) {
    uint32_t h = 2166136261u;
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    return h;
}

static void tae_fill(float *out, size_t n, const char *name, double scale) {
    uint32_t x = tae_fnv1a(name);
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        out[i] = (float)(((x >> 8) / 16777216.0 - 0.5) * 2 * scale);
    }
}

struct tae_file {
    const char *prefix;
    int shift;        /* of the layers' numbers */
    const char *omit; /* original name that is left out, NULL = none */
    char header[1 << 14];
    float data[1 << 16];
    size_t at, used;
};

/* name: of the original; the fill follows from it whatever the file's spelling. */
static void tae_add(struct tae_file *f, int layer, const char *rest, double scale,
                    const int64_t *dim, int rank) {
    char original[TAE_NAME], shape[TAE_NAME] = "";
    size_t n = 1, len = 0;
    snprintf(original, sizeof original, "%d%s", layer, rest);
    if (f->omit && strcmp(f->omit, original) == 0) return;
    for (int i = 0; i < rank; i++) {
        n *= (size_t)dim[i];
        len += (size_t)snprintf(shape + len, sizeof shape - len, "%s%d", i ? "," : "", (int)dim[i]);
    }
    tae_fill(f->data + f->used, n, original, scale);
    f->at += (size_t)snprintf(
        f->header + f->at, sizeof f->header - f->at,
        "%s\"%s%d%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
        f->at > 1 ? "," : "", f->prefix, layer + f->shift, rest, shape, f->used * sizeof(float),
        (f->used + n) * sizeof(float));
    f->used += n;
}

static void tae_add_conv(struct tae_file *f, int layer, const char *inner, int64_t in, int64_t out,
                         bool bias) {
    char rest[TAE_NAME];
    snprintf(rest, sizeof rest, "%s.weight", inner);
    tae_add(f, layer, rest, sqrt(3.0 / (9 * (double)in)) * 1.2, (int64_t[]){out, in, 3, 3}, 4);
    snprintf(rest, sizeof rest, "%s.bias", inner);
    if (bias) tae_add(f, layer, rest, 0.2, &out, 1);
}

static void tae_file_write(struct tae_file *f, const char *path) {
    static const int blocks[] = {3, 4, 5, 8, 9, 10, 13, 14, 15, 18}, ups[] = {7, 12, 17};
    f->header[f->at++] = '{';
    tae_add_conv(f, 1, "", TAE_LATENT, TAE_WIDTH, true);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        for (int k = 0; k < 3; k++)
            tae_add_conv(f, blocks[i], (const char *[]){".conv.0", ".conv.2", ".conv.4"}[k],
                         TAE_WIDTH, TAE_WIDTH, true);
    for (size_t i = 0; i < sizeof ups / sizeof *ups; i++)
        tae_add_conv(f, ups[i], "", TAE_WIDTH, TAE_WIDTH, false);
    tae_add_conv(f, 19, "", TAE_WIDTH, 3, true);
    f->header[f->at++] = '}';
    const uint64_t len = f->at;
    FILE *out = fopen(path, "wb");
    if (!CHECK(out != NULL)) return;
    CHECK_INT(fwrite(&len, 1, sizeof len, out), sizeof len);
    CHECK_INT(fwrite(f->header, 1, f->at, out), f->at);
    CHECK_INT(fwrite(f->data, sizeof(float), f->used, out), f->used);
    fclose(out);
}

#endif
