// Large matrix products of operands rounded to bf16: C[M, N] (+)= A·op(B), one tensor-core product, sums in fp32.
// A [M, K] and B ([N, K] or [K, N]) lie in memory as bf16: round_rows_* writes them there (activations, fp32 and fp16
// weights), unpack_codes_bf16 and unpack_blocks_bf16 (packed weights), bf16 weights are read where they are.
//
// matmul_rounded_{nt|nn}_{BM}x{BN}: tile BM×BN, warps of 64×96, 64×80, 64×48, 64×64 or 32×32; slices of 32 of K stream through a
// ring of stages filled by cp.async, fragments come by ldmatrix. Instructions an mma of the main loop: 1.7 (256×192) to
// 3.5 (64×64). The bits of an element depend on its row of A, its column of B and K alone, not on the tile: 16 of K after 16
// by one mma each, as in matmul_rounded_*_{f32|f16|bf16} of matmul.cu. With a low-rank term, C = A·op(B) + termA·op(termB): its slices
// follow K's into the same sums. C is fp32, or bf16 (halves).
// Floor: max(2·M·N·K over the tensor rate, (2·M·K + 2·N·K + 4·M·N) bytes over the bandwidth; 8·M·N where it adds to C).
// Bytes it asks for: 2·M·K for every column of tiles, 2·N·K for every row of tiles (L2 serves what repeats).
//! rounded | matmul_rounded_nt_256x192, matmul_rounded_nn_256x192 | block 256 | grid (ceil(m / 256) * ceil(n / 192), 1) | shared 86016 | one parameter: MatMulParams of matmul.cuh; a and b bf16 with rows on 16 bytes, k and, for nn, n multiples of 8; no batch, bias, residual; halves: c bf16 on 16 bytes, n and ldC multiples of 8; with a term (rank a multiple of 8) termA is [m, rank] and termB [n, rank] (nt) or [rank, n] (nn), bf16
//! rounded | matmul_rounded_nt_256x160, matmul_rounded_nn_256x160 | block 256 | grid (ceil(m / 256) * ceil(n / 160), 1) | shared 79872 | the same
//! rounded | matmul_rounded_nt_128x192, matmul_rounded_nn_128x192 | block 256 | grid (ceil(m / 128) * ceil(n / 192), 1) | shared 81920 | the same
//! rounded | matmul_rounded_nt_128x128, matmul_rounded_nn_128x128 | block 128 | grid (ceil(m / 128) * ceil(n / 128), 1) | shared 65536 | the same
//! rounded | matmul_rounded_nt_64x64, matmul_rounded_nn_64x64 | block 128 | grid (ceil(m / 64) * ceil(n / 64), batch) | shared 32768 | the same, and products of a batch at the strides
//! rounded | round_several | block 256 | grid ceil(rows * cols / 2048), summed over the matrices | shared 0 | RoundParams
//! rounded | term_rounded | block 256 | grid ceil(rows / 16) | shared 0 | rank a multiple of 8 and at most 256
//! rounded | round_rows_f32, round_rows_f16, round_rows_bf16 | block 256 | grid ceil(rows * cols / 2048) | shared 0 | y on 16 bytes, cols a multiple of 8
#include "matmul.cuh"

/// 16 bytes from global to shared memory in the background, or zeros.
__device__ __forceinline__ void copy_or_zero(unsigned to, const BF16 *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global_address(from)), "r"(there ? 16 : 0) : "memory");
}

/// Place of a 16-byte chunk in a row of STRIDE chunks (4, or more with STRIDE % 4 = 0): eight rows at one chunk, and two rows at four
/// neighbouring chunks, lie in different banks.
template <int STRIDE> __device__ __forceinline__ int place(int row, int chunk) { return chunk ^ ((row >> 1) & 3) ^ (STRIDE % 8 == 0 ? (row & 1) << 2 : 0); }

/// An operand's slice of 32 of K in shared memory: LINES rows of 32 (KMAJOR), or 32 rows of LINES. A thread copies chunk t % 4 of rows
/// t / 4, t / 4 + THREADS / 4 ... (KMAJOR), or of row t / 4 % 32 every fourth chunk. SPARE hides the step from the compiler, which would else
/// keep every multiple of it in two registers: without it the largest tile spills with two operands [.., K], with it where B is [K, N].
template <int LINES, bool KMAJOR, int THREADS, bool SPARE> struct Slice
{
    static const int BYTES = LINES * 64, STRIDE = KMAJOR ? 4 : LINES / 8, GROUPS = LINES / 32, TEAMS = THREADS / 128;
    const BF16 *from;
    unsigned to;    // byte in the slice, of an even group
    unsigned toOdd; // of an odd one
    int k;          // of K: what the thread copies begins here, in the tile
    int there;      // lines from the first of its copies to the end: copy i exists where i times their distance is less
    int stride;     // KMAJOR: elements from one copy to the next
    i64 advance;    // to the next slice

    __device__ __forceinline__ Slice(const BF16 *base, int ld, int line, int lines)
    {
        int row = (threadIdx.x >> 2) & (KMAJOR ? 0xFFFF : 31), chunk = threadIdx.x & 3, team = KMAJOR ? 0 : threadIdx.x >> 7;
        if (KMAJOR)
        {
            k = chunk * 8;
            from = base + (i64)(line + row) * ld + k;
            stride = THREADS / 4 * ld;
            advance = 32;
            to = toOdd = (row * STRIDE + place<STRIDE>(row, chunk)) * 16;
            there = lines - line - row;
        }
        else
        {
            k = row;
            from = base + (i64)row * ld + line + (team * 4 + chunk) * 8;
            stride = 0;
            advance = (i64)32 * ld;
            to = (row * STRIDE + place<STRIDE>(row, chunk + team * 4)) * 16;
            toOdd = (row * STRIDE + place<STRIDE>(row, chunk + (team + TEAMS) * 4)) * 16;
            there = lines - line - (team * 4 + chunk) * 8;
        }
    }

    /// Starts the copies of the slice that begins at k0, and moves on.
    __device__ __forceinline__ void load(unsigned slice, int k0, int end)
    {
        bool inside = k0 + k < end;
        const BF16 *source = from;
        if (KMAJOR)
        {
            int step = stride;
            if (SPARE)
                asm volatile("" : "+r"(step));
#pragma unroll
            for (int i = 0; i < (LINES + THREADS / 4 - 1) / (THREADS / 4); i++)
            {
                // More threads than lines: the last ones have nothing to copy.
                if (LINES % (THREADS / 4) == 0 || (int)(threadIdx.x >> 2) + i * (THREADS / 4) < LINES)
                    copy_or_zero(slice + to + i * (THREADS / 4) * 64, source, inside && i * (THREADS / 4) < there);
                source += step;
            }
        }
        else
        {
#pragma unroll
            for (int i = 0; i < (GROUPS + TEAMS - 1) / TEAMS; i++)
            {
                if (GROUPS % TEAMS == 0 || (int)(threadIdx.x >> 7) + i * TEAMS < GROUPS)
                {
                    // Groups i·TEAMS of an even and an odd i: with STRIDE % 8 = 0 the place's third bit may be exchanged between neighbouring groups.
                    unsigned at = TEAMS % 2 == 0 || i % 2 == 0 ? to + i * TEAMS * 64 : toOdd + (i - 1) * TEAMS * 64;
                    copy_or_zero(slice + at, source, inside && i * TEAMS * 32 < there);
                }
                source += TEAMS * 32;
            }
        }
        from += advance;
    }
};

template <int BM, int BN, int WM, int WN, bool TRANS_B, int STAGES, bool BATCH> struct Rounded
{
    static const int WARPS_M = BM / WM, WARPS_N = BN / WN, THREADS = WARPS_M * WARPS_N * 32, MT = WM / 16, NT = WN / 8;
    static const int A_BYTES = BM * 64, STAGE = A_BYTES + BN * 64;
    static_assert(NT % 2 == 0, "columns come by sixteen");

    /// Columns from a warp's first fragment to its j-th. Warps take sixteen columns in turns, which makes the places of B's chunks a register or
    /// two and a constant.
    static __device__ __forceinline__ constexpr int past(int j) { return j / 2 * WARPS_N * 16 + j % 2 * 8; }

    /// The same into C of bf16. Of two fragments, eight columns each, lanes exchange pairs so that each has four neighbours of one: a row's 32 bytes are stored at once.
    static __device__ __forceinline__ void store_halves(const MatMulParams &p, const float (&sums)[MT][NT][4], int row, int col)
    {
        bool odd = threadIdx.x & 1;
        BF16 *c = (BF16 *)(void *)p.c + (BATCH ? blockIdx.y * p.strideC : 0);
        // From the pair's column to the first of the four: an odd lane has those of the second fragment, from its neighbour's column on.
        col += odd ? 6 : 0;
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int h = 0; h < 2; h++)
            {
                int r = row + i * 16 + h * 8;
                BF16 *to = c + (i64)r * p.ldC + col;
#pragma unroll
                for (int j = 0; j < NT; j += 2)
                {
                    float low[2], high[2];
#pragma unroll
                    for (int e = 0; e < 2; e++)
                    {
                        float first = sums[i][j][2 * h + e], second = sums[i][j + 1][2 * h + e], other = shuffle_xor(odd ? first : second, 1);
                        low[e] = odd ? other : first;
                        high[e] = odd ? second : other;
                    }
                    if (r >= p.m || col + past(j) >= p.n)
                        continue;
                    uint2 *at = (uint2 *)(to + past(j));
                    if (p.accumulate)
                    {
                        uint2 before = *at;
                        low[0] += low_bf16(before.x);
                        low[1] += high_bf16(before.x);
                        high[0] += low_bf16(before.y);
                        high[1] += high_bf16(before.y);
                    }
                    *at = make_uint2(pack_bf16(low[0], low[1]), pack_bf16(high[0], high[1]));
                }
            }
    }

    static __device__ __forceinline__ void run(const MatMulParams &p)
    {
        int row, col, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        tile_place<BM, BN>(p.m, row, col);
        int warpM = warp % WARPS_M * WM, warpN = warp / WARPS_M;
        unsigned shared = shared_address(dynamic_shared);
        // Where this lane's row of a matrix of ldmatrix lies: rows of A, columns of B [N, K], k of B [K, N].
        int rowA = warpM + (lane & 15), chunkA = lane >> 4;
        unsigned readA = (rowA * 4 + place<4>(rowA, chunkA)) * 16;
        int rowB = TRANS_B ? warpN * 16 + (lane >> 4) * 8 + (lane & 7) : lane & 15, chunkB = TRANS_B ? lane >> 3 & 1 : warpN * 2 + (lane >> 4);
        const int strideB = TRANS_B ? 4 : BN / 8;
        unsigned readB = A_BYTES + (rowB * strideB + place<strideB>(rowB, chunkB)) * 16;
        // B [K, N]: the next chunk of the warp is 2·WARPS_N further, which an exchanged third bit may turn round.
        unsigned readOdd = A_BYTES + (rowB * strideB + place<strideB>(rowB, chunkB + 2 * WARPS_N)) * 16;
        float sums[MT][NT][4];
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sums[i][j][e] = 0.0f;
        // The product, then the low-rank term into the same sums.
#pragma unroll 1
        for (int part = 0; part < (p.rank > 0 ? 2 : 1); part++)
        {
            bool term = part != 0;
            int depth = term ? p.rank : p.k;
            Slice<BM, true, THREADS, TRANS_B> a((const BF16 *)(const void *)(term ? p.termA : p.a) + (BATCH ? blockIdx.y * p.strideA : 0), term ? p.rank : p.ldA, row, p.m);
            Slice<BN, TRANS_B, THREADS, TRANS_B> b((const BF16 *)(term ? (const void *)p.termB : p.b) + (BATCH ? blockIdx.y * p.strideB : 0), term ? (TRANS_B ? p.rank : p.n) : p.ldB, col, p.n);
#pragma unroll 1
            for (int s = 0; s < STAGES - 1; s++)
            {
                if (s * 32 < depth)
                {
                    a.load(shared + s * STAGE, s * 32, depth);
                    b.load(shared + s * STAGE + A_BYTES, s * 32, depth);
                }
                copy_commit();
            }
            unsigned stage = shared, into = shared + (STAGES - 1) * STAGE;
#pragma unroll 1
            for (int k = 0; k < depth; k += 32)
            {
                copy_wait<STAGES - 2>();
                __syncthreads();
                int next = k + (STAGES - 1) * 32;
                if (next < depth)
                {
                    a.load(into, next, depth);
                    b.load(into + A_BYTES, next, depth);
                }
                copy_commit();
#pragma unroll
                for (int half = 0; half < 2; half++)
                {
                    unsigned af[MT][4];
#pragma unroll
                    for (int i = 0; i < MT; i++)
                        load_matrices(af[i], stage + (readA ^ (half * 32)) + i * 1024);
#pragma unroll
                    for (int j = 0; j < NT; j += 2)
                    {
                        unsigned bf[4];
                        if (TRANS_B)
                            load_matrices(bf, stage + (readB ^ (half * 32)) + j * WARPS_N * 512);
                        else
                            load_matrices_transposed(bf, stage + (j % 4 == 0 ? readB + j * WARPS_N * 16 : readOdd + (j - 2) * WARPS_N * 16) + half * 16 * strideB * 16);
#pragma unroll
                        for (int i = 0; i < MT; i++)
                        {
                            mma_bf16(sums[i][j], af[i], bf);
                            mma_bf16(sums[i][j + 1], af[i], bf + 2);
                        }
                    }
                }
                into = stage;
                stage = stage == shared + (STAGES - 1) * STAGE ? shared : stage + STAGE;
            }
            copy_wait<0>();
            __syncthreads();
        }
        // Read again, so that no register holds the place in the loop.
        unsigned block, thread;
        asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
        tile_place<BM, BN>(p.m, row, col, block);
        row += (thread >> 5) % WARPS_M * WM + ((thread & 31) >> 2);
        col += (thread >> 5) / WARPS_M * 16 + 2 * (thread & 3);
        if (p.halves)
        {
            store_halves(p, sums, row, col);
            return;
        }
        bool pairs = ((u64)p.c & 7) == 0 && ((p.ldC | p.n) & 1) == 0 && (!BATCH || (p.strideC & 1) == 0);
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int h = 0; h < 2; h++)
            {
                int r = row + i * 16 + h * 8;
                if (r >= p.m)
                    continue;
                float *to = p.c + (i64)r * p.ldC + col + (BATCH ? blockIdx.y * p.strideC : 0);
                if (pairs && p.accumulate)
                {
#pragma unroll
                    for (int j = 0; j < NT; j++)
                        if (col + past(j) < p.n)
                        {
                            float2 before = *(const float2 *)(to + past(j));
                            *(float2 *)(to + past(j)) = make_float2(before.x + sums[i][j][2 * h], before.y + sums[i][j][2 * h + 1]);
                        }
                }
                else if (pairs)
                {
#pragma unroll
                    for (int j = 0; j < NT; j++)
                        if (col + past(j) < p.n)
                            *(float2 *)(to + past(j)) = make_float2(sums[i][j][2 * h], sums[i][j][2 * h + 1]);
                }
                else
                {
#pragma unroll
                    for (int j = 0; j < NT; j++)
#pragma unroll
                        for (int e = 0; e < 2; e++)
                            if (col + past(j) + e < p.n)
                                to[past(j) + e] = (p.accumulate ? to[past(j) + e] : 0.0f) + sums[i][j][2 * h + e];
                }
            }
    }
};

#define ENTRY(rows, columns, warpRows, warpColumns, threads, blocks, stages, batch)                                            \
    KERNEL_OF(threads, blocks) matmul_rounded_nt_##rows##x##columns(const MatMulParams p) { Rounded<rows, columns, warpRows, warpColumns, true, stages, batch>::run(p); } \
    KERNEL_OF(threads, blocks) matmul_rounded_nn_##rows##x##columns(const MatMulParams p) { Rounded<rows, columns, warpRows, warpColumns, false, stages, batch>::run(p); }
ENTRY(256, 192, 64, 96, 256, 1, 3, false)
ENTRY(256, 160, 64, 80, 256, 1, 3, false)
ENTRY(128, 192, 64, 48, 256, 1, 4, false)
ENTRY(128, 128, 64, 64, 128, 2, 4, false)
ENTRY(64, 64, 32, 32, 128, 4, 4, true)
#undef ENTRY

/// Four neighbours in one instruction.
__device__ __forceinline__ float4 widen_four(const float *p) { return load_four(p); }
template <typename T> __device__ __forceinline__ float4 widen_four(const T *p)
{
    uint2 bits = load_two(p);
    T a = {(u16)bits.x}, b = {(u16)(bits.x >> 16)}, c = {(u16)bits.y}, d = {(u16)(bits.y >> 16)};
    return make_float4(widen(a), widen(b), widen(c), widen(d));
}

/// y[rows][cols] bf16 = x[rows][cols] with row stride ld, rounded to nearest even; cols a multiple of 8. Four neighbours a thread, twice, so
/// that a warp asks for every sector once. Reads the matrix once, writes 2·rows·cols bytes.
template <typename T> __device__ __forceinline__ void round_rows(BF16 *y, const T *x, int rows, int cols, int ld)
{
    // Rows from 16 bytes on where elements have four, from 8 where they have two.
    bool vector = (((u64)x | (u64)ld * sizeof(T)) & (4 * sizeof(T) - 1)) == 0;
    i64 count = (i64)rows * cols;
#pragma unroll
    for (int half = 0; half < 2; half++)
    {
        i64 i = (i64)blockIdx.x * 2048 + half * 1024 + threadIdx.x * 4;
        if (i >= count)
            return;
        const T *from = x + i;
        if (ld != cols)
        {
            i64 row = i / cols;
            from = x + row * ld + (i - row * cols);
        }
        float4 v = vector ? widen_four(from) : make_float4(widen(from[0]), widen(from[1]), widen(from[2]), widen(from[3]));
        *(uint2 *)(y + i) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
    }
}
KERNEL(256) round_rows_f32(BF16 *y, const float *PLAIN x, int rows, int cols, int ld) { round_rows(y, x, rows, cols, ld); }
KERNEL(256) round_rows_f16(BF16 *y, const F16 *PLAIN x, int rows, int cols, int ld) { round_rows(y, x, rows, cols, ld); }
KERNEL(256) round_rows_bf16(BF16 *y, const BF16 *PLAIN x, int rows, int cols, int ld) { round_rows(y, x, rows, cols, ld); }

/// Matrices of round_several, by value: 128 bytes. y and x on 16 bytes, x without gaps; rows·cols a multiple of 8 in each, cols of 4, rows of 8
/// where turned; end: blocks up to the matrix's last one.
struct RoundParams
{
    BF16 *y[4];
    const float *x[4];
    int rows[4];
    int cols[4];
    int turned[4];
    int end[4];
};

/// y[i] = x[i] rounded to bf16, as round_rows, or xᵀ: then a thread takes eight rows of a column, which are 16 bytes of y, and its neighbour the next eight where
/// rows come by sixteen, so that a warp writes whole sectors; the others of the warp read columns side by side. Reads each matrix once, writes 2·rows·cols bytes.
KERNEL(256) round_several(const RoundParams p)
{
    int i = 0, first = 0;
    while (i < 3 && (int)blockIdx.x >= p.end[i])
        first = p.end[i++];
    const float *x = p.x[i];
    BF16 *y = p.y[i];
    int cols = p.cols[i], rows = p.rows[i];
    i64 count = (i64)rows * cols, base = (i64)((int)blockIdx.x - first) * 2048;
    if (!p.turned[i])
    {
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            i64 at = base + half * 1024 + threadIdx.x * 4;
            if (at >= count)
                return;
            float4 v = load_four(x + at);
            *(uint2 *)(y + at) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
        }
        return;
    }
    int pair = (rows & 15) == 0 ? 2 : 1;
    i64 item = base / 8 + threadIdx.x, group = item / (cols * pair);
    int place = (int)(item - group * cols * pair), col = place / pair;
    group = group * pair + (place - col * pair);
    if (group * 8 >= rows)
        return;
    float v[8];
#pragma unroll
    for (int e = 0; e < 8; e++)
        v[e] = x[(group * 8 + e) * cols + col];
    *(uint4 *)(y + (i64)col * rows + group * 8) = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

/// Between the thin product of a low-rank term and the wide one: z[rows, rank] = the sum of `stretches` partial products [rows, rank] one after the other
/// in memory, in their order, in double; mixed = z·M, or z·Mᵀ where turned, of operands rounded to bf16 as every product here; and mixed again as bf16.
/// M [rank, rank]. partial may be z itself where there is one. A block takes 16 rows, a warp every eighth column of fragments. Reads
/// 4·stretches·rows·rank bytes and 4·rank² a block, writes 10·rows·rank.
KERNEL(256) term_rounded(float *z, float *mixed, BF16 *halves, const float *partial, const float *m, int rows, int rank, int stretches, int turned)
{
    const int MostRank = 256, STRIDE = MostRank + 8; // eight rows begin in different banks
    __shared__ __align__(16) u16 tile[16 * STRIDE];
    int first = blockIdx.x * 16, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    i64 product = (i64)rows * rank, begin = (i64)first * rank;
    int wide = (rank + 15) & ~15;
    for (int i = threadIdx.x; i < 16 * wide; i += 256)
    {
        int row = i / wide, col = i - row * wide;
        float sum = 0.0f;
        if (col < rank && first + row < rows)
        {
            i64 at = begin + row * rank + col;
            double total = 0.0;
            for (int s = 0; s < stretches; s++)
                total += (double)partial[s * product + at];
            sum = (float)total;
            z[at] = sum;
        }
        BF16 half;
        narrow(sum, half);
        tile[row * STRIDE + col] = half.bits;
    }
    __syncthreads();
    for (int n = (threadIdx.x >> 5) * 8; n < rank; n += 64)
    {
        float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int k = 0; k < wide; k += 16)
        {
            unsigned a[4], b[2];
            load_matrices(a, shared_address(tile) + ((lane & 15) * STRIDE + k + (lane >> 4) * 8) * 2);
#pragma unroll
            for (int half = 0; half < 2; half++)
            {
                int from = k + 2 * t + half * 8;
                bool there = from < rank;
                float low = there ? m[turned ? (n + g) * rank + from : from * rank + n + g] : 0.0f, high = there ? m[turned ? (n + g) * rank + from + 1 : (from + 1) * rank + n + g] : 0.0f;
                b[half] = pack_bf16(low, high);
            }
            mma_bf16(sums, a, b);
        }
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            int row = g + half * 8;
            if (first + row >= rows)
                continue;
            i64 at = begin + row * rank + n + 2 * t;
            *(float2 *)(mixed + at) = make_float2(sums[2 * half], sums[2 * half + 1]);
            *(unsigned *)(halves + at) = pack_bf16(sums[2 * half], sums[2 * half + 1]);
        }
    }
}
