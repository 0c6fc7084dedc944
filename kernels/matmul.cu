// Matrix products. C[M, N] = op(A)·op(B) (+ C) (+ bias) (+ residual); A and C fp32, B fp32, fp16 or bf16.
//
// matmul_{n|t}{n|t}_{f32|f16|bf16}: fp32 accuracy (the first letter tells whether A is transposed, the second B). Tile
//   64×64, 128 threads, 32×32 a warp. 6, 5 or 3 tensor-core products per product (mma.cuh).
// matmul_rounded_{n|t}{n|t}_{f32|f16|bf16}: the same with both operands rounded to bf16 as fragments are read, one product: for
//   what is too small, thin or unaligned for rounded.cu, with the same bits.
// matmul_gated_{silu|gelu_tanh|gelu}_{f32|f16|bf16}: y = f(x·gateᵀ)·(x·upᵀ) in one pass over x: tile columns alternate
//   between both weights by eight, so that a thread holds both values of an element.
// matmul_term_{f32|f16|bf16}: y = x·Wᵀ + z·Uᵀ, the low-rank term added in the epilogue with sums of its own: the same bits
//   as two products one after the other.
// matvec_{f32|f16|bf16}_{1|2|4|8}: few rows; W is read once at full width.
// matmul_groups_n{n|t}_{f32|f16|bf16}, matvec_groups_*: groups of rows that have a B each (experts), up to 32 groups a launch.
// Floor of each: max(2·M·N·K·products over the tensor rate, (4·M·K + size·N·K + 4·M·N) bytes over the bandwidth).
// Bytes a tile kernel asks for: A once per column of tiles and B once per row of tiles (L2 serves what repeats).
//! matmul | matmul_nn_*, matmul_nt_*, matmul_tn_*, matmul_tt_*, matmul_rounded_*, matmul_term_* | block 128 | grid (ceil(m / 64) * ceil(n / 64), batch / summed) | shared 0 | one parameter: MatMulParams of matmul.cuh
//! matmul | matmul_gated_* | block 128 | grid (ceil(m / 64) * ceil(n / 32), 1) | shared 0 | b = gate weight, residual = up weight, c = y, gate and up = optional outputs with row stride ldC
//! matmul | matvec_* | block 256 | grid ceil(n / 16) | shared 0 | m at most the number in the name; A [m, k] row stride ldA, B [n, k] row stride ldB; bias, residual, accumulate as above
//! matmul | matmul_groups_* | block 128 | grid sum over the groups of ceil(rows / 64) * ceil(n / 64) | shared 0 | MatMulParams (b and m are the groups'), then GroupsParams
//! matmul | matvec_groups_* | block 256 | grid groups * ceil(n / 16) | shared 0 | the same for groups of at most 8 rows
//! matmul | term_mix | block 256 | grid ceil(rows * rank / 256) | shared 0
#include "matmul.cuh"

template <typename P, typename T> __device__ __forceinline__ void product_tile(const MatMulParams &p, u8 *shared, int row, int col)
{
    bool vectorA = rows_of_16(p.a, p.ldA, p.strideA, 4), vectorB = rows_of_16(p.b, p.ldB, p.strideB, sizeof(T));
    typename P::Sums sums;
    P::clear(sums);
#pragma unroll 1
    for (int s = 0; s < p.summed; s++)
    {
        i64 matrix = (i64)blockIdx.y * p.summed + s;
        const float *a = p.a + matrix * p.strideA;
        const T *b = (const T *)p.b + matrix * p.strideB;
        P::run(
            sums, shared, p.k, [&](u8 *to, int k0) { P::load_a(to, a, p.ldA, row, p.m, k0, p.k, vectorA); },
            [&](u8 *to, int k0) { P::load_b(to, b, p.ldB, col, p.n, k0, p.k, vectorB); });
    }
    Epilogue out(p, (i64)blockIdx.y * p.strideC);
    P::collect(sums, shared);
    P::each_pair(shared, [&](int r, int c, float x, float y) { out.store(row + r, col + c, x, y); });
}

#define ENTRY(letters, transA, transB, name, T, exact)                                                                   \
    KERNEL_OF(128, 2) matmul_##letters##_##name(const MatMulParams p)                                                          \
    {                                                                                                                    \
        typedef Product<64, 64, 32, 32, transA, transB, T, exact, 3> P;                                                  \
        __shared__ __align__(16) u8 shared[P::SHARED];                                                                   \
        int row, col;                                                                                                    \
        tile_place<64, 64>(p.m, row, col);                                                                               \
        product_tile<P, T>(p, shared, row, col);                                                                 \
    }
#define ENTRIES(name, T)                                                                                                 \
    ENTRY(nn, false, false, name, T, true)                                                                               \
    ENTRY(nt, false, true, name, T, true)                                                                                \
    ENTRY(tn, true, false, name, T, true)                                                                                \
    ENTRY(tt, true, true, name, T, true)                                                                                 \
    ENTRY(rounded_nn, false, false, name, T, false)                                                                      \
    ENTRY(rounded_nt, false, true, name, T, false)                                                                       \
    ENTRY(rounded_tn, true, false, name, T, false)                                                                       \
    ENTRY(rounded_tt, true, true, name, T, false)
ENTRIES(f32, float)
ENTRIES(f16, F16)
ENTRIES(bf16, BF16)
#undef ENTRIES
#undef ENTRY

/// The tile's columns come from two weights [N, K] in turns of eight.
template <typename F, typename T> __device__ __forceinline__ void gated_tile(const MatMulParams &p)
{
    typedef Product<64, 64, 32, 32, false, true, T, true, 3> P;
    __shared__ __align__(16) u8 shared[P::SHARED];
    int row, col;
    tile_place<64, 32>(p.m, row, col);
    const T *gate = (const T *)p.b, *up = (const T *)(const void *)p.residual;
    bool vectorA = rows_of_16(p.a, p.ldA, 0, 4), vectorB = rows_of_16(p.b, p.ldB, 0, sizeof(T)) && aligned16(p.residual);
    typename P::Sums sums;
    P::clear(sums);
    P::run(
        sums, shared, p.k, [&](u8 *to, int k0) { P::load_a(to, p.a, p.ldA, row, p.m, k0, p.k, vectorA); },
        [&](u8 *to, int k0) {
            stage_tile<64, 32, P::THREADS>(
                to,
                [&](int r) {
                    int n = col + (r >> 4) * 8 + (r & 7);
                    return n < p.n ? ((r & 8) ? up : gate) + (i64)n * p.ldB + k0 : nullptr;
                },
                p.k - k0, vectorB, gate);
        });
    P::collect(sums, shared);
#pragma unroll 1
    for (int i = threadIdx.x; i < 64 * 32; i += P::THREADS)
    {
        // Half a warp along a row, the other half two rows below, whose chunks lie in the other banks.
        int group = i >> 5, pair = group >> 1;
        int r = (pair >> 1) * 4 + (pair & 1) + (i >> 4 & 1) * 2, c = (group & 1) * 16 + (i & 15), at = (c >> 3) * 16 + (c & 7);
        float x = read_one(shared + chunk_offset<4, 64>(r, at >> 2) + (at & 3) * 4), y = read_one(shared + chunk_offset<4, 64>(r, (at + 8) >> 2) + (at & 3) * 4);
        r += row;
        c += col;
        if (r >= p.m || c >= p.n)
            continue;
        i64 to = (i64)r * p.ldC + c;
        p.c[to] = F::apply(x, 0.0f) * y;
        if (p.gate)
            p.gate[to] = x;
        if (p.up)
            p.up[to] = y;
    }
}
#define ENTRY(name, Type)                                                                                                \
    KERNEL_OF(128, 2) matmul_gated_##name##_f32(const MatMulParams p) { gated_tile<Type, float>(p); }                          \
    KERNEL_OF(128, 2) matmul_gated_##name##_f16(const MatMulParams p) { gated_tile<Type, F16>(p); }                            \
    KERNEL_OF(128, 2) matmul_gated_##name##_bf16(const MatMulParams p) { gated_tile<Type, BF16>(p); }
FOR_EVERY_GATE(ENTRY)
#undef ENTRY

/// y = x·Wᵀ, then y += z·Uᵀ from sums of its own.
template <typename T> __device__ __forceinline__ void term_tile(const MatMulParams &p)
{
    typedef Product<64, 64, 32, 32, false, true, T, true, 3> P;
    typedef Product<64, 64, 32, 32, false, true, float, true, 3> Q;
    __shared__ __align__(16) u8 shared[Q::SHARED];
    int row, col;
    tile_place<64, 64>(p.m, row, col);
    bool vectorA = rows_of_16(p.a, p.ldA, 0, 4), vectorB = rows_of_16(p.b, p.ldB, 0, sizeof(T));
    bool vectorZ = rows_of_16(p.termA, p.rank, 0, 4), vectorU = rows_of_16(p.termB, p.rank, 0, 4);
    typename P::Sums sums;
    typename Q::Sums term;
    P::clear(sums);
    P::run(
        sums, shared, p.k, [&](u8 *to, int k0) { P::load_a(to, p.a, p.ldA, row, p.m, k0, p.k, vectorA); },
        [&](u8 *to, int k0) { P::load_b(to, (const T *)p.b, p.ldB, col, p.n, k0, p.k, vectorB); });
    Q::clear(term);
    Q::run(
        term, shared, p.rank, [&](u8 *to, int k0) { Q::load_a(to, p.termA, p.rank, row, p.m, k0, p.rank, vectorZ); },
        [&](u8 *to, int k0) { Q::load_b(to, p.termB, p.rank, col, p.n, k0, p.rank, vectorU); });
#pragma unroll
    for (int i = 0; i < P::MT; i++)
#pragma unroll
        for (int j = 0; j < P::NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                sums[i][j][e] += term[i][j][e];
    Epilogue out(p, 0);
    P::collect(sums, shared);
    P::each_pair(shared, [&](int r, int c, float x, float y) { out.store(row + r, col + c, x, y); });
}
KERNEL_OF(128, 2) matmul_term_f32(const MatMulParams p) { term_tile<float>(p); }
KERNEL_OF(128, 2) matmul_term_f16(const MatMulParams p) { term_tile<F16>(p); }
KERNEL_OF(128, 2) matmul_term_bf16(const MatMulParams p) { term_tile<BF16>(p); }

/// z2[row, :] = z[row, :]·M of the row's segment: M [rank, rank] fp32 at mixes[segment[row]] (an address of 0 stands for the
/// identity), zeros where segment[row] is −1. mixes: device array of addresses; segment I32 [rows]. A thread computes one
/// element in the order of the sum. Reads 4·rows·rank bytes and each M once per row through the cache, writes 4·rows·rank.
KERNEL(256) term_mix(float *z2, const float *PLAIN z, const u64 *PLAIN mixes, const int *PLAIN segment, int rows, int rank)
{
    i64 i = (i64)blockIdx.x * 256 + threadIdx.x;
    if (i >= (i64)rows * rank)
        return;
    int row = (int)(i / rank), col = (int)(i - (i64)row * rank), s = segment[row];
    if (s < 0)
    {
        z2[i] = 0.0f;
        return;
    }
    const float *mix = (const float *)mixes[s], *line = z + (i64)row * rank;
    if (mix == nullptr)
    {
        z2[i] = line[col];
        return;
    }
    float sum = 0.0f;
    for (int k = 0; k < rank; k++)
        sum = fma(line[k], mix[(i64)k * rank + col], sum);
    z2[i] = sum;
}

// ---- few rows ----

/// C[m, n] = A·Wᵀ for m ≤ ROWS, W fp16 or bf16 (or fp32 whose rows do not start at 16 bytes) with row stride ldB, 16 columns of C from
/// `first` on. Reads size·N·K bytes once and 4·m·K for every 16 rows of W.
template <int ROWS, typename T> __device__ __forceinline__ void matvec_eights(const MatMulParams &p, float (*x)[MatvecStretch], int first, bool vector)
{
    matvec_rows<ROWS, 2>(p, x, first, [&](float (&w)[8], int n, int k, int end) {
        const T *from = (const T *)p.b + (i64)n * p.ldB + k;
        if (n < p.n && vector && k + 8 <= end)
            load_eight(w, from);
        else
        {
#pragma unroll
            for (int e = 0; e < 8; e++)
                w[e] = n < p.n && k + e < end ? widen(from[e]) : 0.0f;
        }
    });
}

/// The same of fp32 rows that start at 16 bytes. A lane's eight neighbours are a whole sector, of which a load of 16 bytes takes half: a
/// warp's 256 neighbours of a row go through shared memory (cp.async, 16 KiB a block, chunks exchanged as those of x), the next ones
/// under way while these are multiplied.
template <int ROWS> __device__ __forceinline__ void matvec_staged(const MatMulParams &p, float (*x)[MatvecStretch], float *room, int first)
{
    const int own = 2;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = first + warp * own;
    const float *w = (const float *)p.b;
    room += warp * own * 256;
    auto fetch = [&](int k) {
#pragma unroll
        for (int j = 0; j < own; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
            {
                int chunk = lane + h * 32, left = n + j < p.n ? (p.k - k - chunk * 4) * 4 : 0;
                copy_async(room + j * 256 + ((chunk ^ ((chunk >> 3) & 1)) << 2), left > 0 ? w + (i64)(n + j) * p.ldB + k + chunk * 4 : w, larger(0, smaller(16, left)));
            }
        copy_commit();
    };
    float sums[own][ROWS];
    matvec_clear(sums);
    fetch(0);
#pragma unroll 1
    for (int k0 = 0; k0 < p.k; k0 += MatvecStretch)
    {
        __syncthreads();
        matvec_stage<ROWS>(p, x, k0);
        __syncthreads();
        int end = smaller(MatvecStretch, p.k - k0);
#pragma unroll 1
        for (int k = 0; k < end; k += 256)
        {
            float weights[own][8];
            int chunk = lane * 2, flip = (chunk >> 3) & 1;
            copy_wait<0>();
            warp_barrier();
#pragma unroll
            for (int j = 0; j < own; j++)
            {
                float4 a = read_four(room + j * 256 + ((chunk ^ flip) << 2)), b = read_four(room + j * 256 + (((chunk + 1) ^ flip) << 2));
                weights[j][0] = a.x, weights[j][1] = a.y, weights[j][2] = a.z, weights[j][3] = a.w;
                weights[j][4] = b.x, weights[j][5] = b.y, weights[j][6] = b.z, weights[j][7] = b.w;
            }
            warp_barrier();
            if (k0 + k + 256 < p.k)
                fetch(k0 + k + 256);
            if (k + lane * 8 < end)
                matvec_add(sums, weights, x, k + lane * 8);
        }
    }
    matvec_store(p, sums, n);
}

template <int ROWS, typename T> struct Matvec
{
    static __device__ __forceinline__ void run(const MatMulParams &p, int first)
    {
        __shared__ __align__(16) float x[ROWS][MatvecStretch];
        matvec_eights<ROWS, T>(p, x, first, rows_of_16(p.b, p.ldB, 0, sizeof(T)));
    }
};
template <int ROWS> struct Matvec<ROWS, float>
{
    static __device__ __forceinline__ void run(const MatMulParams &p, int first)
    {
        __shared__ __align__(16) float x[ROWS][MatvecStretch], room[8 * 2 * 256];
        if (rows_of_16(p.b, p.ldB, 0, 4))
            matvec_staged<ROWS>(p, x, room, first);
        else
            matvec_eights<ROWS, float>(p, x, first, false);
    }
};
#define ENTRY(rows)                                                                                                      \
    KERNEL_OF(256, 2) matvec_f32_##rows(const MatMulParams p) { Matvec<rows, float>::run(p, blockIdx.x * 16); }                    \
    KERNEL_OF(256, 2) matvec_f16_##rows(const MatMulParams p) { Matvec<rows, F16>::run(p, blockIdx.x * 16); }                      \
    KERNEL_OF(256, 2) matvec_bf16_##rows(const MatMulParams p) { Matvec<rows, BF16>::run(p, blockIdx.x * 16); }
ENTRY(1)
ENTRY(2)
ENTRY(4)
ENTRY(8)
#undef ENTRY

// ---- groups of rows, each with its own B ----

/// Groups of one launch, by value: 520 bytes. Group g has rows start[g] ... start[g] + rows[g] − 1 of A and C and the matrix b[g].
struct GroupsParams
{
    static const int Most = 32;
    const void *b[Most];
    int start[Most];
    int rows[Most];
    int count;
    int reserved;
};

/// The group that block `at` works for, and its number within the group, where a group of m rows has blocks(m) of them. False beyond the last.
template <typename Blocks> __device__ __forceinline__ bool group_of(const GroupsParams &groups, MatMulParams &p, int &at, Blocks blocks)
{
#pragma unroll 1
    for (int g = 0; g < groups.count; g++)
    {
        int own = blocks(groups.rows[g]);
        if (at < own)
        {
            p.a += (i64)groups.start[g] * p.ldA;
            p.c += (i64)groups.start[g] * p.ldC;
            p.b = groups.b[g];
            p.m = groups.rows[g];
            return true;
        }
        at -= own;
    }
    return false;
}

/// C = A·op(B) of every group in one launch: the tiles of all groups one after the other, each as matmul_n?_*: the same bits.
template <bool TRANS_B, typename T> __device__ __forceinline__ void groups_tile(MatMulParams p, const GroupsParams &groups)
{
    typedef Product<64, 64, 32, 32, false, TRANS_B, T, true, 3> P;
    __shared__ __align__(16) u8 shared[P::SHARED];
    int at = blockIdx.x, across = (p.n + 63) / 64;
    if (!group_of(groups, p, at, [&](int m) { return (m + 63) / 64 * across; }))
        return;
    int down = (p.m + 63) / 64;
    product_tile<P, T>(p, shared, at % down * 64, at / down * 64);
}

/// The same for groups of at most eight rows and B [N, K], as matvec_*: the same bits.
template <typename T> __device__ __forceinline__ void groups_matvec(MatMulParams p, const GroupsParams &groups)
{
    int at = blockIdx.x, across = (p.n + 15) / 16;
    if (!group_of(groups, p, at, [&](int) { return across; }))
        return;
    Matvec<8, T>::run(p, at * 16);
}
#define ENTRY(name, T)                                                                                                   \
    KERNEL_OF(128, 2) matmul_groups_nn_##name(const MatMulParams p, const GroupsParams groups) { groups_tile<false, T>(p, groups); } \
    KERNEL_OF(128, 2) matmul_groups_nt_##name(const MatMulParams p, const GroupsParams groups) { groups_tile<true, T>(p, groups); }  \
    KERNEL_OF(256, 2) matvec_groups_##name(const MatMulParams p, const GroupsParams groups) { groups_matvec<T>(p, groups); }
ENTRY(f32, float)
ENTRY(f16, F16)
ENTRY(bf16, BF16)
#undef ENTRY
