/* health.c - the probes. /livez asks whether the loop still turns, /readyz whether requests are
 * welcome, /startupz whether loading is over, and /health tells people in one word. A full queue is
 * none of these: it is answered with 429, request by request. */
#include "base/clock.h"
#include "server/routes.h"

enum { STALE_HEARTBEAT_MS = 10 * 1000 };

static const char *state_word(const struct routes *r) {
    switch ((enum service_state)atomic_load(&r->hooks.status->state)) {
    case SERVICE_LOADING: return "loading";
    case SERVICE_READY: return "ok";
    case SERVICE_DRAINING: return "draining";
    case SERVICE_FAILED: return "failed";
    }
    return "failed";
}

static void answer_state(const struct routes *r, bool good, struct http_reply *out) {
    reply_json(out, good ? 200 : 503);
    taca_buf_printf(&out->body, "{\"status\":\"%s\"}", state_word(r));
}

void health_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    struct service_status *s = r->hooks.status;
    (void)q;
    bool ready = atomic_load(&s->state) == SERVICE_READY;
    reply_json(out, ready ? 200 : 503);
    taca_buf_printf(&out->body,
                    "{\"status\":\"%s\",\"version\":\"" TACA_VERSION
                    "\",\"waiting\":%d,\"running\":%d}",
                    state_word(r), atomic_load(&s->waiting), atomic_load(&s->running));
}

void livez_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    long long beat_us = atomic_load(&r->hooks.status->last_beat_us);
    long long age_ms = beat_us ? (taca_now_us() - beat_us) / 1000 : 0; /* 0: not turning yet */
    (void)q;
    bool alive = age_ms < STALE_HEARTBEAT_MS;
    reply_json(out, alive ? 200 : 503);
    taca_buf_printf(&out->body, "{\"status\":\"%s\",\"heartbeat_age_ms\":%lld}",
                    alive ? "ok" : "stuck", age_ms > 0 ? age_ms : 0);
}

void readyz_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    struct service_status *s = r->hooks.status;
    (void)q;
    bool ready = atomic_load(&s->state) == SERVICE_READY;
    if (ready && atomic_load(&s->workers) == 0) {
        reply_json(out, 503);
        taca_buf_puts(&out->body, "{\"status\":\"no_worker\"}");
        return;
    }
    answer_state(r, ready, out);
}

void startupz_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    int state = atomic_load(&r->hooks.status->state);
    (void)q;
    answer_state(r, state == SERVICE_READY || state == SERVICE_DRAINING, out);
}
