/* disk_files.c - see disk_files.h. */
#include "server/disk_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_BYTES = 40 };

struct disk_files {
    int fd;
    char path[4096];
};

static void name_of(char out[NAME_BYTES], const struct disk_name *name, const char *ending) {
    snprintf(out, NAME_BYTES, "%016" PRIx64 "-%d%s", name->tag, name->index, ending);
}

/* The directory's own name must outlive the power, too. */
static enum taca_code sync_parent(const struct disk_files *f, struct taca_err *err) {
    int fd = openat(f->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    int why = errno;
    if (fd >= 0) close(fd);
    return ok ? TACA_OK
              : taca_fail(err, TACA_EIO, "the directory of %s: %s", f->path, strerror(why));
}

enum taca_code disk_files_open(struct disk_files **out, const char *dir, struct taca_err *err) {
    struct disk_files *f = calloc(1, sizeof *f);
    if (!f) return taca_fail(err, TACA_ENOMEM, "opening %s", dir);
    snprintf(f->path, sizeof f->path, "%s", dir);
    bool made = mkdir(dir, 0700) == 0;
    f->fd = made || errno == EEXIST ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (f->fd < 0 || faccessat(f->fd, ".", R_OK | W_OK | X_OK, AT_EACCESS) != 0) {
        enum taca_code rc = taca_fail(err, TACA_EIO, "%s: %s", dir, strerror(errno));
        disk_files_close(f);
        return rc;
    }
    enum taca_code rc = made ? sync_parent(f, err) : TACA_OK;
    if (rc)
        disk_files_close(f);
    else
        *out = f;
    return rc;
}

void disk_files_close(struct disk_files *f) {
    if (!f) return;
    if (f->fd >= 0) close(f->fd);
    free(f);
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool put_all(int fd, const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

enum taca_code disk_files_write(const struct disk_files *f, const struct disk_name *of,
                                const void *bytes, size_t len, struct taca_err *err) {
    char name[NAME_BYTES], part[NAME_BYTES];
    name_of(name, of, of->ending);
    name_of(part, of, ".part");
    int fd = openat(f->fd, part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && put_all(fd, bytes, len) && fsync(fd) == 0;
    int why = errno;
    if (fd >= 0 && close(fd) != 0 && ok) {
        ok = false;
        why = errno;
    }
    if (ok && renameat(f->fd, part, f->fd, name) == 0) return TACA_OK;
    if (ok) why = errno;
    (void)unlinkat(f->fd, part, 0);
    return taca_fail(err, TACA_EIO, "%s/%s: %s", f->path, name, strerror(why));
}

enum taca_code disk_files_sync(const struct disk_files *f, struct taca_err *err) {
    if (fsync(f->fd) == 0) return TACA_OK;
    return taca_fail(err, TACA_EIO, "%s: %s", f->path, strerror(errno));
}

void disk_files_remove(const struct disk_files *f, const struct disk_name *of) {
    char name[NAME_BYTES];
    name_of(name, of, of->ending);
    (void)unlinkat(f->fd, name, 0);
}

/* ---- reading --------------------------------------------------------------------------------- */

static enum taca_code get_all(int fd, char *to, size_t len, const char *name,
                              struct taca_err *err) {
    size_t done = 0;
    while (done < len) {
        ssize_t n = read(fd, to + done, len - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return taca_fail(err, TACA_EIO, "%s: %s", name, strerror(errno));
        if (n == 0) break;
        done += (size_t)n;
    }
    if (done == len) return TACA_OK;
    return taca_fail(err, TACA_EFORMAT, "%s ends after %zu of %zu bytes", name, done, len);
}

enum taca_code disk_files_read(const struct disk_files *f, const struct disk_name *of, size_t len,
                               struct taca_buf *out, struct taca_err *err) {
    char name[NAME_BYTES];
    struct stat st;
    enum taca_code rc;
    name_of(name, of, of->ending);
    int fd = openat(f->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return taca_fail(err, errno == ENOENT ? TACA_ENOTFOUND : TACA_EIO, "%s/%s: %s", f->path,
                         name, strerror(errno));
    char *to = taca_buf_reserve(out, len);
    if (!to)
        rc = taca_fail(err, TACA_ENOMEM, "reading %s/%s", f->path, name);
    else if (fstat(fd, &st) != 0 || (uint64_t)st.st_size != len)
        rc = taca_fail(err, TACA_EFORMAT, "%s/%s is not the file of %zu bytes that was written",
                       f->path, name, len);
    else
        rc = get_all(fd, to, len, name, err);
    close(fd);
    if (!rc) out->len += len;
    return rc;
}

/* ---- sweeping -------------------------------------------------------------------------------- */

/* What does not look like ours is left alone. */
static bool is_ours(const char *name, uint64_t *tag, int *index, bool *whole) {
    char end[8] = "";
    int at = 0;
    if (strspn(name, "0123456789abcdef") != 16 || name[16] != '-') return false;
    if (sscanf(name, "%16" SCNx64 "-%3d.%7s%n", tag, index, end, &at) != 3 || name[at])
        return false;
    *whole = strcmp(end, "png") == 0 || strcmp(end, "jpg") == 0;
    return *whole || strcmp(end, "part") == 0;
}

int disk_files_sweep(const struct disk_files *f, bool (*keep)(void *ctx, uint64_t tag, int index),
                     void *ctx) {
    int removed = 0, fd = openat(f->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0) close(fd);
        return 0;
    }
    for (struct dirent *e; (e = readdir(d));) {
        uint64_t tag;
        int index;
        bool whole;
        if (!is_ours(e->d_name, &tag, &index, &whole) || (whole && keep(ctx, tag, index))) continue;
        if (unlinkat(f->fd, e->d_name, 0) == 0) removed++;
    }
    closedir(d);
    return removed;
}
