/* The CLIP encoder against values of the reference, with weights made by the fill that
 * tests/golden/README.md describes. */
#include <jansson.h>
#include <unistd.h>

#include "engine/io/safetensors.h"
#include "engine/text/clip.h"
#include "tests/test.h"

enum { MAX_TENSORS = 64, MAX_NAME = 96, LEN = 8, WIDTH = 16 };

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

static void check_floats(const struct golden *g, const char *key, const float *got, size_t n) {
    float want[LEN * WIDTH];
    CHECK_INT(flatten(want, json_object_get(g->v, key)), n);
    CHECK_FLOATS(key, got, want, n, 1e-5);
}

static struct taca_backend *open_cpu(void) {
    struct taca_backend *b = NULL;
    struct taca_err err = {0};
    const struct taca_backend_opts opts = {.threads = 1, .precision = TACA_F32};
    CHECK_OK(taca_cpu_open(&b, &opts, &err), err);
    return b;
}

/* One run of a clip over host buffers; NULL for what is not wanted. */
struct run {
    float *hidden, *pooled, *last;
    int skip, n_seq;
};

static void run_clip(struct clip *c, struct taca_backend *b, const int32_t *ids, struct run r) {
    struct taca_err err = {0};
    struct taca_scratch s = {.b = b};
    const int64_t rows = (int64_t)r.n_seq * LEN, w = clip_width(c), p = clip_pooled_width(c);
    const struct clip_in in = {ids, r.n_seq, LEN, 49, r.skip};
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
        run_clip(c, b, ids, (struct run){hidden, pooled, last, 0, 1});
        check_floats(&g, "hidden_minus2", hidden, LEN * WIDTH);
        check_floats(&g, "last_hidden_state", last, LEN * WIDTH);
        bool projected = json_object_get(json_object_get(g.v, "keys"), "text_projection.weight");
        check_floats(&g, projected ? "text_embeds" : "pooled", pooled, WIDTH);
        /* the row of the first EOS, before any projection */
        check_floats(&g, "pooled", last + 4 * WIDTH, WIDTH);
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
    run_clip(c, b, ids, (struct run){NULL, pooled, NULL, 0, 1});
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
    run_clip(c, b, ids, (struct run){both, pooled, NULL, 1, 2});
    for (int i = 0; i < 2; i++) {
        run_clip(c, b, ids + i * LEN, (struct run){one, one_pooled, NULL, 1, 1});
        CHECK_FLOATS("hidden alone", one, both + i * N, N, 1e-6);
        CHECK_FLOATS("pooled alone", one_pooled, pooled + i * WIDTH, WIDTH, 1e-6);
        run_clip(c, b, ids + i * LEN, (struct run){one, NULL, NULL, 1, 1});
        CHECK_FLOATS("only hidden", one, both + i * N, N, 1e-6);
    }
    run_clip(c, b, ids, (struct run){early, NULL, NULL, 2, 2});
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
    struct clip_in in = {ids, 1, LEN, 49, 3};
    CHECK_INT(clip_encode(c, b, &s, &in, &out, &err), TACA_EINVAL);
    CHECK_HAS(err.text, "clip_skip must be in 0..2 for this encoder, got 3");
    CHECK_STR(err.param, "clip_skip");
    err = (struct taca_err){0};
    in = (struct clip_in){ids, 1, LEN + 1, 49, 0};
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
