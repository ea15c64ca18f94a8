/* test_encode.c - pictures of requests on the encoder's threads: what comes back, and the bound on
 * what waits. */
#include <semaphore.h>

#include "server/encode.h"
#include "tests/test.h"

/* The encoder's thread stops where it tells that a result is there. */
struct owner {
    struct taca_mailbox results;
    sem_t told, go_on;
    bool first;
};

static void on_result(void *ctx) {
    struct owner *o = ctx;
    if (o->first) return;
    o->first = true;
    sem_post(&o->told);
    sem_wait(&o->go_on);
}

static void owner_init(struct owner *o) {
    *o = (struct owner){.first = false};
    sem_init(&o->told, 0, 0);
    sem_init(&o->go_on, 0, 0);
    taca_mailbox_init(&o->results, on_result, o);
}

/* A request that begins with `len` bytes that are no picture, though they say to be one. */
static struct job *job_with(size_t len, int side_px) {
    struct job *j = job_open();
    if (!j) abort();
    struct api_packed *image = &j->request.image;
    image->bytes = taca_arena_alloc(&j->request.files, len);
    if (!image->bytes) abort();
    image->len = 16;
    image->param = "init_images";
    image->width_px = image->height_px = side_px;
    return j;
}

static void test_what_waits_is_bounded_and_all_of_it_comes_back(void) {
    struct owner o;
    struct encode *e = NULL;
    struct taca_err err = {0};
    struct job *jobs[] = {job_with(16, 64), job_with(100 << 20, 64), job_with(100 << 20, 64),
                          job_with(16, 1 << 14), job_with(16, 1 << 14)};
    int answered = 0;
    owner_init(&o);
    CHECK_OK(encode_open(&e, 1, &o.results, &err), err);
    CHECK(encode_unpack(e, jobs[0]));
    sem_wait(&o.told); /* and from now on nothing is taken out of the line */
    CHECK(encode_unpack(e, jobs[1]));
    CHECK(!encode_unpack(e, jobs[2])); /* two hundred millions are too much */
    CHECK(encode_unpack(e, jobs[3]));
    CHECK(!encode_unpack(e, jobs[4])); /* so are 512 Mi pixels and 64 x 64 */
    sem_post(&o.go_on);
    encode_close(e);
    for (struct taca_mail *m = taca_mailbox_take(&o.results), *next; m; m = next) {
        struct encode_task *t = (struct encode_task *)m;
        next = m->next;
        CHECK(t->kind == ENCODE_UNPACK && t->job != jobs[2] && t->job != jobs[4]);
        CHECK(!t->job->request.image.bytes);
        CHECK_INT(t->error.status, 400);
        CHECK_STR(t->error.param, "init_images");
        answered++;
        job_close(t->job);
        encode_task_free(t);
    }
    CHECK_INT(answered, 3);
    job_close(jobs[2]);
    job_close(jobs[4]);
    taca_mailbox_finish(&o.results);
}

int main(void) {
    TEST(test_what_waits_is_bounded_and_all_of_it_comes_back);
    return TEST_END();
}
