/* suggest.c - "did you mean": names that clients of other services use, then spelling. */
#include <string.h>

#include "api/fields.h"
#include "base/near.h"

enum { LONGEST = 32, MOST_NAMES = 128 };

static const char *other_name(const char *name) {
    static const struct {
        const char *theirs, *ours;
    } all[] = {{"cfg", "cfg_scale"},        {"guidance", "cfg_scale"},
               {"num_images", "n"},         {"num_steps", "steps"},
               {"batch_size", "n"},         {"num_images_per_prompt", "n"},
               {"sampler_name", "sampler"}, {"image_size", "size"},
               {"scheduler", "schedule"},   {"negative", "negative_prompt"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(name, all[i].theirs) == 0) return all[i].ours;
    return NULL;
}

/* "cfgScale" is as near to "cfg_scale" as "cfgscale": capitals do not count. */
static void fold(char out[LONGEST + 1], const char *s) {
    size_t i = 0;
    for (; s[i] && i < LONGEST; i++)
        out[i] = (char)(s[i] >= 'A' && s[i] <= 'Z' ? s[i] - 'A' + 'a' : s[i]);
    out[i] = 0;
}

const char *api_suggest(const char *name) {
    const char *names[MOST_NAMES], *other = other_name(name);
    char folded[LONGEST + 1];
    size_t n_fields;
    int n = 0;
    const struct api_field *f = api_fields(&n_fields);
    if (other || strlen(name) > LONGEST) return other;
    for (size_t i = 0; i < n_fields && n < MOST_NAMES - 1; i++) {
        if (f[i].kind == API_REFUSED) continue;
        names[n++] = f[i].name;
        if (f[i].alias) names[n++] = f[i].alias;
    }
    fold(folded, name);
    return taca_nearest(folded, names, n);
}
