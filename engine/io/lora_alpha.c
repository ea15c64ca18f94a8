/* lora_alpha.c - the strength an adapter was trained at, where it is metadata of the file: PEFT's
 * configuration (r, lora_alpha, alpha_pattern, use_rslora), or one plain number for all modules. */
#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io/io.h"
#include "engine/io/lora_parts.h"

enum { MAX_DEPTH = 8, MAX_VALUES = 20000, MAX_PATTERN = 200 };

static bool has_prefix(const json_t *json, const char *prefix) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)json, key, v) {
        if (strncmp(key, prefix, strlen(prefix)) == 0) return true;
    }
    return false;
}

static enum taca_code read_number(double *out, const char *key, const char *text, const char *what,
                                  struct taca_err *err) {
    char *end, shown[IO_SHOWN];
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v))
        return taca_fail(err, TACA_EFORMAT, "%s: metadata %s: found %s, wanted a number", what, key,
                         io_shown(shown, text));
    *out = v;
    return TACA_OK;
}

enum taca_code lora_meta_open(struct lora_meta *out, const struct taca_safetensors *st,
                              const char *what, struct taca_err *err) {
    static const char *const plain[] = {"lora_alpha", "network_alpha", "alpha"};
    const char *text = taca_safetensors_metadata(st, "lora_adapter_metadata");
    enum taca_code rc = TACA_OK;
    *out = (struct lora_meta){.prefix = "", .alpha = (double)NAN};
    if (text) {
        rc = io_json_parse(&out->json, text, strlen(text), MAX_DEPTH, MAX_VALUES, what, err);
        if (rc) return rc;
        /* one part for each model of a pipeline */
        if (has_prefix(out->json, "transformer.")) out->prefix = "transformer.";
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain && !rc && isnan(out->alpha); i++)
        if ((text = taca_safetensors_metadata(st, plain[i])))
            rc = read_number(&out->alpha, plain[i], text, what, err);
    if (rc) lora_meta_finish(out);
    return rc;
}

void lora_meta_finish(struct lora_meta *m) {
    json_decref(m->json);
    m->json = NULL;
}

static const json_t *field(const struct lora_meta *m, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "%s%s", m->prefix, name);
    return json_object_get(m->json, key);
}

/* A pattern of the trainer's language in ours: \d is spelled out, (?: is a plain group. Counted
 * repeats and back references are left out, for their cost has no bound. */
static bool translate(char *to, size_t size, const char *from) {
    size_t n = 0;
    for (; *from && n + 8 < size; from++) {
        if (*from == '{') return false;
        if (from[0] == '\\' && from[1] == 'd') {
            memcpy(to + n, "[0-9]", 5);
            n += 5;
            from++;
        } else if (from[0] == '(' && from[1] == '?' && from[2] == ':') {
            to[n++] = '(';
            from += 2;
        } else if (from[0] == '\\') {
            if (!from[1] || (from[1] >= '0' && from[1] <= '9')) return false;
            to[n++] = *from++;
            to[n++] = *from;
        } else {
            to[n++] = *from;
        }
    }
    to[n] = 0;
    return *from == 0;
}

/* Whether `pattern` matches `name` as a whole or a suffix of it that follows a dot. */
static enum taca_code matches(const char *pattern, const char *name, bool *yes,
                              struct taca_err *err) {
    char body[MAX_PATTERN + 64], whole[MAX_PATTERN + 96], shown[IO_SHOWN];
    regex_t re;
    const size_t len = strlen(pattern), have = strlen(name);
    *yes = have >= len && strcmp(name + have - len, pattern) == 0 &&
           (have == len || name[have - len - 1] == '.');
    if (*yes) return TACA_OK;
    bool fine = len <= MAX_PATTERN && translate(body, sizeof body, pattern);
    if (fine) {
        snprintf(whole, sizeof whole, "^(.*\\.)?(%s)$", body);
        fine = regcomp(&re, whole, REG_EXTENDED | REG_NOSUB) == 0;
    }
    if (!fine)
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "alpha_pattern: %s is no pattern that is read here",
                         io_shown(shown, pattern));
    *yes = regexec(&re, name, 0, NULL, 0) == 0;
    regfree(&re);
    return TACA_OK;
}

/* The alpha of PEFT's configuration; NaN when it names none. */
static enum taca_code configured(const struct lora_meta *m, const char *core, double *alpha,
                                 struct taca_err *err) {
    const json_t *patterns = field(m, "alpha_pattern"), *general = field(m, "lora_alpha");
    const char *pattern;
    json_t *v;
    *alpha = json_is_number(general) ? json_number_value(general) : (double)NAN;
    json_object_foreach((json_t *)(uintptr_t)patterns, pattern, v) {
        bool yes;
        enum taca_code rc = matches(pattern, core, &yes, err);
        if (rc) return rc;
        if (!yes) continue;
        *alpha = json_is_number(v) ? json_number_value(v) : (double)NAN;
        return TACA_OK;
    }
    return TACA_OK;
}

enum taca_code lora_meta_scale(const struct lora_meta *m, const char *core, int64_t rank,
                               double *scale, struct taca_err *err) {
    double alpha = (double)NAN;
    enum taca_code rc = TACA_OK;
    if (m->json) rc = configured(m, core, &alpha, err);
    if (rc) return rc;
    if (!isnan(alpha) && json_is_true(field(m, "use_rslora")))
        *scale = alpha / sqrt((double)rank);
    else if (!isnan(alpha))
        *scale = alpha / (double)rank;
    else
        *scale = isnan(m->alpha) ? 1 : m->alpha / (double)rank;
    return TACA_OK;
}
