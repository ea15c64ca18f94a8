/* lt.cuh - cuBLASLt, loaded at run time: the functions we call, as a table. */
#pragma once
#include <cublasLt.h>

#define LT_FUNCTIONS(X)                                                                            \
    X(Create)                                                                                      \
    X(Destroy)                                                                                     \
    X(MatmulDescCreate)                                                                            \
    X(MatmulDescDestroy)                                                                           \
    X(MatmulDescSetAttribute)                                                                      \
    X(MatrixLayoutCreate)                                                                          \
    X(MatrixLayoutDestroy)                                                                         \
    X(MatmulPreferenceCreate)                                                                      \
    X(MatmulPreferenceDestroy)                                                                     \
    X(MatmulPreferenceSetAttribute)                                                                \
    X(MatmulAlgoGetHeuristic)                                                                      \
    X(Matmul)

struct lt_api {
#define X(name) decltype(&cublasLt##name) name;
    LT_FUNCTIONS(X)
#undef X
};

/* True when all of them were found; else *missing says what was not: a library or a function. The
 * library stays loaded. */
bool lt_load(struct lt_api *api, const char **missing);
