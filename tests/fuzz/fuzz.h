/* fuzz.h - what fuzz targets share: a demand that ends the process, bytes as a file. */
#ifndef TACA_TESTS_FUZZ_FUZZ_H
#define TACA_TESTS_FUZZ_FUZZ_H

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

__attribute__((unused)) static void demand(bool ok, const char *what, const char *text) {
    if (ok) return;
    fprintf(stderr, "fuzz: not so: %s (%s)\n", what, text);
    abort();
}

__attribute__((unused)) static void fuzz_write(const char *path, const void *data, size_t size) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size)) abort();
    close(fd);
}

#endif
