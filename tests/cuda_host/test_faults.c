/* test_faults.c - the CUDA backend when its device has no memory, is lost, or was never there. */
#include "kernels/backend.h"
#include "tests/cuda_host/faults.h"
#include "tests/test.h"

enum { IN = 16, OUT = 24, ROWS = 9, HEADS = 2 };
static const struct cuda_host_faults healthy = {-1, -1, 1ll << 30, 1, 0, 0, 0};
static float numbers[OUT * IN * 9];

static void set(long long fail_alloc, long long lost_at) {
    struct cuda_host_faults f = healthy;
    f.fail_alloc = fail_alloc;
    f.lost_at = lost_at;
    cuda_host_set_faults(&f);
}

/* What a request does: weights, a layout, scratch, ops of every file, pixels. */
struct life {
    struct taca_backend *b;
    struct taca_linear *linear;
    struct taca_conv *conv;
    struct taca_vec gain;
    struct taca_layout layout;
    struct taca_scratch scratch;
    bool open; /* and what was uploaded for it has arrived */
};

static enum taca_code open_all(struct life *f, struct taca_err *err) {
    const struct taca_tensor w = {"w", numbers, TACA_F32, 2, {OUT, IN}};
    const struct taca_tensor c = {"c", numbers, TACA_F32, 4, {OUT, IN, 3, 3}};
    const struct taca_tensor n = {"n", numbers, TACA_F32, 1, {OUT}};
    const struct taca_conv g = {.stride = 1};
    const struct taca_seg seg = {0, ROWS, 0, 0, 1};
    enum taca_code rc = taca_linear_open(f->b, &f->linear, &w, &n, 1, err);
    if (!rc) rc = taca_conv_open(f->b, &f->conv, &c, &n, &g, err);
    if (!rc) rc = taca_vec_open(f->b, &f->gain, &n, err);
    if (!rc) rc = taca_layout_init(&f->layout, f->b, &seg, 1, err);
    f->scratch.b = f->b;
    if (!rc) rc = taca_scratch_reserve(&f->scratch, 3 << 20, err);
    if (!rc) rc = taca_sync(f->b, err); /* an upload that found no memory skips those after it */
    f->open = rc == TACA_OK;
    return rc;
}

static enum taca_code compute(struct life *f, struct taca_err *err) {
    struct taca_backend *b = f->b;
    struct taca_scratch *s = &f->scratch;
    uint8_t pixels[2 * 2 * 3];
    const int32_t ids[ROWS] = {0};
    struct taca_mat x = taca_scratch_mat(s, TACA_F32, ROWS, IN);
    struct taca_mat y = taca_scratch_mat(s, TACA_BF16, ROWS, OUT);
    struct taca_mat o = taca_scratch_mat(s, TACA_F32, ROWS, OUT);
    struct taca_map m = taca_scratch_map(s, TACA_F32, 1, 4, 4, IN);
    struct taca_map v = taca_scratch_map(s, TACA_F32, 1, 2, 2, OUT);
    struct taca_map rgb = taca_scratch_map(s, TACA_F32, 1, 2, 2, 3);
    const struct taca_qkv qkv = {y, y, y}, none = {0};
    taca_fill_zero(b, s->base, s->used);
    taca_upload(b, x.data, numbers, sizeof(float) * ROWS * IN);
    taca_linear(b, y, x, f->linear, TACA_ACT_SILU);
    taca_attention(b, o, (struct taca_mat){0}, qkv, none, &f->layout,
                   &(struct taca_attn){.heads = HEADS, .scale = 1});
    taca_rms_norm(b, o, o, &f->gain, 1e-6f);
    taca_embed(b, o, o, ids);
    taca_conv2d(b, v, m, f->conv);
    taca_group_norm(b, v, v, &f->gain, &f->gain, 4, 1e-6f, TACA_ACT_SILU);
    void *bytes = taca_scratch_mat(s, TACA_U8, 1, (int64_t)taca_rgb8_bytes(2, 2)).data;
    taca_map_to_rgb8(b, bytes, rgb);
    taca_rgb8_read(b, pixels, bytes, 2, 2);
    s->used = 0;
    return taca_sync(b, err);
}

static void finish(struct life *f) {
    if (f->b) {
        taca_layout_finish(&f->layout);
        taca_scratch_finish(&f->scratch);
    }
    taca_backend_close(f->b);
    *f = (struct life){0};
}

static enum taca_code live(struct life *f, struct taca_err *err) {
    const struct taca_backend_opts opts = {.precision = TACA_BF16};
    enum taca_code rc = taca_backend_open(&f->b, "cuda", &opts, err);
    if (!rc) rc = open_all(f, err);
    return rc ? rc : compute(f, err);
}

static void test_a_healthy_device_leaves_nothing_behind(void) {
    struct life f = {0};
    struct taca_err err = {0};
    set(-1, -1);
    CHECK_OK(live(&f, &err), err);
    finish(&f);
    CHECK_INT(cuda_host_live_blocks(), 0);
}

/* Memory comes back: the same backend then does the same work. */
static void test_every_allocation_may_fail_once(void) {
    int at = 0;
    for (bool failed = true; failed && at < 200; at++) {
        struct life f = {0};
        struct taca_err err = {0}, again = {0};
        set(at, -1);
        enum taca_code rc = live(&f, &err);
        failed = rc != TACA_OK;
        if (failed) {
            CHECK_INT(rc, TACA_ENOMEM);
            CHECK(err.text[0] != 0);
        }
        if (failed && f.open) CHECK_OK(compute(&f, &again), again);
        finish(&f);
        CHECK_INT(cuda_host_live_blocks(), 0);
    }
    CHECK(at > 10 && at < 200);
    printf("    %d allocations failed in turn\n", at - 1);
}

/* From any call on: the error says so, stays, and closing is still possible. */
static void test_a_device_may_be_lost_at_any_call(void) {
    struct life f = {0};
    struct taca_err err = {0};
    set(-1, -1);
    CHECK_OK(live(&f, &err), err);
    const long long all = cuda_host_calls();
    finish(&f);
    for (long long at = 0; at < all; at++) {
        struct taca_err lost = {0}, still = {0};
        set(-1, at);
        if (!CHECK(live(&f, &lost) == TACA_EDEVICE))
            printf("        lost at call %lld: %s\n", at, lost.text);
        CHECK(lost.text[0] != 0);
        if (f.open) CHECK_INT(compute(&f, &still), TACA_EDEVICE);
        finish(&f);
        CHECK_INT(cuda_host_live_blocks(), 0);
    }
    printf("    lost at each of %lld calls\n", all);
}

static void test_a_request_too_large_is_refused_and_the_next_one_served(void) {
    struct cuda_host_faults f = healthy;
    struct taca_backend *b = NULL;
    struct taca_err err = {0}, none = {0};
    const struct taca_backend_opts opts = {.precision = TACA_BF16};
    f.memory = 96 << 20; /* 64 of them are cuBLASLt's, of both lanes */
    cuda_host_set_faults(&f);
    CHECK_OK(taca_backend_open(&b, "cuda:0", &opts, &err), err);
    struct taca_scratch s = {.b = b};
    CHECK_INT(taca_scratch_reserve(&s, 40 << 20, &err), TACA_ENOMEM);
    CHECK_HAS(err.text, "41943040 bytes");
    CHECK_OK(taca_scratch_reserve(&s, 8 << 20, &none), none);
    taca_scratch_finish(&s);
    taca_backend_close(b);
}

/* Whoever only asks about the device hears what opening it has said. */
static void expect_the_same(const char *device, const struct taca_err *said) {
    struct taca_err err = {0};
    CHECK_INT(taca_device_check(device, true, &err), said->code);
    CHECK_STR(err.text, said->text);
    CHECK_STR(err.param, said->param);
}

static void test_devices_are_counted_and_named(void) {
    struct cuda_host_faults f = healthy;
    struct taca_backend *b = NULL;
    const struct taca_backend_opts opts = {.precision = TACA_F32};
    struct taca_err err = {0};
    f.devices = 2;
    cuda_host_set_faults(&f);
    CHECK_INT(taca_cuda_devices(&err), 2);
    CHECK_INT(taca_backend_open(&b, "cuda:2", &opts, &err), TACA_EINVAL);
    CHECK_STR(err.param, "device");
    CHECK_HAS(err.text, "cuda:0 to cuda:1");
    expect_the_same("cuda:2", &err);
    CHECK_INT(taca_device_check("cuda:1", true, NULL), TACA_OK);
    f.devices = 0;
    cuda_host_set_faults(&f);
    err = (struct taca_err){0};
    CHECK_INT(taca_backend_open(&b, "cuda", &opts, &err), TACA_EUNSUPPORTED);
    CHECK_HAS(err.text, "no CUDA device");
    expect_the_same("cuda", &err);
    CHECK_INT(taca_device_check("cuda", false, NULL), TACA_OK); /* a name, it is */
    CHECK_INT(taca_device_check("auto", true, NULL), TACA_OK);
    err = (struct taca_err){0};
    CHECK_OK(taca_backend_open(&b, "auto", &opts, &err), err);
    CHECK_STR(taca_backend_name(b), "cpu");
    taca_backend_close(b);
    const char *const wrong[] = {"tpu", "cuda:", "cuda:-1", "cuda:1x", "cuda:99999", "cudad", ""};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        err = (struct taca_err){0};
        CHECK_INT(taca_backend_open(&b, wrong[i], &opts, &err), TACA_EINVAL);
        CHECK_STR(err.param, "device");
        expect_the_same(wrong[i], &err);
        CHECK_INT(taca_device_check(wrong[i], false, NULL), TACA_EINVAL);
    }
}

/* With that in TACA_CUDA_ATTENTION. */
static long long calls_of_an_opening(const char *attention) {
    const struct taca_backend_opts opts = {.precision = TACA_BF16};
    struct taca_backend *b = NULL;
    struct taca_err err = {0};
    set(-1, -1);
    if (attention) setenv("TACA_CUDA_ATTENTION", attention, 1);
    CHECK_OK(taca_backend_open(&b, "cuda", &opts, &err), err);
    unsetenv("TACA_CUDA_ATTENTION");
    const long long calls = cuda_host_calls();
    taca_backend_close(b);
    return calls;
}

/* Its check may lose the device, which says how to do without it, or run out of memory; every
 * third call is enough. */
static void test_the_check_of_attention_may_fail(void) {
    const struct taca_backend_opts opts = {.precision = TACA_BF16};
    struct taca_backend *b = NULL;
    struct taca_err err = {0};
    int failed = 0;
    const long long before = calls_of_an_opening("mma"), all = calls_of_an_opening(NULL);
    for (long long at = all % 3; at < all; at += 3) {
        set(-1, at);
        err = (struct taca_err){0};
        CHECK_INT(taca_backend_open(&b, "cuda", &opts, &err), TACA_EDEVICE);
        CHECK((strstr(err.text, "TACA_CUDA_ATTENTION=mma") != NULL) == (at >= before));
        CHECK_INT(cuda_host_live_blocks(), 0);
    }
    for (bool more = true; more && failed < 50; failed += more) {
        set(failed, -1);
        err = (struct taca_err){0};
        const enum taca_code rc = taca_backend_open(&b, "cuda", &opts, &err);
        more = rc != TACA_OK;
        if (more) CHECK_INT(rc, TACA_ENOMEM);
        if (!more) taca_backend_close(b);
        CHECK_INT(cuda_host_live_blocks(), 0);
    }
    CHECK(failed > 4 && failed < 50);
    printf("    %lld calls, %d allocations\n", all, failed);
}

/* Image rows of a segment of both streams, heads of 64, the same numbers each time. */
enum { ATTN_IMG = 70, ATTN_TXT = 20, ATTN_WIDTH = 128 };
static void attend(struct taca_backend *b, float *out) {
    static uint16_t q[(ATTN_IMG + ATTN_TXT) * ATTN_WIDTH];
    const struct taca_seg seg = {0, ATTN_IMG, 0, ATTN_TXT, 1.25f};
    struct taca_layout l = {0};
    struct taca_scratch s = {.b = b};
    struct taca_err err = {0};
    for (size_t i = 0; i < sizeof q / sizeof *q; i++)
        q[i] = (uint16_t)(0x3e00 + i * 37 % 256 + i % 2 * 0x8000); /* 1/8 to 1/2, both signs */
    CHECK_OK(taca_layout_init(&l, b, &seg, 1, &err), err);
    CHECK_OK(taca_scratch_reserve(&s, 1 << 20, &err), err);
    struct taca_mat img = taca_scratch_mat(&s, TACA_BF16, ATTN_IMG, ATTN_WIDTH);
    struct taca_mat txt = taca_scratch_mat(&s, TACA_BF16, ATTN_TXT, ATTN_WIDTH);
    struct taca_mat o = taca_scratch_mat(&s, TACA_F32, ATTN_IMG, ATTN_WIDTH);
    taca_upload(b, img.data, q, sizeof *q * ATTN_IMG * ATTN_WIDTH);
    taca_upload(b, txt.data, q + ATTN_IMG * ATTN_WIDTH, sizeof *q * ATTN_TXT * ATTN_WIDTH);
    taca_attention(b, o, (struct taca_mat){0}, (struct taca_qkv){img, img, img},
                   (struct taca_qkv){txt, txt, txt}, &l,
                   &(struct taca_attn){.heads = 2, .scale = 1});
    taca_download(b, out, o.data, sizeof *out * ATTN_IMG * ATTN_WIDTH);
    CHECK_OK(taca_sync(b, &err), err);
    taca_layout_finish(&l);
    taca_scratch_finish(&s);
}

/* Blackwell (10 and 12) has none of Hopper's own products: what Ampere runs, it runs; and no 8-bit
 * products with a scale for each row. */
static void test_devices_after_hopper_run_what_those_before_it_run(void) {
    static const long long majors[] = {8, 9, 10, 12};
    static float out[4][ATTN_IMG * ATTN_WIDTH];
    const struct taca_backend_opts opts = {.precision = TACA_BF16, .narrow = TACA_NARROW_FP8};
    for (int i = 0; i < 4; i++) {
        struct cuda_host_faults f = healthy;
        struct taca_backend *b = NULL;
        struct taca_err err = {0};
        f.major = majors[i];
        cuda_host_set_faults(&f);
        CHECK_OK(taca_backend_open(&b, "cuda", &opts, &err), err);
        const bool hopper = majors[i] == 9;
        CHECK_INT(taca_backend_narrow_type(b), hopper ? TACA_NARROW_FP8 : TACA_NARROW_NONE);
        CHECK((strstr(taca_backend_detail(b), "attention: wgmma") != NULL) == hopper);
        attend(b, out[i]);
        taca_backend_close(b);
        CHECK_INT(cuda_host_live_blocks(), 0);
    }
    CHECK(memcmp(out[0], out[2], sizeof out[0]) == 0 && memcmp(out[0], out[3], sizeof out[0]) == 0);
    double apart = 0; /* two kernels */
    for (size_t i = 0; i < ATTN_IMG * ATTN_WIDTH; i++)
        apart = fmax(apart, fabs((double)out[1][i] - (double)out[0][i]));
    CHECK(apart > 0 && apart < 2e-3);
}

/* No product fails later for what the library could have been asked. */
static void test_8_bits_need_every_epilogue(void) {
    const struct taca_backend_opts opts = {.precision = TACA_BF16, .narrow = TACA_NARROW_FP8};
    struct cuda_host_faults f = healthy;
    struct taca_backend *b = NULL;
    struct taca_err err = {0};
    f.bare_fp8 = 1;
    cuda_host_set_faults(&f);
    CHECK_OK(taca_backend_open(&b, "cuda", &opts, &err), err);
    CHECK_INT(taca_backend_narrow_type(b), TACA_NARROW_NONE);
    taca_backend_close(b);
}

/* The kernel that was never run on a GPU is used where it proves itself, and nowhere else. */
static void test_attention_takes_wgmma_only_where_it_is_right(void) {
    static const struct {
        long long major, wrong;
        const char *asked, *says;
    } cases[] = {{9, 0, NULL, "bf16, attention: wgmma"},
                 {9, 1, NULL, "bf16, attention: mma (wgmma: wrong)"},
                 {9, 1, "wgmma", "bf16, attention: mma (wgmma: wrong)"},
                 {9, 0, "mma", "bf16, attention: mma (wgmma: not asked for)"},
                 {8, 0, "wgmma", "host executor, bf16"},
                 {10, 0, "wgmma", "host executor, bf16"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cuda_host_faults f = healthy;
        struct life l = {0};
        struct taca_err err = {0};
        f.major = cases[i].major;
        f.wgmma_wrong = cases[i].wrong;
        cuda_host_set_faults(&f);
        if (cases[i].asked) setenv("TACA_CUDA_ATTENTION", cases[i].asked, 1);
        CHECK_OK(live(&l, &err), err);
        unsetenv("TACA_CUDA_ATTENTION");
        CHECK_HAS(taca_backend_detail(l.b), cases[i].says);
        if (f.major && f.major != 9) CHECK(!strstr(taca_backend_detail(l.b), "attention"));
        finish(&l);
        CHECK_INT(cuda_host_live_blocks(), 0);
    }
}

int main(void) {
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        numbers[i] = (float)(i % 17) / 17 - 0.5f;
    setenv("TACA_CUDA_ATTENTION", "mma", 1); /* that check has a test of its own */
    TEST(test_a_healthy_device_leaves_nothing_behind);
    TEST(test_every_allocation_may_fail_once);
    TEST(test_a_device_may_be_lost_at_any_call);
    TEST(test_a_request_too_large_is_refused_and_the_next_one_served);
    TEST(test_devices_are_counted_and_named);
    TEST(test_8_bits_need_every_epilogue);
    unsetenv("TACA_CUDA_ATTENTION");
    TEST(test_the_check_of_attention_may_fail);
    TEST(test_attention_takes_wgmma_only_where_it_is_right);
    TEST(test_devices_after_hopper_run_what_those_before_it_run);
    return TEST_END();
}
