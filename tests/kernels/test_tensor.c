/* test_tensor.c - every 16-bit float there is, against its definition; narrowing against the
 * nearest neighbours. */
#include "kernels/tensor.h"
#include "tests/test.h"

enum { ALL = 1 << 16 };

/* The value of a 16-bit float with `mant` mantissa bits. */
static double value(unsigned h, int mant, int bias) {
    const int max = (0x7FFF >> mant), exp = (int)(h >> mant) & max;
    const double m = (double)(h & ((1u << mant) - 1)), sign = h & 0x8000 ? -1 : 1;
    if (exp == max) return m != 0 ? nan("") : sign * HUGE_VAL;
    return sign * (exp ? ldexp(m + ldexp(1, mant), exp - bias - mant) : ldexp(m, 1 - bias - mant));
}

static void all_of(enum taca_dtype t, int mant, int bias) {
    static unsigned char file[2 * ALL + 1]; /* unaligned, as in a file */
    static float got[ALL];
    for (unsigned h = 0; h < ALL; h++) {
        uint16_t v = (uint16_t)h;
        memcpy(file + 1 + 2 * h, &v, 2);
    }
    taca_to_f32(got, file + 1, t, ALL);
    int wrong = 0;
    for (unsigned h = 0; h < ALL; h++) {
        const double want = value(h, mant, bias), d = (double)got[h];
        const bool same = isnan(want) ? isnan(d) : d == want && !signbit(d) == !signbit(want);
        if (!same && wrong++ < 5) printf("        %04x: %.9g, wanted %.9g\n", h, d, want);
    }
    CHECK_INT(wrong, 0);
}

static void test_every_f16_widens_exactly(void) { all_of(TACA_F16, 10, 15); }
static void test_every_bf16_widens_exactly(void) { all_of(TACA_BF16, 7, 127); }

static void test_narrowing_keeps_what_bf16_can_hold(void) {
    for (unsigned h = 0; h < ALL; h++) {
        const float f = taca_bf16_to_f32((uint16_t)h);
        if (isnan(f))
            CHECK(isnan(taca_bf16_to_f32(taca_f32_to_bf16(f))));
        else if (taca_f32_to_bf16(f) != h)
            CHECK_INT(taca_f32_to_bf16(f), h);
    }
}

/* Between neighbours the nearer wins, and of two equally near the even one. */
static void test_narrowing_rounds_to_nearest_even(void) {
    for (unsigned h = 0; h + 1 < 0x7F80; h += 37) {
        uint32_t bits = h << 16;
        float below, tie, above;
        bits |= 0x7FFF, memcpy(&below, &bits, 4);
        bits += 1, memcpy(&tie, &bits, 4);
        bits += 1, memcpy(&above, &bits, 4);
        CHECK_INT(taca_f32_to_bf16(below), h);
        CHECK_INT(taca_f32_to_bf16(tie), h + (h & 1));
        CHECK_INT(taca_f32_to_bf16(above), h + 1);
        CHECK_INT(taca_f32_to_bf16(-above), (h + 1) | 0x8000);
    }
    CHECK_INT(taca_f32_to_bf16(3.4e38f), 0x7F80); /* beyond the largest: infinite */
}

int main(void) {
    TEST(test_every_f16_widens_exactly);
    TEST(test_every_bf16_widens_exactly);
    TEST(test_narrowing_keeps_what_bf16_can_hold);
    TEST(test_narrowing_rounds_to_nearest_even);
    return TEST_END();
}
