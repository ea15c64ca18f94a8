/* test_access_key.c - lines of a key file: what they allow, and what a mistake is told. */
#include "server/access.h"
#include "tests/test.h"

#include <time.h>
#include <unistd.h>

/* SHA-256 of "abc" (FIPS 180-4, example) */
#define HASH "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

static enum taca_code read_line(struct access_client *c, const char *line, struct taca_err *err) {
    uint8_t hash[SHA256_BYTES], want[SHA256_BYTES];
    *err = (struct taca_err){0};
    enum taca_code rc = access_read_key(c, hash, line, err);
    sha256(want, "abc", 3);
    if (!rc) CHECK(memcmp(hash, want, sizeof hash) == 0);
    return rc;
}

static void test_every_limit_is_read(void) {
    struct access_client c;
    struct taca_err err;
    CHECK_OK(read_line(&c, "a.b_C-1:" HASH, &err), err);
    CHECK_STR(c.name, "a.b_C-1");
    CHECK(!c.concurrency && !c.requests_per_minute && !c.limits_priority && !c.admin);
    CHECK_OK(read_line(&c, "ann:" HASH ":3", &err), err);
    CHECK_INT(c.concurrency, 3);
    CHECK_OK(read_line(&c,
                       "ann:" HASH ":concurrency=2,requests-per-minute=30,pixel-steps-per-minute="
                       "1.5e9,max-pixels=65536,max-side=512,max-steps=20,max-n=2,max-priority=-3,"
                       "models=a/b|c,admin",
                       &err),
             err);
    CHECK_INT(c.concurrency, 2);
    CHECK_INT(c.requests_per_minute, 30);
    CHECK_NEAR(c.pixel_steps_per_minute, 1.5e9, 0);
    CHECK(c.limits_priority && c.admin);
    CHECK_INT(c.max_priority, -3);
    CHECK(access_allows_model(&c, "a/b") && access_allows_model(&c, "c"));
    CHECK(!access_allows_model(&c, "a") && !access_allows_model(&c, "") &&
          !access_allows_model(&c, "a/b|c"));
    struct api_limits l;
    api_limits_init(&l);
    access_narrow(&c, &l);
    CHECK_INT(l.max_pixels, 65536);
    CHECK_INT(l.max_side_px, 512);
    CHECK_INT(l.max_steps, 20);
    CHECK_INT(l.max_n, 2);
}

static void test_a_key_never_widens_what_the_service_allows(void) {
    struct access_client c;
    struct taca_err err;
    struct api_limits l, before;
    api_limits_init(&l);
    before = l;
    CHECK_OK(read_line(&c, "a:" HASH ":max-pixels=268435456,max-side=16384,max-steps=1000,max-n=64",
                       &err),
             err);
    access_narrow(&c, &l);
    CHECK(l.max_pixels == before.max_pixels && l.max_side_px == before.max_side_px &&
          l.max_steps == before.max_steps && l.max_n == before.max_n);
}

static void test_a_mistake_is_named_without_a_word_of_the_line(void) {
    static const struct {
        const char *line, *says;
    } cases[] = {
        {"", "not name:sha256"},
        {"ann", "not name:sha256"},
        {"ann:secret", "not name:sha256"},
        {":" HASH, "not name:sha256"},
        {"a b:" HASH, "not name:sha256"},
        {"ann:" HASH "0", "not name:sha256"},
        {"ann:" HASH ":", "not name:sha256"},
        {"ann:" HASH ":secret", "a limit that is not known"},
        {"ann:" HASH ":concurency=1", "did you mean concurrency?"},
        {"ann:" HASH ":0", "concurrency must be a whole number in 1..999999"},
        {"ann:" HASH ":1,", "a limit that is not known"},
        {"ann:" HASH ":,1", "a limit that is not known"},
        {"ann:" HASH ":max-n=65", "max-n must be a whole number in 1..64"},
        {"ann:" HASH ":max-n=1.5", "max-n must be"},
        {"ann:" HASH ":max-n=", "max-n must be"},
        {"ann:" HASH ":max-n", "max-n must be"},
        {"ann:" HASH ":max-n=nan", "max-n must be"},
        {"ann:" HASH ":max-n=0000000000000000000000000000000001", "max-n must be"},
        {"ann:" HASH ":max-priority=11", "-10..10"},
        {"ann:" HASH ":requests-per-minute=inf", "requests-per-minute must be"},
        {"ann:" HASH ":models=", "models must be"},
        {"ann:" HASH ":admin=1", "admin has no value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct access_client c = {.name = "untouched"};
        struct taca_err err;
        CHECK_INT(read_line(&c, cases[i].line, &err), TACA_EINVAL);
        CHECK_HAS(err.text, cases[i].says);
        CHECK(!strstr(err.text, "secret") && !strstr(err.text, "ba78"));
        CHECK_STR(c.name, "untouched");
    }
}

static int by_size(const void *a, const void *b) {
    double x = fabs(*(const double *)a), y = fabs(*(const double *)b);
    return (x > y) - (x < y);
}

/* Student's t of differences, the largest tenth left out: other programs'. */
static double t_of(double *d, int n) {
    double mean = 0, var = 0;
    qsort(d, (size_t)n, sizeof *d, by_size);
    n = n * 9 / 10;
    for (int i = 0; i < n; i++) mean += d[i] / n;
    for (int i = 0; i < n; i++) var += (d[i] - mean) * (d[i] - mean) / (n - 1);
    return mean / sqrt(var / n);
}

static double time_of(const struct access *a, const char *authorization) {
    struct access_client c;
    struct api_error e = {0};
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    int status = access_check(a, "/v1/generate", authorization, &c, &e);
    clock_gettime(CLOCK_MONOTONIC, &to);
    CHECK_INT(status, 401);
    return (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec);
}

enum { PAIRS = 5000, KEY = 400 };

/* A key of 400 bytes of which one is wrong. All are tried at one address: where a text lies shows
 * in its time, too. */
static double time_of_wrong(const struct access *a, char *bearer, int at) {
    bearer[7 + at] = 'x';
    double ns = time_of(a, bearer);
    bearer[7 + at] = '0';
    return ns;
}

/* One round of pairs that differ from the good key in their first and in their last byte, one right
 * after the other and in random order, so that a busy machine slows both. */
static double round_of(const struct access *a, unsigned *random) {
    static double difference[PAIRS];
    char bearer[KEY + 8];
    snprintf(bearer, sizeof bearer, "Bearer %0400d", 0);
    for (int i = 0; i < PAIRS; i++) {
        bool swap = (*random = *random * 1103515245 + 12345) >> 16 & 1;
        double one = time_of_wrong(a, bearer, swap ? KEY - 1 : 0);
        double other = time_of_wrong(a, bearer, swap ? 0 : KEY - 1);
        difference[i] = swap ? other - one : one - other;
    }
    return t_of(difference, PAIRS);
}

/* What tells something tells it every time and in the same direction; a busy machine does not. */
static void test_time_does_not_tell_how_much_of_a_key_is_right(void) {
    char path[] = "/tmp/taca-keys-XXXXXX", key[401], line[96] = "ann:";
    struct access *a = NULL;
    struct taca_err err = {0};
    uint8_t hash[SHA256_BYTES];
    unsigned random = 4711;
    int told = 0, fd = mkstemp(path);
    snprintf(key, sizeof key, "%0400d", 0);
    sha256(hash, key, 400);
    for (int i = 0; i < SHA256_BYTES; i++) snprintf(line + 4 + 2 * i, 3, "%02x", hash[i]);
    CHECK(fd >= 0 && write(fd, line, 68) == 68 && close(fd) == 0);
    CHECK_OK(access_open(&a, &(struct access_opts){.key_file = path}, &err), err);
    unlink(path);
    for (int i = 0; a && i < 3 && told == (told > 0 ? i : -i); i++) {
        double t = round_of(a, &random);
        told += fabs(t) < 4.5 ? 0 : t > 0 ? 1 : -1;
        printf("    t = %.2f\n", t);
    }
    CHECK(told > -3 && told < 3);
    access_close(a);
}

int main(void) {
    TEST(test_every_limit_is_read);
    TEST(test_a_key_never_widens_what_the_service_allows);
    TEST(test_a_mistake_is_named_without_a_word_of_the_line);
    TEST(test_time_does_not_tell_how_much_of_a_key_is_right);
    return TEST_END();
}
