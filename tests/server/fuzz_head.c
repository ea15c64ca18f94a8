/* fuzz_head.c - any bytes as what a connection sends: a verdict with words, the same however the
 * bytes were cut; then as the chunked body behind a head. */
#include <string.h>

#include "server/head.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_BODY = 1 << 20, EVERY_CUT = 512, SOME_CUTS = 64 };

static void check_verdict(const struct head *h, size_t size) {
    demand(h->status == HEAD_MORE || h->status == HEAD_GOOD ||
               (h->status >= 400 && h->status < 600),
           "a verdict", h->why ? h->why : "");
    if (h->status >= 400) demand(h->why && h->why[0], "a refusal has words", "");
    if (h->status != HEAD_GOOD) return;
    demand(h->len >= 16 && h->len <= size && h->len <= HEAD_MAX_BYTES, "inside the bytes", "");
    demand(h->minor == 0 || h->minor == 1, "HTTP/1", "");
    demand(!h->chunked || h->content_length == 0, "one length", "");
    demand(h->content_length <= MAX_BODY, "no longer than allowed", "");
}

/* Only the first few hundred bytes are cut everywhere: a cut costs a whole reading. */
static size_t next_cut(size_t at, size_t size) {
    return at < EVERY_CUT ? at + 1 : at + 1 + size / SOME_CUTS;
}

/* Some bytes in a block of exactly their size, so that a sanitizer sees what reads behind. */
static char *copy_of(const char *bytes, size_t size) {
    char *copy = malloc(size ? size : 1);
    if (!copy) abort();
    if (size) memcpy(copy, bytes, size);
    return copy;
}

static void check_head(struct head *whole, const char *bytes, size_t size) {
    head_check(whole, bytes, size, MAX_BODY);
    check_verdict(whole, size);
    for (size_t cut = 0; cut < size; cut = next_cut(cut, size)) {
        struct head part;
        char *copy = copy_of(bytes, cut);
        head_check(&part, copy, cut, MAX_BODY);
        check_verdict(&part, cut);
        demand(part.status == HEAD_MORE || part.status == whole->status, "more bytes change it",
               part.why ? part.why : "");
        if (part.status == HEAD_GOOD) demand(part.len == whole->len, "nor where it ends", "");
        free(copy);
    }
}

/* Fields are looked for in heads that are refused, too. */
static void check_find(const char *bytes, size_t size) {
    char out[64];
    memset(out, 'x', sizeof out);
    char *copy = copy_of(bytes, size);
    bool found = head_find(out, sizeof out, copy, size, "Origin");
    demand(!found || (memchr(out, 0, sizeof out) && !strchr(out, '\n')), "one line", "");
    free(copy);
}

static void check_chunks(const char *bytes, size_t size) {
    const char *why = NULL, *part_why = NULL;
    const int whole = head_check_chunks(bytes, size, MAX_BODY, &why);
    demand(whole == HEAD_MORE || whole == HEAD_GOOD || (whole >= 400 && why && why[0]),
           "a verdict on chunks", why ? why : "");
    for (size_t cut = 0; cut < size; cut = next_cut(cut, size)) {
        char *copy = copy_of(bytes, cut);
        const int part = head_check_chunks(copy, cut, MAX_BODY, &part_why);
        demand(part == HEAD_MORE || part == whole, "more bytes change the chunks", "");
        free(copy);
    }
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct head h = {0};
    const char *bytes = (const char *)data;
    check_head(&h, bytes, size);
    check_find(bytes, size);
    if (h.status == HEAD_GOOD && h.chunked) check_chunks(bytes + h.len, size - h.len);
    if (h.status == 400) check_chunks(bytes, size);
    return 0;
}
