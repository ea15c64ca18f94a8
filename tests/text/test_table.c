/* test_table.c - rows of token embeddings out of a file against the whole table as a checkpoint
 * converts it, for each way of storing them; and ids that are not there. */
#include "engine/text/table.h"
#include "tests/io/gguf_make.h"
#include "tests/test.h"

enum { ROWS = 3, COLS = 64 };

static struct taca_backend *b;

/* Rows 2, 0, 2 of tensor `name` of the file. */
static void check_rows(const char *path, const char *name) {
    static const int32_t ids[] = {2, 0, 2}, wrong[] = {0, ROWS, 0}, negative[] = {-1, 0, 0};
    static const int64_t dim[] = {ROWS, COLS};
    float y[3 * COLS], whole[ROWS * COLS];
    const struct taca_mat m = {y, TACA_F32, 3, COLS, COLS};
    struct taca_err err = {0};
    struct taca_ckpt *c = NULL;
    struct text_table t = {0};
    struct taca_tensor all = {0};
    CHECK_OK(taca_ckpt_open(&c, path, &err), err);
    if (!c) return;
    CHECK_OK(text_table_open(&t, b, c, name, dim, &err), err);
    CHECK_OK(taca_ckpt_get(c, &all, name, 2, dim, &err), err);
    if (err.code) return;
    taca_to_f32(whole, all.data, all.dtype, ROWS * COLS);
    taca_ckpt_close(c); /* the table holds it */
    CHECK(t.ckpt != NULL && text_table_kept(&t) == 0 && text_table_mapped(&t) > 0);
    CHECK_OK(text_table_embed(&t, b, m, ids, &err), err);
    for (int r = 0; r < 3; r++)
        CHECK(memcmp(y + r * COLS, whole + ids[r] * COLS, COLS * sizeof *y) == 0);
    CHECK_INT(text_table_embed(&t, b, m, wrong, &err), TACA_EINTERNAL);
    CHECK_HAS(err.text, "id 3 of token 1, the table has 3 rows");
    err = (struct taca_err){0};
    CHECK_INT(text_table_embed(&t, b, m, negative, &err), TACA_EINTERNAL);
    text_table_close(&t);
}

static void test_rows_are_those_of_the_whole_table(void) {
    check_rows(tmp_tensors("f32.safetensors",
                           "{\"t\":{\"dtype\":\"F32\",\"shape\":[3,64],"
                           "\"data_offsets\":[0,768]}}",
                           768),
               "t");
    check_rows(tmp_tensors("bf16.safetensors",
                           "{\"t\":{\"dtype\":\"BF16\",\"shape\":[3,64],"
                           "\"data_offsets\":[0,384]}}",
                           384),
               "t");
    /* a factor for each row; bytes 1, 2, 3, ... are tiny but no NaN as f32 */
    check_rows(tmp_tensors("fp8.safetensors",
                           "{\"t.weight\":{\"dtype\":\"F8_E5M2\",\"shape\":[3,64],"
                           "\"data_offsets\":[0,192]},\"t.weight_scale\":{\"dtype\":\"F32\","
                           "\"shape\":[3],\"data_offsets\":[192,204]}}",
                           204),
               "t.weight");
    gg_begin(3, 1, 1);
    gg_key_text("general.architecture", "t");
    gg_tensor("t", COLS, ROWS, 8, 0);
    gg_pad(32);
    gg_data(ROWS * COLS / 32 * 34);
    check_rows(gg_end("q8.gguf"), "t");
    taca_buf_finish(&gg);
}

/* Whoever narrowed the table to 8 bits may have had values for which there is no number left. */
static void test_what_8_bits_could_not_hold_is_zero(void) {
    static const int32_t ids[] = {1, 0};
    float y[2 * COLS];
    const struct taca_mat m = {y, TACA_F32, 2, COLS, COLS};
    struct taca_err err = {0};
    struct taca_ckpt *c = NULL;
    struct text_table t = {0};
    /* bytes 1, 2, 3, ...: the 127th, in row 1, is NaN */
    CHECK_OK(taca_ckpt_open(&c,
                            tmp_tensors("e4m3.safetensors",
                                        "{\"t\":{\"dtype\":\"F8_E4M3\",\"shape\":[3,64],"
                                        "\"data_offsets\":[0,192]}}",
                                        192),
                            &err),
             err);
    CHECK_OK(text_table_open(&t, b, c, "t", (int64_t[]){ROWS, COLS}, &err), err);
    taca_ckpt_close(c);
    CHECK_OK(text_table_embed(&t, b, m, ids, &err), err);
    CHECK_NEAR(y[61], 448, 0); /* 0x7E */
    CHECK_NEAR(y[62], 0, 0);
    CHECK_NEAR(y[63], 0, 0); /* 0x80 */
    for (int i = 0; i < 2 * COLS; i++) CHECK(isfinite(y[i]));
    text_table_close(&t);
}

static void test_another_shape_is_refused(void) {
    struct text_table t;
    struct taca_err err = {0};
    struct taca_ckpt *c = NULL;
    CHECK_OK(taca_ckpt_open(&c, tmp_path("f32.safetensors"), &err), err);
    CHECK_INT(text_table_open(&t, b, c, "t", (int64_t[]){3, 65}, &err), TACA_EFORMAT);
    CHECK_HAS(err.text, "[3, 65] wanted, [3, 64] found");
    err = (struct taca_err){0};
    CHECK_INT(text_table_open(&t, b, c, "u", (int64_t[]){3, 64}, &err), TACA_ENOTFOUND);
    taca_ckpt_close(c);
}

int main(void) {
    struct taca_err err = {0};
    const struct taca_backend_opts o = {.threads = 1};
    tmp_begin();
    CHECK_OK(taca_cpu_open(&b, &o, &err), err);
    TEST(test_rows_are_those_of_the_whole_table);
    TEST(test_what_8_bits_could_not_hold_is_zero);
    TEST(test_another_shape_is_refused);
    taca_backend_close(b);
    tmp_end();
    return TEST_END();
}
