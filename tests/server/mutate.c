/* mutate.c - a crowd of damaged requests over TCP, for mutations_test.py.
 *
 * usage: mutate PORT SEEDS COUNT SEED
 *
 * SEEDS is a file of requests, each behind its length as 4 bytes. Every connection sends one of
 * them with 1 to 6 edits; most close their sending side at once, some stay and wait for the
 * deadlines. Whatever it sent, a connection gets nothing or one HTTP answer, and then the end.
 * Prints how many had which status; exits 1 when one got something else, an unexpected server
 * error, or no end. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    IN_FLIGHT = 64,
    MAX_SEEDS = 1024,
    MAX_BYTES = 96 * 1024,
    HEAD_BYTES = 4096,
    END_US = 30 * 1000 * 1000, /* deadlines of the service are far shorter */
    MAX_FAULTS = 20
};

struct bytes {
    char *p;
    size_t len;
};

struct connection {
    int fd; /* -1 = free */
    long number;
    int64_t begun_us;
    char head[HEAD_BYTES + 1];
    size_t len;
    size_t total;
};

struct run {
    int port;
    uint64_t random;
    struct bytes seeds[MAX_SEEDS];
    int n_seeds;
    struct connection conns[IN_FLIGHT];
    long begun, ended, count, silent, faults, refused;
    long by_class[6];
};

static uint32_t draw(struct run *r, size_t below) {
    r->random ^= r->random << 13, r->random ^= r->random >> 7, r->random ^= r->random << 17;
    return (uint32_t)((r->random >> 16) % below);
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void insert(struct bytes *m, size_t at, const char *what, size_t len) {
    if (m->len + len > MAX_BYTES) return;
    memmove(m->p + at + len, m->p + at, m->len - at);
    memcpy(m->p + at, what, len);
    m->len += len;
}

static void insert_token(struct run *r, struct bytes *m, size_t at) {
    static const struct {
        const char *p;
        size_t len;
    } tokens[] = {
#define T(s) {s, sizeof(s) - 1}
        T("\r\n"),
        T("\n"),
        T("\r"),
        T("\0"),
        T(":"),
        T(" "),
        T("\t"),
        T("%00"),
        T("%2e%2e/"),
        T("chunked"),
        T("Content-Length: 7\r\n"),
        T("Transfer-Encoding: chunked\r\n"),
        T("\xff"),
        T("FFFFFFFFFFFFFFFF"),
        T("-1"),
        T("0x10"),
        T(";"),
        T("\r\n\r\n"),
        T("0\r\n\r\n"),
        T("Host: b\r\n"),
        T("Expect: 100-continue\r\n"),
        T("HTTP/1.0"),
        T("http://a/"),
        T("?"),
        T("Origin: null\r\n"),
        T("Accept: text/event-stream\r\n"),
        T("X-Request-Id: \x1b\r\n"),
        T("Prefer: respond-async\r\n"),
        T("Idempotency-Key: a\r\n"),
        T("{\"prompt\":\"a\"}")
#undef T
    };
    uint32_t i = draw(r, sizeof tokens / sizeof *tokens);
    insert(m, at, tokens[i].p, tokens[i].len);
}

static void edit(struct run *r, struct bytes *m) {
    if (m->len == 0) return;
    size_t at = draw(r, m->len), len = 1 + draw(r, m->len - at);
    switch (draw(r, 5)) {
    case 0: m->p[at] = (char)draw(r, 256); return;
    case 1:
        if (draw(r, 2)) len = 1;
        memmove(m->p + at, m->p + at + len, m->len - at - len);
        m->len -= len;
        return;
    case 2: insert_token(r, m, at); return;
    case 3: { /* a piece twice */
        char piece[512];
        if (len > sizeof piece) len = sizeof piece;
        memcpy(piece, m->p + at, len);
        insert(m, at, piece, len);
        return;
    }
    default: { /* a piece of another request */
        const struct bytes *o = &r->seeds[draw(r, (size_t)r->n_seeds)];
        size_t from = draw(r, o->len);
        len = 1 + draw(r, o->len - from);
        insert(m, at, o->p + from, len < 512 ? len : 512);
    }
    }
}

/* ---- connections ----------------------------------------------------------------------------- */

static void fault(struct run *r, const struct connection *c, const char *what) {
    printf("request %ld: %s: %.*s\n", c->number, what, 300, c->head);
    r->faults++;
}

static bool begin(struct run *r, struct connection *c) {
    static char room[MAX_BYTES];
    const struct bytes *seed = &r->seeds[draw(r, (size_t)r->n_seeds)];
    struct bytes m = {room, seed->len};
    memcpy(room, seed->p, seed->len);
    /* one edit half of the time: many must get far */
    for (uint32_t n = draw(r, 2) ? 1 : 1 + draw(r, 6); n > 0; n--) edit(r, &m);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)r->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    *c = (struct connection){.number = r->begun++, .begun_us = taca_now_us()};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0) return false;
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    (void)!send(c->fd, m.p, m.len, MSG_NOSIGNAL);
    if (draw(r, 16)) shutdown(c->fd, SHUT_WR);
    return true;
}

/* One answer, all of it: interim ones are not counted. */
static void judge(struct run *r, struct connection *c) {
    const char *head = c->head;
    c->head[c->len] = 0;
    while (strncmp(head, "HTTP/1.1 100 ", 13) == 0 && strstr(head, "\r\n\r\n"))
        head = strstr(head, "\r\n\r\n") + 4;
    if (!*head) {
        r->silent++;
        return;
    }
    long status = strncmp(head, "HTTP/1.1 ", 9) == 0 ? strtol(head + 9, NULL, 10) : 0;
    if (status < 200 || status > 599) {
        fault(r, c, "no HTTP answer");
        return;
    }
    r->by_class[status / 100]++;
    /* 501 and 505 are refusals; 503 is said to one too many */
    if (status >= 500 && status != 501 && status != 503 && status != 505)
        fault(r, c, "a server error");
    for (const char *next = head; (next = strstr(next + 9, "HTTP/1.1 "));)
        if (next[9] >= '0' && next[9] <= '9') fault(r, c, "two answers");
}

static void finish(struct run *r, struct connection *c) {
    /* half of them with a reset, for whoever still writes */
    struct linger now = {1, 0};
    if (draw(r, 2)) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(c->fd);
    c->fd = -1;
    r->ended++;
}

static void take(struct run *r, struct connection *c) {
    char sink[16384];
    bool head = c->len < HEAD_BYTES;
    ssize_t n =
        recv(c->fd, head ? c->head + c->len : sink, head ? HEAD_BYTES - c->len : sizeof sink, 0);
    if (n > 0) {
        if (head) c->len += (size_t)n;
        c->total += (size_t)n;
        return;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n < 0) r->refused++; /* a reset after bytes that nobody wanted */
    judge(r, c);
    finish(r, c);
}

static void turn(struct run *r) {
    struct pollfd p[IN_FLIGHT];
    for (int i = 0; i < IN_FLIGHT; i++) {
        struct connection *c = &r->conns[i];
        if (c->fd < 0 && r->begun < r->count && !begin(r, c)) {
            fault(r, c, "cannot connect");
            if (c->fd >= 0) finish(r, c);
            usleep(1000);
        }
        p[i] = (struct pollfd){.fd = c->fd, .events = POLLIN};
    }
    poll(p, IN_FLIGHT, 100);
    int64_t now_us = taca_now_us();
    for (int i = 0; i < IN_FLIGHT; i++) {
        struct connection *c = &r->conns[i];
        if (c->fd < 0) continue;
        if (p[i].revents) take(r, c);
        if (c->fd < 0 || now_us - c->begun_us < END_US) continue;
        fault(r, c, "no end");
        finish(r, c);
    }
}

static bool read_seeds(struct run *r, const char *path) {
    FILE *f = fopen(path, "rb");
    uint32_t len;
    while (f && r->n_seeds < MAX_SEEDS && fread(&len, sizeof len, 1, f) == 1) {
        struct bytes *s = &r->seeds[r->n_seeds];
        if (len == 0 || len > MAX_BYTES) break;
        s->p = malloc(len);
        s->len = len;
        if (!s->p || fread(s->p, 1, len, f) != len) break;
        r->n_seeds++;
    }
    if (f) fclose(f);
    return r->n_seeds > 0;
}

int main(int argc, char **argv) {
    static struct run r;
    if (argc != 5 || !read_seeds(&r, argv[2])) {
        fprintf(stderr, "usage: mutate PORT SEEDS COUNT SEED\n");
        return 2;
    }
    r.port = (int)strtol(argv[1], NULL, 10);
    r.count = strtol(argv[3], NULL, 10);
    r.random = strtoull(argv[4], NULL, 10) * 2654435761u + 88172645463325252u;
    for (int i = 0; i < IN_FLIGHT; i++) r.conns[i].fd = -1;
    int64_t begin_us = taca_now_us();
    while (r.ended < r.count && r.faults < MAX_FAULTS) turn(&r);
    double s = (double)(taca_now_us() - begin_us) / 1e6;
    printf("%ld requests in %.1f s (%.0f/s): 2xx %ld, 3xx %ld, 4xx %ld, 5xx %ld, silent %ld, reset "
           "%ld, faults %ld\n",
           r.ended, s, (double)r.ended / s, r.by_class[2], r.by_class[3], r.by_class[4],
           r.by_class[5], r.silent, r.refused, r.faults);
    for (int i = 0; i < r.n_seeds; i++) free(r.seeds[i].p);
    return r.faults > 0;
}
