/* peers.c - see peers.h. A table of at most half its slots, linear probing; a removal moves the
 * followers up, so there are no tombstones and a table that is used for years stays fast. */
#include "server/peers.h"

#include <endian.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct slot {
    uint64_t peer; /* 0 = free */
    int count;
};

struct peers {
    uint64_t salt; /* nobody can choose addresses that all meet in one slot */
    size_t mask, used, max;
    struct slot slots[];
};

struct peers *peers_open(size_t max) {
    size_t n = 16;
    while (n < 2 * max) n *= 2;
    struct peers *p = calloc(1, sizeof *p + n * sizeof p->slots[0]);
    if (!p) return NULL;
    if (getrandom(&p->salt, sizeof p->salt, GRND_NONBLOCK) != (ssize_t)sizeof p->salt)
        p->salt = (uint64_t)(uintptr_t)p;
    p->salt |= 1;
    p->mask = n - 1;
    p->max = max;
    return p;
}

void peers_close(struct peers *p) { free(p); }

/* No /64 in use has this form. */
static uint64_t of_v4(uint32_t address) { return UINT64_C(1) << 32 | address; }

uint64_t peer_of(const struct sockaddr *a, socklen_t len) {
    uint64_t net;
    if (a->sa_family == AF_INET && len >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in v4;
        memcpy(&v4, a, sizeof v4);
        return of_v4(v4.sin_addr.s_addr);
    }
    if (a->sa_family != AF_INET6 || len < sizeof(struct sockaddr_in6)) return 0;
    struct sockaddr_in6 v6;
    memcpy(&v6, a, sizeof v6);
    if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) { /* at a socket for both, such as systemd's */
        uint32_t v4;
        memcpy(&v4, v6.sin6_addr.s6_addr + 12, sizeof v4);
        return of_v4(v4);
    }
    memcpy(&net, v6.sin6_addr.s6_addr, sizeof net);
    net = be64toh(net);   /* as it is read, so that no IPv4 address looks like one that is in use */
    return net ? net : 1; /* ::1 */
}

static size_t home(const struct peers *p, uint64_t peer) {
    uint64_t x = peer * p->salt;
    x ^= x >> 32;
    x *= UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(x >> 32) & p->mask;
}

/* Its slot, or the free one where it would be. */
static size_t find(const struct peers *p, uint64_t peer) {
    size_t i = home(p, peer);
    while (p->slots[i].peer && p->slots[i].peer != peer) i = (i + 1) & p->mask;
    return i;
}

int peers_count(const struct peers *p, uint64_t peer) {
    return peer ? p->slots[find(p, peer)].count : 0;
}

void peers_add(struct peers *p, uint64_t peer) {
    if (!peer) return;
    struct slot *s = &p->slots[find(p, peer)];
    if (!s->peer) {
        if (p->used == p->max) return;
        s->peer = peer;
        p->used++;
    }
    s->count++;
}

void peers_drop(struct peers *p, uint64_t peer) {
    size_t hole = peer ? find(p, peer) : 0;
    if (!peer || !p->slots[hole].peer || --p->slots[hole].count > 0) return;
    p->used--;
    for (size_t i = (hole + 1) & p->mask; p->slots[i].peer; i = (i + 1) & p->mask) {
        size_t from_home = (i - home(p, p->slots[i].peer)) & p->mask;
        if (from_home < ((i - hole) & p->mask)) continue; /* it would land before its home */
        p->slots[hole] = p->slots[i];
        hole = i;
    }
    p->slots[hole] = (struct slot){0};
}
