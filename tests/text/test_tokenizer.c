/* The CLIP tokenizer against ids of the reference, files as they come and files that are wrong. */
#include <jansson.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/text/tok_bpe.h"
#include "tests/test.h"
#include "tests/text/made_dir.h"

#define CLIP TACA_GOLDEN_DIR "/tokenizers/clip"
#define BANG TACA_GOLDEN_DIR "/pipelines/sd35_tiny/tokenizer_2"
#define DEMO TACA_SOURCE_DIR "/models/demo/tokenizer"

enum { MAX_IDS = 4096 };

static struct tok_bpe *open_or_fail(const char *dir) {
    struct tok_bpe *t = NULL;
    struct taca_err err = {0};
    CHECK_OK(tok_bpe_open(&t, dir, &err), err);
    return t;
}

static int encode(const struct tok_bpe *t, const char *text, int32_t *ids, int len) {
    struct taca_err err = {0};
    int total = -1;
    CHECK_OK(tok_bpe_encode(t, text, ids, len, &total, &err), err);
    return total;
}

static void check_ids(const struct tok_bpe *t, const char *text, const json_t *want) {
    int32_t ids[MAX_IDS];
    if (!t || !want) return;
    int n = encode(t, text, ids, MAX_IDS);
    bool same = n == (int)json_array_size(want);
    for (int i = 0; i < n && same; i++)
        same = json_integer_value(json_array_get(want, i)) == ids[i];
    if (CHECK(same)) return;
    printf("        \"%s\"\n        got ", text);
    for (int i = 0; i < n; i++) printf(" %d", ids[i]);
    char *text_want = json_dumps(want, JSON_COMPACT);
    printf("\n        want %s\n", text_want);
    free(text_want);
}

static void test_ids_are_those_of_the_reference(void) {
    json_error_t e;
    json_t *root = json_load_file(TACA_SOURCE_DIR "/tests/text/clip_ids.json", 0, &e), *v;
    struct tok_bpe *clip = open_or_fail(CLIP), *bang = open_or_fail(BANG);
    struct tok_bpe *demo = open_or_fail(DEMO);
    size_t i;
    CHECK_INT(json_array_size(json_object_get(root, "cases")), 300);
    json_array_foreach(json_object_get(root, "cases"), i, v) {
        const char *text = json_string_value(json_object_get(v, "text"));
        const json_t *plain = json_object_get(v, "clip"), *other = json_object_get(v, "bang");
        check_ids(clip, text, plain);
        check_ids(bang, text, other ? other : plain);
        check_ids(demo, text, json_object_get(v, "demo"));
    }
    tok_bpe_close(clip);
    tok_bpe_close(bang);
    tok_bpe_close(demo);
    json_decref(root);
}

static void test_the_older_golden_ids_agree(void) {
    json_error_t e;
    const char *path = TACA_GOLDEN_DIR "/encoders/encoders_golden_tokenizers.json";
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &e), *v;
    struct tok_bpe *clip = open_or_fail(CLIP);
    size_t i;
    int compared = 0;
    json_array_foreach(root, i, v) {
        const json_t *text = json_object_get(v, "text");
        if (strlen(json_string_value(text)) != json_string_length(text)) continue; /* has a NUL */
        check_ids(clip, json_string_value(text), json_object_get(v, "clip"));
        compared++;
    }
    CHECK_INT(compared, 18);
    tok_bpe_close(clip);
    json_decref(root);
}

static void test_sizes_and_special_ids_come_from_the_files(void) {
    struct tok_bpe *t = open_or_fail(CLIP);
    CHECK_INT(tok_bpe_vocab(t), 49408);
    CHECK_INT(tok_bpe_max_length(t), 8192);
    CHECK_INT(tok_bpe_eos(t), 49407);
    tok_bpe_close(t);
    t = open_or_fail(DEMO);
    CHECK_INT(tok_bpe_vocab(t), 728);
    CHECK_INT(tok_bpe_max_length(t), 32);
    CHECK_INT(tok_bpe_eos(t), 727);
    tok_bpe_close(t);
}

static void test_a_long_text_keeps_its_start_and_ends_with_eos(void) {
    struct tok_bpe *t = open_or_fail(CLIP);
    int32_t ids[5] = {0};
    CHECK_INT(encode(t, "a photo of a cat", ids, 5), 7);
    const int32_t want[5] = {49406, 320, 1125, 539, 49407};
    CHECK(memcmp(ids, want, sizeof want) == 0);
    CHECK_INT(encode(t, "a photo of a cat", ids, 2), 7);
    CHECK_INT(ids[0], 49406);
    CHECK_INT(ids[1], 49407);
    struct taca_err err = {0};
    CHECK_INT(tok_bpe_encode(t, "a", ids, 1, NULL, &err), TACA_EINVAL);
    tok_bpe_close(t);
}

static void test_padding_is_that_of_the_files(void) {
    struct tok_bpe *eos = open_or_fail(CLIP), *bang = open_or_fail(BANG);
    int32_t ids[6];
    CHECK_INT(encode(eos, "cat", ids, 6), 3);
    const int32_t want_eos[] = {49406, 2368, 49407, 49407, 49407, 49407};
    CHECK(memcmp(ids, want_eos, sizeof want_eos) == 0);
    CHECK_INT(encode(bang, "cat", ids, 6), 3);
    const int32_t want_bang[] = {49406, 2368, 49407, 0, 0, 0};
    CHECK(memcmp(ids, want_bang, sizeof want_bang) == 0);
    tok_bpe_close(eos);
    tok_bpe_close(bang);
}

static void test_malformed_utf8_counts_as_replacement_characters(void) {
    struct tok_bpe *t = open_or_fail(CLIP);
    int32_t got[64], want[64];
    int n = encode(t, "a\xff\xc3 b\xed\xa0\x80", got, 64);
    CHECK_INT(
        n, encode(t, "a\xEF\xBF\xBD\xEF\xBF\xBD b\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD", want, 64));
    CHECK(memcmp(got, want, sizeof got) == 0);
    tok_bpe_close(t);
}

/* A prompt comes from anybody: nothing in it may cost more than n log n. Quadratic code takes many
 * seconds here; the bound leaves room for sanitizers. */
static void test_hostile_prompts_stay_fast(void) {
    static const char *const units[] = {"a",
                                        "ab",
                                        "!",
                                        "'",
                                        "<|",
                                        "\xCC\xA3\xCC\x81",
                                        "\xE4\xB8\x80",
                                        "<|endoftext|>",
                                        " ",
                                        "\xC4\xB0",
                                        "<|endoftex"};
    enum { BYTES = 256 << 10 };
    struct tok_bpe *t = open_or_fail(BANG);
    char *text = malloc(BYTES + 32);
    int32_t ids[77];
    for (size_t i = 0; i < sizeof units / sizeof *units && text; i++) {
        size_t n = 0, len = strlen(units[i]);
        for (; n < BYTES; n += len) memcpy(text + n, units[i], len);
        text[n] = 0;
        double start = taca_now_ms();
        int total = encode(t, text, ids, 77);
        double ms = taca_now_ms() - start;
        printf("    256 kB of \"%s\": %d tokens, %.1f ms\n", units[i], total, ms);
        CHECK(ms < 2000);
        CHECK_INT(ids[76], total >= 77 ? 49407 : 0);
    }
    free(text);
    tok_bpe_close(t);
}

/* ---- files ----------------------------------------------------------------------------------- */

/* A vocabulary of a few letters: c a t and their ends, two merges. */
#define LETTERS                                                                                    \
    "\"!\":0,\"c\":1,\"a\":2,\"t\":3,\"c</w>\":4,\"a</w>\":5,\"t</w>\":6,\"ca\":7,\"cat</w>\":8,"
#define VOCAB "{" LETTERS "\"<|startoftext|>\":9,\"<|endoftext|>\":10}"

static void check_cat(const struct made *m, const char *text, int n, const int32_t *want) {
    struct tok_bpe *t = open_or_fail(m->dir);
    int32_t ids[16] = {0};
    if (!t) return;
    CHECK_INT(encode(t, text, ids, 16), n);
    for (int i = 0; i < n; i++) CHECK_INT(ids[i], want[i]);
    tok_bpe_close(t);
}

static void test_vocab_and_merges_alone_are_enough(void) {
    struct made m;
    make_dir(&m);
    write_file(&m, "vocab.json", VOCAB);
    write_file(&m, "merges.txt", "#version: 0.2\r\nc a\r\nca t</w>\r\n\r\n");
    /* unknown bytes become the unknown token, which is the end token */
    check_cat(&m, "CAT ca! x", 7, (const int32_t[]){9, 8, 1, 5, 10, 10, 10});
    struct tok_bpe *t = open_or_fail(m.dir);
    CHECK_INT(tok_bpe_max_length(t), 77);
    tok_bpe_close(t);
    remove_dir(&m);
}

static void test_tokenizer_json_alone_is_enough_in_both_spellings(void) {
    static const char *const merges[] = {"[\"c a\",\"ca t</w>\"]",
                                         "[[\"c\",\"a\"],[\"ca\",\"t</w>\"]]"};
    for (int i = 0; i < 2; i++) {
        struct made m;
        char text[1024];
        make_dir(&m);
        snprintf(
            text, sizeof text,
            "{\"added_tokens\":[{\"id\":9,\"content\":\"<|startoftext|>\",\"normalized\":true},"
            "{\"id\":10,\"content\":\"<|endoftext|>\",\"normalized\":false}],"
            "\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",\"merges\":%s,"
            "\"vocab\":%s}}",
            merges[i], VOCAB);
        write_file(&m, "tokenizer.json", text);
        write_file(&m, "tokenizer_config.json",
                   "{\"model_max_length\":1e30,\"pad_token\":{\"content\":\"!\"}}");
        check_cat(&m, "cat!<|STARTOFTEXT|>t", 6, (const int32_t[]){9, 8, 0, 9, 6, 10});
        remove_dir(&m);
    }
}

/* Special tokens: declared ones keep their flags, a role may be a string or an object. */
static void test_roles_may_be_strings_or_objects(void) {
    static const struct {
        const char *config;
        int32_t want[6];
        int n;
    } cases[] = {
        {"{\"bos_token\":\"<|startoftext|>\"}", {9, 10, 10, 10, 10, 10}, 0},
        {"{\"bos_token\":{\"content\":\"<|startoftext|>\",\"normalized\":true}}", {9, 9, 8, 10}, 4},
        {"{\"bos_token\":\"<|startoftext|>\",\"added_tokens_decoder\":{\"9\":{\"content\":"
         "\"<|startoftext|>\",\"normalized\":true}}}",
         {9, 9, 8, 10},
         4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made m;
        make_dir(&m);
        write_file(&m, "vocab.json", VOCAB);
        write_file(&m, "merges.txt", "c a\nca t</w>\n");
        write_file(&m, "tokenizer_config.json", cases[i].config);
        if (cases[i].n) {
            check_cat(&m, "<|StartOfText|>cat", cases[i].n, cases[i].want);
        } else { /* not normalised: spelled otherwise it is plain text */
            struct tok_bpe *t = open_or_fail(m.dir);
            int32_t ids[64];
            CHECK_INT(encode(t, "<|StartOfText|>cat", ids, 64), 18);
            tok_bpe_close(t);
        }
        remove_dir(&m);
    }
}

static void test_wrong_files_are_named_with_file_and_line(void) {
    static const struct {
        const char *file, *text, *says;
    } cases[] = {
        {"merges.txt", "#version\nc a\nca  t</w>\n", "merges.txt:3: found \"ca  t</w>\""},
        {"merges.txt", "c a\nca\n", "merges.txt:2: found \"ca\""},
        {"merges.txt", "", "merges.txt: there are no merges in it"},
        {"merges.txt", "#version: 0.2\n", "merges.txt: there are no merges in it"},
        {"merges.txt", "c a\n z\n", "merges.txt:2: found \" z\""},
        {"merges.txt", "z a\n", "merges.txt:1: \"z a\": the first token is not in the vocabulary"},
        {"merges.txt", "t c\n", "merges.txt:1: \"t c\": the result is not in the vocabulary"},
        {"vocab.json", "{\"a\":1,\n\"b\":}", "vocab.json: not valid JSON, line 2"},
        {"vocab.json", "{\"a\":-1}", "vocab.json: token \"a\" has no id in 0..16777215"},
        {"vocab.json", "{\"a\":1e9}", "token \"a\" has no id"},
        {"vocab.json", "{\"a\":2147483648}", "token \"a\" has no id"},
        {"vocab.json", "{" LETTERS "\"<|endoftext|>\":10}", "bos_token \"<|startoftext|>\" is not"},
        {"tokenizer_config.json", "{\"pad_token\":7}", "pad_token is neither a string nor"},
        {"tokenizer_config.json", "{\"pad_token\":\"\"}", "pad_token is neither"},
        {"tokenizer_config.json", "{\"pad_token\":\"?\"}", "pad_token \"?\" is not in"},
        {"tokenizer_config.json", "{\"model_max_length\":1}", "model_max_length"},
        {"tokenizer_config.json", "{\"model_max_length\":\"x\"}", "model_max_length"},
        {"tokenizer_config.json", "{\"eos_token\":null}", "needs bos_token and eos_token"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"x\":{\"content\":\"a\"}}}",
         "an added token without content or id"},
        {"tokenizer_config.json",
         "{\"added_tokens_decoder\":{\"3\":{\"content\":\"t\",\"lstrip\":true}}}",
         "lstrip of added token \"t\""},
        {"special_tokens_map.json", "[]", "special_tokens_map.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made m;
        struct tok_bpe *t = NULL;
        struct taca_err err = {0};
        make_dir(&m);
        write_file(&m, "vocab.json", VOCAB);
        write_file(&m, "merges.txt", "c a\nca t</w>\n");
        write_file(&m, cases[i].file, cases[i].text);
        CHECK(tok_bpe_open(&t, m.dir, &err) != TACA_OK);
        CHECK(t == NULL);
        CHECK_HAS(err.text, cases[i].says);
        remove_dir(&m);
    }
}

static void test_a_directory_without_a_tokenizer_says_what_it_wants(void) {
    struct made m;
    struct tok_bpe *t = NULL;
    struct taca_err err = {0};
    make_dir(&m);
    CHECK_INT(tok_bpe_open(&t, m.dir, &err), TACA_ENOTFOUND);
    CHECK_HAS(err.text, "wanted vocab.json and merges.txt or tokenizer.json");
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"{}", "words end with \"\""},
        {"{\"model\":{\"type\":\"Unigram\"}}", "a Unigram tokenizer, wanted CLIP's BPE"},
        {"{\"model\":{\"end_of_word_suffix\":\"\",\"vocab\":{}}}", "words end with \"\""},
        {"{\"model\":{\"end_of_word_suffix\":\"</w>\"}}", "no vocabulary"},
        {"{\"model\":{\"end_of_word_suffix\":\"</w>\",\"vocab\":{},\"merges\":{}}}",
         "not an array"},
        {"{\"model\":{\"end_of_word_suffix\":\"</w>\",\"vocab\":{},\"merges\":[]}}",
         "no merges in it"},
        {"{\"model\":{\"end_of_word_suffix\":\"</w>\",\"vocab\":{},\"merges\":[[\"a\"]]}}",
         "model.merges[0]: wanted"},
        {"{\"model\":{\"end_of_word_suffix\":\"</w>\",\"vocab\":{},\"merges\":[\"a b\"]}}",
         "model.merges[0]: \"a b\": the first token"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err = (struct taca_err){0};
        write_file(&m, "tokenizer.json", cases[i].text);
        CHECK(tok_bpe_open(&t, m.dir, &err) != TACA_OK);
        CHECK_HAS(err.text, cases[i].says);
    }
    remove_dir(&m);
}

int main(void) {
    TEST(test_ids_are_those_of_the_reference);
    TEST(test_the_older_golden_ids_agree);
    TEST(test_sizes_and_special_ids_come_from_the_files);
    TEST(test_a_long_text_keeps_its_start_and_ends_with_eos);
    TEST(test_padding_is_that_of_the_files);
    TEST(test_malformed_utf8_counts_as_replacement_characters);
    TEST(test_hostile_prompts_stay_fast);
    TEST(test_vocab_and_merges_alone_are_enough);
    TEST(test_tokenizer_json_alone_is_enough_in_both_spellings);
    TEST(test_roles_may_be_strings_or_objects);
    TEST(test_wrong_files_are_named_with_file_and_line);
    TEST(test_a_directory_without_a_tokenizer_says_what_it_wants);
    return TEST_END();
}
