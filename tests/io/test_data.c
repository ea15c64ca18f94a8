/* test_data.c - the data that comes with the program: found, and as good as the files it stands
 * for.
 */
#include "engine/io/data_dir.h"

#include <jansson.h>

#include "engine/text/tok_bpe.h"
#include "tests/io/tmp.h"
#include "tests/test.h"

static void test_data_is_found_where_it_is_said_to_be(void) {
    char path[512];
    unsetenv("TACA_DATA");
    setenv("TACA_DATA", TACA_SOURCE_DIR "/models", 1);
    CHECK(taca_data_find(path, sizeof path, "tokenizers/clip"));
    CHECK_STR(path, TACA_SOURCE_DIR "/models/tokenizers/clip");
    CHECK(!taca_data_find(path, sizeof path, "tokenizers/none"));
    CHECK(!taca_data_find(path, 8, "tokenizers/clip"));
    setenv("TACA_DATA", tmp_root, 1);
    CHECK(!taca_data_find(path, sizeof path, "tokenizers/clip"));
    unsetenv("TACA_DATA");
}

/* Ids of the reference, and those of the tokenizer whose files say everything. */
static void test_merges_alone_give_the_ids_of_the_whole_vocabulary(void) {
    static const char *const dirs[][2] = {
        {"clip", TACA_GOLDEN_DIR "/pipelines/sd35_tiny/tokenizer"},
        {"clip_g", TACA_GOLDEN_DIR "/pipelines/sd35_tiny/tokenizer_2"}};
    json_t *all = json_load_file(TACA_GOLDEN_DIR "/encoders/encoders_golden_tokenizers.json",
                                 JSON_ALLOW_NUL, NULL),
           *item;
    size_t n;
    if (!CHECK(all != NULL)) return;
    for (int i = 0; i < 2; i++) {
        struct tok_bpe *bare = NULL, *full = NULL;
        struct taca_err err = {0};
        char path[512];
        snprintf(path, sizeof path, TACA_SOURCE_DIR "/models/tokenizers/%s", dirs[i][0]);
        CHECK_OK(tok_bpe_open(&bare, path, &err), err);
        CHECK_OK(tok_bpe_open(&full, dirs[i][1], &err), err);
        if (err.code) break;
        CHECK_INT(tok_bpe_vocab(bare), 49408);
        CHECK_INT(tok_bpe_max_length(bare), 77);
        CHECK_INT(tok_bpe_eos(bare), 49407);
        json_array_foreach(all, n, item) {
            const char *text = json_string_value(json_object_get(item, "text"));
            const json_t *want = json_object_get(item, "clip");
            int32_t a[77], b[77];
            int total;
            if (strlen(text) != json_string_length(json_object_get(item, "text"))) continue;
            CHECK_OK(tok_bpe_encode(bare, text, a, 77, &total, &err), err);
            CHECK_OK(tok_bpe_encode(full, text, b, 77, NULL, &err), err);
            CHECK(memcmp(a, b, sizeof a) == 0);
            for (int k = 0; i == 0 && k < total && k < 76; k++)
                CHECK_INT(a[k], json_integer_value(json_array_get(want, (size_t)k)));
        }
        tok_bpe_close(bare);
        tok_bpe_close(full);
    }
    json_decref(all);
}

static void test_bad_merges_are_named(void) {
    struct tok_bpe *t = NULL;
    struct taca_err err = {0};
    tmp_text("bad/merges.txt", "#version: 0.2\ni n\nnonsense\n");
    CHECK_INT(tok_bpe_open(&t, tmp_path("bad"), &err), TACA_EFORMAT);
    CHECK(t == NULL);
    CHECK_HAS(err.text, "merges.txt:3");
}

int main(void) {
    tmp_begin();
    TEST(test_data_is_found_where_it_is_said_to_be);
    TEST(test_merges_alone_give_the_ids_of_the_whole_vocabulary);
    TEST(test_bad_merges_are_named);
    tmp_end();
    return TEST_END();
}
