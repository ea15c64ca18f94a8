/* The T5 encoder against values of the reference, with weights made by the fill that
 * tests/golden/README.md describes. */
#include "engine/text/t5.h"
#include "tests/text/fixture.h"

enum { LEN = 140, WIDTH = 16, LAYERS = 2 };

static bool open_t5_golden(struct golden *g) {
    if (!open_golden(g, "t5", "")) return false;
    json_object_set_new(g->config, "vocab_size", json_integer(40));
    return true;
}

static struct t5 *open_t5(const struct golden *g, struct taca_backend *b, int max_tokens) {
    struct taca_err err = {0};
    struct t5 *t = NULL;
    struct taca_ckpt *ckpt = to_ckpt(&g->w);
    CHECK_OK(t5_open(&t, b, g->config, ckpt, max_tokens, &err), err);
    taca_ckpt_close(ckpt);
    return t;
}

static void fill_ids(int32_t *ids, int n) {
    for (int i = 0; i < n; i++) ids[i] = (7 * i + 3) % 40;
}

static void run_t5(const struct t5 *t, struct taca_backend *b, const int32_t *ids, int n_seq,
                   int len, float *out) {
    struct taca_err err = {0};
    struct taca_scratch s = {.b = b};
    const int64_t rows = (int64_t)n_seq * len;
    const size_t bytes = (size_t)(rows * WIDTH) * sizeof *out;
    CHECK_OK(taca_scratch_reserve(&s, 1 << 20, &err), err);
    float *block = taca_alloc(b, bytes, &err);
    const struct taca_mat m = {block, TACA_F32, rows, WIDTH, WIDTH};
    CHECK_OK(t5_encode(t, b, &s, ids, n_seq, len, m, &err), err);
    CHECK_INT(s.used, 0);
    taca_download(b, out, block, bytes);
    CHECK_OK(taca_sync(b, &err), err);
    taca_free(b, block);
    taca_scratch_finish(&s);
}

/* 140 tokens reach every bucket; a longer table gives the same. */
static void test_t5_gives_the_values_of_the_reference(void) {
    static const int row[] = {0, 77, 139}, table[] = {140, 512};
    struct golden g;
    if (!open_t5_golden(&g)) return;
    for (int i = 0; i < 2; i++) {
        struct taca_backend *b = open_cpu();
        struct t5 *t = open_t5(&g, b, table[i]);
        int32_t ids[LEN];
        float out[LEN * WIDTH], want[WIDTH];
        double sum = 0, squares = 0;
        fill_ids(ids, LEN);
        if (t) run_t5(t, b, ids, 1, LEN, out);
        for (int k = 0; k < 3 && t; k++) {
            char key[16];
            snprintf(key, sizeof key, "row%d", row[k]);
            CHECK_INT(flatten(want, json_object_get(g.v, key)), WIDTH);
            CHECK_FLOATS(key, out + row[k] * WIDTH, want, WIDTH, 1e-5);
        }
        for (int k = 0; k < LEN * WIDTH && t; k++) {
            sum += (double)out[k];
            squares += (double)out[k] * (double)out[k];
        }
        CHECK_NEAR(sum, json_number_value(json_object_get(g.v, "sum")), 1e-3);
        CHECK_NEAR(squares, json_number_value(json_object_get(g.v, "sumsq")), 2e-3);
        t5_close(t);
        taca_backend_close(b);
    }
    close_golden(&g);
}

/* Two prompts in one call are the two alone, bit for bit where that is promised. */
static void test_prompts_of_one_call_do_not_see_each_other(void) {
    enum { N = 33 };
    struct golden g;
    if (!open_t5_golden(&g)) return;
    struct taca_backend *b = open_backend(true);
    struct t5 *t = open_t5(&g, b, 64);
    int32_t ids[2 * N];
    float both[2 * N * WIDTH], one[N * WIDTH];
    fill_ids(ids, 2 * N);
    if (t) run_t5(t, b, ids, 2, N, both);
    for (int i = 0; i < 2 && t; i++) {
        run_t5(t, b, ids + i * N, 1, N, one);
        CHECK_FLOATS("alone", one, both + i * N * WIDTH, N * WIDTH, 0);
    }
    t5_close(t);
    taca_backend_close(b);
    close_golden(&g);
}

/* The embedding under its other name, and fields of other writers of the config. */
static void test_other_names_are_the_same_model(void) {
    struct golden g;
    if (!open_t5_golden(&g)) return;
    struct taca_backend *b = open_cpu();
    int32_t ids[9];
    float plain[9 * WIDTH], other[9 * WIDTH];
    fill_ids(ids, 9);
    struct t5 *t = open_t5(&g, b, 9);
    if (t) run_t5(t, b, ids, 1, 9, plain);
    t5_close(t);
    for (int i = 0; i < g.w.n; i++)
        if (strcmp(g.w.name[i], "shared.weight") == 0)
            snprintf(g.w.name[i], MAX_NAME, "encoder.embed_tokens.weight");
    json_object_del(g.config, "dense_act_fn");
    json_object_del(g.config, "is_gated_act");
    json_object_set_new(g.config, "feed_forward_proj", json_string("gated-gelu"));
    t = open_t5(&g, b, 9);
    if (t) run_t5(t, b, ids, 1, 9, other);
    if (t) CHECK(memcmp(plain, other, sizeof plain) == 0);
    t5_close(t);
    taca_backend_close(b);
    close_golden(&g);
}

/* Of 32 buckets and distances to 128, as the reference's table has them. */
static void test_buckets_are_those_of_the_reference(void) {
    static const struct {
        int first, last, bucket;
    } far[] = {{8, 11, 8},   {12, 15, 9},  {16, 22, 10}, {23, 31, 11},
               {32, 45, 12}, {46, 63, 13}, {64, 90, 14}, {91, 1023, 15}};
    for (int a = 0; a < 8; a++) CHECK_INT(t5_bucket(-a, 32, 128), a);
    for (int a = 1; a < 8; a++) CHECK_INT(t5_bucket(a, 32, 128), 16 + a);
    for (size_t i = 0; i < sizeof far / sizeof *far; i++)
        for (int a = far[i].first; a <= far[i].last; a++)
            if (t5_bucket(-a, 32, 128) != far[i].bucket ||
                t5_bucket(a, 32, 128) != 16 + far[i].bucket) {
                CHECK_INT(t5_bucket(-a, 32, 128), far[i].bucket);
                CHECK_INT(t5_bucket(a, 32, 128), 16 + far[i].bucket);
            }
}

static void test_a_dry_run_tells_scratch_and_work(void) {
    struct golden g;
    struct taca_err err = {0};
    if (!open_t5_golden(&g)) return;
    struct taca_backend *count = NULL;
    CHECK_OK(taca_count_open(&count, TACA_F32, &err), err);
    struct t5 *t = open_t5(&g, count, 32);
    struct taca_scratch s = {.b = count};
    const struct taca_mat out = {NULL, TACA_F32, 32, WIDTH, WIDTH};
    if (t) CHECK_OK(t5_encode(t, count, &s, NULL, 1, 32, out, &err), err);
    /* x, y, h of 16; then q k v and attention, 64, or the two halves of 24 */
    CHECK_INT(s.peak, 32 * (3 * 16 + 64) * 4);
    const double linear = LAYERS * 32 * 2.0 * (4 * 16 * 16 + 3 * 16 * 24);
    const double attention = LAYERS * 4.0 * 32 * 32 * 16;
    CHECK_NEAR(taca_count_read(count).flops, linear + attention, 0.5);
    t5_close(t);
    taca_backend_close(count);
    close_golden(&g);
}

static void test_wrong_configs_and_weights_are_named(void) {
    static const struct {
        const char *key, *value, *says;
    } cases[] = {
        {"dense_act_fn", "\"relu\"", "dense_act_fn \"relu\"; supported: gated-gelu"},
        {"is_gated_act", "false", "supported: gated-gelu"},
        {"feed_forward_proj", "\"relu\"", "feed_forward_proj \"relu\""},
        {"num_layers", "3", "encoder.block.2.layer.0"},
        {"num_layers", "1000000", "num_layers"},
        {"num_heads", "3", "relative_attention_bias.weight"},
        {"d_model", "-1", "d_model"},
        {"d_kv", "5", "SelfAttention.q.weight"},
        {"d_ff", "23", "wi_0.weight"},
        {"vocab_size", "41", "shared.weight"},
        {"relative_attention_num_buckets", "30", "wanted a multiple of 4"},
        {"relative_attention_max_distance", "8", "more than a quarter"},
        {"layer_norm_epsilon", "\"x\"", "layer_norm_epsilon"},
    };
    struct golden g;
    if (!open_t5_golden(&g)) return;
    struct taca_backend *b = open_cpu();
    struct taca_ckpt *ckpt = to_ckpt(&g.w);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct taca_err err = {0};
        struct t5 *t = NULL;
        json_t *config = json_deep_copy(g.config);
        json_object_set_new(config, cases[i].key,
                            json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        CHECK(t5_open(&t, b, config, ckpt, 16, &err) != TACA_OK);
        CHECK(t == NULL);
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
    if (!open_t5_golden(&g)) return;
    struct taca_backend *b = open_cpu();
    struct t5 *t = open_t5(&g, b, 8);
    const int32_t ids[9] = {0};
    struct taca_scratch s = {.b = b};
    const struct taca_mat out = {NULL, TACA_F32, 9, WIDTH, WIDTH};
    if (t) {
        CHECK_INT(t5_encode(t, b, &s, ids, 1, 9, out, &err), TACA_EINVAL);
        CHECK_HAS(err.text, "1 prompts of 9 tokens, the encoder takes 1..8");
    }
    t5_close(t);
    taca_backend_close(b);
    close_golden(&g);
}

int main(void) {
    TEST(test_t5_gives_the_values_of_the_reference);
    TEST(test_prompts_of_one_call_do_not_see_each_other);
    TEST(test_other_names_are_the_same_model);
    TEST(test_buckets_are_those_of_the_reference);
    TEST(test_a_dry_run_tells_scratch_and_work);
    TEST(test_wrong_configs_and_weights_are_named);
    TEST(test_a_call_outside_the_encoder_is_refused);
    return TEST_END();
}
