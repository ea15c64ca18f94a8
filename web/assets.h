/* assets.h - the files of this folder, inside the program. The table is made by embed.cmake. */
#ifndef TACA_WEB_ASSETS_H
#define TACA_WEB_ASSETS_H

#include <stddef.h>

struct web_asset {
    const char *name; /* "app.js"; NULL ends the table */
    const char *type; /* for Content-Type */
    const char *etag; /* with its quotes */
    const unsigned char *bytes;
    size_t len;
};

extern const struct web_asset web_assets[];

#endif
