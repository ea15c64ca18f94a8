/* tmp.h - a folder of its own for a test's files, removed at the end; safetensors bytes by hand. */
#ifndef TACA_TESTS_IO_TMP_H
#define TACA_TESTS_IO_TMP_H

#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char tmp_root[256];

__attribute__((unused)) static void tmp_begin(void) {
    const char *base = getenv("TMPDIR");
    snprintf(tmp_root, sizeof tmp_root, "%s/taca-io-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(tmp_root)) perror(tmp_root), exit(1);
}

static int tmp_remove(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}
__attribute__((unused)) static void tmp_end(void) {
    nftw(tmp_root, tmp_remove, 16, FTW_DEPTH | FTW_PHYS);
}

/* "<root>/<name>"; valid until the eighth call after this one. */
__attribute__((unused)) static const char *tmp_path(const char *name) {
    static char ring[8][512];
    static int at;
    char *p = ring[at++ % 8];
    snprintf(p, sizeof ring[0], "%s/%s", tmp_root, name);
    return p;
}

/* Creates the folders on the way. Returns the path. */
__attribute__((unused)) static const char *tmp_write(const char *name, const void *data,
                                                     size_t size) {
    const char *path = tmp_path(name);
    char dir[512];
    snprintf(dir, sizeof dir, "%s", path);
    for (char *s = dir + strlen(tmp_root) + 1; (s = strchr(s, '/')); *s++ = '/') {
        *s = 0;
        mkdir(dir, 0700);
    }
    FILE *f = fopen(path, "wb");
    if (!f || (size && fwrite(data, 1, size, f) != size) || fclose(f) != 0) perror(path), exit(1);
    return path;
}
__attribute__((unused)) static const char *tmp_text(const char *name, const char *text) {
    return tmp_write(name, text, strlen(text));
}

/* A safetensors file with this length prefix, header and that many data bytes (1, 2, 3, ...). */
__attribute__((unused)) static const char *tmp_prefixed(const char *name, uint64_t prefix,
                                                        const char *header, size_t n_data) {
    size_t len = strlen(header);
    unsigned char *p = malloc(8 + len + n_data);
    if (!p) exit(1);
    for (int i = 0; i < 8; i++) p[i] = (unsigned char)(prefix >> 8 * i);
    memcpy(p + 8, header, len);
    for (size_t i = 0; i < n_data; i++) p[8 + len + i] = (unsigned char)(i + 1);
    const char *path = tmp_write(name, p, 8 + len + n_data);
    free(p);
    return path;
}
__attribute__((unused)) static const char *tmp_tensors(const char *name, const char *header,
                                                       size_t n_data) {
    return tmp_prefixed(name, strlen(header), header, n_data);
}

#endif
