/* pressure.c - see pressure.h. */
#include "server/pressure.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "server/metrics.h"

#define NO_LIMIT 1e18 /* version 1 writes 2^63 less a page for none */

static const double begins[] = {.92, .95, .98}, ends[] = {.90, .93, .96};

enum pressure_level pressure_level(enum pressure_level before, double share) {
    int level = 0;
    if (share < 0) return PRESSURE_NONE;
    while (level < 3 && share >= begins[level]) level++;
    while (level < (int)before && share > ends[level]) level++;
    return (enum pressure_level)level;
}

/* ---- files of the kernel --------------------------------------------------------------------- */

/* The number at the start of dir/name; negative when there is none ("max" is none). */
static double read_number(const char *dir, const char *name) {
    char path[1200], text[64] = "", *end;
    snprintf(path, sizeof path, "%s%s%s", dir, name[0] ? "/" : "", name);
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    bool there = fgets(text, sizeof text, f) != NULL;
    fclose(f);
    double v = strtod(text, &end);
    return there && end != text && v >= 0 ? v : -1;
}

/* The sum of the named lines of dir/memory.stat. */
static double read_stat(const char *dir, const char *const *names, int n) {
    char path[1200], line[128];
    double sum = 0;
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    while (fgets(line, sizeof line, f)) {
        size_t word = strcspn(line, " ");
        for (int i = 0; i < n; i++)
            if (strlen(names[i]) == word && memcmp(names[i], line, word) == 0)
                sum += strtod(line + word, NULL);
    }
    fclose(f);
    return sum;
}

static double share_of(const char *dir, const char *limit, const char *usage,
                       const char *const *free_pages, int n) {
    double most = read_number(dir, limit), used = read_number(dir, usage);
    if (most <= 0 || most > NO_LIMIT || used < 0) return -1;
    used -= read_stat(dir, free_pages, n);
    return used > 0 ? used / most : 0;
}

double pressure_read(const struct pressure *p) {
    static const char *const v2[] = {"inactive_file", "active_file", "slab_reclaimable"};
    static const char *const v1[] = {"total_inactive_file", "total_active_file"};
    switch (p->kind) {
    case PRESSURE_OFF: break;
    case PRESSURE_FILE: return read_number(p->path, "");
    case PRESSURE_V2: return share_of(p->path, "memory.max", "memory.current", v2, 3);
    case PRESSURE_V1:
        return share_of(p->path, "memory.limit_in_bytes", "memory.usage_in_bytes", v1, 2);
    }
    return -1;
}

bool pressure_look(struct pressure *p) {
    static const char *const gives_up[] = {"nothing", "jobs that nobody waits for", "new jobs",
                                           "new connections"};
    double share = pressure_read(p);
    enum pressure_level now = pressure_level(p->level, share);
    if (now == p->level) return false;
    p->level = now;
    metric_set(METRIC_OVERLOAD, now);
    taca_log(now ? TACA_LOG_WARN : TACA_LOG_INFO, "%.0f %% of memory in use: refusing %s",
             share * 100, gives_up[now]);
    return true;
}

/* ---- the group ------------------------------------------------------------------------------- */

/* "0::/a/b" is of version 2, "9:cpu,memory:/a/b" of version 1: *path is the last part. */
static enum pressure_kind kind_of(char *line, char **path) {
    char *list = strchr(line, ':');
    char *at = list ? strchr(list + 1, ':') : NULL;
    if (!at) return PRESSURE_OFF;
    *at = 0;
    *path = at + 1;
    (*path)[strcspn(*path, "\n")] = 0;
    if (strcmp(line, "0:") == 0) return PRESSURE_V2;
    for (char *s = list; s; s = strchr(s + 1, ',')) {
        size_t len = strcspn(s + 1, ",");
        if (len == 6 && memcmp(s + 1, "memory", 6) == 0) return PRESSURE_V1;
    }
    return PRESSURE_OFF;
}

/* The nearest group upwards that has a limit. A container may see the names of its host without
 * their folders: the way up ends at its own. */
static bool find_limit(struct pressure *p, enum pressure_kind kind, const char *mount,
                       const char *path) {
    int n = snprintf(p->path, sizeof p->path, "%s%s", mount, path);
    if (n < 0 || (size_t)n >= sizeof p->path) return false;
    for (;;) {
        size_t len = strlen(p->path), least = strlen(mount);
        while (len > least && p->path[len - 1] == '/') p->path[--len] = 0;
        p->kind = kind;
        if (pressure_read(p) >= 0) return true;
        p->kind = PRESSURE_OFF;
        char *slash = strrchr(p->path, '/');
        if (len <= least || !slash) return false;
        *slash = 0;
    }
}

static void find_group(struct pressure *p, const char *root) {
    char path[512], line[1024], mount[512], *group;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (!f) return;
    while (p->kind == PRESSURE_OFF && fgets(line, sizeof line, f)) {
        enum pressure_kind kind = kind_of(line, &group);
        if (kind == PRESSURE_OFF) continue;
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s", root,
                 kind == PRESSURE_V1 ? "/memory" : "");
        find_limit(p, kind, mount, group);
    }
    fclose(f);
}

enum taca_code pressure_open(struct pressure *p, const char *what, const char *root,
                             struct taca_err *err) {
    *p = (struct pressure){.kind = PRESSURE_OFF};
    if (strcmp(what, "none") == 0) return TACA_OK;
    if (strcmp(what, "auto") == 0) {
        find_group(p, root);
        return TACA_OK;
    }
    if (strlen(what) >= sizeof p->path || access(what, R_OK) != 0)
        return taca_fail_param(err, "memory-probe",
                               "--memory-probe must be auto, none or a file, got '%.80s': %s", what,
                               strerror(errno));
    p->kind = PRESSURE_FILE;
    snprintf(p->path, sizeof p->path, "%s", what);
    return TACA_OK;
}
