/* inspect_picture.c - `taca inspect x.png`, `x.jpg`: how a picture was made, as it says itself. */
#include <stdio.h>

#include "api/image_file.h"
#include "cli/cli.h"
#include "cli/file.h"
#include "cli/inspect_picture.h"

enum { SIGNATURE_BYTES = 8, LARGEST_FILE = 256 << 20, LARGEST_TEXT = 2 << 20 };

bool inspect_is_picture(const char *path) {
    char head[SIGNATURE_BYTES];
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    const bool is = api_image_is_readable(head, fread(head, 1, sizeof head, f));
    fclose(f);
    return is;
}

enum taca_code inspect_picture(const char *path, bool json, struct taca_err *err) {
    struct taca_buf bytes, text;
    taca_buf_init(&bytes, LARGEST_FILE);
    taca_buf_init(&text, LARGEST_TEXT);
    const char *keyword = json ? "taca" : "parameters";
    enum taca_code rc = file_read(&bytes, path, err);
    if (!rc && api_image_text(&text, keyword, bytes.data, bytes.len, NULL))
        rc = taca_fail(err, TACA_ENOTFOUND,
                       "%s does not say how it was made: it has no text \"%s\"", path, keyword);
    if (!rc) taca_buf_puts(&text, "\n");
    if (!rc) cli_print(&text);
    taca_buf_finish(&bytes);
    taca_buf_finish(&text);
    return rc;
}
