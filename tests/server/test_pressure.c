/* test_pressure.c - levels and where they end; groups of both versions, as the kernel writes them.
 */
#include "server/pressure.h"
#include "tests/test.h"

#include <sys/stat.h>
#include <unistd.h>

static char root[64];

/* A file under root with its folders. */
static void put(const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *s = path + 1; (s = strchr(s, '/')); s++) {
        *s = 0;
        mkdir(path, 0700);
        *s = '/';
    }
    FILE *f = fopen(path, "w");
    if (!CHECK(f != NULL)) return;
    fputs(text, f);
    fclose(f);
}

static void begin(void) {
    snprintf(root, sizeof root, "/tmp/taca-pressure-XXXXXX");
    CHECK(mkdtemp(root) != NULL);
}

static void end(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK_INT(system(command), 0);
}

static double share_in_root(void) {
    struct pressure p;
    struct taca_err err = {0};
    CHECK_OK(pressure_open(&p, "auto", root, &err), err);
    return pressure_read(&p);
}

static void test_levels_begin_where_they_should_and_end_lower(void) {
    static const struct {
        double share;
        enum pressure_level want;
    } walk[] = {
        {0, 0},   {.919, 0}, {.92, 1}, {.949, 1},  {.95, 2}, {.979, 2},  {.98, 3},
        {2, 3},   {.961, 3}, {.96, 2}, {.9301, 2}, {.93, 1}, {.9001, 1}, {.90, 0},
        {.99, 3}, {.5, 0},   {.99, 3}, {-1, 0},    {.91, 0},
    };
    enum pressure_level level = PRESSURE_NONE;
    for (size_t i = 0; i < sizeof walk / sizeof *walk; i++) {
        level = pressure_level(level, walk[i].share);
        CHECK_INT(level, walk[i].want);
    }
}

static void test_a_group_of_version_2_counts_what_cannot_be_dropped(void) {
    begin();
    put("proc/self/cgroup", "0::/system.slice/taca.service\n");
    put("sys/fs/cgroup/system.slice/taca.service/memory.max", "1000000\n");
    put("sys/fs/cgroup/system.slice/taca.service/memory.current", "950000\n");
    put("sys/fs/cgroup/system.slice/taca.service/memory.stat",
        "anon 500000\nfile 300000\ninactive_file 100000\nactive_file 80000\nshmem 120000\n"
        "slab_reclaimable 20000\nslab_unreclaimable 9\ninactive_file_x 7\n");
    CHECK_NEAR(share_in_root(), .75, 1e-9);
    end();
}

static void test_the_nearest_limit_upwards_counts(void) {
    begin();
    put("proc/self/cgroup", "0::/a/b/c\n");
    put("sys/fs/cgroup/a/b/c/memory.max", "max\n");
    put("sys/fs/cgroup/a/b/c/memory.current", "10\n");
    put("sys/fs/cgroup/a/memory.max", "200\n");
    put("sys/fs/cgroup/a/memory.current", "50\n");
    put("sys/fs/cgroup/memory.max", "100\n");
    put("sys/fs/cgroup/memory.current", "50\n");
    CHECK_NEAR(share_in_root(), .25, 1e-9);
    /* a container that sees its host's names but only its own folder */
    put("proc/self/cgroup", "0::/kubepods/pod1/container\n");
    CHECK_NEAR(share_in_root(), .5, 1e-9);
    end();
}

static void test_a_group_of_version_1_is_read_too(void) {
    begin();
    put("proc/self/cgroup", "12:memoryless:/x\n11:cpu,memory:/docker/1\n0::/\n");
    put("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "4000\n");
    put("sys/fs/cgroup/memory/docker/1/memory.usage_in_bytes", "3000\n");
    put("sys/fs/cgroup/memory/docker/1/memory.stat", "total_inactive_file 600\n"
                                                     "total_active_file 400\ninactive_file 1\n");
    CHECK_NEAR(share_in_root(), .5, 1e-9);
    end();
}

static void test_without_a_limit_nothing_is_known(void) {
    begin();
    CHECK(share_in_root() < 0);
    put("proc/self/cgroup", "nonsense\n1:memory:/\n0::/\n");
    CHECK(share_in_root() < 0);
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "3000\n");
    put("sys/fs/cgroup/memory.max", "max\n");
    put("sys/fs/cgroup/memory.current", "3000\n");
    CHECK(share_in_root() < 0);
    end();
}

static void test_a_file_may_tell_it(void) {
    struct pressure p;
    struct taca_err err = {0};
    char path[128];
    begin();
    put("share", "0.5\n");
    snprintf(path, sizeof path, "%s/share", root);
    CHECK_OK(pressure_open(&p, path, "", &err), err);
    CHECK_NEAR(pressure_read(&p), .5, 0);
    put("share", "much\n");
    CHECK(pressure_read(&p) < 0);
    CHECK_OK(pressure_open(&p, "none", "", &err), err);
    CHECK(pressure_read(&p) < 0);
    CHECK_INT(pressure_open(&p, "/nowhere/share", "", &err), TACA_EINVAL);
    CHECK_HAS(err.text, "auto, none or a file");
    end();
}

int main(void) {
    TEST(test_levels_begin_where_they_should_and_end_lower);
    TEST(test_a_group_of_version_2_counts_what_cannot_be_dropped);
    TEST(test_the_nearest_limit_upwards_counts);
    TEST(test_a_group_of_version_1_is_read_too);
    TEST(test_without_a_limit_nothing_is_known);
    TEST(test_a_file_may_tell_it);
    return TEST_END();
}
