/* wire.c - see wire.h. */
#include "server/wire.h"

#include <string.h>

#include "base/log.h"

enum { WIRE_MAGIC = 0x57434154 /* "TACW" */, WIRE_VERSION = 6 };

struct wire_head {
    uint32_t magic;
    uint16_t version, type;
    uint32_t body, tail; /* bytes */
};

/* What each type looks like; a type that is not here is no message. */
static const struct {
    size_t body, max_tail;
} shapes[WIRE_TYPES_END] = {
    [WIRE_OPEN] = {sizeof(struct wire_open), WIRE_MAX_TAIL},
    [WIRE_STEP] = {sizeof(struct wire_step), 0},
    [WIRE_PREVIEW] = {sizeof(struct wire_seq), 0},
    [WIRE_DECODE] = {sizeof(struct wire_decode), 0},
    [WIRE_CLOSE] = {sizeof(struct wire_seq), 0},
    [WIRE_QUIT] = {sizeof(struct wire_seq), 0},
    [WIRE_CALIBRATE] = {sizeof(struct wire_calibrate), 0},
    [WIRE_LOG] = {sizeof(struct wire_log), 0},
    [WIRE_MEMORY] = {sizeof(struct wire_memory), 0},
    [WIRE_HELLO] = {sizeof(struct wire_hello), 0},
    [WIRE_FAILED] = {sizeof(struct wire_opened), 0},
    [WIRE_OPENED] = {sizeof(struct wire_opened), 0},
    [WIRE_STEPPED] = {sizeof(struct wire_stepped), 0},
    [WIRE_PREVIEWED] = {sizeof(struct wire_pixels), WIRE_MAX_TAIL},
    [WIRE_DECODED] = {sizeof(struct wire_pixels), 0},
    [WIRE_CALIBRATED] = {sizeof(struct wire_calibrated), 0},
};

void wire_put(struct taca_buf *out, const struct wire_msg *m) {
    struct wire_head h = {.magic = WIRE_MAGIC,
                          .version = WIRE_VERSION,
                          .type = (uint16_t)m->type,
                          .body = (uint32_t)shapes[m->type].body,
                          .tail = (uint32_t)m->tail_len};
    if (m->tail_len > shapes[m->type].max_tail) {
        out->failed = true;
        return;
    }
    taca_buf_put(out, &h, sizeof h);
    taca_buf_put(out, &m->u, shapes[m->type].body);
    taca_buf_put(out, m->tail, m->tail_len);
}

static bool terminated(const char *s, size_t size) { return memchr(s, 0, size) != NULL; }

static bool err_ok(const struct wire_err *e) {
    return e->code >= TACA_OK && e->code <= TACA_EINTERNAL &&
           terminated(e->param, sizeof e->param) && terminated(e->text, sizeof e->text);
}

static bool loras_ok(const struct taca_model_info *m) {
    if (m->n_loras < 0 || m->n_loras > TACA_MAX_SERVED_LORAS) return false;
    for (int i = 0; i < m->n_loras; i++)
        if (!terminated(m->loras[i].id, sizeof m->loras[i].id) ||
            !terminated(m->loras[i].naming, sizeof m->loras[i].naming))
            return false;
    return true;
}

static bool model_ok(const struct taca_model_info *m) {
    return terminated(m->id, sizeof m->id) && terminated(m->family, sizeof m->family) &&
           terminated(m->backend, sizeof m->backend) && terminated(m->device, sizeof m->device) &&
           terminated(m->precision, sizeof m->precision) && m->side_multiple_px > 0 &&
           m->default_steps > 0 && loras_ok(m);
}

static bool pixels_ok(const struct wire_msg *m) {
    const struct wire_pixels *p = &m->u.pixels;
    if (!err_ok(&p->err)) return false;
    if (p->err.code != TACA_OK) return m->tail_len == 0;
    if (p->width_px < 1 || p->height_px < 1 || p->width_px > 1 << 15 || p->height_px > 1 << 15)
        return false;
    return m->type == WIRE_DECODED || m->tail_len == (size_t)p->width_px * p->height_px * 3;
}

/* An image is three bytes a pixel, its mask one. */
static bool inputs_ok(const struct wire_open *o) {
    enum { MOST = 1 << 30 };
    return o->image_bytes >= 0 && o->image_bytes <= MOST && o->image_bytes % 3 == 0 &&
           (o->mask_bytes == 0 || o->mask_bytes == o->image_bytes / 3);
}

static bool sights_ok(const struct wire_calibrated *c) {
    if (!err_ok(&c->err) || c->n < 0 || c->n > WIRE_MAX_SIGHTS) return false;
    for (int64_t i = 0; i < c->n; i++)
        if (c->steps[i].rows < 1 || c->steps[i].rows > WIRE_MAX_SEQS || c->steps[i].tokens < 1)
            return false;
    return true;
}

static bool memory_ok(const struct wire_memory *m) {
    return m->device_used_bytes >= 0 && m->device_used_bytes <= m->device_total_bytes &&
           m->scratch_peak_bytes >= 0;
}

/* The values that the receiver uses as counts, indices or strings. */
static bool contents_ok(const struct wire_msg *m) {
    switch (m->type) {
    case WIRE_OPEN: return inputs_ok(&m->u.open);
    case WIRE_STEP: return m->u.step.n >= 1 && m->u.step.n <= WIRE_MAX_SEQS;
    case WIRE_DECODE: return m->u.decode.slot >= 0 && m->u.decode.slot <= INT32_MAX;
    case WIRE_HELLO:
        return model_ok(&m->u.hello.model) &&
               (m->u.hello.overlaps == 0 || m->u.hello.overlaps == 1);
    case WIRE_FAILED: return err_ok(&m->u.opened.err) && m->u.opened.err.code != TACA_OK;
    case WIRE_OPENED:
        return err_ok(&m->u.opened.err) &&
               (m->u.opened.err.code != TACA_OK ||
                (m->u.opened.steps >= 0 && m->u.opened.steps <= TACA_MAX_STEPS &&
                 m->u.opened.tokens >= 1));
    case WIRE_STEPPED: return err_ok(&m->u.stepped.err) && m->u.stepped.tokens >= 0;
    case WIRE_PREVIEWED:
    case WIRE_DECODED: return pixels_ok(m);
    case WIRE_LOG: return m->u.log.least >= TACA_LOG_DEBUG && m->u.log.least <= TACA_LOG_ERROR;
    case WIRE_MEMORY: return memory_ok(&m->u.memory);
    case WIRE_CALIBRATED: return sights_ok(&m->u.calibrated);
    case WIRE_PREVIEW:
    case WIRE_CLOSE:
    case WIRE_QUIT:
    case WIRE_CALIBRATE: return true;
    case WIRE_TYPES_END: break;
    }
    return false;
}

static long broken(struct taca_err *err, const char *what, unsigned found) {
    (void)taca_fail(err, TACA_EPROTO, "worker message: bad %s (%u)", what, found);
    return -1;
}

long wire_get(struct wire_msg *m, const void *bytes, size_t len, struct taca_err *err) {
    const unsigned char *at = bytes;
    struct wire_head h;
    if (len < sizeof h) return 0;
    memcpy(&h, at, sizeof h);
    if (h.magic != WIRE_MAGIC) return broken(err, "magic", h.magic);
    if (h.version != WIRE_VERSION) return broken(err, "version", h.version);
    if (h.type == 0 || h.type >= WIRE_TYPES_END) return broken(err, "type", h.type);
    if (h.body != shapes[h.type].body || h.tail > shapes[h.type].max_tail)
        return broken(err, "length", h.body);
    size_t total = sizeof h + h.body + h.tail;
    if (len < total) return 0;

    struct wire_msg got = {
        .type = (enum wire_type)h.type, .tail = at + sizeof h + h.body, .tail_len = h.tail};
    memcpy(&got.u, at + sizeof h, h.body);
    if (!contents_ok(&got)) return broken(err, "contents of type", h.type);
    *m = got;
    return (long)total;
}

void wire_err_set(struct wire_err *w, const struct taca_err *err, enum taca_code rc) {
    *w = (struct wire_err){.code = (int32_t)rc};
    if (rc == TACA_OK) return;
    memcpy(w->param, err->param, sizeof w->param);
    memcpy(w->text, err->text, sizeof w->text);
}

void wire_err_get(struct taca_err *err, const struct wire_err *w) {
    *err = (struct taca_err){.code = (enum taca_code)w->code};
    memcpy(err->param, w->param, sizeof err->param);
    memcpy(err->text, w->text, sizeof err->text);
}
