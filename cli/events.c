/* events.c - see events.h. */
#include "cli/events.h"

#include <string.h>

#include "base/json.h"

enum { LARGEST_FRAME = 64 << 20 };

void events_init(struct events *e) {
    *e = (struct events){0};
    taca_buf_init(&e->in, LARGEST_FRAME);
}

void events_finish(struct events *e) { taca_buf_finish(&e->in); }

void events_cut(struct events *e) {
    taca_buf_reset(&e->in);
    e->at = 0;
}

/* What follows "name:" in a line, or NULL. */
static const char *field(const char *line, size_t len, const char *name) {
    size_t n = strlen(name);
    if (len <= n || memcmp(line, name, n) != 0 || line[n] != ':') return NULL;
    return line + n + 1 + (line[n + 1] == ' ');
}

/* The number is in this line or nowhere: strtoull would look for it in those that follow. */
static uint64_t number(const char *digits, const char *end) {
    uint64_t v = 0;
    for (; digits < end && *digits >= '0' && *digits <= '9'; digits++)
        v = v * 10 + (uint64_t)(*digits - '0');
    return v;
}

/* The frame's lines; several of data are one text. */
static json_t *read_frame(struct events *e, const char *frame, size_t len) {
    struct taca_buf data;
    json_error_t why;
    bool no_memory;
    taca_buf_init(&data, LARGEST_FRAME);
    for (const char *line = frame, *end = frame + len; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t n = (size_t)((stop ? stop : end) - line);
        const char *value;
        if ((value = field(line, n, "id"))) e->last_id = number(value, line + n);
        if ((value = field(line, n, "data")))
            taca_buf_put(&data, value, (size_t)(line + n - value));
        line += n + 1;
    }
    json_t *v = data.len ? taca_json_parse(data.data, data.len, &why, &no_memory) : NULL;
    taca_buf_finish(&data);
    if (json_is_object(v)) return v;
    json_decref(v);
    return NULL;
}

/* Frees what was read, so that a long stream takes no more than its longest frame. */
static void drop_read(struct events *e) {
    if (!e->at) return;
    memmove(e->in.data, e->in.data + e->at, e->in.len - e->at);
    e->in.data[e->in.len -= e->at] = 0;
    e->at = 0;
}

json_t *events_next(struct events *e) {
    while (e->at < e->in.len) {
        const char *frame = e->in.data + e->at;
        const char *end = memmem(frame, e->in.len - e->at, "\n\n", 2);
        if (!end) break;
        e->at += (size_t)(end + 2 - frame);
        json_t *v = read_frame(e, frame, (size_t)(end - frame));
        if (v) return v;
    }
    drop_read(e);
    return NULL;
}
