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

#define NEG_INF __uint_as_float(0xff800000u)
#define FULL 0xffffffffu

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

#ifndef G

// y [B, S, E] = tokens[ids] (+ positions[position]), ids [B, S]; a row past `entries` after taking `start` off is zero:
// another rank has it. Grid (S, B).
extern "C" __global__ void embed(const u32 *ids, const T *tokens, const T *positions, T *y, const u32 *pos, int offset,
                                 int start, int entries, int e) {
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

// sum = x + delta (where there is one), y = rms_norm(sum)·w. One block a row; y, sum, delta [rows, n] are dense. Of x,
// `per` rows lie dense one after the other, and `stride` elements after their first the next ones begin. The norm is
// that of what is stored, as the unfused operations see it. Without delta, sum is not written.
extern "C" __global__ void add_rms_norm(const T *x, const T *delta, const T *w, T *sum, T *y, int n, int per, i64 stride,
                                        float eps) {
    __shared__ float shared[32];
    i64 at = (i64)blockIdx.x * n;
    const T *row = x + (i64)(blockIdx.x / per) * stride + (i64)(blockIdx.x % per) * n;
    if (delta) {
        for (int i = threadIdx.x; i < n; i += blockDim.x) st(sum + at + i, ld(row + i) + ld(delta + at + i));
        row = sum + at;
    }
    // Each thread reads what it wrote itself.
    float square = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float v = ld(row + i);
        square += v * v;
    }
    float inv = rsqrtf(block_sum(square, shared) / n + eps);
    for (int i = threadIdx.x; i < n; i += blockDim.x) st(y + at + i, ld(row + i) * inv * ld(w + i));
}

// As add_rms_norm, with mean, variance and bias.
extern "C" __global__ void add_layer_norm(const T *x, const T *delta, const T *w, const T *bias, T *sum, T *y, int n,
                                          int per, i64 stride, float eps) {
    __shared__ float shared[32];
    i64 at = (i64)blockIdx.x * n;
    const T *row = x + (i64)(blockIdx.x / per) * stride + (i64)(blockIdx.x % per) * n;
    if (delta) {
        for (int i = threadIdx.x; i < n; i += blockDim.x) st(sum + at + i, ld(row + i) + ld(delta + at + i));
        row = sum + at;
    }
    float total = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) total += ld(row + i);
    float mean = block_sum(total, shared) / n, square = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float v = ld(row + i) - mean;
        square += v * v;
    }
    float inv = rsqrtf(block_sum(square, shared) / n + eps);
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        st(y + at + i, (ld(row + i) - mean) * inv * ld(w + i) + ld(bias + i));
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
                                       int kvh, int smax, float eps, float scale) {
    __shared__ float shared[32];
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

// y [B, H·D] from the shares that decode_attention leaves. Grid (H, B), D threads.
extern "C" __global__ void decode_combine(const float *out, const float *stats, T *y, int splits) {
    i64 row = (i64)blockIdx.y * gridDim.x + blockIdx.x;
    int d = blockDim.x, e = threadIdx.x;
    float top = NEG_INF, total = 0.f, value = 0.f;
    for (int s = 0; s < splits; s++) top = fmaxf(top, stats[2 * (row * splits + s)]);
    for (int s = 0; s < splits; s++) {
        float m = stats[2 * (row * splits + s)];
        // A share without a position.
        if (m == NEG_INF) continue;
        float w = __expf(m - top);
        total += stats[2 * (row * splits + s) + 1] * w;
        value += out[(row * splits + s) * d + e] * w;
    }
    st(y + row * d + e, value / total);
}

// best[2b] = the largest of logits[b·stride ..][.. v], best[2b + 1] = start + the first index of it. A NaN counts as
// the largest, and a row of nothing has -inf at start. One block a row.
extern "C" __global__ void best_logit(const T *logits, float *best, int v, i64 stride, int start) {
    __shared__ float best_v[32];
    __shared__ int best_i[32];
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

// Attention of one new position, whose queries are scaled, over itself and all before it, first half: each block takes
// one share of the positions of one key/value head, for all G query heads that share it, so that the cache is read
// once. What comes out of a share: out [B, H, splits, D] unnormalised in f32, and its maximum and sum, stats [B, H,
// splits, 2]. Eight elements to a lane, so LANES lanes to a position and AT_ONCE positions to a warp, each UNROLL deep.
// Grid (splits, KVH, B), THREADS threads. D is a power of two from 8 to 256, G at most 8.
#define THREADS 128
#define LANES (D / 8)
#define AT_ONCE (32 / LANES)
#define PARTS (THREADS / 32 * AT_ONCE)
#define UNROLL (G <= 2 ? 4 : 2)
extern "C" __global__ void __launch_bounds__(THREADS)
decode_attention(const T *q, const T *k_cache, const T *v_cache, const u32 *pos, int offset, float *out, float *stats,
                 int kvh, int smax) {
    __shared__ float part[PARTS * G * (D + 2)];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, place = lane / LANES, first_e = lane % LANES * 8;
    int split = blockIdx.x, splits = gridDim.x, head = blockIdx.y;
    i64 b = blockIdx.z;
    int len = offset + (pos ? (int)*pos : 0) + 1;
    int share = (len + splits - 1) / splits;
    int first = split * share, last = min(first + share, len);
    const T *k = k_cache + (b * kvh + head) * (i64)smax * D + first_e;
    const T *v = v_cache + (b * kvh + head) * (i64)smax * D + first_e;
    float query[G][8], m[G], sum[G], acc[G][8];
#pragma unroll
    for (int g = 0; g < G; g++) {
        ld8(q + ((b * kvh + head) * G + g) * D + first_e, query[g]);
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
    __syncthreads();
    // The warps' parts become the block's.
    for (int i = threadIdx.x; i < G * D; i += THREADS) {
        int g = i / D, e = i % D;
        float top = NEG_INF, total = 0.f, value = 0.f;
        for (int w = 0; w < PARTS; w++) top = fmaxf(top, part[(w * G + g) * (D + 2) + D]);
        for (int w = 0; w < PARTS; w++) {
            const float *p = part + (w * G + g) * (D + 2);
            if (p[D] == NEG_INF) continue;
            float weight = __expf(p[D] - top);
            total += p[D + 1] * weight;
            value += p[e] * weight;
        }
        i64 at = ((b * kvh + head) * G + g) * splits + split;
        out[at * D + e] = value;
        if (e == 0) { stats[2 * at] = top; stats[2 * at + 1] = total; }
    }
}

#endif
