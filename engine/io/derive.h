/* derive.h - the config of a part from the shapes of its tensors, for files without one. Private
 * to engine/io. */
#ifndef TACA_ENGINE_IO_DERIVE_H
#define TACA_ENGINE_IO_DERIVE_H

#include "engine/io/checkpoint.h"

enum io_family { IO_SD3, IO_FLUX };

/* The family of an open transformer. */
enum io_family io_family_of(const struct taca_ckpt *dit);

/* *out = what published models of the family have where shapes say nothing, under what `given` (may
 * be NULL) says, under what shapes say for sure. Both outputs of guessing and looking are in the
 * fields of a config.json. */
enum taca_code io_derive(json_t **out, const struct taca_ckpt *c, enum taca_kind kind,
                         enum io_family family, const json_t *given,
                         struct taca_err *err) TACA_MUST_USE;
/* The scheduler of the family: FLUX with guidance shifts by the size of the picture, schnell (no
 * guidance) does not shift. */
enum taca_code io_derive_scheduler(json_t **out, const struct taca_ckpt *dit, enum io_family family,
                                   struct taca_err *err) TACA_MUST_USE;

#endif
