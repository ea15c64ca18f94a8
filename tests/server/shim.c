/* shim.c - preloaded into a service by faults_test.py: allocations that fail, clocks that jump.
 *
 * sigqueue(pid, SIGRTMIN + 3, n): n >= 0, the n-th next allocation fails, once; -1, none does;
 * n <= -2, all fail from the (-2 - n)-th next one on.
 * sigqueue(pid, SIGRTMIN + 4, s): the wall clock is s seconds ahead of the machine's. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);

static atomic_long left = -1; /* allocations until one fails */
static atomic_bool for_ever;
static atomic_long ahead_s;

static bool fails(void) {
    if (atomic_load(&left) < 0) return false;
    long before =
        atomic_load(&for_ever) && atomic_load(&left) == 0 ? 0 : atomic_fetch_sub(&left, 1);
    if (before != 0) return false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return fails() ? NULL : __libc_calloc(n, size); }
void *realloc(void *p, size_t size) { return fails() ? NULL : __libc_realloc(p, size); }

int clock_gettime(clockid_t id, struct timespec *t) {
    long rc = syscall(SYS_clock_gettime, id, t);
    if (rc == 0 && id == CLOCK_REALTIME) t->tv_sec += atomic_load(&ahead_s);
    return (int)rc;
}

time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec t;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    *out = (struct timeval){t.tv_sec, t.tv_nsec / 1000};
    return 0;
}

static void on_memory(int sig, siginfo_t *info, void *ctx) {
    int n = info->si_value.sival_int;
    (void)sig, (void)ctx;
    atomic_store(&left, -1);
    atomic_store(&for_ever, n <= -2);
    atomic_store(&left, n <= -2 ? -2 - n : n);
}

static void on_clock(int sig, siginfo_t *info, void *ctx) {
    (void)sig, (void)ctx;
    atomic_store(&ahead_s, info->si_value.sival_int);
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction a = {.sa_flags = SA_SIGINFO | SA_RESTART};
    a.sa_sigaction = on_memory;
    sigaction(SIGRTMIN + 3, &a, NULL);
    a.sa_sigaction = on_clock;
    sigaction(SIGRTMIN + 4, &a, NULL);
}
