/* test_gguf.c - GGUF files: what a good one gives, and a word for each thing that can be wrong. */
#include "engine/io/gguf.h"
#include "tests/io/gguf_make.h"
#include "tests/test.h"

static void refuse(enum taca_code code, const char *words) {
    struct taca_gguf *g = NULL;
    struct taca_err err = {0};
    CHECK_INT(taca_gguf_open(&g, gg_end("x.gguf"), &err), code);
    CHECK(g == NULL);
    CHECK_HAS(err.text, words);
    taca_gguf_close(g);
}

static struct taca_gguf *must_open(void) {
    struct taca_gguf *g = NULL;
    struct taca_err err = {0};
    CHECK_OK(taca_gguf_open(&g, gg_end("good.gguf"), &err), err);
    return g;
}

/* Two tensors, keys of every type, an alignment of 64. */
static void good(uint32_t version) {
    static const unsigned char bytes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    gg_begin(version, 2, 14);
    gg_key_text("general.architecture", "flux");
    gg_key_u32("general.alignment", 64);
    for (int t = 0; t < 13; t++) {
        char key[16];
        if (t == 8 || t == 9) continue;
        snprintf(key, sizeof key, "k%d", t);
        gg_text(key);
        gg_int((uint64_t)t, 4);
        gg_int(1, bytes[t]);
    }
    gg_text("words");
    gg_int(9, 4);
    gg_int(8, 4);
    gg_int(2, 8);
    gg_text("one");
    gg_text("");
    gg_tensor("double_blocks.0.w", 32, 3, 8, 0); /* q8_0: 3 rows of one block */
    gg_tensor("b", 5, 0, 0, 128);
    gg_pad(64);
    gg_data(3 * 34);
    gg_pad(64);
    gg_data(20);
}

static void test_a_good_file_gives_its_tensors(void) {
    for (uint32_t version = 2; version <= 3; version++) {
        good(version);
        struct taca_gguf *g = must_open();
        if (!g) return;
        CHECK_STR(taca_gguf_architecture(g), "flux");
        CHECK_INT(taca_gguf_count(g), 2);
        const struct taca_stored *t = taca_gguf_at(g, 0);
        CHECK_STR(t->name, "double_blocks.0.w");
        CHECK(t->type == TACA_STORED_Q8_0 && t->rank == 2 && t->dim[0] == 3 && t->dim[1] == 32);
        CHECK(t->bytes == 102 && memcmp(t->data, "\1\2\3", 3) == 0);
        t = taca_gguf_at(g, 1);
        CHECK(t->type == TACA_STORED_F32 && t->rank == 1 && t->dim[0] == 5 && t->bytes == 20);
        CHECK(memcmp(t->data, "\1\2\3", 3) == 0);
        CHECK(!taca_gguf_at(g, 2));
        taca_gguf_close(g);
    }
}

static void test_every_cut_of_a_good_file_is_refused(void) {
    good(3);
    const size_t whole = gg.len;
    for (size_t n = 0; n < whole; n++) {
        struct taca_gguf *g = NULL;
        struct taca_err err = {0};
        CHECK(taca_gguf_open(&g, tmp_write("cut.gguf", gg.data, n), &err) == TACA_EFORMAT);
        CHECK(g == NULL && err.text[0]);
    }
}

static void test_a_shape_may_be_noted_beside(void) {
    gg_begin(3, 1, 1);
    gg_text("comfy.gguf.orig_shape.w");
    gg_int(9, 4);
    gg_int(5, 4);
    gg_int(3, 8);
    gg_int(2, 4), gg_int(2, 4), gg_int(8, 4);
    gg_tensor("w", 32, 0, 0, 0);
    gg_pad(32);
    gg_data(128);
    struct taca_gguf *g = must_open();
    if (!g) return;
    const struct taca_stored *t = taca_gguf_at(g, 0);
    CHECK(t->rank == 3 && t->dim[0] == 2 && t->dim[1] == 2 && t->dim[2] == 8);
    taca_gguf_close(g);
}

static void test_types_that_are_not_read_are_checked_all_the_same(void) {
    gg_begin(3, 1, 0);
    gg_tensor("w", 256, 0, 16, 0);
    gg_pad(32);
    gg_data(66);
    struct taca_gguf *g = must_open();
    if (!g) return;
    CHECK_INT(taca_gguf_at(g, 0)->type, TACA_STORED_OTHER);
    CHECK_STR(taca_gguf_at(g, 0)->spelled, "IQ2_XXS");
    taca_gguf_close(g);
    gg_begin(3, 1, 0);
    gg_tensor("w", 256, 0, 16, 0);
    gg_pad(32);
    gg_data(65);
    refuse(TACA_EFORMAT, "truncated: tensor w wants 66 bytes");
}

static void test_wrong_heads_are_named(void) {
    gg_begin(1, 0, 0);
    refuse(TACA_EUNSUPPORTED, "GGUF version 1, wanted 2 or 3");
    gg_begin(3u << 24, 0, 0);
    refuse(TACA_EUNSUPPORTED, "big-endian");
    gg_begin(3, UINT64_MAX, 0);
    refuse(TACA_EFORMAT, "18446744073709551615 tensors in 0 bytes");
    gg_begin(3, 0, UINT64_C(1) << 60);
    refuse(TACA_EFORMAT, "keys in 0 bytes");
    taca_buf_finish(&gg);
    taca_buf_init(&gg, 100);
    taca_buf_puts(&gg, "PK\x03\x04");
    refuse(TACA_EFORMAT, "wanted a GGUF file, this is a zip archive");
}

static void test_wrong_keys_are_named(void) {
    gg_begin(3, 0, 2);
    gg_key_u32("a", 1);
    gg_key_u32("a", 2);
    refuse(TACA_EFORMAT, "key a is there twice");
    gg_begin(3, 0, 1);
    gg_text("a");
    gg_int(13, 4);
    gg_int(0, 8);
    refuse(TACA_EFORMAT, "key a: a value of type 13");
    gg_begin(3, 0, 1);
    gg_text("a");
    gg_int(9, 4);
    gg_int(9, 4);
    gg_int(1, 8);
    refuse(TACA_EFORMAT, "key a: an array of type 9");
    gg_begin(3, 0, 1);
    gg_text("a");
    gg_int(9, 4);
    gg_int(12, 4);
    gg_int(UINT64_C(1) << 61, 8); /* times 8 is 0 */
    refuse(TACA_EFORMAT, "a reaches past its end");
    gg_begin(3, 0, 1);
    gg_int(UINT64_MAX, 8);
    gg_int(0, 8);
    refuse(TACA_EFORMAT, "a key reaches past its end");
    gg_begin(3, 0, 1);
    gg_text("");
    gg_int(0, 8);
    refuse(TACA_EFORMAT, "a key of 0 bytes");
    static const uint32_t alignments[] = {0, 3, 48, 1u << 21};
    for (int i = 0; i < 4; i++) {
        gg_begin(3, 0, 1);
        gg_key_u32("general.alignment", alignments[i]);
        refuse(TACA_EFORMAT, "a power of two");
    }
    gg_begin(3, 0, 1);
    gg_key_text("general.alignment", "32");
    refuse(TACA_EFORMAT, "general.alignment is not a u32");
}

static void one(const char *name, uint64_t ne0, uint64_t ne1, uint32_t type, uint64_t offset,
                size_t data) {
    gg_begin(3, 1, 0);
    gg_tensor(name, ne0, ne1, type, offset);
    gg_pad(32);
    gg_data(data);
}

static void test_wrong_tensors_are_named(void) {
    one("w", 48, 2, 8, 0, 102);
    refuse(TACA_EFORMAT, "q8_0 of shape [2, 48] does not divide into blocks of 32");
    one("w", 8, 0, 5, 0, 32);
    refuse(TACA_EFORMAT, "unknown type 5");
    one("w", 8, 0, 0, 32, 64);
    refuse(TACA_EFORMAT, "begins at byte 32 of the data, 0 wanted");
    one("w", 8, 0, 0, 0, 31);
    refuse(TACA_EFORMAT, "truncated: tensor w wants 32 bytes");
    one("w", 8, 0, 0, 0, 33);
    refuse(TACA_EFORMAT, "1 bytes behind the last tensor");
    one("", 8, 0, 0, 0, 32);
    refuse(TACA_EFORMAT, "a tensor name of 0 bytes");
    one("w", UINT64_C(1) << 40, UINT64_C(1) << 40, 0, 0, 32);
    refuse(TACA_EFORMAT, "shape overflows");
    one("w", UINT64_MAX, 0, 0, 0, 32);
    refuse(TACA_EFORMAT, "shape overflows");
    gg_begin(3, 1, 0); /* a 0 does not excuse the other two */
    gg_text("w");
    gg_int(3, 4);
    gg_int(0, 8);
    gg_int(UINT64_C(1) << 40, 8);
    gg_int(UINT64_C(1) << 40, 8);
    gg_int(0, 4);
    gg_int(0, 8);
    gg_pad(32);
    refuse(TACA_EFORMAT, "shape overflows");
    one("w", UINT64_C(1) << 59, 0, 0, 0, 32);
    refuse(TACA_EFORMAT, "truncated");
    gg_begin(3, 1, 0);
    gg_text("w");
    gg_int(5, 4);
    for (int i = 0; i < 5; i++) gg_int(1, 8);
    gg_int(0, 4);
    gg_int(0, 8);
    gg_pad(32);
    gg_data(4);
    refuse(TACA_EFORMAT, "5 dimensions, at most 4 wanted");
    gg_begin(3, 2, 0);
    gg_tensor("w", 8, 0, 0, 0);
    gg_tensor("w", 8, 0, 0, 32);
    gg_pad(32);
    gg_data(64);
    refuse(TACA_EFORMAT, "tensor w is there twice");
    gg_begin(3, 2, 0);
    gg_tensor("v", 8, 0, 0, 0);
    gg_tensor("w", 8, 0, 0, 0); /* over the first */
    gg_pad(32);
    gg_data(32);
    refuse(TACA_EFORMAT, "tensor w: begins at byte 0 of the data, 32 wanted");
}

int main(void) {
    tmp_begin();
    TEST(test_a_good_file_gives_its_tensors);
    TEST(test_every_cut_of_a_good_file_is_refused);
    TEST(test_a_shape_may_be_noted_beside);
    TEST(test_types_that_are_not_read_are_checked_all_the_same);
    TEST(test_wrong_heads_are_named);
    TEST(test_wrong_keys_are_named);
    TEST(test_wrong_tensors_are_named);
    taca_buf_finish(&gg);
    tmp_end();
    return TEST_END();
}
