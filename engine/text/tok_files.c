/* tok_files.c - a CLIP tokenizer's files: vocabulary, merges, names of the special tokens.
 *
 * vocab.json + merges.txt, or tokenizer.json alone, or merges.txt alone: CLIP's ids follow from the
 * order of its merges. tokenizer_config.json and special_tokens_map.json when they are there. See
 * tok.h. */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/text/tok.h"
#include "engine/text/tok_dir.h"

enum {
    MAX_ID = 1 << 24,
    MAX_WORD = 1024, /* bytes of a merge */
    MAX_MERGES_FILE = 64 << 20,
    DEFAULT_LENGTH = 77
};
#define WORD_END "</w>"

/* Everything parsed while loading; the vocabulary itself is not kept. */
struct files {
    struct tok_bpe *t;
    struct tok_dir at;
    json_t *vocab_file, *tokenizer, *config, *map; /* NULL when the file is not there */
    const json_t *vocab;                           /* token -> id, in one of the above */
    char vocab_path[PATH_MAX];                     /* for messages */
};

/* ---- vocabulary ------------------------------------------------------------------------------ */

/* The id of a token, -1 when the vocabulary lacks it. */
static int32_t id_of(const struct files *f, const char *token, size_t len) {
    const json_t *v = json_object_getn(f->vocab, token, len);
    return v ? (int32_t)json_integer_value(v) : -1;
}

static enum taca_code check_vocab(struct files *f, struct taca_err *err) {
    const char *key;
    json_t *v;
    if (!json_is_object(f->vocab))
        return taca_fail(err, TACA_EFORMAT, "%s: no vocabulary (an object of token: id)",
                         f->vocab_path);
    json_object_foreach((json_t *)f->vocab, key, v) {
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= MAX_ID)
            return taca_fail(err, TACA_EFORMAT, "%s: token \"%.40s\" has no id in 0..%d",
                             f->vocab_path, key, MAX_ID - 1);
        if (id >= f->t->vocab) f->t->vocab = (int)id + 1;
    }
    return TACA_OK;
}

/* Vocabularies spell a byte as a visible character: itself where it is one, else U+0100 and up in
 * the order of the bytes left over. */
static void read_alphabet(struct files *f) {
    int32_t next = 0x100;
    for (int b = 0; b < 256; b++) {
        bool visible = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        unsigned char word[4 + sizeof WORD_END];
        size_t n = (size_t)tok_utf8(word, visible ? b : next++);
        f->t->first[b] = id_of(f, (const char *)word, n);
        memcpy(word + n, WORD_END, sizeof WORD_END);
        f->t->last[b] = id_of(f, (const char *)word, n + sizeof WORD_END - 1);
    }
}

/* ---- merges ---------------------------------------------------------------------------------- */

/* "path:line", or "path: model.merges[index]". */
static enum taca_code bad_merge(const struct files *f, size_t number, const char *what,
                                struct taca_err *err) {
    if (f->tokenizer)
        return taca_fail(err, TACA_EFORMAT, "%s: model.merges[%zu]: %s", f->at.path, number, what);
    return taca_fail(err, TACA_EFORMAT, "%s:%zu: %s", f->at.path, number, what);
}

/* Adds the merge "left right" of that rank. */
static enum taca_code add_merge(struct files *f, const char *s, size_t len, int32_t rank,
                                size_t number, struct taca_err *err) {
    char word[MAX_WORD], what[160];
    const char *space = memchr(s, ' ', len);
    size_t n = space ? (size_t)(space - s) : 0, rest = len - n - 1;
    if (n == 0 || rest == 0 || memchr(space + 1, ' ', rest)) {
        snprintf(what, sizeof what, "found \"%.60s\", wanted two tokens and one space", s);
        return bad_merge(f, number, what, err);
    }
    if (len > sizeof word) return bad_merge(f, number, "a merge of more than 1024 bytes", err);
    memcpy(word, s, n);
    memcpy(word + n, space + 1, rest);
    struct tok_merge m = {id_of(f, word, n), id_of(f, word + n, rest), rank,
                          id_of(f, word, n + rest)};
    if (m.left < 0 || m.right < 0 || m.id < 0) {
        snprintf(what, sizeof what, "\"%.60s\": %s not in the vocabulary", s,
                 m.left < 0    ? "the first token is"
                 : m.right < 0 ? "the second token is"
                               : "the result is");
        return bad_merge(f, number, what, err);
    }
    tok_merges_put(&f->t->merges, m);
    return TACA_OK;
}

static size_t count_lines(FILE *in) {
    size_t lines = 1;
    for (int c; (c = getc_unlocked(in)) != EOF;) lines += c == '\n';
    rewind(in);
    return lines;
}

/* A file that never arrived: words would fall into letters, and the prompt would be another. */
static enum taca_code no_merges(const char *path, struct taca_err *err) {
    return taca_fail(err, TACA_EFORMAT, "%s: there are no merges in it", path);
}

static enum taca_code read_merge_lines(struct files *f, FILE *in, struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    char *line = NULL;
    size_t cap = 0;
    int32_t rank = 0;
    errno = 0;
    for (size_t number = 1; rc == TACA_OK; number++) {
        ssize_t n = getline(&line, &cap, in);
        if (n < 0) break;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
        if (n == 0 || strncmp(line, "#version", 8) == 0) continue;
        rc = add_merge(f, line, (size_t)n, rank++, number, err);
    }
    if (rc == TACA_OK && ferror(in))
        rc = taca_fail(err, TACA_EIO, "%s: %s", f->at.path, strerror(errno));
    else if (rc == TACA_OK && !feof(in))
        rc = taca_fail(err, TACA_ENOMEM, "%s: out of memory", f->at.path);
    else if (rc == TACA_OK && rank == 0)
        rc = no_merges(f->at.path, err);
    free(line);
    return rc;
}

static enum taca_code load_merges_txt(struct files *f, struct taca_err *err) {
    struct stat st;
    enum taca_code rc = tok_dir_path(&f->at, "merges.txt", err);
    if (rc != TACA_OK) return rc;
    FILE *in = fopen(f->at.path, "re");
    if (!in || fstat(fileno(in), &st) != 0)
        rc = taca_fail(err, TACA_EIO, "%s: %s", f->at.path, strerror(errno));
    else if (!S_ISREG(st.st_mode) || st.st_size > MAX_MERGES_FILE)
        rc = taca_fail(err, TACA_EFORMAT, "%s: wanted a file of at most %d bytes", f->at.path,
                       MAX_MERGES_FILE);
    else if (!tok_merges_init(&f->t->merges, count_lines(in)))
        rc = taca_fail(err, TACA_ENOMEM, "%s: out of memory", f->at.path);
    else
        rc = read_merge_lines(f, in, err);
    if (in) fclose(in);
    return rc;
}

/* tokenizer.json: "a b" in older files, ["a", "b"] in newer ones. */
static enum taca_code load_merges_json(struct files *f, const json_t *merges,
                                       struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    size_t n = json_array_size(merges);
    if (!json_is_array(merges) || n > MAX_ID)
        return taca_fail(err, TACA_EFORMAT, "%s: model.merges is not an array of at most %d",
                         f->vocab_path, MAX_ID);
    if (n == 0) return no_merges(f->vocab_path, err);
    if (!tok_merges_init(&f->t->merges, n))
        return taca_fail(err, TACA_ENOMEM, "%s: out of memory", f->vocab_path);
    for (size_t i = 0; i < n && rc == TACA_OK; i++) {
        char pair[MAX_WORD + 1];
        const json_t *v = json_array_get(merges, i);
        const char *a = json_string_value(json_array_get(v, 0));
        const char *b = json_string_value(json_array_get(v, 1));
        if (json_is_string(v)) {
            rc = add_merge(f, json_string_value(v), json_string_length(v), (int32_t)i, i, err);
            continue;
        }
        if (!a || !b || json_array_size(v) != 2)
            return bad_merge(f, i, "wanted \"a b\" or [\"a\", \"b\"]", err);
        int len = snprintf(pair, sizeof pair, "%s %s", a, b);
        if (len < 0 || (size_t)len >= sizeof pair)
            return bad_merge(f, i, "a merge of more than 1024 bytes", err);
        rc = add_merge(f, pair, (size_t)len, (int32_t)i, i, err);
    }
    return rc;
}

static enum taca_code check_model(struct files *f, const json_t *model, struct taca_err *err) {
    const char *type = json_string_value(json_object_get(model, "type"));
    const char *end = json_string_value(json_object_get(model, "end_of_word_suffix"));
    const char *inner = json_string_value(json_object_get(model, "continuing_subword_prefix"));
    if (type && strcmp(type, "BPE") != 0)
        return taca_fail(err, TACA_EUNSUPPORTED, "%s: a %.32s tokenizer, wanted CLIP's BPE",
                         f->vocab_path, type);
    if (!end || strcmp(end, WORD_END) != 0 || (inner && inner[0]))
        return taca_fail(err, TACA_EUNSUPPORTED,
                         "%s: words end with \"%.16s\", a CLIP tokenizer has \"" WORD_END "\"",
                         f->vocab_path, end ? end : "");
    return TACA_OK;
}

/* ---- a vocabulary from its merges ------------------------------------------------------------ */

/* The 256 bytes, the visible ones first; each again as the end of a word; the merges; two marks. */
static bool name_bytes(json_t *vocab) {
    bool ok = true;
    int id = 0, next = 0x100;
    for (int visible = 1; visible >= 0; visible--)
        for (int b = 0; b < 256; b++) {
            if (((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174) != visible) continue;
            unsigned char word[4 + sizeof WORD_END];
            int n = tok_utf8(word, visible ? b : next++);
            ok = !json_object_setn_new(vocab, (char *)word, (size_t)n, json_integer(id)) && ok;
            memcpy(word + n, WORD_END, sizeof WORD_END);
            ok = !json_object_set_new(vocab, (char *)word, json_integer(256 + id++)) && ok;
        }
    return ok;
}

static bool name_merges(json_t *vocab, FILE *in) {
    char *line = NULL;
    size_t cap = 0;
    json_int_t id = 512;
    bool ok = true;
    for (ssize_t n; ok && (n = getline(&line, &cap, in)) >= 0;) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
        char *space = strchr(line, ' ');
        if (n == 0 || strncmp(line, "#version", 8) == 0) continue;
        if (space) memmove(space, space + 1, strlen(space)); /* a bad line is for later to tell */
        ok = json_object_set_new_nocheck(vocab, line, json_integer(id++)) == 0;
    }
    free(line);
    return ok && !json_object_set_new(vocab, "<|startoftext|>", json_integer(id)) &&
           !json_object_set_new(vocab, "<|endoftext|>", json_integer(id + 1));
}

/* f->at.path is that of merges.txt. */
static enum taca_code make_vocab(struct files *f, struct taca_err *err) {
    struct stat st;
    FILE *in = fopen(f->at.path, "re");
    if (!in || fstat(fileno(in), &st) != 0 || st.st_size > MAX_MERGES_FILE) {
        if (in) fclose(in);
        return taca_fail(err, TACA_EIO, "%s: wanted a file of at most %d bytes", f->at.path,
                         MAX_MERGES_FILE);
    }
    f->vocab_file = json_object();
    bool ok = f->vocab_file && name_bytes(f->vocab_file) && name_merges(f->vocab_file, in);
    fclose(in);
    f->vocab = f->vocab_file;
    memcpy(f->vocab_path, f->at.path, sizeof f->at.path);
    return ok ? TACA_OK : taca_fail(err, TACA_ENOMEM, "%s: out of memory", f->at.path);
}

static enum taca_code load_model(struct files *f, struct taca_err *err) {
    const json_t *model = NULL;
    enum taca_code rc = tok_dir_json(&f->at, &f->vocab_file, "vocab.json", err);
    if (rc == TACA_OK && f->vocab_file) {
        memcpy(f->vocab_path, f->at.path, sizeof f->at.path);
        f->vocab = f->vocab_file;
        rc = tok_dir_path(&f->at, "merges.txt", err);
    }
    if (rc == TACA_OK && !f->vocab_file && !tok_dir_has(&f->at, "tokenizer.json") &&
        tok_dir_has(&f->at, "merges.txt"))
        rc = make_vocab(f, err);
    if (rc == TACA_OK && (!f->vocab_file || access(f->at.path, F_OK) != 0)) {
        rc = tok_dir_json(&f->at, &f->tokenizer, "tokenizer.json", err);
        if (rc == TACA_OK && !f->tokenizer)
            rc = taca_fail(err, TACA_ENOTFOUND,
                           "%s: no CLIP tokenizer here, wanted vocab.json and merges.txt or "
                           "tokenizer.json",
                           f->at.name);
        memcpy(f->vocab_path, f->at.path, sizeof f->at.path);
        model = json_object_get(f->tokenizer, "model");
        f->vocab = json_object_get(model, "vocab");
        if (rc == TACA_OK) rc = check_model(f, model, err);
    }
    if (rc == TACA_OK) rc = check_vocab(f, err);
    if (rc != TACA_OK) return rc;
    read_alphabet(f);
    return model ? load_merges_json(f, json_object_get(model, "merges"), err)
                 : load_merges_txt(f, err);
}

/* ---- special tokens -------------------------------------------------------------------------- */

/* Adds or, unless a list declared it, changes a special token. */
static enum taca_code put_special(struct files *f, const struct tok_special *s,
                                  struct taca_err *err) {
    struct tok_bpe *t = f->t;
    struct tok_special *at = NULL;
    for (size_t i = 0; i < t->n_special && !at; i++)
        if (strcmp(t->special[i].text, s->text) == 0) at = &t->special[i];
    if (!at) {
        at = realloc(t->special, (t->n_special + 1) * sizeof *at);
        if (!at) return taca_fail(err, TACA_ENOMEM, "%s: out of memory", f->at.name);
        t->special = at;
        at += t->n_special;
        *at = (struct tok_special){.text = taca_arena_strndup(&t->arena, s->text, s->len),
                                   .len = s->len};
        if (!at->text || !tok_normalize(&at->cps, s->text, s->len)) {
            tok_cps_finish(&at->cps);
            return taca_fail(err, TACA_ENOMEM, "%s: out of memory", f->at.name);
        }
        t->n_special++;
    } else if (at->listed && !s->listed) {
        return TACA_OK;
    }
    at->id = s->id;
    at->normalized = s->normalized;
    at->listed = s->listed;
    if (s->id >= t->vocab) t->vocab = s->id + 1;
    return TACA_OK;
}

/* One entry of added_tokens or added_tokens_decoder. */
static enum taca_code put_listed(struct files *f, const json_t *v, json_int_t id,
                                 struct taca_err *err) {
    const json_t *content = json_object_get(v, "content");
    const char *text = json_string_value(content);
    if (!text || !text[0] || id < 0 || id >= MAX_ID)
        return taca_fail(err, TACA_EFORMAT, "%s: an added token without content or id", f->at.name);
    static const char *const flags[] = {"lstrip", "rstrip", "single_word"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (json_is_true(json_object_get(v, flags[i])))
            return taca_fail(err, TACA_EUNSUPPORTED, "%s: %s of added token \"%.40s\"", f->at.name,
                             flags[i], text);
    struct tok_special s = {.text = text,
                            .len = json_string_length(content),
                            .id = (int32_t)id,
                            .normalized = json_is_true(json_object_get(v, "normalized")),
                            .listed = true};
    return put_special(f, &s, err);
}

static enum taca_code load_listed(struct files *f, struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    const char *key;
    json_t *v;
    size_t i;
    json_array_foreach(json_object_get(f->tokenizer, "added_tokens"), i, v) {
        const json_t *id = json_object_get(v, "id");
        rc = put_listed(f, v, json_is_integer(id) ? json_integer_value(id) : -1, err);
        if (rc != TACA_OK) return rc;
    }
    json_object_foreach(json_object_get(f->config, "added_tokens_decoder"), key, v) {
        char *end;
        long long id = strtoll(key, &end, 10);
        rc = put_listed(f, v, *end || end == key ? -1 : id, err);
        if (rc != TACA_OK) return rc;
    }
    return rc;
}

/* The token of a role ("bos_token"): a string, an object with content, or `fallback`. *id stays
 * when the files say there is none (null). */
static enum taca_code load_role(struct files *f, const char *role, const char *fallback,
                                int32_t *id, struct taca_err *err) {
    const json_t *v = json_object_get(f->config, role);
    if (!v) v = json_object_get(f->map, role);
    if (json_is_null(v)) return TACA_OK;
    const json_t *content = json_is_object(v) ? json_object_get(v, "content") : v;
    const char *text = v ? json_string_value(content) : fallback;
    if (!text || !text[0])
        return taca_fail(err, TACA_EFORMAT,
                         "%s: %s is neither a string nor an object with \"content\"", f->at.name,
                         role);
    struct tok_special s = {.text = text,
                            .len = strlen(text),
                            .id = id_of(f, text, strlen(text)),
                            .normalized = json_is_true(json_object_get(v, "normalized"))};
    for (size_t i = 0; i < f->t->n_special && s.id < 0; i++)
        if (strcmp(f->t->special[i].text, text) == 0) s.id = f->t->special[i].id;
    if (s.id < 0)
        return taca_fail(err, TACA_EFORMAT, "%s: %s \"%.40s\" is not in %s", f->at.name, role, text,
                         f->vocab_path);
    *id = s.id;
    return put_special(f, &s, err);
}

static enum taca_code load_roles(struct files *f, struct taca_err *err) {
    static const char start[] = "<|startoftext|>", end[] = "<|endoftext|>";
    struct tok_bpe *t = f->t;
    t->bos = t->eos = t->pad = t->unk = -1;
    enum taca_code rc = load_role(f, "bos_token", start, &t->bos, err);
    if (rc == TACA_OK) rc = load_role(f, "eos_token", end, &t->eos, err);
    if (rc == TACA_OK) rc = load_role(f, "unk_token", end, &t->unk, err);
    if (rc == TACA_OK) rc = load_role(f, "pad_token", end, &t->pad, err);
    if (rc == TACA_OK && (t->bos < 0 || t->eos < 0))
        rc = taca_fail(err, TACA_EFORMAT, "%s: a CLIP tokenizer needs bos_token and eos_token",
                       f->at.name);
    if (t->pad < 0) t->pad = t->eos;
    return rc;
}

/* model_max_length: "no limit" is written as a huge number, maybe as a real one. */
static enum taca_code load_length(struct files *f, struct taca_err *err) {
    const json_t *v = json_object_get(f->config, "model_max_length");
    double n = json_is_number(v) ? json_number_value(v) : DEFAULT_LENGTH;
    if ((v && !json_is_number(v) && !json_is_null(v)) || !(n >= 2))
        return taca_fail(err, TACA_EFORMAT, "%s: model_max_length is not a number of 2 or more",
                         f->at.name);
    f->t->max_length = n < INT_MAX ? (int)n : INT_MAX;
    return TACA_OK;
}

enum taca_code tok_files_load(struct tok_bpe *t, const char *dir, struct taca_err *err) {
    struct files *f = calloc(1, sizeof *f);
    if (!f) return taca_fail(err, TACA_ENOMEM, "%s: out of memory", dir);
    f->t = t;
    f->at.name = dir;
    enum taca_code rc = load_model(f, err);
    if (rc == TACA_OK) rc = tok_dir_json(&f->at, &f->config, "tokenizer_config.json", err);
    if (rc == TACA_OK) rc = tok_dir_json(&f->at, &f->map, "special_tokens_map.json", err);
    if (rc == TACA_OK) rc = load_listed(f, err);
    if (rc == TACA_OK) rc = load_roles(f, err);
    if (rc == TACA_OK) rc = load_length(f, err);
    json_decref(f->vocab_file);
    json_decref(f->tokenizer);
    json_decref(f->config);
    json_decref(f->map);
    free(f);
    return rc;
}
