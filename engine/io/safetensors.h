/* safetensors.h - one .safetensors file, mapped read-only and fully checked before use.
 *
 * Rules enforced (a violation is TACA_EFORMAT naming the file, the tensor and what was found):
 * header length inside the file and at most 100 MB; JSON object without duplicate keys, of at most
 * a million values; names of 1 to 512 bytes; known dtypes; at most TACA_MAX_RANK non-negative
 * dimensions whose product does not overflow; every tensor's bytes equal to its shape; tensors tile
 * the data exactly, no hole, no overlap, nothing behind. A Git LFS pointer, an HTML page, a pickle
 * and the like are named as such. Dtypes without an entry in enum taca_dtype are legal in the file
 * but cannot be found. */
#ifndef TACA_ENGINE_IO_SAFETENSORS_H
#define TACA_ENGINE_IO_SAFETENSORS_H

#include "base/err.h"
#include "engine/io/storage.h"
#include "kernels/tensor.h"

struct taca_safetensors;

enum taca_code taca_safetensors_open(struct taca_safetensors **out, const char *path,
                                     struct taca_err *err) TACA_MUST_USE;
void taca_safetensors_close(struct taca_safetensors *st);
size_t taca_safetensors_count(const struct taca_safetensors *st);
/* In file order of offsets; data stays valid until close. */
const struct taca_tensor *taca_safetensors_at(const struct taca_safetensors *st, size_t i);
const struct taca_tensor *taca_safetensors_find(const struct taca_safetensors *st,
                                                const char *name);

/* An entry of __metadata__, NULL when absent. */
const char *taca_safetensors_metadata(const struct taca_safetensors *st, const char *key);

/* All tensors, also of dtypes that find cannot return, in file order of offsets. */
size_t taca_safetensors_stored_count(const struct taca_safetensors *st);
const struct taca_stored *taca_safetensors_stored_at(const struct taca_safetensors *st, size_t i);

/* Writes a file (tools and tests). Names must differ, dims be non-negative; the order is the
 * writer's: wide dtypes first, then by name. Nothing is left at path on failure. */
enum taca_code taca_safetensors_write(const char *path, const struct taca_tensor *tensors, size_t n,
                                      struct taca_err *err) TACA_MUST_USE;

#endif
