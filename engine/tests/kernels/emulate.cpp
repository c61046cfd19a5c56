// Runs the engine's CUDA kernels on the CPU, against their definitions in double: one block at a time, each of its
// threads a fibre that yields at barriers and exchanges. What it cannot show: f16 (its conversions are in PTX), races
// between warps, and speed. Built with -DSTORE, -DKERNELS="…/kernels.cu", -DHEADS (query heads to a key/value head),
// -DWIDTH.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(n)
#define __align__(n) alignas(n)
struct Dim { int x, y, z; };
static Dim threadIdx, blockIdx, blockDim, gridDim;
static ucontext_t scheduler;
struct Fibre { ucontext_t context; std::vector<char> stack; bool done; };
static std::vector<Fibre> fibres;
static int current;
static std::function<void()> body;

static void yield() {
    int me = current;
    swapcontext(&fibres[me].context, &scheduler);
    current = me;
    threadIdx.x = me;
}
static int arrived, generation;
static void __syncthreads() {
    int mine = generation;
    if (++arrived == blockDim.x) { arrived = 0; generation++; }
    else while (generation == mine) yield();
}
struct Warp { double values[32]; int arrived, generation; };
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
static float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
static float fast_exp(float x) { return expf(x); }
#define __expf fast_exp
static float rsqrtf(float x) { return 1.f / sqrtf(x); }
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

static void entry() {
    body();
    fibres[current].done = true;
    swapcontext(&fibres[current].context, &scheduler);
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
            k.done = false;
            k.stack.resize(65536);
            getcontext(&k.context);
            k.context.uc_stack.ss_sp = k.stack.data();
            k.context.uc_stack.ss_size = k.stack.size();
            k.context.uc_link = &scheduler;
            makecontext(&k.context, entry, 0);
        }
        for (bool left = true; left;) {
            left = false;
            for (int i = 0; i < threads; i++) if (!fibres[i].done) {
                left = true;
                current = i;
                threadIdx = {i, 0, 0};
                swapcontext(&scheduler, &fibres[i].context);
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
    for (int queries : {3, 1}) for (int on_device : {0, 1}) for (int norm : {0, 1}) for (int turn : {0, 1}) {
        // Norms sum over whole warps.
        if (norm && half % 32) continue;
        u32 pos = 4;
        int offset = on_device ? 1 : 5, first = on_device ? 5 : 5;
        auto qkv = normal(B * S * (H + 2 * KVH) * D), c = normal(smax * half), n = normal(smax * half);
        auto q_norm = normal(D), k_norm = normal(D);
        std::vector<T> q(B * H * queries * D), k(B * KVH * smax * D), v = k;
        launch({S, H + 2 * KVH, B}, half, [&] {
            base::rope_append(qkv.data(), turn ? c.data() : nullptr, turn ? n.data() : nullptr, norm ? q_norm.data() : nullptr,
                              norm ? k_norm.data() : nullptr, q.data(), k.data(), v.data(), on_device ? &pos : nullptr,
                              offset, queries, H, KVH, smax, 1e-5f, 0.25f);
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

static void attend() {
    for (int splits : {1, 3, 8}) for (u32 pos : {0u, 4u, 36u, 131u}) {
        int B = 2, KVH = 2, H = G * KVH, smax = 133, len = pos + 1;
        auto q = normal(B * H * D, 0.125), k = normal(B * KVH * smax * D), v = normal(B * KVH * smax * D);
        std::vector<float> out(B * H * splits * D, NAN), stats(B * H * splits * 2, NAN);
        std::vector<T> y(B * H * D);
        launch({splits, KVH, B}, 128, [&] {
            attention::decode_attention((const attention::T *)q.data(), (const attention::T *)k.data(),
                                        (const attention::T *)v.data(), splits > 1 ? &pos : nullptr, splits > 1 ? 0 : pos,
                                        out.data(), stats.data(), KVH, smax);
        });
        launch({H, B, 1}, D, [&] { base::decode_combine(out.data(), stats.data(), y.data(), splits); });
        for (int b = 0; b < B; b++) for (int h = 0; h < H; h++) {
            std::vector<double> w(len);
            double sum = 0;
            int kv = b * KVH + h / G;
            for (int t = 0; t < len; t++) {
                double dot = 0;
                for (int e = 0; e < D; e++) dot += (double)get(q[(b * H + h) * D + e]) * get(k[(kv * smax + t) * D + e]);
                sum += w[t] = std::exp(dot);
            }
            for (int e = 0; e < D; e++) {
                double o = 0;
                for (int t = 0; t < len; t++) o += w[t] / sum * get(v[(kv * smax + t) * D + e]);
                close("attention", get(y[(b * H + h) * D + e]), o);
            }
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
    norms();
    activations();
    products();
    embedding();
    greedy();
    printf("STORE %d, G %d, D %d: %d wrong\n", STORE, G, D, wrong);
    return wrong != 0;
}
