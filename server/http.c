/* http.c - see http.h. The only user of libmicrohttpd.
 *
 * What the library (0.9.75) wants from us: a content reader that returns 0 must have suspended its
 * connection; a suspended connection is not looked at by anyone, and must be resumed before its
 * daemon is stopped; an answer can be queued before the body or behind it, never in between.
 * A `struct request` lives as long as its connection and belongs to the daemon's thread; what other
 * threads need to know of it is in the register (conns.h). */
#include "server/http.h"

#include <microhttpd.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/answer.h"
#include "server/conns.h"
#include "server/metrics.h"
#include "server/peers.h"
#include "server/target.h"

enum {
    MAX_DAEMONS = 4,
    BODY_BYTES_PER_MS = 64, /* slower bodies are late */
    /* the library reads events into its pool when it sends chunks, and only else into a block */
    CHUNKED_BLOCK = 16,
    PLAIN_BLOCK = 4096,
    /* Pictures that are sent in: such bodies go to the first daemon, so that reading them holds up
     * no usual request, and only so many of the largest are there at once. */
    LARGE_BODY_BYTES = 256 * 1024,
    LARGEST_BODIES = 8
};

/* The library touches all of a connection's pool, so an idle event stream costs that much. A head
 * goes to the last daemon whose pools hold it and the answer's: whatever the guard lets in to the
 * first, browsers to the second, programs to the others. What has no body does not share a thread
 * with thousands of streams that began with one: probes are among that. */
static const struct {
    size_t pool_bytes, head_bytes;
    bool bodies;
} daemons[MAX_DAEMONS] = {
    {65536, SIZE_MAX, true}, {8192, 4096, true}, {4096, 1536, true}, {4096, 1536, false}};

struct http {
    struct http_opts opts;
    struct conns *conns;
    struct MHD_Daemon *daemons[MAX_DAEMONS];
    int n_daemons;
    atomic_size_t body_bytes; /* of all bodies that are there */
};

struct request {
    struct http *http;
    struct MHD_Connection *mhd;
    struct conn *conn;
    bool begun;
    bool chunks; /* HTTP/1.1: an answer of unknown length goes in chunks */
    bool api;    /* below /v1/ */
    const char *method;
    struct target target;
    char id[REQUEST_ID_MAX + 1];
    struct trace trace;
    struct taca_buf body;
    size_t counted; /* of it, in http.body_bytes */
    struct http_reply reply;
    int64_t received_us, answered_us;
    size_t bytes; /* of a whole answer */
    int status;   /* of the answer, 0 = none yet */
};

/* ---- answers --------------------------------------------------------------------------------- */

static bool add_header(struct MHD_Response *r, const char *name, const char *value) {
    if (MHD_add_response_header(r, name, value) == MHD_YES) return true;
    taca_log(TACA_LOG_WARN, "the header %s was not added to an answer", name);
    return false;
}

/* "Name: value\n" lines; the text is cut up in place. */
static void add_lines(struct MHD_Response *r, char *lines) {
    while (lines && *lines) {
        char *end = strchr(lines, '\n'), *value = strstr(lines, ": ");
        if (!end || !value || value > end) return;
        *end = *value = 0;
        add_header(r, lines, value + 2);
        lines = end + 1;
    }
}

/* Whether one of the "Name: value\n" lines has this name. */
static bool names(const char *lines, const char *name) {
    size_t len = strlen(name);
    while (lines) {
        if (strncmp(lines, name, len) == 0 && lines[len] == ':') return true;
        const char *end = strchr(lines, '\n');
        lines = end ? end + 1 : NULL;
    }
    return false;
}

/* The fixed headers, but for those that the route's own lines or `more` of them replace. False when
 * there was no memory for the one that ends the connection: nobody guards a second request on it.
 */
static bool add_common(struct MHD_Response *r, const struct request *q, const char *content_type,
                       const char *more) {
    bool ends = true;
    for (int i = 0; answer_headers[i]; i += 2)
        if (!names(q->reply.headers.data, answer_headers[i]) && !names(more, answer_headers[i]) &&
            !add_header(r, answer_headers[i], answer_headers[i + 1]))
            ends = ends && strcmp(answer_headers[i], "Connection") != 0;
    char trace[TRACE_HEADER_LEN + 1];
    add_header(r, "X-Request-Id", q->id);
    trace_header(trace, &q->trace);
    if (trace[0]) add_header(r, "traceparent", trace);
    if (content_type) add_header(r, "Content-Type", content_type);
    return ends;
}

/* Takes `body` over. */
static enum MHD_Result queue_bytes(struct request *q, const struct stream_answer *a) {
    static char nothing[1];
    struct MHD_Response *r =
        MHD_create_response_from_buffer(a->len, a->body ? a->body : nothing,
                                        a->body ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!r) {
        free(a->body);
        return MHD_NO;
    }
    bool ends = add_common(r, q, a->content_type, a->headers);
    add_lines(r, q->reply.headers.data);
    add_lines(r, a->headers);
    q->status = a->status;
    q->bytes = a->len;
    q->answered_us = taca_now_us();
    enum MHD_Result rc = ends ? MHD_queue_response(q->mhd, (unsigned)a->status, r) : MHD_NO;
    MHD_destroy_response(r);
    return rc;
}

static enum MHD_Result queue_reply(struct request *q) {
    struct http_reply *p = &q->reply;
    if (p->body.failed || p->headers.failed) return MHD_NO; /* out of memory */
    struct stream_answer a = {.status = p->status,
                              .content_type = p->content_type,
                              .body = p->body.data,
                              .len = p->body.len};
    p->body = (struct taca_buf){0}; /* the response's now */
    return queue_bytes(q, &a);
}

/* ---- waiting for a stream -------------------------------------------------------------------- */

static void suspend(void *ctx) {
    struct request *q = ctx;
    MHD_suspend_connection(q->mhd);
}

static void resume(void *ctx) {
    struct request *q = ctx;
    MHD_resume_connection(q->mhd);
}

static ssize_t read_events(void *ctx, uint64_t pos, char *out, size_t max) {
    struct request *q = ctx;
    (void)pos;
    long n = stream_read(q->reply.stream, out, max, suspend, q);
    if (n == STREAM_CUT) {
        /* not END_WITH_ERROR: the library then keeps the dead connection until it times out. On a
         * socket that is shut it cannot send the last chunk, so the client sees a cut stream. */
        conn_shut(q->conn);
        return MHD_CONTENT_READER_END_OF_STREAM;
    }
    if (n != STREAM_ENDED) return n;
    conn_done(q->conn);
    return MHD_CONTENT_READER_END_OF_STREAM;
}

static enum MHD_Result queue_events(struct request *q, char *headers) {
    struct MHD_Response *r = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, q->chunks ? CHUNKED_BLOCK : PLAIN_BLOCK, read_events, q, NULL);
    if (!r) return MHD_NO;
    bool ends = add_common(r, q, "text/event-stream", headers);
    add_header(r, "X-Accel-Buffering", "no");
    add_lines(r, q->reply.headers.data);
    add_lines(r, headers);
    q->status = MHD_HTTP_OK;
    enum MHD_Result rc = ends ? MHD_queue_response(q->mhd, MHD_HTTP_OK, r) : MHD_NO;
    MHD_destroy_response(r);
    return rc;
}

/* Called once after the body, and again after each resume. */
static enum MHD_Result go_on_waiting(struct request *q) {
    struct stream_answer a = {0};
    if (!stream_take(q->reply.stream, &a, suspend, q)) return MHD_YES;
    enum MHD_Result rc = MHD_NO; /* when nobody is there to read an answer */
    if (a.status) {
        conn_done(q->conn);
        rc = queue_bytes(q, &a);
    } else if (stream_kind(q->reply.stream) == STREAM_EVENTS && !stream_is_gone(q->reply.stream)) {
        rc = queue_events(q, a.headers);
    }
    free(a.headers);
    return rc;
}

/* ---- requests -------------------------------------------------------------------------------- */

static const char *header(const struct request *q, const char *name) {
    return MHD_lookup_connection_value(q->mhd, MHD_HEADER_KIND, name);
}

static void describe(const struct request *q, struct http_request *out) {
    *out = (struct http_request){.method = q->method,
                                 .path = q->target.path,
                                 .accept = header(q, "Accept"),
                                 .content_type = header(q, "Content-Type"),
                                 .host = q->target.host ? q->target.host : header(q, "Host"),
                                 .forwarded_proto = header(q, "X-Forwarded-Proto"),
                                 .prefer = header(q, "Prefer"),
                                 .idempotency_key = header(q, "Idempotency-Key"),
                                 .last_event_id = header(q, "Last-Event-ID"),
                                 .origin = header(q, "Origin"),
                                 .authorization = header(q, "Authorization"),
                                 .wanted_method = header(q, "Access-Control-Request-Method"),
                                 .private_network =
                                     header(q, "Access-Control-Request-Private-Network"),
                                 .if_none_match = header(q, "If-None-Match"),
                                 .request_id = q->id,
                                 .trace = &q->trace,
                                 .body = q->body.data ? q->body.data : "",
                                 .body_len = q->body.len,
                                 .admin = q->http->opts.admin,
                                 .received_us = q->received_us};
}

static const char *known_method(const char *method) {
    static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i], method) == 0) return known[i];
    return "-"; /* the guard lets no other through */
}

/* A body may be as slow as this all the way, and has the timeout to begin: who says that much will
 * come but sends little is found out early. */
static int64_t body_deadline_us(const struct request *q) {
    int64_t ms = q->http->opts.body_timeout_ms + (int64_t)(q->body.len / BODY_BYTES_PER_MS);
    return q->received_us + ms * 1000;
}

static enum MHD_Result expect_body(struct request *q) {
    const struct http_opts *o = &q->http->opts;
    struct http_request r;
    struct taca_buf headers;
    describe(q, &r);
    if (header(q, "Expect") && o->early(o->ctx, &r, &q->reply)) return queue_reply(q);
    taca_buf_init(&headers, 4096);
    if (o->rules) rules_headers(o->rules, r.origin, &headers);
    conn_expect_body(q->conn, body_deadline_us(q), q->id, headers.data);
    return MHD_YES;
}

static enum MHD_Result begin(struct request *q, const char *url, const char *method) {
    struct http *h = q->http;
    const char *id = header(q, "X-Request-Id"), *length = header(q, "Content-Length");
    q->begun = true;
    q->received_us = taca_now_us();
    q->method = known_method(method);
    if (!target_read(&q->target, url)) return MHD_NO;
    q->api = strncmp(q->target.path, "/v1/", 4) == 0 || strncmp(q->target.path, "/sdapi/", 7) == 0;
    trace_read(&q->trace, header(q, "traceparent"));
    taca_buf_init(&q->body, h->opts.max_body_bytes);
    if (id && request_id_ok(id, strlen(id)))
        snprintf(q->id, sizeof q->id, "%s", id);
    else
        request_id_make(q->id);
    bool body = header(q, "Transfer-Encoding") || (length && strtoull(length, NULL, 10) > 0);
    return body ? expect_body(q) : MHD_YES;
}

static void free_body(struct request *q) {
    taca_buf_finish(&q->body);
    atomic_fetch_sub(&q->http->body_bytes, q->counted);
    q->counted = 0;
}

/* False: the memory for bodies is taken, and this one's is given back. */
static bool count_body(struct request *q) {
    const size_t more = q->body.cap - q->counted, most = LARGEST_BODIES * q->body.max;
    if (more == 0) return true;
    q->counted += more;
    if (atomic_fetch_add(&q->http->body_bytes, more) + more <= most ||
        q->body.cap <= LARGE_BODY_BYTES)
        return true;
    free_body(q);
    q->body.failed = true;
    return false;
}

static enum MHD_Result take_body(struct request *q, const char *bytes, size_t *len) {
    const bool fits = !q->body.failed && *len <= q->body.max - q->body.len;
    taca_buf_put(&q->body, bytes, *len);
    *len = 0;
    if (q->body.failed && fits) {
        struct api_error e = {.retry_after_s = 1};
        api_fail(&e, 503, "out_of_memory", NULL, "the service is out of memory");
        conn_refuse(q->conn, &e); /* once; later bytes are thrown away */
    } else if (!q->body.failed && !count_body(q)) {
        struct api_error e = {.retry_after_s = 1};
        api_fail(&e, 503, "too_many_connections", NULL,
                 "too many large requests are being received: try again in a moment");
        conn_refuse(q->conn, &e);
    } else if (q->body.failed) { /* above the ceiling: only a chunked body can be */
        struct api_error e = {0};
        api_fail(&e, 413, "body_too_large", NULL, "the body is larger than %zu bytes",
                 q->http->opts.max_body_bytes);
        conn_refuse(q->conn, &e);
    } else {
        conn_more_body(q->conn, body_deadline_us(q));
    }
    return MHD_YES;
}

static enum MHD_Result answer(struct request *q) {
    struct http *h = q->http;
    struct http_request r;
    if (!conn_body_done(q->conn)) return MHD_NO;
    describe(q, &r);
    h->opts.answer(h->opts.ctx, &r, &q->reply);
    free_body(q);
    if (!q->reply.stream) return queue_reply(q);
    stream_set_resume(q->reply.stream, resume, q);
    conn_attach(q->conn, q->reply.stream, q->reply.job_key);
    return go_on_waiting(q);
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_len, void **req_ctx) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct request *q = info ? info->socket_context : NULL;
    (void)ctx;
    if (!q) return MHD_NO; /* no memory or no room when it arrived */
    *req_ctx = q;
    q->chunks = strcmp(version, MHD_HTTP_VERSION_1_1) == 0;
    if (!q->begun) return begin(q, url, method);
    if (*upload_len) return take_body(q, upload, upload_len);
    if (q->reply.stream) return go_on_waiting(q);
    return answer(q);
}

/* What has no job that tells of it. Probes, metrics and pages would drown the rest. */
static void log_request(const struct request *q, int status, double seconds,
                        enum MHD_RequestTerminationCode why) {
    enum taca_log_level level = q->api && !q->reply.logged ? TACA_LOG_INFO : TACA_LOG_DEBUG;
    const char *route = q->reply.route ? q->reply.route : "other";
    struct taca_buf b;
    if (!taca_log_enabled(level)) return;
    taca_buf_init(&b, 1024);
    taca_buf_printf(&b, "\"request_id\":\"%s\"", q->id); /* of harmless letters alone */
    trace_fields(&b, &q->trace);
    if (q->reply.key[0]) taca_buf_printf(&b, ",\"key\":\"%s\"", q->reply.key);
    taca_buf_printf(&b,
                    ",\"method\":\"%s\",\"route\":\"%s\",\"code\":%d,\"total_ms\":%.1f,"
                    "\"bytes\":%zu,\"end\":%d",
                    q->method, route, status, seconds * 1000, q->bytes, (int)why);
    if (q->reply.error[0]) {
        taca_buf_puts(&b, ",\"error\":");
        taca_buf_json(&b, q->reply.error, strlen(q->reply.error));
    }
    taca_log_fields(level, b.failed ? NULL : b.data, "http");
    taca_buf_finish(&b);
}

static void on_completed(void *ctx, struct MHD_Connection *mhd, void **req_ctx,
                         enum MHD_RequestTerminationCode why) {
    struct request *q = *req_ctx;
    (void)ctx, (void)mhd;
    *req_ctx = NULL;
    if (!q) return;
    int status = q->status ? q->status : conn_refused_status(q->conn);
    if (why == MHD_REQUEST_TERMINATED_TIMEOUT_REACHED)
        metric_add(METRIC_REJECTED, q->status ? "write_stall" : "body_timeout", 1);
    if (!status) status = 499; /* the client left before there was an answer */
    int64_t now_us = taca_now_us();
    double seconds = (double)(now_us - q->received_us) / 1e6;
    metric_http(q->reply.route ? q->reply.route : "other", q->method, status, seconds);
    if (q->reply.logged && q->answered_us && why == MHD_REQUEST_TERMINATED_COMPLETED_OK)
        metric_observe(METRIC_STAGE_WRITE, (double)(now_us - q->answered_us) / 1e6);
    log_request(q, status, seconds, why);
}

/* ---- connections ----------------------------------------------------------------------------- */

static uint64_t peer_behind(struct MHD_Connection *mhd) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = info ? info->client_addr : NULL;
    if (!a) return 0;
    return peer_of(a, a->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                               : sizeof(struct sockaddr_in));
}

static struct request *request_open(struct http *h, struct MHD_Connection *mhd) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct request *q = info ? calloc(1, sizeof *q) : NULL;
    if (!q) return NULL;
    q->http = h;
    q->mhd = mhd;
    q->conn = conn_enter(h->conns, info->connect_fd, peer_behind(mhd));
    if (q->conn) return q;
    free(q);
    return NULL;
}

static void on_connection(void *ctx, struct MHD_Connection *mhd, void **socket_ctx,
                          enum MHD_ConnectionNotificationCode what) {
    struct request *q = *socket_ctx;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        *socket_ctx = request_open(ctx, mhd);
    } else if (q) { /* the library closes the descriptor after this */
        conn_leave(q->conn);
        target_finish(&q->target);
        free_body(q);
        taca_buf_finish(&q->reply.body);
        taca_buf_finish(&q->reply.headers);
        free(q);
        *socket_ctx = NULL;
    }
}

/* The library's messages quote what clients sent. */
__attribute__((format(printf, 2, 0))) static void on_log(void *ctx, const char *fmt, va_list ap) {
    char text[512];
    struct taca_buf b;
    (void)ctx;
    if (!taca_log_enabled(TACA_LOG_DEBUG)) return;
    int n = vsnprintf(text, sizeof text, fmt, ap);
    if (n < 0) return;
    size_t len = strnlen(text, sizeof text);
    while (len > 0 && text[len - 1] == '\n') len--;
    taca_buf_init(&b, 8192);
    taca_buf_json(&b, text, len);
    if (!b.failed) taca_log(TACA_LOG_DEBUG, "http library: %s", b.data);
    taca_buf_finish(&b);
}

static struct MHD_Daemon *start_daemon(struct http *h, size_t pool_bytes) {
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME |
                     MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG;
    return MHD_start_daemon(flags, 0, NULL, NULL, on_request, h, /* the logger first */
                            MHD_OPTION_EXTERNAL_LOGGER, on_log, h, MHD_OPTION_CONNECTION_LIMIT,
                            (unsigned)h->opts.max_connections + 16, MHD_OPTION_CONNECTION_TIMEOUT,
                            (unsigned)h->opts.stall_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                            pool_bytes, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
                            MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_END);
}

enum taca_code http_open(struct http **out, const struct http_opts *opts, struct taca_err *err) {
    struct http *h = calloc(1, sizeof *h);
    if (!h) return taca_fail(err, TACA_ENOMEM, "http");
    h->opts = *opts;
    h->conns = conns_open(&(struct conns_opts){.max = opts->max_connections + 16,
                                               .count_peers = opts->count_peers,
                                               .ping_ms = opts->ping_ms,
                                               .watch = opts->watch,
                                               .ctx = opts->ctx,
                                               .left = opts->left});
    int wanted = opts->admin ? 1 : MAX_DAEMONS;
    while (h->conns && h->n_daemons < wanted) {
        h->daemons[h->n_daemons] = start_daemon(h, daemons[h->n_daemons].pool_bytes);
        if (!h->daemons[h->n_daemons]) break;
        h->n_daemons++;
    }
    if (h->n_daemons < wanted) {
        http_close(h);
        return taca_fail(err, TACA_EIO, "the http library did not start");
    }
    *out = h;
    return TACA_OK;
}

static struct MHD_Daemon *daemon_for(struct http *h, const struct head *head) {
    bool body = head->chunked || head->content_length > 0;
    if (head->chunked || head->content_length > LARGE_BODY_BYTES) return h->daemons[0];
    int i = h->n_daemons - 1;
    while (head->parse_bytes > daemons[i].head_bytes || (body && !daemons[i].bodies)) i--;
    return h->daemons[i];
}

void http_take(struct http *h, int fd, const struct head *head, const struct sockaddr *peer,
               socklen_t peer_len) {
    conns_expect(h->conns, peer_of(peer, peer_len));
    if (MHD_add_connection(daemon_for(h, head), fd, peer, peer_len) != MHD_YES)
        taca_log(TACA_LOG_WARN, "the http library refused a connection"); /* and closed it */
}

int http_connections(const struct http *h) { return conns_count(h->conns); }

int http_connections_of(const struct http *h, uint64_t peer) {
    return conns_count_of(h->conns, peer);
}

bool http_tick(struct http *h, int64_t now_us) { return conns_tick(h->conns, now_us); }

void http_left(struct http *h, uint64_t token, bool half) { conns_left(h->conns, token, half); }

void http_cut_all(struct http *h) { conns_cut_all(h->conns); }

void http_close(struct http *h) {
    if (!h) return;
    for (int i = 0; i < h->n_daemons; i++) MHD_stop_daemon(h->daemons[i]);
    conns_close(h->conns);
    free(h);
}
