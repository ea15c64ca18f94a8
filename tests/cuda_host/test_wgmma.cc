/* test_wgmma.cc - the executor's warpgroup products against plain sums, with operands laid out as
 * the PTX manual draws them, and what they do when a program forgets something. */
#include <ptx.cuh>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/test.h"

enum { M = 64, THREADS = 128, MOST = 128 };
enum flaw { RIGHT, NO_PROXY_FENCE, NO_BARRIER, READ_EARLY, OVERWRITE, NO_FENCE, NO_WAIT, ODD_WARP };

/* One operand, [lines, depth]: in memory the depth is side by side, or (across) the lines are. */
struct operand {
    int mode, lines, depth; /* mode: bits 62 and 63 of the descriptor */
    bool across;
    uint32_t lead, stride, step; /* bytes; step: from 16 of the depth to the next */
    std::vector<float> v;
    std::vector<uint16_t> image; /* of shared memory, from a multiple of 1024 on */
};
static const int row_bytes[] = {16, 128, 64, 32}; /* of a brick of eight rows */

/* Byte of the image for (line, k): bricks as the manual draws them. In row r of a swizzled brick
 * piece c is at c ^ r, c ^ r / 2 or c ^ r / 4, by its width. */
static size_t place(const operand &o, int line, int k) {
    const int side = o.across ? line : k, down = o.across ? k : line;
    const int w = row_bytes[o.mode], piece = side * 2 % w / 16, r = down % 8;
    const size_t brick = o.mode == 0 && o.across
                             ? (size_t)(line / 8) * o.stride + (size_t)(k / 8) * o.lead
                             : (size_t)(side * 2 / w) * o.lead + (size_t)(down / 8) * o.stride;
    return brick + (size_t)(r * w + (piece ^ r * w / 128) * 16 + side * 2 % 16);
}

static operand make(int mode, int lines, bool across) {
    operand o = {};
    const uint32_t w = (uint32_t)row_bytes[mode], brick = 8 * w;
    o.mode = mode, o.lines = lines, o.across = across;
    o.depth = mode == 1 ? 64 : 32;
    if (mode == 3 && !across) o.depth = 16; /* a brick's whole width */
    o.stride = across && mode ? brick : 128;
    if (!across) o.stride = brick;
    o.lead = mode == 0 ? 128 * (uint32_t)lines / 8 : across ? (uint32_t)o.depth * w : 16;
    o.step = mode == 0 ? 2 * o.lead : across ? 2 * o.stride : 32;
    o.image.assign((size_t)(o.lines * o.depth), 0);
    for (int i = 0; i < lines * o.depth; i++) {
        const __nv_bfloat16 x = __float2bfloat16_rn((float)(cuda_host::chance() % 512) / 256 - 1);
        o.v.push_back(__bfloat162float(x));
        o.image[place(o, i / o.depth, i % o.depth) / 2] = x.x;
    }
    return o;
}

static uint64_t describe(const operand &o, uint32_t address, int step) {
    return (uint64_t)o.mode << 62 | (uint64_t)(o.stride / 16) << 32 |
           (uint64_t)(o.lead / 16) << 16 | (address + (uint32_t)step * o.step) / 16;
}

struct job {
    const operand &a, &b;
    bool registers; /* a comes from there */
    flaw what;
    float *out; /* [M, b.lines] */
};

/* Four values of a of this lane: rows lane / 4 and 8 more, columns 2 (lane % 4) and 8 more. */
static void fragment(const operand &a, int step, uint32_t (&f)[4]) {
    const int t = (int)threadIdx.x, row = t / 32 * 16 + t % 32 / 4, k = step * 16 + t % 4 * 2;
    for (int i = 0; i < 4; i++) {
        const float *v = &a.v[(size_t)((row + i % 2 * 8) * a.depth + k + i / 2 * 8)];
        f[i] = __float2bfloat16_rn(v[0]).x | (uint32_t)__float2bfloat16_rn(v[1]).x << 16;
    }
}

static void bring(char *to, const operand &o) {
    for (size_t i = threadIdx.x; i < o.image.size() / 8; i += THREADS)
        cp_async16(to + 16 * i, &o.image[8 * i], true);
    cp_async_commit();
}

static void kernel(const job &j) {
    char *raw = dynamic_shared<char>(), *a = raw + (-shared_address(raw) & 1023);
    char *b = a + (j.a.image.size() * 2 + 1023) / 1024 * 1024;
    const int n = j.b.lines, t = (int)threadIdx.x;
    const int steps = j.a.depth < j.b.depth ? j.a.depth / 16 : j.b.depth / 16;
    float d[MOST / 2];
    uint32_t f[4][4];
    bring(a, j.a), bring(b, j.b);
    cp_async_wait<0>();
    if (j.what != NO_PROXY_FENCE) fence_proxy_async();
    if (j.what != NO_BARRIER) __syncthreads();
    for (int s = 0; s < steps; s++) fragment(j.a, s, f[s]);
    if (j.what != NO_FENCE) wgmma_fence();
    for (int s = 0; s < steps; s++)
        if (j.what != ODD_WARP || t / 32 != 3)
            cuda_host::wgmma({describe(j.a, shared_address(a), s), j.registers ? f[s] : nullptr,
                              describe(j.b, shared_address(b), s), j.b.across, n, s > 0, d});
    wgmma_commit();
    if (j.what == OVERWRITE) {
        for (size_t i = (size_t)t; i < j.b.image.size() / 8; i += THREADS)
            cp_async16(b + 16 * i, b, false);
        cp_async_wait<0>();
        fence_proxy_async();
    }
    if (j.what == NO_WAIT) return;
    if (j.what != READ_EARLY) wgmma_wait<0>();
    for (int i = 0; i < n / 2; i++)
        j.out[(t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8) * n + i / 4 * 8 + t % 4 * 2 + i % 2] =
            d[i];
    wgmma_wait<0>();
}

/* The largest error; NaN counts as infinite. */
static double error_of(const operand &a, const operand &b, bool registers, flaw what) {
    std::vector<float> out((size_t)(M * b.lines), NAN);
    const job j = {a, b, registers, what, out.data()};
    const int depth = a.depth < b.depth ? a.depth : b.depth;
    double worst = 0;
    cuda_host::run_grid(1, THREADS, 64 << 10, [&] { kernel(j); });
    for (int r = 0; r < M; r++)
        for (int c = 0; c < b.lines; c++) {
            double sum = 0;
            for (int k = 0; k < depth; k++)
                sum +=
                    (double)a.v[(size_t)(r * a.depth + k)] * (double)b.v[(size_t)(c * b.depth + k)];
            const double e = fabs((double)out[(size_t)(r * b.lines + c)] - sum);
            if (!(e <= worst)) worst = isnan(e) ? HUGE_VAL : e;
        }
    return worst;
}

static void test_products_are_right_in_every_layout(void) {
    for (int i = 0; i < 4 * 4 * 2 * 2; i++) {
        const operand a = make(i % 4, M, false),
                      b = make(i / 4 % 4, i / 16 % 2 ? 128 : 64, i / 32 > 0);
        for (int registers = 0; registers < 2; registers++) {
            const double e = error_of(a, b, registers, RIGHT);
            if (!CHECK(e < 1e-5)) /* 64 products of at most 1, each a float sum of 16 */
                printf("        modes %d and %d, %d wide, across %d, registers %d: %g\n", a.mode,
                       b.mode, b.lines, b.across, registers, e);
        }
    }
}

/* The layouts differ: one read as another gives something else. */
static void test_a_wrong_descriptor_gives_wrong_numbers(void) {
    for (int mode = 0; mode < 4; mode++)
        for (int across = 0; across < 2; across++) {
            const operand a = make(1, M, false), b = make(mode, 64, across);
            operand other = b;
            other.mode = (mode + 1) % 4;
            CHECK(error_of(a, other, false, RIGHT) > 0.1);
            other = b;
            other.stride *= 2;
            CHECK(error_of(a, other, false, RIGHT) > 0.1);
        }
}

static void test_what_is_forgotten_shows(void) {
    const operand a = make(1, M, false), b = make(1, 128, true);
    static const flaw always[] = {NO_PROXY_FENCE, READ_EARLY};
    for (flaw f : always) CHECK(error_of(a, b, true, f) > 0.1);
    static const flaw often[] = {NO_BARRIER, OVERWRITE};
    for (flaw f : often) {
        int seen = 0;
        for (int i = 0; i < 16; i++) seen += error_of(a, b, false, f) > 0.1;
        CHECK(seen > 0);
    }
}

static void test_a_program_that_breaks_the_rules_is_stopped(void) {
    static const flaw deadly[] = {NO_FENCE, NO_WAIT, ODD_WARP};
    const operand a = make(1, M, false), b = make(1, 64, true);
    for (flaw f : deadly) {
        int status = 0;
        fflush(stdout);
        const pid_t child = fork();
        if (child == 0) {
            (void)!freopen("/dev/null", "w", stderr);
            (void)error_of(a, b, false, f);
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    }
}

int main(void) {
    TEST(test_products_are_right_in_every_layout);
    TEST(test_a_wrong_descriptor_gives_wrong_numbers);
    TEST(test_what_is_forgotten_shows);
    TEST(test_a_program_that_breaks_the_rules_is_stopped);
    return TEST_END();
}
