/* faulty_disk.c - see faulty_disk.h. */
#include "tests/server/faulty_disk.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_UNDO = 4096 };

struct file {
    sqlite3_file base; /* first */
    char path[512];
    sqlite3_file *real;
};

/* What a write since the last flush of its file has replaced. */
struct undo {
    char path[512];
    sqlite3_int64 offset, size_before;
    int len;
    unsigned char *bytes;
};

static struct {
    sqlite3_vfs vfs, *real;
    sqlite3_io_methods methods;
    int count, fail_at, code, cut_at;
    bool for_ever, dark, lies;
    uint64_t luck;
    struct undo undo[MAX_UNDO];
    int n_undo;
} disk;

static struct file *of(sqlite3_file *f) { return (struct file *)f; }

static int step(void) {
    if (disk.dark) return SQLITE_IOERR_WRITE;
    disk.count++;
    bool hit = disk.fail_at &&
               (disk.count == disk.fail_at || (disk.for_ever && disk.count > disk.fail_at));
    return hit ? disk.code : SQLITE_OK;
}

static void maybe_cut(void) {
    if (disk.cut_at && disk.count >= disk.cut_at) disk.dark = true;
}

/* ---- what a power cut takes back ------------------------------------------------------------- */

static void remember(struct file *f, sqlite3_int64 offset, int len) {
    sqlite3_int64 size = 0;
    if (!disk.cut_at) return;
    if (disk.n_undo == MAX_UNDO) abort();
    struct undo *u = &disk.undo[disk.n_undo++];
    f->real->pMethods->xFileSize(f->real, &size);
    *u = (struct undo){.offset = offset, .size_before = size};
    snprintf(u->path, sizeof u->path, "%s", f->path);
    u->len = offset >= size ? 0 : size - offset < len ? (int)(size - offset) : len;
    if (u->len == 0) return;
    u->bytes = malloc((size_t)u->len);
    if (!u->bytes || f->real->pMethods->xRead(f->real, u->bytes, u->len, offset)) abort();
}

static void flushed(const struct file *f) {
    int kept = 0;
    for (int i = 0; i < disk.n_undo; i++) {
        if (strcmp(disk.undo[i].path, f->path) == 0)
            free(disk.undo[i].bytes);
        else
            disk.undo[kept++] = disk.undo[i];
    }
    disk.n_undo = kept;
}

static void take_back(const struct undo *u) {
    int fd = open(u->path, O_RDWR);
    if (fd < 0) return; /* removed */
    if (u->len && pwrite(fd, u->bytes, (size_t)u->len, u->offset) != u->len) abort();
    off_t size = lseek(fd, 0, SEEK_END);
    if (size > u->size_before && u->offset + u->len >= u->size_before &&
        ftruncate(fd, u->size_before))
        abort();
    if (size < u->size_before && ftruncate(fd, u->size_before)) abort();
    close(fd);
}

void faulty_disk_after_cut(void) {
    for (int i = disk.n_undo - 1; i >= 0; i--) {
        if (disk.luck >> (i % 64) & 1) take_back(&disk.undo[i]);
        free(disk.undo[i].bytes);
    }
    disk.n_undo = disk.cut_at = 0;
    disk.dark = false;
}

/* ---- files ----------------------------------------------------------------------------------- */

static int do_write(sqlite3_file *f, const void *bytes, int len, sqlite3_int64 offset) {
    int rc = step();
    if (rc) return rc;
    remember(of(f), offset, len);
    rc = of(f)->real->pMethods->xWrite(of(f)->real, bytes, len, offset);
    maybe_cut();
    return rc;
}

static int do_truncate(sqlite3_file *f, sqlite3_int64 size) {
    sqlite3_int64 before = 0;
    int rc = step();
    if (rc) return rc == SQLITE_IOERR_WRITE ? SQLITE_IOERR_TRUNCATE : rc;
    of(f)->real->pMethods->xFileSize(of(f)->real, &before);
    if (before > size) remember(of(f), size, (int)(before - size));
    rc = of(f)->real->pMethods->xTruncate(of(f)->real, size);
    maybe_cut();
    return rc;
}

static int do_sync(sqlite3_file *f, int flags) {
    int rc = step();
    if (rc) return rc == SQLITE_IOERR_WRITE ? SQLITE_IOERR_FSYNC : rc;
    if (!disk.lies) flushed(of(f));
    (void)flags; /* that of the machine's own disk would only take time */
    maybe_cut();
    return SQLITE_OK;
}

static int do_close(sqlite3_file *f) {
    int rc = of(f)->real->pMethods ? of(f)->real->pMethods->xClose(of(f)->real) : SQLITE_OK;
    sqlite3_free(of(f)->real);
    return rc;
}

#define PASS(name, params, ...)                                                                    \
    static int pass_##name params { return of(f)->real->pMethods->name(of(f)->real, __VA_ARGS__); }
PASS(xRead, (sqlite3_file * f, void *to, int len, sqlite3_int64 offset), to, len, offset)
PASS(xFileSize, (sqlite3_file * f, sqlite3_int64 *size), size)
PASS(xLock, (sqlite3_file * f, int level), level)
PASS(xUnlock, (sqlite3_file * f, int level), level)
PASS(xCheckReservedLock, (sqlite3_file * f, int *out), out)
PASS(xFileControl, (sqlite3_file * f, int op, void *arg), op, arg)
PASS(xShmMap, (sqlite3_file * f, int page, int size, int extend, void volatile **out), page, size,
     extend, out)
PASS(xShmLock, (sqlite3_file * f, int offset, int n, int flags), offset, n, flags)
PASS(xShmUnmap, (sqlite3_file * f, int del), del)
static int pass_xSectorSize(sqlite3_file *f) {
    return of(f)->real->pMethods->xSectorSize(of(f)->real);
}
static int pass_xDeviceCharacteristics(sqlite3_file *f) {
    (void)f;
    return 0; /* promises nothing, least of all that writes are in order */
}
static void pass_xShmBarrier(sqlite3_file *f) { of(f)->real->pMethods->xShmBarrier(of(f)->real); }

static int do_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out_flags) {
    (void)v;
    of(f)->base.pMethods = NULL;
    of(f)->real = sqlite3_malloc(disk.real->szOsFile);
    if (!of(f)->real) return SQLITE_NOMEM;
    memset(of(f)->real, 0, (size_t)disk.real->szOsFile);
    snprintf(of(f)->path, sizeof of(f)->path, "%s", name ? name : "");
    int rc = disk.real->xOpen(disk.real, name, of(f)->real, flags, out_flags);
    if (rc)
        sqlite3_free(of(f)->real);
    else
        of(f)->base.pMethods = &disk.methods;
    return rc;
}

void faulty_disk_install(void) {
    disk.real = sqlite3_vfs_find(NULL);
    disk.vfs = *disk.real;
    disk.vfs.zName = "faulty";
    disk.vfs.szOsFile = sizeof(struct file);
    disk.vfs.xOpen = do_open;
    disk.methods = (sqlite3_io_methods){.iVersion = 2,
                                        .xClose = do_close,
                                        .xRead = pass_xRead,
                                        .xWrite = do_write,
                                        .xTruncate = do_truncate,
                                        .xSync = do_sync,
                                        .xFileSize = pass_xFileSize,
                                        .xLock = pass_xLock,
                                        .xUnlock = pass_xUnlock,
                                        .xCheckReservedLock = pass_xCheckReservedLock,
                                        .xFileControl = pass_xFileControl,
                                        .xSectorSize = pass_xSectorSize,
                                        .xDeviceCharacteristics = pass_xDeviceCharacteristics,
                                        .xShmMap = pass_xShmMap,
                                        .xShmLock = pass_xShmLock,
                                        .xShmBarrier = pass_xShmBarrier,
                                        .xShmUnmap = pass_xShmUnmap};
    sqlite3_vfs_register(&disk.vfs, 1);
}

void faulty_disk_fail(int nth, int code, bool for_ever) {
    disk.count = 0;
    disk.fail_at = nth;
    disk.code = code;
    disk.for_ever = for_ever;
}

int faulty_disk_count(void) { return disk.count; }

void faulty_disk_cut(int nth, uint64_t luck) {
    disk.count = 0;
    disk.fail_at = 0;
    disk.cut_at = nth;
    disk.luck = luck;
}

void faulty_disk_lie(bool on) { disk.lies = on; }

bool faulty_disk_is_dark(void) { return disk.dark; }
