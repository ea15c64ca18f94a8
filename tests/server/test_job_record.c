/* test_job_record.c - a job as bytes and back; bytes that are cut, changed or of another version.
 */
#include <stdlib.h>

#include "server/job_record.h"
#include "tests/test.h"

enum { W = 32, H = 48 };

static uint64_t random_state = 88172645463325252u;

static uint64_t random_next(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static uint8_t *pixels_of(struct taca_arena *a, size_t n) {
    uint8_t *p = taca_arena_alloc(a, n);
    if (!p) abort();
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)random_next();
    return p;
}

/* Every member has a value that is not its default. */
static struct job *full_job(void) {
    struct job *j = job_open();
    if (!j) abort();
    struct api_request *q = &j->request;
    struct taca_model_info m = {.default_width_px = W, .default_height_px = H, .default_steps = 7};
    taca_gen_params_init(&q->params, &m);
    q->params.prompt = "a \"cat\"\n\xC3\xA9";
    q->params.negative_prompt = "";
    q->params.seed = (UINT64_C(1) << 53) - 9;
    q->params.strength = 0.25;
    q->params.image = pixels_of(&q->pixels, (size_t)3 * W * H);
    q->params.mask = pixels_of(&q->pixels, (size_t)W * H);
    q->params.n_loras = 1;
    q->params.loras[0] = (struct taca_lora_use){"ink", 0.5, TACA_LORA_IN_WINDOW};
    q->n = 3;
    q->file = (struct api_encoding){API_JPEG, -1, 80};
    q->metadata = q->stream = q->openai = q->edit = q->progress_events = true;
    q->a1111 = q->send_images = true;
    q->response = API_RESPONSE_URL;
    q->previews = 4;
    q->preview_every = 2;
    q->preview_max_side_px = 64;
    q->priority = -10;
    q->start_timeout_ms = 123;
    q->deadline_ms = 456;
    q->on_disconnect = API_DISCONNECT_CONTINUE;
    q->user = "ann";
    q->ignored = "style, moderation";
    q->quality = "medium";
    q->echo = "{\"n_iter\":2}";
    q->notes = "\"a\",\"b\"";
    q->warnings = TACA_WARN_IMAGE_SCALED;
    snprintf(j->request_id, sizeof j->request_id, "req.1");
    snprintf(j->client.name, sizeof j->client.name, "ann");
    snprintf(j->trace.id, sizeof j->trace.id, "0af7651916cd43dd8448eb211c80319c");
    j->named = j->comes_back = true;
    memset(j->body_hash, 0xA5, sizeof j->body_hash);
    return j;
}

static void over(struct job *j) {
    j->end = JOB_FAILED;
    j->cancel_reason = "deadline";
    api_fail(&j->error, 504, "deadline_exceeded", "deadline_ms", "not finished within %d ms", 456);
    j->error.retry_after_s = 3;
    j->started_s = 1000;
    j->completed_s = 1001;
    j->timings = (struct api_timings){1, 2, 3, 4, 5, 6};
    j->warnings = 3;
    j->last_event = UINT64_C(1) << 40;
    j->started_event = 2;
    j->progress_event = 3;
    j->final_event = 9;
    j->progress = (struct api_progress){1, 2, 3, 4.5, 5.5, 6, 7};
    j->made = 5;
    j->results = calloc(3, sizeof *j->results);
    if (!j->results) abort();
    for (int i = 0; i < 3; i++)
        j->results[i] =
            (struct api_result_image){i, 10u + (uint64_t)i, W, H, "x", 77, 5, NULL, API_JPEG};
}

static struct taca_buf record_of(const struct job *j, bool pixels) {
    struct taca_buf b;
    taca_buf_init(&b, 1 << 20);
    job_record_request(&b, j, pixels);
    CHECK(!b.failed);
    return b;
}

static void test_a_request_comes_back_as_it_was(void) {
    struct job *j = full_job(), *k = job_open();
    struct taca_err err = {0};
    struct taca_buf first = record_of(j, true);
    CHECK_OK(job_record_read_request(k, first.data, first.len, &err), err);
    struct taca_buf again = record_of(k, true);
    CHECK(first.len == again.len && memcmp(first.data, again.data, first.len) == 0);
    CHECK_STR(k->request.params.prompt, "a \"cat\"\n\xC3\xA9");
    CHECK_STR(k->request.params.loras[0].id, "ink");
    CHECK_STR(k->request.quality, "medium");
    CHECK(k->request.a1111 && k->request.send_images);
    CHECK(k->request.file.format == API_JPEG && k->request.file.quality == 80);
    CHECK_STR(k->request.echo, "{\"n_iter\":2}");
    CHECK_STR(k->request.notes, "\"a\",\"b\"");
    CHECK_STR(k->request_id, "req.1");
    CHECK(k->request.params.seed == (UINT64_C(1) << 53) - 9 && k->request.n == 3);
    CHECK(k->request.priority == -10 && k->request.edit && k->named);
    CHECK(k->request.on_disconnect == API_DISCONNECT_CONTINUE);
    CHECK(memcmp(k->request.params.image, j->request.params.image, (size_t)3 * W * H) == 0);
    CHECK(memcmp(k->request.params.mask, j->request.params.mask, (size_t)W * H) == 0);
    /* the pixels are where they can be given back, and are counted */
    CHECK(k->request.pixels.total_bytes >= (size_t)4 * W * H);
    api_request_drop_pixels(&k->request);
    CHECK_STR(k->request.params.prompt, "a \"cat\"\n\xC3\xA9");
    struct taca_buf light = record_of(j, false);
    CHECK_INT(first.len - light.len, 4 * W * H);
    taca_buf_finish(&first);
    taca_buf_finish(&again);
    taca_buf_finish(&light);
    job_close(j);
    job_close(k);
}

static void test_an_outcome_comes_back_as_it_was(void) {
    struct job *j = full_job(), *k = full_job();
    struct taca_err err = {0};
    struct taca_buf first, again;
    taca_buf_init(&first, 1 << 20);
    taca_buf_init(&again, 1 << 20);
    over(j);
    job_record_outcome(&first, j);
    CHECK_OK(job_record_read_outcome(k, first.data, first.len, &err), err);
    job_record_outcome(&again, k);
    CHECK(first.len == again.len && memcmp(first.data, again.data, first.len) == 0);
    CHECK_STR(k->error.code, "deadline_exceeded");
    CHECK_STR(k->cancel_reason, "deadline");
    CHECK(k->end == JOB_FAILED && k->made == 5 && k->last_event == UINT64_C(1) << 40);
    CHECK(k->results[2].seed == 12 && k->results[2].len == 77 && !k->results[2].bytes);
    CHECK(k->results[1].len == 0); /* was not made */
    CHECK(k->results[0].format == API_JPEG && k->results[2].format == API_JPEG);
    CHECK_NEAR(k->progress.eta_ms, 5.5, 0);
    taca_buf_finish(&first);
    taca_buf_finish(&again);
    job_close(j);
    job_close(k);
}

static enum taca_code read_request(const void *bytes, size_t len) {
    struct job *k = job_open();
    char *copy = malloc(len ? len : 1); /* of exactly this size, for the sanitizers */
    if (!k || !copy) abort();
    if (len) memcpy(copy, bytes, len);
    enum taca_code rc = job_record_read_request(k, copy, len, NULL);
    free(copy);
    job_close(k);
    return rc;
}

static enum taca_code read_outcome(const void *bytes, size_t len) {
    struct job *k = job_open();
    char *copy = malloc(len ? len : 1);
    if (!k || !copy) abort();
    if (len) memcpy(copy, bytes, len);
    k->request.n = 3;
    enum taca_code rc = job_record_read_outcome(k, copy, len, NULL);
    CHECK(rc == TACA_OK || k->made == 0);
    free(copy);
    job_close(k);
    return rc;
}

static void spoil(const struct taca_buf *b, enum taca_code (*read)(const void *, size_t)) {
    char *bytes = malloc(b->len + 1);
    if (!bytes) abort();
    memcpy(bytes, b->data, b->len);
    bytes[b->len] = 0;
    CHECK_INT(read(bytes, b->len), TACA_OK);
    CHECK_INT(read(bytes, b->len + 1), TACA_EPROTO);
    for (size_t len = 0; len < b->len; len += len < 2000 ? 1 : 97)
        CHECK_INT(read(bytes, len), TACA_EPROTO);
    bytes[0] ^= 1; /* another version */
    CHECK_INT(read(bytes, b->len), TACA_EPROTO);
    bytes[0] ^= 1;
    for (int i = 0; i < 5000; i++) { /* whatever it says, it says it without a crash */
        size_t at = random_next() % (b->len < 1500 ? b->len : 1500);
        char before = bytes[at];
        bytes[at] = (char)random_next();
        (void)read(bytes, b->len);
        bytes[at] = before;
    }
    free(bytes);
}

static void test_bytes_that_are_cut_or_changed_are_refused(void) {
    struct job *j = full_job();
    struct taca_buf request = record_of(j, true), outcome;
    taca_buf_init(&outcome, 1 << 20);
    over(j);
    job_record_outcome(&outcome, j);
    spoil(&request, read_request);
    spoil(&outcome, read_outcome);
    taca_buf_finish(&request);
    taca_buf_finish(&outcome);
    job_close(j);
}

int main(void) {
    TEST(test_a_request_comes_back_as_it_was);
    TEST(test_an_outcome_comes_back_as_it_was);
    TEST(test_bytes_that_are_cut_or_changed_are_refused);
    return TEST_END();
}
