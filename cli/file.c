/* file.c - see file.h. */
#include "cli/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum taca_code file_read(struct taca_buf *out, const char *path, struct taca_err *err) {
    char part[64 << 10];
    size_t n;
    FILE *f = fopen(path, "rb");
    if (!f) return taca_fail(err, TACA_ENOTFOUND, "%s: %s", path, strerror(errno));
    while ((n = fread(part, 1, sizeof part, f)) > 0 && !out->failed) taca_buf_put(out, part, n);
    enum taca_code rc = TACA_OK;
    if (ferror(f))
        rc = taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
    else if (out->failed)
        rc = taca_fail(err, TACA_EFORMAT, "%s: more than %zu MiB", path, out->max >> 20);
    fclose(f);
    return rc;
}

static bool write_all(int fd, const struct taca_buf *bytes) {
    for (size_t at = 0; at < bytes->len;) {
        ssize_t w = write(fd, bytes->data + at, bytes->len - at);
        if (w <= 0) return false;
        at += (size_t)w;
    }
    return true;
}

/* The descriptor of standard output or error when that is the very file, as /dev/stdout is; opened
 * anew it would be written from its beginning. -1 = neither. */
static int standard_descriptor(const struct stat *st) {
    struct stat own;
    for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++)
        if (fstat(fd, &own) == 0 && own.st_dev == st->st_dev && own.st_ino == st->st_ino) return fd;
    return -1;
}

/* Devices, pipes, sockets, and what standard output is: a rename would put a file in their place.
 */
static bool is_written_into(const struct stat *st) {
    if (S_ISREG(st->st_mode)) return standard_descriptor(st) >= 0;
    return !S_ISDIR(st->st_mode);
}

static enum taca_code write_into(const char *path, const struct stat *st,
                                 const struct taca_buf *bytes, struct taca_err *err) {
    const int standard = standard_descriptor(st);
    fflush(stdout);
    int fd = standard >= 0 ? standard : open(path, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write_all(fd, bytes);
    int why = errno;
    if (fd >= 0 && fd != standard && close(fd) != 0 && ok) ok = false, why = errno;
    return ok ? TACA_OK : taca_fail(err, TACA_EIO, "%s: %s", path, strerror(why));
}

static enum taca_code replace(const char *path, const struct taca_buf *bytes,
                              struct taca_err *err) {
    char tmp[PATH_MAX + 16];
    int n = snprintf(tmp, sizeof tmp, "%s.part-XXXXXX", path);
    if (n < 0 || (size_t)n >= sizeof tmp)
        return taca_fail(err, TACA_EINVAL, "%s: name too long", path);
    int fd = mkstemp(tmp);
    if (fd < 0) return taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
    mode_t mask = umask(0);
    umask(mask);
    bool ok = fchmod(fd, 0666 & ~mask) == 0 && write_all(fd, bytes);
    enum taca_code rc = ok ? TACA_OK : taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
    if ((close(fd) != 0 || (ok && rename(tmp, path) != 0)) && !rc)
        rc = taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
    if (rc) unlink(tmp);
    return rc;
}

enum taca_code file_write(const char *path, const struct taca_buf *bytes, struct taca_err *err) {
    struct stat st;
    if (stat(path, &st) == 0 && is_written_into(&st)) return write_into(path, &st, bytes, err);
    char *real = realpath(path, NULL); /* a link stays one */
    enum taca_code rc = replace(real ? real : path, bytes, err);
    free(real);
    return rc;
}

enum taca_code file_check(const char *path, struct taca_err *err) {
    struct stat st;
    const char *slash = strrchr(path, '/');
    char folder[PATH_MAX];
    if (!*path) return taca_fail(err, TACA_EINVAL, "the name of a file must not be empty");
    if (stat(path, &st) == 0 && is_written_into(&st)) {
        if (standard_descriptor(&st) >= 0 || access(path, W_OK) == 0) return TACA_OK;
        return taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
    }
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return taca_fail(err, TACA_EIO, "%s: %s", path, strerror(EISDIR));
    snprintf(folder, sizeof folder, "%.*s/.", slash ? (int)(slash - path) : 0, path);
    if (access(slash ? folder : ".", W_OK) == 0) return TACA_OK;
    return taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
}
