/* file.c - see file.h. */
#include "cli/file.h"

#include <errno.h>
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

enum taca_code file_write(const char *path, const struct taca_buf *bytes, struct taca_err *err) {
    char tmp[4096];
    int n = snprintf(tmp, sizeof tmp, "%s.part-XXXXXX", path);
    if (n < 0 || (size_t)n >= sizeof tmp)
        return taca_fail(err, TACA_EINVAL, "%s: name too long", path);
    int fd = mkstemp(tmp);
    if (fd < 0) return taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
    mode_t mask = umask(0);
    umask(mask);
    bool ok = fchmod(fd, 0666 & ~mask) == 0;
    for (size_t at = 0; ok && at < bytes->len;) {
        ssize_t w = write(fd, bytes->data + at, bytes->len - at);
        ok = w > 0;
        if (ok) at += (size_t)w;
    }
    if (close(fd) != 0) ok = false;
    if (ok && rename(tmp, path) == 0) return TACA_OK;
    enum taca_code rc = taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
    unlink(tmp);
    return rc;
}
