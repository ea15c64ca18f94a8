/* Prompts to conditioning with T5: SD3 and FLUX against the reference pipelines, lengths, cuts. */
#include "engine/io/checkpoint.h"
#include "engine/io/safetensors.h"
#include "engine/text/text.h"
#include "tests/test.h"

#define SD35   TACA_GOLDEN_DIR "/pipelines/sd35_tiny_t5"
#define VALUES TACA_SOURCE_DIR "/tests/text/t5_text.safetensors"

enum { JOINT = 40, SD3_POOLED = 48, FLUX_POOLED = 16, CLIP = 77 };

static const struct text_opts sd3 = {.family = TEXT_SD3,
                                     .joint_width = JOINT,
                                     .pooled_width = SD3_POOLED,
                                     .t5_tokens = 256,
                                     .cache_bytes = 1 << 20};
static const struct text_opts flux = {.family = TEXT_FLUX,
                                      .joint_width = JOINT,
                                      .pooled_width = FLUX_POOLED,
                                      .t5_tokens = 512,
                                      .cache_bytes = 1 << 20};

struct bench {
    struct taca_backend *b;
    struct taca_model_dir dir;
    struct taca_scratch s;
    struct text *t;
    struct taca_safetensors *io;
    json_t *cases;
};

/* A FLUX checkpoint has the same T5 as its second encoder; its CLIP is SD3's first, whose
 * projection (the identity here) must not count. */
static void swap_to_flux(struct taca_model_dir *d) {
    static const enum taca_component from[] = {TACA_TEXT_ENCODER_3, TACA_TOKENIZER_3},
                                     to[] = {TACA_TEXT_ENCODER_2, TACA_TOKENIZER_2};
    for (int i = 0; i < 2; i++) {
        char *dir = d->dir[to[i]];
        json_t *config = d->config[to[i]];
        d->dir[to[i]] = d->dir[from[i]], d->config[to[i]] = d->config[from[i]];
        d->dir[from[i]] = dir, d->config[from[i]] = config;
        d->kind[to[i]] = d->kind[from[i]];
        d->has[from[i]] = false;
    }
}

static bool open_bench_in(struct bench *k, const struct text_opts *opts,
                          enum taca_dtype precision) {
    struct taca_err err = {0};
    const struct taca_backend_opts b = {.threads = 1, .precision = precision};
    *k = (struct bench){0};
    CHECK_OK(taca_cpu_open(&k->b, &b, &err), err);
    CHECK_OK(taca_model_open(&k->dir, &(struct taca_model_paths){.model = SD35}, &err), err);
    if (opts->family == TEXT_FLUX) swap_to_flux(&k->dir);
    CHECK_OK(taca_safetensors_open(&k->io, VALUES, &err), err);
    CHECK_OK(taca_json_load(&k->cases, TACA_GOLDEN_DIR "/pipelines/text_cases.json", &err), err);
    k->s.b = k->b;
    CHECK_OK(text_open(&k->t, k->b, &k->dir, opts, &err), err);
    if (!k->t) return false;
    CHECK_OK(taca_scratch_reserve(&k->s, text_scratch_bytes(k->t), &err), err);
    return true;
}

static bool open_bench(struct bench *k, const struct text_opts *opts) {
    return open_bench_in(k, opts, TACA_F32);
}

static void close_bench(struct bench *k) {
    text_close(k->t);
    taca_scratch_finish(&k->s);
    taca_model_dir_finish(&k->dir);
    taca_safetensors_close(k->io);
    taca_backend_close(k->b);
    json_decref(k->cases);
}

static const struct text_cond *acquire(struct bench *k, const struct text_prompt *p) {
    struct taca_err err = {0};
    const struct text_cond *c = NULL;
    CHECK_OK(text_acquire(k->t, &k->s, p, &c, &err), err);
    CHECK_INT(k->s.used, 0);
    return c;
}

static const char *arg(const struct bench *k, const char *name, const char *key) {
    const json_t *args = json_object_get(json_object_get(k->cases, name), "args");
    return json_string_value(json_object_get(args, key));
}

/* Every `stride`-th row of got is a row of the reference. */
static void check_rows(struct bench *k, struct taca_mat got, const char *name, const char *what,
                       int64_t stride, double tol) {
    char key[64];
    snprintf(key, sizeof key, "%s.%s", name, what);
    const struct taca_tensor *t = taca_safetensors_find(k->io, key);
    const int64_t rows = t && t->rank == 2 ? t->dim[0] : 1;
    if (!CHECK(t && t->dim[t->rank - 1] == got.cols && rows * stride == got.rows)) return;
    struct taca_err err = {0};
    const size_t width = (size_t)got.cols, row = width * sizeof(float);
    float *a = malloc((size_t)rows * row), *want = malloc((size_t)rows * row);
    for (int64_t r = 0; r < rows; r++)
        taca_download(k->b, a + (size_t)r * width, taca_mat_rows(got, r * stride, 1).data, row);
    CHECK_OK(taca_sync(k->b, &err), err);
    memcpy(want, t->data, (size_t)rows * row);
    CHECK_FLOATS(key, a, want, (size_t)rows * width, tol);
    free(a);
    free(want);
}

static void check_t5_ids(struct bench *k, const struct text_prompt *p, const char *name, int n) {
    char key[64];
    int32_t ids[512], want[512];
    snprintf(key, sizeof key, "%s.ids", name);
    const struct taca_tensor *t = taca_safetensors_find(k->io, key);
    if (!CHECK(t && taca_tensor_count(t) == n)) return;
    memcpy(want, t->data, (size_t)n * sizeof *want);
    CHECK_INT(text_ids(k->t, TEXT_T5, p, ids, 512), n);
    CHECK(memcmp(ids, want, (size_t)n * sizeof *ids) == 0);
}

/* ---- SD3 ------------------------------------------------------------------------------------- */

static void test_sd3_appends_the_t5_rows_of_the_reference(void) {
    static const char *const names[] = {"sd35_plain", "sd35_unicode", "sd35_three_prompts"};
    struct bench k;
    if (open_bench(&k, &sd3)) {
        CHECK(text_has_t5(k.t));
        CHECK_INT(text_tokens(k.t), CLIP + 256);
        for (size_t i = 0; i < 3; i++) {
            const struct text_prompt p = {.prompt = arg(&k, names[i], "prompt"),
                                          .prompt_2 = arg(&k, names[i], "prompt_2"),
                                          .prompt_3 = arg(&k, names[i], "prompt_3")};
            const struct text_cond *c = acquire(&k, &p);
            if (c) check_rows(&k, taca_mat_rows(c->context, CLIP, 256), names[i], "t5", 4, 1e-4);
            check_t5_ids(&k, &p, names[i], 256);
            text_release(k.t, c);
        }
        const struct text_prompt n = {.prompt = arg(&k, names[2], "negative_prompt"),
                                      .prompt_3 = arg(&k, names[2], "negative_prompt_3")};
        const struct text_cond *c = acquire(&k, &n);
        if (c)
            check_rows(&k, taca_mat_rows(c->context, CLIP, 256), names[2], "negative_t5", 8, 1e-4);
        text_release(k.t, c);
    }
    close_bench(&k);
}

/* The length is the prompt's own; each has an entry of the cache. */
static void test_a_prompt_may_say_how_long_it_is(void) {
    struct bench k;
    if (open_bench(&k, &sd3)) {
        struct text_prompt p = {.prompt = arg(&k, "sd35_len512", "prompt"), .t5_tokens = 512};
        const struct text_cond *c = acquire(&k, &p), *d, *e;
        CHECK_INT(text_rows(k.t, 512), CLIP + 512);
        CHECK_INT(c->context.rows, CLIP + 512);
        check_rows(&k, taca_mat_rows(c->context, CLIP, 512), "sd35_len512", "t5", 8, 1e-4);
        p.t5_tokens = 0;
        d = acquire(&k, &p);
        p.t5_tokens = 256;
        e = acquire(&k, &p);
        CHECK(c != d && d == e);
        CHECK_INT(d->context.rows, CLIP + 256);
        p = (struct text_prompt){.prompt = "cat", .t5_tokens = 1};
        const struct text_cond *one = acquire(&k, &p);
        CHECK_INT(one->context.rows, CLIP + 1);
        CHECK(one->cut); /* EOS alone has room */
        text_release(k.t, c), text_release(k.t, d), text_release(k.t, e), text_release(k.t, one);
        struct taca_err err = {0};
        p.t5_tokens = 513;
        CHECK_INT(text_acquire(k.t, &k.s, &p, &c, &err), TACA_EINVAL);
        CHECK_STR(err.param, "max_sequence_length");
        CHECK_HAS(err.text, "must be in 1..512, got 513");
    }
    close_bench(&k);
}

/* Without T5 its rows are zeros, as many as asked for, and no text is too long for them. */
static void test_without_t5_the_rows_are_zeros(void) {
    struct bench k;
    struct text *with = NULL;
    if (open_bench(&k, &sd3)) {
        with = k.t;
        k.t = NULL;
        struct taca_err err = {0};
        k.dir.has[TACA_TEXT_ENCODER_3] = false;
        CHECK_OK(text_open(&k.t, k.b, &k.dir, &sd3, &err), err);
        CHECK(!text_has_t5(k.t));
        const struct text_prompt p = {.prompt = "cat", .t5_tokens = 2};
        const struct text_cond *c = acquire(&k, &p);
        float rows[2 * JOINT], sum = 0;
        CHECK_INT(c->context.rows, CLIP + 2);
        CHECK(!c->cut);
        taca_download(k.b, rows, taca_mat_rows(c->context, CLIP, 2).data, sizeof rows);
        CHECK_OK(taca_sync(k.b, &err), err);
        for (int i = 0; i < 2 * JOINT; i++) sum += fabsf(rows[i]);
        CHECK(sum == 0);
        int32_t ids[512];
        CHECK_INT(text_ids(k.t, TEXT_T5, &p, ids, 512), 0);
        text_release(k.t, c);
    }
    text_close(with);
    close_bench(&k);
}

/* The encoders have different limits; what T5 reads to its end is not lost though CLIP cuts it. */
static void test_cuts_of_any_encoder_are_told(void) {
    enum { WORDS = 90 };
    static char words[2 * WORDS + 1]; /* "a a a ...": a token each */
    struct bench k;
    memset(words, ' ', 2 * WORDS);
    for (int i = 0; i < WORDS; i++) words[2 * i] = 'a';
    char *const half = words + 2 * (WORDS - 40);
    if (open_bench(&k, &sd3)) {
        const struct {
            struct text_prompt p;
            bool cut, clip_cut;
        } cases[] = {{{.prompt = half}, false, false},
                     {{.prompt = half, .t5_tokens = 32}, true, false},
                     {{.prompt = "a", .prompt_3 = half, .t5_tokens = 32}, true, false},
                     {{.prompt = half, .prompt_3 = "a", .t5_tokens = 32}, false, false},
                     {{.prompt = words}, false, true},
                     {{.prompt = words, .prompt_3 = "a"}, true, false},
                     {{.prompt = "a", .prompt_2 = words}, true, false},
                     {{.prompt = words, .prompt_2 = "a"}, false, true},
                     {{.prompt = words, .t5_tokens = 32}, true, false}};
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const struct text_cond *c = acquire(&k, &cases[i].p);
            CHECK_INT(c->cut, cases[i].cut);
            CHECK_INT(c->clip_cut, cases[i].clip_cut);
            text_release(k.t, c);
        }
    }
    close_bench(&k);
}

/* A prompt that just fits and one that goes on have the same ids, but not the same to be told. */
static void test_the_cache_tells_a_cut_prompt_from_one_that_fits(void) {
    struct bench k;
    if (open_bench(&k, &sd3)) {
        struct text_prompt p = {.prompt = "cat", .prompt_3 = "a a a", .t5_tokens = 7};
        const struct text_cond *fits = acquire(&k, &p);
        int32_t a[7], b[7];
        CHECK_INT(text_ids(k.t, TEXT_T5, &p, a, 7), 7);
        p.prompt_3 = "a a a a";
        const struct text_cond *cut = acquire(&k, &p);
        CHECK_INT(text_ids(k.t, TEXT_T5, &p, b, 7), 7);
        CHECK(memcmp(a, b, sizeof a) == 0);
        CHECK(!fits->cut && cut->cut);
        text_release(k.t, fits), text_release(k.t, cut);
    }
    close_bench(&k);
}

/* ---- FLUX ------------------------------------------------------------------------------------ */

static void test_flux_has_the_t5_rows_and_an_unprojected_pooled_vector(void) {
    static const char *const names[] = {"flux_plain", "flux_two_prompts"};
    struct bench k;
    if (open_bench(&k, &flux)) {
        CHECK_INT(text_tokens(k.t), 512);
        for (size_t i = 0; i < 2; i++) {
            const struct text_prompt p = {.prompt = arg(&k, names[i], "prompt"),
                                          .prompt_2 = arg(&k, names[i], "prompt_2")};
            const struct text_cond *c = acquire(&k, &p);
            if (c) check_rows(&k, c->context, names[i], "t5", 8, 1e-4);
            if (c) check_rows(&k, c->pooled, names[i], "pooled", 1, 2e-5);
            if (i == 0) check_t5_ids(&k, &p, names[i], 512);
            text_release(k.t, c);
        }
        CHECK_INT(text_stats(k.t).passes, 4);
        /* clip_skip is nothing to a pooled vector */
        const struct text_prompt p = {.prompt = arg(&k, names[0], "prompt"), .clip_skip = 1};
        text_release(k.t, acquire(&k, &p));
        CHECK_INT(text_stats(k.t).hits, 1);
        int32_t ids[512];
        CHECK_INT(text_ids(k.t, TEXT_CLIP_L, &p, ids, 512), CLIP);
        CHECK_INT(text_ids(k.t, TEXT_CLIP_G, &p, ids, 512), 0);
        CHECK_INT(text_ids(k.t, TEXT_T5, &p, ids, 100), -1);
    }
    close_bench(&k);
}

/* ---- precision ------------------------------------------------------------------------------- */

static void test_bf16_stays_close_to_f32(void) {
    enum { N = 512 * JOINT };
    static float v[2][N];
    struct taca_err err = {0};
    for (int i = 0; i < 2; i++) {
        struct bench k;
        if (!open_bench_in(&k, &flux, i ? TACA_BF16 : TACA_F32)) return;
        const struct text_prompt p = {.prompt = arg(&k, "flux_plain", "prompt")};
        const struct text_cond *c = acquire(&k, &p);
        taca_download(k.b, v[i], c->context.data, sizeof v[i]);
        CHECK_OK(taca_sync(k.b, &err), err);
        text_release(k.t, c);
        close_bench(&k);
    }
    double norm = 0, diff = 0;
    for (int i = 0; i < N; i++) {
        const double d = (double)v[1][i] - (double)v[0][i];
        norm += (double)v[0][i] * (double)v[0][i];
        diff += d * d;
    }
    printf("    bf16: relative rms difference %.3g\n", sqrt(diff / norm));
    CHECK(sqrt(diff / norm) < 0.02); /* bf16 rounds at 2^-9 = 0.002, and scores are not scaled */
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void test_encoders_that_do_not_fit_are_refused(void) {
    static const struct {
        enum text_family family;
        int64_t joint, pooled;
        int t5_tokens;
        bool without;
        const char *says;
    } cases[] = {
        {TEXT_SD3, 41, 48, 256, false,
         "text_encoder_3 gives 40 columns, the transformer takes 41 (joint_attention_dim)"},
        {TEXT_FLUX, 41, 16, 512, false, "text_encoder_2 gives 40 columns"},
        {TEXT_FLUX, 40, 17, 512, false,
         "text_encoder pools to 16 values, the transformer takes 17 (pooled_projection_dim)"},
        {TEXT_FLUX, 40, 16, 0, false, "0 T5 tokens, FLUX takes 1..512"},
        {TEXT_SD3, 40, 48, 513, false, "513 T5 tokens, SD3 takes 0..512"},
        {TEXT_FLUX, 40, 16, 512, true, "text_encoder_2 (T5) is not there; FLUX cannot do without"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct text_opts opts = {.family = cases[i].family,
                                       .joint_width = cases[i].joint,
                                       .pooled_width = cases[i].pooled,
                                       .t5_tokens = cases[i].t5_tokens};
        struct taca_err err = {0};
        struct taca_model_dir dir = {0};
        struct taca_backend *b = NULL;
        struct text *t = NULL;
        const struct taca_backend_opts o = {.threads = 1};
        CHECK_OK(taca_cpu_open(&b, &o, &err), err);
        CHECK_OK(taca_model_open(&dir, &(struct taca_model_paths){.model = SD35}, &err), err);
        if (cases[i].family == TEXT_FLUX) swap_to_flux(&dir);
        if (cases[i].without) dir.has[TACA_TEXT_ENCODER_2] = false;
        CHECK(text_open(&t, b, &dir, &opts, &err) != TACA_OK);
        CHECK(t == NULL);
        CHECK_HAS(err.text, cases[i].says);
        taca_model_dir_finish(&dir);
        taca_backend_close(b);
    }
}

int main(void) {
    TEST(test_sd3_appends_the_t5_rows_of_the_reference);
    TEST(test_a_prompt_may_say_how_long_it_is);
    TEST(test_without_t5_the_rows_are_zeros);
    TEST(test_cuts_of_any_encoder_are_told);
    TEST(test_the_cache_tells_a_cut_prompt_from_one_that_fits);
    TEST(test_flux_has_the_t5_rows_and_an_unprojected_pooled_vector);
    TEST(test_bf16_stays_close_to_f32);
    TEST(test_encoders_that_do_not_fit_are_refused);
    return TEST_END();
}
