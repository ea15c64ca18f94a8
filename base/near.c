/* near.c - see near.h: the optimal string alignment distance. */
#include "base/near.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { LONGEST = 64 };

static size_t least_of(size_t a, size_t b) { return a < b ? a : b; }

/* Insertions, deletions, changes, and neighbours that changed places ("widht"), one each. */
static size_t distance(const char *a, const char *b) {
    size_t rows[3][LONGEST + 1], la = strlen(a), lb = strlen(b);
    if (la > LONGEST || lb > LONGEST) return SIZE_MAX; /* near nothing */
    for (size_t j = 0; j <= lb; j++) rows[0][j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t *row = rows[i % 3];
        const size_t *above = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            row[j] =
                least_of(above[j - 1] + (a[i - 1] != b[j - 1]), least_of(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least_of(row[j], before[j - 2] + 1);
        }
    }
    return rows[la % 3][lb];
}

const char *taca_nearest(const char *word, const char *const *candidates, int n) {
    const char *best = NULL;
    size_t least = strlen(word) / 3 + 1;
    for (int i = 0; i < n; i++) {
        size_t d = distance(word, candidates[i]);
        if (d < least || (d == least && !best && d * 3 <= strlen(word))) {
            least = d;
            best = candidates[i];
        }
    }
    return best;
}
