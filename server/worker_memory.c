/* worker_memory.c - see worker_memory.h. */
#include "server/worker_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number behind `name` in a file of lines "name number"; with name "" the first. -1 = none. */
static double number_in(const char *path, const char *name) {
    char line[256];
    double found = -1;
    size_t len = strlen(name);
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    while (found < 0 && fgets(line, sizeof line, f)) {
        char *end, *at = line + len;
        if (strncmp(line, name, len) != 0) continue;
        double v = strtod(at, &end);
        if (end != at) found = v; /* "max" is none */
    }
    fclose(f);
    return found;
}

/* What the kernel could give without taking it from others: of the machine, and of the container.
 * Files that it only keeps because there is room count as free. */
static double free_bytes(void) {
    double machine = number_in("/proc/meminfo", "MemAvailable:") * 1024;
    double limit = number_in("/sys/fs/cgroup/memory.max", "");
    double used = number_in("/sys/fs/cgroup/memory.current", "");
    double files = number_in("/sys/fs/cgroup/memory.stat", "inactive_file ");
    double group = limit - used + (files > 0 ? files : 0);
    if (limit < 0 || used < 0) return machine;
    if (group < 0) group = 0;
    return machine < 0 || group < machine ? group : machine;
}

enum taca_code worker_memory_check(const struct taca_engine_opts *opts, struct taca_err *err) {
    struct taca_engine_opts headers = *opts;
    struct taca_engine *e = NULL;
    struct taca_gen_params p;
    struct taca_plan plan;
    headers.plan = true;
    enum taca_code rc = taca_engine_open(&e, &headers, err);
    if (rc) return rc;
    /* what a GPU has left is known when it is asked for it; the opening then says so */
    bool here = strcmp(taca_engine_info(e)->backend, "cuda") != 0;
    taca_gen_params_init(&p, taca_engine_info(e));
    p.prompt = "a picture";
    rc = taca_engine_plan(e, &p, 1, &plan, err);
    taca_engine_close(e);
    double there = free_bytes();
    if (!rc && here && there >= 0 && (double)plan.peak_bytes > there)
        rc = taca_fail(err, TACA_ENOMEM, "the model needs %.2f GB and %.2f GB are free",
                       (double)plan.peak_bytes / 1e9, there / 1e9);
    return rc;
}
