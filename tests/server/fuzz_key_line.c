/* fuzz_key_line.c - any bytes as a line of a key file and as a traceparent: within the ranges, or a
 * mistake with words. */
#include <string.h>

#include "server/access.h"
#include "server/trace.h"
#include "tests/fuzz/fuzz.h"

static void check_client(const struct access_client *c) {
    struct api_limits l, before;
    api_limits_init(&l);
    before = l;
    access_narrow(c, &l);
    demand(c->name[0] && strlen(c->name) <= CLIENT_NAME_MAX, "a name", c->name);
    demand(strlen(c->models) <= CLIENT_MODELS_MAX, "models", "");
    demand(c->concurrency >= 0 && c->requests_per_minute >= 0 && c->pixel_steps_per_minute >= 0,
           "limits", "");
    demand(c->max_priority >= -10 && c->max_priority <= 10, "a priority", "");
    demand(l.max_steps >= 1 && l.max_n >= 1 && l.max_pixels > 0 && l.max_side_px > 0, "some room",
           "");
    demand(l.max_steps <= before.max_steps && l.max_n <= before.max_n &&
               l.max_pixels <= before.max_pixels && l.max_side_px <= before.max_side_px,
           "no more than the service", "");
    demand(access_allows_model(c, "sd3") || c->models[0], "all models, or some", "");
}

static void check_trace(const char *text) {
    struct trace t;
    char header[TRACE_HEADER_LEN + 1];
    trace_read(&t, text);
    trace_header(header, &t);
    demand(strlen(header) == (t.id[0] ? TRACE_HEADER_LEN : 0), "a header, or none", header);
    if (!t.id[0]) return;
    struct trace again;
    trace_read(&again, header);
    demand(strcmp(again.id, t.id) == 0, "the same trace again", header);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct access_client c;
    struct taca_err err = {0};
    uint8_t hash[SHA256_BYTES];
    char *line = malloc(size + 1);
    if (!line) abort();
    memcpy(line, data, size);
    line[size] = 0;
    if (access_read_key(&c, hash, line, &err) == TACA_OK)
        check_client(&c);
    else
        demand(err.text[0], "a mistake has words", "");
    check_trace(line);
    free(line);
    return 0;
}
