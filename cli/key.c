/* key.c - makes an API key, and the line of `taca serve --api-key-file` that lets it in. The file
 * holds hashes alone, so a key is seen once: here. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/buf.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "server/access.h"

enum { RANDOM_BYTES = 32, KEY_MAX = 512 };

static void put_hex(struct taca_buf *out, const uint8_t *bytes, int n) {
    for (int i = 0; i < n; i++) taca_buf_printf(out, "%02x", bytes[i]);
}

static enum taca_code make_key(struct taca_buf *out, struct taca_err *err) {
    uint8_t bytes[RANDOM_BYTES];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return taca_fail(err, TACA_EIO, "no random numbers: %s", strerror(errno));
    taca_buf_puts(out, "taca_"); /* so that scanners for lost secrets know it */
    put_hex(out, bytes, RANDOM_BYTES);
    return TACA_OK;
}

/* One line of standard input. */
static enum taca_code read_key(struct taca_buf *out, struct taca_err *err) {
    char line[KEY_MAX + 2];
    if (!fgets(line, sizeof line, stdin)) line[0] = 0;
    size_t len = strcspn(line, "\r\n");
    for (size_t i = 0; i < len; i++)
        if (line[i] <= ' ' || line[i] > '~') len = 0;
    if (len < 1 || len > KEY_MAX)
        return taca_fail_param(err, "stdin", "a key is 1..%d printable ASCII characters, no space",
                               KEY_MAX);
    taca_buf_put(out, line, len);
    return TACA_OK;
}

static enum taca_code make_line(struct taca_buf *out, const char *name, const struct taca_buf *key,
                                const char *limits, struct taca_err *err) {
    struct access_client client;
    struct taca_err why = {0};
    uint8_t hash[SHA256_BYTES];
    sha256(hash, key->data, key->len);
    taca_buf_printf(out, "%s:", name);
    put_hex(out, hash, SHA256_BYTES);
    if (limits) taca_buf_printf(out, ":%s", limits);
    if (strpbrk(name, ":\n") || (limits && strpbrk(limits, "\r\n")) ||
        access_read_key(&client, hash, out->data, &why) != TACA_OK)
        return taca_fail_param(err, "name", "%s",
                               why.param[0] && strcmp(why.param, "limits") == 0
                                   ? why.text
                                   : "a name is 1..32 letters, digits, '_', '.' and '-'");
    return TACA_OK;
}

/* Behind what is there, at once and on a line of its own; a new file is for its owner alone. */
static enum taca_code append(const char *path, const struct taca_buf *line, struct taca_err *err) {
    struct taca_buf text;
    char last = '\n';
    taca_buf_init(&text, 8192);
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    off_t end = fd >= 0 ? lseek(fd, 0, SEEK_END) : -1;
    bool ok = end >= 0 && (end == 0 || pread(fd, &last, 1, end - 1) == 1);
    taca_buf_printf(&text, "%s%s\n", last == '\n' ? "" : "\n", line->data);
    ok = ok && !text.failed && write(fd, text.data, text.len) == (ssize_t)text.len;
    int cause = errno;
    if (fd >= 0 && close(fd) != 0) ok = false;
    taca_buf_finish(&text);
    return ok ? TACA_OK : taca_fail(err, TACA_EIO, "%s: %s", path, strerror(cause));
}

int cli_key(int argc, char **argv) {
    const char *limits = NULL, *file = NULL;
    bool from_stdin = false;
    const struct flag flags[] = {
        {"limits", 'l', FLAG_STRING, &limits, .arg = "LIST",
         .help = "concurrency=N,requests-per-minute=N,pixel-steps-per-minute=N,max-pixels=N,"
                 "max-side=N,max-steps=N,max-n=N,max-priority=N,models=A|B,admin"},
        {"file", 'f', FLAG_STRING, &file, .arg = "FILE", .help = "append the line to this file"},
        {"stdin", 0, FLAG_SWITCH, &from_stdin,
         .help = "take the key from standard input instead of making one"},
    };
    struct flag_set set = {
        .usage = "key NAME [options]",
        .about = "Makes an API key for `taca serve --api-key-file`. It is printed once; the file "
                 "holds its hash.\nWith --file only the key is printed, and the line goes into the "
                 "file: `systemctl reload taca`.",
        .flags = flags,
        .n_flags = FLAGS_COUNT(flags),
        .min_args = 1,
        .max_args = 1};
    struct taca_err err = {0};
    struct taca_buf key, line;
    enum flags_result parsed = flags_parse(&set, argc, argv);
    if (parsed != FLAGS_OK) return parsed == FLAGS_HELP ? EXIT_OK : EXIT_USAGE;
    taca_buf_init(&key, 1024);
    taca_buf_init(&line, 4096);
    enum taca_code rc = from_stdin ? read_key(&key, &err) : make_key(&key, &err);
    if (!rc) rc = make_line(&line, set.args[0], &key, limits, &err);
    if (!rc && file) rc = append(file, &line, &err);
    if (!rc && !from_stdin) printf("%s%s\n", file ? "" : "key  ", key.data);
    if (!rc && !file) printf("line %s\n", line.data);
    taca_buf_finish(&key);
    taca_buf_finish(&line);
    return rc ? cli_fail("key", &err) : EXIT_OK;
}
