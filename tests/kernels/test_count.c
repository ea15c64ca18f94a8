/* test_count.c - the counting backend against formulas worked by hand. */
#include "kernels/backend.h"
#include "tests/test.h"

static struct taca_backend *open_count(enum taca_dtype precision) {
    struct taca_err err = {0};
    struct taca_backend *b = NULL;
    CHECK_OK(taca_count_open(&b, precision, &err), err);
    CHECK_STR(taca_backend_name(b), "count");
    CHECK(taca_backend_precision(b) == precision);
    return b;
}

static const struct taca_tensor weight = {"w", NULL, TACA_F32, 2, {30, 20}};
static const struct taca_tensor bias = {"b", NULL, TACA_F32, 1, {30}};

static struct taca_mat rows(int64_t n, int64_t cols) {
    return (struct taca_mat){NULL, TACA_F32, n, cols, cols};
}

static void test_a_linear_is_two_flops_per_weight_and_row(void) {
    static const enum taca_dtype precision[] = {TACA_F32, TACA_BF16};
    for (int i = 0; i < 2; i++) {
        struct taca_err err = {0};
        struct taca_backend *b = open_count(precision[i]);
        struct taca_linear *l = NULL;
        CHECK_OK(taca_linear_open(b, &l, &weight, i ? NULL : &bias, 1, &err), err);
        for (int k = 0; k < 3; k++) taca_linear(b, rows(7, 30), rows(7, 20), l, TACA_ACT_SILU);
        CHECK_OK(taca_sync(b, &err), err);
        struct taca_counts c = taca_count_read(b);
        CHECK_NEAR(c.flops, 3.0 * 2 * 7 * 20 * 30, 0);
        CHECK_NEAR(c.weight_bytes, i ? 3.0 * 600 * 2 : 3.0 * (600 * 4 + 30 * 4), 0);
        taca_backend_close(b);
    }
}

static void test_a_convolution_counts_its_window(void) {
    struct taca_err err = {0};
    struct taca_backend *b = open_count(TACA_F32);
    const struct taca_tensor w = {"w", NULL, TACA_F32, 4, {8, 4, 3, 3}};
    const struct taca_tensor cb = {"b", NULL, TACA_F32, 1, {8}};
    const struct taca_conv g = {.stride = 2, .pad_bottom = 1, .pad_right = 1};
    struct taca_conv *v = NULL;
    CHECK_OK(taca_conv_open(b, &v, &w, &cb, &g, &err), err);
    struct taca_map x = {NULL, TACA_F32, 2, 10, 6, 4}, y = {NULL, TACA_F32, 2, 5, 3, 8};
    taca_conv2d(b, y, x, v);
    CHECK_OK(taca_sync(b, &err), err);
    struct taca_counts c = taca_count_read(b);
    CHECK_NEAR(c.flops, 2.0 * (2 * 5 * 3) * 8 * (4 * 9), 0);
    CHECK_NEAR(c.weight_bytes, 4.0 * (8 * 4 * 9 + 8), 0);
    taca_backend_close(b);
}

static double attention_flops(const struct taca_seg *segs, int n, bool text_out,
                              enum taca_mask mask) {
    struct taca_err err = {0};
    struct taca_backend *b = open_count(TACA_F32);
    struct taca_layout l = {0};
    CHECK_OK(taca_layout_init(&l, b, segs, n, &err), err);
    const int64_t d = 24;
    struct taca_qkv img = {rows(l.img_rows, d), rows(l.img_rows, d), rows(l.img_rows, d)};
    struct taca_qkv txt = {rows(l.txt_rows, d), rows(l.txt_rows, d), rows(l.txt_rows, d)};
    const struct taca_attn a = {.heads = 3, .scale = 1, .mask = mask};
    struct taca_mat none = {0};
    taca_attention(b, rows(l.img_rows, d), text_out ? rows(l.txt_rows, d) : none, img, txt, &l, &a);
    CHECK_OK(taca_sync(b, &err), err);
    double flops = taca_count_read(b).flops;
    taca_layout_finish(&l);
    taca_backend_close(b);
    return flops;
}

static void test_attention_counts_the_pairs_it_computes(void) {
    const struct taca_seg segs[] = {{0, 16, 0, 5, 1}, {16, 4, 5, 0, 1.2f}};
    CHECK_NEAR(attention_flops(segs, 2, true, TACA_MASK_NONE), 4.0 * 24 * (21 * 21 + 4 * 4), 0);
    CHECK_NEAR(attention_flops(segs, 2, false, TACA_MASK_NONE), 4.0 * 24 * (16 * 21 + 4 * 4), 0);
    const struct taca_seg alone[] = {{0, 7, 0, 0, 1}};
    CHECK_NEAR(attention_flops(alone, 1, false, TACA_MASK_CAUSAL), 4.0 * 24 * 28, 0);
}

/* Views have no memory, releases are honoured, the peak stays. */
static void test_scratch_is_measured_without_memory(void) {
    struct taca_err err = {0};
    struct taca_backend *b = open_count(TACA_F32);
    struct taca_scratch s = {.b = b};
    CHECK(taca_scratch_mat(&s, TACA_F32, 10, 3).data == NULL); /* 120 bytes: two lines */
    CHECK_INT(s.used, 128);
    const size_t mark = s.used;
    CHECK(taca_scratch_map(&s, TACA_BF16, 1, 4, 4, 8).data == NULL); /* 256 */
    CHECK_INT(s.peak, 384);
    s.used = mark;
    (void)taca_scratch_mat(&s, TACA_BF16, 1, 1);
    CHECK_INT(s.used, 192);
    CHECK_INT(s.peak, 384);
    CHECK_INT(taca_count_read(b).scratch_bytes, 384);
    CHECK_OK(taca_sync(b, &err), err); /* running without room is no error here */
    taca_scratch_finish(&s);
    taca_backend_close(b);
}

/* The rest costs nothing and is still checked. */
static void test_other_ops_are_checked_and_free(void) {
    struct taca_err err = {0};
    struct taca_backend *b = open_count(TACA_F32);
    struct taca_map m = {NULL, TACA_F32, 1, 4, 6, 8}, up = {NULL, TACA_F32, 1, 8, 12, 8};
    struct taca_chw z = {NULL, 8, 4, 6};
    taca_activate(b, rows(2, 3), rows(2, 3), TACA_ACT_SILU);
    taca_layer_norm(b, rows(2, 3), rows(2, 3), NULL, NULL, 1e-6f);
    taca_add(b, rows(2, 3), rows(2, 3), rows(2, 3));
    taca_time_features(b, rows(2, 4), NULL);
    taca_embed(b, rows(2, 4), rows(9, 4), NULL);
    taca_patchify(b, rows(6, 32), z, 2, TACA_PATCH_CHANNEL_MAJOR);
    taca_unpatchify(b, z, rows(6, 32), 2, TACA_PATCH_CHANNEL_LAST);
    taca_add_position(b, rows(24, 5), rows(49, 5), 7, 4, 6);
    taca_cfg_euler(b, z, z, z, 1, 1);
    taca_axpb(b, z, z, 1, 1);
    taca_axpby(b, z, z, 1, 1);
    taca_blend(b, z, z, (struct taca_chw){NULL, 1, 4, 6});
    taca_chw_to_map(b, m, z);
    taca_map_to_chw(b, z, m);
    taca_group_norm(b, m, m, NULL, NULL, 4, 1e-6f, TACA_ACT_SILU);
    taca_upsample2(b, up, m);
    CHECK_OK(taca_sync(b, &err), err);
    CHECK_NEAR(taca_count_read(b).flops, 0, 0);
    taca_upsample2(b, m, m);
    CHECK(taca_sync(b, &err) == TACA_EINTERNAL);
    CHECK_HAS(err.text, "upsample2");
    taca_backend_close(b);
}

/* Weights of a computing backend count as what they are there. */
static void test_handles_of_another_backend_are_counted(void) {
    struct taca_err err = {0};
    struct taca_backend *b = open_count(TACA_F32), *cpu = NULL;
    const struct taca_backend_opts o = {.threads = 1, .precision = TACA_BF16};
    CHECK_OK(taca_cpu_open(&cpu, &o, &err), err);
    static const float values[600];
    struct taca_tensor w = weight;
    struct taca_linear *l = NULL;
    w.data = values;
    CHECK_OK(taca_linear_open(cpu, &l, &w, NULL, 1, &err), err);
    taca_linear(b, rows(1, 30), rows(1, 20), l, TACA_ACT_NONE);
    CHECK_NEAR(taca_count_read(b).weight_bytes,
               600.0 * (double)taca_dtype_bytes(taca_backend_precision(cpu)), 0);
    taca_backend_close(b);
    taca_backend_close(cpu);
}

int main(void) {
    TEST(test_a_linear_is_two_flops_per_weight_and_row);
    TEST(test_a_convolution_counts_its_window);
    TEST(test_attention_counts_the_pairs_it_computes);
    TEST(test_scratch_is_measured_without_memory);
    TEST(test_other_ops_are_checked_and_free);
    TEST(test_handles_of_another_backend_are_counted);
    return TEST_END();
}
