/* test.h - the test harness: checks that print both sides, tests named as sentences.
 *
 *     static void test_bad_steps_name_the_limit(void) { CHECK(...); CHECK_INT(a, b); }
 *     int main(int argc, char **argv) { TEST(test_bad_steps_name_the_limit); return TEST_END(); }
 *
 * A failed check is counted and the test goes on; TEST_END gives 1 when any failed. A test may call
 * SKIP("why") and return: the program then exits 77 if nothing failed and nothing else ran. argv is
 * not needed: TEST_ONLY=<substring> in the environment selects. */
#ifndef TACA_TESTS_TEST_H
#define TACA_TESTS_TEST_H

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int test_failures, test_checks, test_run, test_skipped;
static bool test_skip_now;

__attribute__((unused)) static bool test_check(bool ok, const char *file, int line,
                                               const char *text) {
    test_checks++;
    if (!ok) {
        test_failures++;
        printf("    %s:%d: FAILED %s\n", file, line, text);
    }
    return ok;
}
#define CHECK(cond) test_check((cond), __FILE__, __LINE__, #cond)

#define CHECK_INT(a, b)                                                                            \
    do {                                                                                           \
        intmax_t va_ = (intmax_t)(a), vb_ = (intmax_t)(b);                                         \
        if (!test_check(va_ == vb_, __FILE__, __LINE__, #a " == " #b))                             \
            printf("        %jd != %jd\n", va_, vb_);                                              \
    } while (0)
#define CHECK_STR(a, b)                                                                            \
    do {                                                                                           \
        const char *va_ = (a), *vb_ = (b);                                                         \
        if (!test_check(va_ && vb_ && strcmp(va_, vb_) == 0, __FILE__, __LINE__, #a " == " #b))    \
            printf("        \"%s\" != \"%s\"\n", va_ ? va_ : "(null)", vb_ ? vb_ : "(null)");      \
    } while (0)
/* b is found inside a */
#define CHECK_HAS(a, b)                                                                            \
    do {                                                                                           \
        const char *va_ = (a), *vb_ = (b);                                                         \
        if (!test_check(va_ && strstr(va_, vb_) != NULL, __FILE__, __LINE__, #a " has " #b))       \
            printf("        \"%s\" lacks \"%s\"\n", va_ ? va_ : "(null)", vb_);                    \
    } while (0)
#define CHECK_NEAR(a, b, tol)                                                                      \
    do {                                                                                           \
        double va_ = (double)(a), vb_ = (double)(b);                                               \
        if (!test_check(fabs(va_ - vb_) <= (tol), __FILE__, __LINE__, #a " near " #b))             \
            printf("        %.9g, %.9g: differ by %.3g > %.3g\n", va_, vb_, fabs(va_ - vb_),       \
                   (double)(tol));                                                                 \
    } while (0)
/* the rc of a call with err: prints the error's text on failure */
#define CHECK_OK(call, err)                                                                        \
    do {                                                                                           \
        if (!test_check((call) == TACA_OK, __FILE__, __LINE__, #call))                             \
            printf("        %s\n", (err).text);                                                    \
    } while (0)

/* Compares n floats: prints the worst place and the first pairs on failure, NaN never passes. */
__attribute__((unused)) static void test_floats(const char *what, const float *got,
                                                const float *want, size_t n, double tol,
                                                const char *file, int line) {
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= worst)) worst = d, at = i; /* NaN lands here */
        if (isnan(d)) break;
    }
    printf("    %-40s %8zu values, max abs %.3g (tol %.3g)\n", what, n, worst, tol);
    if (test_check(worst <= tol, file, line, what)) return;
    printf("        worst at %zu: got %.9g want %.9g\n", at, (double)got[at], (double)want[at]);
    for (size_t i = 0; i < n && i < 8; i++)
        printf("        [%zu] got %.9g want %.9g\n", i, (double)got[i], (double)want[i]);
}
#define CHECK_FLOATS(what, got, want, n, tol)                                                      \
    test_floats((what), (got), (want), (n), (tol), __FILE__, __LINE__)

#define SKIP(why) (printf("    skipped: %s\n", (why)), test_skip_now = true)

#define TEST(fn)                                                                                   \
    do {                                                                                           \
        const char *only_ = getenv("TEST_ONLY");                                                   \
        if (only_ && !strstr(#fn, only_)) break;                                                   \
        int before_ = test_failures;                                                               \
        test_skip_now = false;                                                                     \
        printf("  %s\n", #fn);                                                                     \
        fn();                                                                                      \
        test_run += !test_skip_now;                                                                \
        test_skipped += test_skip_now;                                                             \
        if (test_failures != before_) printf("  ^ FAILED %s\n", #fn);                              \
    } while (0)

#define TEST_END()                                                                                 \
    (printf("%d tests, %d checks, %d failed, %d skipped\n", test_run, test_checks, test_failures,  \
            test_skipped),                                                                         \
     test_failures                   ? 1                                                           \
     : test_run == 0 && test_skipped ? 77                                                          \
                                     : 0)

#endif
