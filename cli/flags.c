/* flags.c - see flags.h. */
#include "cli/flags.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/near.h"

/* The index of `value` in "a|b|c", or -1. */
static int choice_index(const char *choices, const char *value) {
    size_t len = strlen(value);
    int i = 0;
    for (const char *p = choices;; i++) {
        const char *end = strchr(p, '|');
        size_t n = end ? (size_t)(end - p) : strlen(p);
        if (n == len && memcmp(p, value, n) == 0) return i;
        if (!end) return -1;
        p = end + 1;
    }
}

static enum taca_code set_number(const struct flag *f, const char *shown, const char *value,
                                 struct taca_err *err) {
    char *end;
    double v = strtod(value, &end);
    bool whole = f->type == FLAG_INT;
    bool ok = end != value && !*end && isfinite(v) && v >= f->min && v <= f->max;
    if (!ok || (whole && v != floor(v)))
        return taca_fail_param(err, f->name, "%s must be %s in %.16g..%.16g, got '%s'", shown,
                               whole ? "a whole number" : "a number", f->min, f->max, value);
    if (whole)
        *(int *)f->out = (int)v;
    else
        *(double *)f->out = v;
    return TACA_OK;
}

static enum taca_code set_switch(const struct flag *f, const char *shown, const char *value,
                                 struct taca_err *err) {
    static const char *const words[] = {"1", "true", "yes", "on", "0", "false", "no", "off"};
    for (int i = 0; i < 8; i++) {
        if (strcmp(value, words[i]) != 0) continue;
        *(bool *)f->out = i < 4;
        return TACA_OK;
    }
    return taca_fail_param(err, f->name, "%s must be true or false, got '%s'", shown, value);
}

static enum taca_code add_item(const struct flag *f, const char *shown, const char *value,
                               struct taca_err *err) {
    struct flag_list *list = f->out;
    if (list->n == FLAG_LIST_MAX)
        return taca_fail_param(err, f->name, "too many %s: at most %d", shown, FLAG_LIST_MAX);
    list->item[list->n++] = value;
    return TACA_OK;
}

/* "a,b": an item that is empty is none. */
static enum taca_code set_list_from_env(const struct flag *f, const char *value,
                                        struct taca_err *err) {
    struct flag_list *list = f->out;
    enum taca_code rc = TACA_OK;
    if ((size_t)snprintf(list->text, sizeof list->text, "%s", value) >= sizeof list->text)
        return taca_fail_param(err, f->name, "%s must be at most %zu bytes", f->env,
                               sizeof list->text - 1);
    list->of_env = true;
    for (char *at = list->text, *next; at && rc == TACA_OK; at = next) {
        next = strchr(at, ',');
        if (next) *next++ = 0;
        if (*at) rc = add_item(f, f->env, at, err);
    }
    return rc;
}

enum taca_code flags_set(const struct flag *f, const char *shown, const char *value,
                         struct taca_err *err) {
    struct flag_list *list;
    int choice;
    switch (f->type) {
    case FLAG_STRING: *(const char **)f->out = value; return TACA_OK;
    case FLAG_INT:
    case FLAG_NUMBER: return set_number(f, shown, value, err);
    case FLAG_SWITCH: return set_switch(f, shown, value, err);
    case FLAG_CHOICE:
        choice = choice_index(f->choices, value);
        if (choice < 0)
            return taca_fail_param(err, f->name, "%s must be one of %s, got '%s'", shown,
                                   f->choices, value);
        *(int *)f->out = choice;
        return TACA_OK;
    case FLAG_LIST:
        list = f->out;
        if (list->of_env) list->n = 0;
        list->of_env = false;
        return add_item(f, shown, value, err);
    }
    return TACA_EINTERNAL;
}

const struct flag *flags_find(const struct flag_set *set, const char *name, size_t len) {
    for (int i = 0; i < set->n_flags; i++)
        if (strlen(set->flags[i].name) == len && memcmp(set->flags[i].name, name, len) == 0)
            return &set->flags[i];
    return NULL;
}

const char *flags_nearest(const struct flag_set *set, const char *word) {
    const char *names[128];
    int n = 0;
    for (int i = 0; i < set->n_flags && n < 128; i++) names[n++] = set->flags[i].name;
    return taca_nearest(word, names, n);
}

static enum taca_code unknown(const struct flag_set *set, const char *arg, struct taca_err *err) {
    const char *near = arg[1] == '-' ? flags_nearest(set, arg + 2) : NULL;
    if (near) return taca_fail_param(err, "", "unknown option '%s', did you mean --%s?", arg, near);
    return taca_fail_param(err, "", "unknown option '%s'", arg);
}

static void note_source(struct flag_set *set, const struct flag *f, enum flag_origin from) {
    if (set->sources) set->sources[f - set->flags] = (struct flag_source){.from = from};
}

/* One option at argv[i]; *used = how many arguments it took. */
static enum taca_code parse_option(struct flag_set *set, int argc, char **argv, int i, int *used,
                                   struct taca_err *err) {
    const char *arg = argv[i], *value = NULL;
    const struct flag *f = NULL;
    char shown[80];
    *used = 1;
    if (arg[1] == '-') {
        const char *eq = strchr(arg, '=');
        size_t len = eq ? (size_t)(eq - arg - 2) : strlen(arg + 2);
        value = eq ? eq + 1 : NULL;
        f = flags_find(set, arg + 2, len);
        if (!f && !eq && strncmp(arg, "--no-", 5) == 0) {
            f = flags_find(set, arg + 5, len - 3);
            if (f && f->type != FLAG_SWITCH) f = NULL;
            if (f) value = "false";
        }
    } else {
        for (int k = 0; k < set->n_flags && !f; k++)
            if (set->flags[k].letter && set->flags[k].letter == arg[1]) f = &set->flags[k];
        if (f && arg[2]) value = arg + 2;
    }
    if (!f) return unknown(set, arg, err);
    note_source(set, f, FLAG_ARG);
    if (f->type == FLAG_SWITCH && !value) value = "true";
    snprintf(shown, sizeof shown, "--%s", f->name);
    if (!value) {
        if (i + 1 >= argc)
            return taca_fail_param(err, f->name, "%s needs a value: %s", shown,
                                   f->arg ? f->arg : "");
        value = argv[i + 1];
        *used = 2;
    }
    return flags_set(f, shown, value, err);
}

static void put_choice(struct taca_buf *out, const struct flag *f) {
    const char *at = f->choices;
    for (int i = *(int *)f->out; i > 0 && at; i--) at = strchr(at, '|'), at += at != NULL;
    if (at) taca_buf_json(out, at, strcspn(at, "|"));
}

void flags_text(const struct flag *f, struct taca_buf *out) {
    const struct flag_list *list;
    const char *s;
    switch (f->type) {
    case FLAG_STRING:
        s = *(const char **)f->out;
        s ? taca_buf_json(out, s, strlen(s)) : taca_buf_puts(out, "null");
        break;
    case FLAG_INT:
        if (*(int *)f->out < f->min)
            taca_buf_puts(out, "null");
        else
            taca_buf_printf(out, "%d", *(int *)f->out);
        break;
    case FLAG_NUMBER:
        if (isnan(*(double *)f->out))
            taca_buf_puts(out, "null");
        else
            taca_buf_printf(out, "%.15g", *(double *)f->out);
        break;
    case FLAG_SWITCH: taca_buf_puts(out, *(bool *)f->out ? "true" : "false"); break;
    case FLAG_CHOICE: put_choice(out, f); break;
    case FLAG_LIST:
        list = f->out;
        taca_buf_puts(out, "[");
        for (int i = 0; i < list->n; i++) {
            taca_buf_puts(out, i ? "," : "");
            taca_buf_json(out, list->item[i], strlen(list->item[i]));
        }
        taca_buf_puts(out, "]");
        break;
    }
}

/* ---- help ------------------------------------------------------------------------------------ */

enum { HELP_COLUMN = 33, HELP_WIDTH = 100, HELP_LEAST = 64, HELP_MOST = 120 };

/* What may be given, what is taken when nothing is, and the twin in the environment. */
static void put_notes(struct taca_buf *b, const struct flag *f) {
    const char *s = f->type == FLAG_STRING ? *(const char **)f->out : NULL;
    if (f->type == FLAG_CHOICE) taca_buf_printf(b, " (%s)", f->choices);
    if (f->type == FLAG_LIST) taca_buf_puts(b, " (repeatable)");
    if (s && *s) taca_buf_printf(b, " [%s]", s);
    if (f->type == FLAG_INT && *(int *)f->out >= f->min)
        taca_buf_printf(b, " [%d]", *(int *)f->out);
    if (f->type == FLAG_NUMBER && !isnan(*(double *)f->out) && *(double *)f->out >= f->min)
        taca_buf_printf(b, " [%.15g]", *(double *)f->out);
    if (f->type == FLAG_SWITCH && *(bool *)f->out) taca_buf_printf(b, " [on; --no-%s]", f->name);
    if (f->env) taca_buf_printf(b, " {%s}", f->env);
}

/* Off a terminal every option is one line, for grep. */
static size_t help_width(void) {
    struct winsize term = {0};
    if (!isatty(STDOUT_FILENO)) return SIZE_MAX;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &term) != 0 || term.ws_col == 0) return HELP_WIDTH;
    return term.ws_col < HELP_LEAST  ? HELP_LEAST
           : term.ws_col > HELP_MOST ? HELP_MOST
                                     : term.ws_col;
}

/* Words from column HELP_COLUMN on; `at` is where the cursor is. */
static void print_wrapped(const char *text, size_t at, size_t width) {
    bool begun = false;
    if (at >= HELP_COLUMN && width < SIZE_MAX) printf("\n"), at = 0;
    while (*text) {
        const size_t n = strcspn(text, " ");
        if (begun && at + 1 + n > width) printf("\n"), at = 0, begun = false;
        const int gap = begun ? 1 : at < HELP_COLUMN ? (int)(HELP_COLUMN - at) : 1;
        printf("%*s%.*s", gap, "", (int)n, text);
        at += (size_t)gap + n;
        begun = true;
        text += n + strspn(text + n, " ");
    }
    printf("\n");
}

static void print_flag(const struct flag *f, size_t width) {
    struct taca_buf b;
    char left[80];
    if (f->group) printf("\n%s:\n", f->group);
    int n = f->letter ? snprintf(left, sizeof left, "  -%c, --%s", f->letter, f->name)
                      : snprintf(left, sizeof left, "      --%s", f->name);
    if (f->arg && n > 0 && (size_t)n < sizeof left)
        n += snprintf(left + n, sizeof left - (size_t)n, " %s", f->arg);
    printf("%s", left);
    taca_buf_init(&b, 1 << 16);
    taca_buf_puts(&b, f->help);
    put_notes(&b, f);
    print_wrapped(b.data ? b.data : f->help, (size_t)n, width);
    taca_buf_finish(&b);
}

static void print_help(const struct flag_set *set) {
    const size_t width = help_width();
    printf("usage: taca %s\n\n%s\n", set->usage, set->about);
    if (set->n_flags == 0 || !set->flags[0].group) printf("\noptions:\n");
    for (int i = 0; i < set->n_flags; i++)
        if (set->flags[i].help) print_flag(&set->flags[i], width);
    printf("%s  %-*s%s\n", set->n_flags > 0 && set->flags[0].group ? "\n" : "", HELP_COLUMN - 2,
           "-h, --help", "this text");
    if (set->examples) printf("\n%s", set->examples);
}

static enum taca_code from_environment(struct flag_set *set, struct taca_err *err) {
    for (int i = 0; i < set->n_flags; i++) {
        const struct flag *f = &set->flags[i];
        const char *value = f->env ? getenv(f->env) : NULL;
        if (!value || !*value) continue;
        if (strcmp(f->name, "port") == 0 && strstr(value, "://")) {
            /* a Kubernetes Service called taca injects TACA_PORT=tcp://...: not ours */
            taca_log(TACA_LOG_WARN, "ignoring %s=%s (a service link, not a port)", f->env, value);
            continue;
        }
        note_source(set, f, FLAG_ENV);
        enum taca_code rc = f->type == FLAG_LIST ? set_list_from_env(f, value, err)
                                                 : flags_set(f, f->env, value, err);
        if (rc != TACA_OK) return rc;
    }
    return TACA_OK;
}

enum taca_code flags_read(struct flag_set *set, int argc, char **argv, struct taca_err *err) {
    bool options = true;
    enum taca_code rc = from_environment(set, err);
    for (int i = 1, used; i < argc && rc == TACA_OK; i += used) {
        used = 1;
        if (options && strcmp(argv[i], "--") == 0) {
            options = false;
        } else if (options && argv[i][0] == '-' && argv[i][1]) {
            rc = parse_option(set, argc, argv, i, &used, err);
        } else if (set->n_args == set->max_args || set->n_args == 32) {
            return taca_fail_param(err, "", "unexpected argument '%s'", argv[i]);
        } else {
            set->args[set->n_args++] = argv[i];
        }
    }
    if (rc == TACA_OK && set->n_args < set->min_args)
        return taca_fail_param(err, "", "too few arguments: taca %s", set->usage);
    return rc;
}

enum flags_result flags_parse(struct flag_set *set, int argc, char **argv) {
    struct taca_err err = {0};
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return print_help(set), FLAGS_HELP;
    if (flags_read(set, argc, argv, &err) == TACA_OK) return FLAGS_OK;
    fprintf(stderr, "taca %s: %s (see taca %s --help)\n", argv[0], err.text, argv[0]);
    return FLAGS_BAD;
}
