/* wgmma.cc - Hopper's asynchronous products; see wgmma.h. */
#include "wgmma.h"

#include "products.h"

#include <cmath>
#include <deque>
#include <map>

#include <cuda_bf16.h>

namespace cuda_host {

static constexpr int INNER = 16, ROWS = 16, MOST_N = 256; /* of a product; of a warp */
static const uint32_t WINDOW = 1 << 18;                   /* what a descriptor can address */

/* Sums of a warp that are on their way, in the order of the lanes' registers. */
struct sums {
    std::vector<float> v;
    float *to[WARP];
    int pending;
};
struct product {
    wgmma_op lane[WARP];
    bool read; /* part has been worked out */
    std::vector<float> part;
};
struct warp_state {
    std::deque<std::vector<product>> groups; /* the last one is open */
    std::map<float *, sums> flying;          /* by lane 0's registers */
    bool fenced;
    uint64_t issued, trace; /* how many products, and which */
};

static std::vector<warp_state> warps;
static std::vector<char> seen; /* shared memory as products see it */
static size_t threads, bytes;  /* of the block; threads 0: the above are ready for it */
static uint32_t base;          /* the address of shared memory's first byte */

/* Most blocks come to no product. */
static void make_ready() {
    if (!threads) return;
    if (!has_wgmma()) die("wgmma: this device has no such products");
    if (threads / WARP % 4) die("wgmma: the block is not made of warpgroups");
    warps.assign(threads / WARP, {});
    for (warp_state &w : warps) w.groups.resize(1);
    seen.assign(bytes, (char)0xff);
    threads = 0;
}

/* ---- shared memory --------------------------------------------------------------------------- */

uint32_t shared_offset(const void *p) { return base + (uint32_t)((const char *)p - shared_block); }

void fence_async() {
    make_ready();
    for (const void *p : cur->unseen) {
        const size_t at = (size_t)((const char *)p - shared_block);
        if (at + 16 > seen.size()) die("cp.async wrote outside shared memory");
        memcpy(&seen[at], p, 16);
    }
    cur->unseen.clear();
}

/* One field of a descriptor: 14 bits, in units of 16 bytes. */
static uint32_t field(uint64_t desc, int bit) { return (uint32_t)(desc >> bit & 0x3fff) << 4; }

uint32_t wgmma_address(uint64_t desc, int line, int k, bool across) {
    static const uint32_t widths[] = {16, 128, 64, 32}; /* of a brick's row, by the mode */
    const int mode = (int)(desc >> 62);
    const uint32_t width = widths[mode], lead = field(desc, 16), stride = field(desc, 32);
    if (desc >> 49 & 7) die("wgmma: a base offset is not modelled");
    const uint32_t side = (uint32_t)(across ? line : k), down = (uint32_t)(across ? k : line);
    /* A brick is eight rows of `width` bytes; without a swizzle its own lead and stride change
     * places when lines are side by side. */
    uint32_t at = field(desc, 0) + down % 8 * width + side * 2 % width;
    const uint32_t beside = side * 2 / width, below = down / 8;
    if (mode == 0)
        at += across ? beside * stride + below * lead : beside * lead + below * stride;
    else
        at += beside * lead + below * stride;
    return at ^ ((at >> 7 & (width / 16 - 1)) << 4);
}

static const int PIECE = 8; /* values that always lie side by side: 16 bytes */

/* The piece of `line` from k on, or of the lines from `line` on at k. */
static void shared_piece(float (&to)[PIECE], uint64_t desc, int line, int k, bool across) {
    const uint32_t at = wgmma_address(desc, line, k, across);
    uint16_t x[PIECE];
    if (at >= WINDOW || at < base || at - base + sizeof x > seen.size())
        die("wgmma: an operand lies outside shared memory");
    memcpy(x, &seen[at - base], sizeof x);
    for (int i = 0; i < PIECE; i++) to[i] = __bfloat162float({x[i]});
}

/* ---- one product ----------------------------------------------------------------------------- */

static void read_a(const product &p, int warp, float (*a)[INNER]) {
    for (int r = 0; r < ROWS && !p.lane[0].a_regs; r++)
        for (int k = 0; k < INNER; k += PIECE) {
            float x[PIECE];
            shared_piece(x, p.lane[0].a_desc, warp % 4 * ROWS + r, k, false);
            memcpy(&a[r][k], x, sizeof x);
        }
    for (int l = 0; l < WARP && p.lane[0].a_regs; l++)
        for (int i = 0; i < 8; i++) {
            const uint16_t x = (uint16_t)(p.lane[l].a_regs[i / 2] >> i % 2 * 16);
            a[l / 4 + i / 2 % 2 * 8][l % 4 * 2 + i / 4 * 8 + i % 2] = __bfloat162float({x});
        }
}

/* b [INNER][n], a square of pieces at a time */
static void read_b(const wgmma_op &op, float *b) {
    for (int k = 0; k < INNER; k += PIECE)
        for (int j = 0; j < op.n; j += PIECE) {
            float x[PIECE][PIECE];
            for (int i = 0; i < PIECE; i++)
                shared_piece(x[i], op.b_desc, op.b_trans ? j : j + i, op.b_trans ? k + i : k,
                             op.b_trans);
            for (int q = 0; q < PIECE; q++)
                for (int i = 0; i < PIECE; i++)
                    b[(k + q) * op.n + j + i] = op.b_trans ? x[q][i] : x[i][q];
        }
}

/* a b of this warp's rows, as its lanes hold it. */
static void multiply(product *p, int warp) {
    const int n = p->lane[0].n;
    if (n % 16 || n > MOST_N) die("wgmma: an n that is not modelled");
    float a[ROWS][INNER], b[INNER * MOST_N], c[ROWS * MOST_N];
    read_a(*p, warp, a);
    read_b(p->lane[0], b);
    multiply_tile(c, a[0], b, n);
    p->part.resize((size_t)(WARP * n / 2));
    for (int l = 0; l < WARP; l++)
        for (int i = 0; i < n / 2; i++)
            p->part[(size_t)(l * n / 2 + i)] =
                c[(l / 4 + i / 2 % 2 * 8) * n + i / 4 * 8 + l % 4 * 2 + i % 2];
    if (wgmma_is_wrong()) p->part[0] += 1;
    p->read = true;
}

/* The accumulators leave their registers, or have left them before. */
static void take_off(warp_state &w, const product &p) {
    const wgmma_op *op = p.lane;
    sums &s = w.flying[op->d];
    const size_t each = (size_t)(op->n / 2);
    if (s.pending == 0) s.v.assign(WARP * each, 0);
    if (s.v.size() != WARP * each) die("wgmma: accumulators of two shapes at once");
    for (size_t l = 0; l < WARP; l++) {
        if (s.pending == 0 && op->add) memcpy(&s.v[l * each], op[l].d, each * sizeof(float));
        s.to[l] = op[l].d;
        for (size_t i = 0; i < each; i++) op[l].d[i] = NAN;
    }
    s.pending++;
}

static void land(warp_state &w, product &p, int warp) {
    if (!p.read) multiply(&p, warp);
    auto it = w.flying.find(p.lane[0].d);
    sums &s = it->second;
    for (size_t i = 0; i < s.v.size(); i++) s.v[i] = (p.lane[0].add ? s.v[i] : 0) + p.part[i];
    if (--s.pending) return;
    const size_t each = s.v.size() / WARP;
    for (size_t l = 0; l < WARP; l++) memcpy(s.to[l], &s.v[l * each], each * sizeof(float));
    w.flying.erase(it);
}

/* ---- instructions ---------------------------------------------------------------------------- */

static warp_state &mine() {
    make_ready();
    return warps[(size_t)cur->warp];
}

/* f(warp) once all lanes are here. */
template <class F> static void together(F f) {
    warp_state &w = mine();
    meet(nullptr, nullptr, [&](fiber *) { f(w); });
}

static void issue(warp_state &w, int warp, fiber *lanes) {
    product p = {};
    for (int l = 0; l < WARP; l++) {
        p.lane[l] = *(const wgmma_op *)lanes[l].in;
        if (p.lane[l].a_desc != p.lane[0].a_desc || p.lane[l].b_desc != p.lane[0].b_desc ||
            p.lane[l].n != p.lane[0].n || p.lane[l].add != p.lane[0].add)
            die("wgmma: the lanes of a warp disagree");
    }
    const wgmma_op &op = p.lane[0];
    if (!w.fenced) die("wgmma: no wgmma.fence since registers were last free");
    w.issued++;
    for (uint64_t x :
         {op.a_desc, op.b_desc, (uint64_t)op.n, (uint64_t)op.add, (uint64_t)op.b_trans})
        w.trace = (w.trace ^ x) * 0x9E3779B97F4A7C15u;
    take_off(w, p);
    if (chance() & 1) multiply(&p, warp);
    w.groups.back().push_back(std::move(p));
}

void wgmma(const wgmma_op &op) {
    warp_state &w = mine();
    const int warp = cur->warp;
    meet(&op, nullptr, [&w, warp](fiber *lanes) { issue(w, warp, lanes); });
}

void wgmma_fence() {
    together([](warp_state &w) { w.fenced = true; });
}

void wgmma_commit() {
    together([](warp_state &w) { w.groups.push_back({}); });
}

void wgmma_wait(size_t left) {
    const int warp = cur->warp;
    together([=](warp_state &w) {
        for (; w.groups.size() > left + 1; w.groups.pop_front())
            for (product &p : w.groups.front()) land(w, p, warp);
        w.fenced = false;
    });
}

/* ---- blocks ---------------------------------------------------------------------------------- */

void wgmma_begin_block(size_t block_threads, size_t shared_bytes) {
    threads = block_threads;
    bytes = shared_bytes;
    base = 1024 + chance() % 64 * 16; /* a kernel may count on 16 bytes, on no more */
}

void wgmma_end_block() {
    if (threads) return;
    for (size_t i = 0; i < warps.size(); i++) {
        if (!warps[i].flying.empty()) die("wgmma: a product was never waited for");
        const warp_state &first = warps[i / 4 * 4];
        if (warps[i].issued != first.issued || warps[i].trace != first.trace)
            die("wgmma: the warps of a warpgroup issued different products");
    }
}

} /* namespace cuda_host */
