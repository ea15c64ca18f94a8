/* fixture.h - encoders from weights made by a fill: tests/golden/README.md describes it, the values
 * to compare with are those of encoders_golden_models.json. */
#ifndef TACA_TESTS_TEXT_FIXTURE_H
#define TACA_TESTS_TEXT_FIXTURE_H

#include <jansson.h>
#include <unistd.h>

#include "engine/io/checkpoint.h"
#include "engine/io/safetensors.h"
#include "kernels/backend.h"
#include "tests/test.h"

enum { MAX_TENSORS = 64, MAX_NAME = 96 };

/* ---- weights --------------------------------------------------------------------------------- */

struct weights {
    struct taca_tensor tensor[MAX_TENSORS];
    char name[MAX_TENSORS][MAX_NAME];
    int n;
};

static void fill(float *v, size_t n, const char *name, double scale) {
    bool norm = strstr(name, "layer_norm") && strstr(name, ".weight");
    uint32_t x = 0x811C9DC5u;
    for (const char *p = name; *p; p++) x = (x ^ (unsigned char)*p) * 0x01000193u;
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        double unit = ((double)(x >> 8) / 16777216.0 - 0.5) * 2.0;
        v[i] = (float)(norm ? 1.0 + unit * 0.1 : unit * scale);
    }
}

/* Tensors of `keys` (name: shape), filled under their full name, stored without `strip`. */
static void make_weights(struct weights *w, const json_t *keys, double scale, const char *strip) {
    const char *name;
    json_t *shape;
    w->n = 0;
    json_object_foreach((json_t *)keys, name, shape) {
        struct taca_tensor *t = &w->tensor[w->n];
        size_t skip = strncmp(name, strip, strlen(strip)) == 0 ? strlen(strip) : 0;
        snprintf(w->name[w->n], MAX_NAME, "%s", name + skip);
        *t = (struct taca_tensor){.name = w->name[w->n], .dtype = TACA_F32};
        t->rank = (int)json_array_size(shape);
        for (int i = 0; i < t->rank; i++)
            t->dim[i] = json_integer_value(json_array_get(shape, (size_t)i));
        float *v = malloc((size_t)taca_tensor_count(t) * sizeof *v);
        fill(v, (size_t)taca_tensor_count(t), name, scale);
        t->data = v;
        w->n++;
    }
}

static void free_weights(struct weights *w) {
    for (int i = 0; i < w->n; i++) free((void *)w->tensor[i].data);
}

static struct taca_ckpt *to_ckpt(const struct weights *w) {
    char path[64] = "/tmp/taca_clip_XXXXXX.safetensors";
    struct taca_err err = {0};
    struct taca_ckpt *c = NULL;
    close(mkstemps(path, 12));
    CHECK_OK(taca_safetensors_write(path, w->tensor, (size_t)w->n, &err), err);
    CHECK_OK(taca_ckpt_open(&c, path, &err), err);
    unlink(path);
    return c;
}

/* ---- a case of encoders_golden_models.json --------------------------------------------------- */

struct golden {
    json_t *root, *config;
    const json_t *v;
    struct weights w;
};

static bool open_golden(struct golden *g, const char *name, const char *strip) {
    json_error_t e;
    g->root = json_load_file(TACA_GOLDEN_DIR "/encoders/encoders_golden_models.json", 0, &e);
    g->v = json_object_get(g->root, name);
    if (!CHECK(g->v != NULL)) return false;
    g->config = json_deep_copy(json_object_get(g->v, "config"));
    json_object_set(g->config, "vocab_size", json_object_get(g->v, "vocab"));
    make_weights(&g->w, json_object_get(g->v, "keys"),
                 json_number_value(json_object_get(g->v, "scale")), strip);
    return true;
}

static void close_golden(struct golden *g) {
    free_weights(&g->w);
    json_decref(g->config);
    json_decref(g->root);
}

/* Numbers of a possibly nested array, in order. */
static size_t flatten(float *out, const json_t *v) {
    size_t n = 0, i;
    const json_t *item;
    if (!json_is_array(v)) return *out = (float)json_number_value(v), 1;
    json_array_foreach(v, i, item) n += flatten(out + n, item);
    return n;
}

static struct taca_backend *open_backend(bool deterministic) {
    struct taca_backend *b = NULL;
    struct taca_err err = {0};
    const struct taca_backend_opts opts = {
        .threads = 1, .precision = TACA_F32, .deterministic = deterministic};
    CHECK_OK(taca_cpu_open(&b, &opts, &err), err);
    return b;
}
static struct taca_backend *open_cpu(void) { return open_backend(false); }

#endif
