/* test_lora_golden.c - adapters against reference outputs: namings, alphas, biases, norms and two
 * at once on both families; faulty files refused or named; a pipeline whose adapter follows the
 * window.
 */
#include "engine/verify/verify.h"
#include "tests/test.h"

struct seen {
    int ok;
    double worst;
};

static void on_result(void *ctx, const struct verify_result *r) {
    struct seen *s = ctx;
    if (!CHECK(r->ok)) printf("        %s %s: %g\n", r->case_name, r->output, r->max_abs);
    s->ok += r->ok;
    if (r->tol == 1e-4) s->worst = fmax(s->worst, r->max_abs);
}
static void on_text(void *ctx, const char *name, const char *why) {
    (void)ctx;
    printf("        %s: %s\n", name, why);
    CHECK_STR(why, "");
}

static void test_adapters_give_what_the_reference_gives(void) {
    struct seen seen = {0};
    struct taca_err err = {0};
    struct verify_counts counts = {0};
    const struct verify_opts opts = {.dtype = TACA_F32, .threads = 2};
    const struct verify_sink sink = {&seen, on_result, on_text, on_text};
    CHECK_OK(verify_path(&opts, &sink, TACA_GOLDEN_DIR "/lora", &counts, &err), err);
    CHECK_INT(counts.cases, 3);
    CHECK_INT(counts.failed, 0);
    CHECK_INT(counts.skipped, 0);
    CHECK_INT(seen.ok, 53);
    printf("    %d outputs, worst difference of one pass %.3g\n", seen.ok, seen.worst);
    CHECK(seen.worst < 3e-5); /* float32's noise: leaving out any one part is 16 times that */
}

int main(void) {
    TEST(test_adapters_give_what_the_reference_gives);
    return TEST_END();
}
