/* data_dir.c - see data_dir.h. */
#include "engine/io/data_dir.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool at(char *path, size_t size, const char *dir, const char *between, const char *name) {
    int n = snprintf(path, size, "%s/%s%s", dir, between, name);
    return n > 0 && (size_t)n < size && access(path, R_OK) == 0;
}

bool taca_data_find(char *path, size_t size, const char *name) {
    static const char *const places[] = {
        "models/",          "../models/",          "../../models/",
        "../../../models/", "../../../../models/", "../share/taca/models/"};
    char self[PATH_MAX];
    const char *set = getenv("TACA_DATA");
    if (set && *set) return at(path, size, set, "", name);
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return false;
    self[n] = 0;
    char *slash = strrchr(self, '/');
    if (slash) *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (at(path, size, self, places[i], name)) return true;
    return false;
}
