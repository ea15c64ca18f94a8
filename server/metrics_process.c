/* metrics_process.c - what the kernel says about this process, and what was built. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "server/metrics_internal.h"

#ifndef TACA_CUDA_VERSION /* of the compiler, where the CUDA backend is built */
#define TACA_CUDA_VERSION "none"
#endif
#ifndef TACA_COMMIT /* from CMake; empty when nobody knows */
#define TACA_COMMIT ""
#endif
#if defined(__x86_64__)
#define ARCH "x86_64"
#elif defined(__aarch64__)
#define ARCH "aarch64"
#else
#define ARCH "other"
#endif

struct process_stat {
    unsigned long long user_ticks, system_ticks, start_ticks, virtual_bytes;
    long resident_pages;
};

/* The fields of /proc/self/stat behind the name, which may hold spaces and parentheses. */
static bool read_stat(struct process_stat *s) {
    char text[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    if (!f) return false;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    const char *at = strrchr(text, ')');
    return at && sscanf(at + 1,
                        " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d "
                        "%*d %*d %llu %llu %ld",
                        &s->user_ticks, &s->system_ticks, &s->start_ticks, &s->virtual_bytes,
                        &s->resident_pages) == 5;
}

/* Seconds since 1970 at which the machine started, 0 when unknown. */
static double boot_time(void) {
    char line[256];
    double t = 0;
    FILE *f = fopen("/proc/stat", "re");
    if (!f) return 0;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, "btime ", 6) == 0) t = strtod(line + 6, NULL);
    fclose(f);
    return t;
}

static int open_descriptors(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    if (!d) return 0;
    for (struct dirent *e = readdir(d); e; e = readdir(d)) n += e->d_name[0] != '.';
    closedir(d);
    return n - 1; /* the one that reads the directory */
}

static void put(struct taca_buf *out, const char *name, const char *type, const char *help,
                double v) {
    metrics_head(out, name, help, type);
    taca_buf_printf(out, "%s %.15g\n", name, v);
}

void metrics_render_process(struct taca_buf *out) {
    struct process_stat s;
    struct rlimit files;
    metrics_head(out, "taca_build_info", "What runs here.", "gauge");
    taca_buf_puts(out, "taca_build_info{version=\"" TACA_VERSION "\",commit=\"" TACA_COMMIT
                       "\",cuda=\"" TACA_CUDA_VERSION "\",arch=\"" ARCH "\"} 1\n");
    if (read_stat(&s)) {
        double hz = (double)sysconf(_SC_CLK_TCK);
        put(out, "process_cpu_seconds_total", "counter", "User and system time.",
            (double)(s.user_ticks + s.system_ticks) / hz);
        put(out, "process_start_time_seconds", "gauge", "Start of the process since 1970.",
            boot_time() + (double)s.start_ticks / hz);
        put(out, "process_virtual_memory_bytes", "gauge", "Address space.",
            (double)s.virtual_bytes);
        put(out, "process_resident_memory_bytes", "gauge", "Memory in use.",
            (double)s.resident_pages * (double)sysconf(_SC_PAGESIZE));
    }
    put(out, "process_open_fds", "gauge", "Open descriptors.", open_descriptors());
    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        put(out, "process_max_fds", "gauge", "Most descriptors allowed.", (double)files.rlim_cur);
}
