/* quota.h - how much a client may ask for in a minute: buckets that fill evenly, by name.
 *
 * A bucket holds a minute's worth, so who has been quiet may ask for all of it at once. A request
 * is taken when a whole one is left, and when any pixel steps are: it may leave a debt, so that one
 * that is larger than a minute's worth can be asked for too, and is paid off by waiting. Knows no
 * clock and no HTTP; the loop's thread. Buckets outlive a change of the rates. */
#ifndef TACA_SERVER_QUOTA_H
#define TACA_SERVER_QUOTA_H

#include <stdbool.h>

struct quota;

struct quota_rates { /* per minute; 0 = no limit */
    double requests, pixel_steps;
};

struct quota *quota_open(void);    /* NULL when out of memory */
void quota_close(struct quota *q); /* NULL is fine */

/* How long until `name` may ask, in ms: 0 = now. *by_steps: it is the pixel steps that are short.
 */
double quota_wait_ms(struct quota *q, const char *name, const struct quota_rates *r, double now_ms,
                     bool *by_steps);
/* It has asked: one request of so many pixel steps. */
void quota_charge(struct quota *q, const char *name, const struct quota_rates *r, double now_ms,
                  double pixel_steps);

#endif
