/* generate_there.c - `taca generate --server`: the picture is a job of a service.
 *
 * The job has a name of ours (PUT /v1/jobs/NAME), so asking twice makes one picture, and when the
 * connection breaks the events go on where they were (Last-Event-ID). A service that is full, that
 * starts or that is away for a moment is asked again until the user's patience ends; whoever
 * gives up, cancels the job there. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "api/image_file.h"
#include "api/reply.h"
#include "base/clock.h"
#include "base/json.h"
#include "cli/client.h"
#include "cli/events.h"
#include "cli/file.h"
#include "cli/generate.h"
#include "cli/progress.h"

enum {
    SILENCE_MS = 60000, /* a stream has a heartbeat every 15 s */
    GOODBYE_MS = 3000,
    LARGEST_PICTURE = 1 << 30,
    LARGEST_FILE = 256 << 20,
    LARGEST_PREVIEW_PX = 4096,
    PREVIEWS = 8,
    FIRST_PAUSE_MS = 250,
    LONGEST_PAUSE_MS = 4000,
    PATH_BYTES = CLIENT_MAX_PATH + 64
};

struct there {
    struct gen *g;
    struct client_url url;
    char name[API_ID_LEN + 1];
    char *body;
    struct taca_buf headers;
    bool sent;     /* the service may have heard of the job */
    bool accepted; /* it has the job */
    bool completed;
    double give_up_ms; /* when patience ends; what comes from the service renews it */
    int pause_ms;
    struct events events;
    struct api_error refusal; /* status 0 = none */
    uint64_t seed[GEN_MAX_IMAGES];
    int done[GEN_MAX_IMAGES]; /* steps */
    struct progress bar;
};

/* ---- what is asked --------------------------------------------------------------------------- */

static enum taca_code put_file(json_t *request, const char *field, const char *path,
                               struct taca_err *err) {
    struct taca_buf bytes, text;
    if (!path) return TACA_OK;
    taca_buf_init(&bytes, LARGEST_FILE);
    taca_buf_init(&text, 2 * (size_t)LARGEST_FILE);
    enum taca_code rc = file_read(&bytes, path, err);
    if (!rc) api_base64(&text, bytes.data, bytes.len);
    if (!rc && (text.failed || json_object_set_new(request, field, json_string(text.data))))
        rc = taca_fail(err, TACA_ENOMEM, "%s", path);
    taca_buf_finish(&bytes);
    taca_buf_finish(&text);
    return rc;
}

/* Adapters have ids there. Without --lora those of --from stay. */
static enum taca_code put_loras(struct gen *g, struct taca_err *err) {
    const struct gen_opts *o = g->o;
    json_t *list = json_array();
    for (int i = 0; i < o->lora.n; i++) {
        char id[256];
        double scale = -1e9;
        struct gen_lora use = {.id = id, .window = "always", .scale = 1};
        snprintf(id, sizeof id, "%.*s", gen_lora_split(o->lora.item[i], &scale), o->lora.item[i]);
        gen_lora_from_picture(g, &use);
        if (scale > -1e9) use.scale = scale;
        json_t *item =
            json_pack("{s:s, s:f, s:s}", "id", id, "scale", use.scale, "window", use.window);
        if (json_array_append_new(list, item)) {
            json_decref(list);
            return taca_fail_param(err, "lora", "--lora must be an id in UTF-8, got '%s'",
                                   o->lora.item[i]);
        }
    }
    if (o->lora.n > 0) (void)json_object_set(g->request, "loras", list);
    json_decref(list);
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(g->request, "loras"), i, item) {
        if (o->lora_window < 0) break;
        (void)json_object_set_new(item, "window", json_string(o->lora_window ? "taca" : "always"));
    }
    return TACA_OK;
}

static enum taca_code complete_request(struct there *t, struct taca_err *err) {
    struct gen *g = t->g;
    json_t *q = g->request;
    if (g->o->engine.model_path)
        (void)json_object_set_new(q, "model", json_string(g->o->engine.model_path));
    (void)json_object_set_new(q, "response_format", json_string("url"));
    if (progress_draws(&t->bar)) (void)json_object_set_new(q, "previews", json_integer(PREVIEWS));
    enum taca_code rc = put_loras(g, err);
    if (!rc) rc = put_file(q, "image", g->o->image, err);
    if (!rc) rc = put_file(q, "mask", g->o->mask, err);
    if (!rc && !(t->body = json_dumps(q, JSON_COMPACT)))
        rc = taca_fail(err, TACA_ENOMEM, "a request");
    return rc;
}

static enum taca_code new_name(struct there *t, struct taca_err *err) {
    unsigned char raw[API_ID_LEN / 2];
    if (getrandom(raw, sizeof raw, 0) != (ssize_t)sizeof raw)
        return taca_fail(err, TACA_EIO, "no random numbers: %s", strerror(errno));
    for (size_t i = 0; i < sizeof raw; i++)
        snprintf(t->name + 2 * i, sizeof t->name - 2 * i, "%02x", raw[i]);
    t->accepted = false;
    t->events.last_id = 0;
    return TACA_OK;
}

static enum taca_code check_key(const char *key, struct taca_err *err) {
    for (const char *s = key; s && *s; s++)
        if (*s <= ' ' || *s > '~')
            return taca_fail_param(err, "api-key", "--api-key must be printable ASCII");
    return TACA_OK;
}

/* The path of the job, or of what is below it. */
static const char *job_path(const struct there *t, char path[PATH_BYTES], const char *below) {
    size_t n = strlen(t->url.path);
    while (n > 0 && t->url.path[n - 1] == '/') n--;
    snprintf(path, PATH_BYTES, "%.*s/v1/jobs/%s%s", (int)n, t->url.path, t->name, below);
    return path;
}

static void put_headers(struct there *t, bool events) {
    taca_buf_reset(&t->headers);
    if (t->g->o->api_key)
        taca_buf_printf(&t->headers, "Authorization: Bearer %s\r\n", t->g->o->api_key);
    if (events) taca_buf_puts(&t->headers, "Accept: text/event-stream\r\n");
    if (events && t->events.last_id)
        taca_buf_printf(&t->headers, "Last-Event-ID: %" PRIu64 "\r\n", t->events.last_id);
}

static struct client_request request(struct there *t, const char *method, const char *path) {
    return (struct client_request){.host = t->url.host,
                                   .port = t->url.port,
                                   .method = method,
                                   .path = path,
                                   .headers = t->headers.data,
                                   .timeout_ms = SILENCE_MS,
                                   .stop = t->g->stop};
}

/* ---- what is told ---------------------------------------------------------------------------- */

static const char *text_of(const json_t *o, const char *name) {
    const char *s = json_string_value(json_object_get(o, name));
    return s ? s : "";
}

/* The error object of a body or an event, in the struct that the service filled. */
static void take_error(struct there *t, const json_t *o, int status, int retry_after_s) {
    const json_t *e = json_object_get(o, "error");
    const char *message = text_of(e, "message");
    if (status == 0) status = strcmp(text_of(e, "type"), "invalid_request_error") == 0 ? 400 : 500;
    t->refusal = (struct api_error){.retry_after_s = retry_after_s};
    if (*message)
        api_fail(&t->refusal, status, text_of(e, "code"), text_of(e, "param"), "%s", message);
    else
        api_fail(&t->refusal, status, "", NULL, "the server answered %d", status);
}

static void on_queued(struct there *t, const json_t *e) {
    char line[96];
    const json_int_t position = json_integer_value(json_object_get(e, "position"));
    const json_t *eta = json_object_get(e, "eta_ms");
    int n = snprintf(line, sizeof line, position > 0 ? "in the queue, number %d" : "about to start",
                     (int)position);
    if (json_is_number(eta))
        snprintf(line + n, sizeof line - (size_t)n, ", about %.1f s in all",
                 json_number_value(eta) / 1000);
    progress_say(&t->bar, line);
}

static void on_progress(struct there *t, const json_t *e) {
    const json_int_t k = json_integer_value(json_object_get(e, "index"));
    const json_t *eta = json_object_get(e, "eta_ms");
    const int steps = (int)json_integer_value(json_object_get(e, "steps")), n = t->g->o->n;
    int done = 0;
    if (k < 0 || k >= n) return;
    t->done[k] = (int)json_integer_value(json_object_get(e, "step"));
    for (int i = 0; i < n; i++) done += t->done[i];
    progress_steps(&t->bar, done, steps * n, json_is_number(eta) ? json_number_value(eta) : -1);
}

/* A look at the first picture is worth a try, not a failure. */
static void on_preview(struct there *t, const json_t *e) {
    const json_t *text = json_object_get(e, "b64_json");
    struct taca_image img = {0};
    size_t len = json_string_length(text), n = 0;
    uint8_t *bytes = malloc(len / 4 * 3 + 2);
    if (bytes && json_integer_value(json_object_get(e, "index")) == 0 && len > 0 &&
        api_base64_read(bytes, &n, json_string_value(text), len) &&
        api_image_read(&img, bytes, n, LARGEST_PREVIEW_PX, NULL) == TACA_OK)
        progress_draw(&t->bar, &img);
    taca_image_finish(&img);
    free(bytes);
}

static void on_completed(struct there *t, const json_t *e) {
    size_t i;
    const json_t *w;
    t->completed = true;
    progress_clear(&t->bar);
    json_array_foreach(json_object_get(e, "warnings"), i, w) gen_warn(text_of(w, "message"));
}

static void renew_patience(struct there *t) {
    t->give_up_ms = taca_now_ms() + 1000 * t->g->o->patience_s;
}

static enum taca_code on_event(struct there *t, const json_t *e, struct taca_err *err) {
    const char *type = text_of(e, "type");
    renew_patience(t);
    const json_int_t k = json_integer_value(json_object_get(e, "index"));
    if (strcmp(type, "queued") == 0) on_queued(t, e);
    if (strcmp(type, "started") == 0) progress_say(&t->bar, "reading the prompt");
    if (strcmp(type, "retrying") == 0) progress_say(&t->bar, "starting again after a fault there");
    if (strcmp(type, "progress") == 0) on_progress(t, e);
    if (strcmp(type, "preview") == 0) on_preview(t, e);
    if (strcmp(type, "completed") == 0) on_completed(t, e);
    if (strcmp(type, "error") == 0) take_error(t, e, 0, 0);
    if (strcmp(type, "image") == 0 && k >= 0 && k < t->g->o->n)
        t->seed[k] = (uint64_t)json_integer_value(json_object_get(e, "seed"));
    if (strcmp(type, "cancelled") == 0)
        return taca_fail(err, TACA_EIO, "cancelled by the server: %s", text_of(e, "reason"));
    return TACA_OK;
}

/* ---- one connection -------------------------------------------------------------------------- */

/* The body of a refusal. */
static void read_refusal(struct there *t, struct client *c) {
    struct taca_buf body;
    json_error_t why;
    bool no_memory;
    taca_buf_init(&body, 1 << 20);
    while (!c->ended && client_read(c, &body, NULL) == TACA_OK) {
    }
    json_t *v = body.len ? taca_json_parse(body.data, body.len, &why, &no_memory) : NULL;
    take_error(t, v, c->status, c->retry_after_s);
    json_decref(v);
    taca_buf_finish(&body);
}

/* Events until the last one; TACA_EIO when the connection broke, or nothing is there. */
static enum taca_code follow(struct there *t, struct taca_err *err) {
    char path[PATH_BYTES];
    struct client c;
    struct client_request r =
        request(t, t->accepted ? "GET" : "PUT", job_path(t, path, t->accepted ? "/events" : ""));
    put_headers(t, true);
    r.headers = t->headers.data;
    if (!t->accepted) r.body = t->body;
    events_cut(&t->events);
    enum taca_code rc = client_open(&c, &r, err);
    t->sent |= c.fd >= 0;
    if (!rc && c.status != 200) read_refusal(t, &c);
    if (!rc && c.status == 200 && strncmp(c.content_type, "text/event-stream", 17) != 0)
        rc = taca_fail(err, TACA_EPROTO, "%s is no taca service: it answers with %s",
                       t->g->o->server, c.content_type[0] ? c.content_type : "no content type");
    if (!rc && c.status == 200) t->accepted = true, t->pause_ms = FIRST_PAUSE_MS;
    while (!rc && !t->refusal.status && !t->completed) {
        json_t *e = events_next(&t->events);
        if (e)
            rc = on_event(t, e, err);
        else if (c.ended)
            rc = taca_fail(err, TACA_EIO, "the stream ended before the picture was there");
        else
            rc = client_read(&c, &t->events.in, err);
        json_decref(e);
    }
    client_close(&c);
    return rc;
}

/* ---- patience -------------------------------------------------------------------------------- */

/* Sleeps, and says why; false when the user has had enough first. */
static bool pause_for(struct there *t, const char *why, double ms) {
    const double end = taca_now_ms() + ms;
    const struct timespec moment = {.tv_nsec = 100000000};
    char line[160];
    for (double left; (left = end - taca_now_ms()) > 0 && !*t->g->stop;) {
        snprintf(line, sizeof line, "%.110s; trying again in %.0f s", why, left / 1000 + 0.5);
        progress_say(&t->bar, line);
        nanosleep(&moment, NULL);
    }
    progress_clear(&t->bar);
    return !*t->g->stop;
}

/* Whether it is worth while to ask once more, after the pause that it takes. */
static bool again(struct there *t, enum taca_code rc, struct taca_err *err) {
    const struct api_error e = t->refusal;
    const char *why = e.status ? e.message : err->text;
    double pause_ms = t->pause_ms;
    bool lost = t->accepted && (e.status == 404 || strcmp(e.code, "draining") == 0);
    bool busy = e.status == 429 || e.status == 502 || e.status == 503 || e.status == 504;
    bool broken = rc == TACA_EIO && !e.status && t->sent && !err->param[0];
    if (strcmp(e.code, "start_timeout") == 0 || !(lost || busy || broken)) return false;
    if (e.retry_after_s > 0) pause_ms = 1000.0 * e.retry_after_s;
    if (taca_now_ms() + pause_ms > t->give_up_ms) return false;
    if (!pause_for(t, why, pause_ms)) return false;
    t->pause_ms = t->pause_ms * 2 > LONGEST_PAUSE_MS ? LONGEST_PAUSE_MS : t->pause_ms * 2;
    if (lost && new_name(t, NULL)) return false;
    t->refusal = (struct api_error){0};
    *err = (struct taca_err){0};
    return true;
}

static enum taca_code make(struct there *t, struct taca_err *err) {
    for (;;) {
        enum taca_code rc = follow(t, err);
        if (t->completed && !rc) return TACA_OK;
        if (*t->g->stop) break;
        if (again(t, rc, err)) continue;
        if (*t->g->stop) break;
        return t->refusal.status ? gen_refused(&t->refusal, err) : rc;
    }
    *err = (struct taca_err){0};
    return taca_fail(err, TACA_ECANCELLED, "cancelled");
}

/* ---- the pictures ---------------------------------------------------------------------------- */

static enum taca_code fetch_once(struct there *t, int k, struct taca_buf *file,
                                 struct taca_err *err) {
    char path[PATH_BYTES], below[32];
    struct client c;
    snprintf(below, sizeof below, "/images/%d", k);
    put_headers(t, false);
    const struct client_request r = request(t, "GET", job_path(t, path, below));
    taca_buf_reset(file);
    enum taca_code rc = client_open(&c, &r, err);
    if (!rc && c.status != 200) read_refusal(t, &c);
    while (!rc && !t->refusal.status && !c.ended) rc = client_read(&c, file, err);
    client_close(&c);
    return rc;
}

static enum taca_code fetch(struct there *t, int k, struct taca_buf *file, struct taca_err *err) {
    for (;;) {
        enum taca_code rc = fetch_once(t, k, file, err);
        if (!rc && !t->refusal.status) return TACA_OK;
        const bool gone = t->refusal.status == 404 || t->refusal.status == 410;
        if (*t->g->stop || gone || !again(t, rc, err))
            return t->refusal.status ? gen_refused(&t->refusal, err) : rc;
    }
}

static void show(struct there *t, const struct taca_buf *file) {
    struct taca_image img = {0};
    if (!progress_draws(&t->bar)) return;
    if (api_image_read(&img, file->data, file->len, LARGEST_PREVIEW_PX, NULL) == TACA_OK)
        progress_draw(&t->bar, &img);
    taca_image_finish(&img);
}

static enum taca_code fetch_all(struct there *t, struct taca_err *err) {
    struct taca_buf file;
    enum taca_code rc = TACA_OK;
    taca_buf_init(&file, LARGEST_PICTURE);
    for (int k = 0; k < t->g->o->n && !rc; k++) {
        rc = fetch(t, k, &file, err);
        if (!rc && k == 0) show(t, &file);
        if (!rc) rc = gen_deliver(t->g->o, &file, k, t->seed[k], err);
    }
    taca_buf_finish(&file);
    return rc;
}

/* Nobody waits for it any more. */
static void cancel_there(struct there *t) {
    char path[PATH_BYTES];
    struct taca_buf body;
    int status;
    put_headers(t, false);
    struct client_request r = request(t, "DELETE", job_path(t, path, ""));
    r.stop = NULL;
    r.timeout_ms = GOODBYE_MS;
    taca_buf_init(&body, 1 << 20);
    if (client_send(&r, &status, &body, NULL))
        gen_warn("the server could not be told that nobody waits for the picture");
    taca_buf_finish(&body);
}

enum taca_code gen_there(struct gen *g, struct taca_err *err) {
    struct there t = {.g = g, .pause_ms = FIRST_PAUSE_MS};
    const struct gen_opts *o = g->o;
    events_init(&t.events);
    taca_buf_init(&t.headers, 1 << 16);
    progress_start(&t.bar, o->quiet || o->json, o->preview);
    enum taca_code rc = client_url_parse(&t.url, o->server, "server", err);
    if (!rc) rc = check_key(o->api_key, err);
    if (!rc) rc = new_name(&t, err);
    if (!rc) rc = complete_request(&t, err);
    renew_patience(&t);
    if (!rc) rc = make(&t, err);
    if (!rc) rc = fetch_all(&t, err);
    progress_clear(&t.bar);
    if (rc && rc != TACA_EPROTO && t.sent && !t.completed && !t.refusal.status) cancel_there(&t);
    events_finish(&t.events);
    taca_buf_finish(&t.headers);
    free(t.body);
    return rc;
}
