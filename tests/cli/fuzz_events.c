/* fuzz_events.c - any bytes as an event stream, in pieces that the first byte says: the same events
 * come whole or in pieces, and every one is an object. For libFuzzer (preset fuzz). */
#include "cli/events.h"

#include <string.h>

#include "tests/fuzz/fuzz.h"

/* All events of the stream as one text, received `piece` bytes at a time. */
static void read_all(struct taca_buf *out, const unsigned char *data, size_t size, size_t piece) {
    struct events e;
    events_init(&e);
    for (size_t at = 0; at < size; at += piece) {
        taca_buf_put(&e.in, data + at, size - at < piece ? size - at : piece);
        for (json_t *v; (v = events_next(&e)) != NULL; json_decref(v)) {
            demand(json_is_object(v), "an object", "");
            char *text = json_dumps(v, JSON_COMPACT);
            demand(text != NULL, "which can be written", "");
            taca_buf_printf(out, "%llu %s\n", (unsigned long long)e.last_id, text);
            free(text);
        }
        demand(e.at <= e.in.len, "no more is read than there is", "");
    }
    events_finish(&e);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct taca_buf whole, pieces;
    if (size < 1) return 0;
    taca_buf_init(&whole, 64 << 20);
    taca_buf_init(&pieces, 64 << 20);
    read_all(&whole, data + 1, size - 1, size);
    read_all(&pieces, data + 1, size - 1, 1 + data[0] % 64);
    demand(whole.len == pieces.len &&
               (!whole.len || memcmp(whole.data, pieces.data, whole.len) == 0),
           "whole or in pieces, the events are the same", "");
    taca_buf_finish(&whole);
    taca_buf_finish(&pieces);
    return 0;
}
