/* test_engine_nomem.c - opening an engine, whole and part by part, with its allocations failing in
 * turn: transformers and autoencoders of either family, at every precision, a directory, parts in
 * GGUF and in original names, an adapter, a plan. Long ones fail at a stride. */
#include "engine/core.h"
#include "engine/io/gguf.h"
#include "tests/engine/flux_dir.h"
#include "tests/io/gguf_make.h"
#include "tests/nomem.h"

struct part {
    const char *config, *weights; /* of the transformer or the autoencoder */
    struct taca_backend_opts backend;
};

static enum taca_code with_part(const struct part *p, bool dit, struct taca_err *err) {
    struct taca_backend *b = NULL;
    struct taca_ckpt *ckpt = NULL;
    json_t *config = NULL;
    struct dit *d = NULL;
    struct vae *v = NULL;
    enum taca_code rc = taca_json_load(&config, p->config, err);
    if (!rc) rc = taca_cpu_open(&b, &p->backend, err);
    if (!rc) rc = taca_ckpt_open_kind(&ckpt, p->weights, dit ? TACA_DIT : TACA_AUTOENCODER, err);
    if (!rc) rc = dit ? dit_open(&d, b, config, ckpt, err) : vae_open(&v, b, config, ckpt, err);
    CHECK((rc == TACA_OK) == (d || v));
    dit_close(d);
    vae_close(v);
    taca_ckpt_close(ckpt);
    taca_backend_close(b);
    json_decref(config);
    return rc;
}
static enum taca_code open_a_dit(void *p, struct taca_err *err) { return with_part(p, true, err); }
static enum taca_code open_a_vae(void *p, struct taca_err *err) { return with_part(p, false, err); }

#define MODEL(name) GOLDEN("models/" name)

static void test_transformers_survive_failed_allocations(void) {
    const struct taca_backend_opts f32 = {.threads = 1, .precision = TACA_F32};
    const struct taca_backend_opts int8 = {
        .threads = 1, .precision = TACA_BF16, .narrow = TACA_NARROW_INT8};
    const struct taca_backend_opts plain = {.threads = 1, .scalar = true};
    struct part sd3 = {MODEL("sd35m_tiny.config.json"), MODEL("sd35m_tiny.diffusers.safetensors"),
                       f32};
    struct part flux = {MODEL("flux_tiny_dev.config.json"),
                        MODEL("flux_tiny_dev.diffusers.safetensors"), f32};
    struct part original = {MODEL("flux_tiny_schnell.config.json"),
                            MODEL("flux_tiny_schnell.bfl.safetensors"), f32};
    nomem_sweep("sd3, f32", open_a_dit, &sd3, 13);
    nomem_sweep("flux, f32", open_a_dit, &flux, 13);
    nomem_sweep("flux, original names", open_a_dit, &original, 13);
    sd3.backend = flux.backend = int8;
    nomem_sweep("sd3, int8", open_a_dit, &sd3, 13);
    nomem_sweep("flux, int8", open_a_dit, &flux, 13);
    sd3.backend = plain;
    nomem_sweep("sd3, plain C", open_a_dit, &sd3, 13);
}

static void test_autoencoders_survive_failed_allocations(void) {
    struct part vae = {MODEL("vae_tiny_sd3.config.json"),
                       MODEL("vae_tiny_sd3.diffusers.safetensors"),
                       {.threads = 1, .precision = TACA_BF16}};
    nomem_sweep("vae", open_a_vae, &vae, 13);
}

static enum taca_code open_an_engine(void *opts, struct taca_err *err) {
    struct taca_engine *e = NULL;
    enum taca_code rc = taca_engine_open(&e, opts, err);
    CHECK((rc == TACA_OK) == (e != NULL));
    taca_engine_close(e);
    return rc;
}

/* The transformer of a directory as GGUF: names as they are, matrices of whole blocks in Q8_0. */
static const char *write_gguf(const char *from, const char *name) {
    struct taca_safetensors *st = NULL;
    struct taca_err err = {0};
    size_t at = 0;
    CHECK_OK(taca_safetensors_open(&st, from, &err), err);
    if (!st) abort();
    const size_t n = taca_safetensors_count(st);
    gg_begin(3, n, 1);
    gg_key_text("general.architecture", "flux");
    for (size_t i = 0; i < n; i++) {
        const struct taca_tensor *t = taca_safetensors_at(st, i);
        const bool matrix = t->rank == 2, blocks = matrix && t->dim[1] % 32 == 0;
        const size_t values = (size_t)taca_tensor_count(t);
        gg_tensor(t->name, (uint64_t)(matrix ? t->dim[1] : t->dim[0]),
                  matrix ? (uint64_t)t->dim[0] : 0, blocks ? 8 : 0, at);
        at += ((blocks ? values / 32 * 34 : values * 4) + 31) / 32 * 32;
    }
    for (size_t i = 0; i < n; i++) {
        const struct taca_tensor *t = taca_safetensors_at(st, i);
        const size_t values = (size_t)taca_tensor_count(t);
        gg_pad(32);
        if (t->rank == 2 && t->dim[1] % 32 == 0)
            for (size_t k = 0; k < values / 32; k++) {
                gg_int(0x2000, 2); /* a scale of 2^-7 */
                for (int j = 0; j < 32; j++) gg_int((uint64_t)(j * 7 % 13), 1);
            }
        else
            for (size_t k = 0; k < values; k++) gg_int(0x3C000000, 4); /* 2^-7 */
    }
    gg_pad(32);
    taca_safetensors_close(st);
    const char *path = gg_end(name);
    taca_buf_finish(&gg);
    return path;
}

static void test_an_engine_survives_failed_allocations(void) {
    struct taca_engine_opts demo = {.model_path = TACA_SOURCE_DIR "/models/demo",
                                    .precision = TACA_PRECISION_F32,
                                    .threads = 1};
    nomem_sweep("demo", open_an_engine, &demo, 151);
    demo.plan = true;
    nomem_sweep("demo, for a plan", open_an_engine, &demo, 151);
    const char *from = "flux/transformer/diffusion_pytorch_model.safetensors";
    make_model("flux", true);
    struct taca_engine_opts flux = {
        .model_path = tmp_path("flux"), .precision = TACA_PRECISION_F32, .threads = 1};
    struct taca_engine_opts gguf = flux;
    gguf.transformer = write_gguf(tmp_path(from), "flux.gguf");
    /* T5's vocabulary is 40,000 allocations before the last parts */
    nomem_sweep("flux", open_an_engine, &flux, 1009);
    nomem_sweep("flux, GGUF", open_an_engine, &gguf, 1009);
}

static const struct taca_engine_opts demo = {
    .model_path = TACA_SOURCE_DIR "/models/demo", .precision = TACA_PRECISION_F32, .threads = 1};

/* The latent of a walk that draws noise, whose first step has its n-th allocation failing (0: none)
 * and is then made again. False when so many are not made. */
static bool walk(long n, float *latent) {
    struct taca_engine *e = NULL;
    struct taca_seq *s = NULL;
    struct taca_gen_params p;
    struct taca_err err = {0}, why = {0};
    CHECK_OK(taca_engine_open(&e, &demo, &err), err);
    if (!e) abort();
    taca_gen_params_init(&p, taca_engine_info(e));
    p.width_px = p.height_px = 64;
    p.steps = 2;
    p.sampler = TACA_EULER_ANCESTRAL;
    CHECK_OK(taca_seq_open(e, &p, &s, NULL, &err), err);
    nomem_countdown = n;
    const enum taca_code rc = taca_step(e, &s, 1, &why);
    nomem_countdown = 0;
    if (rc) CHECK_INT(rc, TACA_ENOMEM);
    while (!err.code && !taca_seq_done(s)) CHECK_OK(taca_step(e, &s, 1, &err), err);
    CHECK_OK(seq_latent_read(e, s, latent, &err), err);
    taca_seq_close(e, s);
    taca_engine_close(e);
    return rc != TACA_OK;
}

static void test_a_step_that_failed_is_made_again_as_it_was(void) {
    enum { VALUES = 16 * 8 * 8 };
    static float want[VALUES], got[VALUES];
    long n = 1;
    CHECK(!walk(0, want));
    for (; walk(n, got); n++)
        if (!CHECK(memcmp(got, want, sizeof got) == 0)) printf("        allocation %ld\n", n);
    CHECK(n > 4);
}

/* A decoding that lacks memory somewhere says so, or its picture is the same. */
static void test_a_picture_is_whole_or_refused(void) {
    struct taca_engine *e = NULL;
    struct taca_seq *s = NULL;
    struct taca_gen_params p;
    struct taca_image want = {0}, got = {0};
    struct taca_err err = {0};
    enum taca_code rc = TACA_ENOMEM;
    CHECK_OK(taca_engine_open(&e, &demo, &err), err);
    if (!e) return;
    taca_gen_params_init(&p, taca_engine_info(e));
    p.width_px = p.height_px = 64;
    p.steps = 1;
    CHECK_OK(taca_seq_open(e, &p, &s, NULL, &err), err);
    CHECK_OK(taca_step(e, &s, 1, &err), err);
    CHECK_OK(taca_decode(e, &s, 1, &want, &err), err);
    for (long n = 1; rc && want.rgb; n++) {
        struct taca_err why = {0};
        nomem_countdown = n;
        rc = taca_decode(e, &s, 1, &got, &why);
        const bool failed = nomem_countdown == 0;
        nomem_countdown = 0;
        /* for want of a layout it is attention that complains */
        if (rc) CHECK(rc == TACA_ENOMEM || strstr(why.text, "attention: image q"));
        if (rc) continue;
        if (!CHECK(memcmp(got.rgb, want.rgb, 64 * 64 * 3) == 0))
            printf("        allocation %ld\n", n);
        taca_image_finish(&got);
        if (failed) rc = TACA_ENOMEM; /* survived: go on */
    }
    taca_image_finish(&want);
    taca_seq_close(e, s);
    taca_engine_close(e);
}

/* The engine stays open, and goes on: its backend's weights are those from before. */
static enum taca_code open_an_adapter(void *e, struct taca_err *err) {
    enum taca_code rc = taca_lora_open(e, "a", GOLDEN("lora/lora_flux_tiny_dev_xlabs.safetensors"),
                                       NULL, NULL, err);
    CHECK((rc == TACA_OK) == (taca_lora_at(e, 0) != NULL));
    if (!rc) rc = taca_lora_close(e, "a", err);
    return rc;
}

static void test_an_adapter_survives_failed_allocations(void) {
    struct taca_engine e = {0};
    struct taca_err err = {0};
    struct taca_ckpt *ckpt = NULL;
    json_t *config = NULL;
    const struct taca_backend_opts f32 = {.threads = 1, .precision = TACA_F32};
    CHECK_OK(taca_cpu_open(&e.b, &f32, &err), err);
    CHECK_OK(taca_json_load(&config, MODEL("flux_tiny_dev.config.json"), &err), err);
    CHECK_OK(taca_ckpt_open(&ckpt, MODEL("flux_tiny_dev.diffusers.safetensors"), &err), err);
    if (!err.code) CHECK_OK(dit_open(&e.dit, e.b, config, ckpt, &err), err);
    if (!err.code) nomem_sweep("an adapter", open_an_adapter, &e, 1);
    taca_ckpt_close(ckpt);
    json_decref(config);
    dit_close(e.dit);
    taca_backend_close(e.b);
}

int main(void) {
    tmp_begin();
    TEST(test_transformers_survive_failed_allocations);
    TEST(test_autoencoders_survive_failed_allocations);
    TEST(test_an_engine_survives_failed_allocations);
    TEST(test_a_step_that_failed_is_made_again_as_it_was);
    TEST(test_a_picture_is_whole_or_refused);
    TEST(test_an_adapter_survives_failed_allocations);
    tmp_end();
    return TEST_END();
}
