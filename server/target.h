/* target.h - from a request target, escapes undone, to the path that routes see and the host that
 * it may name. Pure text; the guard (head.h) has refused what is no target. */
#ifndef TACA_SERVER_TARGET_H
#define TACA_SERVER_TARGET_H

#include <stdbool.h>

struct target {
    const char *path; /* begins with "/", without dot segments (RFC 3986 5.2.4); or "*" */
    const char *host; /* of an absolute form, which counts instead of the Host field; else NULL */
    char *copy;       /* owned, where they are not the caller's bytes; NULL */
};

/* `text` is borrowed until target_finish. False when out of memory. */
bool target_read(struct target *out, const char *text);
void target_finish(struct target *t); /* zeroed is fine */

#endif
