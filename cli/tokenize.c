/* tokenize.c - `taca tokenize`: the token ids that a prompt becomes. For comparing tokenizers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/flags.h"
#include "engine/text/tok_bpe.h"
#include "engine/text/tok_t5.h"

struct job {
    struct tok_bpe *clip; /* one of the two */
    struct tok_t5 *t5;
    bool json;
    int pad;      /* 0: as long as the text */
    int32_t *ids; /* grows */
    int cap;
};

static enum taca_code grow(struct job *j, int n, struct taca_err *err) {
    if (n <= j->cap) return TACA_OK;
    int32_t *p = realloc(j->ids, (size_t)n * sizeof *p);
    if (!p) return taca_fail(err, TACA_ENOMEM, "out of memory for %d ids", n);
    j->ids = p;
    j->cap = n;
    return TACA_OK;
}

static enum taca_code encode(struct job *j, const char *text, int n, int *total,
                             struct taca_err *err) {
    return j->clip ? tok_bpe_encode(j->clip, text, j->ids, n, total, err)
                   : tok_t5_encode(j->t5, text, j->ids, n, total, err);
}

/* One line of output for one text. */
static enum taca_code print_ids(struct job *j, const char *text, struct taca_err *err) {
    int total = 0, n = j->pad ? j->pad : j->cap;
    enum taca_code rc = grow(j, n, err);
    if (rc == TACA_OK) rc = encode(j, text, n, &total, err);
    if (rc == TACA_OK && !j->pad && total > n) {
        n = total;
        rc = grow(j, n, err);
        if (rc == TACA_OK) rc = encode(j, text, n, &total, err);
    }
    if (rc != TACA_OK) return rc;
    if (!j->pad) n = total;
    if (j->json) printf("{\"ids\":[");
    for (int i = 0; i < n; i++) printf(i == 0 ? "%d" : j->json ? ",%d" : " %d", j->ids[i]);
    if (j->json) printf("],\"n\":%d}", total);
    putchar('\n');
    return TACA_OK;
}

static enum taca_code print_stdin(struct job *j, int end, struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    char *line = NULL;
    size_t cap = 0;
    for (ssize_t n; rc == TACA_OK && (n = getdelim(&line, &cap, end, stdin)) >= 0;) {
        if (n > 0 && line[n - 1] == end) line[n - 1] = 0;
        rc = print_ids(j, line, err);
    }
    if (rc == TACA_OK && ferror(stdin)) rc = taca_fail(err, TACA_EIO, "reading standard input");
    free(line);
    return rc;
}

int cli_tokenize(int argc, char **argv) {
    const char *clip = NULL, *t5 = NULL;
    bool null = false;
    struct taca_err err = {0};
    struct job j = {.json = false};
    const struct flag flags[] = {
        {"clip", 0, FLAG_STRING, &clip, .arg = "DIR",
         .help = "directory of a CLIP tokenizer (vocab.json and merges.txt, or tokenizer.json)"},
        {"t5", 0, FLAG_STRING, &t5, .arg = "DIR",
         .help = "directory of a T5 tokenizer (tokenizer.json or spiece.model)"},
        {"json", 0, FLAG_SWITCH, &j.json,
         .help = "print {\"ids\":[...],\"n\":length before padding and cutting}"},
        {"pad", 0, FLAG_INT, &j.pad, 2, 1 << 20, .arg = "N",
         .help = "pad or cut to exactly N ids, as an encoder gets them"},
        {"null", '0', FLAG_SWITCH, &null,
         .help = "texts on standard input end with NUL instead of a newline"},
    };
    struct flag_set set = {
        .usage = "tokenize --clip DIR | --t5 DIR [options] TEXT",
        .about = "Prints the ids of a text, with start and end token (T5 has no start).\n"
                 "TEXT - reads one text a line from standard input.",
        .flags = flags,
        .n_flags = FLAGS_COUNT(flags),
        .min_args = 1,
        .max_args = 1};
    switch (flags_parse(&set, argc, argv)) {
    case FLAGS_HELP: return EXIT_OK;
    case FLAGS_BAD: return EXIT_USAGE;
    case FLAGS_OK: break;
    }

    enum taca_code rc = clip && t5 ? taca_fail(&err, TACA_EINVAL, "--clip and --t5: one of the two")
                        : clip     ? tok_bpe_open(&j.clip, clip, &err)
                        : t5       ? tok_t5_open(&j.t5, t5, &err)
                             : taca_fail(&err, TACA_EINVAL, "--clip DIR or --t5 DIR is missing");
    if (rc == TACA_OK) rc = grow(&j, 1024, &err);
    if (rc == TACA_OK)
        rc = strcmp(set.args[0], "-") == 0 ? print_stdin(&j, null ? 0 : '\n', &err)
                                           : print_ids(&j, set.args[0], &err);
    free(j.ids);
    tok_bpe_close(j.clip);
    tok_t5_close(j.t5);
    return rc == TACA_OK ? EXIT_OK : cli_fail("tokenize", &err);
}
