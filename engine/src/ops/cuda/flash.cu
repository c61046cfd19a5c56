// Attention on tensor cores, in bf16 (-DSTORE=1) or f16 (2), for G query heads to a key/value head of D elements, 64 or
// 128. As kernels.cu, compiled by NVRTC without CUDA's headers. Softmax and sums are in f32; the weights are rounded to
// the storage type for their product with the values. Names of shapes as there.

typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef u16 T;
struct __align__(16) Quad { u32 x[4]; };

// What takes PTX; tests/kernels/emulate.cpp has its own. Addresses in shared memory are those that PTX takes.
#ifndef EMULATED
#if STORE == 1
#define STORED "bf16"
#else
#define STORED "f16"
#endif
// Two numbers as they are stored, the first in the low half.
__device__ __forceinline__ u32 pack(float lo, float hi) {
    u32 both;
    asm("cvt.rn." STORED "x2.f32 %0, %1, %2;" : "=r"(both) : "f"(hi), "f"(lo));
    return both;
}
__device__ __forceinline__ float exp2_of(float v) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(v));
    return v;
}
// c [16, 8] += a [16, 16] · b [16, 8]. Lane l has, in pairs of neighbours, of a rows l/4 and l/4 + 8 at columns l%4·2
// and l%4·2 + 8 (rows first), of b these as rows at column l/4, of c rows l/4 and l/4 + 8 at column l%4·2.
__device__ __forceinline__ void mma(float *c, const u32 *a, const u32 *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." STORED "." STORED ".f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Four matrices [8, 8], whose rows lie where lanes 0..8, 8..16, 16..24, 24..32 say: lane l gets of each the pair at
// column l%4·2 of row l/4.
__device__ __forceinline__ void ld_matrices(u32 *to, u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
}
// The same of their transposes.
__device__ __forceinline__ void ld_transposed(u32 *to, u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
}
// A matrix [8, 8] that lies in the lanes as ld_matrices leaves it, transposed.
__device__ __forceinline__ u32 transposed(u32 v) {
    u32 to;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(to) : "r"(v));
    return to;
}
// Starts to copy 16 bytes, or to set them to zero; then nothing is read.
__device__ __forceinline__ void start_copy(u32 to, const T *from, bool zero) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(zero ? 0 : 16) : "memory");
}
// Waits for all copies that this thread has started.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
__device__ __forceinline__ void st_shared(u32 to, u32 v) {
    asm volatile("st.shared.u32 [%0], %1;" :: "r"(to), "r"(v) : "memory");
}
__device__ __forceinline__ Quad ld_shared(u32 from) {
    Quad v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x[0]), "=r"(v.x[1]), "=r"(v.x[2]), "=r"(v.x[3]) : "r"(from) : "memory");
    return v;
}
// Eight elements that are read once, in the order of the program.
__device__ __forceinline__ Quad ld_once(const T *from) {
    Quad v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x[0]), "=r"(v.x[1]), "=r"(v.x[2]), "=r"(v.x[3]) : "l"(from));
    return v;
}
// As in kernels.cu.
#if __CUDA_ARCH__ >= 900
#define LET_NEXT() asm volatile("griddepcontrol.launch_dependents;")
#define WAIT() asm volatile("griddepcontrol.wait;" ::: "memory")
#else
#define LET_NEXT()
#define WAIT()
#endif
// Where the launch's shared memory begins.
__device__ __forceinline__ u32 shared_start() {
    extern __shared__ __align__(1024) Quad start[];
    u32 at;
    asm("{ .reg .u64 at; cvta.to.shared.u64 at, %1; cvt.u32.u64 %0, at; }" : "=r"(at) : "l"(start));
    return at;
}
#endif

#define NEG_INF __uint_as_float(0xff800000u)
#define FULL 0xffffffffu
#define LOG2E 1.4426950408889634f
#define THREADS 128
#define WARPS (THREADS / 32)

// Attention of a prompt: y [B, S, H, D] of queries q [B, H, S, D], scaled, at the last S of `len` positions, masked
// causally; caches [B, KVH, Smax, D]. FlashAttention-2: a block takes ROWS queries of a head, a warp 16·TILES of them,
// and all keys that they see, KEYS at a time, the next of which are copied meanwhile. Grid (S / ROWS, H, B), the
// longest rows first; THREADS threads; two stages of shared memory, and the queries where they are not kept.
#define KEYS 64
#define ROWS (16 * TILES * WARPS)
// Bytes: of a row in shared memory, of KEYS keys and as many values.
#define ROW (2 * D)
#define STAGE (2 * KEYS * ROW)
// Queries stay in registers where these suffice, and lie at first where the second stage comes; else in front.
#define KEPT (TILES * D <= 128)

// Starts to copy N rows of D elements, zeros after the first `count`. Piece c of row r, of 16 bytes, lies at place
// c ^ r%8 of its row: eight rows' pieces of a column, or a row's eight, are in different banks.
template <int N> __device__ __forceinline__ void copy_rows(u32 to, const T *from, int count) {
    constexpr int PIECES = D / 8, STEP = THREADS / PIECES;
    int row = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
    to += row * ROW + ((piece ^ row % 8) << 4);
    from += row * D + piece * 8;
#pragma unroll
    for (int n = 0; n < N; n += STEP) start_copy(to + n * ROW, from + n * D, row + n >= count);
}

template <int TILES> __device__ __forceinline__ void
attend(const T *q, const T *k_cache, const T *v_cache, T *y, int s, int len, int kvh, int smax) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y, h = gridDim.y;
    int first = (gridDim.x - 1 - blockIdx.x) * ROWS;
    i64 b = blockIdx.z;
    q += ((b * h + head) * s + first) * D;
    i64 cache = (b * kvh + head / G) * (i64)smax * D;
    u32 start = shared_start(), stages = start + (KEPT ? 0 : ROWS * ROW), queries = KEPT ? stages + STAGE : start;
    auto copy = [&](int tile) {
        u32 to = stages + tile % 2 * STAGE;
        i64 from = cache + (i64)tile * KEYS * D;
        copy_rows<KEYS>(to, k_cache + from, len - tile * KEYS);
        copy_rows<KEYS>(to + STAGE / 2, v_cache + from, len - tile * KEYS);
    };
    copy_rows<ROWS>(queries, q, s - first);
    copy(0);

    // What a lane says for ld_matrices: 16 rows of two columns of pieces, by rows or by columns first; piece 2·i of
    // them is reached with ^ 32·i.
    int r = lane % 8, one = lane / 8 % 2, two = lane / 16;
    u32 by_rows = (one * 8 + r) * ROW + ((two ^ r) << 4), by_columns = (two * 8 + r) * ROW + ((one ^ r) << 4);
    queries += warp * 16 * TILES * ROW + by_rows;
    u32 kept[KEPT ? TILES : 1][KEPT ? D / 16 : 1][4];
    if (KEPT) {
        wait_for_copies();
        __syncthreads();
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int i = 0; i < D / 16; i++) ld_matrices(kept[t][i], (queries ^ i * 32) + t * 16 * ROW);
    }

    float acc[TILES][D / 8][4], top[TILES][2], sum[TILES][2];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[t][n][e] = 0.f;
        top[t][0] = top[t][1] = NEG_INF;
        sum[t][0] = sum[t][1] = 0.f;
    }
    // The warp's first position.
    int position = len - s + first + warp * 16 * TILES;
    int tiles = (min(len, len - s + first + ROWS) + KEYS - 1) / KEYS;
    for (int tile = 0; tile < tiles; tile++) {
        wait_for_copies();
        __syncthreads();
        if (tile + 1 < tiles) copy(tile + 1);
        int key = tile * KEYS;
        if (key >= position + 16 * TILES) continue;
        u32 keys = stages + tile % 2 * STAGE + by_columns, values = stages + tile % 2 * STAGE + STAGE / 2 + by_rows;

        float score[TILES][KEYS / 8][4];
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) score[t][n][e] = 0.f;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            u32 a[TILES][4];
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                if (!KEPT) ld_matrices(a[t], (queries ^ i * 32) + t * 16 * ROW);
                else
#pragma unroll
                    for (int e = 0; e < 4; e++) a[t][e] = kept[KEPT ? t : 0][KEPT ? i : 0][e];
            }
#pragma unroll
            for (int n = 0; n < KEYS / 8; n += 2) {
                u32 k[4];
                ld_matrices(k, (keys ^ i * 32) + n * 8 * ROW);
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    mma(score[t][n], a[t], k);
                    mma(score[t][n + 1], a[t], k + 2);
                }
            }
        }

        // Every row sees the first position, so that a maximum is a number from the first tile on.
        bool masked = key + KEYS > position + 1;
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            if (masked) {
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        if (key + n * 8 + lane % 4 * 2 + e % 2 > position + t * 16 + lane / 4 + e / 2 * 8)
                            score[t][n][e] = NEG_INF;
            }
#pragma unroll
            for (int e = 0; e < 4; e += 2) {
                float now = top[t][e / 2];
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) now = fmaxf(now, fmaxf(score[t][n][e], score[t][n][e + 1]));
                now = fmaxf(now, __shfl_xor_sync(FULL, now, 1));
                now = fmaxf(now, __shfl_xor_sync(FULL, now, 2));
                float keep = exp2_of((top[t][e / 2] - now) * LOG2E), less = now * LOG2E, total = 0.f;
                top[t][e / 2] = now;
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
                    score[t][n][e] = exp2_of(score[t][n][e] * LOG2E - less);
                    score[t][n][e + 1] = exp2_of(score[t][n][e + 1] * LOG2E - less);
                    total += score[t][n][e] + score[t][n][e + 1];
                }
                sum[t][e / 2] = sum[t][e / 2] * keep + total;
#pragma unroll
                for (int n = 0; n < D / 8; n++) {
                    acc[t][n][e] *= keep;
                    acc[t][n][e + 1] *= keep;
                }
            }
        }

#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) {
            // Two neighbours' scores lie as the first operand has to.
            u32 a[TILES][4];
#pragma unroll
            for (int t = 0; t < TILES; t++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    a[t][e] = pack(score[t][2 * i + e / 2][e % 2 * 2], score[t][2 * i + e / 2][e % 2 * 2 + 1]);
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                u32 v[4];
                ld_transposed(v, (values ^ n * 16) + i * 16 * ROW);
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    mma(acc[t][n], a[t], v);
                    mma(acc[t][n + 1], a[t], v + 2);
                }
            }
        }
    }

    // Each warp writes its rows through shared memory, 16 bytes at a time.
    __syncthreads();
    u32 mine = start + warp * 16 * TILES * ROW;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            float total = sum[t][e / 2];
            total += __shfl_xor_sync(FULL, total, 1);
            total += __shfl_xor_sync(FULL, total, 2);
            float inv = 1.f / total;
            int row = lane / 4 + e / 2 * 8;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                st_shared(mine + (t * 16 + row) * ROW + ((n ^ row % 8) << 4) + lane % 4 * 4,
                          pack(acc[t][n][e] * inv, acc[t][n][e + 1] * inv));
        }
    __syncwarp();
    first += warp * 16 * TILES;
#pragma unroll
    for (int i = lane; i < 16 * TILES * D / 8; i += 32) {
        int row = i / (D / 8), piece = i % (D / 8);
        if (first + row < s)
            *(Quad *)(y + ((b * s + first + row) * h + head) * D + piece * 8) =
                ld_shared(mine + row * ROW + ((piece ^ row % 8) << 4));
    }
}

// ROWS 128 moves half as much as 64, which leaves fewer multiprocessors idle where there are not many blocks.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
flash_attention(const T *q, const T *k_cache, const T *v_cache, T *y, int s, int len, int kvh, int smax) {
    attend<2>(q, k_cache, v_cache, y, s, len, kvh, smax);
}
extern "C" __global__ void __launch_bounds__(THREADS, 3)
flash_attention_64(const T *q, const T *k_cache, const T *v_cache, T *y, int s, int len, int kvh, int smax) {
    attend<1>(q, k_cache, v_cache, y, s, len, kvh, smax);
}

// decode_attention of kernels.cu, with the same operands and shares, by products that take the cache as it lies in
// memory: scores [keys, heads] = k·qᵀ and out [D, heads] = vᵀ·weights, with as many rows of the first operand as there
// are, and room for eight heads. Each lane loads 16 bytes of a row at a time, and any order of the elements of a dot
// product, or of the elements of a head, is as good as another: so a piece of eight stays in its lane. A warp takes
// CHUNK positions at a time and has the next ones' keys under way meanwhile. Grid (splits, KVH, B), THREADS threads.
#define BLOCKS_16 (128 / D)
#define CHUNK (16 * BLOCKS_16)
extern "C" __global__ void __launch_bounds__(THREADS, 3)
flash_decode(const T *q, const T *k_cache, const T *v_cache, const u32 *pos, int offset, float *out, float *stats,
             int kvh, int smax) {
    __shared__ float part[WARPS * G * (D + 2)];
    LET_NEXT();
    WAIT();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, column = lane % 4;
    int split = blockIdx.x, splits = gridDim.x, head = blockIdx.y;
    i64 b = blockIdx.z;
    int len = offset + (pos ? (int)*pos : 0) + 1;
    // Whole sixteens, as the products take them.
    int share = ((len + splits - 1) / splits + 15) / 16 * 16;
    int first = split * share, last = min(first + share, len);
    const T *k = k_cache + (b * kvh + head) * (i64)smax * D + column * 8;
    const T *v = v_cache + (b * kvh + head) * (i64)smax * D + row * 8;
    // Pieces: of head `row`; of keys `row` and `row` + 8; of values at column·2, + 1, + 8 and + 9.
    Quad query[D / 32], kt[BLOCKS_16][2][D / 32], vt[BLOCKS_16][4][D / 64];
#pragma unroll
    for (int i = 0; i < D / 32; i++) {
        if (row < G) query[i] = ld_once(q + ((b * kvh + head) * G + row) * D + i * 32 + column * 8);
        else query[i].x[0] = query[i].x[1] = query[i].x[2] = query[i].x[3] = 0;
    }
    // A position past the end is the last one, for nothing.
    auto load_keys = [&](int base) {
#pragma unroll
        for (int t = 0; t < BLOCKS_16; t++)
#pragma unroll
            for (int e = 0; e < 2; e++)
#pragma unroll
                for (int i = 0; i < D / 32; i++)
                    kt[t][e][i] = ld_once(k + (i64)min(base + t * 16 + row + e * 8, last - 1) * D + i * 32);
    };
    // Of heads column·2 and the next: maximum, sum, and out at elements i·64 + row·8 + w·2 and the next, at i·4 + w.
    float acc[D / 16][4], top[2] = {NEG_INF, NEG_INF}, sum[2] = {0.f, 0.f};
#pragma unroll
    for (int n = 0; n < D / 16; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) acc[n][e] = 0.f;
    int base = first + warp * CHUNK;
    if (base < last) load_keys(base);
    for (; base < last; base += WARPS * CHUNK) {
#pragma unroll
        for (int t = 0; t < BLOCKS_16; t++)
#pragma unroll
            for (int e = 0; e < 4; e++)
#pragma unroll
                for (int i = 0; i < D / 64; i++) {
                    int at = min(base + t * 16 + column * 2 + e % 2 + e / 2 * 8, last - 1);
                    vt[t][e][i] = ld_once(v + (i64)at * D + i * 64);
                }
        float score[BLOCKS_16][4];
#pragma unroll
        for (int t = 0; t < BLOCKS_16; t++) {
#pragma unroll
            for (int e = 0; e < 4; e++) score[t][e] = 0.f;
#pragma unroll
            for (int i = 0; i < D / 32; i++)
#pragma unroll
                for (int w = 0; w < 4; w += 2) {
                    const u32 *lo = kt[t][0][i].x, *hi = kt[t][1][i].x;
                    u32 a[4] = {lo[w], hi[w], lo[w + 1], hi[w + 1]};
                    mma(score[t], a, query[i].x + w);
                }
        }
        if (base + WARPS * CHUNK < last) load_keys(base + WARPS * CHUNK);

        // Each chunk has a position that is there, so that a maximum is a number.
        float keep[2], less[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float now = top[e];
#pragma unroll
            for (int t = 0; t < BLOCKS_16; t++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    if (base + t * 16 + row + i * 8 >= last) score[t][e + i * 2] = NEG_INF;
                    now = fmaxf(now, score[t][e + i * 2]);
                }
            for (int o = 4; o < 32; o *= 2) now = fmaxf(now, __shfl_xor_sync(FULL, now, o));
            keep[e] = exp2_of((top[e] - now) * LOG2E);
            less[e] = now * LOG2E;
            top[e] = now;
            sum[e] *= keep[e];
        }
        u32 weights[BLOCKS_16][2];
#pragma unroll
        for (int t = 0; t < BLOCKS_16; t++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                score[t][e] = exp2_of(score[t][e] * LOG2E - less[e % 2]);
                sum[e % 2] += score[t][e];
            }
#pragma unroll
            for (int i = 0; i < 2; i++) weights[t][i] = transposed(pack(score[t][i * 2], score[t][i * 2 + 1]));
        }
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) acc[n][e] *= keep[e % 2];
#pragma unroll
            for (int t = 0; t < BLOCKS_16; t++) {
                // Pairs along the positions, of two neighbours each.
                u32 a[4];
#pragma unroll
                for (int e = 0; e < 4; e += 2) {
                    u32 one = vt[t][e][n / 4].x[n % 4], two = vt[t][e + 1][n / 4].x[n % 4];
                    a[e] = (one & 0xffffu) | two << 16;
                    a[e + 1] = one >> 16 | (two & 0xffff0000u);
                }
                mma(acc[n], a, weights[t]);
            }
        }
    }
#pragma unroll
    for (int e = 0; e < 2; e++) {
        for (int o = 4; o < 32; o *= 2) sum[e] += __shfl_xor_sync(FULL, sum[e], o);
        int g = column * 2 + e;
        if (g >= G) continue;
        float *p = part + (warp * G + g) * (D + 2);
#pragma unroll
        for (int n = 0; n < D / 16; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) p[n / 4 * 64 + row * 8 + n % 4 * 2 + i] = acc[n][e + i * 2];
        if (row == 0) { p[D] = top[e]; p[D + 1] = sum[e]; }
    }
    __syncthreads();
    // The warps' parts become the block's.
    for (int i = threadIdx.x; i < G * D; i += THREADS) {
        int g = i / D, e = i % D;
        float most = NEG_INF, total = 0.f, value = 0.f;
        for (int w = 0; w < WARPS; w++) most = fmaxf(most, part[(w * G + g) * (D + 2) + D]);
        for (int w = 0; w < WARPS; w++) {
            const float *p = part + (w * G + g) * (D + 2);
            if (p[D] == NEG_INF) continue;
            float weight = exp2_of((p[D] - most) * LOG2E);
            total += p[D + 1] * weight;
            value += p[e] * weight;
        }
        i64 at = ((b * kvh + head) * G + g) * splits + split;
        out[at * D + e] = value;
        if (e == 0) { stats[2 * at] = most; stats[2 * at + 1] = total; }
    }
}
