/* head.h - is this request head one that every HTTP parser understands alike?
 *
 * RFC 9112 read strictly: what two parsers could read differently (two lengths, folded lines, bare
 * CR or LF, odd transfer codings) is refused, whoever would win. Pure: bytes in, verdict out; no
 * sockets, no clock, no memory of earlier calls. The listener asks again with more bytes. */
#ifndef TACA_SERVER_HEAD_H
#define TACA_SERVER_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HEAD_MAX_BYTES = 16384,
    HEAD_MAX_URI = 8192,
    HEAD_MAX_LINES = 100, /* header fields */
    HEAD_MAX_PAIRS = 64   /* query arguments, and cookies: the parser behind has a fixed pool */
};

enum { HEAD_MORE = 0, HEAD_GOOD = 200 }; /* any other verdict is the HTTP status of a refusal */

struct head {
    int status;      /* the verdict */
    const char *why; /* of a refusal: a constant sentence */
    size_t len;      /* bytes of a good head, its empty line included */
    int minor;       /* HTTP/1.minor */
    bool chunked, expects_continue;
    uint64_t content_length;
    size_t parse_bytes; /* memory for a parser that copies everything: an upper estimate */
};

/* Looks at the first len bytes that a connection has sent; returns out->status. The verdict on a
 * head does not depend on how it was cut: once it is not HEAD_MORE, more bytes do not change it.
 * Only a body length above max_body can be refused here; chunked bodies are counted elsewhere. */
int head_check(struct head *out, const char *bytes, size_t len, uint64_t max_body);

/* The value of the first line with this name, into out[max] with a NUL behind it; false when there
 * is none, or no room. Asks nothing else of the bytes: for answers to heads that are refused. */
bool head_find(char *out, size_t max, const char *bytes, size_t len, const char *name);

/* The beginning of a chunked body, as far as it is there: HEAD_MORE, HEAD_GOOD when complete, 400
 * when the framing is broken, 413 when a chunk is larger than max_body. */
int head_check_chunks(const char *bytes, size_t len, uint64_t max_body, const char **why);

#endif
