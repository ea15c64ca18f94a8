/* model.c - where the demo model is: $TACA_DEMO_MODEL, beside the source tree of a build folder
 * (build/<preset>/taca -> models/demo), or installed (bin/taca -> share/taca/models/demo). */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

const char *cli_demo_model(void) {
    static const char *const places[] = {"models/demo", "../models/demo", "../../models/demo",
                                         "../share/taca/models/demo"};
    static char found[PATH_MAX]; /* written once, before any thread exists */
    char self[PATH_MAX];
    const char *set = getenv("TACA_DEMO_MODEL");
    if (set && *set) return set;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return NULL;
    self[n] = 0;
    char *slash = strrchr(self, '/');
    if (slash) *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char probe[2 * PATH_MAX];
        snprintf(probe, sizeof probe, "%s/%s/model_index.json", self, places[i]);
        if (access(probe, R_OK) != 0) continue;
        snprintf(probe, sizeof probe, "%s/%s", self, places[i]);
        return realpath(probe, found);
    }
    return NULL;
}
