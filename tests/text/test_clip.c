/* The CLIP encoder against values of the reference, with weights made by the fill that
 * tests/golden/README.md describes. */
#include "engine/text/clip.h"
#include "tests/text/fixture.h"

enum { LEN = 8, WIDTH = 16 };

static void check_floats(const struct golden *g, const char *key, const float *got, size_t n) {
    float want[LEN * WIDTH];
    CHECK_INT(flatten(want, json_object_get(g->v, key)), n);
    CHECK_FLOATS(key, got, want, n, 1e-5);
}

/* One run of a clip over host buffers; NULL for what is not wanted. */
struct run {
    float *hidden, *pooled, *last;
    int skip, n_seq;
    bool unprojected;
};

static void run_clip(struct clip *c, struct taca_backend *b, const int32_t *ids, struct run r) {
    struct taca_err err = {0};
    struct taca_scratch s = {.b = b};
    const int64_t rows = (int64_t)r.n_seq * LEN, w = clip_width(c), p = clip_pooled_width(c);
    const struct clip_in in = {.ids = ids,
                               .n_seq = r.n_seq,
                               .len = LEN,
                               .eos = 49,
                               .clip_skip = r.skip,
                               .unprojected = r.unprojected};
    struct clip_out out = {{0}, {0}, {0}};
    CHECK_OK(taca_scratch_reserve(&s, 1 << 20, &err), err);
    float *block = taca_alloc(b, (size_t)(rows * 2 * w + r.n_seq * p) * sizeof *block, &err);
    if (r.hidden) out.hidden = (struct taca_mat){block, TACA_F32, rows, w, w};
    if (r.last) out.last = (struct taca_mat){block + rows * w, TACA_F32, rows, w, w};
    if (r.pooled) out.pooled = (struct taca_mat){block + 2 * rows * w, TACA_F32, r.n_seq, p, p};
    CHECK_OK(clip_encode(c, b, &s, &in, &out, &err), err);
    CHECK_INT(s.used, 0);
    const size_t bytes = (size_t)(rows * w) * sizeof *block;
    if (r.hidden) taca_download(b, r.hidden, out.hidden.data, bytes);
    if (r.last) taca_download(b, r.last, out.last.data, bytes);
    if (r.pooled)
        taca_download(b, r.pooled, out.pooled.data, (size_t)(r.n_seq * p) * sizeof *block);
    CHECK_OK(taca_sync(b, &err), err);
    taca_free(b, block);
    taca_scratch_finish(&s);
}

static void read_ids(const struct golden *g, int32_t *ids) {
    float v[LEN];
    CHECK_INT(flatten(v, json_object_get(g->v, "ids")), LEN);
    for (int i = 0; i < LEN; i++) ids[i] = (int32_t)v[i];
}

static void check_case(const char *name, const char *strip) {
    struct golden g;
    struct taca_err err = {0};
    struct clip *c = NULL;
    if (!open_golden(&g, name, strip)) return;
    struct taca_backend *b = open_cpu();
    struct taca_ckpt *ckpt = to_ckpt(&g.w);
    CHECK_OK(clip_open(&c, b, g.config, ckpt, &err), err);
    taca_ckpt_close(ckpt);
    if (c) {
        int32_t ids[LEN];
        float hidden[LEN * WIDTH], last[LEN * WIDTH], pooled[WIDTH];
        read_ids(&g, ids);
        run_clip(c, b, ids,
                 (struct run){.hidden = hidden, .pooled = pooled, .last = last, .n_seq = 1});
        check_floats(&g, "hidden_minus2", hidden, LEN * WIDTH);
        check_floats(&g, "last_hidden_state", last, LEN * WIDTH);
        bool projected = json_object_get(json_object_get(g.v, "keys"), "text_projection.weight");
        check_floats(&g, projected ? "text_embeds" : "pooled", pooled, WIDTH);
        /* the row of the first EOS, before any projection */
        check_floats(&g, "pooled", last + 4 * WIDTH, WIDTH);
        run_clip(c, b, ids, (struct run){.pooled = pooled, .n_seq = 1, .unprojected = true});
        check_floats(&g, "pooled", pooled, WIDTH);
    }
    clip_close(c);
    taca_backend_close(b);
    close_golden(&g);
}

static void test_quick_gelu_gives_the_values_of_the_reference(void) {
    check_case("clip_quick_gelu", "");
}
static void test_gelu_gives_the_values_of_the_reference(void) { check_case("clip_gelu", ""); }
static void test_names_without_text_model_are_the_same_model(void) {
    check_case("clip_gelu", "text_model.");
}

/* ---- the rest -------------------------------------------------------------------------------- */

static void test_without_projection_pooled_is_the_normed_row(void) {
    struct golden g;
    struct taca_err err = {0};
    struct clip *c = NULL;
    if (!open_golden(&g, "clip_quick_gelu", "")) return;
    struct weights w = g.w;
    w.n = 0;
    for (int i = 0; i < g.w.n; i++)
        if (strcmp(g.w.tensor[i].name, "text_projection.weight") != 0)
            w.tensor[w.n++] = g.w.tensor[i];
    CHECK_INT(w.n, g.w.n - 1);
    struct taca_backend *b = open_cpu();
    struct taca_ckpt *ckpt = to_ckpt(&w);
    CHECK_OK(clip_open(&c, b, g.config, ckpt, &err), err);
    taca_ckpt_close(ckpt);
    int32_t ids[LEN];
    float pooled[WIDTH];
    read_ids(&g, ids);
    run_clip(c, b, ids, (struct run){.pooled = pooled, .n_seq = 1});
    check_floats(&g, "pooled", pooled, WIDTH);
    clip_close(c);
    taca_backend_close(b);
    close_golden(&g);
}

/* Two prompts in one call are the two alone; what a call is not asked for changes nothing; with
 * the largest clip_skip hidden is the sum of the two embeddings. */
static void test_batches_skips_and_partial_outputs_agree(void) {
    struct golden g;
    struct taca_err err = {0};
    struct clip *c = NULL;
    if (!open_golden(&g, "clip_gelu", "")) return;
    struct taca_backend *b = open_cpu();
    struct taca_ckpt *ckpt = to_ckpt(&g.w);
    CHECK_OK(clip_open(&c, b, g.config, ckpt, &err), err);
    enum { N = LEN * WIDTH };
    int32_t ids[2 * LEN] = {0};
    float both[2 * N], pooled[2 * WIDTH], one[N], one_pooled[WIDTH], early[2 * N], want[N];
    read_ids(&g, ids);
    const int32_t other[LEN] = {48, 7, 49, 49, 49, 49, 49, 49};
    memcpy(ids + LEN, other, sizeof other);
    run_clip(c, b, ids, (struct run){.hidden = both, .pooled = pooled, .skip = 1, .n_seq = 2});
    for (int i = 0; i < 2; i++) {
        run_clip(c, b, ids + i * LEN,
                 (struct run){.hidden = one, .pooled = one_pooled, .skip = 1, .n_seq = 1});
        CHECK_FLOATS("hidden alone", one, both + i * N, N, 1e-6);
        CHECK_FLOATS("pooled alone", one_pooled, pooled + i * WIDTH, WIDTH, 1e-6);
        run_clip(c, b, ids + i * LEN, (struct run){.hidden = one, .skip = 1, .n_seq = 1});
        CHECK_FLOATS("only hidden", one, both + i * N, N, 1e-6);
    }
    run_clip(c, b, ids, (struct run){.hidden = early, .skip = 2, .n_seq = 2});
    struct taca_tensor token, position;
    CHECK_OK(taca_ckpt_get(ckpt, &token, "text_model.embeddings.token_embedding.weight", 2,
                           (int64_t[]){50, WIDTH}, &err),
             err);
    CHECK_OK(taca_ckpt_get(ckpt, &position, "text_model.embeddings.position_embedding.weight", 2,
                           (int64_t[]){LEN, WIDTH}, &err),
             err);
    for (int r = 0; r < LEN; r++)
        for (int k = 0; k < WIDTH; k++) {
            float v[2];
            memcpy(&v[0], (const float *)token.data + other[r] * WIDTH + k, sizeof v[0]);
            memcpy(&v[1], (const float *)position.data + r * WIDTH + k, sizeof v[1]);
            want[r * WIDTH + k] = v[0] + v[1];
        }
    CHECK_FLOATS("embeddings", early + N, want, N, 0);
    taca_ckpt_close(ckpt);
    clip_close(c);
    taca_backend_close(b);
    close_golden(&g);
}

static void test_a_dry_run_tells_scratch_and_work(void) {
    struct golden g;
    struct taca_err err = {0};
    struct clip *c = NULL;
    if (!open_golden(&g, "clip_gelu", "")) return;
    struct taca_backend *count = NULL;
    CHECK_OK(taca_count_open(&count, TACA_F32, &err), err);
    struct taca_ckpt *ckpt = to_ckpt(&g.w);
    CHECK_OK(clip_open(&c, count, g.config, ckpt, &err), err);
    taca_ckpt_close(ckpt);
    struct taca_scratch s = {.b = count};
    const struct clip_in in = {.n_seq = 1, .len = LEN};
    const struct clip_out out = {.pooled = {NULL, TACA_F32, 1, WIDTH, WIDTH}};
    CHECK_OK(clip_encode(c, count, &s, &in, &out, &err), err);
    /* x, y, h, q k v, mlp: 6 * 16 + 32 floats a row, 8 rows */
    CHECK_INT(s.peak, 8 * (6 * 16 + 32) * 4);
    /* per layer 4 square matrices and 2 of the mlp over 8 rows; the projection over one */
    const double linear = 3 * 8 * 2.0 * (4 * 16 * 16 + 2 * 16 * 32) + 2.0 * 16 * 16;
    CHECK(taca_count_read(count).flops >= linear);
    clip_close(c);
    taca_backend_close(count);
    close_golden(&g);
}

static void test_wrong_configs_and_weights_are_named(void) {
    static const struct {
        const char *key, *value, *says;
    } cases[] = {
        {"hidden_act", "\"gelu_new\"", "hidden_act \"gelu_new\", supported: quick_gelu, gelu"},
        {"hidden_act", "3", "hidden_act"},
        {"num_attention_heads", "3", "hidden_size 16 is no multiple of num_attention_heads 3"},
        {"num_hidden_layers", "4", "encoder.layers.3."},
        {"num_hidden_layers", "1000000", "num_hidden_layers"},
        {"hidden_size", "-1", "hidden_size"},
        {"vocab_size", "51", "token_embedding.weight"},
        {"max_position_embeddings", "7", "position_embedding.weight"},
        {"intermediate_size", "31", "mlp.fc1.weight"},
        {"layer_norm_eps", "\"x\"", "layer_norm_eps"},
    };
    struct golden g;
    if (!open_golden(&g, "clip_gelu", "")) return;
    struct taca_backend *b = open_cpu();
    struct taca_ckpt *ckpt = to_ckpt(&g.w);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct taca_err err = {0};
        struct clip *c = NULL;
        json_t *config = json_deep_copy(g.config);
        json_object_set_new(config, cases[i].key,
                            json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        CHECK(clip_open(&c, b, config, ckpt, &err) != TACA_OK);
        CHECK(c == NULL);
        CHECK_HAS(err.text, cases[i].says);
        json_decref(config);
    }
    taca_ckpt_close(ckpt);
    taca_backend_close(b);
    close_golden(&g);
}

static void test_a_call_outside_the_encoder_is_refused(void) {
    struct golden g;
    struct taca_err err = {0};
    struct clip *c = NULL;
    if (!open_golden(&g, "clip_gelu", "")) return;
    struct taca_backend *b = open_cpu();
    struct taca_ckpt *ckpt = to_ckpt(&g.w);
    CHECK_OK(clip_open(&c, b, g.config, ckpt, &err), err);
    taca_ckpt_close(ckpt);
    const int32_t ids[LEN] = {0};
    struct taca_scratch s = {.b = b};
    const struct clip_out out = {{0}, {0}, {0}};
    struct clip_in in = {.ids = ids, .n_seq = 1, .len = LEN, .eos = 49, .clip_skip = 3};
    CHECK_INT(clip_encode(c, b, &s, &in, &out, &err), TACA_EINVAL);
    CHECK_HAS(err.text, "clip_skip must be in 0..2 for this encoder, got 3");
    CHECK_STR(err.param, "clip_skip");
    err = (struct taca_err){0};
    in = (struct clip_in){.ids = ids, .n_seq = 1, .len = LEN + 1, .eos = 49};
    CHECK_INT(clip_encode(c, b, &s, &in, &out, &err), TACA_EINVAL);
    CHECK_HAS(err.text, "9 tokens, the encoder takes 1..8");
    clip_close(c);
    taca_backend_close(b);
    close_golden(&g);
}

int main(void) {
    TEST(test_quick_gelu_gives_the_values_of_the_reference);
    TEST(test_gelu_gives_the_values_of_the_reference);
    TEST(test_names_without_text_model_are_the_same_model);
    TEST(test_without_projection_pooled_is_the_normed_row);
    TEST(test_batches_skips_and_partial_outputs_agree);
    TEST(test_a_dry_run_tells_scratch_and_work);
    TEST(test_wrong_configs_and_weights_are_named);
    TEST(test_a_call_outside_the_encoder_is_refused);
    return TEST_END();
}
