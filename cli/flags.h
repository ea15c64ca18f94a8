/* flags.h - command-line options from a table: parsing, environment twins, ranges, help.
 *
 * Precedence: command line, then environment, then a file (cli/config.h), then the value that *out
 * holds beforehand (the default). Forms: --name V, --name=V, -x V, --switch, --no-switch, `--` ends
 * the options. A mistake is one line that names the option and the accepted values. */
#ifndef TACA_CLI_FLAGS_H
#define TACA_CLI_FLAGS_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

enum flag_type {
    FLAG_STRING, /* const char ** */
    FLAG_INT,    /* int *, min..max; a default below min means "not given" */
    FLAG_NUMBER, /* double *, min..max; a default of NAN means "not given" */
    FLAG_SWITCH, /* bool * */
    FLAG_CHOICE, /* int *: index into choices, a '|'-separated list */
    FLAG_LIST    /* struct flag_list *: may be repeated; its environment twin has commas */
};

enum { FLAG_LIST_MAX = 16 };
struct flag_list {
    const char *item[FLAG_LIST_MAX];
    int n;
    bool of_env;     /* the items are those of the environment, which the command line replaces */
    char text[4096]; /* of them */
};

struct flag {
    const char *name; /* without the dashes */
    char letter;      /* 0 = none */
    enum flag_type type;
    void *out;
    double min, max;     /* INT and NUMBER, inclusive */
    const char *choices; /* CHOICE: "auto|f32|bf16" */
    const char *env;     /* "TACA_PORT" or NULL */
    const char *arg;     /* "N" in the help; NULL for a switch */
    const char *help;    /* one sentence; NULL hides the option */
    const char *group;   /* of the first of several: their heading in the help */
    bool live;           /* may change while the service runs */
    bool secret;         /* the value is told to nobody */
    bool not_in_file;    /* says what to do now: belongs on the command line */
};

/* Where an option's value is from. */
enum flag_origin { FLAG_DEFAULT, FLAG_FILE, FLAG_ENV, FLAG_ARG };
struct flag_source {
    enum flag_origin from;
    int line; /* of the file */
};

struct flag_set {
    const char *usage;    /* "generate PROMPT [options]" */
    const char *about;    /* what the command does, some lines */
    const char *examples; /* behind the help, with its newlines; or NULL */
    const struct flag *flags;
    int n_flags;
    struct flag_source *sources; /* [n_flags], filled; NULL = nobody asks */
    int min_args, max_args;      /* positional */
    const char *args[32];        /* filled */
    int n_args;
};

enum flags_result { FLAGS_OK, FLAGS_HELP, FLAGS_BAD };
/* argv[0] is the subcommand. HELP: the help is on stdout, exit 0. BAD: the reason is on stderr,
 * exit 2. */
enum flags_result flags_parse(struct flag_set *set, int argc, char **argv);
/* The same without a word and without --help: the reason is in *err. */
enum taca_code flags_read(struct flag_set *set, int argc, char **argv, struct taca_err *err);

/* One value from text, of any type but a list; `shown` is what the user calls the option. */
enum taca_code flags_set(const struct flag *f, const char *shown, const char *value,
                         struct taca_err *err);
const struct flag *flags_find(const struct flag_set *set, const char *name, size_t len);
/* The option that `word` may have meant, or NULL. */
const char *flags_nearest(const struct flag_set *set, const char *word);
/* The value as JSON; null = not given. */
void flags_text(const struct flag *f, struct taca_buf *out);

#define FLAGS_COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

#endif
