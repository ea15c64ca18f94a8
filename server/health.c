/* health.c - the probes. /livez asks whether the loop still turns, /readyz whether requests are
 * welcome, /startupz whether loading is over, and /health tells people in one word. A full queue is
 * none of these: it is answered with 429, request by request. */
#include <string.h>

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

static int workers_wanted(const struct service_status *s) {
    int n = 0;
    for (int d = 0; d < s->n_devices; d++)
        for (int m = 0; m < atomic_load(&s->models.n); m++)
            n += atomic_load(&s->devices[d].workers[m]) != WORKER_NONE;
    return n;
}

/* ,"devices":[{"device":"cpu","workers":{"demo":"ready"}}]: which one is missing. */
static void put_devices(struct taca_buf *out, const struct service_status *s) {
    static const char *const words[] = {"none", "loading", "ready", "broken"};
    taca_buf_puts(out, ",\"devices\":[");
    for (int d = 0; d < s->n_devices; d++) {
        const char *comma = "";
        taca_buf_puts(out, d ? ",{\"device\":" : "{\"device\":");
        taca_buf_json(out, s->devices[d].name, strlen(s->devices[d].name));
        taca_buf_puts(out, ",\"workers\":{");
        for (int m = 0; m < atomic_load(&s->models.n); m++) {
            const char *id = models_id(&s->models, m);
            int state = atomic_load(&s->devices[d].workers[m]);
            if (state == WORKER_NONE) continue;
            taca_buf_puts(out, comma);
            taca_buf_json(out, id, strlen(id));
            taca_buf_printf(out, ":\"%s\"", words[state]);
            comma = ",";
        }
        taca_buf_puts(out, "}}");
    }
    taca_buf_puts(out, "]");
}

void readyz_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    const struct service_status *s = r->hooks.status;
    (void)q;
    bool ready = atomic_load(&s->state) == SERVICE_READY;
    int workers = atomic_load(&s->workers);
    const char *word = state_word(r);
    if (ready && workers == 0)
        word = "no_worker";
    else if (ready && workers < workers_wanted(s))
        word = "degraded";
    reply_json(out, ready && workers > 0 ? 200 : 503);
    taca_buf_printf(&out->body, "{\"status\":\"%s\"", word);
    put_devices(&out->body, s);
    taca_buf_puts(&out->body, "}");
}

void startupz_answer(const struct routes *r, const struct http_request *q, struct http_reply *out) {
    int state = atomic_load(&r->hooks.status->state);
    (void)q;
    answer_state(r, state == SERVICE_READY || state == SERVICE_DRAINING, out);
}
