// The engine's CUDA kernels, compiled by NVRTC for the GPU at hand when they are first needed, without CUDA's headers.
// Storage type T by -DSTORE=0 (f32), 1 (bf16), 2 (f16); all sums are in f32. With -DG and -DD the file holds the
// kernels of attention for G query heads to a key/value head of D elements, else all others.
//
// Shapes as in ops/mod.rs: B sequences, S new positions, H query heads, KVH key/value heads, D elements of a head, Smax
// positions of the cache. Where a kernel takes a position, it is `offset` plus, where `pos` is not null, what lies
// there: so that one launch, captured in a graph, serves every step.

typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
struct __align__(16) Quad { u32 x, y, z, w; };

#if STORE == 0
typedef float T;
__device__ __forceinline__ float ld(const T *p) { return *p; }
__device__ __forceinline__ void st(T *p, float v) { *p = v; }
#elif STORE == 1
typedef u16 T;
__device__ __forceinline__ float ld(const T *p) { return __uint_as_float((u32)*p << 16); }
// To nearest, ties to even; a NaN stays one.
__device__ __forceinline__ void st(T *p, float v) {
    u32 bits = __float_as_uint(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) { *p = (u16)(bits >> 16 | 0x40); return; }
    *p = (u16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
#else
typedef u16 T;
__device__ __forceinline__ float half_to_float(u16 bits) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
    return v;
}
__device__ __forceinline__ float ld(const T *p) { return half_to_float(*p); }
__device__ __forceinline__ void st(T *p, float v) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
    *p = h;
}
#endif

// Eight neighbours, of which the first lies on a multiple of 16 bytes.
__device__ __forceinline__ void ld8(const T *p, float *out) {
#if STORE == 0
    Quad a = ((const Quad *)p)[0], b = ((const Quad *)p)[1];
    u32 bits[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    for (int i = 0; i < 8; i++) out[i] = __uint_as_float(bits[i]);
#else
    Quad a = *(const Quad *)p;
    u32 bits[4] = {a.x, a.y, a.z, a.w};
    for (int i = 0; i < 4; i++) {
#if STORE == 1
        out[2 * i] = __uint_as_float(bits[i] << 16);
        out[2 * i + 1] = __uint_as_float(bits[i] & 0xffff0000u);
#else
        out[2 * i] = half_to_float((u16)bits[i]);
        out[2 * i + 1] = half_to_float((u16)(bits[i] >> 16));
#endif
    }
#endif
}

// Its inverse.
__device__ __forceinline__ void st8(T *p, const float *v) {
    __align__(16) T out[8];
    for (int i = 0; i < 8; i++) st(out + i, v[i]);
    for (int i = 0; i < (int)sizeof out / 16; i++) ((Quad *)p)[i] = ((const Quad *)out)[i];
}

// Up to eight neighbours, with zeros after the first `count`; `whole` says that there are eight, and aligned.
__device__ __forceinline__ void ld_some(const T *p, int count, bool whole, float *out) {
    if (whole) { ld8(p, out); return; }
    for (int i = 0; i < 8; i++) out[i] = i < count ? ld(p + i) : 0.f;
}
__device__ __forceinline__ void st_some(T *p, int count, bool whole, const float *v) {
    if (whole) { st8(p, v); return; }
    for (int i = 0; i < 8 && i < count; i++) st(p + i, v[i]);
}

// Shared memory whose size the launch says.
#ifndef SHARED_QUADS
#define SHARED_QUADS(name) extern __shared__ Quad name[]
#endif

#define NEG_INF __uint_as_float(0xff800000u)
#define FULL 0xffffffffu

// Where a kernel is launched to overlap with the one before (Kit::launch_overlapping): the next one may start once all
// blocks have said LET_NEXT, and WAIT returns once the one before has ended and its writes are seen. So every kernel
// waits before it touches what another one writes; only weights can be read before. Elsewhere both do nothing.
#if __CUDA_ARCH__ >= 900
#define LET_NEXT() asm volatile("griddepcontrol.launch_dependents;")
#define WAIT() asm volatile("griddepcontrol.wait;" ::: "memory")
#else
#define LET_NEXT()
#define WAIT()
#endif

__device__ __forceinline__ float warp_sum(float v) {
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(FULL, v, o);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
    for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(FULL, v, o));
    return v;
}

// All threads of the block get the result; `shared` holds one float per warp. At most 1024 threads, whole warps.
__device__ __forceinline__ float block_sum(float v, float *shared) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    v = warp_sum(v);
    __syncthreads();
    if (lane == 0) shared[warp] = v;
    __syncthreads();
    v = lane < warps ? shared[lane] : 0.f;
    return warp_sum(v);
}

__device__ __forceinline__ float block_max(float v, float *shared) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    v = warp_max(v);
    __syncthreads();
    if (lane == 0) shared[warp] = v;
    __syncthreads();
    v = lane < warps ? shared[lane] : NEG_INF;
    return warp_max(v);
}

// One element of a head's attention from its shares: out [splits, ..], `d` elements apart, and stats [splits, 2]. Other
// blocks of the same kernel may have written them, so that no multiprocessor's own cache is asked.
__device__ __forceinline__ float combined(const volatile float *out, const volatile float *stats, int splits, int d) {
    float top = NEG_INF, total = 0.f, value = 0.f;
    for (int first = 0; first < splits; first += 8) {
        float m[8], t[8], o[8], now = top;
#pragma unroll
        for (int u = 0; u < 8; u++) {
            bool there = first + u < splits;
            m[u] = there ? stats[2 * (first + u)] : NEG_INF;
            t[u] = there ? stats[2 * (first + u) + 1] : 0.f;
            o[u] = there ? out[(i64)(first + u) * d] : 0.f;
        }
        for (int u = 0; u < 8; u++) now = fmaxf(now, m[u]);
        // From infinity none can be taken: of eight shares none may have a position.
        float from = now == NEG_INF ? 0.f : now, keep = __expf(top - from);
        top = now;
        total *= keep;
        value *= keep;
        for (int u = 0; u < 8; u++) {
            float w = __expf(m[u] - from);
            total += t[u] * w;
            value += o[u] * w;
        }
    }
    return value / total;
}

#ifndef G

// y [B, S, E] = tokens[ids] (+ positions[position]), ids [B, S]; a row past `entries` after taking `start` off is zero:
// another rank has it. Grid (S, B).
extern "C" __global__ void embed(const u32 *ids, const T *tokens, const T *positions, T *y, const u32 *pos, int offset,
                                 int start, int entries, int e) {
    LET_NEXT();
    WAIT();
    i64 row = (i64)blockIdx.y * gridDim.x + blockIdx.x;
    i64 id = (i64)ids[row] - start;
    i64 at = offset + (pos ? (i64)*pos : 0) + blockIdx.x;
    bool mine = id >= 0 && id < entries;
    for (int i = threadIdx.x; i < e; i += blockDim.x) {
        float v = mine ? ld(tokens + id * e + i) : 0.f;
        st(y + row * e + i, positions ? v + ld(positions + at * e + i) : v);
    }
}

// Where a thread's eight columns of a row begin. Grid (rows, columns / 8 / threads).
#define COLUMN ((blockIdx.y * blockDim.x + threadIdx.x) * 8)

__device__ __forceinline__ float gelu(float v) {
    return 0.5f * v * (1.f + tanhf(0.7978845608028654f * (v + 0.044715f * v * v * v)));
}

// x [rows, n] += bias, in place; gelu of that, tanh form, where `activate` is set.
extern "C" __global__ void add_bias(T *x, const T *bias, int n, int activate) {
    LET_NEXT();
    WAIT();
    int i = COLUMN;
    if (i >= n) return;
    bool whole = n % 8 == 0;
    float v[8], b[8];
    x += (i64)blockIdx.x * n + i;
    ld_some(x, n - i, whole, v);
    ld_some(bias + i, n - i, whole, b);
    for (int e = 0; e < 8; e++) v[e] = activate ? gelu(v[e] + b[e]) : v[e] + b[e];
    st_some(x, n - i, whole, v);
}

// y [rows, f] = silu(gate)·up of x [rows, 2f].
extern "C" __global__ void silu_mul(const T *x, T *y, int f) {
    LET_NEXT();
    WAIT();
    int i = COLUMN;
    if (i >= f) return;
    bool whole = f % 8 == 0;
    float gate[8], up[8];
    x += (i64)blockIdx.x * 2 * f + i;
    ld_some(x, f - i, whole, gate);
    ld_some(x + f, f - i, whole, up);
    for (int e = 0; e < 8; e++) up[e] *= gate[e] / (1.f + __expf(-gate[e]));
    st_some(y + (i64)blockIdx.x * f + i, f - i, whole, up);
}

// y [n] = x [k] · w [n, k]ᵀ + bias [n] (where there is one), then gelu where `activate` is set: a product with one row
// reads all of w once and little else, which is all that it can be measured by. k is a multiple of 8; a warp takes a
// row of w, and four loads of it at a time. Grid (n / warps of a block).
extern "C" __global__ void __launch_bounds__(256)
row_product(const T *x, const T *w, const T *bias, T *y, int n, int k, int activate) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= n) return;
    w += (i64)row * k;
    float sum[4] = {0.f, 0.f, 0.f, 0.f};
    int i = threadIdx.x % 32 * 8;
    for (; i + 3 * 256 < k; i += 4 * 256) {
        float a[4][8], b[4][8];
#pragma unroll
        for (int u = 0; u < 4; u++) ld8(w + i + u * 256, a[u]);
#pragma unroll
        for (int u = 0; u < 4; u++) ld8(x + i + u * 256, b[u]);
#pragma unroll
        for (int u = 0; u < 4; u++)
            for (int e = 0; e < 8; e++) sum[u] += a[u][e] * b[u][e];
    }
    for (; i < k; i += 256) {
        float a[8], b[8];
        ld8(w + i, a);
        ld8(x + i, b);
        for (int e = 0; e < 8; e++) sum[0] += a[e] * b[e];
    }
    float v = warp_sum(sum[0] + sum[1] + sum[2] + sum[3]);
    if (threadIdx.x % 32) return;
    if (bias) v += ld(bias + row);
    st(y + row, activate ? gelu(v) : v);
}

// The sum of squares of a row's deviations from `mean`, for all threads. Each reads eight at a time what it reads, or
// wrote, in every other pass over the row.
__device__ __forceinline__ float squares(const T *row, int n, bool whole, float mean, float *shared) {
    float square = 0.f, v[8];
    for (int i = threadIdx.x * 8; i < n; i += blockDim.x * 8) {
        ld_some(row + i, n - i, whole, v);
        for (int e = 0; e < 8; e++) square += e < n - i ? (v[e] - mean) * (v[e] - mean) : 0.f;
    }
    return block_sum(square, shared);
}

__device__ __forceinline__ float mean_of(const T *row, int n, bool whole, float *shared) {
    float total = 0.f, v[8];
    for (int i = threadIdx.x * 8; i < n; i += blockDim.x * 8) {
        ld_some(row + i, n - i, whole, v);
        for (int e = 0; e < 8; e++) total += v[e];
    }
    return block_sum(total, shared) / n;
}

// y = (row - mean) · inv · w (+ bias).
__device__ __forceinline__ void normalise(const T *row, const T *w, const T *bias, T *y, int n, bool whole, float mean,
                                          float inv) {
    float v[8], scale[8], shift[8];
    for (int i = threadIdx.x * 8; i < n; i += blockDim.x * 8) {
        ld_some(row + i, n - i, whole, v);
        ld_some(w + i, n - i, whole, scale);
        if (bias) ld_some(bias + i, n - i, whole, shift);
        for (int e = 0; e < 8; e++) v[e] = (v[e] - mean) * inv * scale[e] + (bias ? shift[e] : 0.f);
        st_some(y + i, n - i, whole, v);
    }
}

// The row that a block takes: of x, `per` rows lie dense one after the other, and `stride` elements after their first
// the next ones begin. Where there is a delta, its row is added, and the sum stored, of which the norm is taken then, as
// the unfused operations see it.
__device__ __forceinline__ const T *row_of(const T *x, const T *delta, T *sum, int n, bool whole, int per, i64 stride) {
    const T *row = x + (i64)(blockIdx.x / per) * stride + (i64)(blockIdx.x % per) * n;
    if (!delta) return row;
    i64 at = (i64)blockIdx.x * n;
    float v[8], d[8];
    for (int i = threadIdx.x * 8; i < n; i += blockDim.x * 8) {
        ld_some(row + i, n - i, whole, v);
        ld_some(delta + at + i, n - i, whole, d);
        for (int e = 0; e < 8; e++) v[e] += d[e];
        st_some(sum + at + i, n - i, whole, v);
    }
    return sum + at;
}

// sum = x + delta (where there is one), y = rms_norm(sum)·w. One block a row; y, sum, delta [rows, n] are dense, x is as
// row_of says. Without delta, sum is not written.
extern "C" __global__ void add_rms_norm(const T *x, const T *delta, const T *w, T *sum, T *y, int n, int per, i64 stride,
                                        float eps) {
    __shared__ float shared[32];
    LET_NEXT();
    WAIT();
    bool whole = n % 8 == 0 && stride % 8 == 0;
    const T *row = row_of(x, delta, sum, n, whole, per, stride);
    float inv = rsqrtf(squares(row, n, whole, 0.f, shared) / n + eps);
    normalise(row, w, 0, y + (i64)blockIdx.x * n, n, whole, 0.f, inv);
}

// As add_rms_norm, with mean, variance and bias.
extern "C" __global__ void add_layer_norm(const T *x, const T *delta, const T *w, const T *bias, T *sum, T *y, int n,
                                          int per, i64 stride, float eps) {
    __shared__ float shared[32];
    LET_NEXT();
    WAIT();
    bool whole = n % 8 == 0 && stride % 8 == 0;
    const T *row = row_of(x, delta, sum, n, whole, per, stride);
    float mean = mean_of(row, n, whole, shared);
    float inv = rsqrtf(squares(row, n, whole, mean, shared) / n + eps);
    normalise(row, w, bias, y + (i64)blockIdx.x * n, n, whole, mean, inv);
}

// Eight neighbours as they lie in memory, to be asked for long before they are needed.
struct Eight { Quad part[sizeof(T) / 2]; };
__device__ __forceinline__ void unpack(const Eight &v, float *out) { ld8((const T *)&v, out); }

// What a product of one row does with each of its sums: stores it, with gelu, or as silu(gate)·up of rows r and n + r;
// or adds it to what is there.
enum { PLAIN, GELU, SILU, ONTO };

// y [n] = w [n, k] · h (+ bias), where h [k] is x, or its norm where there is a weight for that: LayerNorm where there
// is a bias for that too, else RMSNorm; see the enum for `mode`. k is a multiple of 8. A step of one sequence is little
// but such products, and they are measured by how fast they read w: each warp goes through its rows with the next four
// loads under way, and the first ones are, before the kernel before has ended. Dynamic shared memory of k elements.
// Blocks as many as run at once.
extern "C" __global__ void __launch_bounds__(256, sizeof(T) == 2 ? 4 : 2)
step_product(const T *x, const T *norm, const T *norm_bias, const T *w, const T *bias, T *y, int n, int k, int mode,
             float eps) {
    SHARED_QUADS(operand);
    __shared__ float shared[32];
    T *h = (T *)operand;
    int warps = gridDim.x * (blockDim.x / 32), lane = threadIdx.x % 32, parts = mode == SILU ? 2 : 1;
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    LET_NEXT();
    // Tiles of 1024 elements; `part` says which of a row's matrices.
    Eight next[4];
    auto ask = [&](int row, int part, int first) {
        const T *at = w + ((i64)part * n + row) * k;
#pragma unroll
        for (int u = 0; u < 4; u++) {
            int i = first + u * 256 + lane * 8;
            if (row < n && i < k) next[u] = *(const Eight *)(at + i);
        }
    };
    ask(row, 0, 0);
    WAIT();
    if (norm) {
        float mean = norm_bias ? mean_of(x, k, true, shared) : 0.f;
        float inv = rsqrtf(squares(x, k, true, mean, shared) / k + eps);
        normalise(x, norm, norm_bias, h, k, true, mean, inv);
    } else {
        for (int i = threadIdx.x; i < k * (int)sizeof(T) / 16; i += blockDim.x) operand[i] = ((const Quad *)x)[i];
    }
    __syncthreads();
    for (; row < n; row += warps) {
        float gate = 0.f;
        for (int part = 0; part < parts; part++) {
            float sum[4] = {0.f, 0.f, 0.f, 0.f};
            for (int first = 0; first < k; first += 1024) {
                Eight now[4];
#pragma unroll
                for (int u = 0; u < 4; u++) now[u] = next[u];
                if (first + 1024 < k) ask(row, part, first + 1024);
                else if (part + 1 < parts) ask(row, part + 1, 0);
                else ask(row + warps, 0, 0);
#pragma unroll
                for (int u = 0; u < 4; u++) {
                    int i = first + u * 256 + lane * 8;
                    if (i >= k) break;
                    float a[8], b[8];
                    unpack(now[u], a);
                    ld8(h + i, b);
                    for (int e = 0; e < 8; e++) sum[u] += a[e] * b[e];
                }
            }
            float v = warp_sum(sum[0] + sum[1] + sum[2] + sum[3]);
            if (bias) v += ld(bias + (i64)part * n + row);
            if (part + 1 < parts) { gate = v; continue; }
            if (mode == SILU) v *= gate / (1.f + __expf(-gate));
            else if (mode == GELU) v = gelu(v);
            else if (mode == ONTO) v += ld(y + row);
            if (lane == 0) st(y + row, v);
        }
    }
}

// Softmax of rows of scores [rows, len] in place, row r being query r % s of the last s of len positions; masked
// causally. One block a row; 64-bit offsets, for 2^31 scores are not many.
extern "C" __global__ void softmax_causal(T *scores, int s, int len) {
    __shared__ float shared[32];
    i64 row = blockIdx.x;
    T *x = scores + row * len;
    int visible = len - s + (int)(row % s) + 1;
    float m = NEG_INF;
    for (int i = threadIdx.x; i < visible; i += blockDim.x) m = fmaxf(m, ld(x + i));
    m = block_max(m, shared);
    float sum = 0.f;
    for (int i = threadIdx.x; i < visible; i += blockDim.x) sum += __expf(ld(x + i) - m);
    float inv = 1.f / block_sum(sum, shared);
    for (int i = threadIdx.x; i < len; i += blockDim.x)
        st(x + i, i < visible ? __expf(ld(x + i) - m) * inv : 0.f);
}

// As softmax_causal, for len a multiple of 8 and at most 8 to a thread: scores are read once.
extern "C" __global__ void softmax_causal_8(T *scores, int s, int len) {
    __shared__ float shared[32];
    i64 row = blockIdx.x;
    int i = threadIdx.x * 8, visible = len - s + (int)(row % s) + 1;
    T *x = scores + row * len + i;
    float v[8], m = NEG_INF, sum = 0.f;
    if (i < visible) {
        ld8(x, v);
        for (int e = 0; e < 8; e++) {
            if (i + e >= visible) v[e] = NEG_INF;
            m = fmaxf(m, v[e]);
        }
    } else {
        for (int e = 0; e < 8; e++) v[e] = NEG_INF;
    }
    // Every row sees a position, so that this is a number.
    m = block_max(m, shared);
    for (int e = 0; e < 8; e++) {
        v[e] = __expf(v[e] - m);
        sum += v[e];
    }
    float inv = 1.f / block_sum(sum, shared);
    for (int e = 0; e < 8; e++) v[e] *= inv;
    if (i < len) st8(x, v);
}

// Takes apart qkv [B, S, (H + 2·KVH)·D]: k and v go into the caches at their positions, and the last `queries`
// positions of q, times `scale`, to q_out [B, H, queries, D]. Where there are tables cos, sin [positions, D/2], q and k
// are rotated (rotate-half form) on the way; where there are weights q_norm, k_norm [D], they are RMS-normalised
// before. Grid (S, H + 2·KVH, B), D/2 threads; norms need whole warps.
extern "C" __global__ void rope_append(const T *qkv, const T *cos_t, const T *sin_t, const T *q_norm, const T *k_norm,
                                       T *q_out, T *k_cache, T *v_cache, const u32 *pos, int offset, int queries, int h,
                                       int kvh, int smax, float eps, float scale, int) {
    __shared__ float shared[32];
    LET_NEXT();
    WAIT();
    int half = blockDim.x, d = 2 * half, i = threadIdx.x;
    int s = gridDim.x, t = blockIdx.x, head = blockIdx.y;
    i64 b = blockIdx.z;
    int at = offset + (pos ? (int)*pos : 0) + t, query = t - (s - queries);
    const T *x = qkv + ((b * s + t) * (h + 2 * kvh) + head) * d;
    float lo = ld(x + i), hi = ld(x + half + i);
    T *out;
    const T *norm = q_norm;
    if (head < h) {
        if (query < 0) return;
        out = q_out + ((b * h + head) * queries + query) * d;
    } else if (head < h + kvh) {
        norm = k_norm;
        out = k_cache + ((b * kvh + head - h) * smax + at) * d;
    } else {
        out = v_cache + ((b * kvh + head - h - kvh) * smax + at) * d;
        st(out + i, lo);
        st(out + half + i, hi);
        return;
    }
    if (norm) {
        float inv = rsqrtf(block_sum(lo * lo + hi * hi, shared) / d + eps);
        lo *= inv * ld(norm + i);
        hi *= inv * ld(norm + half + i);
    }
    if (cos_t) {
        float c = ld(cos_t + (i64)at * half + i), n = ld(sin_t + (i64)at * half + i), turned = lo * c - hi * n;
        hi = hi * c + lo * n;
        lo = turned;
    }
    if (head >= h) scale = 1.f;
    st(out + i, lo * scale);
    st(out + half + i, hi * scale);
}

// As rope_append, eight elements at a time: D/16 neighbouring threads have a head, a block all heads of a position. D is
// a power of two from 16 to 512. Grid (S, 1, B), whole warps of threads.
extern "C" __global__ void rope_append_8(const T *qkv, const T *cos_t, const T *sin_t, const T *q_norm, const T *k_norm,
                                         T *q_out, T *k_cache, T *v_cache, const u32 *pos, int offset, int queries, int h,
                                         int kvh, int smax, float eps, float scale, int d) {
    LET_NEXT();
    WAIT();
    int lanes = d / 16, half = d / 2, head = threadIdx.x / lanes, i = threadIdx.x % lanes * 8;
    int s = gridDim.x, t = blockIdx.x, heads = h + 2 * kvh, query = t - (s - queries);
    i64 b = blockIdx.z, at = offset + (pos ? (i64)*pos : 0) + t;
    // Threads past the last head stay, for lanes exchange sums.
    bool mine = head < heads && (head >= h || query >= 0), value = head >= h + kvh;
    const T *x = qkv + ((b * s + t) * heads + min(head, heads - 1)) * d, *norm = head < h ? q_norm : k_norm;
    float lo[8], hi[8];
    ld8(x + i, lo);
    ld8(x + half + i, hi);
    if (norm) {
        float square = 0.f, low[8], high[8];
        for (int e = 0; e < 8; e++) square += lo[e] * lo[e] + hi[e] * hi[e];
        for (int o = lanes / 2; o; o >>= 1) square += __shfl_xor_sync(FULL, square, o);
        float inv = rsqrtf(square / d + eps);
        ld8(norm + i, low);
        ld8(norm + half + i, high);
        for (int e = 0; e < 8 && !value; e++) { lo[e] *= inv * low[e]; hi[e] *= inv * high[e]; }
    }
    if (!mine) return;
    T *out = value ? v_cache + ((b * kvh + head - h - kvh) * smax + at) * d
           : head >= h ? k_cache + ((b * kvh + head - h) * smax + at) * d
                       : q_out + ((b * h + head) * queries + query) * d;
    if (cos_t && !value) {
        float c[8], n[8];
        ld8(cos_t + at * half + i, c);
        ld8(sin_t + at * half + i, n);
        for (int e = 0; e < 8; e++) {
            float turned = lo[e] * c[e] - hi[e] * n[e];
            hi[e] = hi[e] * c[e] + lo[e] * n[e];
            lo[e] = turned;
        }
    }
    for (int e = 0; e < 8 && head < h; e++) { lo[e] *= scale; hi[e] *= scale; }
    st8(out + i, lo);
    st8(out + half + i, hi);
}

// y [B, H·D] from the shares that decode_attention leaves. Grid (H, B), D threads.
extern "C" __global__ void decode_combine(const float *out, const float *stats, T *y, int splits) {
    LET_NEXT();
    WAIT();
    i64 row = (i64)blockIdx.y * gridDim.x + blockIdx.x;
    int d = blockDim.x, e = threadIdx.x;
    st(y + row * d + e, combined(out + row * splits * d + e, stats + 2 * row * splits, splits, d));
}

// best[2b] = the largest of logits[b·stride ..][.. v], best[2b + 1] = start + the first index of it. A NaN counts as
// the largest, and a row of nothing has -inf at start. One block a row.
extern "C" __global__ void best_logit(const T *logits, float *best, int v, i64 stride, int start) {
    __shared__ float best_v[32];
    __shared__ int best_i[32];
    LET_NEXT();
    WAIT();
    const T *row = logits + (i64)blockIdx.x * stride;
    float top = NEG_INF;
    int at = 0x7fffffff;
    auto take = [&](float x, int i) {
        if (x != x || x > top || (x == top && i < at)) { top = x; at = i; }
    };
    // Rows that are padded to whole eights can be read so.
    bool whole = stride % 8 == 0 && (i64)row % 16 == 0;
    for (int first = threadIdx.x * 8; first < v; first += blockDim.x * 8) {
        float x[8];
        ld_some(row + first, v - first, whole, x);
        for (int e = 0, i = first; e < 8 && i < v; e++, i++) take(x[e], i);
    }
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (int pass = 0; pass < 2; pass++) {
        for (int o = 16; o; o >>= 1) {
            float other = __shfl_xor_sync(FULL, top, o);
            int other_at = __shfl_xor_sync(FULL, at, o);
            take(other, other_at);
        }
        if (pass) break;
        if (lane == 0) { best_v[warp] = top; best_i[warp] = at; }
        __syncthreads();
        top = lane < warps ? best_v[lane] : NEG_INF;
        at = lane < warps ? best_i[lane] : 0x7fffffff;
    }
    if (threadIdx.x == 0) {
        // Whole numbers up to 2^24 are exact, and no vocabulary is that large.
        best[2 * blockIdx.x] = top;
        best[2 * blockIdx.x + 1] = (float)(start + (at < v ? at : 0));
    }
}

// ids[b] = best[r][b][1] of the first rank r with the largest best[r][b][0] (bad[0] = b + 1 for a row with a NaN), also
// kept as history[b·n + *step]; then the next step, the next position. One block.
extern "C" __global__ void take_best(const float *best, u32 *ids, u32 *history, u32 *step, u32 *pos, u32 *bad, int ranks,
                                     int rows, int n) {
    LET_NEXT();
    WAIT();
    for (int b = threadIdx.x; b < rows; b += blockDim.x) {
        float top = best[2 * b], id = best[2 * b + 1];
        for (int r = 1; r < ranks; r++) {
            const float *other = best + 2 * ((i64)r * rows + b);
            if (other[0] != other[0] || other[0] > top) { top = other[0]; id = other[1]; }
        }
        if (top != top) *bad = b + 1;
        ids[b] = (u32)id;
        history[(i64)b * n + *step] = (u32)id;
    }
    __syncthreads();
    if (threadIdx.x == 0) { *step += 1; *pos += 1; }
}

// Reads `count` 16-byte words, each thread `unroll` of them at a time; what comes of it is hardly ever written.
template <int U> __device__ __forceinline__ void read_all(const Quad *data, i64 count, u32 *out) {
    i64 threads = (i64)gridDim.x * blockDim.x, first = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    u32 seen = 0;
    i64 i = first;
    for (; i + (U - 1) * threads < count; i += U * threads) {
        Quad q[U];
        for (int u = 0; u < U; u++) q[u] = data[i + u * threads];
        for (int u = 0; u < U; u++) seen ^= q[u].x ^ q[u].y ^ q[u].z ^ q[u].w;
    }
    for (; i < count; i += threads) seen ^= data[i].x ^ data[i].y ^ data[i].z ^ data[i].w;
    if (seen == 0x9e3779b9u) *out = seen;
}
extern "C" __global__ void read_1(const Quad *data, i64 count, u32 *out) { read_all<1>(data, count, out); }
extern "C" __global__ void read_4(const Quad *data, i64 count, u32 *out) { read_all<4>(data, count, out); }
extern "C" __global__ void read_8(const Quad *data, i64 count, u32 *out) { read_all<8>(data, count, out); }

#else

// Attention of one new position over itself and all before it. Each block takes one share of the positions of one
// key/value head, for all G query heads that share it, so that the cache is read once. Eight elements to a lane, so LANES
// lanes to a position and AT_ONCE positions to a warp, each UNROLL deep. Grid (splits, KVH, B), THREADS threads. D is a
// power of two from 8 to 256, G at most 8.
#define THREADS 128
#define LANES (D / 8)
#define AT_ONCE (32 / LANES)
#define PARTS (THREADS / 32 * AT_ONCE)
#define UNROLL (G <= 2 ? 4 : 2)

// What a block has of the G heads, of positions `first` to `last` of a head's keys and values, for queries that are
// scaled: in `part`, one after the other for each of PARTS groups of lanes, D sums, the maximum, and the sum of weights.
__device__ __forceinline__ void attend_share(const float (*query)[8], const T *k, const T *v, int first, int last,
                                             float *part) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, place = lane / LANES, first_e = lane % LANES * 8;
    float m[G], sum[G], acc[G][8];
    k += first_e;
    v += first_e;
#pragma unroll
    for (int g = 0; g < G; g++) {
        m[g] = NEG_INF;
        sum[g] = 0.f;
        for (int e = 0; e < 8; e++) acc[g][e] = 0.f;
    }
    // All lanes of a warp stay together, for they exchange sums. Loads depend on nothing, so that all are under way at
    // once: one that is past the end takes the last position, for nothing.
    int step = THREADS / 32 * AT_ONCE;
    for (int base = first + warp * AT_ONCE; base < last; base += UNROLL * step) {
        float kt[UNROLL][8], vt[UNROLL][8];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            int t = min(base + u * step + place, last - 1);
            ld8(k + (i64)t * D, kt[u]);
            ld8(v + (i64)t * D, vt[u]);
        }
#pragma unroll
        for (int g = 0; g < G; g++) {
            float w[UNROLL], now = m[g];
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                float dot = 0.f;
                for (int e = 0; e < 8; e++) dot += query[g][e] * kt[u][e];
                for (int o = LANES / 2; o; o >>= 1) dot += __shfl_xor_sync(FULL, dot, o);
                w[u] = base + u * step + place < last ? dot : NEG_INF;
                now = fmaxf(now, w[u]);
            }
            // Lanes that have seen nothing yet would take infinity from infinity.
            float from = now == NEG_INF ? 0.f : now, keep = __expf(m[g] - from);
            m[g] = now;
            sum[g] *= keep;
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                w[u] = __expf(w[u] - from);
                sum[g] += w[u];
            }
#pragma unroll
            for (int e = 0; e < 8; e++) {
                float a = acc[g][e] * keep;
                for (int u = 0; u < UNROLL; u++) a += w[u] * vt[u][e];
                acc[g][e] = a;
            }
        }
    }
#pragma unroll
    for (int g = 0; g < G; g++) {
        float *p = part + ((warp * AT_ONCE + place) * G + g) * (D + 2);
        for (int e = 0; e < 8; e++) p[first_e + e] = acc[g][e];
        if (first_e == 0) { p[D] = m[g]; p[D + 1] = sum[g]; }
    }
}

// The parts of a block become one: element e of head g, unnormalised, with its maximum and its sum of weights.
struct Share { float value, top, total; };
__device__ __forceinline__ Share share_of(const float *part, int g, int e) {
    Share all = {0.f, NEG_INF, 0.f};
    for (int w = 0; w < PARTS; w++) all.top = fmaxf(all.top, part[(w * G + g) * (D + 2) + D]);
    for (int w = 0; w < PARTS; w++) {
        const float *p = part + (w * G + g) * (D + 2);
        if (p[D] == NEG_INF) continue;
        float weight = __expf(p[D] - all.top);
        all.total += p[D + 1] * weight;
        all.value += p[e] * weight;
    }
    return all;
}

// Attention's first half, for queries q [B, H, 1, D] that are scaled. What comes out of a share: out [B, H, splits, D]
// unnormalised in f32, and its maximum and sum, stats [B, H, splits, 2].
extern "C" __global__ void __launch_bounds__(THREADS)
decode_attention(const T *q, const T *k_cache, const T *v_cache, const u32 *pos, int offset, float *out, float *stats,
                 int kvh, int smax) {
    __shared__ float part[PARTS * G * (D + 2)];
    LET_NEXT();
    WAIT();
    int split = blockIdx.x, splits = gridDim.x, head = blockIdx.y;
    i64 b = blockIdx.z, kv = b * kvh + head;
    int len = offset + (pos ? (int)*pos : 0) + 1, share = (len + splits - 1) / splits;
    int first = split * share, last = min(first + share, len);
    float query[G][8];
#pragma unroll
    for (int g = 0; g < G; g++) ld8(q + (kv * G + g) * D + threadIdx.x % LANES * 8, query[g]);
    attend_share(query, k_cache + kv * smax * D, v_cache + kv * smax * D, first, last, part);
    __syncthreads();
    for (int i = threadIdx.x; i < G * D; i += THREADS) {
        int g = i / D, e = i % D;
        Share all = share_of(part, g, e);
        i64 at = (kv * G + g) * splits + split;
        out[at * D + e] = all.value;
        if (e == 0) { stats[2 * at] = all.top; stats[2 * at + 1] = all.total; }
    }
}

#if D >= 16
// Eight elements of a head from `e` on, normalised and turned as rope_append does. LANES neighbours have all of it.
__device__ __forceinline__ void turned(const T *x, const T *norm, const T *cos_t, const T *sin_t, i64 at, int e, float eps,
                                       float *out) {
    int other = e < D / 2 ? e + D / 2 : e - D / 2;
    float partner[8];
    ld8(x + e, out);
    ld8(x + other, partner);
    if (norm) {
        float square = 0.f, here[8], there[8];
        for (int i = 0; i < 8; i++) square += out[i] * out[i];
        for (int o = LANES / 2; o; o >>= 1) square += __shfl_xor_sync(FULL, square, o);
        float inv = rsqrtf(square / D + eps);
        ld8(norm + e, here);
        ld8(norm + other, there);
        for (int i = 0; i < 8; i++) { out[i] *= inv * here[i]; partner[i] *= inv * there[i]; }
    }
    if (cos_t) {
        float c[8], n[8];
        ld8(cos_t + at * (D / 2) + e % (D / 2), c);
        ld8(sin_t + at * (D / 2) + e % (D / 2), n);
        for (int i = 0; i < 8; i++) out[i] = out[i] * c[i] + (e < D / 2 ? -partner[i] : partner[i]) * n[i];
    }
}

// All of a step's attention: takes apart qkv [B, 1, (H + 2·KVH)·D] as rope_append does, at position *pos, and gives
// y [B, H·D]. The share that has the new position stores its key and value first. `out` and `stats` are as in
// decode_attention; the last block of a head to be done, which `done` [B, KVH] counts, combines them, and leaves 0 there.
extern "C" __global__ void __launch_bounds__(THREADS)
step_attention(const T *qkv, const T *cos_t, const T *sin_t, const T *q_norm, const T *k_norm, T *k_cache, T *v_cache,
               const u32 *pos, T *y, float *out, float *stats, u32 *done, int kvh, int smax, float eps, float scale) {
    __shared__ float part[PARTS * G * (D + 2)];
    __shared__ u32 before;
    LET_NEXT();
    WAIT();
    int split = blockIdx.x, splits = gridDim.x, head = blockIdx.y, e = threadIdx.x % LANES * 8;
    i64 b = blockIdx.z, kv = b * kvh + head, at = *pos;
    int len = (int)at + 1, share = (len + splits - 1) / splits, first = split * share, last = min(first + share, len);
    T *k = k_cache + kv * smax * D, *v = v_cache + kv * smax * D;
    const T *x = qkv + b * (G + 2) * kvh * D;
    float query[G][8];
#pragma unroll
    for (int g = 0; g < G; g++) {
        turned(x + (head * G + g) * D, q_norm, cos_t, sin_t, at, e, eps, query[g]);
        for (int i = 0; i < 8; i++) query[g][i] *= scale;
    }
    if (first < last && last == len) {
        if (threadIdx.x < 32) {
            float key[8], value[8];
            turned(x + (kvh * G + head) * D, k_norm, cos_t, sin_t, at, e, eps, key);
            ld8(x + (kvh * (G + 1) + head) * D + e, value);
            if (threadIdx.x < LANES) {
                st8(k + at * D + e, key);
                st8(v + at * D + e, value);
            }
        }
        // The other warps read it from the cache.
        __syncthreads();
    }
    attend_share(query, k, v, first, last, part);
    __syncthreads();
    for (int i = threadIdx.x; i < G * D; i += THREADS) {
        int g = i / D, e = i % D;
        Share all = share_of(part, g, e);
        i64 row = kv * G + g;
        if (splits == 1) { st(y + row * D + e, all.value / all.total); continue; }
        out[(row * splits + split) * D + e] = all.value;
        if (e == 0) { stats[2 * (row * splits + split)] = all.top; stats[2 * (row * splits + split) + 1] = all.total; }
    }
    if (splits == 1) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) before = atomicAdd(done + kv, 1u);
    __syncthreads();
    if (before + 1 < splits) return;
    __threadfence();
    for (int i = threadIdx.x; i < G * D; i += THREADS) {
        i64 row = kv * G + i / D;
        st(y + row * D + i % D, combined(out + row * splits * D + i % D, stats + 2 * row * splits, splits, D));
    }
    if (threadIdx.x == 0) done[kv] = 0;
}
#endif

#endif
