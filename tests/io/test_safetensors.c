/* test_safetensors.c - hostile and honest .safetensors files. */
#include "engine/io/safetensors.h"
#include "tests/io/tmp.h"
#include "tests/test.h"

#define T(name, dtype, shape, b, e)                                                                \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #b "," #e "]}"

struct bad {
    const char *what;
    const char *header;
    size_t n_data;
    const char *words; /* in the message */
};

static const struct bad bad_headers[] = {
    {"not JSON", "{no json}", 0, "not valid JSON"},
    {"cut JSON", "{\"a\":", 0, "not valid JSON"},
    {"array at the top", "[1,2]", 0, "array where an object was wanted"},
    {"text behind the object", "{} x", 0, "not valid JSON"},
    {"binary where the header begins", "\x01\x02\x03", 0, "header is not JSON"},
    {"NUL in a name", "{" T("a\\u0000b", "F32", "[1]", 0, 4) "}", 4, "not valid JSON"},
    {"invalid UTF-8 in a name", "{" T("a\xFF", "F32", "[1]", 0, 4) "}", 4, "not valid JSON"},
    {"a name twice", "{" T("a", "U8", "[1]", 0, 1) "," T("a", "U8", "[1]", 1, 2) "}", 2,
     "duplicate"},
    {"a name twice, once in disguise",
     "{" T("a", "U8", "[1]", 0, 1) "," T("\\u0061", "U8", "[1]", 1, 2) "}", 2, "duplicate"},
    {"dtype twice",
     "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     "duplicate"},
    {"an overlap", "{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[4]", 2, 6) "}", 6, "overlap"},
    {"the same bytes twice", "{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[4]", 0, 4) "}", 4,
     "overlap"},
    {"a hole", "{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 4, 6) "}", 6, "a hole"},
    {"a hole at the front", "{" T("a", "U8", "[2]", 2, 4) "}", 4, "a hole"},
    {"bytes behind", "{" T("a", "U8", "[2]", 0, 2) "}", 5, "3 bytes behind the last tensor"},
    {"bytes behind no tensor", "{}", 5, "5 bytes behind"},
    {"data cut", "{" T("a", "U8", "[64]", 0, 64) "}", 60, "truncated"},
    {"a negative dimension", "{" T("a", "U8", "[-1]", 0, 1) "}", 1, "dimension 0"},
    {"a float dimension", "{" T("a", "U8", "[1, 1.0]", 0, 1) "}", 1, "dimension 1"},
    {"a string dimension", "{" T("a", "U8", "[\"1\"]", 0, 1) "}", 1, "dimension 0"},
    {"a dimension beyond 64 bits", "{" T("a", "U8", "[18446744073709551616]", 0, 1) "}", 1,
     "too big integer"},
    {"a shape that overflows", "{" T("a", "U8", "[4611686018427387904, 8]", 0, 0) "}", 0,
     "shape overflows"},
    {"a shape that overflows before its zero",
     "{" T("a", "U8", "[4611686018427387904, 8, 0]", 0, 0) "}", 0, "shape overflows"},
    {"a shape that overflows behind its zero",
     "{" T("a", "U8", "[0, 4611686018427387904, 8]", 0, 0) "}", 0, "shape overflows"},
    {"bits that overflow", "{" T("a", "I64", "[4611686018427387904]", 0, 0) "}", 0,
     "shape overflows"},
    {"reversed offsets", "{" T("a", "U8", "[2]", 2, 0) "}", 2, "reversed"},
    {"a negative offset", "{" T("a", "U8", "[2]", -2, 0) "}", 2, "data_offsets"},
    {"a float offset", "{" T("a", "U8", "[2]", 0, 2.0) "}", 2, "data_offsets"},
    {"three offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1,
     "data_offsets"},
    {"offsets near 2^63", "{" T("a", "U8", "[1]", 9223372036854775806, 9223372036854775807) "}", 1,
     "a hole"},
    {"fewer bytes than the shape", "{" T("a", "F32", "[2, 3]", 0, 20) "}", 20,
     "F32 of shape [2, 3] wants 24 bytes, its offsets give 20"},
    {"more bytes than the shape", "{" T("a", "F32", "[2]", 0, 12) "}", 12, "wants 8 bytes"},
    {"half a byte", "{" T("a", "F4", "[3]", 0, 1) "}", 1, "12 bits are not whole bytes"},
    {"no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "no dtype"},
    {"a number as dtype", "{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     "no dtype"},
    {"an unknown dtype", "{" T("a", "F33", "[1]", 0, 4) "}", 4, "unknown dtype F33"},
    {"no shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "no shape"},
    {"no offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "data_offsets"},
    {"too many dimensions", "{" T("a", "U8", "[1,1,1,1,1,1]", 0, 1) "}", 1,
     "6 dimensions, at most 5"},
    {"a tensor that is a number", "{\"a\":1}", 0, "not an object"},
    {"an empty name", "{" T("", "U8", "[1]", 0, 1) "}", 1, "name of 0 bytes"},
    {"metadata that is a list", "{\"__metadata__\":[]}", 0, "__metadata__"},
    {"metadata with a number", "{\"__metadata__\":{\"step\":1}}", 0, "step is not a string"},
    {"nesting", "{\"a\":{\"b\":[[1]]}}", 0, "nested deeper than 3"},
    {"a terminal escape in a name", "{" T("\\u001b[2J", "F33", "[1]", 0, 4) "}", 4, "tensor ?[2J"},
    {"a C1 escape in a name",
     "{" T("\xC2\x9B"
           "2J",
           "F33", "[1]", 0, 4) "}",
     4, "2J: unknown"},
};

static void refuse(const char *what, const char *path, enum taca_code code, const char *words) {
    struct taca_safetensors *st = (void *)1;
    struct taca_err err = {0};
    enum taca_code rc = taca_safetensors_open(&st, path, &err);
    if (rc != code || st != (void *)1 || !strstr(err.text, words)) printf("    case: %s\n", what);
    CHECK_INT(rc, code);
    CHECK(st == (void *)1); /* untouched on failure */
    CHECK_HAS(err.text, words);
    CHECK_HAS(err.text, path);
    CHECK(!strchr(err.text, '\n'));
    if (rc == TACA_OK) taca_safetensors_close(st);
}

static void test_malformed_headers_are_refused_with_the_reason(void) {
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        const struct bad *b = &bad_headers[i];
        refuse(b->what, tmp_tensors("bad", b->header, b->n_data), TACA_EFORMAT, b->words);
    }
}

static void test_impossible_header_lengths_are_refused(void) {
    static const struct {
        const char *what;
        uint64_t prefix;
        const char *words;
    } cases[] = {
        {"2^64 - 1", UINT64_MAX, "header of 18446744073709551615 bytes, at most 100000000"},
        {"2^63", (uint64_t)1 << 63, "at most 100000000"},
        {"2^64 - 8: wraps to 0 with the prefix", UINT64_MAX - 7, "at most 100000000"},
        {"one over the cap", 100000001, "at most 100000000"},
        {"none", 0, "header of 0 bytes"},
        {"one", 1, "header of 1 bytes"},
        {"one more than there is", 3, "truncated inside the header: 10 bytes found, at least 11"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse(cases[i].what, tmp_prefixed("bad", cases[i].prefix, "{}", 0), TACA_EFORMAT,
               cases[i].words);
}

static void test_other_formats_are_named(void) {
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\n"
                              "oid sha256:4665cb\nsize 4997\n";
    refuse("LFS", tmp_text("bad", lfs), TACA_EFORMAT, "Git LFS pointer");
    refuse("HTML", tmp_text("bad", "\n <!DOCTYPE html><html>"), TACA_EFORMAT, "HTML page");
    refuse("HTML", tmp_text("bad", "<html lang=en><body>404"), TACA_EFORMAT, "HTML page");
    refuse("zip", tmp_write("bad", "PK\x03\x04\x14\0\0\0\x08\0\0\0", 12), TACA_EFORMAT, "pickle");
    refuse("pickle", tmp_write("bad", "\x80\x02}q\0X\x03\0\0\0abc", 12), TACA_EFORMAT, "pickle");
    refuse("GGUF", tmp_write("bad", "GGUF\x03\0\0\0\x01\0\0\0", 12), TACA_EFORMAT, "GGUF");
    refuse("JSON", tmp_text("bad", "{\"architectures\": []}"), TACA_EFORMAT, "a JSON text");
    refuse("empty", tmp_write("bad", "", 0), TACA_EFORMAT, "an empty file");
    refuse("5 bytes", tmp_write("bad", "\x05\0\0\0\0", 5), TACA_EFORMAT,
           "truncated: 5 bytes found");
    refuse("missing", tmp_path("nowhere"), TACA_ENOTFOUND, "No such file");
    refuse("directory", tmp_root, TACA_EFORMAT, "a directory where a file was wanted");
    refuse("device", "/dev/null", TACA_EFORMAT, "not a regular file");
}

static void test_a_pipe_does_not_make_it_wait(void) {
    const char *path = tmp_path("pipe");
    CHECK(mkfifo(path, 0600) == 0);
    refuse("pipe", path, TACA_EFORMAT, "not a regular file");
}

static void test_a_cut_file_says_found_and_wanted_bytes(void) {
    static const char header[] = "{" T("a", "F32", "[4]", 0, 16) "}";
    char words[80];
    snprintf(words, sizeof words, "truncated: %zu bytes found, %zu wanted",
             8 + sizeof header - 1 + 9, 8 + sizeof header - 1 + 16);
    refuse("cut", tmp_tensors("bad", header, 9), TACA_EFORMAT, words);
}

static void test_names_longer_than_512_bytes_are_refused(void) {
    char name[10001], header[10200];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    snprintf(header, sizeof header,
             "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", name);
    refuse("10000 bytes", tmp_tensors("bad", header, 1), TACA_EFORMAT, "name of 10000 bytes");
    name[512] = 0;
    snprintf(header, sizeof header,
             "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", name);
    struct taca_safetensors *st = NULL;
    struct taca_err err = {0};
    CHECK_OK(taca_safetensors_open(&st, tmp_tensors("long", header, 1), &err), err);
    CHECK(st && taca_safetensors_find(st, name));
    taca_safetensors_close(st);
}

/* 3 MB of "1,1,1," would become 90 MB of JSON values */
static void test_a_header_of_millions_of_values_is_refused_unread(void) {
    enum { N = 3 * 1000 * 1000 };
    static const char head[] = "{\"a\":[1", tail[] = "]}";
    char *text = malloc(sizeof head + N + sizeof tail);
    if (!text) return;
    size_t at = sizeof head - 1;
    memcpy(text, head, at);
    for (; at + 1 < N; at += 2) memcpy(text + at, ",1", 2);
    memcpy(text + at, tail, sizeof tail);
    refuse("values", tmp_tensors("bad", text, 0), TACA_EFORMAT, "more than 1000000 values");
    free(text);
}

static void test_tensors_are_found_where_they_lie(void) {
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"}," T("z", "F32", "[2, 3]", 0, 24) "," T(
            "empty", "F16", "[0, 7]", 24, 24) "," T("a.b", "BF16", "[2]", 24,
                                                    28) "," T("scalar", "I64", "[]", 28, 36) "}   ";
    struct taca_safetensors *st = NULL;
    struct taca_err err = {0};
    const char *path = tmp_tensors("good", header, 36);
    CHECK_OK(taca_safetensors_open(&st, path, &err), err);
    if (!st) return;
    CHECK_INT(taca_safetensors_count(st), 4);
    static const char *const order[] = {"z", "empty", "a.b", "scalar"};
    for (size_t i = 0; i < 4; i++) CHECK_STR(taca_safetensors_at(st, i)->name, order[i]);
    CHECK(!taca_safetensors_at(st, 4));
    const struct taca_tensor *t = taca_safetensors_find(st, "a.b");
    CHECK(t && t->dtype == TACA_BF16 && t->rank == 1 && t->dim[0] == 2);
    CHECK(t && memcmp(t->data, "\x19\x1A\x1B\x1C", 4) == 0); /* bytes 25..28 of 1, 2, 3, ... */
    t = taca_safetensors_find(st, "scalar");
    CHECK(t && t->rank == 0 && taca_tensor_count(t) == 1);
    t = taca_safetensors_find(st, "empty");
    CHECK(t && t->rank == 2 && t->dim[1] == 7 && taca_tensor_count(t) == 0);
    CHECK(!taca_safetensors_find(st, "a"));
    CHECK(!taca_safetensors_find(st, "__metadata__"));
    taca_safetensors_close(st);
}

static void test_a_file_without_tensors_opens(void) {
    struct taca_safetensors *st = NULL;
    struct taca_err err = {0};
    CHECK_OK(taca_safetensors_open(&st, tmp_tensors("none", "{}", 0), &err), err);
    if (!st) return;
    CHECK_INT(taca_safetensors_count(st), 0);
    CHECK(!taca_safetensors_find(st, "a"));
    taca_safetensors_close(st);
}

static void test_unsupported_dtypes_are_legal_and_not_found(void) {
    static const char header[] =
        "{" T("f8", "F8_E4M3", "[3]", 0, 3) "," T("f4", "F4", "[2]", 3, 4) "," T(
            "f64", "F64", "[1]", 4, 12) "," T("u8", "U8", "[1]", 12, 13) "}";
    struct taca_safetensors *st = NULL;
    struct taca_err err = {0};
    CHECK_OK(taca_safetensors_open(&st, tmp_tensors("f8", header, 13), &err), err);
    if (!st) return;
    CHECK_INT(taca_safetensors_count(st), 1);
    CHECK(taca_safetensors_find(st, "u8") && !taca_safetensors_find(st, "f8"));
    CHECK_INT(taca_safetensors_stored_count(st), 4);
    const struct taca_stored *o = taca_safetensors_stored_at(st, 0);
    CHECK(o && strcmp(o->name, "f8") == 0 && strcmp(o->spelled, "F8_E4M3") == 0);
    CHECK(o && o->type == TACA_STORED_F8_E4M3 && o->bytes == 3 && o->dim[0] == 3);
    CHECK_INT(taca_safetensors_stored_at(st, 2)->type, TACA_STORED_OTHER);
    CHECK(!taca_safetensors_stored_at(st, 4));
    taca_safetensors_close(st);
}

static void test_links_are_followed(void) {
    struct taca_safetensors *st = NULL;
    struct taca_err err = {0};
    tmp_tensors("blobs/0a1b2c", "{" T("a", "U8", "[1]", 0, 1) "}", 1);
    CHECK(symlink("blobs/0a1b2c", tmp_path("linked.safetensors")) == 0);
    CHECK_OK(taca_safetensors_open(&st, tmp_path("linked.safetensors"), &err), err);
    taca_safetensors_close(st);
    CHECK(symlink("gone", tmp_path("dangling")) == 0);
    refuse("dangling", tmp_path("dangling"), TACA_ENOTFOUND, "No such file");
}

static void test_what_is_written_is_read_back(void) {
    static const float f[6] = {1, -2, 3.5f, 0, 1e-30f, 7};
    static const uint16_t h[3] = {0x3F80, 0xBF80, 0x4000};
    static const unsigned char u[5] = {1, 2, 3, 4, 255};
    static const int64_t i64[1] = {-5};
    const struct taca_tensor in[] = {
        {"odd", u, TACA_U8, 1, {5}},          {"h.\"quoted\"\n", h, TACA_BF16, 2, {3, 1}},
        {"float", f, TACA_F32, 3, {1, 2, 3}}, {"scalar", i64, TACA_I64, 0, {0}},
        {"none", NULL, TACA_F16, 2, {0, 4}},  {"\xC3\xA9", u, TACA_U8, 1, {1}},
    };
    enum { N = sizeof in / sizeof *in };
    struct taca_safetensors *st = NULL;
    struct taca_err err = {0};
    const char *path = tmp_path("written.safetensors");
    CHECK_OK(taca_safetensors_write(path, in, N, &err), err);
    CHECK_OK(taca_safetensors_open(&st, path, &err), err);
    if (!st) return;
    CHECK_INT(taca_safetensors_count(st), N);
    for (size_t i = 0; i < N; i++) {
        const struct taca_tensor *t = taca_safetensors_find(st, in[i].name);
        if (!CHECK(t != NULL)) continue;
        size_t width = taca_dtype_bytes(t->dtype), bytes = (size_t)taca_tensor_count(t) * width;
        CHECK_INT(t->dtype, in[i].dtype);
        CHECK_INT(t->rank, in[i].rank);
        CHECK(memcmp(t->dim, in[i].dim, (size_t)t->rank * sizeof *t->dim) == 0);
        CHECK(bytes == 0 || memcmp(t->data, in[i].data, bytes) == 0);
        CHECK((uintptr_t)t->data % width == 0); /* aligned as the writer promises */
    }
    taca_safetensors_close(st);
}

static void test_a_failed_write_leaves_no_file(void) {
    struct taca_err err = {0};
    const char *path = tmp_path("no/such/folder");
    CHECK_INT(taca_safetensors_write(path, NULL, 0, &err), TACA_EIO);
    CHECK_HAS(err.text, "No such file");
    if (access("/dev/full", W_OK) != 0) return;
    /* more than a stdio buffer, so that a write fails before the close does */
    static float zeros[1 << 16];
    const struct taca_tensor big = {"a", zeros, TACA_F32, 1, {1 << 16}};
    const char *full = tmp_path("full");
    CHECK(symlink("/dev/full", full) == 0);
    err = (struct taca_err){0};
    CHECK_INT(taca_safetensors_write(full, &big, 1, &err), TACA_EIO);
    CHECK_HAS(err.text, "No space left");
    CHECK(access(full, F_OK) != 0);
}

static void test_many_tensors_are_all_found(void) {
    enum { N = 3000 };
    static char names[N][48];
    static struct taca_tensor in[N];
    static const float x[2] = {1, 2};
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "block.%d.part.%d.weight", i / 7, i % 7);
        in[i] = (struct taca_tensor){names[i], x, TACA_F32, 1, {2}};
    }
    struct taca_safetensors *st = NULL;
    struct taca_err err = {0};
    const char *path = tmp_path("many");
    CHECK_OK(taca_safetensors_write(path, in, N, &err), err);
    CHECK_OK(taca_safetensors_open(&st, path, &err), err);
    if (!st) return;
    int found = 0;
    for (int i = 0; i < N; i++) found += taca_safetensors_find(st, names[i]) != NULL;
    CHECK_INT(found, N);
    taca_safetensors_close(st);
}

static void test_reference_files_open(void) {
    static const struct {
        const char *file, *name;
        enum taca_dtype dtype;
        int rank;
        int64_t dim[TACA_MAX_RANK];
    } cases[] = {
        {TACA_GOLDEN_DIR "/models/sd3_tiny.diffusers.safetensors",
         "pos_embed.proj.weight",
         TACA_F32,
         4,
         {32, 4, 2, 2}},
        {TACA_SOURCE_DIR "/models/demo/transformer/diffusion_pytorch_model.safetensors",
         "transformer_blocks.1.attn2.to_k.weight",
         TACA_BF16,
         2,
         {192, 192}},
        {TACA_GOLDEN_DIR "/pipelines/sd35_tiny/text_encoder/model.safetensors",
         "text_model.embeddings.token_embedding.weight",
         TACA_F16,
         2,
         {49408, 16}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct taca_safetensors *st = NULL;
        struct taca_err err = {0};
        CHECK_OK(taca_safetensors_open(&st, cases[i].file, &err), err);
        if (!st) continue;
        const struct taca_tensor *t = taca_safetensors_find(st, cases[i].name);
        CHECK(t && t->dtype == cases[i].dtype && t->rank == cases[i].rank);
        CHECK(t && memcmp(t->dim, cases[i].dim, (size_t)t->rank * sizeof *t->dim) == 0);
        taca_safetensors_close(st);
    }
}

int main(void) {
    tmp_begin();
    TEST(test_malformed_headers_are_refused_with_the_reason);
    TEST(test_impossible_header_lengths_are_refused);
    TEST(test_other_formats_are_named);
    TEST(test_a_pipe_does_not_make_it_wait);
    TEST(test_a_cut_file_says_found_and_wanted_bytes);
    TEST(test_names_longer_than_512_bytes_are_refused);
    TEST(test_a_header_of_millions_of_values_is_refused_unread);
    TEST(test_tensors_are_found_where_they_lie);
    TEST(test_a_file_without_tensors_opens);
    TEST(test_unsupported_dtypes_are_legal_and_not_found);
    TEST(test_links_are_followed);
    TEST(test_what_is_written_is_read_back);
    TEST(test_a_failed_write_leaves_no_file);
    TEST(test_many_tensors_are_all_found);
    TEST(test_reference_files_open);
    tmp_end();
    return TEST_END();
}
