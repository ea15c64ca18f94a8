/* target.c - see target.h. */
#include "server/target.h"

#include <stdlib.h>
#include <string.h>

/* The length of the segment that `s` begins, its slash included. */
static size_t segment(const char *s) { return 1 + strcspn(s + 1, "/"); }

static int dots(const char *s, size_t len) {
    if (len == 2 && s[1] == '.') return 1;
    return len == 3 && s[1] == '.' && s[2] == '.' ? 2 : 0;
}

static bool has_dots(const char *path) {
    for (size_t len; *path; path += len) {
        len = segment(path);
        if (dots(path, len)) return true;
    }
    return false;
}

/* "/a/./b/../c" becomes "/a/c", and nothing leads above "/". */
static void remove_dots(char *path) {
    char *out = path;
    for (const char *in = path; *in;) {
        size_t len = segment(in);
        int n = dots(in, len);
        if (n == 2)
            while (out > path && *--out != '/') {
            }
        if (n == 0) {
            memmove(out, in, len);
            out += len;
        } else if (!in[len]) {
            *out++ = '/';
        }
        in += len;
    }
    *out = 0;
}

bool target_read(struct target *out, const char *text) {
    *out = (struct target){.path = text};
    if (*text == '*' || (*text == '/' && !has_dots(text))) return true;
    char *copy = out->copy = malloc(strlen(text) + 2);
    if (!copy) return false;
    char *path = copy;
    if (*text == '/') {
        memcpy(copy, text, strlen(text) + 1);
    } else { /* "http://host/path": the host's end takes the place of its first slash */
        const char *authority = strstr(text, "://");
        authority = authority ? authority + 3 : text;
        size_t len = strcspn(authority, "/");
        memcpy(copy, authority, len);
        copy[len] = 0;
        out->host = copy;
        path = copy + len + 1;
        size_t rest = strlen(authority + len);
        memcpy(path, rest ? authority + len : "/", rest ? rest + 1 : 2);
    }
    remove_dots(path);
    out->path = path;
    return true;
}

void target_finish(struct target *t) {
    free(t->copy);
    *t = (struct target){0};
}
