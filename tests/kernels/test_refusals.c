/* test_refusals.c - what a backend does when something is wrong: shapes, memory, files. */
#include "tests/kernels/fixture.h"

static struct taca_mat mat(float *p, int64_t r, int64_t c) {
    return (struct taca_mat){p, TACA_F32, r, c, c};
}
static float mem[4096];

/* The op just called must have failed with its name and these words. */
static void expect(const char *op, const char *words) {
    struct taca_err err = {0};
    CHECK(taca_sync(fx, &err) == TACA_EINTERNAL);
    CHECK(strncmp(err.text, op, strlen(op)) == 0);
    CHECK_HAS(err.text, words);
    struct taca_err again = {0};
    CHECK_OK(taca_sync(fx, &again), again); /* reported once */
}

static void rows_body(void) {
    struct taca_err err = {0};
    struct fx_tensor w = fx_tensor("w", 1, 2, (int64_t[]){8, 6});
    struct fx_tensor g = fx_tensor("g", 1, 1, (int64_t[]){5});
    struct taca_linear *l = NULL;
    CHECK_OK(taca_linear_open(fx, &l, &w.t, NULL, 1, &err), err);
    struct taca_vec gain = fx_vec(&g);
    struct fx_layout lay;
    fx_layout(&lay, 2, (const int64_t[][2]){{3, 1}, {2, 0}}, NULL);

    taca_linear(fx, mat(mem, 3, 8), mat(mem, 3, 7), l, TACA_ACT_NONE);
    expect("linear:", "[3, 7]");
    taca_linear(fx, mat(mem, 3, 8), mat(NULL, 3, 6), l, TACA_ACT_NONE);
    expect("linear:", "no memory");
    struct taca_mat narrow = mat(mem, 3, 8);
    narrow.ld = 7;
    taca_activate(fx, narrow, narrow, TACA_ACT_SILU);
    expect("activate:", "ld 7");
    narrow.ld = 8, narrow.dtype = TACA_I32;
    taca_activate(fx, narrow, narrow, TACA_ACT_SILU);
    expect("activate:", "i32");
    taca_layer_norm(fx, mat(mem, 3, 8), mat(mem, 3, 8), &gain, NULL, 1e-6f);
    expect("layer_norm:", "5 values, wanted 8");
    taca_add(fx, mat(mem, 3, 8), mat(mem, 3, 8), mat(mem, 2, 8));
    expect("add:", "[2, 8]");
    taca_norm_modulate(fx, mat(mem, 4, 8), mat(mem, 4, 8), mat(mem, 2, 16), 0, 8, &lay.l, TACA_IMG,
                       1e-6f);
    expect("norm_modulate:", "5 rows");
    taca_norm_modulate(fx, mat(mem, 5, 8), mat(mem, 5, 8), mat(mem, 2, 16), 0, 9, &lay.l, TACA_IMG,
                       1e-6f);
    expect("norm_modulate:", "columns 9 to 17");
    taca_gate_add(fx, mat(mem, 5, 8), mat(mem, 5, 8), mat(mem, 1, 16), 0, &lay.l, TACA_IMG);
    expect("gate_add:", "2 segments");
    struct taca_adaln m = {mat(mem, 2, 24), 0, 8, 17, &lay.l, TACA_IMG, 1e-6f};
    taca_gate_norm(fx, mat(mem, 5, 8), mat(mem, 5, 8), mat(mem, 5, 8), &m);
    expect("gate_norm:", "columns 17 to 25");
    m.scale = 16;
    taca_gate_norm(fx, mat(mem, 5, 8), mat(mem, 5, 8), mat(mem, 4, 8), &m);
    expect("gate_norm:", "[4, 8]");
    struct taca_mat low = mat(mem, 5, 8);
    low.dtype = TACA_BF16;
    taca_gate_norm(fx, mat(mem, 5, 8), mat(mem, 5, 8), low, &m);
    expect("gate_norm:", "wanted f32");
    taca_layout_finish(&lay.l);
    free(w.f), free(g.f);
}
static void test_row_ops_name_themselves_and_the_shapes(void) { fx_each(rows_body); }

static void attention_body(void) {
    struct fx_layout lay;
    fx_layout(&lay, 2, (const int64_t[][2]){{3, 1}, {2, 0}}, NULL);
    struct taca_mat i = mat(mem, 5, 8), t = mat(mem, 1, 8), none = {0};
    struct taca_qkv img = {i, i, i}, txt = {t, t, t};
    struct taca_attn a = {.heads = 3, .scale = 1};
    taca_attention(fx, i, t, img, txt, &lay.l, &a);
    expect("attention:", "3 heads");
    a.heads = 2, a.mask = TACA_MASK_CAUSAL;
    taca_attention(fx, i, t, img, txt, &lay.l, &a);
    expect("attention:", "causal");
    a.mask = TACA_MASK_NONE;
    img.k = mat(mem, 4, 8);
    taca_attention(fx, i, t, img, txt, &lay.l, &a);
    expect("attention:", "image k [4, 8]");
    img.k = i;
    taca_attention(fx, none, t, img, txt, &lay.l, &a);
    expect("attention:", "image");
    txt = (struct taca_qkv){mat(mem, 1, 6), mat(mem, 1, 6), mat(mem, 1, 6)};
    taca_attention(fx, i, none, img, txt, &lay.l, &a);
    expect("attention:", "[1, 6]");
    txt = (struct taca_qkv){none, none, none};
    taca_attention(fx, i, none, img, txt, &(struct taca_layout){.b = fx}, &a);
    expect("attention:", "image q [5, 8]");
    taca_layout_finish(&lay.l);
}
static void test_attention_names_what_does_not_fit(void) { fx_each(attention_body); }

static void maps_body(void) {
    struct taca_err err = {0};
    uint8_t bytes[64];
    struct fx_tensor w = fx_tensor("w", 1, 4, (int64_t[]){2, 3, 3, 3});
    struct fx_tensor b = fx_tensor("b", 1, 1, (int64_t[]){2});
    struct taca_conv *v = NULL, g = {.stride = 1};
    CHECK_OK(taca_conv_open(fx, &v, &w.t, &b.t, &g, &err), err);
    struct taca_map x = {mem, TACA_F32, 1, 5, 5, 3}, y = {mem, TACA_F32, 1, 5, 5, 2};
    struct taca_chw z = {mem, 3, 5, 5};
    taca_conv2d(fx, y, x, v);
    expect("conv2d:", "[1, 5, 5, 2]"); /* 3 x 3 without padding */
    x.h = 2;
    taca_conv2d(fx, y, x, v);
    expect("conv2d:", "[1, 2, 5, 3]");
    x.h = 5;
    taca_group_norm(fx, x, x, NULL, NULL, 2, 1e-6f, TACA_ACT_NONE);
    expect("group_norm:", "3 channels, 2 groups");
    taca_upsample2(fx, x, x);
    expect("upsample2:", "[1, 5, 5, 3]");
    taca_map_to_rgb8(fx, bytes, y);
    expect("map_to_rgb8:", "3 channels");
    taca_chw_to_map(fx, y, z);
    expect("chw_to_map:", "[3, 5, 5]");
    taca_patchify(fx, mat(mem, 4, 12), z, 2, TACA_PATCH_CHANNEL_MAJOR);
    expect("patchify:", "patch 2");
    taca_unpatchify(fx, z, mat(mem, 4, 12), 2, TACA_PATCH_CHANNEL_MAJOR);
    expect("unpatchify:", "patch 2");
    taca_add_position(fx, mat(mem, 25, 4), mat(mem, 16, 4), 4, 5, 5);
    expect("add_position:", "side 4");
    taca_time_features(fx, mat(mem, 1, 5), mem);
    expect("time_features:", "[1, 5]");
    taca_axpb(fx, z, (struct taca_chw){mem, 3, 5, 4}, 1, 0);
    expect("axpb:", "[3, 5, 4]");
    const int32_t ids[] = {1, 4}, minus[] = {-1, 0};
    taca_embed(fx, mat(mem, 2, 4), mat(mem + 64, 4, 4), ids);
    expect("embed:", "id 4");
    taca_embed(fx, mat(mem, 2, 4), mat(mem + 64, 4, 4), minus);
    expect("embed:", "id -1");
    free(w.f), free(b.f);
}
static void test_map_ops_name_themselves_and_the_shapes(void) { fx_each(maps_body); }

/* The first error stays, and ops after it leave their outputs alone. */
static void sticky_body(void) {
    struct taca_err err = {0};
    float y[4] = {1, 2, 3, 4}, x[4] = {5, 6, 7, 8};
    taca_add(fx, mat(y, 1, 4), mat(x, 1, 4), mat(x, 1, 3));
    taca_upsample2(fx, (struct taca_map){0}, (struct taca_map){0});
    taca_activate(fx, mat(y, 1, 4), mat(x, 1, 4), TACA_ACT_NONE);
    CHECK(taca_sync(fx, &err) == TACA_EINTERNAL);
    CHECK_HAS(err.text, "add:");
    CHECK_NEAR(y[0], 1, 0);
    taca_activate(fx, mat(y, 1, 4), mat(x, 1, 4), TACA_ACT_NONE);
    struct taca_err none = {0};
    CHECK_OK(taca_sync(fx, &none), none);
    CHECK_NEAR(y[3], 8, 0);
}
static void test_the_first_error_stays_until_sync(void) { fx_each(sticky_body); }

/* No rows: nothing happens, whatever the data pointer. */
static void empty_body(void) {
    struct taca_err err = {0};
    struct fx_tensor w = fx_tensor("w", 1, 2, (int64_t[]){8, 6});
    struct taca_linear *l = NULL;
    CHECK_OK(taca_linear_open(fx, &l, &w.t, NULL, 1, &err), err);
    taca_linear(fx, mat(NULL, 0, 8), mat(NULL, 0, 6), l, TACA_ACT_NONE);
    taca_add(fx, mat(NULL, 0, 8), mat(NULL, 0, 8), mat(NULL, 0, 8));
    taca_layer_norm(fx, mat(NULL, 0, 8), mat(NULL, 0, 8), NULL, NULL, 1e-6f);
    CHECK_OK(taca_sync(fx, &err), err);
    free(w.f);
}
static void test_no_rows_is_no_work(void) { fx_each(empty_body); }

static void scratch_body(void) {
    struct taca_err err = {0};
    struct taca_scratch s = {.b = fx};
    CHECK_OK(taca_scratch_reserve(&s, 1024, &err), err);
    struct taca_mat a = taca_scratch_mat(&s, TACA_F32, 3, 5);
    struct taca_mat b = taca_scratch_mat(&s, TACA_BF16, 1, 1);
    CHECK(a.data && b.data && (uintptr_t)a.data % 64 == 0 && (uintptr_t)b.data % 64 == 0);
    CHECK(a.rows == 3 && a.cols == 5 && a.ld == 5 && b.dtype == TACA_BF16);
    CHECK(taca_scratch_mat(&s, TACA_F32, 16, 16).data == NULL);
    CHECK_INT(s.peak, 64 + 64 + 1024);
    CHECK(taca_sync(fx, &err) == TACA_EINTERNAL);
    CHECK_HAS(err.text, "1024 bytes reserved, 1152 needed");
    struct taca_err huge = {0};
    s.used = 0;
    CHECK(taca_scratch_map(&s, TACA_F32, INT64_MAX / 4, 8, 8, 8).data == NULL);
    CHECK(taca_sync(fx, &huge) == TACA_ENOMEM);
    struct taca_err no = {0};
    CHECK(taca_scratch_reserve(&s, SIZE_MAX - 3, &no) == TACA_ENOMEM);
    CHECK_INT(s.size, 1024); /* untouched */
    taca_scratch_finish(&s);
}
static void test_scratch_without_room_is_an_error_that_tells_the_need(void) {
    fx_each(scratch_body);
}

static void weights_body(void) {
    struct fx_tensor w = fx_tensor("blocks.0.w", 1, 2, (int64_t[]){4, 6});
    struct fx_tensor odd = fx_tensor("blocks.0.v", 1, 2, (int64_t[]){4, 5});
    struct fx_tensor b = fx_tensor("blocks.0.b", 1, 1, (int64_t[]){3});
    struct taca_linear *l = (void *)mem;
    struct taca_conv *v = (void *)mem, g = {.stride = 1};
    struct taca_vec vec = {mem, -7};
    struct taca_mat table = {.rows = -7};
    const struct taca_tensor parts[] = {w.t, odd.t};
    struct taca_err err = {0};
    CHECK(taca_linear_open(fx, &l, parts, NULL, 2, &err) == TACA_EFORMAT);
    CHECK_HAS(err.text, "blocks.0.v: 5 inputs, blocks.0.w has 6");
    err = (struct taca_err){0};
    CHECK(taca_linear_open(fx, &l, &w.t, &b.t, 1, &err) == TACA_EFORMAT);
    CHECK_HAS(err.text, "blocks.0.b: 3 values");
    err = (struct taca_err){0};
    CHECK(taca_linear_open(fx, &l, &b.t, NULL, 1, &err) == TACA_EFORMAT);
    CHECK_HAS(err.text, "rank 1");
    err = (struct taca_err){0};
    CHECK(taca_conv_open(fx, &v, &w.t, &b.t, &g, &err) == TACA_EFORMAT);
    CHECK_HAS(err.text, "rank 2, wanted 4");
    err = (struct taca_err){0};
    w.t.dtype = TACA_I32;
    CHECK(taca_vec_open(fx, &vec, &w.t, &err) == TACA_EFORMAT);
    CHECK_HAS(err.text, "i32");
    err = (struct taca_err){0};
    CHECK(taca_table_open(fx, &table, &b.t, &err) == TACA_EFORMAT);
    CHECK_HAS(err.text, "rank 1, wanted 2");
    CHECK((void *)l == mem && (void *)v == mem && vec.n == -7 && table.rows == -7);
    free(w.f), free(odd.f), free(b.f);
}
static void test_weights_of_a_wrong_shape_are_refused(void) { fx_each(weights_body); }

static void layout_body(void) {
    static const struct {
        struct taca_seg seg[2];
        const char *words;
    } bad[] = {{{{0, 3, 0, 1, 1}, {4, 2, 1, 0, 1}}, "segment 1 has image rows 4+2"},
               {{{0, 3, 0, 1, 1}, {3, 2, 0, 0, 1}}, "text rows 0+0"},
               {{{0, -1, 0, 1, 1}, {0, 2, 1, 0, 1}}, "segment 0"},
               {{{0, 3, 0, 1, NAN}, {3, 2, 1, 0, 1}}, "gamma of segment 0"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct taca_err err = {0};
        struct taca_layout l = {.n_segs = -7};
        CHECK(taca_layout_init(&l, fx, bad[i].seg, 2, &err) == TACA_EINTERNAL);
        CHECK_HAS(err.text, bad[i].words);
        CHECK_INT(l.n_segs, -7);
    }
    struct taca_layout none = {0};
    taca_layout_finish(&none);
}
static void test_layouts_with_gaps_are_refused(void) { fx_each(layout_body); }

static void test_close_takes_null(void) { taca_backend_close(NULL); }

static void test_two_backends_keep_their_errors_apart(void) {
    struct taca_err err = {0};
    struct taca_backend *a = NULL, *b = NULL;
    const struct taca_backend_opts o = {.threads = 2};
    CHECK_OK(taca_cpu_open(&a, &o, &err), err);
    CHECK_OK(taca_cpu_open(&b, &o, &err), err);
    CHECK_STR(taca_backend_name(a), "cpu");
    CHECK_HAS(taca_backend_detail(a), "2 threads");
    taca_add(a, mat(mem, 1, 4), mat(mem, 1, 4), mat(mem, 1, 3));
    taca_add(b, mat(mem, 1, 4), mat(mem, 1, 4), mat(mem, 1, 4));
    CHECK(taca_sync(a, NULL) == TACA_EINTERNAL);
    CHECK_OK(taca_sync(b, &err), err);
    taca_backend_close(a);
    taca_backend_close(b);
}

int main(void) {
    TEST(test_row_ops_name_themselves_and_the_shapes);
    TEST(test_attention_names_what_does_not_fit);
    TEST(test_map_ops_name_themselves_and_the_shapes);
    TEST(test_the_first_error_stays_until_sync);
    TEST(test_no_rows_is_no_work);
    TEST(test_scratch_without_room_is_an_error_that_tells_the_need);
    TEST(test_weights_of_a_wrong_shape_are_refused);
    TEST(test_layouts_with_gaps_are_refused);
    TEST(test_close_takes_null);
    TEST(test_two_backends_keep_their_errors_apart);
    return TEST_END();
}
