/* near.h - "did you mean ...?" */
#ifndef TACA_BASE_NEAR_H
#define TACA_BASE_NEAR_H

/* The candidate nearest to `word` when at most a third of it differs, else NULL. */
const char *taca_nearest(const char *word, const char *const *candidates, int n);

#endif
