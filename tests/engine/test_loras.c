/* test_loras.c - adapters at the step border with the demo checkpoint: a window that ends leaves
 * nothing behind, the next request begins anew, batches mix what they like, and refusals. */
#include <unistd.h>

#include "engine/core.h"
#include "engine/dit/modules.h"
#include "engine/io/safetensors.h"
#include "tests/test.h"

enum { RANK = 3, MAX_FILES = 4 };
static char file[MAX_FILES][64];

static uint64_t rng = 88172645463325252u;
static float normal(void) { /* near enough: twelve uniforms */
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
        sum += (double)(rng >> 11) * 0x1p-53;
    }
    return (float)sum;
}

static struct taca_tensor random_tensor(const char *module, const char *suffix, int64_t rows,
                                        int64_t cols, double scale) {
    char name[160];
    snprintf(name, sizeof name, "transformer.%s.%s", module, suffix);
    float *x = malloc((size_t)(rows * cols) * sizeof *x);
    for (int64_t i = 0; i < rows * cols; i++) x[i] = (float)scale * normal();
    return (struct taca_tensor){strdup(name), x, TACA_F32, 2, {rows, cols}};
}

/* Writes an adapter of every second module of the model, from `first` on. */
static void write_adapter(const struct taca_engine *e, int k, int first) {
    const int n = dit_modules(e->dit, NULL, 0);
    struct dit_module *m = calloc((size_t)n, sizeof *m);
    struct taca_tensor *t = calloc((size_t)n * 2, sizeof *t);
    struct taca_err err = {0};
    size_t count = 0;
    dit_modules(e->dit, m, n);
    for (int i = first; i < n; i += 2) {
        if (!m[i].w) continue; /* a norm */
        t[count++] = random_tensor(m[i].name, "lora_A.weight", RANK, m[i].w->in,
                                   1 / sqrt((double)m[i].w->in));
        t[count++] = random_tensor(m[i].name, "lora_B.weight", m[i].out, RANK, 0.1);
    }
    snprintf(file[k], sizeof file[k], "/tmp/taca-lora-%d-%d.safetensors", (int)getpid(), k);
    CHECK_OK(taca_safetensors_write(file[k], t, count, &err), err);
    for (size_t i = 0; i < count; i++) free((char *)t[i].name), free((float *)t[i].data);
    free(t);
    free(m);
}

/* The demo engine with adapters "a" and "b": half of the modules each, "b" has the text. */
static struct taca_engine *open_engine(enum taca_precision precision) {
    struct taca_engine *e = NULL;
    struct taca_err err = {0};
    const struct taca_engine_opts opts = {.model_path = TACA_SOURCE_DIR "/models/demo",
                                          .precision = precision,
                                          .deterministic = true};
    if (!CHECK(taca_engine_open(&e, &opts, &err) == TACA_OK)) return NULL;
    for (int k = 0; k < 2; k++) {
        if (!file[k][0]) write_adapter(e, k, k);
        CHECK_OK(taca_lora_open(e, k ? "b" : "a", file[k], NULL, NULL, &err), err);
    }
    return e;
}

static struct taca_gen_params request(const struct taca_engine *e) {
    struct taca_gen_params p;
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = "a red cube to the left of a blue ball";
    p.width_px = 80;
    p.height_px = 64;
    p.steps = 5;
    p.seed = 7;
    return p;
}

static void add(struct taca_gen_params *p, const char *id, double scale, bool windowed) {
    p->loras[p->n_loras++] =
        (struct taca_lora_use){id, scale, windowed ? TACA_LORA_IN_WINDOW : TACA_LORA_ALWAYS};
    if (!windowed) return;
    p->taca = taca_window_default();
    p->taca.rule = TACA_WINDOW_STEPS;
    p->taca.end_step = 2;
}

static struct taca_seq *open_seq(struct taca_engine *e, const struct taca_gen_params *p) {
    struct taca_err err = {0};
    struct taca_seq *s = NULL;
    CHECK_OK(taca_seq_open(e, p, &s, NULL, &err), err);
    return s;
}

static float *latent(struct taca_engine *e, const struct taca_seq *s, size_t *n) {
    struct taca_err err = {0};
    *n = (size_t)(s->latent.c * s->latent.h * s->latent.w);
    float *x = malloc(*n * sizeof *x);
    CHECK_OK(seq_latent_read(e, s, x, &err), err);
    return x;
}

/* The latent of p run alone up to `steps`; free() it. */
static float *run(struct taca_engine *e, const struct taca_gen_params *p, int steps, size_t *n) {
    struct taca_err err = {0};
    struct taca_seq *s = open_seq(e, p);
    for (int i = 0; s && i < steps; i++) CHECK_OK(taca_step(e, &s, 1, &err), err);
    float *x = latent(e, s, n);
    taca_seq_close(e, s);
    return x;
}

static double distance(const float *a, const float *b, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
    return worst;
}

/* ---- the window ------------------------------------------------------------------------------ */

/* Given the same latents, steps after the window are those of the base model, bit for bit. */
static void after_the_window(struct taca_engine *e, const char *id) {
    struct taca_err err = {0};
    struct taca_gen_params with = request(e), base = request(e);
    size_t n;
    add(&with, id, 1, true);
    struct taca_seq *s = open_seq(e, &with), *plain = open_seq(e, &base);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(taca_step(e, &s, 1, &err), err);
        CHECK_OK(taca_step(e, &plain, 1, &err), err);
    }
    float *x = latent(e, s, &n), *y = latent(e, plain, &n);
    CHECK(distance(x, y, n) > 1e-3);
    CHECK_OK(seq_latent_write(e, plain, x, 2, &err), err);
    for (int i = 2; i < 5; i++) {
        free(x), free(y);
        CHECK_OK(taca_step(e, &s, 1, &err), err);
        CHECK_OK(taca_step(e, &plain, 1, &err), err);
        x = latent(e, s, &n), y = latent(e, plain, &n);
        CHECK(memcmp(x, y, n * sizeof *x) == 0);
    }
    free(x), free(y);
    taca_seq_close(e, s);
    taca_seq_close(e, plain);
}

static void test_steps_after_the_window_are_the_base_models(void) {
    struct taca_engine *e = open_engine(TACA_PRECISION_F32);
    if (!e) return;
    CHECK(dit_adapter_get_info(e->loras->adapter)->context !=
          dit_adapter_get_info(e->loras->next->adapter)->context);
    after_the_window(e, "a");
    after_the_window(e, "b");
    taca_engine_close(e);
}

static void test_the_next_request_begins_with_the_adapter_again(void) {
    struct taca_engine *e = open_engine(TACA_PRECISION_F32);
    if (!e) return;
    struct taca_gen_params with = request(e), base = request(e);
    size_t n;
    add(&with, "a", 1, true);
    float *first = run(e, &with, 5, &n), *plain = run(e, &base, 5, &n);
    float *again = run(e, &with, 5, &n), *plain_again = run(e, &base, 5, &n);
    CHECK(memcmp(first, again, n * sizeof *first) == 0);
    CHECK(memcmp(plain, plain_again, n * sizeof *first) == 0);
    CHECK(distance(first, plain, n) > 1e-3);
    free(first), free(plain), free(again), free(plain_again);
    taca_engine_close(e);
}

/* ---- batches --------------------------------------------------------------------------------- */

enum { N_MIXED = 7 };
static struct taca_gen_params mixed(const struct taca_engine *e, int k) {
    struct taca_gen_params p = request(e);
    p.width_px = 64 + 16 * (k % 3);
    p.cfg_scale = k % 3 == 1 ? 1 : 4;
    p.seed = (uint64_t)(50 + k);
    switch (k) {
    case 1: add(&p, "a", 1, false); break;
    case 2: add(&p, "b", -0.5, false); break;
    case 3: add(&p, "b", 0.7, false), add(&p, "a", 0.4, false); break;
    case 4: add(&p, "a", 1, true); break;
    case 5: add(&p, "a", 1, true), add(&p, "b", 0.3, false); break;
    default: break;
    }
    return p;
}

static void mix(enum taca_precision precision) {
    struct taca_engine *e = open_engine(precision);
    struct taca_err err = {0};
    struct taca_seq *seqs[N_MIXED];
    float *alone[N_MIXED];
    size_t n;
    if (!e) return;
    for (int k = 0; k < N_MIXED; k++) {
        const struct taca_gen_params p = mixed(e, k);
        alone[k] = run(e, &p, 5, &n);
        CHECK(isfinite(alone[k][0]));
    }
    for (int k = 0; k < N_MIXED; k++) {
        const struct taca_gen_params p = mixed(e, k);
        seqs[k] = open_seq(e, &p);
    }
    for (int i = 0; i < 5; i++) CHECK_OK(taca_step(e, seqs, N_MIXED, &err), err);
    for (int k = 0; k < N_MIXED; k++) {
        float *x = latent(e, seqs[k], &n);
        if (!CHECK(memcmp(x, alone[k], n * sizeof *x) == 0))
            printf("        sequence %d differs by %g\n", k, distance(x, alone[k], n));
        taca_seq_close(e, seqs[k]);
        free(x), free(alone[k]);
    }
    taca_engine_close(e);
}

static void test_a_mixed_batch_equals_each_alone(void) { mix(TACA_PRECISION_F32); }
static void test_the_same_in_bf16_where_there_is_one(void) {
    struct taca_engine *e = NULL;
    const struct taca_engine_opts opts = {.model_path = TACA_SOURCE_DIR "/models/demo",
                                          .precision = TACA_PRECISION_BF16};
    struct taca_err err = {0};
    if (taca_engine_open(&e, &opts, &err)) {
        SKIP("no bf16 on this machine");
        return;
    }
    taca_engine_close(e);
    mix(TACA_PRECISION_BF16);
}

/* The order in which a request names adapters is nothing; strength 0 is no adapter. */
static void test_order_is_nothing_and_strength_0_is_none(void) {
    struct taca_engine *e = open_engine(TACA_PRECISION_F32);
    if (!e) return;
    struct taca_gen_params ab = request(e), ba = request(e), zero = request(e), base = request(e);
    size_t n;
    add(&ab, "a", 0.7, false), add(&ab, "b", 0.4, false);
    add(&ba, "b", 0.4, false), add(&ba, "a", 0.7, false);
    add(&zero, "a", 0, false);
    float *x = run(e, &ab, 3, &n), *y = run(e, &ba, 3, &n);
    CHECK(memcmp(x, y, n * sizeof *x) == 0);
    float *z = run(e, &zero, 3, &n), *w = run(e, &base, 3, &n);
    CHECK(memcmp(z, w, n * sizeof *z) == 0);
    free(x), free(y), free(z), free(w);
    taca_engine_close(e);
}

/* ---- cost and refusals ----------------------------------------------------------------------- */

static void test_adapters_count_in_the_cost(void) {
    struct taca_engine *e = open_engine(TACA_PRECISION_F32);
    if (!e) return;
    struct taca_err err = {0};
    struct taca_gen_params p = request(e);
    struct taca_cost base, always, windowed;
    CHECK_OK(taca_engine_cost(e, &p, &base, &err), err);
    add(&p, "a", 1, false);
    CHECK_OK(taca_engine_cost(e, &p, &always, &err), err);
    p.n_loras = 0;
    add(&p, "a", 1, true), add(&p, "b", 1, true);
    CHECK_OK(taca_engine_cost(e, &p, &windowed, &err), err);
    CHECK(always.step_flops > base.step_flops && windowed.step_flops > always.step_flops);
    CHECK(always.seq_bytes == base.seq_bytes);
    CHECK(windowed.seq_bytes > base.seq_bytes); /* the text twice */
    CHECK_INT(e->loras->users, 0);
    taca_engine_close(e);
}

static void test_refusals_name_the_adapter(void) {
    struct taca_engine *e = open_engine(TACA_PRECISION_F32);
    if (!e) return;
    struct taca_err err = {0};
    struct taca_gen_params p = request(e);
    struct taca_seq *s = NULL;
    CHECK_INT(taca_lora_open(e, "a", file[0], NULL, NULL, &err), TACA_EINVAL);
    CHECK_HAS(err.text, "adapter a is there already");
    err = (struct taca_err){0};
    CHECK_INT(taca_lora_open(e, "", file[0], NULL, NULL, &err), TACA_EINVAL);
    err = (struct taca_err){0};
    CHECK_INT(taca_lora_open(e, "c", "/nowhere.safetensors", NULL, NULL, &err), TACA_ENOTFOUND);
    CHECK(taca_lora_at(e, 2) == NULL);
    CHECK_STR(taca_lora_at(e, 1)->id, "b");
    CHECK_STR(taca_lora_at(e, 1)->naming, "diffusers");
    err = (struct taca_err){0};
    add(&p, "nobody", 1, false);
    CHECK_INT(taca_seq_open(e, &p, &s, NULL, &err), TACA_EINVAL);
    CHECK_HAS(err.text, "nobody");
    CHECK_STR(err.param, "loras");
    p.n_loras = 0;
    add(&p, "a", 1, false);
    s = open_seq(e, &p);
    err = (struct taca_err){0};
    CHECK_INT(taca_lora_close(e, "a", &err), TACA_EBUSY);
    taca_seq_close(e, s);
    err = (struct taca_err){0};
    CHECK_OK(taca_lora_close(e, "a", &err), err);
    CHECK_INT(taca_lora_close(e, "a", &err), TACA_EINVAL);
    taca_engine_close(e);
}

int main(void) {
    TEST(test_steps_after_the_window_are_the_base_models);
    TEST(test_the_next_request_begins_with_the_adapter_again);
    TEST(test_a_mixed_batch_equals_each_alone);
    TEST(test_the_same_in_bf16_where_there_is_one);
    TEST(test_order_is_nothing_and_strength_0_is_none);
    TEST(test_adapters_count_in_the_cost);
    TEST(test_refusals_name_the_adapter);
    for (int k = 0; k < MAX_FILES; k++)
        if (file[k][0]) unlink(file[k]);
    return TEST_END();
}
