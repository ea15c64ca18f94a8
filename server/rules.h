/* rules.h - what may change while the service runs: who may ask, and within which limits.
 *
 * A set of rules never changes. A new one takes its place from one request to the next; whoever is
 * in the middle of a request goes on under the set it began with, and the last one to leave a set
 * frees it. Any thread. */
#ifndef TACA_SERVER_RULES_H
#define TACA_SERVER_RULES_H

#include <pthread.h>

#include "api/limits.h"
#include "server/access.h"

struct rules {
    struct access *access; /* owned */
    struct api_limits limits;
    int users; /* the place's own and those who hold it; under the place's lock */
};

struct rules_place {
    pthread_mutex_t lock;
    struct rules *now; /* NULL before the first */
};

void rules_init(struct rules_place *p);
void rules_finish(struct rules_place *p); /* nobody holds a set any more */

/* Takes `access` over, on failure too. */
enum taca_code rules_set(struct rules_place *p, struct access *access,
                         const struct api_limits *limits, struct taca_err *err) TACA_MUST_USE;
struct rules *rules_hold(struct rules_place *p);
void rules_leave(struct rules_place *p, struct rules *r);
/* access_headers of the set that counts now. */
void rules_headers(struct rules_place *p, const char *origin, struct taca_buf *out);

#endif
