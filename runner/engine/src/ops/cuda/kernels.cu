// The engine's CUDA kernels, compiled by NVRTC for the GPU at hand when they are first needed, without CUDA's headers.
// Storage type T by -DSTORE=0 (f32), 1 (bf16), 2 (f16); all sums are in f32. With -DG and -DD the file holds the kernels
// of attention for G query heads to a key/value head of D elements, else all others.
//
// Shapes as in ops/mod.rs: B sequences, S new positions, H query heads, KVH key/value heads, D elements of a head, Smax
// positions of the cache. Where a kernel takes a position, it is `offset` plus, where `pos` is not null, what lies there:
// so that one launch, captured in a graph, serves every step.

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

// x [rows, n] += bias, in place.
extern "C" __global__ void add_bias(T *x, const T *bias, int n, i64 count) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) st(x + i, ld(x + i) + ld(bias + i % n));
}

// x [rows, n] = gelu(x + bias), tanh form, in place.
extern "C" __global__ void bias_gelu(T *x, const T *bias, int n, i64 count) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float v = ld(x + i) + ld(bias + i % n);
    float u = 0.7978845608028654f * (v + 0.044715f * v * v * v);
    st(x + i, 0.5f * v * (1.f + tanhf(u)));
}

// y [rows, f] = silu(gate)·up of x [rows, 2f].
extern "C" __global__ void silu_mul(const T *x, T *y, int f, i64 count) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    i64 row = i / f, col = i % f;
    float gate = ld(x + row * 2 * f + col), up = ld(x + row * 2 * f + f + col);
    st(y + i, gate / (1.f + __expf(-gate)) * up);
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

// Softmax of rows of scores [rows, len] in place, row r being query r % s of the last s of len positions; scaled first,
// masked causally. One block a row; 64-bit offsets, for 2^31 scores are not many.
extern "C" __global__ void softmax_causal(T *scores, int s, int len, float scale) {
    __shared__ float shared[32];
    i64 row = blockIdx.x;
    T *x = scores + row * len;
    int visible = len - s + (int)(row % s) + 1;
    float m = NEG_INF;
    for (int i = threadIdx.x; i < visible; i += blockDim.x) m = fmaxf(m, ld(x + i) * scale);
    m = block_max(m, shared);
    float sum = 0.f;
    for (int i = threadIdx.x; i < visible; i += blockDim.x) sum += __expf(ld(x + i) * scale - m);
    float inv = 1.f / block_sum(sum, shared);
    for (int i = threadIdx.x; i < len; i += blockDim.x)
        st(x + i, i < visible ? __expf(ld(x + i) * scale - m) * inv : 0.f);
}

// Takes apart qkv [B, S, (H + 2·KVH)·D]: k and v go into the caches at their positions, and the last `queries` positions
// of q to q_out [B, H, queries, D]. Where there are tables cos, sin [positions, D/2], q and k are rotated (rotate-half
// form) on the way; where there are weights q_norm, k_norm [D], they are RMS-normalised before.
// Grid (S, H + 2·KVH, B), D/2 threads; norms need whole warps.
extern "C" __global__ void rope_append(const T *qkv, const T *cos_t, const T *sin_t, const T *q_norm, const T *k_norm,
                                       T *q_out, T *k_cache, T *v_cache, const u32 *pos, int offset, int queries, int h,
                                       int kvh, int smax, float eps) {
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
    st(out + i, lo);
    st(out + half + i, hi);
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

// ids[b] = the first index of the largest of logits[b·stride ..][.. v] (bad[0] = b + 1 for a row with a NaN), also kept
// as history[b·n + *step]. One block a row.
extern "C" __global__ void argmax_first(const T *logits, u32 *ids, u32 *history, const u32 *step, u32 *bad, int v,
                                        i64 stride, int n) {
    __shared__ float best_v[32];
    __shared__ int best_i[32];
    const T *row = logits + (i64)blockIdx.x * stride;
    float top = NEG_INF;
    int at = 0x7fffffff;
    for (int i = threadIdx.x; i < v; i += blockDim.x) {
        float x = ld(row + i);
        if (x != x) *bad = blockIdx.x + 1;
        if (x > top || (x == top && i < at)) { top = x; at = i; }
    }
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (int pass = 0; pass < 2; pass++) {
        for (int o = 16; o; o >>= 1) {
            float other = __shfl_xor_sync(FULL, top, o);
            int other_at = __shfl_xor_sync(FULL, at, o);
            if (other > top || (other == top && other_at < at)) { top = other; at = other_at; }
        }
        if (pass) break;
        if (lane == 0) { best_v[warp] = top; best_i[warp] = at; }
        __syncthreads();
        top = lane < warps ? best_v[lane] : NEG_INF;
        at = lane < warps ? best_i[lane] : 0x7fffffff;
    }
    if (threadIdx.x == 0) {
        // A row of NaNs has no largest; any id that exists will do, for the flag says so.
        if (at >= v) at = 0;
        ids[blockIdx.x] = at;
        history[(i64)blockIdx.x * n + *step] = at;
    }
}

// After every row's argmax: the next step, the next position.
extern "C" __global__ void advance(u32 *step, u32 *pos) {
    *step += 1;
    *pos += 1;
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

// Attention of one new position over itself and all before it, first half: each block takes one share of the positions of
// one key/value head, for all G query heads that share it, so that the cache is read once. What comes out of a share: out
// [B, H, splits, D] unnormalised in f32, and its maximum and sum, stats [B, H, splits, 2].
// Eight elements to a lane, so LANES lanes to a position and AT_ONCE positions to a warp, each UNROLL deep.
// Grid (splits, KVH, B), THREADS threads. D is a power of two from 8 to 256, G at most 8.
#define THREADS 128
#define LANES (D / 8)
#define AT_ONCE (32 / LANES)
#define PARTS (THREADS / 32 * AT_ONCE)
#define UNROLL (G <= 2 ? 4 : 2)
extern "C" __global__ void __launch_bounds__(THREADS)
decode_attention(const T *q, const T *k_cache, const T *v_cache, const u32 *pos, int offset, float *out, float *stats,
                 int kvh, int smax, float scale) {
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
        for (int e = 0; e < 8; e++) {
            query[g][e] *= scale;
            acc[g][e] = 0.f;
        }
    }
    // All lanes of a warp stay together, for they exchange sums.
    int step = THREADS / 32 * AT_ONCE;
    for (int base = first + warp * AT_ONCE; base < last; base += UNROLL * step) {
        float kt[UNROLL][8], vt[UNROLL][8];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            int t = base + u * step + place;
            if (t < last) {
                ld8(k + (i64)t * D, kt[u]);
                ld8(v + (i64)t * D, vt[u]);
            } else {
                for (int e = 0; e < 8; e++) kt[u][e] = vt[u][e] = 0.f;
            }
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            bool seen = base + u * step + place < last;
#pragma unroll
            for (int g = 0; g < G; g++) {
                float dot = 0.f;
                for (int e = 0; e < 8; e++) dot += query[g][e] * kt[u][e];
                for (int o = LANES / 2; o; o >>= 1) dot += __shfl_xor_sync(FULL, dot, o);
                if (seen) {
                    float now = fmaxf(m[g], dot), keep = __expf(m[g] - now), w = __expf(dot - now);
                    m[g] = now;
                    sum[g] = sum[g] * keep + w;
                    for (int e = 0; e < 8; e++) acc[g][e] = acc[g][e] * keep + w * vt[u][e];
                }
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
