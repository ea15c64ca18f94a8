/* safetensors.h - one .safetensors file, mapped read-only and fully checked before use.
 *
 * Rules enforced (a violation is TACA_EFORMAT naming the file, the tensor and what was found):
 * header length inside the file and at most 100 MB; JSON object without duplicate keys; known
 * dtypes; non-negative shapes whose product does not overflow; every tensor's bytes equal to its
 * shape; tensors tile the data exactly, no hole, no overlap, nothing behind. A Git LFS pointer or
 * an HTML page is named as such. Dtypes without an entry in enum taca_dtype are legal in the file
 * but cannot be found. */
#ifndef TACA_ENGINE_IO_SAFETENSORS_H
#define TACA_ENGINE_IO_SAFETENSORS_H

#include "base/err.h"
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
/* Writes a file (tools and tests). */
enum taca_code taca_safetensors_write(const char *path, const struct taca_tensor *tensors, size_t n,
                                      struct taca_err *err) TACA_MUST_USE;

#endif
