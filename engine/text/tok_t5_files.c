/* tok_t5_files.c - a T5 tokenizer's files: tokenizer.json, or spiece.model, with what
 * tokenizer_config.json adds. See tok_t5.h, tok_uni.h. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/utf8.h"
#include "engine/io/checkpoint.h"
#include "engine/text/tok_dir.h"
#include "engine/text/tok_uni.h"

enum { MAX_SPIECE = 64 << 20, MAX_EXTRA = 1000, DEFAULT_EXTRA = 100 };
#define UNK_PENALTY 10.0 /* below the least likely piece, as in the reference */

struct files {
    struct tok_t5 *t;
    struct tok_dir at;
    json_t *tokenizer, *config; /* NULL when the file is not there */
};

static enum taca_code no_memory(const struct files *f, struct taca_err *err) {
    return taca_fail(err, TACA_ENOMEM, "%s: out of memory", f->at.name);
}

/* ---- pieces ---------------------------------------------------------------------------------- */

enum taca_code tok_t5_add(struct tok_t5 *t, const char *text, size_t len, double score,
                          const char *path, struct taca_err *err) {
    if (len > UNI_MAX_PIECE || !isfinite(score) || t->n_ids == UNI_MAX_ID ||
        (len && !taca_utf8_valid(text, len)))
        return taca_fail(err, TACA_EFORMAT,
                         "%s: piece %d has %zu bytes and score %g; wanted UTF-8 of at most %d "
                         "bytes, a finite score, and at most %d pieces",
                         path, t->n_ids, len, score, UNI_MAX_PIECE, UNI_MAX_ID);
    struct uni_piece p = {.len = (uint32_t)len, .id = t->n_ids++, .score = score};
    p.text = taca_arena_strndup(&t->arena, text ? text : "", len);
    if (!p.text || !uni_vocab_add(&t->model.vocab, &p))
        return taca_fail(err, TACA_ENOMEM, "%s: out of memory", path);
    return TACA_OK;
}

/* A token to be cut out of the raw text. */
static enum taca_code add_special(struct files *f, const char *text, size_t len, int32_t id,
                                  const bool strip[2], struct taca_err *err) {
    struct tok_t5 *t = f->t;
    if (!text || !len || len > UNI_MAX_PIECE || id < 0 || id >= UNI_MAX_ID)
        return taca_fail(err, TACA_EFORMAT, "%s: an added token without content or id", f->at.path);
    struct uni_piece p = {.len = (uint32_t)len, .id = id, .lstrip = strip[0], .rstrip = strip[1]};
    p.text = taca_arena_strndup(&t->arena, text, len);
    if (!p.text || !uni_vocab_add(&t->special, &p)) return no_memory(f, err);
    if (id >= t->n_ids) t->n_ids = id + 1;
    return TACA_OK;
}

/* One entry of added_tokens or added_tokens_decoder. */
static enum taca_code add_listed(struct files *f, const json_t *v, json_int_t id,
                                 struct taca_err *err) {
    const json_t *content = json_object_get(v, "content");
    const char *text = json_string_value(content);
    static const char *const flags[] = {"normalized", "single_word"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (json_is_true(json_object_get(v, flags[i])))
            return taca_fail(err, TACA_EUNSUPPORTED, "%s: %s of added token \"%.40s\"", f->at.path,
                             flags[i], text ? text : "");
    const bool strip[2] = {json_is_true(json_object_get(v, "lstrip")),
                           json_is_true(json_object_get(v, "rstrip"))};
    return add_special(f, text, json_string_length(content), (int32_t)(id < UNI_MAX_ID ? id : -1),
                       strip, err);
}

/* Of one token declared twice the later declaration counts: tokenizer.json's. */
static enum taca_code add_all_listed(struct files *f, struct taca_err *err) {
    enum taca_code rc = tok_dir_path(&f->at, "tokenizer_config.json", err);
    const char *key;
    json_t *v;
    size_t i;
    json_object_foreach(json_object_get(f->config, "added_tokens_decoder"), key, v) {
        char *end;
        long long id = strtoll(key, &end, 10);
        if (rc == TACA_OK) rc = add_listed(f, v, *end || end == key ? -1 : id, err);
    }
    if (rc == TACA_OK) rc = tok_dir_path(&f->at, "tokenizer.json", err);
    json_array_foreach(json_object_get(f->tokenizer, "added_tokens"), i, v) {
        const json_t *id = json_object_get(v, "id");
        if (rc == TACA_OK)
            rc = add_listed(f, v, json_is_integer(id) ? json_integer_value(id) : -1, err);
    }
    return rc;
}

/* ---- tokenizer.json -------------------------------------------------------------------------- */

static const char *type_of(const json_t *v) {
    const char *type = json_string_value(json_object_get(v, "type"));
    return type ? type : "?";
}

static enum taca_code unsupported(const struct files *f, const char *what, const json_t *v,
                                  struct taca_err *err) {
    return taca_fail(err, TACA_EUNSUPPORTED, "%s: %s %.40s is not one that T5 has", f->at.path,
                     what, type_of(v));
}

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes into out, which has room for 3/4 of len; false when s is not base64 with its padding. */
static bool base64(unsigned char *out, size_t *n, const char *s, size_t len) {
    size_t digits = len, k = 0;
    while (digits > 0 && len - digits < 2 && s[digits - 1] == '=') digits--;
    if (len % 4 != 0) return false;
    uint32_t bits = 0;
    for (size_t i = 0; i < digits; i++) {
        int d = base64_digit(s[i]);
        if (d < 0) return false;
        bits = bits << 6 | (uint32_t)d;
        if (i % 4 != 0) out[k++] = (unsigned char)(bits >> (6 - 2 * (i % 4)));
    }
    *n = k;
    return true;
}

static enum taca_code load_charsmap(struct files *f, const json_t *v, struct taca_err *err) {
    const json_t *map = json_object_get(v, "precompiled_charsmap");
    const size_t len = json_string_length(map);
    size_t n = 0;
    if (!json_is_string(map) || len == 0) return TACA_OK; /* an empty map maps nothing */
    unsigned char *bytes = malloc(len);
    if (!bytes) return no_memory(f, err);
    enum taca_code rc =
        base64(bytes, &n, json_string_value(map), len)
            ? uni_charsmap_load(&f->t->map, &f->t->arena, bytes, n, f->at.path, err)
            : taca_fail(err, TACA_EFORMAT, "%s: precompiled_charsmap is not base64", f->at.path);
    free(bytes);
    return rc;
}

static bool is_string(const json_t *v, const char *key, const char *want) {
    const char *s = json_string_value(json_object_get(v, key));
    return s && strcmp(s, want) == 0;
}

static enum taca_code load_normalizer_step(struct files *f, const json_t *v, struct taca_err *err) {
    const char *type = type_of(v);
    if (strcmp(type, "Precompiled") == 0) return load_charsmap(f, v, err);
    if (strcmp(type, "Strip") == 0 && !json_is_true(json_object_get(v, "strip_left"))) {
        f->t->strip_right = json_is_true(json_object_get(v, "strip_right"));
        return TACA_OK;
    }
    if (strcmp(type, "Replace") == 0 &&
        is_string(json_object_get(v, "pattern"), "Regex", " {2,}") &&
        is_string(v, "content", UNI_SPACE)) {
        f->t->collapse = true;
        return TACA_OK;
    }
    return unsupported(f, "normalizer", v, err);
}

/* A Sequence's parts, or the one step itself. */
static enum taca_code each_step(struct files *f, const json_t *v, const char *list,
                                enum taca_code (*fn)(struct files *f, const json_t *v,
                                                     struct taca_err *err),
                                struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    const json_t *step;
    size_t i;
    if (!v || json_is_null(v)) return TACA_OK;
    if (strcmp(type_of(v), "Sequence") != 0) return fn(f, v, err);
    json_array_foreach(json_object_get(v, list), i, step) if (rc == TACA_OK) rc = fn(f, step, err);
    return rc;
}

/* Metaspace: where U+2581 is put, and whether words are split there. Older files say
 * add_prefix_space alone. */
static enum taca_code load_split_step(struct files *f, const json_t *v, struct taca_err *err) {
    const json_t *scheme = json_object_get(v, "prepend_scheme");
    const char *name = scheme ? json_string_value(scheme) : "always";
    if (strcmp(type_of(v), "WhitespaceSplit") == 0) {
        f->t->split_space = true;
        return TACA_OK;
    }
    if (strcmp(type_of(v), "Metaspace") != 0 || !is_string(v, "replacement", UNI_SPACE) || !name)
        return unsupported(f, "pre_tokenizer", v, err);
    if (!scheme && json_is_false(json_object_get(v, "add_prefix_space"))) name = "never";
    f->t->split = !json_is_false(json_object_get(v, "split"));
    if (strcmp(name, "always") == 0)
        f->t->prepend = UNI_ALWAYS;
    else if (strcmp(name, "first") == 0)
        f->t->prepend = UNI_FIRST;
    else if (strcmp(name, "never") == 0)
        f->t->prepend = UNI_NEVER;
    else
        return taca_fail(err, TACA_EUNSUPPORTED, "%s: prepend_scheme \"%.40s\"", f->at.path, name);
    return TACA_OK;
}

static enum taca_code load_pieces(struct files *f, const json_t *model, struct taca_err *err) {
    const json_t *vocab = json_object_get(model, "vocab"), *v;
    enum taca_code rc = TACA_OK;
    size_t i;
    json_array_foreach(vocab, i, v) {
        const json_t *text = json_array_get(v, 0), *score = json_array_get(v, 1);
        if (!json_is_string(text) || !json_is_number(score))
            return taca_fail(err, TACA_EFORMAT, "%s: model.vocab[%zu]: wanted [piece, score]",
                             f->at.path, i);
        rc = tok_t5_add(f->t, json_string_value(text), json_string_length(text),
                        json_number_value(score), f->at.path, err);
        if (rc != TACA_OK) return rc;
    }
    int64_t unk;
    rc = taca_cfg_int(model, "unk_id", -1, 0, f->t->n_ids - 1, &unk, err);
    if (rc == TACA_OK && unk < 0)
        rc = taca_fail(err, TACA_EFORMAT, "%s: model has no unk_id among its %d pieces", f->at.path,
                       f->t->n_ids);
    f->t->model.unk = (int32_t)unk;
    return rc;
}

static enum taca_code load_tokenizer(struct files *f, struct taca_err *err) {
    const json_t *model = json_object_get(f->tokenizer, "model");
    enum taca_code rc = tok_dir_path(&f->at, "tokenizer.json", err);
    if (rc == TACA_OK && strcmp(type_of(model), "Unigram") != 0)
        rc = taca_fail(err, TACA_EUNSUPPORTED, "%s: a %.32s tokenizer, wanted T5's Unigram",
                       f->at.path, type_of(model));
    if (rc == TACA_OK && json_is_true(json_object_get(model, "byte_fallback")))
        rc = taca_fail(err, TACA_EUNSUPPORTED, "%s: model.byte_fallback", f->at.path);
    if (rc == TACA_OK) rc = load_pieces(f, model, err);
    if (rc == TACA_OK)
        rc = each_step(f, json_object_get(f->tokenizer, "normalizer"), "normalizers",
                       load_normalizer_step, err);
    if (rc == TACA_OK)
        rc = each_step(f, json_object_get(f->tokenizer, "pre_tokenizer"), "pretokenizers",
                       load_split_step, err);
    return rc;
}

/* ---- spiece.model ---------------------------------------------------------------------------- */

static enum taca_code read_spiece(struct files *f, FILE *in, struct taca_err *err) {
    struct stat st;
    if (fstat(fileno(in), &st) != 0)
        return taca_fail(err, TACA_EIO, "%s: %s", f->at.path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size < 1 || st.st_size > MAX_SPIECE)
        return taca_fail(err, TACA_EFORMAT, "%s: wanted a file of 1 to %d bytes", f->at.path,
                         MAX_SPIECE);
    const size_t size = (size_t)st.st_size;
    unsigned char *data = malloc(size);
    if (!data) return no_memory(f, err);
    enum taca_code rc = fread(data, 1, size, in) == size
                            ? tok_spiece_read(f->t, data, size, f->at.path, err)
                            : taca_fail(err, TACA_EIO, "%s: cannot be read", f->at.path);
    free(data);
    return rc;
}

/* <extra_id_99> .. <extra_id_0>, which the file itself lacks; pieces and special tokens alike. */
static enum taca_code add_extra(struct files *f, struct taca_err *err) {
    static const bool strip[2] = {true, true};
    int64_t n;
    enum taca_code rc = taca_cfg_int(f->config, "extra_ids", DEFAULT_EXTRA, 0, MAX_EXTRA, &n, err);
    while (rc == TACA_OK && n-- > 0) {
        char text[32];
        int len = snprintf(text, sizeof text, "<extra_id_%d>", (int)n);
        const int32_t id = f->t->n_ids;
        rc = tok_t5_add(f->t, text, (size_t)len, 0, f->at.path, err);
        if (rc == TACA_OK) rc = add_special(f, text, (size_t)len, id, strip, err);
    }
    return rc;
}

static enum taca_code load_spiece(struct files *f, struct taca_err *err) {
    bool legacy = true;
    enum taca_code rc = tok_dir_path(&f->at, "spiece.model", err);
    if (rc != TACA_OK) return rc;
    FILE *in = fopen(f->at.path, "re");
    if (!in && errno == ENOENT)
        return taca_fail(err, TACA_ENOTFOUND,
                         "%s: no T5 tokenizer here, wanted tokenizer.json or spiece.model",
                         f->at.name);
    if (!in) return taca_fail(err, TACA_EIO, "%s: %s", f->at.path, strerror(errno));
    rc = read_spiece(f, in, err);
    fclose(in);
    if (rc == TACA_OK) rc = add_extra(f, err);
    if (rc == TACA_OK) rc = taca_cfg_bool(f->config, "legacy", true, &legacy, err);
    f->t->strip_right = f->t->collapse = f->t->split = true;
    f->t->prepend = legacy ? UNI_ALWAYS : UNI_FIRST;
    return rc;
}

/* ---- roles ----------------------------------------------------------------------------------- */

/* The id of a role ("eos_token"): a string, an object with content, or `fallback`. */
static enum taca_code load_role(struct files *f, const char *role, const char *fallback,
                                int32_t *id, struct taca_err *err) {
    static const bool strip[2] = {false, false};
    const json_t *v = json_object_get(f->config, role);
    const json_t *content = json_is_object(v) ? json_object_get(v, "content") : v;
    const char *text = v && !json_is_null(v) ? json_string_value(content) : fallback;
    if (!text)
        return taca_fail(err, TACA_EFORMAT,
                         "%s: %s is neither a string nor an object with \"content\"", f->at.name,
                         role);
    const struct uni_piece *listed = uni_vocab_find(&f->t->special, text, strlen(text));
    const struct uni_piece *p = uni_vocab_find(&f->t->model.vocab, text, strlen(text));
    if (!p) p = listed;
    if (!p)
        return taca_fail(err, TACA_EFORMAT, "%s: %s \"%.40s\" is not in the vocabulary", f->at.name,
                         role, text);
    *id = p->id;
    if (f->tokenizer || listed) return TACA_OK;
    return add_special(f, text, strlen(text), p->id, strip, err);
}

static void set_unk_score(struct uni_model *m) {
    double least = 0;
    for (size_t i = 0; i < m->vocab.n; i++)
        if (i == 0 || m->vocab.piece[i].score < least) least = m->vocab.piece[i].score;
    m->unk_score = least - UNK_PENALTY;
}

static enum taca_code load_all(struct files *f, struct taca_err *err) {
    struct tok_t5 *t = f->t;
    int32_t unk;
    enum taca_code rc = tok_dir_json(&f->at, &f->config, "tokenizer_config.json", err);
    if (rc == TACA_OK) rc = tok_dir_json(&f->at, &f->tokenizer, "tokenizer.json", err);
    if (rc == TACA_OK) rc = f->tokenizer ? load_tokenizer(f, err) : load_spiece(f, err);
    if (rc != TACA_OK) return rc;
    uni_vocab_sort(&t->model.vocab);
    set_unk_score(&t->model);
    rc = add_all_listed(f, err);
    uni_vocab_sort(&t->special);
    if (rc == TACA_OK) rc = load_role(f, "eos_token", "</s>", &t->eos, err);
    if (rc == TACA_OK) rc = load_role(f, "pad_token", "<pad>", &t->pad, err);
    if (rc == TACA_OK && !f->tokenizer) rc = load_role(f, "unk_token", "<unk>", &unk, err);
    uni_vocab_sort(&t->special);
    return rc;
}

enum taca_code tok_t5_load(struct tok_t5 *t, const char *dir, struct taca_err *err) {
    struct files *f = calloc(1, sizeof *f);
    if (!f) return taca_fail(err, TACA_ENOMEM, "%s: out of memory", dir);
    f->t = t;
    f->at.name = dir;
    enum taca_code rc = load_all(f, err);
    json_decref(f->tokenizer);
    json_decref(f->config);
    free(f);
    return rc;
}
