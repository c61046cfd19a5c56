// Runs the engine's CUDA kernels on the CPU, against their definitions in double: one block at a time, each of its
// threads a fibre that yields at barriers and exchanges. What it cannot show: f16 (its conversions are in PTX), races
// between warps, and speed. Built with -DSTORE, -DKERNELS="…/kernels.cu", -DFLASH="…/flash.cu", -DHEADS (query heads to
// a key/value head), -DWIDTH; in bf16, widths 64 and 128 are those of flash.cu as well.
#undef _FORTIFY_SOURCE // which takes a jump to another stack for a mistake
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <setjmp.h>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
struct Dim { int x, y, z; };
static Dim threadIdx, blockIdx, blockDim, gridDim;
// A fibre begins by its context, and goes on by jumps, which cost no system call.
static jmp_buf scheduler;
struct Fibre { ucontext_t context; jmp_buf jump; std::vector<char> stack; bool begun, done; };
static std::vector<Fibre> fibres;
static int current;
static std::function<void()> body;

static void yield() {
    int me = current;
    if (!_setjmp(fibres[me].jump)) _longjmp(scheduler, 1);
    current = me;
    threadIdx.x = me;
}
static int arrived, generation;
static void __syncthreads() {
    int mine = generation;
    if (++arrived == blockDim.x) { arrived = 0; generation++; }
    else while (generation == mine) yield();
}
struct Warp { double values[32]; unsigned words[32][8], got[32][4]; float sums[32][4]; int arrived, generation; };
static Warp warps[32];
static void join(Warp &w) {
    int mine = w.generation;
    if (++w.arrived == 32) { w.arrived = 0; w.generation++; }
    else while (w.generation == mine) yield();
}
template <class X> static X __shfl_xor_sync(unsigned, X v, int other) {
    Warp &w = warps[threadIdx.x / 32];
    int lane = threadIdx.x % 32;
    w.values[lane] = v;
    join(w);
    X got = (X)w.values[lane ^ other];
    join(w);
    return got;
}
static void __syncwarp() { join(warps[threadIdx.x / 32]); }
// What the lanes leave in `words`, `work` makes `got` or `sums` of, once for the warp: the lane that comes last.
template <class F> static Warp &together(F work) {
    Warp &w = warps[threadIdx.x / 32];
    if (w.arrived == 31) work(w);
    join(w);
    return w;
}
static float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
static float fast_exp(float x) { return expf(x); }
#define __expf fast_exp
static float rsqrtf(float x) { return 1.f / sqrtf(x); }
static void __threadfence() {}
static unsigned atomicAdd(unsigned *at, unsigned v) { unsigned was = *at; *at += v; return was; }
#define SHARED_QUADS(name) static Quad name[4096]
static int min(int a, int b) { return a < b ? a : b; }

namespace base {
#include KERNELS
}
#define G HEADS
#define D WIDTH
namespace attention {
#include KERNELS
}
using base::T;
using base::i64;
using base::u32;
static float get(const T &v) { return base::ld(&v); }
static void put(T &to, float v) { base::st(&to, v); }

#if STORE == 1 && (WIDTH == 64 || WIDTH == 128)
#define EMULATED
#undef LET_NEXT
#undef WAIT
#define LET_NEXT()
#define WAIT()
namespace flash {
// flash.cu says what these are.
struct Quad;
static u32 pack(float lo, float hi) {
    T both[2];
    put(both[0], lo);
    put(both[1], hi);
    return both[0] | (u32)both[1] << 16;
}
static float exp2_of(float v) { return exp2f(v); }
static float element(const unsigned *row, int i) { return __uint_as_float(row[i / 2] >> i % 2 * 16 << 16); }
static void mma(float *c, const u32 *a, const u32 *b) {
    int lane = threadIdx.x % 32;
    Warp &mine = warps[threadIdx.x / 32];
    memcpy(mine.words[lane], a, 16);
    memcpy(mine.words[lane] + 4, b, 8);
    memcpy(mine.sums[lane], c, 16);
    together([](Warp &w) {
        // Row, column and place of what a lane has of a, of b and of c.
        float A[16][16], B[16][8];
        for (int l = 0; l < 32; l++) for (int i = 0; i < 8; i++) {
            A[l / 4 + i / 2 % 2 * 8][l % 4 * 2 + i % 2 + i / 4 * 8] = element(w.words[l], i);
            if (i < 4) B[l % 4 * 2 + i % 2 + i / 2 * 8][l / 4] = element(w.words[l] + 4, i);
        }
        for (int l = 0; l < 32; l++) for (int i = 0; i < 4; i++)
            for (int k = 0; k < 16; k++) w.sums[l][i] += A[l / 4 + i / 2 * 8][k] * B[k][l % 4 * 2 + i % 2];
    });
    memcpy(c, mine.sums[lane], 16);
}
// Addresses count from here. It has 96 KB, and more would be written past the end.
alignas(1024) static char shared[98304];
static u32 shared_start() { return 0; }
static void ld_some_matrices(u32 *to, u32 from, bool transpose) {
    int lane = threadIdx.x % 32;
    warps[threadIdx.x / 32].words[lane][0] = from;
    Warp &w = together([transpose](Warp &w) {
        for (int m = 0; m < 4; m++) for (int l = 0; l < 32; l++) for (int i = 0; i < 2; i++) {
            int row = l / 4, column = l % 4 * 2 + i;
            if (transpose) std::swap(row, column);
            memcpy((T *)&w.got[l][m] + i, shared + w.words[8 * m + row][0] + 2 * column, 2);
        }
    });
    memcpy(to, w.got[lane], 16);
}
static void ld_matrices(u32 *to, u32 from) { ld_some_matrices(to, from, false); }
static void ld_transposed(u32 *to, u32 from) { ld_some_matrices(to, from, true); }
static u32 transposed(u32 v) {
    int lane = threadIdx.x % 32;
    warps[threadIdx.x / 32].words[lane][0] = v;
    Warp &w = together([](Warp &w) {
        for (int l = 0; l < 32; l++) for (int i = 0; i < 2; i++)
            ((T *)w.got[l])[i] = ((T *)w.words[(l % 4 * 2 + i) * 4 + l / 8])[l / 4 % 2];
    });
    return w.got[lane][0];
}
// Copies are made at once or as late as they may be: what is right has no way to tell.
static bool late;
static std::vector<std::pair<u32, const T *>> copies[128];
static void copy(u32 to, const T *from) {
    if (to % 16 || (size_t)from % 16) (void)(printf("a copy that is not aligned\n"), abort());
    from ? (void)memcpy(shared + to, from, 16) : (void)memset(shared + to, 0, 16);
}
static void start_copy(u32 to, const T *from, bool zero) {
    if (late) copies[threadIdx.x].push_back({to, zero ? nullptr : from});
    else copy(to, zero ? nullptr : from);
}
static void wait_for_copies() {
    for (auto [to, from] : copies[threadIdx.x]) copy(to, from);
    copies[threadIdx.x].clear();
}
static void st_shared(u32 to, u32 v) { memcpy(shared + to, &v, 4); }
static Quad ld_shared(u32 from);
static Quad ld_once(const T *from);
#include FLASH
static Quad ld_shared(u32 from) { return *(const Quad *)(shared + from); }
static Quad ld_once(const T *from) { return *(const Quad *)from; }
}
#endif

static void entry() {
    body();
    fibres[current].done = true;
    _longjmp(scheduler, 1);
}
static void launch(Dim grid, int threads, std::function<void()> f) {
    gridDim = grid;
    blockDim = {threads, 1, 1};
    body = f;
    for (int z = 0; z < grid.z; z++) for (int y = 0; y < grid.y; y++) for (int x = 0; x < grid.x; x++) {
        blockIdx = {x, y, z};
        arrived = 0;
        memset(warps, 0, sizeof warps);
        fibres.resize(threads);
        for (int i = 0; i < threads; i++) {
            auto &k = fibres[i];
            k.begun = k.done = false;
            k.stack.resize(65536);
            getcontext(&k.context);
            k.context.uc_stack.ss_sp = k.stack.data();
            k.context.uc_stack.ss_size = k.stack.size();
            k.context.uc_link = nullptr;
            makecontext(&k.context, entry, 0);
        }
        for (bool left = true; left;) {
            left = false;
            for (int i = 0; i < threads; i++) if (!fibres[i].done) {
                left = true;
                current = i;
                threadIdx = {i, 0, 0};
                if (_setjmp(scheduler)) continue;
                if (std::exchange(fibres[i].begun, true)) _longjmp(fibres[i].jump, 1);
                setcontext(&fibres[i].context);
            }
        }
    }
}

static std::mt19937 generator(7);
static std::vector<T> normal(size_t n, float scale = 1) {
    std::normal_distribution<float> d(0, scale);
    std::vector<T> v(n);
    for (auto &x : v) put(x, d(generator));
    return v;
}
static int wrong = 0;
static void close(const char *what, double got, double want) {
    double tolerance = (STORE == 0 ? 2e-5 : 1.2e-2) * std::fmax(1, std::fabs(want));
    if (!(std::fabs(got - want) <= tolerance) && wrong++ < 10) printf("%s: %g, wanted %g\n", what, got, want);
}

static void same(const char *what, double got, double want) {
    if (got != want && wrong++ < 10) printf("%s: %g, wanted exactly %g\n", what, got, want);
}

static double gelu(double v) { return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))); }

static void softmax() {
    for (auto [rows, s, len] : {std::array{6, 3, 7}, {4, 1, 33}, {10, 5, 130}, {6, 3, 8}, {5, 5, 136}, {3, 1, 256}})
    for (int eights : {0, 1}) {
        if (eights && len % 8) continue;
        auto x = normal(rows * len), y = x;
        if (eights) launch({rows, 1, 1}, (len / 8 + 31) / 32 * 32, [&] { base::softmax_causal_8(y.data(), s, len); });
        else launch({rows, 1, 1}, 64, [&] { base::softmax_causal(y.data(), s, len); });
        for (int r = 0; r < rows; r++) {
            int visible = len - s + r % s + 1;
            double sum = 0;
            for (int i = 0; i < visible; i++) sum += std::exp(get(x[r * len + i]));
            for (int i = 0; i < len; i++)
                close("softmax", get(y[r * len + i]), i < visible ? std::exp(get(x[r * len + i])) / sum : 0);
        }
    }
}

static void rope_and_append() {
    int B = 2, S = 3, KVH = 2, H = G * KVH, smax = 13, half = D / 2;
    int threads = (H + 2 * KVH) * D / 16;
    for (int eights : {0, 1}) for (int queries : {3, 1}) for (int on_device : {0, 1}) for (int norm : {0, 1})
    for (int turn : {0, 1}) {
        // Norms sum over whole warps, or over a head's threads.
        if (eights ? D < 16 : norm && half % 32) continue;
        u32 pos = 4;
        int offset = on_device ? 1 : 5, first = on_device ? 5 : 5;
        auto qkv = normal(B * S * (H + 2 * KVH) * D), c = normal(smax * half), n = normal(smax * half);
        auto q_norm = normal(D), k_norm = normal(D);
        std::vector<T> q(B * H * queries * D), k(B * KVH * smax * D), v = k;
        auto append = eights ? base::rope_append_8 : base::rope_append;
        Dim grid = {S, eights ? 1 : H + 2 * KVH, B};
        launch(grid, eights ? (threads + 31) / 32 * 32 : half, [&] {
            append(qkv.data(), turn ? c.data() : nullptr, turn ? n.data() : nullptr, norm ? q_norm.data() : nullptr,
                              norm ? k_norm.data() : nullptr, q.data(), k.data(), v.data(), on_device ? &pos : nullptr,
                              offset, queries, H, KVH, smax, 1e-5f, 0.25f, D);
        });
        for (int b = 0; b < B; b++) for (int t = 0; t < S; t++) for (int h = 0; h < H + 2 * KVH; h++) {
            const T *x = &qkv[((b * S + t) * (H + 2 * KVH) + h) * D];
            int at = first + t, query = t - (S - queries);
            const T *o = nullptr;
            if (h >= H + KVH) o = &v[((b * KVH + h - H - KVH) * smax + at) * D];
            else if (h >= H) o = &k[((b * KVH + h - H) * smax + at) * D];
            else if (query >= 0) o = &q[((b * H + h) * queries + query) * D];
            if (!o) continue;
            bool value = h >= H + KVH;
            const auto &w = h < H ? q_norm : k_norm;
            double square = 0;
            for (int i = 0; i < D; i++) square += (double)get(x[i]) * get(x[i]) / D;
            auto normed = [&](int i) { return get(x[i]) * (norm && !value ? get(w[i]) / std::sqrt(square + 1e-5) : 1.0); };
            for (int i = 0; i < half; i++) {
                double C = turn && !value ? get(c[at * half + i]) : 1, N = turn && !value ? get(n[at * half + i]) : 0;
                double scale = h < H ? 0.25 : 1;
                close("rope", get(o[i]), scale * (normed(i) * C - normed(half + i) * N));
                close("rope", get(o[half + i]), scale * (normed(half + i) * C + normed(i) * N));
            }
        }
    }
}

// The definition of attention: of one query, scaled, and the first `visible` positions of its caches.
static void check(const char *what, const T *query, const T *k, const T *v, int visible, const T *got) {
    std::vector<double> w(visible), o(D);
    double sum = 0;
    for (int t = 0; t < visible; t++) {
        double dot = 0;
        for (int e = 0; e < D; e++) dot += (double)get(query[e]) * get(k[t * D + e]);
        sum += w[t] = std::exp(dot);
    }
    for (int t = 0; t < visible; t++) for (int e = 0; e < D; e++) o[e] += w[t] / sum * get(v[t * D + e]);
    for (int e = 0; e < D; e++) close(what, get(got[e]), o[e]);
}

static void attend() {
    for (int splits : {1, 3, 8}) for (u32 pos : {0u, 4u, 36u, 131u}) for (int tensor : {0, 1}) {
        int B = 2, KVH = 2, H = G * KVH, smax = 133, len = pos + 1;
        auto q = normal(B * H * D, 0.125), k = normal(B * KVH * smax * D), v = normal(B * KVH * smax * D);
        std::vector<float> out(B * H * splits * D, NAN), stats(B * H * splits * 2, NAN);
        std::vector<T> y(B * H * D);
        const u32 *at = splits > 1 ? &pos : nullptr;
        int offset = splits > 1 ? 0 : pos;
#ifdef EMULATED
        auto kernel = tensor ? flash::flash_decode : attention::decode_attention;
#else
        if (tensor) continue;
        auto kernel = attention::decode_attention;
#endif
        launch({splits, KVH, B}, 128, [&] {
            kernel(q.data(), k.data(), v.data(), at, offset, out.data(), stats.data(), KVH, smax);
        });
        launch({H, B, 1}, D, [&] { base::decode_combine(out.data(), stats.data(), y.data(), splits); });
        for (int b = 0; b < B; b++) for (int h = 0; h < H; h++) {
            int kv = (b * KVH + h / G) * smax * D;
            check(tensor ? "flash decode" : "attention", &q[(b * H + h) * D], &k[kv], &v[kv], len, &y[(b * H + h) * D]);
        }
    }
}

#ifdef EMULATED
static void flashes() {
    for (auto [s, len] : {std::array{1, 1}, {5, 5}, {64, 64}, {70, 70}, {129, 129}, {1, 70}, {5, 64}, {66, 131},
                          {129, 200}})
    for (int rows : {64, 128}) {
        // Nothing past `len` may be read, or count.
        int B = 2, KVH = 2, H = G * KVH, smax = len + (s == 5 ? 9 : 0);
        auto q = normal(B * H * s * D, 0.25), k = normal(B * KVH * smax * D), v = normal(B * KVH * smax * D);
        for (int i = 0; i < B * KVH; i++) for (int at = (i * smax + len) * D; at < (i + 1) * smax * D; at++)
            put(k[at], NAN), put(v[at], NAN);
        std::vector<T> y(B * s * H * D + 8);
        for (auto &x : y) put(x, NAN);
        flash::late = s % 2;
        memset(flash::shared, 0xff, sizeof flash::shared);
        launch({(s + rows - 1) / rows, H, B}, 128, [&] {
            (rows == 64 ? flash::flash_attention_64 : flash::flash_attention)(q.data(), k.data(), v.data(), y.data(), s,
                                                                             len, KVH, smax);
        });
        for (int b = 0; b < B; b++) for (int h = 0; h < H; h++) for (int i = 0; i < s; i++) {
            int kv = (b * KVH + h / G) * smax * D;
            const T *got = &y[((b * s + i) * H + h) * D];
            check("flash", &q[((b * H + h) * s + i) * D], &k[kv], &v[kv], len - s + i + 1, got);
        }
        same("past the end", std::isnan(get(y[B * s * H * D])), 1);
    }
}
#endif

// A step's attention in one kernel: what rope_append and decode_attention give, and nothing left behind but the cache.
static void attend_step() {
#if WIDTH >= 16
    int B = 2, KVH = 2, H = G * KVH, smax = 133, half = D / 2, heads = H + 2 * KVH;
    std::vector<u32> done(B * KVH);
    for (int splits : {1, 3, 20}) for (u32 pos : {0u, 4u, 36u, 131u}) for (int norm : {0, 1}) for (int turn : {0, 1}) {
        if (norm != turn && pos != 36) continue;
        auto qkv = normal(B * heads * D), c = normal(smax * half), n = normal(smax * half), qn = normal(D), kn = normal(D);
        auto k = normal(B * KVH * smax * D), v = normal(B * KVH * smax * D), k2 = k, v2 = v;
        std::vector<float> out(B * H * splits * D, NAN), stats(B * H * splits * 2, NAN);
        std::vector<T> y(B * H * D), q(B * H * D), want(B * H * D);
        const T *tables[] = {turn ? c.data() : nullptr, turn ? n.data() : nullptr};
        const T *weights[] = {norm ? qn.data() : nullptr, norm ? kn.data() : nullptr};
        launch({splits, KVH, B}, 128, [&] {
            attention::step_attention(qkv.data(), tables[0], tables[1], weights[0], weights[1], k.data(), v.data(), &pos, y.data(),
                                      out.data(), stats.data(), done.data(), KVH, smax, 1e-5f, 0.08f);
        });
        launch({1, 1, B}, (heads * D / 16 + 31) / 32 * 32, [&] {
            base::rope_append_8(qkv.data(), tables[0], tables[1], weights[0], weights[1], q.data(), k2.data(), v2.data(), &pos, 0,
                                1, H, KVH, smax, 1e-5f, 0.08f, D);
        });
        for (size_t i = 0; i < k.size(); i++) close("key", get(k[i]), get(k2[i])), close("value", get(v[i]), get(v2[i]));
        std::vector<float> outs(B * H * D), stat(B * H * 2);
        launch({1, KVH, B}, 128, [&] {
            attention::decode_attention(q.data(), k2.data(), v2.data(), &pos, 0, outs.data(), stat.data(), KVH, smax);
        });
        launch({H, B, 1}, D, [&] { base::decode_combine(outs.data(), stat.data(), want.data(), 1); });
        for (int i = 0; i < B * H * D; i++) close("step", get(y[i]), get(want[i]));
        for (u32 count : done) same("done", count, 0);
    }
#endif
}

// A step's products: plain, with gelu, gated, and added to what is there; of x itself and of its norms.
static void step_products() {
    for (auto [n, k] : {std::array{1, 8}, {9, 64}, {37, 1024}, {8, 1288}, {3, 2304}})
    for (int mode : {0, 1, 2, 3}) for (int norm : {0, 1, 2}) for (int with : {0, 1}) {
        int rows = mode == 2 ? 2 * n : n;
        auto x = normal(k), w = normal(rows * k, 1 / std::sqrt((float)k)), bias = normal(rows), scale = normal(k), shift = normal(k);
        auto y = normal(n), y0 = y;
        // Blocks for fewer rows at once than there are.
        launch({std::min((n + 7) / 8, 2), 1, 1}, 256, [&] {
            base::step_product(x.data(), norm ? scale.data() : nullptr, norm == 2 ? shift.data() : nullptr, w.data(),
                               with ? bias.data() : nullptr, y.data(), n, k, mode, 1e-5f);
        });
        double mean = 0, square = 0;
        for (int i = 0; i < k; i++) mean += norm == 2 ? get(x[i]) / (double)k : 0;
        for (int i = 0; i < k; i++) square += std::pow(get(x[i]) - mean, 2) / k;
        std::vector<T> h = x;
        for (int i = 0; i < k && norm; i++)
            put(h[i], (get(x[i]) - mean) / std::sqrt(square + 1e-5) * get(scale[i]) + (norm == 2 ? get(shift[i]) : 0));
        auto dot = [&](int r) {
            double sum = with ? get(bias[r]) : 0;
            for (int i = 0; i < k; i++) sum += (double)get(h[i]) * get(w[r * k + i]);
            return sum;
        };
        for (int r = 0; r < n; r++) {
            double v = dot(r);
            close("step product", get(y[r]), mode == 0 ? v : mode == 1 ? gelu(v) : mode == 2 ? v / (1 + std::exp(-v)) * dot(n + r)
                                                                                  : v + get(y0[r]));
        }
    }
}

static void norms() {
    for (int n : {5, 64, 300}) for (int with : {0, 1}) for (int per : {1, 2}) {
        // Two sequences of three positions, of which the last `per` are taken.
        int rows = 2 * per;
        auto x = normal(6 * n), d = normal(rows * n), w = normal(n), bias = normal(n);
        std::vector<T> s1(rows * n), s2 = s1, y1 = s1, y2 = s1;
        const T *from = &x[(3 - per) * n], *delta = with ? d.data() : nullptr;
        launch({rows, 1, 1}, 96, [&] { base::add_rms_norm(from, delta, w.data(), s1.data(), y1.data(), n, per, 3 * n, 1e-5f); });
        launch({rows, 1, 1}, 96, [&] {
            base::add_layer_norm(from, delta, w.data(), bias.data(), s2.data(), y2.data(), n, per, 3 * n, 1e-5f);
        });
        for (int r = 0; r < rows; r++) {
            double square = 0, mean = 0, variance = 0;
            std::vector<double> s(n);
            for (int i = 0; i < n; i++) {
                T stored;
                put(stored, get(from[(r / per * 3 + r % per) * n + i]) + (with ? get(d[r * n + i]) : 0));
                s[i] = get(stored);
                square += s[i] * s[i] / n;
                mean += s[i] / n;
            }
            for (int i = 0; i < n; i++) variance += (s[i] - mean) * (s[i] - mean) / n;
            for (int i = 0; i < n; i++) {
                if (with) close("sum", get(s1[r * n + i]), s[i]), close("sum", get(s2[r * n + i]), s[i]);
                close("rms", get(y1[r * n + i]), s[i] / std::sqrt(square + 1e-5) * get(w[i]));
                close("layer", get(y2[r * n + i]), (s[i] - mean) / std::sqrt(variance + 1e-5) * get(w[i]) + get(bias[i]));
            }
        }
    }
}

// Rows of eights and others, of one block and of several.
static void activations() {
    for (auto [rows, n, threads] : {std::array{3, 37, 32}, {2, 64, 32}, {1, 8, 32}, {2, 520, 32}}) {
        Dim grid = {rows, (n + 8 * threads - 1) / (8 * threads), 1};
        auto x = normal(rows * 2 * n, 3);
        std::vector<T> y(rows * n);
        launch(grid, threads, [&] { base::silu_mul(x.data(), y.data(), n); });
        for (int r = 0; r < rows; r++) for (int i = 0; i < n; i++) {
            double g = get(x[r * 2 * n + i]);
            close("silu", get(y[r * n + i]), g / (1 + std::exp(-g)) * get(x[r * 2 * n + n + i]));
        }
        auto bias = normal(n), z = normal(rows * n, 3), z0 = z, plain = z;
        launch(grid, threads, [&] { base::add_bias(z.data(), bias.data(), n, 1); });
        launch(grid, threads, [&] { base::add_bias(plain.data(), bias.data(), n, 0); });
        for (int i = 0; i < rows * n; i++) {
            double v = (double)get(z0[i]) + get(bias[i % n]);
            close("gelu", get(z[i]), gelu(v));
            close("bias", get(plain[i]), v);
        }
    }
}

static void products() {
    for (auto [n, k] : {std::array{1, 8}, {9, 64}, {17, 1024}, {8, 1288}, {3, 2304}}) for (int with : {0, 1, 2}) {
        auto x = normal(k), w = normal(n * k, 1 / std::sqrt((float)k)), bias = normal(n);
        std::vector<T> y(n);
        launch({(n + 7) / 8, 1, 1}, 256, [&] {
            base::row_product(x.data(), w.data(), with ? bias.data() : nullptr, y.data(), n, k, with == 2);
        });
        for (int r = 0; r < n; r++) {
            double dot = with ? get(bias[r]) : 0;
            for (int i = 0; i < k; i++) dot += (double)get(x[i]) * get(w[r * k + i]);
            close("product", get(y[r]), with == 2 ? gelu(dot) : dot);
        }
    }
}

static void embedding() {
    int B = 2, S = 3, e = 11, entries = 5, start = 3;
    auto tokens = normal(entries * e), positions = normal(9 * e);
    std::vector<T> y(B * S * e);
    u32 ids[6] = {3, 7, 2, 8, 5, 3}, pos = 2;
    for (int with : {0, 1}) {
        launch({S, B, 1}, 4, [&] {
            base::embed(ids, tokens.data(), with ? positions.data() : nullptr, y.data(), with ? &pos : nullptr, 1, start, entries, e);
        });
        for (int r = 0; r < B * S; r++) for (int i = 0; i < e; i++) {
            int id = (int)ids[r] - start;
            double want = id >= 0 && id < entries ? get(tokens[id * e + i]) : 0;
            close("embed", get(y[r * e + i]), want + (with ? get(positions[(3 + r % S) * e + i]) : 0));
        }
    }
}

static void greedy() {
    // Rows of whole eights, and others.
    for (int v : {1, 31, 509}) for (int stride : {v + 3, (v + 8) / 8 * 8}) {
        auto x = normal(4 * stride);
        float best[4 * 2];
        for (int i = 0; i < 4; i++) {
            float top = -1e9;
            for (int j = 0; j < v; j++) top = std::fmax(top, get(x[i * stride + j]));
            // More of the largest, of which two are one thread's, and one past the end.
            put(x[i * stride + v / 2], top);
            if (v / 2 + 128 < v) put(x[i * stride + v / 2 + 128], top);
            put(x[i * stride + v], 1e4);
        }
        auto run = [&](int v) {
            launch({4, 1, 1}, 128, [&] { base::best_logit(x.data(), best, v, stride, 1000); });
        };
        run(v);
        for (int i = 0; i < 4; i++) {
            int want = 0;
            for (int j = 1; j < v; j++) if (get(x[i * stride + j]) > get(x[i * stride + want])) want = j;
            same("best", best[2 * i], get(x[i * stride + want]));
            same("best id", best[2 * i + 1], 1000 + want);
        }
        put(x[stride + v / 2], NAN);
        run(v);
        for (int i = 0; i < 4; i++) same("nan", std::isnan(best[2 * i]), i == 1);
        run(0);
        for (int i = 0; i < 8; i++) same("nothing", best[i], i % 2 ? 1000 : -INFINITY);
    }
    // Rows of three ranks, more than there are threads: the first of the largest.
    const int rows = 70, ranks = 3, n = 5;
    std::vector<float> best(ranks * rows * 2);
    u32 ids[rows], history[rows * n] = {}, step = 2, pos = 9, bad = 0;
    auto at = [&](int rank, int row) { return &best[2 * (rank * rows + row)]; };
    for (int rank = 0; rank < ranks; rank++) for (int row = 0; row < rows; row++) {
        at(rank, row)[0] = (row >> rank & 1) - (row % 5 == 0 ? INFINITY : 0);
        at(rank, row)[1] = 100 * rank + row;
    }
    auto run = [&] {
        launch({1, 1, 1}, 32, [&] { base::take_best(best.data(), ids, history, &step, &pos, &bad, ranks, rows, n); });
    };
    run();
    for (int row = 0; row < rows; row++) {
        int want = 0;
        for (int rank = 1; rank < ranks; rank++) if (at(rank, row)[0] > at(want, row)[0]) want = rank;
        same("taken", ids[row], 100 * want + row);
        same("history", history[row * n + 2], 100 * want + row);
    }
    same("bad", bad, 0);
    same("step", step, 3);
    same("position", pos, 10);
    for (int rank : {0, 2}) {
        float was = std::exchange(at(rank, 40)[0], NAN);
        bad = 0;
        run();
        same("bad", bad, 41);
        at(rank, 40)[0] = was;
    }
}

int main() {
    softmax();
    rope_and_append();
    attend();
    attend_step();
    step_products();
#ifdef EMULATED
    flashes();
#endif
    norms();
    activations();
    products();
    embedding();
    greedy();
    printf("STORE %d, G %d, D %d: %d wrong\n", STORE, G, D, wrong);
    return wrong != 0;
}
