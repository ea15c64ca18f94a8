/* made_dir.h - a folder with the files of a tokenizer, made by a test. */
#ifndef TACA_TESTS_TEXT_MADE_DIR_H
#define TACA_TESTS_TEXT_MADE_DIR_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/test.h"

struct made {
    char dir[64];
};

static void make_dir(struct made *m) {
    snprintf(m->dir, sizeof m->dir, "/tmp/taca_text_XXXXXX");
    CHECK(mkdtemp(m->dir) != NULL);
}

static void write_bytes(const struct made *m, const char *name, const void *data, size_t len) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", m->dir, name);
    FILE *f = fopen(path, "wb");
    if (!CHECK(f != NULL)) return;
    CHECK_INT(fwrite(data, 1, len, f), len);
    fclose(f);
}
static void write_file(const struct made *m, const char *name, const char *text) {
    write_bytes(m, name, text, strlen(text));
}

static void remove_dir(const struct made *m) {
    static const char *const names[] = {"vocab.json",
                                        "merges.txt",
                                        "spiece.model",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json"};
    char path[512];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", m->dir, names[i]);
        unlink(path);
    }
    CHECK_INT(rmdir(m->dir), 0);
}

#endif
