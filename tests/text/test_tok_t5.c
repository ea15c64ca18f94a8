/* The T5 tokenizer against ids of the reference, files as they come and files that are wrong. */
#include <jansson.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/text/tok_t5.h"
#include "tests/test.h"
#include "tests/text/made_dir.h"

#define T5    TACA_SOURCE_DIR "/models/tokenizers/t5"
#define SMALL TACA_SOURCE_DIR "/tests/text/t5_small"
#define IDS   TACA_SOURCE_DIR "/tests/text/t5_ids.json"

enum { MAX_IDS = 4096 };

static struct tok_t5 *open_or_fail(const char *dir) {
    struct tok_t5 *t = NULL;
    struct taca_err err = {0};
    CHECK_OK(tok_t5_open(&t, dir, &err), err);
    return t;
}

static int encode(const struct tok_t5 *t, const char *text, int32_t *ids, int len) {
    struct taca_err err = {0};
    int total = -1;
    CHECK_OK(tok_t5_encode(t, text, ids, len, &total, &err), err);
    return total;
}

static void check_ids(const struct tok_t5 *t, const char *text, const json_t *want) {
    int32_t ids[MAX_IDS];
    if (!t || !CHECK(want != NULL)) return;
    int n = encode(t, text, ids, MAX_IDS);
    bool same = n == (int)json_array_size(want);
    for (int i = 0; i < n && same; i++)
        same = json_integer_value(json_array_get(want, (size_t)i)) == ids[i];
    if (CHECK(same)) return;
    printf("        \"%s\"\n        got ", text);
    for (int i = 0; i < n; i++) printf(" %d", ids[i]);
    char *text_want = json_dumps(want, JSON_COMPACT);
    printf("\n        want %s\n", text_want);
    free(text_want);
}

/* ---- the public vocabulary ------------------------------------------------------------------- */

static void test_ids_are_those_of_the_reference(void) {
    json_error_t e;
    json_t *root = json_load_file(IDS, 0, &e), *v;
    struct tok_t5 *t = open_or_fail(T5);
    size_t i;
    CHECK(json_array_size(json_object_get(root, "cases")) >= 290);
    json_array_foreach(json_object_get(root, "cases"), i, v)
        check_ids(t, json_string_value(json_object_get(v, "text")), json_object_get(v, "ids"));
    if (t) CHECK_INT(tok_t5_vocab(t), 32100);
    tok_t5_close(t);
    json_decref(root);
}

static void test_the_older_golden_ids_agree(void) {
    json_error_t e;
    const char *path = TACA_GOLDEN_DIR "/encoders/encoders_golden_tokenizers.json";
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &e), *v;
    struct tok_t5 *t = open_or_fail(T5);
    size_t i;
    int compared = 0;
    json_array_foreach(root, i, v) {
        const json_t *text = json_object_get(v, "text");
        if (strlen(json_string_value(text)) != json_string_length(text)) continue; /* has a NUL */
        check_ids(t, json_string_value(text), json_object_get(v, "t5"));
        compared++;
    }
    CHECK_INT(compared, 18);
    tok_t5_close(t);
    json_decref(root);
}

static void test_a_long_text_keeps_its_start_and_ends_with_eos(void) {
    struct tok_t5 *t = open_or_fail(T5);
    int32_t ids[8] = {0};
    CHECK_INT(encode(t, "a photo of a cat", ids, 4), 8);
    CHECK(memcmp(ids, (int32_t[]){3, 9, 1202, 1}, 16) == 0);
    CHECK_INT(encode(t, "a photo of a cat", ids, 1), 8);
    CHECK_INT(ids[0], 1);
    CHECK_INT(encode(t, "a photo of a cat", ids, 8), 8);
    CHECK(memcmp(ids, (int32_t[]){3, 9, 1202, 13, 3, 9, 1712, 1}, 32) == 0);
    CHECK_INT(encode(t, "", ids, 4), 1);
    CHECK(memcmp(ids, (int32_t[]){1, 0, 0, 0}, 16) == 0);
    struct taca_err err = {0};
    CHECK_INT(tok_t5_encode(t, "a", ids, 0, NULL, &err), TACA_EINVAL);
    tok_t5_close(t);
}

static void test_malformed_utf8_counts_as_replacement_characters(void) {
    struct tok_t5 *t = open_or_fail(T5);
    int32_t got[64], want[64];
    int n = encode(t, "a\xff\xc3 b\xed\xa0\x80", got, 64);
    CHECK_INT(
        n, encode(t, "a\xEF\xBF\xBD\xEF\xBF\xBD b\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD", want, 64));
    CHECK(memcmp(got, want, sizeof got) == 0);
    tok_t5_close(t);
}

/* A prompt comes from anybody: nothing in it may cost more than n log n. Quadratic code takes many
 * seconds here; the bound leaves room for sanitizers. */
static void test_hostile_prompts_stay_fast(void) {
    static const char *const units[] = {"a",
                                        " ",
                                        "ab ",
                                        "\xE2\x96\x81",
                                        "<",
                                        "</s>",
                                        "<extra_id_9",
                                        "<extra_id_0> ",
                                        "\xCC\x81",
                                        "a\xCC\x81",
                                        "\xE2\x80\x8D",
                                        "\xEF\xB7\xBA",
                                        "\xF0\x9F\x87\xA9",
                                        "\xF0\x9F\x91\xA8\xE2\x80\x8D",
                                        "\xE4\xB8\x80",
                                        "\xFF"};
    enum { BYTES = 256 << 10 };
    struct tok_t5 *t = open_or_fail(T5);
    char *text = malloc(BYTES + 32);
    int32_t ids[77];
    for (size_t i = 0; i < sizeof units / sizeof *units && text && t; i++) {
        size_t n = strlen(units[i]), len = 0;
        for (; len + n <= BYTES; len += n) memcpy(text + len, units[i], n);
        text[len] = 0;
        double start = taca_now_ms();
        CHECK(encode(t, text, ids, 77) >= 1);
        double ms = taca_now_ms() - start;
        if (!CHECK(ms < 4000)) printf("        \"%s\" times %zu: %.0f ms\n", units[i], len / n, ms);
    }
    free(text);
    tok_t5_close(t);
}

/* ---- a small vocabulary in either form ------------------------------------------------------- */

static void write_json(const struct made *m, const char *name, const json_t *v) {
    char *text = json_dumps(v, JSON_COMPACT);
    write_file(m, name, text);
    free(text);
}

static void check_small(const json_t *root, const json_t *variant, const char *dir) {
    struct tok_t5 *t = open_or_fail(dir);
    const json_t *texts = json_object_get(root, "small_texts"), *v;
    size_t i;
    int before = test_failures;
    json_array_foreach(texts, i, v)
        check_ids(t, json_string_value(v), json_array_get(json_object_get(variant, "ids"), i));
    if (test_failures != before)
        printf("        of %s in %s\n", json_string_value(json_object_get(variant, "name")), dir);
    tok_t5_close(t);
}

/* Eight shapes of normalizer and pre_tokenizer that published files have had. */
static void test_tokenizer_json_may_order_things_otherwise(void) {
    json_error_t e;
    json_t *root = json_load_file(IDS, 0, &e), *v;
    json_t *tokenizer = json_load_file(SMALL "/tokenizer.json", 0, &e);
    size_t i;
    CHECK_INT(json_array_size(json_object_get(root, "small")), 8);
    json_array_foreach(json_object_get(root, "small"), i, v) {
        struct made m;
        make_dir(&m);
        json_object_set(tokenizer, "pre_tokenizer", json_object_get(v, "pre_tokenizer"));
        json_object_set(tokenizer, "normalizer", json_object_get(v, "normalizer"));
        write_json(&m, "tokenizer.json", tokenizer);
        check_small(root, v, m.dir);
        remove_dir(&m);
    }
    json_decref(tokenizer);
    json_decref(root);
}

static void copy_spiece(const struct made *m) {
    char data[4096];
    FILE *f = fopen(SMALL "/spiece.model", "rb");
    if (!CHECK(f != NULL)) return;
    size_t n = fread(data, 1, sizeof data, f);
    fclose(f);
    write_bytes(m, "spiece.model", data, n);
}

static void test_spiece_model_alone_gives_the_same_ids(void) {
    static const char *const configs[] = {"{\"extra_ids\":2,\"legacy\":false}",
                                          "{\"extra_ids\":2}"}; /* "first", "always" */
    json_error_t e;
    json_t *root = json_load_file(IDS, 0, &e);
    for (size_t i = 0; i < 2; i++) {
        struct made m;
        make_dir(&m);
        copy_spiece(&m);
        write_file(&m, "tokenizer_config.json", configs[i]);
        check_small(root, json_array_get(json_object_get(root, "small"), i), m.dir);
        remove_dir(&m);
    }
    json_decref(root);
}

/* ---- added tokens and roles ------------------------------------------------------------------ */

/* What tokenizer_config.json adds: a new token, and flags of one that spiece.model lacks. */
static void test_added_tokens_take_their_white_space_along(void) {
    struct made m;
    int32_t ids[16];
    make_dir(&m);
    copy_spiece(&m);
    write_file(
        &m, "tokenizer_config.json",
        "{\"extra_ids\":2,\"legacy\":false,\"added_tokens_decoder\":{"
        "\"43\":{\"content\":\"<extra_id_0>\"},\"90\":{\"content\":\"<new>\",\"rstrip\":true}},"
        "\"eos_token\":{\"content\":\"</s>\"},\"model_max_length\":"
        "1000000000000000019884624838656}");
    struct tok_t5 *t = open_or_fail(m.dir);
    if (t) {
        CHECK_INT(tok_t5_vocab(t), 91);
        /* <extra_id_1> takes both sides, <new> the right one, <extra_id_0> none */
        CHECK_INT(encode(t, "  <extra_id_1>  ", ids, 16), 2);
        CHECK_INT(ids[0], 42);
        CHECK_INT(encode(t, " <extra_id_0><new>  ", ids, 16), 3);
        CHECK(memcmp(ids, (int32_t[]){43, 90, 1}, 12) == 0);
        CHECK_INT(encode(t, "<extra_id_0><new>  <new>", ids, 16), 4);
    }
    tok_t5_close(t);
    remove_dir(&m);
}

/* ---- wrong files ----------------------------------------------------------------------------- */

static void refused(const struct made *m, const char *says) {
    struct tok_t5 *t = NULL;
    struct taca_err err = {0};
    CHECK(tok_t5_open(&t, m->dir, &err) != TACA_OK);
    CHECK(t == NULL);
    CHECK_HAS(err.text, says);
}

static void test_wrong_tokenizer_json_is_named(void) {
    static const struct {
        const char *path[3], *value, *says;
    } cases[] = {
        {{"model", "type"}, "\"BPE\"", "a BPE tokenizer, wanted T5's Unigram"},
        {{"model"}, "[]", "wanted T5's Unigram"},
        {{"model", "byte_fallback"}, "true", "byte_fallback"},
        {{"model", "unk_id"}, "null", "no unk_id"},
        {{"model", "unk_id"}, "44", "unk_id: found 44"},
        {{"model", "vocab"}, "[[\"a\"]]", "model.vocab[0]: wanted [piece, score]"},
        {{"model", "vocab"}, "[[\"a\",\"b\"]]", "model.vocab[0]"},
        {{"model", "vocab"}, "[[\"a\",1]]", "unk_id: found 2"},
        {{"normalizer"}, "{\"type\":\"NFKC\"}", "normalizer NFKC"},
        {{"normalizer"}, "{\"type\":\"Strip\",\"strip_left\":true}", "normalizer Strip"},
        {{"normalizer"},
         "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"
         "\"a\"},"
         "\"content\":\"b\"}]}",
         "normalizer Replace"},
        {{"normalizer"},
         "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA=\"}",
         "precompiled_charsmap is not base64"},
        {{"normalizer"},
         "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"BAAAAA==\"}",
         "a character map of 4 bytes whose trie has 4"},
        {{"normalizer"},
         "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAAAA==\"}",
         "whose trie has 0"},
        {{"pre_tokenizer"}, "{\"type\":\"ByteLevel\"}", "pre_tokenizer ByteLevel"},
        {{"pre_tokenizer"},
         "{\"type\":\"Metaspace\",\"replacement\":\"_\"}",
         "pre_tokenizer Metaspace"},
        {{"pre_tokenizer", "prepend_scheme"}, "\"last\"", "prepend_scheme \"last\""},
        {{"pre_tokenizer", "prepend_scheme"}, "7", "pre_tokenizer Metaspace"},
        {{"added_tokens"}, "[{\"content\":\"\",\"id\":3}]", "an added token without content or id"},
        {{"added_tokens"}, "[{\"content\":\"x\"}]", "an added token without content or id"},
        {{"added_tokens"}, "[{\"content\":\"x\",\"id\":16777216}]", "without content or id"},
        {{"added_tokens"},
         "[{\"content\":\"x\",\"id\":3,\"normalized\":true}]",
         "normalized of added token \"x\""},
        {{"added_tokens"}, "[{\"content\":\"x\",\"id\":3,\"single_word\":true}]", "single_word of"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_error_t e;
        struct made m;
        json_t *root = json_load_file(SMALL "/tokenizer.json", 0, &e), *at = root;
        int k = 0;
        for (; cases[i].path[k + 1]; k++) at = json_object_get(at, cases[i].path[k]);
        json_object_set_new(at, cases[i].path[k],
                            json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        make_dir(&m);
        write_json(&m, "tokenizer.json", root);
        refused(&m, cases[i].says);
        remove_dir(&m);
        json_decref(root);
    }
}

/* A model of pieces: "a" of score 0 (1), the unknown "u" (2). */
#define PIECE_A                                                                                    \
    "\x0A\x08\x0A\x01"                                                                             \
    "a"                                                                                            \
    "\x15\0\0\0\0"
#define PIECE_U                                                                                    \
    "\x0A\x05\x0A\x01"                                                                             \
    "u"                                                                                            \
    "\x18\x02"
#define ROLES                                                                                      \
    "\x0A\x06\x0A\x04"                                                                             \
    "</s>"                                                                                         \
    "\x0A\x07\x0A\x05"                                                                             \
    "<pad>"                                                                                        \
    "\x0A\x07\x0A\x05"                                                                             \
    "<unk>"

static void test_wrong_spiece_models_are_named(void) {
    static const struct {
        const char *data;
        size_t len;
        const char *says;
    } cases[] = {
#define SPIECE(bytes, says) {bytes, sizeof bytes - 1, says}
        SPIECE("", "wanted a file of 1 to"),
        SPIECE("{\"model\":1}", "malformed model"),
        SPIECE("\x0A", "malformed model"),
        SPIECE("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", "malformed model"),
        SPIECE("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", "malformed model"),
        SPIECE("\x0B", "malformed model"),
        SPIECE("\x0A\x02\x0A\x05", "malformed piece"),
        SPIECE("\x0A\x03\x15\0\0", "malformed piece"),
        SPIECE("\x12\x01\x18", "malformed trainer"),
        SPIECE("\x1A\x01\x12", "malformed normalizer"),
        SPIECE(PIECE_A, "1 pieces, none of them for the unknown"),
        SPIECE("\x0A\x03\x0A\x01\xFF", "piece 0 has 1 bytes"),
        SPIECE("\x0A\x08\x0A\x01"
               "a"
               "\x15\0\0\x80\x7F",
               "and score inf"),
        SPIECE("\x0A\x08\x0A\x01"
               "a"
               "\x15\0\0\xC0\x7F",
               "and score nan"),
        SPIECE(PIECE_U "\x12\x02\x18\x02", "not a unigram model"),
        SPIECE(PIECE_U "\x12\x03\x98\x02\x01", "falls back to bytes"),
        SPIECE(PIECE_U "\x1A\x05\x12\x03"
                       "abc",
               "a character map of 3 bytes"),
        SPIECE(PIECE_U, "eos_token \"</s>\" is not in the vocabulary"),
        SPIECE(PIECE_U "\x0A\x06\x0A\x04"
                       "</s>",
               "pad_token \"<pad>\" is not"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made m;
        make_dir(&m);
        write_bytes(&m, "spiece.model", cases[i].data, cases[i].len);
        refused(&m, cases[i].says);
        remove_dir(&m);
    }
}

static void test_wrong_configs_are_named(void) {
    static const struct {
        const char *config, *says;
    } cases[] = {
        {"{\"eos_token\":7}", "eos_token is neither a string nor"},
        {"{\"eos_token\":\"?\"}", "eos_token \"?\" is not in the vocabulary"},
        {"{\"pad_token\":{}}", "pad_token is neither"},
        {"{\"extra_ids\":1001}", "extra_ids: found 1001"},
        {"{\"legacy\":1}", "legacy: found 1"},
        {"{\"added_tokens_decoder\":{\"x\":{\"content\":\"a\"}}}", "without content or id"},
        {"[]", "tokenizer_config.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made m;
        make_dir(&m);
        copy_spiece(&m);
        write_file(&m, "tokenizer_config.json", cases[i].config);
        refused(&m, cases[i].says);
        remove_dir(&m);
    }
    struct made m;
    make_dir(&m);
    refused(&m, "no T5 tokenizer here, wanted tokenizer.json or spiece.model");
    remove_dir(&m);
}

/* The smallest model there is; a text of unknowns is one unknown per word. */
static void test_unknown_characters_fuse_within_a_word(void) {
    static const char model[] = PIECE_A PIECE_U ROLES;
    struct made m;
    int32_t ids[8];
    make_dir(&m);
    write_bytes(&m, "spiece.model", model, sizeof model - 1);
    write_file(&m, "tokenizer_config.json", "{\"extra_ids\":0}");
    struct tok_t5 *t = open_or_fail(m.dir);
    if (t) {
        CHECK_INT(tok_t5_vocab(t), 5);
        CHECK_INT(encode(t, "xyz xaz", ids, 8), 5); /* the mark of a word is unknown too */
        CHECK(memcmp(ids, (int32_t[]){1, 1, 0, 1, 2}, 20) == 0);
    }
    tok_t5_close(t);
    remove_dir(&m);
}

int main(void) {
    TEST(test_ids_are_those_of_the_reference);
    TEST(test_the_older_golden_ids_agree);
    TEST(test_a_long_text_keeps_its_start_and_ends_with_eos);
    TEST(test_malformed_utf8_counts_as_replacement_characters);
    TEST(test_hostile_prompts_stay_fast);
    TEST(test_tokenizer_json_may_order_things_otherwise);
    TEST(test_spiece_model_alone_gives_the_same_ids);
    TEST(test_added_tokens_take_their_white_space_along);
    TEST(test_wrong_tokenizer_json_is_named);
    TEST(test_wrong_spiece_models_are_named);
    TEST(test_wrong_configs_are_named);
    TEST(test_unknown_characters_fuse_within_a_word);
    return TEST_END();
}
