// Large matrix products of operands rounded to bf16: C[M, N] (+)= A·op(B), one tensor-core product, sums in fp32.
// A [M, K] and B ([N, K] or [K, N]) lie in memory as bf16: round_rows_* writes them there (activations, fp32 and fp16
// weights), unpack_codes_bf16 and unpack_blocks_bf16 (packed weights), bf16 weights are read where they are.
//
// matmul_rounded_{nt|nn}_{BM}x{BN}: tile BM×BN, warps of 64×96, 64×80, 64×48, 64×64 or 32×32; slices of 32 of K stream through a
// ring of stages filled by cp.async, fragments come by ldmatrix. Instructions an mma of the main loop: 1.7 (256×192) to
// 3.5 (64×64). The bits of an element depend on its row of A, its column of B and K alone, not on the tile: 16 of K after 16
// by one mma each, as in matmul_rounded_*_{f32|f16|bf16} of matmul.cu. With a low-rank term, C = A·op(B) + termA·op(termB): its slices
// follow K's into the same sums.
// Floor: max(2·M·N·K over the tensor rate, (2·M·K + 2·N·K + 4·M·N) bytes over the bandwidth; 8·M·N where it adds to C).
// Bytes it asks for: 2·M·K for every column of tiles, 2·N·K for every row of tiles (L2 serves what repeats).
//! rounded | matmul_rounded_nt_256x192, matmul_rounded_nn_256x192 | block 256 | grid (ceil(m / 256) * ceil(n / 192), 1) | shared 86016 | one parameter: MatMulParams of matmul.cuh; a and b bf16 with rows on 16 bytes, k and, for nn, n multiples of 8; no batch, bias, residual; with a term (rank a multiple of 8) termA is [m, rank] and termB [n, rank] (nt) or [rank, n] (nn), bf16
//! rounded | matmul_rounded_nt_256x160, matmul_rounded_nn_256x160 | block 256 | grid (ceil(m / 256) * ceil(n / 160), 1) | shared 79872 | the same
//! rounded | matmul_rounded_nt_128x192, matmul_rounded_nn_128x192 | block 256 | grid (ceil(m / 128) * ceil(n / 192), 1) | shared 81920 | the same
//! rounded | matmul_rounded_nt_128x128, matmul_rounded_nn_128x128 | block 128 | grid (ceil(m / 128) * ceil(n / 128), 1) | shared 65536 | the same
//! rounded | matmul_rounded_nt_64x64, matmul_rounded_nn_64x64 | block 128 | grid (ceil(m / 64) * ceil(n / 64), 1) | shared 32768 | the same
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

template <int BM, int BN, int WM, int WN, bool TRANS_B, int STAGES> struct Rounded
{
    static const int WARPS_M = BM / WM, WARPS_N = BN / WN, THREADS = WARPS_M * WARPS_N * 32, MT = WM / 16, NT = WN / 8;
    static const int A_BYTES = BM * 64, STAGE = A_BYTES + BN * 64;
    static_assert(NT % 2 == 0, "columns come by sixteen");

    /// Columns from a warp's first fragment to its j-th. Warps take sixteen columns in turns, which makes the places of B's chunks a register or
    /// two and a constant.
    static __device__ __forceinline__ constexpr int past(int j) { return j / 2 * WARPS_N * 16 + j % 2 * 8; }

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
            Slice<BM, true, THREADS, TRANS_B> a((const BF16 *)(const void *)(term ? p.termA : p.a), term ? p.rank : p.ldA, row, p.m);
            Slice<BN, TRANS_B, THREADS, TRANS_B> b((const BF16 *)(term ? (const void *)p.termB : p.b), term ? (TRANS_B ? p.rank : p.n) : p.ldB, col, p.n);
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
        bool pairs = ((u64)p.c & 7) == 0 && ((p.ldC | p.n) & 1) == 0;
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int h = 0; h < 2; h++)
            {
                int r = row + i * 16 + h * 8;
                if (r >= p.m)
                    continue;
                float *to = p.c + (i64)r * p.ldC + col;
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

#define ENTRY(rows, columns, warpRows, warpColumns, threads, blocks, stages)                                             \
    KERNEL_OF(threads, blocks) matmul_rounded_nt_##rows##x##columns(const MatMulParams p) { Rounded<rows, columns, warpRows, warpColumns, true, stages>::run(p); } \
    KERNEL_OF(threads, blocks) matmul_rounded_nn_##rows##x##columns(const MatMulParams p) { Rounded<rows, columns, warpRows, warpColumns, false, stages>::run(p); }
ENTRY(256, 192, 64, 96, 256, 1, 3)
ENTRY(256, 160, 64, 80, 256, 1, 3)
ENTRY(128, 192, 64, 48, 256, 1, 4)
ENTRY(128, 128, 64, 64, 128, 2, 4)
ENTRY(64, 64, 32, 32, 128, 4, 4)
#undef ENTRY

/// y[rows][cols] bf16 = x[rows][cols] with row stride ld, rounded to nearest even; cols a multiple of 8. Four neighbours a thread, twice, so
/// that a warp asks for every sector once. Reads the matrix once, writes 2·rows·cols bytes.
template <typename T> __device__ __forceinline__ void round_rows(BF16 *y, const T *x, int rows, int cols, int ld)
{
    bool vector = sizeof(T) == 4 && rows_of_16(x, ld, 0, sizeof(T));
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
        float4 v;
        if (vector)
            v = load_four((const float *)(const void *)from);
        else
            v = make_float4(widen(from[0]), widen(from[1]), widen(from[2]), widen(from[3]));
        *(uint2 *)(y + i) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
    }
}
KERNEL(256) round_rows_f32(BF16 *y, const float *PLAIN x, int rows, int cols, int ld) { round_rows(y, x, rows, cols, ld); }
KERNEL(256) round_rows_f16(BF16 *y, const F16 *PLAIN x, int rows, int cols, int ld) { round_rows(y, x, rows, cols, ld); }
KERNEL(256) round_rows_bf16(BF16 *y, const BF16 *PLAIN x, int rows, int cols, int ld) { round_rows(y, x, rows, cols, ld); }
