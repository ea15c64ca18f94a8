/* test_metrics.c - /metrics as Prometheus reads it. */
#include "server/metrics.h"

#include <pthread.h>

#include "tests/test.h"

static struct taca_buf render(void) {
    struct taca_buf b;
    taca_buf_init(&b, METRICS_MAX_BYTES);
    metrics_render(&b);
    CHECK(!b.failed);
    return b;
}

static void fill(void) {
    metrics_set_model(0, "de\"mo\\x");
    metric_add(METRIC_REQUESTS, "ok", 3);
    metric_add(METRIC_REJECTED, "queue_full", 2);
    metric_add(METRIC_REJECTED, "something new", 1);
    metric_add(METRIC_REJECTED, NULL, 1);
    metric_add(METRIC_STEPS, NULL, 28);
    metric_set(METRIC_CAPACITY, 256);
    metric_inc(METRIC_CONNECTIONS, 3);
    metric_inc(METRIC_CONNECTIONS, -1);
    metric_step(&(struct metric_step){0, 0, 0.02, 2, 300});
    metric_step(&(struct metric_step){0, 0, 1e9, 65, 1});
    metric_http("/v1/generate", "POST", 200, 0.5);
    metric_http("/v1/generate", "POST", 200, 0.7);
    metric_http("/livez", "BREW", 405, 0.001);
}

static void test_what_is_counted_is_shown(void) {
    struct taca_buf b = render();
    CHECK_HAS(b.data, "taca_requests_total{model=\"de\\\"mo\\\\x\",outcome=\"ok\"} 3\n");
    CHECK_HAS(b.data, "taca_requests_total{model=\"de\\\"mo\\\\x\",outcome=\"failed\"} 0\n");
    CHECK_HAS(b.data, "taca_rejected_total{reason=\"queue_full\"} 2\n");
    CHECK_HAS(b.data, "taca_steps_total{model=\"de\\\"mo\\\\x\"} 28\n");
    CHECK_HAS(b.data, "taca_queue_capacity 256\n");
    CHECK_HAS(b.data, "taca_http_connections 2\n");
    CHECK_HAS(b.data, "taca_step_padding_tokens_total 0\n");
    CHECK_HAS(b.data, "taca_build_info{version=\"" TACA_VERSION "\"");
    CHECK_HAS(b.data, "process_resident_memory_bytes ");
    taca_buf_finish(&b);
}

static void test_a_label_that_is_not_in_the_list_counts_as_other(void) {
    struct taca_buf b = render();
    CHECK_HAS(b.data, "taca_rejected_total{reason=\"other\"} 2\n");
    CHECK(!strstr(b.data, "something new"));
    CHECK_HAS(b.data, "method=\"other\",code=\"405\"} 1\n");
    CHECK(!strstr(b.data, "BREW"));
    taca_buf_finish(&b);
}

#define STEP "model=\"de\\\"mo\\\\x\",gpu=\"0\""
static void test_buckets_are_cumulative_and_end_with_the_count(void) {
    struct taca_buf b = render();
    CHECK_HAS(b.data, "le=\"0.01\"} 0\n");
    CHECK_HAS(b.data, "taca_step_duration_seconds_bucket{" STEP ",le=\"0.025\"} 1\n");
    CHECK_HAS(b.data, "taca_step_duration_seconds_bucket{" STEP ",le=\"2.5\"} 1\n");
    CHECK_HAS(b.data, "taca_step_duration_seconds_bucket{" STEP ",le=\"+Inf\"} 2\n");
    CHECK_HAS(b.data, "taca_step_duration_seconds_count{" STEP "} 2\n");
    CHECK_HAS(b.data, "taca_step_batch_images_bucket{" STEP ",le=\"2\"} 1\n");
    CHECK_HAS(b.data, "taca_step_batch_images_bucket{" STEP ",le=\"64\"} 1\n");
    CHECK_HAS(b.data, "taca_step_batch_tokens_sum{" STEP "} 301\n");
    CHECK_HAS(b.data, "taca_last_step_timestamp_seconds{gpu=\"0\"} 1"); /* since September 2001 */
    CHECK_HAS(b.data, "route=\"/v1/generate\",method=\"POST\",code=\"200\",le=\"0.5\"} 1\n");
    taca_buf_finish(&b);
}

static void test_only_devices_with_memory_of_their_own_tell_of_it(void) {
    metric_device_memory(0, 0, 0);
    metric_device_arena(0, 5000);
    metric_device_memory(1, 3e9, 80e9);
    metric_device_arena(1, 7000);
    metric_device_arena(1, 6000); /* another worker's, or the next one's */
    struct taca_buf b = render();
    CHECK(!strstr(b.data, "taca_gpu_memory_used_bytes{gpu=\"0\"}"));
    CHECK(!strstr(b.data, "taca_gpu_memory_total_bytes{gpu=\"0\"}"));
    CHECK_HAS(b.data, "taca_gpu_memory_used_bytes{gpu=\"1\"} 3000000000\n");
    CHECK_HAS(b.data, "taca_gpu_memory_total_bytes{gpu=\"1\"} 80000000000\n");
    CHECK_HAS(b.data, "taca_arena_peak_bytes{gpu=\"0\"} 5000\n");
    CHECK_HAS(b.data, "taca_arena_peak_bytes{gpu=\"1\"} 7000\n");
    taca_buf_finish(&b);
}

static void test_each_model_has_rows_of_its_own(void) {
    metrics_set_model(2, "third");
    metric_add_of(METRIC_REQUESTS, 2, "ok", 5);
    metric_set_of(METRIC_WAITING, 2, 4);
    metric_step(&(struct metric_step){1, 2, 0.02, 1, 100});
    struct taca_buf b = render();
    CHECK_HAS(b.data, "taca_requests_total{model=\"third\",outcome=\"ok\"} 5\n");
    CHECK_HAS(b.data, "taca_requests_total{model=\"de\\\"mo\\\\x\",outcome=\"ok\"} 3\n");
    CHECK_HAS(b.data, "taca_requests_waiting{model=\"third\"} 4\n");
    CHECK_HAS(b.data, "taca_step_duration_seconds_count{model=\"third\",gpu=\"1\"} 1\n");
    CHECK(!strstr(b.data, "taca_queue_capacity{")); /* it is the service's */
    taca_buf_finish(&b);
}

static void test_more_routes_than_the_table_holds_do_not_grow_it(void) {
    static char routes[300][8];
    for (int i = 0; i < 300; i++) {
        snprintf(routes[i], sizeof routes[i], "/%d", i);
        metric_http(routes[i], "GET", 404, 0.1);
    }
    metric_http("/late", "POST", 503, 0.1); /* no 404, whoever came before */
    metric_http("/late", "PUT", 503, 0.1);
    struct taca_buf full = render();
    CHECK_HAS(full.data, "{route=\"other\",method=\"other\",code=\"503\"} 2\n");
    CHECK_HAS(full.data, "{route=\"/100\",method=\"GET\",code=\"404\"} 1\n");
    CHECK(!strstr(full.data, "/late"));
    taca_buf_finish(&full);
    for (int code = 0; code < 2000; code++) metric_http("/flood", "GET", code, 0.1);
    struct taca_buf b = render();
    int rows = 0;
    for (const char *at = b.data; (at = strstr(at, "taca_http_requests_total{")); at++) rows++;
    CHECK_INT(rows, 256);
    taca_buf_finish(&b);
}

static void *count(void *arg) {
    for (int i = 0; i < 20000; i++) {
        metric_add(METRIC_IMAGES, NULL, 1);
        metric_inc(METRIC_SSE_STREAMS, i % 2 ? -1 : 1);
        metric_observe_sized(METRIC_QUEUE_WAIT, 0, 300 * 300, 1);
        if (i % 5000 == 0) metric_http("/threads", "GET", 200, 1);
    }
    return arg;
}

static void test_no_count_is_lost_between_threads(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, count, NULL) == 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    struct taca_buf b = render();
    CHECK_HAS(b.data, "taca_images_total{model=\"de\\\"mo\\\\x\"} 80000\n");
    CHECK_HAS(b.data, "taca_sse_streams 0\n");
    CHECK_HAS(b.data,
              "taca_queue_wait_seconds_sum{model=\"de\\\"mo\\\\x\",size_class=\"m\"} 80000\n");
    taca_buf_finish(&b);
}

static void test_promtool_has_nothing_to_say(void) {
    if (system("command -v promtool >/dev/null 2>&1") != 0) {
        SKIP("promtool is not installed (Debian package prometheus)");
        return;
    }
    struct taca_buf b = render();
    FILE *f = popen("promtool check metrics", "w");
    if (!CHECK(f != NULL)) return;
    CHECK(fwrite(b.data, 1, b.len, f) == b.len);
    CHECK_INT(pclose(f), 0);
    taca_buf_finish(&b);
}

static void test_all_that_there_may_be_fits_into_an_answer(void) {
    static char models[METRIC_MODELS][64], keys[200][33];
    for (int m = 1; m < METRIC_MODELS; m++) { /* the first has its name already */
        snprintf(models[m], sizeof models[m], "%062d%d", 0, m);
        metrics_set_model(m, models[m]);
        for (int d = 0; d < METRIC_DEVICES; d++)
            metric_step(&(struct metric_step){d, m, 0.02, 2, 300});
        for (double px = 1e4; px < 1e8; px *= 4) {
            metric_observe_sized(METRIC_QUEUE_WAIT, m, px, 1);
            metric_observe_sized(METRIC_REQUEST_DURATION, m, px, 1);
            metric_observe_sized(METRIC_FIRST_PREVIEW, m, px, 1);
        }
        metric_observe_of(METRIC_ETA_ERROR, m, 1);
    }
    for (int i = 0; i < 200; i++) {
        snprintf(keys[i], sizeof keys[i], "%032d", i);
        metric_key(keys[i], "ok");
        metric_key_work(keys[i], 1e9);
    }
    struct taca_buf b = render(); /* says when not */
    CHECK(b.len > 1 << 20);
    taca_buf_finish(&b);
}

int main(void) {
    fill();
    TEST(test_what_is_counted_is_shown);
    TEST(test_a_label_that_is_not_in_the_list_counts_as_other);
    TEST(test_buckets_are_cumulative_and_end_with_the_count);
    TEST(test_only_devices_with_memory_of_their_own_tell_of_it);
    TEST(test_each_model_has_rows_of_its_own);
    TEST(test_no_count_is_lost_between_threads);
    TEST(test_promtool_has_nothing_to_say);
    TEST(test_more_routes_than_the_table_holds_do_not_grow_it);
    TEST(test_all_that_there_may_be_fits_into_an_answer);
    return TEST_END();
}
