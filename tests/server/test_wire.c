/* test_wire.c - messages between the service and its worker: what is put is got, and what is cut,
 * changed or senseless is refused. */
#include "server/wire.h"

#include "tests/test.h"

enum { MAX_BYTES = 1 << 21 };

static void put_one(struct taca_buf *b, enum wire_type type) {
    static const unsigned char tail[4 * 6 * 3];
    struct wire_msg m;
    memset(&m, 0, sizeof m);
    m.type = type;
    switch (type) {
    case WIRE_OPEN:
        m.tail = "a packed request";
        m.tail_len = 16;
        m.u.open.id = 7;
        m.u.open.image_bytes = 300;
        m.u.open.mask_bytes = 100;
        break;
    case WIRE_STEP:
        m.u.step.n = 3;
        for (int i = 0; i < 3; i++) m.u.step.ids[i] = 100 + i;
        break;
    case WIRE_HELLO:
        memcpy(m.u.hello.model.id, "demo", 5);
        m.u.hello.model.side_multiple_px = 16;
        m.u.hello.model.default_steps = 28;
        m.u.hello.model.n_loras = 1;
        memcpy(m.u.hello.model.loras[0].id, "style", 6);
        break;
    case WIRE_FAILED: m.u.opened.err.code = TACA_ENOTFOUND; break;
    case WIRE_OPENED: m.u.opened.steps = 28, m.u.opened.tokens = 282; break;
    case WIRE_STEPPED: m.u.stepped.n = 3; break;
    case WIRE_PREVIEWED:
    case WIRE_DECODED:
        m.u.pixels.width_px = 4;
        m.u.pixels.height_px = 6;
        m.tail = type == WIRE_PREVIEWED ? tail : NULL;
        m.tail_len = type == WIRE_PREVIEWED ? sizeof tail : 0;
        break;
    case WIRE_PREVIEW:
    case WIRE_CLOSE:
    case WIRE_QUIT: m.u.seq.id = 9; break;
    case WIRE_DECODE: m.u.decode.slot = 2; break;
    case WIRE_CALIBRATE: m.u.calibrate.budget_ms = 250; break;
    case WIRE_CALIBRATED:
        m.u.calibrated.n = 1;
        m.u.calibrated.steps[0] = (struct wire_sight){4, 282, 20};
        break;
    case WIRE_LOG: m.u.log.least = 3; break;
    case WIRE_MEMORY: m.u.memory = (struct wire_memory){3 << 20, 8 << 20, 1 << 20}; break;
    case WIRE_TYPES_END: break;
    }
    wire_put(b, &m);
}

static void test_what_is_put_is_got(void) {
    struct taca_buf b;
    taca_buf_init(&b, MAX_BYTES);
    for (int t = WIRE_OPEN; t < WIRE_TYPES_END; t++) put_one(&b, (enum wire_type)t);
    CHECK(!b.failed);
    size_t at = 0;
    for (int t = WIRE_OPEN; t < WIRE_TYPES_END; t++) {
        struct wire_msg m = {0};
        struct taca_err err = {0};
        long n = wire_get(&m, b.data + at, b.len - at, &err);
        if (!CHECK(n > 0)) printf("        type %d: %s\n", t, err.text);
        CHECK_INT(m.type, t);
        if (t == WIRE_OPEN) CHECK(m.tail_len == 16 && memcmp(m.tail, "a packed request", 16) == 0);
        if (t == WIRE_STEP) CHECK(m.u.step.n == 3 && m.u.step.ids[2] == 102);
        if (t == WIRE_HELLO) CHECK_STR(m.u.hello.model.id, "demo");
        if (t == WIRE_HELLO) CHECK_STR(m.u.hello.model.loras[0].id, "style");
        if (t == WIRE_PREVIEWED) CHECK_INT(m.tail_len, 72);
        if (n <= 0) break;
        at += (size_t)n;
    }
    CHECK_INT(at, b.len);
    taca_buf_finish(&b);
}

static void test_a_cut_message_waits_for_the_rest(void) {
    for (int t = WIRE_OPEN; t < WIRE_TYPES_END; t++) {
        struct taca_buf b;
        taca_buf_init(&b, MAX_BYTES);
        put_one(&b, (enum wire_type)t);
        for (size_t len = 0; len < b.len; len++) {
            struct wire_msg m;
            struct taca_err err = {0};
            if (!CHECK(wire_get(&m, b.data, len, &err) == 0)) break;
        }
        taca_buf_finish(&b);
    }
}

static void test_a_changed_head_is_refused(void) {
    for (int t = WIRE_OPEN; t < WIRE_TYPES_END; t++) {
        struct taca_buf b;
        taca_buf_init(&b, MAX_BYTES);
        put_one(&b, (enum wire_type)t);
        for (int i = 0; i < 12; i++) { /* magic, version, type, length of the struct */
            struct wire_msg m = {.type = WIRE_TYPES_END};
            struct taca_err err = {0};
            b.data[i] ^= 0x40;
            bool refused = wire_get(&m, b.data, b.len, &err) < 0;
            CHECK(refused);
            CHECK(!refused || (err.code == TACA_EPROTO && m.type == WIRE_TYPES_END));
            b.data[i] ^= 0x40;
        }
        taca_buf_finish(&b);
    }
}

static bool refused(const struct wire_msg *m) {
    struct taca_buf b;
    struct taca_err err = {0};
    struct wire_msg got;
    taca_buf_init(&b, MAX_BYTES);
    wire_put(&b, m);
    bool no = wire_get(&got, b.data, b.len, &err) < 0;
    taca_buf_finish(&b);
    return no;
}

static void test_counts_codes_and_strings_are_checked(void) {
    struct wire_msg m = {.type = WIRE_STEP};
    CHECK(refused(&m)); /* n = 0 */
    m.u.step.n = WIRE_MAX_SEQS + 1;
    CHECK(refused(&m));
    m = (struct wire_msg){.type = WIRE_DECODE};
    m.u.decode.slot = -1;
    CHECK(refused(&m));
    static const int64_t inputs[][3] = {/* pixels, mask, refused */
                                        {0, 0, 0},  {300, 0, 0},          {300, 100, 0},
                                        {0, 1, 1},  {300, 99, 1},         {301, 0, 1},
                                        {-3, 0, 1}, {INT64_MAX - 1, 0, 1}};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        m = (struct wire_msg){.type = WIRE_OPEN};
        m.u.open.image_bytes = inputs[i][0];
        m.u.open.mask_bytes = inputs[i][1];
        CHECK(refused(&m) == (inputs[i][2] == 1));
    }
    m = (struct wire_msg){.type = WIRE_OPENED};
    CHECK(refused(&m)); /* no tokens */
    m.u.opened.err.code = 99;
    CHECK(refused(&m));
    m.u.opened.err.code = TACA_EINVAL;
    CHECK(!refused(&m));
    memset(m.u.opened.err.text, 'x', sizeof m.u.opened.err.text);
    CHECK(refused(&m));
    m = (struct wire_msg){.type = WIRE_HELLO};
    CHECK(refused(&m)); /* no sizes */
    m.u.hello.model.side_multiple_px = 16;
    m.u.hello.model.default_steps = 28;
    CHECK(!refused(&m));
    m.u.hello.model.n_loras = -1;
    CHECK(refused(&m));
    m.u.hello.model.n_loras = TACA_MAX_SERVED_LORAS + 1;
    CHECK(refused(&m));
    m.u.hello.model.n_loras = TACA_MAX_SERVED_LORAS;
    CHECK(!refused(&m));
    memset(m.u.hello.model.loras[15].id, 'x', sizeof m.u.hello.model.loras[15].id);
    CHECK(refused(&m));
    m = (struct wire_msg){.type = WIRE_FAILED};
    CHECK(refused(&m)); /* failed with OK */
    m = (struct wire_msg){.type = WIRE_DECODED};
    CHECK(refused(&m)); /* 0 x 0 pixels */
    m = (struct wire_msg){.type = WIRE_LOG};
    CHECK(!refused(&m));
    m.u.log.least = 4;
    CHECK(refused(&m));
    m = (struct wire_msg){.type = WIRE_MEMORY};
    CHECK(!refused(&m));
    m.u.memory.device_used_bytes = 1; /* more than there is */
    CHECK(refused(&m));
    m.u.memory = (struct wire_memory){-2, -1, 0};
    CHECK(refused(&m));
    m = (struct wire_msg){.type = WIRE_PREVIEWED, .tail = "abc", .tail_len = 3};
    m.u.pixels.width_px = m.u.pixels.height_px = 2;
    CHECK(refused(&m)); /* 12 bytes wanted */
}

static void test_a_tail_where_none_belongs_is_not_sent(void) {
    struct taca_buf b;
    struct wire_msg m = {.type = WIRE_CLOSE, .tail = "x", .tail_len = 1};
    taca_buf_init(&b, MAX_BYTES);
    wire_put(&b, &m);
    CHECK(b.failed);
    CHECK_INT(b.len, 0);
    taca_buf_finish(&b);
}

/* Whatever bytes come: no crash, and never more consumed than is there. */
static void test_noise_never_reads_past_its_end(void) {
    uint64_t x = 88172645463325252u;
    for (int round = 0; round < 20000; round++) {
        struct taca_buf b;
        taca_buf_init(&b, MAX_BYTES);
        put_one(&b, (enum wire_type)(1 + round % (WIRE_TYPES_END - 1)));
        for (int k = 0; k < 1 + round % 4; k++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            b.data[(x >> 20) % b.len] ^= (char)(1 << (x & 7));
        }
        size_t len = b.len - (round % 3 == 0 ? (x >> 40) % b.len : 0);
        char *exact = malloc(len ? len : 1); /* so that a sanitizer sees the end */
        if (!exact) break;
        memcpy(exact, b.data, len);
        struct wire_msg m;
        struct taca_err err = {0};
        long n = wire_get(&m, exact, len, &err);
        bool ok = n <= (long)len;
        if (n > 0 && m.tail_len) { /* readable to its last byte */
            const char *tail = m.tail;
            ok = ok && tail + m.tail_len == exact + n && tail[m.tail_len - 1] != tail[0] + 1000;
        }
        free(exact);
        taca_buf_finish(&b);
        if (!CHECK(ok)) return;
    }
}

int main(void) {
    TEST(test_what_is_put_is_got);
    TEST(test_a_cut_message_waits_for_the_rest);
    TEST(test_a_changed_head_is_refused);
    TEST(test_counts_codes_and_strings_are_checked);
    TEST(test_a_tail_where_none_belongs_is_not_sent);
    TEST(test_noise_never_reads_past_its_end);
    return TEST_END();
}
