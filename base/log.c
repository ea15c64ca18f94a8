/* log.c - see log.h. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"

enum { LONGEST_RECORD = 8192 };

static enum taca_log_level least_level = TACA_LOG_INFO;
static bool as_json;
static atomic_uint_fast64_t dropped;

void taca_log_setup(enum taca_log_level least, bool json) {
    least_level = least;
    as_json = json;
}

bool taca_log_enabled(enum taca_log_level level) { return level >= least_level; }

uint64_t taca_log_dropped(void) { return atomic_load(&dropped); }

static void timestamp(char out[40]) {
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    char day[24];
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, 40, "%s.%03dZ", day, (int)(now.tv_nsec / 1000000));
}

/* A pipe or socket whose reader is stuck must not stop the program: ask first, drop if full. */
static void write_record(const char *line, size_t len) {
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT) ||
        write(STDERR_FILENO, line, len) != (ssize_t)len)
        atomic_fetch_add(&dropped, 1);
}

__attribute__((format(printf, 3, 0))) static void
emit(enum taca_log_level level, const char *fields, const char *fmt, va_list ap) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    char text[2048], ts[40];
    int n = vsnprintf(text, sizeof text, fmt, ap);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    struct taca_buf b;
    taca_buf_init(&b, LONGEST_RECORD);
    timestamp(ts);
    if (as_json) {
        taca_buf_printf(&b, "{\"ts\":\"%s\",\"level\":\"%s\",\"msg\":", ts, names[level]);
        taca_buf_json(&b, text, len);
        if (fields) taca_buf_printf(&b, ",%s", fields);
        taca_buf_puts(&b, "}\n");
    } else {
        taca_buf_printf(&b, "%s %-5s ", ts, names[level]);
        taca_buf_put(&b, text, len);
        if (fields) taca_buf_printf(&b, " {%s}", fields);
        taca_buf_puts(&b, "\n");
    }
    if (b.failed)
        atomic_fetch_add(&dropped, 1);
    else
        write_record(b.data, b.len);
    taca_buf_finish(&b);
}

void taca_log(enum taca_log_level level, const char *fmt, ...) {
    if (!taca_log_enabled(level)) return;
    va_list ap;
    va_start(ap, fmt);
    emit(level, NULL, fmt, ap);
    va_end(ap);
}

void taca_log_fields(enum taca_log_level level, const char *fields, const char *fmt, ...) {
    if (!taca_log_enabled(level)) return;
    va_list ap;
    va_start(ap, fmt);
    emit(level, fields, fmt, ap);
    va_end(ap);
}
