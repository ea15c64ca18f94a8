/* fuzz_lora.c - any bytes as an adapter file: reading ends in an error with words, or every change
 * it gives fits its module and all its values are finite. For libFuzzer (ninja fuzz_lora with
 * clang) and for test_lora.c, which breaks good files on its own. */
#include <math.h>
#include <sys/mman.h>

#include "tests/fuzz/fuzz.h"
#include "tests/io/lora_file.h"

static int finite_all(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return 0;
    return 1;
}

static void walk(const struct taca_lora_file *f, const struct taca_lora_model *m) {
    demand(f->n_deltas > 0 && f->n_deltas <= m->n_modules, "at most one change per module", "");
    for (int i = 0; i < f->n_deltas; i++) {
        const struct taca_lora_delta *d = &f->deltas[i];
        demand(d->module >= 0 && d->module < m->n_modules && d->rank > 0, "a module", f->naming);
        const struct taca_lora_module *at = &m->modules[d->module];
        demand(finite_all(d->down, d->rank * d->in), "finite A", at->name);
        demand(finite_all(d->up, d->rank * at->out), "finite B", at->name);
        demand(!d->bias || finite_all(d->bias, at->out), "finite bias", at->name);
        demand(isfinite(d->scale), "a finite scale", at->name);
    }
    for (int i = 0; i < f->n_gains; i++) {
        const struct taca_lora_module *at = &m->modules[f->gains[i].module];
        demand(at->in == 0 && finite_all(f->gains[i].gain, at->out), "a gain", at->name);
    }
}

static void words(void *ctx, const char *text) {
    (void)ctx;
    demand(text[0] != 0, "a warning has words", text);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    const struct taca_lora_warn warn = {words, NULL};
    char path[40];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size)) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (int i = 0; i < 2; i++) {
        const struct taca_lora_model *m = i ? &sd3 : &flux;
        struct taca_lora_file f = {0};
        struct taca_err err = {0};
        enum taca_code rc = taca_lora_read(&f, path, m, &warn, &err);
        demand(rc == TACA_OK || (err.code == rc && err.text[0]), "an error has words", err.text);
        if (rc == TACA_OK) walk(&f, m);
        taca_lora_file_finish(&f);
    }
    close(fd);
    return 0;
}
