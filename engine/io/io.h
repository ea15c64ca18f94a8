/* io.h - what the files of this folder share: a mapped file, guesses about its content, paths.
 *
 * Private to engine/io. */
#ifndef TACA_ENGINE_IO_IO_H
#define TACA_ENGINE_IO_IO_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/tensor.h"

/* A regular file (or a link to one) mapped read-only. Zeroed = nothing mapped. The size is that of
 * open time: what is appended later is not seen. */
struct io_map {
    const unsigned char *data; /* NULL when the file is empty */
    size_t size;
};
enum taca_code io_map_open(struct io_map *out, const char *path,
                           struct taca_err *err) TACA_MUST_USE;
void io_map_close(struct io_map *m);
/* Takes these bytes of a mapping out of memory for now; reading them brings them back. */
void io_map_let_go(const void *data, size_t bytes);

/* What a file that is not a safetensors file looks like, as the end of "x is ...", or NULL. Only
 * for messages: a legal length prefix may look like another format's magic. */
const char *io_looks_like(const unsigned char *data, size_t size);

/* "dir/name", NULL when out of memory. Free with free(). */
char *io_join(const char *dir, const char *name);
bool io_is_dir(const char *path);
bool io_is_file(const char *path);

/* s for a person's eyes: control characters replaced (a name must not move the cursor of a
 * terminal), cut to fit size >= 4. Returns buf. */
const char *io_clean(char *buf, size_t size, const char *s);
enum { IO_SHOWN = 96 };
static inline const char *io_shown(char buf[IO_SHOWN], const char *s) {
    return io_clean(buf, IO_SHOWN, s);
}
/* "[192, 256]"; a negative dimension prints as "any". Returns buf. */
enum { IO_SHAPE = 128 };
const char *io_shape(char buf[IO_SHAPE], int rank, const int64_t *dim);

/* JSON object from memory: duplicate keys refused, at most `max_depth` deep and `max_values` values
 * and keys. jansson spends up to 50 bytes per byte of text, so size alone bounds nothing. `what`
 * names the text in messages. */
enum taca_code io_json_parse(json_t **out, const char *text, size_t len, int max_depth,
                             size_t max_values, const char *what,
                             struct taca_err *err) TACA_MUST_USE;

/* The files that hold the weights of a component: one, or the shards that an index names. */
struct io_files {
    char **path;
    size_t n;
    json_t *index; /* the index, NULL for a single file; its weight_map is {tensor: shard name} */
    char *index_path;
};
/* path: a file, or a component's directory (see taca_ckpt_open). */
enum taca_code io_files_find(struct io_files *out, const char *path,
                             struct taca_err *err) TACA_MUST_USE;
void io_files_finish(struct io_files *f); /* zeroed is fine */

#endif
