/* flags.c - see flags.h. */
#include "cli/flags.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/near.h"

/* "taca COMMAND: ..." on stderr. */
__attribute__((format(printf, 2, 3))) static enum flags_result complain(const char *command,
                                                                        const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "taca %s: ", command);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, " (see taca %s --help)\n", command);
    va_end(ap);
    return FLAGS_BAD;
}

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

static enum flags_result set_number(const char *command, const struct flag *f, const char *shown,
                                    const char *value) {
    char *end;
    double v = strtod(value, &end);
    bool whole = f->type == FLAG_INT;
    bool ok = end != value && !*end && isfinite(v) && v >= f->min && v <= f->max;
    if (!ok || (whole && v != floor(v)))
        return complain(command, "%s must be %s in %.15g..%.15g, got '%s'", shown,
                        whole ? "a whole number" : "a number", f->min, f->max, value);
    if (whole)
        *(int *)f->out = (int)v;
    else
        *(double *)f->out = v;
    return FLAGS_OK;
}

static enum flags_result set_switch(const char *command, const struct flag *f, const char *shown,
                                    const char *value) {
    static const char *const words[] = {"1", "true", "yes", "on", "0", "false", "no", "off"};
    for (int i = 0; i < 8; i++) {
        if (strcmp(value, words[i]) != 0) continue;
        *(bool *)f->out = i < 4;
        return FLAGS_OK;
    }
    return complain(command, "%s must be true or false, got '%s'", shown, value);
}

static enum flags_result add_item(const char *command, struct flag_list *list, const char *shown,
                                  const char *value) {
    if (list->n == FLAG_LIST_MAX)
        return complain(command, "too many %s: at most %d", shown, FLAG_LIST_MAX);
    list->item[list->n++] = value;
    return FLAGS_OK;
}

/* "a,b": an item that is empty is none. */
static enum flags_result set_list_from_env(const char *command, const struct flag *f,
                                           const char *value) {
    struct flag_list *list = f->out;
    enum flags_result rc = FLAGS_OK;
    if ((size_t)snprintf(list->text, sizeof list->text, "%s", value) >= sizeof list->text)
        return complain(command, "%s must be at most %zu bytes", f->env, sizeof list->text - 1);
    list->of_env = true;
    for (char *at = list->text, *next; at && rc == FLAGS_OK; at = next) {
        next = strchr(at, ',');
        if (next) *next++ = 0;
        if (*at) rc = add_item(command, list, f->env, at);
    }
    return rc;
}

/* `shown` is how the user wrote the option: "--port" or "TACA_PORT". */
static enum flags_result set_value(const char *command, const struct flag *f, const char *shown,
                                   const char *value) {
    struct flag_list *list;
    int choice;
    switch (f->type) {
    case FLAG_STRING: *(const char **)f->out = value; return FLAGS_OK;
    case FLAG_INT:
    case FLAG_NUMBER: return set_number(command, f, shown, value);
    case FLAG_SWITCH: return set_switch(command, f, shown, value);
    case FLAG_CHOICE:
        choice = choice_index(f->choices, value);
        if (choice < 0)
            return complain(command, "%s must be one of %s, got '%s'", shown, f->choices, value);
        *(int *)f->out = choice;
        return FLAGS_OK;
    case FLAG_LIST:
        list = f->out;
        if (list->of_env) list->n = 0;
        list->of_env = false;
        return add_item(command, list, shown, value);
    }
    return FLAGS_BAD;
}

static const struct flag *find_long(const struct flag_set *set, const char *name, size_t len) {
    for (int i = 0; i < set->n_flags; i++)
        if (strlen(set->flags[i].name) == len && memcmp(set->flags[i].name, name, len) == 0)
            return &set->flags[i];
    return NULL;
}

static enum flags_result unknown(const struct flag_set *set, const char *command, const char *arg) {
    const char *names[128];
    int n = 0;
    for (int i = 0; i < set->n_flags && n < 128; i++) names[n++] = set->flags[i].name;
    const char *near = arg[1] == '-' ? taca_nearest(arg + 2, names, n) : NULL;
    if (near) return complain(command, "unknown option '%s', did you mean --%s?", arg, near);
    return complain(command, "unknown option '%s'", arg);
}

/* One option at argv[i]; *used = how many arguments it took. */
static enum flags_result parse_option(struct flag_set *set, int argc, char **argv, int i,
                                      int *used) {
    const char *command = argv[0], *arg = argv[i], *value = NULL;
    const struct flag *f = NULL;
    char shown[80];
    *used = 1;
    if (arg[1] == '-') {
        const char *eq = strchr(arg, '=');
        size_t len = eq ? (size_t)(eq - arg - 2) : strlen(arg + 2);
        value = eq ? eq + 1 : NULL;
        f = find_long(set, arg + 2, len);
        if (!f && !eq && strncmp(arg, "--no-", 5) == 0) {
            f = find_long(set, arg + 5, len - 3);
            if (f && f->type == FLAG_SWITCH) return *(bool *)f->out = false, FLAGS_OK;
            f = NULL;
        }
    } else {
        for (int k = 0; k < set->n_flags && !f; k++)
            if (set->flags[k].letter && set->flags[k].letter == arg[1]) f = &set->flags[k];
        if (f && arg[2]) value = arg + 2;
    }
    if (!f) return unknown(set, command, arg);
    if (f->type == FLAG_SWITCH && !value) return *(bool *)f->out = true, FLAGS_OK;
    snprintf(shown, sizeof shown, "--%s", f->name);
    if (!value) {
        if (i + 1 >= argc)
            return complain(command, "%s needs a value: %s", shown, f->arg ? f->arg : "");
        value = argv[i + 1];
        *used = 2;
    }
    return set_value(command, f, shown, value);
}

static void print_default(const struct flag *f) {
    const char *s;
    switch (f->type) {
    case FLAG_STRING:
        s = *(const char **)f->out;
        if (s && *s) printf(" [%s]", s);
        break;
    case FLAG_INT:
        if (*(int *)f->out >= f->min) printf(" [%d]", *(int *)f->out);
        break;
    case FLAG_NUMBER:
        if (!isnan(*(double *)f->out)) printf(" [%g]", *(double *)f->out);
        break;
    case FLAG_CHOICE: printf(" (%s)", f->choices); break;
    case FLAG_SWITCH:
        if (*(bool *)f->out) printf(" [on]");
        break;
    case FLAG_LIST: printf(" (repeatable)"); break;
    }
}

static void print_help(const struct flag_set *set) {
    printf("usage: taca %s\n\n%s\n\noptions:\n", set->usage, set->about);
    for (int i = 0; i < set->n_flags; i++) {
        const struct flag *f = &set->flags[i];
        char left[64];
        if (!f->help) continue;
        int n = f->letter ? snprintf(left, sizeof left, "-%c, --%s", f->letter, f->name)
                          : snprintf(left, sizeof left, "    --%s", f->name);
        if (f->arg && n > 0 && (size_t)n < sizeof left)
            snprintf(left + n, sizeof left - (size_t)n, " %s", f->arg);
        printf("  %-30s %s", left, f->help);
        print_default(f);
        if (f->env) printf(" {%s}", f->env);
        printf("\n");
    }
    printf("  %-30s %s\n", "-h, --help", "this text");
}

static enum flags_result from_environment(struct flag_set *set, const char *command) {
    for (int i = 0; i < set->n_flags; i++) {
        const struct flag *f = &set->flags[i];
        const char *value = f->env ? getenv(f->env) : NULL;
        if (!value || !*value) continue;
        if (strcmp(f->name, "port") == 0 && strstr(value, "://")) {
            /* a Kubernetes Service called taca injects TACA_PORT=tcp://...: not ours */
            fprintf(stderr, "taca %s: ignoring %s=%s (a service link, not a port)\n", command,
                    f->env, value);
            continue;
        }
        enum flags_result rc = f->type == FLAG_LIST ? set_list_from_env(command, f, value)
                                                    : set_value(command, f, f->env, value);
        if (rc != FLAGS_OK) return rc;
    }
    return FLAGS_OK;
}

enum flags_result flags_parse(struct flag_set *set, int argc, char **argv) {
    bool options = true;
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return print_help(set), FLAGS_HELP;
    enum flags_result rc = from_environment(set, argv[0]);
    for (int i = 1, used; i < argc && rc == FLAGS_OK; i += used) {
        used = 1;
        if (options && strcmp(argv[i], "--") == 0) {
            options = false;
        } else if (options && argv[i][0] == '-' && argv[i][1]) {
            rc = parse_option(set, argc, argv, i, &used);
        } else if (set->n_args == set->max_args || set->n_args == 32) {
            return complain(argv[0], "unexpected argument '%s'", argv[i]);
        } else {
            set->args[set->n_args++] = argv[i];
        }
    }
    if (rc == FLAGS_OK && set->n_args < set->min_args)
        return complain(argv[0], "too few arguments: taca %s", set->usage);
    return rc;
}
