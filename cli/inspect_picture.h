/* inspect_picture.h - what a picture says about itself. */
#ifndef TACA_CLI_INSPECT_PICTURE_H
#define TACA_CLI_INSPECT_PICTURE_H

#include <stdbool.h>

#include "base/err.h"

bool inspect_is_picture(const char *path);
/* Prints the picture's parameters as people read them ("parameters"), or the JSON that makes it
 * again. */
enum taca_code inspect_picture(const char *path, bool json, struct taca_err *err) TACA_MUST_USE;

#endif
