/* test_checkpoint.c - one component's weights, in one file or in shards. */
#include "engine/io/checkpoint.h"
#include "tests/io/tmp.h"
#include "tests/test.h"

#define U8(name, n, b, e)                                                                          \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" #n "],\"data_offsets\":[" #b "," #e "]}"

#define ONE "model-00001-of-00002.safetensors"
#define TWO "model-00002-of-00002.safetensors"

static void refuse(const char *path, enum taca_code code, const char *words) {
    struct taca_ckpt *c = NULL;
    struct taca_err err = {0};
    CHECK_INT(taca_ckpt_open(&c, path, &err), code);
    CHECK(c == NULL);
    CHECK_HAS(err.text, words);
    taca_ckpt_close(c);
}

static struct taca_ckpt *must_open(const char *path) {
    struct taca_ckpt *c = NULL;
    struct taca_err err = {0};
    CHECK_OK(taca_ckpt_open(&c, path, &err), err);
    return c;
}

/* dir/ with two shards of a, b and c, and this index */
static const char *sharded(const char *dir, const char *index) {
    char name[128];
    snprintf(name, sizeof name, "%s/" ONE, dir);
    tmp_tensors(name, "{" U8("a", 2, 0, 2) "," U8("b", 1, 2, 3) "}", 3);
    snprintf(name, sizeof name, "%s/" TWO, dir);
    tmp_tensors(name, "{" U8("c", 4, 0, 4) "}", 4);
    snprintf(name, sizeof name, "%s/model.safetensors.index.json", dir);
    tmp_text(name, index);
    return tmp_path(dir);
}

static void test_shards_are_one_checkpoint(void) {
    struct taca_ckpt *c = must_open(sharded("shards", "{\"metadata\":{\"total_size\":7},"
                                                      "\"weight_map\":{\"c\":\"" TWO
                                                      "\",\"a\":\"" ONE "\",\"b\":\"" ONE "\"}}"));
    if (!c) return;
    struct taca_tensor t;
    struct taca_err err = {0};
    CHECK_INT(taca_ckpt_parameters(c), 7);
    CHECK_INT(taca_ckpt_bytes(c), 7);
    CHECK_OK(taca_ckpt_get(c, &t, "c", 1, (int64_t[]){4}, &err), err);
    CHECK(memcmp(t.data, "\1\2\3\4", 4) == 0);
    CHECK_OK(taca_ckpt_get(c, &t, "b", 1, (int64_t[]){-1}, &err), err);
    CHECK(memcmp(t.data, "\3", 1) == 0);
    struct taca_ckpt_stats stats;
    taca_ckpt_get_stats(c, &stats);
    CHECK_INT(stats.files, 2);
    CHECK_INT(stats.tensors, 3);
    taca_ckpt_close(c);
}

static void test_shard_headers_outrank_the_index(void) {
    /* b is in a shard though the index forgot it */
    struct taca_ckpt *c =
        must_open(sharded("forgot", "{\"weight_map\":{\"c\":\"" TWO "\",\"a\":\"" ONE "\"}}"));
    CHECK(c && taca_ckpt_has(c, "b"));
    taca_ckpt_close(c);
    refuse(sharded("wrong", "{\"weight_map\":{\"c\":\"" ONE "\",\"a\":\"" TWO "\"}}"), TACA_EFORMAT,
           "tensor c should be in " ONE " and is not");
    refuse(sharded("lost", "{\"weight_map\":{\"d\":\"" ONE "\"}}"), TACA_EFORMAT,
           "tensor d should be in " ONE " and is not");
}

static void test_bad_indexes_are_refused(void) {
    refuse(sharded("gone", "{\"weight_map\":{\"a\":\"model-00003-of-00003.safetensors\"}}"),
           TACA_ENOTFOUND, "names the shard model-00003-of-00003.safetensors, which is not there");
    static const char *const outside[] = {"../" ONE, "/etc/passwd", "..",
                                          "",        "sub/" ONE,    ".hidden"};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        char index[160];
        snprintf(index, sizeof index, "{\"weight_map\":{\"a\":\"%s\"}}", outside[i]);
        refuse(sharded("outside", index), TACA_EFORMAT, "a plain file name wanted");
    }
    refuse(sharded("number", "{\"weight_map\":{\"a\":1}}"), TACA_EFORMAT, "name is no string");
    refuse(sharded("none", "{\"weight_map\":{}}"), TACA_EFORMAT, "no weight_map");
    refuse(sharded("list", "[]"), TACA_EFORMAT, "array where an object was wanted");
    refuse(sharded("twice", "{\"weight_map\":{\"a\":\"" ONE "\",\"a\":\"" TWO "\"}}"), TACA_EFORMAT,
           "duplicate");
}

static void test_a_tensor_in_two_shards_is_refused(void) {
    sharded("double", "{\"weight_map\":{\"a\":\"" ONE "\",\"c\":\"" TWO "\"}}");
    tmp_tensors("double/" TWO, "{" U8("a", 2, 0, 2) "," U8("c", 1, 2, 3) "}", 3);
    refuse(tmp_path("double"), TACA_EFORMAT, "tensor a is in two shards, " ONE " and " TWO);
}

static void test_a_broken_shard_names_itself(void) {
    const char *dir = sharded("broken", "{\"weight_map\":{\"a\":\"" ONE "\",\"c\":\"" TWO "\"}}");
    tmp_tensors("broken/" TWO, "{" U8("c", 4, 0, 4) "}", 3);
    refuse(dir, TACA_EFORMAT, TWO ": truncated");
}

static void test_a_directory_gives_its_weights(void) {
    static const char header[] = "{" U8("a", 1, 0, 1) "}";
    static const char *const files[] = {
        "d1/model.safetensors", "d2/diffusion_pytorch_model.safetensors",
        "d3/model.fp16.safetensors", "d4/diffusion_pytorch_model.fp16.safetensors"};
    for (int i = 0; i < 4; i++) {
        tmp_tensors(files[i], header, 1);
        char dir[3] = {files[i][0], files[i][1], 0};
        struct taca_ckpt *c = must_open(tmp_path(dir));
        CHECK(c && taca_ckpt_has(c, "a"));
        taca_ckpt_close(c);
    }
    /* the plain file is preferred to its variants, which otherwise must be alone */
    tmp_tensors("d1/model.fp16.safetensors", "{}", 0);
    struct taca_ckpt *c = must_open(tmp_path("d1"));
    CHECK(c && taca_ckpt_has(c, "a"));
    taca_ckpt_close(c);
    tmp_tensors("d3/model.bf16.safetensors", header, 1);
    refuse(tmp_path("d3"), TACA_EFORMAT, "2 variants of the weights");
}

static void test_variant_indexes_are_read(void) {
    static const char *const names[] = {"v1/model.safetensors.index.fp16.json",
                                        "v2/model.safetensors.fp16.index.json"};
    for (int i = 0; i < 2; i++) {
        char dir[3] = {names[i][0], names[i][1], 0}, shard[64];
        snprintf(shard, sizeof shard, "%s/model.fp16-00001-of-00001.safetensors", dir);
        tmp_tensors(shard, "{" U8("a", 1, 0, 1) "}", 1);
        tmp_text(names[i], "{\"weight_map\":{\"a\":\"model.fp16-00001-of-00001.safetensors\"}}");
        struct taca_ckpt *c = must_open(tmp_path(dir));
        CHECK(c && taca_ckpt_has(c, "a"));
        taca_ckpt_close(c);
    }
}

static void test_a_directory_without_weights_says_what_it_has(void) {
    tmp_text("pickled/diffusion_pytorch_model.bin", "PK");
    refuse(tmp_path("pickled"), TACA_EUNSUPPORTED,
           "holds diffusion_pytorch_model.bin, only safetensors is supported");
    tmp_text("bare/config.json", "{}");
    refuse(tmp_path("bare"), TACA_ENOTFOUND, "no diffusion_pytorch_model.safetensors");
    refuse(tmp_path("nowhere"), TACA_ENOTFOUND, "No such file");
}

static struct taca_ckpt *open_blocks(void) {
    return must_open(
        tmp_tensors("blocks.safetensors",
                    "{" U8("blocks.0.attn.to_q.weight", 4, 0, 4) "," U8(
                        "blocks.0.attn.to_k.weight", 4, 4,
                        8) ","
                           "\"proj\":{\"dtype\":\"U8\",\"shape\":[2,3],\"data_offsets\":[8,14]},"
                           "\"flag\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[14,16]}}",
                    16));
}

static void test_a_missing_tensor_is_named_with_its_neighbours(void) {
    struct taca_ckpt *c = open_blocks();
    struct taca_tensor t = {.rank = -7};
    struct taca_err err = {0};
    if (!c) return;
    CHECK_INT(taca_ckpt_get(c, &t, "blocks.0.attn.to_v.weight", 2, (int64_t[]){4, 4}, &err),
              TACA_ENOTFOUND);
    CHECK_INT(t.rank, -7);
    CHECK_HAS(err.text, "no tensor blocks.0.attn.to_v.weight ([4, 4] wanted)");
    CHECK_HAS(err.text, "blocks.0.attn.to_q.weight");
    CHECK_HAS(err.text, "blocks.0.attn.to_k.weight");
    err = (struct taca_err){0};
    CHECK_INT(taca_ckpt_get(c, &t, "something_else", 1, (int64_t[]){4}, &err), TACA_ENOTFOUND);
    CHECK(!strstr(err.text, "there is")); /* nothing resembles it */
    taca_ckpt_close(c);
}

static void test_a_misshapen_tensor_shows_both_shapes(void) {
    struct taca_ckpt *c = open_blocks();
    struct taca_tensor t = {.rank = -7};
    struct taca_err err = {0};
    if (!c) return;
    CHECK_INT(taca_ckpt_get(c, &t, "proj", 2, (int64_t[]){2, 4}, &err), TACA_EFORMAT);
    CHECK_HAS(err.text, "tensor proj: [2, 4] wanted, [2, 3] found");
    err = (struct taca_err){0};
    CHECK_INT(taca_ckpt_get(c, &t, "proj", 1, (int64_t[]){-1}, &err), TACA_EFORMAT);
    CHECK_HAS(err.text, "[any] wanted, [2, 3] found");
    CHECK_INT(t.rank, -7);
    err = (struct taca_err){0};
    CHECK_OK(taca_ckpt_get(c, &t, "proj", 2, (int64_t[]){-1, 3}, &err), err);
    CHECK_INT(t.dim[0], 2);
    taca_ckpt_close(c);
}

static void test_an_unsupported_dtype_is_named_on_asking(void) {
    struct taca_ckpt *c = open_blocks();
    struct taca_tensor t;
    struct taca_err err = {0};
    struct taca_ckpt_stats stats;
    if (!c) return;
    CHECK_INT(taca_ckpt_get(c, &t, "flag", 1, (int64_t[]){2}, &err), TACA_EUNSUPPORTED);
    CHECK_HAS(err.text, "tensor flag is BOOL, which is not supported");
    CHECK(taca_ckpt_has(c, "flag") && !taca_ckpt_peek(c, "flag"));
    CHECK_INT(taca_ckpt_parameters(c), 16);
    taca_ckpt_get_stats(c, &stats);
    CHECK_INT(stats.elements[TACA_U8], 14);
    CHECK_INT(stats.elements[TACA_F32], 0);
    CHECK_INT(stats.elements[TACA_STORED_OTHER], 2);
    CHECK_STR(stats.other, "BOOL");
    CHECK_INT(stats.in_matrices, 6);
    taca_ckpt_close(c);
}

static void list(void *ctx, const char *name) {
    char *text = ctx;
    strncat(text, name, 255 - strlen(text));
    strncat(text, " ", 255 - strlen(text));
}

static void test_what_nobody_asked_for_is_listed(void) {
    struct taca_ckpt *c = open_blocks();
    struct taca_tensor t;
    struct taca_err err = {0};
    char text[256] = "";
    if (!c) return;
    CHECK(taca_ckpt_has(c, "blocks.%d.attn.to_%c.weight", 0, 'q'));
    CHECK(taca_ckpt_peek(c, "blocks.0.attn.to_q.weight"));
    taca_ckpt_unused(c, list, text);
    CHECK_STR(text, "blocks.0.attn.to_k.weight blocks.0.attn.to_q.weight flag proj ");
    CHECK_OK(taca_ckpt_get(c, &t, "blocks.0.attn.to_k.weight", 1, (int64_t[]){4}, &err), err);
    text[0] = 0;
    taca_ckpt_unused(c, list, text);
    CHECK_STR(text, "blocks.0.attn.to_q.weight flag proj ");
    taca_ckpt_close(c);
}

static void test_nothing_is_in_a_name_too_long_to_be_one(void) {
    struct taca_ckpt *c = open_blocks();
    if (!c) return;
    char name[700];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    CHECK(!taca_ckpt_has(c, "%s", name));
    taca_ckpt_close(c);
}

int main(void) {
    tmp_begin();
    TEST(test_shards_are_one_checkpoint);
    TEST(test_shard_headers_outrank_the_index);
    TEST(test_bad_indexes_are_refused);
    TEST(test_a_tensor_in_two_shards_is_refused);
    TEST(test_a_broken_shard_names_itself);
    TEST(test_a_directory_gives_its_weights);
    TEST(test_variant_indexes_are_read);
    TEST(test_a_directory_without_weights_says_what_it_has);
    TEST(test_a_missing_tensor_is_named_with_its_neighbours);
    TEST(test_a_misshapen_tensor_shows_both_shapes);
    TEST(test_an_unsupported_dtype_is_named_on_asking);
    TEST(test_what_nobody_asked_for_is_listed);
    TEST(test_nothing_is_in_a_name_too_long_to_be_one);
    tmp_end();
    return TEST_END();
}
