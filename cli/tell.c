/* tell.c - words for people: what came from files and servers does nothing to their terminal. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

void cli_tell(const char *command, const char *text) {
    struct taca_buf plain;
    taca_buf_init(&plain, 1 << 16);
    taca_buf_plain(&plain, text, strlen(text), "");
    fprintf(stderr, "taca %s: %s\n", command, plain.data ? plain.data : "");
    taca_buf_finish(&plain);
}

void cli_print(const struct taca_buf *text) {
    struct taca_buf plain;
    taca_buf_init(&plain, SIZE_MAX / 2);
    if (text->data) taca_buf_plain(&plain, text->data, text->len, "\n\t");
    if (plain.data) (void)fwrite(plain.data, 1, plain.len, stdout);
    if (plain.failed) fputs("?\n", stdout);
    taca_buf_finish(&plain);
}
