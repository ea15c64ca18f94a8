/* nomem.h - the n-th allocation fails. Targets made by taca_nomem_test send malloc and its kin in
 * our objects to the functions below (the linker's --wrap); jansson gets there through the
 * allocator that engine/io installs, other libraries keep theirs.
 *
 * A sweep asks of every failure: a clean TACA_ENOMEM with words, no block left behind; and of the
 * success at the end that nothing failed. What the sanitizer builds find is theirs to tell. */
#ifndef TACA_TESTS_NOMEM_H
#define TACA_TESTS_NOMEM_H

#include <stdio.h>

#include "base/err.h"
#include "tests/test.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
char *__wrap_strdup(const char *s);
void __wrap_free(void *p);
char *__real_realpath(const char *path, char *to);
char *__wrap_realpath(const char *path, char *to);
ssize_t __real___getdelim(char **line, size_t *size, int end, FILE *f);
ssize_t __wrap___getdelim(char **line, size_t *size, int end, FILE *f);
ssize_t __real_getline(char **line, size_t *size, FILE *f);
ssize_t __wrap_getline(char **line, size_t *size, FILE *f);

static long nomem_countdown; /* allocations until one fails; 0 = none does */
static long nomem_blocks;    /* that live */
static bool nomem_keeps;     /* what is swept may leave blocks with a longer life: work memory */

static bool nomem_fails(void) { return nomem_countdown > 0 && --nomem_countdown == 0; }

void *__wrap_malloc(size_t size) {
    void *p = nomem_fails() ? NULL : __real_malloc(size);
    nomem_blocks += p != NULL;
    return p;
}
void *__wrap_calloc(size_t n, size_t size) {
    void *p = nomem_fails() ? NULL : __real_calloc(n, size);
    nomem_blocks += p != NULL;
    return p;
}
void *__wrap_realloc(void *old, size_t size) {
    void *p = nomem_fails() ? NULL : __real_realloc(old, size);
    nomem_blocks += p && !old;
    return p;
}
void *__wrap_aligned_alloc(size_t align, size_t size) {
    void *p = nomem_fails() ? NULL : __real_aligned_alloc(align, size);
    nomem_blocks += p != NULL;
    return p;
}
char *__wrap_strdup(const char *s) {
    size_t size = strlen(s) + 1;
    char *p = __wrap_malloc(size);
    return p ? memcpy(p, s, size) : NULL;
}
void __wrap_free(void *p) {
    nomem_blocks -= p != NULL;
    __real_free(p);
}

/* libc allocates, and we free. */
char *__wrap_realpath(const char *path, char *to) {
    char *p = __real_realpath(path, to);
    nomem_blocks += p && !to;
    return p;
}
/* Its buffer is libc's to allocate and ours to free. Optimised builds call the first. */
ssize_t __wrap___getdelim(char **line, size_t *size, int end, FILE *f) {
    const bool had = *line != NULL;
    const ssize_t n = __real___getdelim(line, size, end, f);
    nomem_blocks += !had && *line;
    return n;
}
ssize_t __wrap_getline(char **line, size_t *size, FILE *f) {
    const bool had = *line != NULL;
    const ssize_t n = __real_getline(line, size, f);
    nomem_blocks += !had && *line;
    return n;
}

/* Fails allocation 1, 1 + stride, ... of fn, which opens and closes, until it gets through without
 * one failing. */
__attribute__((unused)) static void
nomem_sweep(const char *what, enum taca_code (*fn)(void *ctx, struct taca_err *err), void *ctx,
            long stride) {
    const long before = nomem_blocks;
    enum taca_code rc = TACA_ENOMEM;
    long n = 1, failed = 0;
    for (; rc == TACA_ENOMEM && n < 1000000; n += stride) {
        struct taca_err err = {0};
        nomem_countdown = n;
        rc = fn(ctx, &err);
        const bool none_failed = nomem_countdown > 0;
        nomem_countdown = 0;
        failed += rc == TACA_ENOMEM;
        const bool expected =
            rc == TACA_ENOMEM ? err.text[0] && !none_failed : rc == TACA_OK && none_failed;
        if (CHECK(expected && (nomem_keeps || nomem_blocks == before))) continue;
        printf("    %s, allocation %ld: %s: %s, %ld blocks left\n", what, n, taca_code_text(rc),
               err.text, nomem_blocks - before);
        return;
    }
    printf("    %-22s survived %ld failures, the last of %ld\n", what, failed, n - stride);
    CHECK(failed > 1);
}

#endif
