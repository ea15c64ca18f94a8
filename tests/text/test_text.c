/* Prompts to conditioning: a whole checkpoint against the reference pipeline, and the cache. */
#include "engine/io/checkpoint.h"
#include "engine/io/safetensors.h"
#include "engine/text/text.h"
#include "tests/test.h"

#define SD35 TACA_GOLDEN_DIR "/pipelines/sd35_tiny"
#define DEMO TACA_SOURCE_DIR "/models/demo"

enum { T5_ROWS = 256, JOINT = 40, POOLED = 48, DEMO_WIDTH = 256 };

/* Everything that a text needs, on one CPU thread. */
struct bench {
    struct taca_backend *b;
    struct taca_model_dir dir;
    struct taca_scratch s;
    struct text *t;
};

static bool open_bench(struct bench *k, const char *path, const struct text_opts *opts,
                       enum taca_dtype precision) {
    struct taca_err err = {0};
    const struct taca_backend_opts b = {.threads = 1, .precision = precision};
    *k = (struct bench){0};
    CHECK_OK(taca_cpu_open(&k->b, &b, &err), err);
    CHECK_OK(taca_model_open(&k->dir, &(struct taca_model_paths){.model = path}, &err), err);
    k->s.b = k->b;
    CHECK_OK(text_open(&k->t, k->b, &k->dir, opts, &err), err);
    if (!k->t) return false;
    CHECK_OK(taca_scratch_reserve(&k->s, text_scratch_bytes(k->t), &err), err);
    return true;
}

static void close_bench(struct bench *k) {
    text_close(k->t);
    taca_scratch_finish(&k->s);
    taca_model_dir_finish(&k->dir);
    taca_backend_close(k->b);
}

static const struct text_cond *acquire(struct bench *k, const char *prompt) {
    struct taca_err err = {0};
    const struct text_cond *c = NULL;
    const struct text_prompt p = {.prompt = prompt};
    CHECK_OK(text_acquire(k->t, &k->s, &p, &c, &err), err);
    CHECK_INT(k->s.used, 0);
    return c;
}

static void get(struct bench *k, const struct taca_mat m, float *out) {
    struct taca_err err = {0};
    CHECK_INT(m.ld, m.cols);
    taca_download(k->b, out, m.data, (size_t)(m.rows * m.cols) * sizeof *out);
    CHECK_OK(taca_sync(k->b, &err), err);
}

/* ---- the reference --------------------------------------------------------------------------- */

static const char fox[] = "A photo of a red fox in the snow, golden hour, 35mm";

static void check_ids(struct bench *k, const struct taca_safetensors *io, enum text_encoder encoder,
                      const struct text_prompt *p, const char *name) {
    int32_t ids[512], want[512];
    const struct taca_tensor *t = taca_safetensors_find(io, name);
    const int64_t n = t ? taca_tensor_count(t) : 0;
    if (!CHECK(n > 0 && n <= 512)) return;
    memcpy(want, t->data, (size_t)n * sizeof *want);
    CHECK_INT(text_ids(k->t, encoder, p, ids, 512), n);
    CHECK(memcmp(ids, want, (size_t)n * sizeof *ids) == 0);
}

static void check_tensor(struct bench *k, struct taca_mat got, const struct taca_safetensors *io,
                         const char *name, double tol) {
    const struct taca_tensor *t = taca_safetensors_find(io, name);
    const size_t n = (size_t)(got.rows * got.cols);
    if (!CHECK(t && taca_tensor_count(t) == (int64_t)n)) return;
    float *a = malloc(n * sizeof *a), *want = malloc(n * sizeof *want);
    get(k, got, a);
    memcpy(want, t->data, n * sizeof *want);
    CHECK_FLOATS(name, a, want, n, tol);
    free(a);
    free(want);
}

static void test_a_checkpoint_without_t5_gives_the_embeddings_of_the_reference(void) {
    struct bench k;
    struct taca_err err = {0};
    struct taca_safetensors *io = NULL;
    const struct text_opts opts = {
        .joint_width = JOINT, .pooled_width = POOLED, .t5_tokens = T5_ROWS, .cache_bytes = 1 << 20};
    CHECK_OK(
        taca_safetensors_open(&io, TACA_GOLDEN_DIR "/pipelines/sd35_no_t5.io.safetensors", &err),
        err);
    const struct text_prompt p = {.prompt = fox}, none = {.prompt = ""};
    if (open_bench(&k, SD35, &opts, TACA_F32)) {
        CHECK_INT(text_tokens(k.t), 333);
        CHECK_INT(text_clip_tokens(k.t), 77);
        check_ids(&k, io, TEXT_CLIP_L, &p, "ids.clip_l");
        check_ids(&k, io, TEXT_CLIP_G, &p, "ids.clip_g");
        check_ids(&k, io, TEXT_CLIP_L, &none, "ids.negative.clip_l");
        check_ids(&k, io, TEXT_CLIP_G, &none, "ids.negative.clip_g");
        const struct text_cond *c = acquire(&k, fox), *u = acquire(&k, "");
        CHECK(!c->cut && !u->cut);
        check_tensor(&k, c->context, io, "prompt_embeds", 1e-4);
        check_tensor(&k, c->pooled, io, "pooled_prompt_embeds", 2e-5);
        check_tensor(&k, u->context, io, "negative_prompt_embeds", 1e-4);
        check_tensor(&k, u->pooled, io, "negative_pooled_prompt_embeds", 2e-5);
        text_release(k.t, c);
        text_release(k.t, u);
    }
    close_bench(&k);
    taca_safetensors_close(io);
}

/* One prompt of a case: its own, or the negative one. */
static void check_prompt(struct bench *k, const struct taca_safetensors *io, const char *name,
                         const json_t *args, const char *sign) {
    char key[64];
    const char *text[2];
    struct taca_err err = {0};
    const struct text_cond *c = NULL;
    for (int i = 0; i < 2; i++) {
        snprintf(key, sizeof key, "%sprompt%s", sign, i ? "_2" : "");
        text[i] = json_string_value(json_object_get(args, key));
    }
    struct text_prompt p = {.prompt = text[0], .prompt_2 = text[1]};
    if (!*sign) p.clip_skip = (int)json_integer_value(json_object_get(args, "clip_skip"));
    CHECK_OK(text_acquire(k->t, &k->s, &p, &c, &err), err);
    if (!c) return;
    snprintf(key, sizeof key, "%s.%scontext", name, sign);
    check_tensor(k, taca_mat_rows(c->context, 0, 77), io, key, 1e-4);
    snprintf(key, sizeof key, "%s.%spooled", name, sign);
    check_tensor(k, c->pooled, io, key, 2e-5);
    snprintf(key, sizeof key, "%s.%sids_l", name, sign);
    check_ids(k, io, TEXT_CLIP_L, &p, key);
    snprintf(key, sizeof key, "%s.%sids_g", name, sign);
    check_ids(k, io, TEXT_CLIP_G, &p, key);
    text_release(k->t, c);
}

/* Exclamation marks, many scripts, too long, two prompts, clip_skip, empty against negative. */
static void test_cases_of_the_reference_pipeline_agree(void) {
    struct bench k;
    struct taca_err err = {0};
    struct taca_safetensors *io = NULL;
    const struct text_opts opts = {
        .joint_width = JOINT, .pooled_width = POOLED, .cache_bytes = 1 << 20};
    json_t *all = NULL, *v;
    const char *name;
    int prompts = 0;
    CHECK_OK(taca_json_load(&all, TACA_GOLDEN_DIR "/pipelines/text_cases.json", &err), err);
    CHECK_OK(taca_safetensors_open(&io, TACA_SOURCE_DIR "/tests/text/sd35_text.safetensors", &err),
             err);
    if (open_bench(&k, SD35, &opts, TACA_F32)) {
        json_object_foreach(all, name, v) {
            const json_t *args = json_object_get(v, "args");
            static const char *const signs[] = {"", "negative_"};
            for (int i = 0; i < 2; i++) {
                char key[64];
                snprintf(key, sizeof key, "%s.%scontext", name, signs[i]);
                if (!taca_safetensors_find(io, key)) continue;
                check_prompt(&k, io, name, args, signs[i]);
                prompts++;
            }
        }
    }
    CHECK_INT(prompts, 10);
    close_bench(&k);
    taca_safetensors_close(io);
    json_decref(all);
}

static void test_bf16_stays_close_to_f32(void) {
    struct bench k[2];
    static float v[2][32 * DEMO_WIDTH];
    const struct text_opts opts = {
        .joint_width = DEMO_WIDTH, .pooled_width = DEMO_WIDTH, .cache_bytes = 1 << 20};
    for (int i = 0; i < 2; i++) {
        if (!open_bench(&k[i], DEMO, &opts, i ? TACA_BF16 : TACA_F32)) return;
        const struct text_cond *c = acquire(&k[i], "a red cube left of a blue sphere");
        get(&k[i], c->context, v[i]);
        text_release(k[i].t, c);
    }
    double norm = 0, diff = 0;
    for (int i = 0; i < 32 * DEMO_WIDTH; i++) {
        double d = (double)v[1][i] - (double)v[0][i];
        norm += (double)v[0][i] * (double)v[0][i];
        diff += d * d;
    }
    printf("    bf16: relative rms difference %.3g (%s)\n", sqrt(diff / norm),
           taca_backend_detail(k[1].b));
    CHECK(sqrt(diff / norm) < 0.01); /* bf16 rounds at 2^-9 = 0.002 */
    for (int i = 0; i < 2; i++) close_bench(&k[i]);
}

/* ---- prompts --------------------------------------------------------------------------------- */

static const struct text_opts demo_opts = {
    .joint_width = DEMO_WIDTH, .pooled_width = DEMO_WIDTH, .cache_bytes = 64 << 20};

static void test_an_empty_second_prompt_is_the_first(void) {
    struct bench k;
    struct taca_err err = {0};
    const struct text_cond *c[4] = {NULL};
    const struct text_prompt p[4] = {
        {.prompt = "a cat"},
        {.prompt = "a cat", .prompt_2 = "", .prompt_3 = ""},
        {.prompt = "a cat", .prompt_2 = "a cat"},
        {.prompt = "a cat", .prompt_2 = "a dog"},
    };
    if (!open_bench(&k, DEMO, &demo_opts, TACA_F32)) return;
    for (int i = 0; i < 4; i++) CHECK_OK(text_acquire(k.t, &k.s, &p[i], &c[i], &err), err);
    CHECK(c[0] == c[1] && c[0] == c[2]);
    CHECK(c[0] != c[3]);
    float one[32 * DEMO_WIDTH], two[32 * DEMO_WIDTH];
    get(&k, c[0]->context, one);
    get(&k, c[3]->context, two);
    int same_l = 0, same_g = 0; /* the first encoder's columns are the same, the second's are not */
    for (int r = 0; r < 32; r++) {
        same_l += memcmp(one + r * 256, two + r * 256, 128 * sizeof *one) == 0;
        same_g += memcmp(one + r * 256 + 128, two + r * 256 + 128, 128 * sizeof *one) == 0;
    }
    CHECK_INT(same_l, 32);
    CHECK(same_g < 32);
    for (int i = 0; i < 4; i++) text_release(k.t, c[i]);
    close_bench(&k);
}

static void test_a_cut_prompt_says_so(void) {
    struct bench k;
    if (!open_bench(&k, DEMO, &demo_opts, TACA_F32)) return;
    const struct text_cond *c = acquire(&k, "a red cube and a blue cube and a red cube and a blue "
                                            "cube and a red cube and a blue cube and a red cube "
                                            "and a blue cube and a red cube and a blue cube");
    const struct text_cond *d = acquire(&k, "a red cube");
    CHECK(c->cut);
    CHECK(!d->cut);
    text_release(k.t, c);
    text_release(k.t, d);
    close_bench(&k);
}

static void test_clip_skip_outside_the_model_names_the_field(void) {
    struct bench k;
    struct taca_err err = {0};
    const struct text_cond *c = NULL;
    if (!open_bench(&k, DEMO, &demo_opts, TACA_F32)) return;
    struct text_prompt p = {.prompt = "a cat", .clip_skip = 2};
    CHECK_INT(text_acquire(k.t, &k.s, &p, &c, &err), TACA_EINVAL);
    CHECK_STR(err.param, "clip_skip");
    CHECK_HAS(err.text, "0..1");
    CHECK(c == NULL);
    CHECK_INT(text_stats(k.t).entries, 0);
    /* and the encoder is none the worse for it */
    p.clip_skip = 1;
    err = (struct taca_err){0};
    CHECK_OK(text_acquire(k.t, &k.s, &p, &c, &err), err);
    text_release(k.t, c);
    close_bench(&k);
}

/* ---- the cache ------------------------------------------------------------------------------- */

static void test_a_prompt_costs_one_pass_of_each_encoder_and_then_none(void) {
    struct bench k;
    if (!open_bench(&k, DEMO, &demo_opts, TACA_F32)) return;
    for (int i = 0; i < 3; i++) {
        const struct text_cond *c = acquire(&k, "a red cube"), *u = acquire(&k, "");
        CHECK(c != u);
        text_release(k.t, u);
        text_release(k.t, c);
    }
    /* the same ids by another spelling */
    text_release(k.t, acquire(&k, "  A Red\tCUBE "));
    struct text_stats s = text_stats(k.t);
    CHECK_INT(s.passes, 4);
    CHECK_INT(s.misses, 2);
    CHECK_INT(s.hits, 5);
    CHECK_INT(s.entries, 2);
    /* another clip_skip is another result */
    struct taca_err err = {0};
    const struct text_cond *c = NULL;
    const struct text_prompt p = {.prompt = "a red cube", .clip_skip = 1};
    CHECK_OK(text_acquire(k.t, &k.s, &p, &c, &err), err);
    CHECK_INT(text_stats(k.t).passes, 6);
    text_release(k.t, c);
    close_bench(&k);
}

static void test_the_cache_keeps_to_its_bytes_and_drops_the_oldest(void) {
    struct bench k;
    enum { ENTRY = 33 * DEMO_WIDTH * 4, ROOM = 3 * (ENTRY + 1024) };
    struct text_opts opts = demo_opts;
    opts.cache_bytes = ROOM;
    if (!open_bench(&k, DEMO, &opts, TACA_F32)) return;
    static const char *const prompts[] = {"one", "two", "three", "one", "four", "one", "two"};
    static const bool hit[] = {false, false, false, true, false, true, false};
    for (int i = 0; i < 7; i++) {
        int64_t before = text_stats(k.t).hits;
        text_release(k.t, acquire(&k, prompts[i]));
        CHECK_INT(text_stats(k.t).hits - before, hit[i]);
        CHECK(text_stats(k.t).bytes <= ROOM);
        CHECK(text_stats(k.t).entries <= 3);
    }
    CHECK_INT(text_stats(k.t).entries, 3);
    close_bench(&k);
}

static void test_what_is_held_is_never_dropped(void) {
    struct bench k;
    struct text_opts opts = demo_opts;
    opts.cache_bytes = 0;
    if (!open_bench(&k, DEMO, &opts, TACA_F32)) return;
    static float before[32 * DEMO_WIDTH], after[32 * DEMO_WIDTH];
    const struct text_cond *held = acquire(&k, "a red cube");
    get(&k, held->context, before);
    for (int i = 0; i < 20; i++) {
        char prompt[32];
        snprintf(prompt, sizeof prompt, "%d cubes", i);
        text_release(k.t, acquire(&k, prompt));
    }
    CHECK(acquire(&k, "a red cube") == held); /* held twice now */
    CHECK_INT(text_stats(k.t).entries, 1);
    text_release(k.t, held);
    get(&k, held->context, after);
    CHECK(memcmp(before, after, sizeof before) == 0);
    text_release(k.t, held);
    CHECK_INT(text_stats(k.t).entries, 0);
    CHECK_INT(text_stats(k.t).bytes, 0);
    text_release(k.t, NULL);
    close_bench(&k);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void test_encoders_that_do_not_fit_the_transformer_are_refused(void) {
    static const struct {
        struct text_opts opts;
        const char *says;
    } cases[] = {
        {{.joint_width = 255, .pooled_width = 256},
         "give 128 + 128 columns, the transformer takes 255 (joint_attention_dim)"},
        {{.joint_width = 256, .pooled_width = 255},
         "pool to 128 + 128 values, the transformer takes 255 (pooled_projection_dim)"},
    };
    struct taca_err err = {0};
    struct taca_model_dir dir = {0};
    struct taca_backend *b = NULL;
    const struct taca_backend_opts o = {.threads = 1};
    CHECK_OK(taca_cpu_open(&b, &o, &err), err);
    CHECK_OK(taca_model_open(&dir, &(struct taca_model_paths){.model = DEMO}, &err), err);
    struct text *t = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err = (struct taca_err){0};
        CHECK_INT(text_open(&t, b, &dir, &cases[i].opts, &err), TACA_EFORMAT);
        CHECK_HAS(err.text, cases[i].says);
    }
    err = (struct taca_err){0};
    dir.has[TACA_TEXT_ENCODER_3] = true;
    CHECK_INT(text_open(&t, b, &dir, &demo_opts, &err), TACA_ENOTFOUND);
    CHECK_HAS(err.text, "no tokenizer_3");
    dir.has[TACA_TEXT_ENCODER_3] = false;

    err = (struct taca_err){0};
    dir.has[TACA_TOKENIZER_2] = false;
    CHECK_INT(text_open(&t, b, &dir, &demo_opts, &err), TACA_ENOTFOUND);
    CHECK_HAS(err.text, "no tokenizer_2");
    dir.has[TACA_TOKENIZER_2] = true;

    err = (struct taca_err){0};
    json_object_set_new(dir.config[TACA_TEXT_ENCODER_2], "hidden_act", json_string("relu"));
    CHECK_INT(text_open(&t, b, &dir, &demo_opts, &err), TACA_EUNSUPPORTED);
    CHECK_HAS(err.text, "text_encoder_2: hidden_act \"relu\"");
    CHECK(t == NULL);
    taca_model_dir_finish(&dir);
    taca_backend_close(b);
}

static void test_sizes_are_those_of_the_files(void) {
    struct bench k;
    if (!open_bench(&k, DEMO, &demo_opts, TACA_F32)) return;
    /* both alike: 728 + 32 rows of 128, 2 layers, final norm, projection */
    const int64_t layer = 4 * (128 * 128 + 128) + 2 * 128 * 512 + 512 + 128 + 4 * 128;
    const int64_t each = 760 * 128 + 2 * layer + 2 * 128 + 128 * 128;
    CHECK_INT(text_parameters(k.t), 2 * each);
    const int64_t tokens = 2 * 728 * 128; /* left in the file, as bf16 */
    CHECK_INT(text_weight_bytes(k.t), (2 * each - tokens) * 4);
    CHECK_INT(text_mapped_bytes(k.t), tokens * 2);
    CHECK_INT(text_tokens(k.t), 32);
    close_bench(&k);
}

int main(void) {
    TEST(test_a_checkpoint_without_t5_gives_the_embeddings_of_the_reference);
    TEST(test_cases_of_the_reference_pipeline_agree);
    TEST(test_bf16_stays_close_to_f32);
    TEST(test_an_empty_second_prompt_is_the_first);
    TEST(test_a_cut_prompt_says_so);
    TEST(test_clip_skip_outside_the_model_names_the_field);
    TEST(test_a_prompt_costs_one_pass_of_each_encoder_and_then_none);
    TEST(test_the_cache_keeps_to_its_bytes_and_drops_the_oldest);
    TEST(test_what_is_held_is_never_dropped);
    TEST(test_encoders_that_do_not_fit_the_transformer_are_refused);
    TEST(test_sizes_are_those_of_the_files);
    return TEST_END();
}
