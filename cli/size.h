/* size.h - "WxH" of an option. */
#ifndef TACA_CLI_SIZE_H
#define TACA_CLI_SIZE_H

#include <stdio.h>

#include "base/err.h"

static inline enum taca_code cli_size(const char *text, int *width_px, int *height_px,
                                      struct taca_err *err) {
    int w, h;
    char end;
    if (sscanf(text, "%5dx%5d%c", &w, &h, &end) != 2)
        return taca_fail_param(err, "size", "--size must be WxH, such as 128x128, got '%s'", text);
    *width_px = w;
    *height_px = h;
    return TACA_OK;
}

#endif
