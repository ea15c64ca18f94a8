/* lt.cu - finding cuBLASLt: the loader's own places, then those of CUDA's installations. */
#include <dlfcn.h>

#include <cstdio>

#include "kernels/cuda/lt.cuh"

#define TEXT_OF(x) #x
#define TEXT(x)    TEXT_OF(x)
#define LIBRARY    "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

bool lt_load(struct lt_api *api, const char **missing) {
    static const char *const places[] = {LIBRARY, "/usr/local/cuda/lib64/" LIBRARY};
    void *lib = NULL;
    for (size_t i = 0; !lib && i < sizeof places / sizeof *places; i++)
        lib = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
    *missing = LIBRARY;
    if (!lib) return false;
#define X(name)                                                                                    \
    *missing = "cublasLt" #name;                                                                   \
    *(void **)&api->name = dlsym(lib, *missing);                                                   \
    if (!api->name) return false;
    LT_FUNCTIONS(X)
#undef X
    return true;
}
