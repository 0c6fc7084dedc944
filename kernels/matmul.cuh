// The matrix product that matmul.cu and quantised.cu instantiate: C = op(A)·op(B) by tiles, in fp32 accuracy (mma.cuh) or
// with operands rounded to bf16. A block of warps owns a tile of C; tiles of 32 of K stream through shared memory in a ring
// of stages filled by cp.async; a warp multiplies fragments of its part. No bank conflict in the main loop.
// The bits of an element depend on its row of A, its column of B and K alone.
#pragma once
#include "functions.cuh"
#include "mma.cuh"

/// Operands and sizes of a product; passed by value as one parameter. 8-byte fields first, 136 bytes in all.
struct MatMulParams
{
    const float *a;       // [M, K] (TransA: [K, M]), row stride ldA
    const void *b;        // [K, N] (TransB: [N, K]), row stride ldB
    float *c;             // [M, N], row stride ldC
    const float *bias;    // [N] or null
    const float *residual; // [M, N] with row stride ldC, added; or null. Gated products: the second weight
    float *gate;          // gated products: where the gate's values go, or null
    float *up;            // gated products: where the other values go, or null
    const float *termA;   // low-rank term: [M, rank] contiguous, or null
    const float *termB;   // low-rank term: [N, rank] contiguous
    i64 strideA;          // elements between the matrices of a batch
    i64 strideB;
    i64 strideC;
    int m;
    int n;
    int k;
    int ldA;
    int ldB;
    int ldC;
    int accumulate; // C += instead of C =
    int summed;     // matrices of the batch that one block sums (StrideC = 0), else 1; grid.y = batch / summed
    int rank;
    int halves;     // rounded.cu: C is bf16
};

template <int BM, int BN, int WM, int WN, bool TRANS_A, bool TRANS_B, typename T, bool EXACT, int STAGES> struct Product
{
    static const int BK = 32, WARPS_M = BM / WM, THREADS = WARPS_M * (BN / WN) * 32, MT = WM / 16, NT = WN / 8;
    static const int A_BYTES = BM * BK * 4, B_BYTES = BN * BK * (int)sizeof(T), STAGE = A_BYTES + B_BYTES, SHARED = STAGE * STAGES;
    static const int A_COLS = TRANS_A ? BM : BK, B_COLS = TRANS_B ? BK : BN;
    static const int PA = EXACT ? 3 : 1, PB = EXACT ? Parts<T>::exact : 1;
    typedef float Sums[MT][NT][4];

    static __device__ __forceinline__ void clear(Sums &sums)
    {
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sums[i][j][e] = 0.0f;
    }

    static __device__ __forceinline__ int warp_m() { return ((threadIdx.x >> 5) % WARPS_M) * WM; }
    static __device__ __forceinline__ int warp_n() { return ((threadIdx.x >> 5) / WARPS_M) * WN; }

    /// sums += the product of one stage.
    static __device__ __forceinline__ void multiply(Sums &sums, const u8 *stage)
    {
        const u8 *a = stage, *b = stage + A_BYTES;
        Sums part;
        if (EXACT)
            clear(part);
        Sums &into = EXACT ? part : sums;
#pragma unroll 1
        for (int k = 0; k < BK; k += 16)
        {
            unsigned af[MT][PA][4];
#pragma unroll
            for (int i = 0; i < MT; i++)
                read_a<!TRANS_A, A_COLS>(a, warp_m() + i * 16, k, af[i]);
#pragma unroll
            for (int j = 0; j < NT; j += 2)
            {
                unsigned bf[2][PB][2];
                read_b<TRANS_B, B_COLS>(b, T(), warp_n() + j * 8, k, bf);
#pragma unroll
                for (int i = 0; i < MT; i++)
                {
                    mma_parts(into[i][j], af[i], bf[0]);
                    mma_parts(into[i][j + 1], af[i], bf[1]);
                }
            }
        }
        if (EXACT)
        {
#pragma unroll
            for (int i = 0; i < MT; i++)
#pragma unroll
                for (int j = 0; j < NT; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        sums[i][j][e] += part[i][j][e];
        }
    }

    /// sums += A·B over k, whose tiles loadA(to, k) and loadB(to, k) stage. Ends with all of shared memory free again.
    template <typename LoadA, typename LoadB> static __device__ __forceinline__ void run(Sums &sums, u8 *shared, int k, LoadA loadA, LoadB loadB)
    {
        int tiles = (k + BK - 1) / BK;
#pragma unroll 1
        for (int s = 0; s < STAGES - 1; s++)
        {
            if (s < tiles)
            {
                loadA(shared + s * STAGE, s * BK);
                loadB(shared + s * STAGE + A_BYTES, s * BK);
            }
            copy_commit();
        }
#pragma unroll 1
        for (int tile = 0, at = 0; tile < tiles; tile++)
        {
            copy_wait<STAGES - 2>();
            __syncthreads();
            int next = tile + STAGES - 1, into = at == 0 ? STAGES - 1 : at - 1;
            if (next < tiles)
            {
                loadA(shared + into * STAGE, next * BK);
                loadB(shared + into * STAGE + A_BYTES, next * BK);
            }
            copy_commit();
            multiply(sums, shared + at * STAGE);
            at = at == STAGES - 1 ? 0 : at + 1;
        }
        copy_wait<0>();
        __syncthreads();
    }

    /// Stages A's tile for rows from `row` on.
    static __device__ __forceinline__ void load_a(u8 *to, const float *a, int ld, int row, int m, int k0, int k, bool vector)
    {
        if (TRANS_A)
            stage_tile<BK, BM, THREADS>(
                to, [&](int r) { return k0 + r < k ? a + (i64)(k0 + r) * ld + row : nullptr; }, m - row, vector, a);
        else
            stage_tile<BM, BK, THREADS>(
                to, [&](int r) { return row + r < m ? a + (i64)(row + r) * ld + k0 : nullptr; }, k - k0, vector, a);
    }

    /// Stages B's tile for columns from `col` on.
    static __device__ __forceinline__ void load_b(u8 *to, const T *b, int ld, int col, int n, int k0, int k, bool vector)
    {
        if (TRANS_B)
            stage_tile<BN, BK, THREADS>(
                to, [&](int r) { return col + r < n ? b + (i64)(col + r) * ld + k0 : nullptr; }, k - k0, vector, b);
        else
            stage_tile<BK, BN, THREADS>(
                to, [&](int r) { return k0 + r < k ? b + (i64)(k0 + r) * ld + col : nullptr; }, n - col, vector, b);
    }

    /// Puts the sums into shared memory as an fp32 tile [BM][BN] (at most the ring's size), for rolled loops over whole rows.
    static __device__ __forceinline__ void collect(const Sums &sums, u8 *tile)
    {
        int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int j = 0; j < NT; j++)
                {
                    int row = warp_m() + i * 16 + h * 8 + g, col = warp_n() + j * 8 + 2 * t;
                    *(float2 *)(tile + chunk_offset<4, BN>(row, col >> 2) + ((col & 2) << 2)) = make_float2(sums[i][j][2 * h], sums[i][j][2 * h + 1]);
                }
        __syncthreads();
    }

    /// Calls store(row, col, x, y) for neighbours in the tile, a warp along a row.
    template <typename Store> static __device__ __forceinline__ void each_pair(const u8 *tile, Store store)
    {
#pragma unroll 1
        for (int i = threadIdx.x; i < BM * BN / 2; i += THREADS)
        {
            int row = i / (BN / 2), col = i % (BN / 2) * 2;
            float2 v = read_pair(tile + chunk_offset<4, BN>(row, col >> 2) + ((col & 2) << 2));
            store(row, col, v.x, v.y);
        }
    }
};

/// Row and column of this block's tile: blocks that follow each other share a column of tiles, so that B stays in L2.
template <int BM, int BN> __device__ __forceinline__ void tile_place(int m, int &row, int &col, unsigned block = blockIdx.x)
{
    int tiles = (m + BM - 1) / BM;
    row = (block % tiles) * BM;
    col = (block / tiles) * BN;
}

/// True where rows of `ld` elements of `size` bytes from p on, and those of a batch, start at 16 bytes.
__device__ __forceinline__ bool rows_of_16(const void *p, i64 ld, i64 stride, int size) { return aligned16(p) && ((ld * size) & 15) == 0 && ((stride * size) & 15) == 0; }

/// Writes value (+ C) (+ bias) (+ residual).
struct Epilogue
{
    float *c;
    const float *bias, *residual;
    int m, n, ld, accumulate;
    bool pairs;

    __device__ __forceinline__ Epilogue(const MatMulParams &p, i64 offset)
        : c(p.c + offset), bias(p.bias), residual(p.residual), m(p.m), n(p.n), ld(p.ldC), accumulate(p.accumulate)
    {
        pairs = (((u64)c | (u64)residual) & 7) == 0 && (ld & 1) == 0;
    }

    __device__ __forceinline__ float finish(float x, i64 at, int col) const
    {
        if (bias)
            x += bias[col];
        if (residual)
            x += residual[at];
        return accumulate ? c[at] + x : x;
    }

    __device__ __forceinline__ void store(int row, int col, float x, float y) const
    {
        if (row >= m || col >= n)
            return;
        i64 at = (i64)row * ld + col;
        if (pairs && col + 1 < n)
        {
            if (bias)
            {
                x += bias[col];
                y += bias[col + 1];
            }
            if (residual)
            {
                float2 r = *(const float2 *)(residual + at);
                x += r.x;
                y += r.y;
            }
            if (accumulate)
            {
                float2 before = *(const float2 *)(c + at);
                x = before.x + x;
                y = before.y + y;
            }
            *(float2 *)(c + at) = make_float2(x, y);
            return;
        }
        c[at] = finish(x, at, col);
        if (col + 1 < n)
            c[at + 1] = finish(y, at + 1, col + 1);
    }
};

/// Eight neighbours of a row, from 16 bytes on.
__device__ __forceinline__ void load_eight(float (&w)[8], const float *p)
{
    float4 a = load_four(p), b = load_four(p + 4);
    w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w, w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
}
template <typename T> __device__ __forceinline__ void load_eight(float (&w)[8], const T *p)
{
    uint4 bits = *(const uint4 *)p;
    unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
    {
        T low = {(u16)words[i]}, high = {(u16)(words[i] >> 16)};
        w[2 * i] = widen(low);
        w[2 * i + 1] = widen(high);
    }
}

/// Elements of K of which products of few rows hold x in shared memory at a time.
const int MatvecStretch = 1024;

/// x[r][0 … 1023] = elements k0 … of row r of A, zeros beyond its rows and K. 16-byte chunk c lies at c ^ (c / 8 % 2), so that lanes that
/// read eight neighbours each meet in no bank.
template <int ROWS> __device__ __forceinline__ void matvec_stage(const MatMulParams &p, float (*x)[MatvecStretch], int k0)
{
    if (rows_of_16(p.a, p.ldA, 0, 4) && (p.k & 3) == 0)
    {
        int chunk = threadIdx.x, k = k0 + chunk * 4;
#pragma unroll
        for (int r = 0; r < ROWS; r++)
        {
            float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (r < p.m && k < p.k)
                v = load_four(p.a + (i64)r * p.ldA + k);
            *(float4 *)&x[r][(chunk ^ ((chunk >> 3) & 1)) << 2] = v;
        }
        return;
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * MatvecStretch; i += 256)
    {
        int r = i / MatvecStretch, k = i % MatvecStretch, chunk = k >> 2;
        x[r][((chunk ^ ((chunk >> 3) & 1)) << 2) + (k & 3)] = r < p.m && k0 + k < p.k ? p.a[(i64)r * p.ldA + k0 + k] : 0.0f;
    }
}

/// sums[j][r] += the products of a lane's eight neighbours of the stretch, from its element k on, one after the other.
template <int ROWS, int OWN> __device__ __forceinline__ void matvec_add(float (&sums)[OWN][ROWS], const float (&weights)[OWN][8], const float (*x)[MatvecStretch], int k)
{
    int chunk = k >> 2, flip = (chunk >> 3) & 1;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
    {
        float4 a = read_four(&x[r][(chunk ^ flip) << 2]), b = read_four(&x[r][((chunk + 1) ^ flip) << 2]);
#pragma unroll
        for (int j = 0; j < OWN; j++)
        {
            float s = sums[j][r];
            s = fma(a.x, weights[j][0], s);
            s = fma(a.y, weights[j][1], s);
            s = fma(a.z, weights[j][2], s);
            s = fma(a.w, weights[j][3], s);
            s = fma(b.x, weights[j][4], s);
            s = fma(b.y, weights[j][5], s);
            s = fma(b.z, weights[j][6], s);
            s = fma(b.w, weights[j][7], s);
            sums[j][r] = s;
        }
    }
}

template <int ROWS, int OWN> __device__ __forceinline__ void matvec_clear(float (&sums)[OWN][ROWS])
{
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int j = 0; j < OWN; j++)
            sums[j][r] = 0.0f;
}

/// Adds the lanes' sums up and writes columns n … n + OWN − 1 of C.
template <int ROWS, int OWN> __device__ __forceinline__ void matvec_store(const MatMulParams &p, const float (&sums)[OWN][ROWS], int n)
{
    Epilogue out(p, 0);
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int j = 0; j < OWN; j++)
        {
            float s = warp_sum(sums[j][r]);
            if ((threadIdx.x & 31) == 0 && r < p.m && n + j < p.n)
            {
                i64 at = (i64)r * p.ldC + n + j;
                out.c[at] = out.finish(s, at, n + j);
            }
        }
}

/// C[m, n] = A·Wᵀ for m ≤ ROWS and the columns of C from `first` on: a warp owns OWN rows of W, a lane eight neighbours of K at a time,
/// which load(w, n, k, end) gives (zeros beyond n and end). Sums: a lane's terms in order, then the butterfly of the warp.
template <int ROWS, int OWN, typename Load> __device__ __forceinline__ void matvec_rows(const MatMulParams &p, float (*x)[MatvecStretch], int first, Load load)
{
    int lane = threadIdx.x & 31, n = first + (threadIdx.x >> 5) * OWN;
    float sums[OWN][ROWS];
    matvec_clear(sums);
#pragma unroll 1
    for (int k0 = 0; k0 < p.k; k0 += MatvecStretch)
    {
        __syncthreads();
        matvec_stage<ROWS>(p, x, k0);
        __syncthreads();
        int end = smaller(MatvecStretch, p.k - k0);
#pragma unroll 1
        for (int k = lane * 8; k < end; k += 256)
        {
            float weights[OWN][8];
#pragma unroll
            for (int j = 0; j < OWN; j++)
                load(weights[j], n + j, k0 + k, k0 + end);
            matvec_add(sums, weights, x, k);
        }
    }
    matvec_store(p, sums, n);
}
