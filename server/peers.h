/* peers.h - how many connections each client address has. One IPv4 address is one client,
 * mapped into IPv6 or not; so is a /64 of IPv6, which is what a single subscriber gets. Plain data:
 * the caller locks. */
#ifndef TACA_SERVER_PEERS_H
#define TACA_SERVER_PEERS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct peers;

struct peers *peers_open(size_t max); /* addresses at once; NULL when out of memory */
void peers_close(struct peers *p);    /* NULL is fine */

/* 0 for what is neither IPv4 nor IPv6: nobody counts those. */
uint64_t peer_of(const struct sockaddr *a, socklen_t len);

int peers_count(const struct peers *p, uint64_t peer);
void peers_add(struct peers *p, uint64_t peer);  /* not counted when there are max already */
void peers_drop(struct peers *p, uint64_t peer); /* nothing when it is not there */

#endif
