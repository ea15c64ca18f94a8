/* open.c - a backend by its device's name; loads the module that drives it when there is one. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/module.h"

#define MODULE_FILE "libtaca_cuda.so"

static const struct taca_module_host services = {taca_fail, taca_backend_fail, taca_backend_finish,
                                                 taca_to_f32};

/* The folder of the running program, without a slash at its end; "" when it cannot be known. */
static void program_folder(char *dir, size_t size) {
    ssize_t n = readlink("/proc/self/exe", dir, size - 1);
    dir[n > 0 ? n : 0] = 0;
    char *slash = strrchr(dir, '/');
    if (slash) *slash = 0;
}

/* TACA_CUDA_MODULE alone when it is set, else beside the program, then where packages put it. The
 * handle is never closed: a driver keeps threads in it. */
static void *load(struct taca_err *err) {
    char dir[PATH_MAX], path[PATH_MAX + 64];
    const char *given = getenv("TACA_CUDA_MODULE");
    if (given && given[0]) {
        void *handle = dlopen(given, RTLD_NOW | RTLD_LOCAL);
        if (!handle) (void)taca_fail(err, TACA_EUNSUPPORTED, "TACA_CUDA_MODULE: %s", dlerror());
        return handle;
    }
    static const char *const places[] = {"", "/kernels/cuda", "/../lib/taca"};
    program_folder(dir, sizeof dir);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s%s/%s", dir, places[i], MODULE_FILE);
        if (access(path, F_OK) != 0) continue;
        void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!handle) (void)taca_fail(err, TACA_EUNSUPPORTED, "%s", dlerror());
        return handle;
    }
    (void)taca_fail(err, TACA_ENOTFOUND, "this build has no %s", MODULE_FILE);
    return NULL;
}

static const struct taca_module *find_module(struct taca_err *err) {
    void *handle = load(err);
    if (!handle) return NULL;
    taca_module_fn *get;
    *(void **)&get = dlsym(handle, TACA_MODULE_SYMBOL);
    const struct taca_module *m = get ? get() : NULL;
    if (m && m->version == TACA_MODULE_VERSION && m->ops_bytes == sizeof(struct taca_backend_ops) &&
        m->backend_bytes == sizeof(struct taca_backend))
        return m;
    (void)taca_fail(err, TACA_EUNSUPPORTED, "%s belongs to another version of this program",
                    MODULE_FILE);
    return NULL;
}

int taca_cuda_devices(struct taca_err *err) {
    const struct taca_module *m = find_module(err);
    return m ? m->devices(&services, err) : 0;
}

/* ---- names ----------------------------------------------------------------------------------- */

enum { ON_CPU = -1, ON_BEST = -2 }; /* beside the numbers of CUDA devices */

/* "cuda" is device 0, "cuda:3" is device 3. */
static bool cuda_number(const char *device, int *number) {
    char *end;
    if (strncmp(device, "cuda", 4) != 0) return false;
    *number = 0;
    if (device[4] == 0) return true;
    if (device[4] != ':' || device[5] < '0' || device[5] > '9') return false;
    long n = strtol(device + 5, &end, 10);
    if (*end || n > 1023) return false;
    *number = (int)n;
    return true;
}

static enum taca_code read_name(int *out, const char *device, struct taca_err *err) {
    if (!device || strcmp(device, "cpu") == 0)
        *out = ON_CPU;
    else if (strcmp(device, "auto") == 0)
        *out = ON_BEST;
    else if (!cuda_number(device, out))
        return taca_fail_param(err, "device", "\"%s\" is none of auto, cpu, cuda, cuda:N", device);
    return TACA_OK;
}

/* The module that opens CUDA device `number`. */
static enum taca_code find_cuda(const struct taca_module **out, int number, struct taca_err *err) {
    struct taca_err why = {0};
    const struct taca_module *m = find_module(&why);
    int n = m ? m->devices(&services, &why) : 0;
    if (n <= 0) return taca_fail(err, why.code, "%s", why.text);
    if (number >= n)
        return taca_fail_param(err, "device", "cuda:%d, this machine has %d (cuda:0 to cuda:%d)",
                               number, n, n - 1);
    *out = m;
    return TACA_OK;
}

enum taca_code taca_device_check(const char *device, bool there, struct taca_err *err) {
    const struct taca_module *m;
    int on;
    enum taca_code rc = read_name(&on, device, err);
    return !rc && there && on >= 0 ? find_cuda(&m, on, err) : rc;
}

enum taca_code taca_backend_open(struct taca_backend **out, const char *device,
                                 const struct taca_backend_opts *opts, struct taca_err *err) {
    const struct taca_module *m;
    int on;
    enum taca_code rc = read_name(&on, device, err);
    if (!rc && on == ON_BEST) on = taca_cuda_devices(NULL) > 0 ? 0 : ON_CPU;
    if (!rc && on == ON_CPU) return taca_cpu_open(out, opts, err);
    if (!rc) rc = find_cuda(&m, on, err);
    return rc ? rc : m->open(out, on, opts, &services, err);
}
