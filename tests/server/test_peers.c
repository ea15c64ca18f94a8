/* test_peers.c - counting by address, against a plain array that counts the same. */
#include "server/peers.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "tests/test.h"

static uint64_t peer(const char *text) {
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
        return peer_of((struct sockaddr *)&v4, sizeof v4);
    CHECK_INT(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
    return peer_of((struct sockaddr *)&v6, sizeof v6);
}

static void test_an_address_or_a_64_is_one_peer(void) {
    CHECK(peer("127.0.0.1") != peer("127.0.0.2"));
    CHECK(peer("10.0.0.1") != 0 && peer("0.0.0.0") != 0 && peer("::1") != 0);
    CHECK(peer("2001:db8:0:1::1") == peer("2001:db8:0:1:ffff:ffff:ffff:ffff"));
    CHECK(peer("2001:db8:0:1::1") != peer("2001:db8:0:2::1"));
    CHECK(peer("2001:db8:0:1::1") != peer("2001:db8:1:1::1"));
    CHECK(peer("::1") != peer("0.0.0.1"));
    /* a socket for both families shows IPv4 clients so: they are not one client, nor ::1 */
    CHECK(peer("::ffff:10.0.0.1") == peer("10.0.0.1"));
    CHECK(peer("::ffff:10.0.0.1") != peer("::ffff:10.0.0.2"));
    CHECK(peer("::ffff:10.0.0.1") != peer("::1"));
    CHECK(peer("32.1.13.184") != peer("2001:db8:100::1")); /* the same bytes */
    struct sockaddr other = {.sa_family = AF_UNIX};
    CHECK_INT(peer_of(&other, sizeof other), 0);
    struct sockaddr_in cut = {.sin_family = AF_INET};
    CHECK_INT(peer_of((struct sockaddr *)&cut, 4), 0);
}

static uint32_t next_random(uint32_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 17;
    return *s ^= *s << 5;
}

static void test_counts_are_those_of_a_plain_array(void) {
    enum { PEERS = 200, ROUNDS = 200000 };
    int counts[PEERS] = {0};
    uint32_t seed = 7;
    struct peers *p = peers_open(PEERS);
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t who = next_random(&seed) % PEERS;
        /* for a while more come than go, then the other way round, so that the table fills up */
        bool come = next_random(&seed) % 8 < (round / 5000 % 2 ? 2 : 6);
        if (come) {
            peers_add(p, who + 1);
            counts[who]++;
        } else {
            peers_drop(p, who + 1);
            counts[who] -= counts[who] > 0;
        }
        uint32_t asked = next_random(&seed) % PEERS;
        if (peers_count(p, asked + 1) != counts[asked])
            CHECK_INT(peers_count(p, asked + 1), counts[asked]);
    }
    for (uint32_t i = 0; i < PEERS; i++) CHECK_INT(peers_count(p, i + 1), counts[i]);
    peers_close(p);
}

static void test_a_full_table_counts_no_newcomers(void) {
    struct peers *p = peers_open(2);
    peers_add(p, 1);
    peers_add(p, 2);
    peers_add(p, 3);
    CHECK_INT(peers_count(p, 3), 0);
    peers_drop(p, 3);
    peers_drop(p, 1);
    peers_add(p, 3);
    CHECK_INT(peers_count(p, 3), 1);
    CHECK_INT(peers_count(p, 1), 0);
    CHECK_INT(peers_count(p, 2), 1);
    peers_add(p, 0);
    CHECK_INT(peers_count(p, 0), 0);
    peers_close(p);
}

int main(void) {
    TEST(test_an_address_or_a_64_is_one_peer);
    TEST(test_counts_are_those_of_a_plain_array);
    TEST(test_a_full_table_counts_no_newcomers);
    return TEST_END();
}
