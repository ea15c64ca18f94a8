/* log.c - see log.h. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"

/* A pipe that polls as writable takes this much at once and whole; more could block. */
enum { LONGEST_RECORD = PIPE_BUF };

static atomic_int least_level = TACA_LOG_INFO;
static bool as_json;
static atomic_uint_fast64_t dropped;

void taca_log_setup(enum taca_log_level least, bool json) {
    taca_log_level(least);
    as_json = json;
}

void taca_log_level(enum taca_log_level least) { atomic_store(&least_level, (int)least); }

enum taca_log_level taca_log_least(void) { return (enum taca_log_level)atomic_load(&least_level); }

const char *taca_log_level_word(enum taca_log_level level) {
    static const char *const words[] = {"debug", "info", "warn", "error"};
    return words[level];
}

bool taca_log_enabled(enum taca_log_level level) { return (int)level >= atomic_load(&least_level); }

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

/* Asks first, and keeps the others of this process out between the question and the write; those of
 * other processes may come between, so this is for what knows no better way. */
static ssize_t write_if_ready(const char *line, size_t len) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    pthread_mutex_lock(&lock);
    bool ready = poll(&p, 1, 0) == 1 && (p.revents & POLLOUT);
    ssize_t n = ready ? write(STDERR_FILENO, line, len) : -1;
    pthread_mutex_unlock(&lock);
    return n;
}

static ssize_t write_to_pipe(const char *line, size_t len) {
    const struct iovec v = {.iov_base = (void *)(uintptr_t)line, .iov_len = len};
    ssize_t n = pwritev2(STDERR_FILENO, &v, 1, -1, RWF_NOWAIT);
    bool unknown = n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS); /* before Linux 6.5 */
    return unknown ? write_if_ready(line, len) : n;
}

/* A pipe or socket whose reader is stuck must not stop the program, nor a thread of it that finds
 * the last room taken by another: what is not taken at once is dropped. */
static void write_record(const char *line, size_t len) {
    struct stat st;
    ssize_t n = -1;
    if (fstat(STDERR_FILENO, &st) != 0) st.st_mode = 0;
    if (S_ISSOCK(st.st_mode))
        n = send(STDERR_FILENO, line, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    else if (S_ISFIFO(st.st_mode))
        n = write_to_pipe(line, len);
    else
        n = write_if_ready(line, len);
    if (n != (ssize_t)len) atomic_fetch_add(&dropped, 1);
}

static void compose(struct taca_buf *b, enum taca_log_level level, const char *fields,
                    const char *text, size_t len) {
    char ts[40];
    timestamp(ts);
    if (as_json) {
        taca_buf_printf(b, "{\"ts\":\"%s\",\"level\":\"%s\",\"msg\":", ts,
                        taca_log_level_word(level));
        taca_buf_json(b, text, len);
        if (fields) taca_buf_printf(b, ",%s", fields);
        taca_buf_puts(b, "}\n");
    } else {
        taca_buf_printf(b, "%s %-5s ", ts, taca_log_level_word(level));
        taca_buf_plain(b, text, len, "");
        if (fields) taca_buf_printf(b, " {%s}", fields);
        taca_buf_puts(b, "\n");
    }
}

__attribute__((format(printf, 3, 0))) static void
emit(enum taca_log_level level, const char *fields, const char *fmt, va_list ap) {
    enum { SURE_TO_FIT = 256 }; /* even when every byte is escaped */
    char text[2048];
    int n = vsnprintf(text, sizeof text, fmt, ap);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    struct taca_buf b;
    taca_buf_init(&b, LONGEST_RECORD);
    compose(&b, level, fields, text, len);
    if (b.failed) { /* escapes made it too long: a shorter message beats none */
        taca_buf_reset(&b);
        compose(&b, level, fields, text, len < SURE_TO_FIT ? len : SURE_TO_FIT);
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
