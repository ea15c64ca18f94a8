/* gguf.h - one GGUF file (version 2 or 3), mapped read-only and fully checked before use.
 *
 * Rules enforced (a violation is TACA_EFORMAT naming the file, the place and what was found): every
 * count, length and offset inside the file; no key and no tensor twice; known value types; an
 * alignment that is a power of two; at most four non-negative dimensions whose product does not
 * overflow; whole blocks along the first of them; tensors follow each other on the alignment, no
 * overlap, nothing behind. Shapes are turned into C order (a GGUF file has the contiguous dimension
 * first). Types that are not read are legal in the file; their tensors have TACA_STORED_OTHER. */
#ifndef TACA_ENGINE_IO_GGUF_H
#define TACA_ENGINE_IO_GGUF_H

#include "base/err.h"
#include "engine/io/storage.h"

struct taca_gguf;

enum taca_code taca_gguf_open(struct taca_gguf **out, const char *path,
                              struct taca_err *err) TACA_MUST_USE;
void taca_gguf_close(struct taca_gguf *g);
/* Value of general.architecture, "" when absent. */
const char *taca_gguf_architecture(const struct taca_gguf *g);
/* Values of general.name, .basename and .finetune, "" when absent. */
const char *taca_gguf_title(const struct taca_gguf *g);
size_t taca_gguf_count(const struct taca_gguf *g);
/* In file order; data stays valid until close. */
const struct taca_stored *taca_gguf_at(const struct taca_gguf *g, size_t i);

#endif
