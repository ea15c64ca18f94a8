/* files.c - which files hold the weights of a component. Knows file names and the index of a
 * sharded set, not what is inside a shard. See io.h. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io/checkpoint.h"
#include "engine/io/io.h"

enum { MAX_SHARDS = 256, MAX_FILE_NAME = 255 };

static const char *const bases[] = {"diffusion_pytorch_model", "model"};
enum { BASES = sizeof bases / sizeof *bases };

static bool ends_with(const char *s, const char *tail) {
    size_t a = strlen(s), b = strlen(tail);
    return a >= b && strcmp(s + a - b, tail) == 0;
}

void io_files_finish(struct io_files *f) {
    for (size_t i = 0; i < f->n; i++) free(f->path[i]);
    free(f->path);
    free(f->index_path);
    json_decref(f->index);
    *f = (struct io_files){0};
}

/* ---- a directory: the file to begin with ----------------------------------------------------- */

/* What a scan of a directory saw, first two names of each kind. */
struct scan {
    char *single[2], *index[2];
    int n_single, n_index;
    char pickle[IO_SHOWN]; /* weights of a kind we do not read, "" = none */
    bool out_of_memory;
};

static void keep(struct scan *s, char **list, int *n, const char *name) {
    if (*n < 2) {
        list[*n] = strdup(name);
        if (!list[*n]) {
            s->out_of_memory = true;
            return;
        }
    }
    ++*n;
}

static void look_at(struct scan *s, const char *name) {
    static const char *const pickles[] = {".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".gguf"};
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++)
        if (ends_with(name, pickles[i])) io_shown(s->pickle, name);
    for (size_t i = 0; i < BASES; i++) {
        size_t len = strlen(bases[i]);
        if (strncmp(name, bases[i], len) != 0 || name[len] != '.') continue;
        if (strstr(name, ".safetensors.") && strstr(name, ".index.") && ends_with(name, ".json"))
            keep(s, s->index, &s->n_index, name);
        else if (ends_with(name, ".safetensors") && !strstr(name, "-of-"))
            keep(s, s->single, &s->n_single, name);
    }
}

static enum taca_code judge(const struct scan *s, const char **name, const char *dir,
                            struct taca_err *err) {
    if (s->out_of_memory) return taca_fail(err, TACA_ENOMEM, "%s: out of memory", dir);
    int n = s->n_index ? s->n_index : s->n_single;
    char *const *list = s->n_index ? s->index : s->single;
    if (n > 1)
        return taca_fail(err, TACA_EFORMAT, "%s: %d variants of the weights (%s, %s%s), one wanted",
                         dir, n, list[0], list[1], n > 2 ? ", ..." : "");
    if (n == 1) {
        *name = list[0];
        return TACA_OK;
    }
    if (ends_with(s->pickle, ".gguf"))
        return taca_fail(err, TACA_ENOTFOUND, "%s: holds %s; name that file itself", dir,
                         s->pickle);
    if (s->pickle[0])
        return taca_fail(err, TACA_EUNSUPPORTED, "%s: holds %s, only safetensors is supported", dir,
                         s->pickle);
    return taca_fail(err, TACA_ENOTFOUND, "%s: no %s.safetensors and no %s.safetensors in it", dir,
                     bases[0], bases[1]);
}

/* Variants: <base>.fp16.safetensors and the two spellings of their indexes. */
static enum taca_code find_variant(char **out, const char *dir, struct taca_err *err) {
    struct scan s = {.pickle = ""};
    const char *name = NULL;
    DIR *d = opendir(dir);
    if (!d) return taca_fail(err, TACA_EIO, "%s: %s", dir, strerror(errno));
    for (const struct dirent *e = readdir(d); e; e = readdir(d)) look_at(&s, e->d_name);
    closedir(d);
    enum taca_code rc = judge(&s, &name, dir, err);
    if (rc == TACA_OK) {
        *out = io_join(dir, name);
        if (!*out) rc = taca_fail(err, TACA_ENOMEM, "%s: out of memory", dir);
    }
    for (int i = 0; i < 2; i++) {
        free(s.single[i]);
        free(s.index[i]);
    }
    return rc;
}

/* The index if there is one, else the single file, else a lone variant of either. */
static enum taca_code find_in_dir(char **out, const char *dir, struct taca_err *err) {
    static const char *const names[] = {"diffusion_pytorch_model.safetensors.index.json",
                                        "model.safetensors.index.json",
                                        "diffusion_pytorch_model.safetensors", "model.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *p = io_join(dir, names[i]);
        if (!p) return taca_fail(err, TACA_ENOMEM, "%s: out of memory", dir);
        if (io_is_file(p)) {
            *out = p;
            return TACA_OK;
        }
        free(p);
    }
    return find_variant(out, dir, err);
}

/* ---- an index: the shards -------------------------------------------------------------------- */

/* A plain name inside the directory: an index is data and must not reach elsewhere. */
static bool plain_name(const char *s) {
    size_t len = strlen(s);
    return len > 0 && len <= MAX_FILE_NAME && s[0] != '.' && !strchr(s, '/');
}

static bool known(const struct io_files *f, const char *shard) {
    for (size_t i = f->n; i-- > 0;) { /* the last one first: maps come grouped */
        const char *slash = strrchr(f->path[i], '/');
        if (strcmp(slash ? slash + 1 : f->path[i], shard) == 0) return true;
    }
    return false;
}

static enum taca_code add_shard(struct io_files *f, const char *dir, const char *shard,
                                struct taca_err *err) {
    if (f->n == MAX_SHARDS)
        return taca_fail(err, TACA_EFORMAT, "%s: more than %d shards", f->index_path, MAX_SHARDS);
    char *p = io_join(dir, shard);
    if (!p) return taca_fail(err, TACA_ENOMEM, "%s: out of memory", f->index_path);
    f->path[f->n++] = p;
    if (!io_is_file(p))
        return taca_fail(err, TACA_ENOTFOUND, "%s: names the shard %s, which is not there",
                         f->index_path, shard);
    return TACA_OK;
}

static enum taca_code add_shards(struct io_files *f, const char *dir, struct taca_err *err) {
    const char *tensor;
    json_t *v, *map = json_object_get(f->index, "weight_map");
    char shown[IO_SHOWN];
    if (!json_is_object(map) || json_object_size(map) == 0)
        return taca_fail(err, TACA_EFORMAT, "%s: no weight_map", f->index_path);
    f->path = calloc(MAX_SHARDS, sizeof *f->path);
    if (!f->path) return taca_fail(err, TACA_ENOMEM, "%s: out of memory", f->index_path);
    json_object_foreach(map, tensor, v) {
        const char *shard = json_string_value(v);
        if (!shard || !plain_name(shard))
            return taca_fail(err, TACA_EFORMAT,
                             "%s: tensor %s: shard %s%s, a plain file name wanted", f->index_path,
                             io_shown(shown, tensor), shard ? "" : "name is no string",
                             shard ? shard : "");
        if (known(f, shard)) continue;
        enum taca_code rc = add_shard(f, dir, shard, err);
        if (rc != TACA_OK) return rc;
    }
    return TACA_OK;
}

enum taca_code io_files_find(struct io_files *out, const char *path, struct taca_err *err) {
    enum taca_code rc = TACA_OK;
    struct io_files f = {0};
    char *first = NULL;
    const bool is_dir = io_is_dir(path);

    if (is_dir)
        rc = find_in_dir(&first, path, err);
    else if (!(first = strdup(path)))
        rc = taca_fail(err, TACA_ENOMEM, "%s: out of memory", path);
    if (rc != TACA_OK) goto out;
    if (is_dir && ends_with(first, ".json")) {
        f.index_path = first;
        first = NULL;
        rc = taca_json_load(&f.index, f.index_path, err);
        if (rc == TACA_OK) rc = add_shards(&f, path, err);
    } else {
        f.path = malloc(sizeof *f.path);
        if (!f.path) {
            rc = taca_fail(err, TACA_ENOMEM, "%s: out of memory", path);
            goto out;
        }
        f.path[f.n++] = first;
        first = NULL;
    }
    if (rc != TACA_OK) goto out;
    *out = f;
    f = (struct io_files){0};
out:
    io_files_finish(&f);
    free(first);
    return rc;
}
