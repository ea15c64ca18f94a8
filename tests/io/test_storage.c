/* test_storage.c - 8-bit floats and quantised blocks: their values by those who defined them, and
 * what a checkpoint makes of tensors that hold them. */
#include <jansson.h>

#include "engine/io/checkpoint.h"
#include "engine/io/safetensors.h"
#include "tests/io/gguf_make.h"
#include "tests/test.h"

/* ---- blocks ---------------------------------------------------------------------------------- */

static int find_type(const char *name) {
    for (int t = 0; t < TACA_STORED_OTHER; t++)
        if (strcmp(taca_storage_name((enum taca_storage)t), name) == 0) return t;
    return -1;
}

/* The block of the reference: bytes 37 i + 11, with d = 0x2E66 and, where there is one, the offset
 * or least value 0x2A66. */
static void fill(unsigned char *b, int size, const char *type) {
    static const struct {
        const char *type;
        int d, m;
    } places[] = {{"q2_K", 80, 82}, {"q3_K", 108, -1}, {"q6_K", 208, -1}, {"q4_1", 0, 2},
                  {"q5_1", 0, 2},   {"q4_K", 0, 2},    {"q5_K", 0, 2}};
    int d = 0, m = -1;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (strcmp(places[i].type, type) == 0) d = places[i].d, m = places[i].m;
    for (int i = 0; i < size; i++) b[i] = (unsigned char)(37 * i + 11);
    b[d] = 0x66, b[d + 1] = 0x2E;
    if (m >= 0) b[m] = 0x66, b[m + 1] = 0x2A;
}

static void check_block(const json_t *line) {
    const char *type = json_string_value(json_object_get(line, "type")), *at;
    const int t = find_type(type), bytes = (int)json_integer_value(json_object_get(line, "bytes"));
    const int n = (int)json_integer_value(json_object_get(line, "n"));
    unsigned char block[256];
    float x[256];
    double sum = 0, worst = 0;
    json_t *v;
    size_t i;
    if (!CHECK(t >= 0)) return;
    CHECK_INT(taca_storage_traits((enum taca_storage)t)->bytes, bytes);
    CHECK_INT(taca_storage_traits((enum taca_storage)t)->block, n);
    fill(block, bytes, type);
    taca_storage_to_f32(x, block, (enum taca_storage)t, (size_t)n);
    json_array_foreach(json_object_get(line, "first8"), i, v) worst =
        fmax(worst, fabs((double)x[i] - json_number_value(v)));
    json_object_foreach(json_object_get(line, "at"), at, v) worst =
        fmax(worst, fabs((double)x[strtol(at, NULL, 10)] - json_number_value(v)));
    for (int k = 0; k < n; k++) sum += (double)x[k];
    printf("    %-8s worst %.3g, sum %.9g\n", type, worst, sum);
    CHECK(worst <= 5e-7);
    CHECK_NEAR(sum, json_number_value(json_object_get(line, "sum")), 1e-3);
}

static int check_blocks(const char *path) {
    char line[8192];
    int n = 0;
    FILE *f = fopen(path, "r");
    if (!CHECK(f != NULL)) return 0;
    while (fgets(line, sizeof line, f)) {
        json_t *j = json_loads(line, 0, NULL);
        if (CHECK(j != NULL)) check_block(j);
        json_decref(j);
        n++;
    }
    fclose(f);
    return n;
}

static void test_blocks_have_the_values_of_ggml(void) {
    int n = check_blocks(TACA_GOLDEN_DIR "/encoders/encoders_golden_gguf.jsonl");
    n += check_blocks(TACA_GOLDEN_DIR "/encoders/gguf_more.jsonl");
    CHECK_INT(n, 12); /* all that are read */
}

static void test_8_bit_floats_have_their_published_values(void) {
    static const struct {
        unsigned char byte;
        double e4m3, e5m2;
    } cases[] = {
        {0x00, 0, 0},
        {0x01, 0x1p-9, 0x1p-16},
        {0x07, 7 * 0x1p-9, 0x1.cp-14},
        {0x08, 0x1p-6, 0x1p-13},
        {0x38, 1, 0.5},
        {0x3C, 1.5, 1},
        {0xB8, -1, -0.5},
        {0x7E, 448, (double)NAN},
        {0x78, 256, 32768},
        {0x7B, 352, 57344},
        {0xFE, -448, (double)NAN},
        {0x7F, (double)NAN, (double)NAN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float a, b;
        taca_storage_to_f32(&a, &cases[i].byte, TACA_STORED_F8_E4M3, 1);
        taca_storage_to_f32(&b, &cases[i].byte, TACA_STORED_F8_E5M2, 1);
        CHECK(isnan(cases[i].e4m3) ? isnan(a) : (double)a == cases[i].e4m3);
        CHECK(isnan(cases[i].e5m2) ? isnan(b) : (double)b == cases[i].e5m2);
    }
}

/* ---- through a checkpoint -------------------------------------------------------------------- */

#define E(name, dtype, shape, b, e)                                                                \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #b "," #e "]}"

static struct taca_ckpt *must_open(const char *path, int kind) {
    struct taca_ckpt *c = NULL;
    struct taca_err err = {0};
    if (kind < 0)
        CHECK_OK(taca_ckpt_open(&c, path, &err), err);
    else
        CHECK_OK(taca_ckpt_open_kind(&c, path, (enum taca_kind)kind, &err), err);
    return c;
}

/* File of that header whose data are these bytes. */
static struct taca_ckpt *with_data(const char *header, const void *data, size_t n) {
    struct taca_buf b;
    taca_buf_init(&b, 1 << 20);
    unsigned char prefix[8] = {(unsigned char)strlen(header), (unsigned char)(strlen(header) >> 8)};
    taca_buf_put(&b, prefix, 8);
    taca_buf_puts(&b, header);
    taca_buf_put(&b, data, n);
    const char *path = tmp_write("s.safetensors", b.data, b.len);
    taca_buf_finish(&b);
    return must_open(path, -1);
}

static void values(struct taca_ckpt *c, const char *name, int rank, const int64_t *dim,
                   const float *want, size_t n) {
    struct taca_err err = {0};
    struct taca_tensor t = {0};
    float got[64];
    CHECK_OK(taca_ckpt_get(c, &t, name, rank, dim, &err), err);
    if (!t.data || (size_t)taca_tensor_count(&t) != n) return;
    taca_to_f32(got, t.data, t.dtype, n);
    for (size_t i = 0; i < n; i++) CHECK_NEAR(got[i], want[i], 0);
}

static void test_scaled_8_bit_floats_are_multiplied(void) {
    /* 1, 1.5, -1, 2^-9 times 2; per row times 2 and 3 */
    static const unsigned char data[] = {0x38, 0x3C, 0xB8, 0x01, 0x38, 0x3C, 0xB8, 0x01,
                                         0x38, 0x3C, 0,    0,    0,    0x40, 0,    0,
                                         0,    0x40, 0,    0,    0x40, 0x40};
    struct taca_ckpt *c = with_data(
        "{" E("a.weight", "F8_E4M3", "[2,2]", 0, 4) "," E(
            "b.weight", "F8_E4M3", "[2,2]", 4,
            8) "," E("c", "F8_E5M2", "[2]", 8,
                     10) "," E("a.scale_weight", "F32", "[]", 10,
                               14) "," E("b.weight_scale", "F32", "[2,1]", 14,
                                         22) "," E("scaled_fp8", "F8_E4M3", "[0]", 22, 22) "}",
        data, sizeof data);
    if (!c) return;
    values(c, "a.weight", 2, (int64_t[]){2, 2}, (float[]){2, 3, -2, 0x1p-8f}, 4);
    values(c, "b.weight", 2, (int64_t[]){2, 2}, (float[]){2, 3, -3, 3 * 0x1p-9f}, 4);
    values(c, "c", 1, (int64_t[]){2}, (float[]){0.5f, 1}, 2);
    CHECK(!taca_ckpt_has(c, "a.scale_weight") && !taca_ckpt_has(c, "scaled_fp8"));
    CHECK_INT(taca_ckpt_parameters(c), 10); /* scales are not parameters */
    struct taca_stored raw;
    CHECK(taca_ckpt_raw(c, "a.weight", &raw));
    CHECK(raw.type == TACA_STORED_F8_E4M3 && raw.scale == 2 && raw.bytes == 4);
    /* asked for as bf16 they come as that */
    struct taca_tensor t;
    struct taca_err err = {0};
    taca_ckpt_set_floats(c, TACA_BF16);
    CHECK_OK(taca_ckpt_get(c, &t, "a.weight", 2, (int64_t[]){2, 2}, &err), err);
    CHECK_INT(t.dtype, TACA_BF16);
    values(c, "a.weight", 2, (int64_t[]){2, 2}, (float[]){2, 3, -2, 0x1p-8f}, 4);
    taca_ckpt_close(c);
}

/* Rows of no columns have their factors all the same. */
static void test_an_empty_matrix_may_be_scaled(void) {
    struct taca_stored raw;
    struct taca_ckpt *c = with_data(
        "{" E("a.weight", "F8_E4M3", "[2,0]", 0, 0) "," E("a.weight_scale", "F32", "[2]", 0, 8) "}",
        (const float[]){1, 2}, 8);
    if (!c) return;
    CHECK(taca_ckpt_raw(c, "a.weight", &raw) && raw.bytes == 0);
    taca_ckpt_close(c);
}

static void test_bf16_conversions_round_to_even(void) {
    /* 1.5 * (1 + 2^-8) lies between 1.5 and 1.5078125: 1.505859375 -> 1.5078125 */
    static const float scale = 1.00390625f;
    unsigned char data[6] = {0x38, 0x3C};
    memcpy(data + 2, &scale, 4);
    struct taca_ckpt *c = with_data(
        "{" E("a.weight", "F8_E4M3", "[2,1]", 0, 2) "," E("a.scale_weight", "F32", "[1]", 2, 6) "}",
        data, sizeof data);
    if (!c) return;
    taca_ckpt_set_floats(c, TACA_BF16);
    values(c, "a.weight", 2, (int64_t[]){2, 1}, (float[]){1, 1.5078125f}, 2);
    taca_ckpt_close(c);
}

static void test_formats_that_are_packed_are_named(void) {
    static const char note[] = "{\"format\":\"nvfp4\"}", fine[] = "{\"format\":\"float8_e4m3fn\"}";
    unsigned char data[64] = {0};
    memcpy(data + 4, note, 18);
    memcpy(data + 26, fine, 26);
    struct taca_ckpt *c =
        with_data("{" E("a.weight", "F8_E4M3", "[2,2]", 0,
                        4) "," E("a.comfy_quant", "U8", "[18]", 4,
                                 22) "," E("b.weight", "F8_E4M3", "[2,2]", 22,
                                           26) "," E("b.comfy_quant", "U8", "[26]", 26, 52) "}",
                  data, 52);
    struct taca_tensor t;
    struct taca_err err = {0};
    if (!c) return;
    CHECK_INT(taca_ckpt_get(c, &t, "a.weight", 2, (int64_t[]){2, 2}, &err), TACA_EUNSUPPORTED);
    CHECK_HAS(err.text, "of a packed format");
    values(c, "b.weight", 2, (int64_t[]){2, 2}, (float[]){0, 0, 0, 0}, 4);
    taca_ckpt_close(c);
}

static void test_4_bit_packing_is_named_before_its_odd_shape(void) {
    unsigned char data[64] = {0};
    struct taca_ckpt *c =
        with_data("{" E("double_blocks.0.img_attn.qkv.weight", "U8", "[8,1]", 0, 8) "," E(
                      "double_blocks.0.img_attn.qkv.weight.absmax", "F32", "[1]", 8, 12) "}",
                  data, 12);
    struct taca_tensor t;
    struct taca_err err = {0};
    if (!c) return;
    CHECK_INT(
        taca_ckpt_get(c, &t, "transformer_blocks.0.attn.to_q.weight", 2, (int64_t[]){4, 4}, &err),
        TACA_EUNSUPPORTED);
    CHECK_HAS(err.text, "is U8 of a packed format, which is not supported");
    taca_ckpt_close(c);
}

static void test_f64_is_refused_by_name(void) {
    unsigned char data[8] = {0};
    struct taca_ckpt *c = with_data("{" E("a", "F64", "[1]", 0, 8) "}", data, 8);
    struct taca_tensor t;
    struct taca_err err = {0};
    if (!c) return;
    CHECK_INT(taca_ckpt_get(c, &t, "a", 1, (int64_t[]){1}, &err), TACA_EUNSUPPORTED);
    CHECK_HAS(err.text, "tensor a is F64, which is not supported");
    taca_ckpt_close(c);
}

/* q8_0 blocks of scale 1 whose 32 bytes are r, r, ... for block r */
static void q8_rows(int rows) {
    for (int r = 0; r < rows; r++) {
        gg_int(0x3C00, 2);
        for (int i = 0; i < 32; i++) gg_int((uint64_t)r, 1);
    }
}

static void test_rows_of_quantised_matrices_are_cut_between_blocks(void) {
    gg_begin(3, 2, 1);
    gg_key_text("general.architecture", "flux");
    gg_tensor("double_blocks.0.img_attn.qkv.weight", 32, 6, 8, 0);
    gg_tensor("final_layer.adaLN_modulation.1.weight", 32, 4, 8, 224);
    gg_pad(32);
    q8_rows(6);
    gg_pad(32); /* 204 bytes end at 224 */
    q8_rows(4);
    struct taca_ckpt *c = must_open(gg_end("q.gguf"), TACA_DIT);
    struct taca_tensor t;
    struct taca_stored raw;
    struct taca_err err = {0};
    if (!c) return;
    CHECK_OK(
        taca_ckpt_get(c, &t, "transformer_blocks.0.attn.to_k.weight", 2, (int64_t[]){2, 32}, &err),
        err);
    if (t.data) CHECK(((const float *)t.data)[0] == 2 && ((const float *)t.data)[63] == 3);
    CHECK(taca_ckpt_raw(c, "transformer_blocks.0.attn.to_v.weight", &raw));
    CHECK(raw.type == TACA_STORED_Q8_0 && raw.bytes == 68 && raw.dim[0] == 2);
    CHECK(((const unsigned char *)raw.data)[2] == 4);
    /* halves changed places on the way */
    CHECK_OK(taca_ckpt_get(c, &t, "norm_out.linear.weight", 2, (int64_t[]){4, 32}, &err), err);
    if (t.data) CHECK(((const float *)t.data)[0] == 2 && ((const float *)t.data)[127] == 1);
    taca_ckpt_drop(c);
    taca_ckpt_drop(c);
    CHECK_OK(taca_ckpt_get(c, &t, "norm_out.linear.weight", 2, (int64_t[]){4, 32}, &err), err);
    taca_ckpt_close(c);
}

int main(void) {
    tmp_begin();
    TEST(test_blocks_have_the_values_of_ggml);
    TEST(test_8_bit_floats_have_their_published_values);
    TEST(test_scaled_8_bit_floats_are_multiplied);
    TEST(test_an_empty_matrix_may_be_scaled);
    TEST(test_bf16_conversions_round_to_even);
    TEST(test_formats_that_are_packed_are_named);
    TEST(test_4_bit_packing_is_named_before_its_odd_shape);
    TEST(test_f64_is_refused_by_name);
    TEST(test_rows_of_quantised_matrices_are_cut_between_blocks);
    taca_buf_finish(&gg);
    tmp_end();
    return TEST_END();
}
