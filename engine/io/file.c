/* file.c - mapped files, and what a wrong file looks like. See io.h. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/io/io.h"

static enum taca_code fail_errno(struct taca_err *err, const char *path) {
    enum taca_code code = errno == ENOENT || errno == ENOTDIR ? TACA_ENOTFOUND : TACA_EIO;
    return taca_fail(err, code, "%s: %s", path, strerror(errno));
}

enum taca_code io_map_open(struct io_map *out, const char *path, struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    struct stat st;

    /* O_NONBLOCK: opening a pipe by mistake must not wait for its writer */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0) {
        rc = fail_errno(err, path);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        const char *what = S_ISDIR(st.st_mode) ? "a directory" : "not a regular file";
        rc = taca_fail(err, TACA_EFORMAT, "%s: %s where a file was wanted", path, what);
        goto out;
    }
    struct io_map m = {.size = (size_t)st.st_size};
    if (m.size > 0) {
        void *p = mmap(NULL, m.size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            rc = taca_fail(err, errno == ENOMEM ? TACA_ENOMEM : TACA_EIO,
                           "%s: mapping %zu bytes: %s", path, m.size, strerror(errno));
            goto out;
        }
        m.data = p;
    }
    *out = m;
out:
    if (fd >= 0) close(fd); /* the mapping keeps the file */
    return rc;
}

void io_map_close(struct io_map *m) {
    if (m->data) munmap((void *)m->data, m->size);
    *m = (struct io_map){0};
}

void io_map_let_go(const void *data, size_t bytes) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)data;
    const uintptr_t first = (at + page - 1) / page * page, end = (at + bytes) / page * page;
    if (first < end) madvise((char *)(uintptr_t)data + (first - at), end - first, MADV_DONTNEED);
}

static bool starts(const unsigned char *data, size_t size, const char *magic, size_t len) {
    return size >= len && memcmp(data, magic, len) == 0;
}

static bool looks_like_html(const unsigned char *data, size_t size) {
    size_t i = 0;
    if (starts(data, size, "\xEF\xBB\xBF", 3)) i = 3;
    while (i < size && isspace(data[i])) i++;
    static const char *const tags[] = {"<!doctype", "<html", "<head", "<?xml", "<!--"};
    for (size_t k = 0; k < sizeof tags / sizeof *tags; k++) {
        size_t len = strlen(tags[k]);
        if (size - i >= len && strncasecmp((const char *)data + i, tags[k], len) == 0) return true;
    }
    return false;
}

const char *io_looks_like(const unsigned char *data, size_t size) {
    static const char lfs[] = "version https://git-lfs";
    static const struct {
        const char *magic;
        size_t len;
        const char *what;
    } known[] = {
        {lfs, sizeof lfs - 1, "a Git LFS pointer, not the weights (git lfs pull fetches them)"},
        {"PK\x03\x04", 4, "a zip archive, probably PyTorch's pickle (.pt, .ckpt): not supported"},
        {"\x80\x02", 2, "a Python pickle (.pt, .ckpt, .bin): not supported"},
        {"\x80\x03", 2, "a Python pickle (.pt, .ckpt, .bin): not supported"},
        {"\x80\x04", 2, "a Python pickle (.pt, .ckpt, .bin): not supported"},
        {"GGUF", 4, "a GGUF file"},
        {"\x1F\x8B", 2, "a gzip archive, unpack it first"},
        {"\x89HDF", 4, "an HDF5 file: not supported"},
        {"{", 1, "a JSON text"},
    };
    if (size == 0) return "an empty file";
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
        if (starts(data, size, known[k].magic, known[k].len)) return known[k].what;
    if (looks_like_html(data, size)) return "an HTML page, so its download went wrong";
    return NULL;
}

char *io_join(const char *dir, const char *name) {
    size_t a = strlen(dir), b = strlen(name), n;
    while (a > 1 && dir[a - 1] == '/') a--;
    if (!taca_add_size(&n, a, b) || !taca_add_size(&n, n, 2)) return NULL;
    char *p = malloc(n);
    if (!p) return NULL;
    memcpy(p, dir, a);
    p[a] = '/';
    memcpy(p + a + 1, name, b + 1);
    return p;
}

bool io_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool io_is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

const char *io_clean(char *buf, size_t size, const char *s) {
    const unsigned char *p = (const unsigned char *)s;
    size_t n = 0;
    for (; n < size - 1 && p[n]; n++) {
        bool c1 = p[n] == 0xC2 && (p[n + 1] & 0xE0) == 0x80; /* U+0080..U+009F */
        buf[n] = s[n];
        if (c1 || iscntrl(p[n])) buf[n] = '?';
    }
    if (p[n]) memcpy(buf + n - 3, "...", 3);
    buf[n] = 0;
    return buf;
}

const char *io_shape(char buf[IO_SHAPE], int rank, const int64_t *dim) {
    size_t n = 0;
    buf[n++] = '[';
    for (int i = 0; i < rank && n < IO_SHAPE - 32; i++) {
        if (i) buf[n++] = ',', buf[n++] = ' ';
        int k = dim[i] < 0 ? snprintf(buf + n, IO_SHAPE - n, "any")
                           : snprintf(buf + n, IO_SHAPE - n, "%lld", (long long)dim[i]);
        n += (size_t)k;
    }
    buf[n++] = ']';
    buf[n] = 0;
    return buf;
}
