/* clock.h - time that never jumps. Wall-clock time is for log lines only. */
#ifndef TACA_BASE_CLOCK_H
#define TACA_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t taca_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}
static inline double taca_now_ms(void) { return (double)taca_now_us() / 1000.0; }

#endif
