/* verify.c - `taca verify`: this build against reference tensors, one line per output. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "engine/verify/verify.h"

enum { LONGEST_LINE = 1 << 16 };

struct printer {
    bool json;
};

static void format_shape(char *out, size_t size, const struct verify_result *r, const char *comma) {
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; i < r->rank && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%lld", i ? comma : "", (long long)r->dim[i]);
}

static void put_field(struct taca_buf *b, const char *key, const char *value) {
    taca_buf_printf(b, "\"%s\": ", key);
    taca_buf_json(b, value, strlen(value));
}

/* JSON has no infinity: null is a difference that is not a number. */
static void put_number(struct taca_buf *b, const char *key, double value) {
    if (isfinite(value))
        taca_buf_printf(b, ", \"%s\": %.6g", key, value);
    else
        taca_buf_printf(b, ", \"%s\": null", key);
}

static void put_line(struct taca_buf *b) {
    if (!b->failed) puts(b->data);
    fflush(stdout);
    taca_buf_finish(b);
}

static void on_result(void *ctx, const struct verify_result *r) {
    const struct printer *p = ctx;
    char shape[96];
    if (!p->json) {
        format_shape(shape, sizeof shape, r, "x");
        printf("%-22s %-26s %-18s rel_l2 %.2e  max_abs %.2e  (tol %.1e)  %s\n", r->case_name,
               r->output, shape, r->rel_l2, r->max_abs, r->tol, r->ok ? "ok" : "FAIL");
        return;
    }
    struct taca_buf b;
    taca_buf_init(&b, LONGEST_LINE);
    format_shape(shape, sizeof shape, r, ", ");
    taca_buf_puts(&b, "{");
    put_field(&b, "case", r->case_name);
    taca_buf_puts(&b, ", ");
    put_field(&b, "output", r->output);
    taca_buf_printf(&b, ", \"shape\": [%s]", shape);
    put_number(&b, "rel_l2", r->rel_l2);
    put_number(&b, "max_abs", r->max_abs);
    put_number(&b, "tol", r->tol);
    taca_buf_printf(&b, ", \"ok\": %s}", r->ok ? "true" : "false");
    put_line(&b);
}

static void print_note(const struct printer *p, const char *case_name, const char *what,
                       const char *why) {
    if (!p->json) {
        printf("case %s %s: %s\n", case_name, what, why);
        return;
    }
    struct taca_buf b;
    taca_buf_init(&b, LONGEST_LINE);
    taca_buf_puts(&b, "{");
    put_field(&b, "case", case_name);
    taca_buf_puts(&b, ", ");
    put_field(&b, what, why);
    taca_buf_puts(&b, strcmp(what, "skipped") == 0 ? "}" : ", \"ok\": false}");
    put_line(&b);
}

static void on_skipped(void *ctx, const char *case_name, const char *why) {
    print_note(ctx, case_name, "skipped", why);
}

static void on_failed(void *ctx, const char *case_name, const char *why) {
    print_note(ctx, case_name, "FAIL", why);
}

struct options {
    struct verify_opts verify;
    struct flag_list weights;
    int layout, dtype;
    bool json;
};

static enum flags_result parse(struct options *o, struct flag_set *set, int argc, char **argv) {
    const struct flag flags[] = {
        {"weights", 0, FLAG_LIST, &o->weights, .arg = "DIR",
         .help = "a further folder with model sets; may be repeated"},
        {"layout", 0, FLAG_CHOICE, &o->layout, .choices = "any|diffusers|orig|bfl", .arg = "L",
         .help = "which of a set's weight files is read; any: the first of these"},
        {"dtype", 0, FLAG_CHOICE, &o->dtype, .choices = "f32|bf16|int8|fp8", .arg = "T",
         .help = "of matrix products"},
        {"backend", 0, FLAG_STRING, &o->verify.device, .env = "TACA_DEVICE", .arg = "B",
         .help = "what computes: cpu, cuda or cuda:N"},
        {"tol", 0, FLAG_NUMBER, &o->verify.tol, 1e-12, 1e6, .arg = "X",
         .help = "largest absolute difference, times the standard deviation of outputs above 1; "
                 "not given: 2e-4 for f32, less where the references are known better"},
        {"threads", 0, FLAG_INT, &o->verify.threads, 0, 1024, .env = "TACA_THREADS", .arg = "N",
         .help = "CPU threads, 0 = all"},
        {"json", 0, FLAG_SWITCH, &o->json, .help = "one JSON object a line"},
    };
    set->flags = flags;
    set->n_flags = FLAGS_COUNT(flags);
    return flags_parse(set, argc, argv);
}

static int run(struct options *o, const struct flag_set *set) {
    struct printer printer = {o->json};
    struct verify_sink sink = {&printer, on_result, on_skipped, on_failed};
    struct verify_counts counts = {0};
    bool broken = false;
    for (int i = 0; i < set->n_args; i++) {
        struct taca_err err = {0};
        if (verify_path(&o->verify, &sink, set->args[i], &counts, &err) != TACA_OK) {
            cli_fail("verify", &err);
            broken = true;
        }
    }
    if (!o->json)
        printf("%d cases, %d outputs compared, %d failed, %d skipped\n", counts.cases,
               counts.outputs, counts.failed, counts.skipped);
    return broken || counts.failed ? EXIT_FAILED : EXIT_OK;
}

int cli_verify(int argc, char **argv) {
    struct options o = {0};
    struct flag_set set = {
        .usage = "verify CASE... [options]",
        .about = "Compares this build with reference tensors. A CASE is a path without suffix or a "
                 "folder:\na model set, a TACA set, an entry of a *pipelines.json or of "
                 "text_cases.json.\nExit code 1 when anything differs.",
        .min_args = 1,
        .max_args = 32,
    };
    switch (parse(&o, &set, argc, argv)) {
    case FLAGS_HELP: return EXIT_OK;
    case FLAGS_BAD: return EXIT_USAGE;
    case FLAGS_OK: break;
    }
    static const char *const layouts[] = {NULL, "diffusers", "orig", "bfl"};
    o.verify.layout = layouts[o.layout];
    o.verify.dtype = o.dtype == 0 ? TACA_F32 : TACA_BF16;
    o.verify.narrow = o.dtype == 2   ? TACA_NARROW_INT8
                      : o.dtype == 3 ? TACA_NARROW_FP8
                                     : TACA_NARROW_NONE;
    for (int i = 0; i < o.weights.n; i++) {
        struct stat st;
        o.verify.weights[o.verify.n_weights++] = o.weights.item[i];
        if (stat(o.weights.item[i], &st) == 0 && S_ISDIR(st.st_mode)) continue;
        fprintf(stderr, "taca verify: --weights %s: no such folder\n", o.weights.item[i]);
        return EXIT_FAILED;
    }
    struct taca_err err = {0};
    if (verify_ready(&o.verify, &err) == TACA_OK) return run(&o, &set);
    cli_fail("verify", &err);
    return err.code == TACA_EINVAL ? EXIT_USAGE : EXIT_FAILED;
}
