/* data_dir.h - where the data is that comes with the program: models/ of the source tree or of an
 * installation (share/taca/models). */
#ifndef TACA_ENGINE_IO_DATA_DIR_H
#define TACA_ENGINE_IO_DATA_DIR_H

#include <stdbool.h>
#include <stddef.h>

/* path = that of `name` ("tokenizers/clip") under $TACA_DATA, or under models/ beside the program
 * or up to four folders above it, or under ../share/taca/models; false when it is nowhere. */
bool taca_data_find(char *path, size_t size, const char *name);

#endif
