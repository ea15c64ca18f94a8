/* near.c - see near.h: Levenshtein distance with one row. */
#include "base/near.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { LONGEST = 64 };

static size_t distance(const char *a, const char *b) {
    size_t row[LONGEST + 1], la = strlen(a), lb = strlen(b);
    if (la > LONGEST || lb > LONGEST) return SIZE_MAX; /* near nothing */
    for (size_t j = 0; j <= lb; j++) row[j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            size_t change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            size_t best = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            row[j] = change < best ? change : best;
        }
    }
    return row[lb];
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
