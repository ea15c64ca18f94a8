/* random.c - a checkpoint of normal values that has whatever tensor it is asked for, in the shape
 * wanted: to run the real structure of a model without its file. Weights are scaled so that rows of
 * a product stay about as large as its input; gains lie about 1. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io/ckpt.h"

enum { TABLE = 1 << 16 };

struct ckpt_made {
    struct ckpt_made *next;
    void *data;
    char name[];
};

struct ckpt_random {
    uint64_t state;
    struct ckpt_made *made;
    float normal[TABLE]; /* drawn from by 16 bits each */
};

static uint64_t draw(struct ckpt_random *r) {
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return r->state;
}

/* Box and Muller. */
static void fill_table(struct ckpt_random *r) {
    for (int i = 0; i < TABLE; i += 2) {
        const double u = ((double)(draw(r) >> 11) + 1) * 0x1p-53, v = (double)(draw(r) >> 11);
        const double radius = sqrt(-2 * log(u)), angle = 6.283185307179586 * v * 0x1p-53;
        r->normal[i] = (float)(radius * cos(angle));
        r->normal[i + 1] = (float)(radius * sin(angle));
    }
}

enum taca_code taca_ckpt_open_random(struct taca_ckpt **out, uint64_t seed, struct taca_err *err) {
    struct taca_ckpt *c = calloc(1, sizeof *c);
    if (c) c->path = strdup("random weights");
    if (c) c->random = calloc(1, sizeof *c->random);
    if (!c || !c->path || !c->random) {
        taca_ckpt_close(c);
        return taca_fail(err, TACA_ENOMEM, "random weights");
    }
    c->random->state = seed ? seed : 1;
    fill_table(c->random);
    *out = c;
    return TACA_OK;
}

void ckpt_random_drop(struct ckpt_random *r) {
    while (r->made) {
        struct ckpt_made *m = r->made;
        r->made = m->next;
        free(m->data);
        free(m);
    }
}

static void fill(struct ckpt_random *r, uint16_t *to, int64_t n, float scale, float plus) {
    uint64_t bits = 0;
    for (int64_t i = 0; i < n; i++, bits >>= 16) {
        if (i % 4 == 0) bits = draw(r);
        to[i] = taca_f32_to_bf16(plus + scale * r->normal[bits & (TABLE - 1)]);
    }
}

enum taca_code ckpt_random_get(struct taca_ckpt *c, struct taca_tensor *out, const char *name,
                               int rank, const int64_t *dim, struct taca_err *err) {
    struct taca_tensor t = {.dtype = TACA_BF16, .rank = rank};
    size_t count = 1, bytes;
    for (int i = 0; i < rank; i++) {
        t.dim[i] = dim[i];
        if (dim[i] < 0 || !taca_mul(&count, count, (size_t)dim[i]))
            return taca_fail(err, TACA_EINTERNAL, "%s: a shape of its own is needed", name);
    }
    struct ckpt_made *m = calloc(1, sizeof *m + strlen(name) + 1);
    if (m && taca_mul(&bytes, count, sizeof(uint16_t))) m->data = malloc(bytes);
    if (!m || !m->data) {
        free(m);
        return taca_fail(err, TACA_ENOMEM, "%s", name);
    }
    const bool matrix = rank > 1, gain = !matrix && strstr(name, "weight");
    const float fan_in = (float)count / (float)dim[0];
    fill(c->random, m->data, (int64_t)count, matrix ? 1 / sqrtf(fan_in) : 0.1f, gain ? 1 : 0);
    memcpy(m->name, name, strlen(name) + 1);
    m->next = c->random->made;
    c->random->made = m;
    t.name = m->name;
    t.data = m->data;
    *out = t;
    return TACA_OK;
}
